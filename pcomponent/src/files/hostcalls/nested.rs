//! Calls with structures of pointers, or a time limit beside their slices.

use super::prepare::{at, int, one, out};
use super::value;
use abi_linux::calls::ioctl;
use abi_linux::hostcall::{IoctlArg, PollFd, Received};
use host::sys;
use linux_raw_sys::general as nr;
use proto::Errno;
use proto::store::Timespec;

/// Blocking calls with a time limit: the kernel's timespec, or null.
struct Limit(Option<libc::timespec>);

impl Limit {
    fn new(timeout: Option<Timespec>) -> Limit {
        Limit(timeout.map(|t| libc::timespec {
            tv_sec: t.sec,
            tv_nsec: t.nsec.into(),
        }))
    }
    fn at(&mut self) -> usize {
        self.0.as_mut().map_or(0, one)
    }
}

pub(super) fn poll(fds: &mut [PollFd], timeout: Option<Timespec>) -> Result<u64, Errno> {
    let mut limit = Limit::new(timeout);
    let registers = [out(fds), fds.len(), limit.at(), 0, 0, 0];
    // SAFETY: `PollFd` is `struct pollfd`; array and limit live on.
    value(unsafe { sys::interruptible(nr::__NR_ppoll, registers) })
}

pub(super) fn epoll_wait(
    epfd: i32,
    events: &mut [u8],
    timeout: Option<Timespec>,
) -> Result<u64, Errno> {
    const EVENT: usize = 12;
    let mut limit = Limit::new(timeout);
    let registers = [
        int(epfd),
        out(events),
        events.len() / EVENT,
        limit.at(),
        0,
        0,
    ];
    // SAFETY: the buffer has room for that many packed 12-byte events; it and
    // the limit live on.
    value(unsafe { sys::interruptible(nr::__NR_epoll_pwait2, registers) })
}

pub(super) fn sigtimedwait(
    mut set: u64,
    info: &mut [u8; 128],
    timeout: Option<Timespec>,
) -> Result<u64, Errno> {
    let mut limit = Limit::new(timeout);
    let registers = [one(&mut set), out(info), limit.at(), 8, 0, 0];
    // SAFETY: a set of 8 bytes, a siginfo of 128, and the limit live on.
    value(unsafe { sys::interruptible(nr::__NR_rt_sigtimedwait, registers) })
}

pub(super) fn ioctl(fd: i32, request: u32, mut arg: IoctlArg<'_>) -> Result<u64, Errno> {
    let third = match (ioctl::shape(request), &mut arg) {
        (Some(ioctl::Shape::Value), IoctlArg::Value(n)) => *n as usize,
        (Some(ioctl::Shape::In(n) | ioctl::Shape::Out(n)), IoctlArg::Buffer(bytes))
            if bytes.len() == n =>
        {
            out(bytes)
        }
        _ => return Err(Errno::EINVAL),
    };
    let registers = [int(fd), request as usize, third, 0, 0, 0];
    // SAFETY: the request is one of a list whose arguments are numbers or
    // structures of known size, and the buffer has that size.
    value(unsafe { sys::interruptible(nr::__NR_ioctl, registers) })
}

fn header(data: usize, len: usize, iov: &mut libc::iovec) -> libc::msghdr {
    *iov = libc::iovec {
        iov_base: data as *mut libc::c_void,
        iov_len: len,
    };
    // SAFETY: msghdr is plain integers and pointers, for which zero is valid.
    let mut head: libc::msghdr = unsafe { std::mem::zeroed() };
    head.msg_iov = iov;
    head.msg_iovlen = 1;
    head
}

pub(super) fn send(
    fd: i32,
    data: &[u8],
    name: &[u8],
    control: &[u8],
    flags: u32,
) -> Result<u64, Errno> {
    let mut iov = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    };
    let mut head = header(at(data), data.len(), &mut iov);
    if !name.is_empty() {
        head.msg_name = name.as_ptr().cast_mut().cast();
        head.msg_namelen = name.len() as u32;
    }
    if !control.is_empty() {
        head.msg_control = control.as_ptr().cast_mut().cast();
        head.msg_controllen = control.len();
    }
    let registers = [int(fd), one(&mut head), flags as usize, 0, 0, 0];
    // SAFETY: the header and all it points to live on; sendmsg(2) only reads.
    value(unsafe { sys::interruptible(nr::__NR_sendmsg, registers) })
}

pub(super) fn receive(
    fd: i32,
    data: &mut [u8],
    name: &mut [u8],
    control: &mut [u8],
    flags: u32,
    told: &mut Received,
) -> Result<u64, Errno> {
    let mut iov = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    };
    let mut head = header(out(data), data.len(), &mut iov);
    head.msg_name = name.as_mut_ptr().cast();
    head.msg_namelen = name.len() as u32;
    head.msg_control = control.as_mut_ptr().cast();
    head.msg_controllen = control.len();
    let registers = [int(fd), one(&mut head), flags as usize, 0, 0, 0];
    // SAFETY: the header and all it points to live on, with their true lengths.
    let got = value(unsafe { sys::interruptible(nr::__NR_recvmsg, registers) })?;
    *told = Received {
        name_len: head.msg_namelen,
        control_len: head.msg_controllen,
        flags: head.msg_flags.cast_unsigned(),
    };
    Ok(got)
}
