//! Carrying out [`HostCall`]s: from typed calls with slices to registers.
//!
//! The one module of the files that is allowed unsafe code. Most calls are
//! turned into number and registers without it ([`prepare`]), and made in one
//! place; those with structures of pointers are made one by one below.

use abi_linux::HostCall;
use abi_linux::calls::{ioctl, sockets};
use abi_linux::hostcall::{IoctlArg, PollFd, Received, Simple, fcntl_is_numeric};
use host::sys;
use linux_raw_sys::general as nr;
use proto::Errno;
use proto::store::Timespec;
use rustix::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;

type Registers = [usize; 6];

/// A call that needs no memory but the slices it was made from.
struct Prepared {
    number: u32,
    registers: Registers,
    /// It may block: a signal of the program's interrupts it.
    blocks: bool,
    /// It returns a new descriptor.
    makes_fd: bool,
}

/// Carries `call` out. New descriptors are below `floor`.
///
/// # Errors
/// What the host answered; `EMFILE` where no number below `floor` is free;
/// `EINVAL` for a request whose argument could be a pointer.
pub(super) fn run(call: HostCall<'_>, floor: i32) -> Result<u64, Errno> {
    match call {
        HostCall::Pipe2 { fds, flags } => {
            let registers = [out(fds), flags as usize, 0, 0, 0, 0];
            pair(nr::__NR_pipe2, registers, fds, floor)
        }
        HostCall::Socketpair { domain, kind, protocol, fds } => {
            let registers = [int(domain), int(kind), int(protocol), out(fds), 0, 0];
            pair(nr::__NR_socketpair, registers, fds, floor)
        }
        HostCall::Sendmsg { fd, data, name, control, flags } => {
            send(fd, data, name, control, flags)
        }
        HostCall::Recvmsg { fd, data, name, control, flags, out } => {
            receive(fd, data, name, control, flags, out)
        }
        HostCall::Poll { fds, timeout } => poll(fds, timeout),
        HostCall::EpollWait { epfd, events, timeout } => epoll_wait(epfd, events, timeout),
        HostCall::Sigtimedwait { set, info, timeout } => sigtimedwait(set, info, timeout),
        HostCall::Ioctl { fd, request, arg } => ioctl(fd, request, arg),
        mut call => make(&prepare(&mut call)?, floor),
    }
}

fn make(call: &Prepared, floor: i32) -> Result<u64, Errno> {
    let result = if call.blocks {
        // SAFETY: `prepare` filled the registers from slices that live until
        // the caller's `HostCall` is dropped, with the lengths that the call's
        // manual page gives its memory.
        unsafe { sys::interruptible(call.number, call.registers) }
    } else {
        // SAFETY: as above.
        unsafe { sys::plain(call.number, call.registers) }
    };
    let value = value(result)?;
    if call.makes_fd { fresh(value, floor) } else { Ok(value) }
}

fn value(result: Result<usize, sys::Errno>) -> Result<u64, Errno> {
    result.map(|n| n as u64).map_err(|e| Errno(e.0))
}

/// Numbers from the floor on are the personality's: out of numbers.
fn fresh(fd: u64, floor: i32) -> Result<u64, Errno> {
    if i32::try_from(fd).is_ok_and(|fd| fd < floor) {
        return Ok(fd);
    }
    close(fd);
    Err(Errno::EMFILE)
}

fn close(fd: u64) {
    // SAFETY: close(2) takes a number; this one was made a moment ago and
    // nobody has seen it.
    let _ = unsafe { sys::plain(nr::__NR_close, [fd as usize, 0, 0, 0, 0, 0]) };
}

fn pair(
    number: u32,
    registers: Registers,
    fds: &mut [i32; 2],
    floor: i32,
) -> Result<u64, Errno> {
    // SAFETY: the registers were made of numbers and of `fds`, two ints long.
    let done = value(unsafe { sys::plain(number, registers) })?;
    if fds.iter().any(|fd| *fd >= floor) {
        fds.iter().for_each(|fd| close(u64::from(fd.unsigned_abs())));
        return Err(Errno::EMFILE);
    }
    Ok(done)
}

// Registers. A negative int is sign-extended, as C passes it.
fn int(n: i32) -> usize {
    n as isize as usize
}
fn long(n: i64) -> usize {
    n as isize as usize
}
fn at<T>(slice: &[T]) -> usize {
    slice.as_ptr() as usize
}
fn out<T>(slice: &mut [T]) -> usize {
    slice.as_mut_ptr() as usize
}
fn one<T>(place: &mut T) -> usize {
    std::ptr::from_mut(place) as usize
}

/// Number and registers of a call whose memory is its own slices.
#[allow(clippy::too_many_lines)] // One line a call.
fn prepare(call: &mut HostCall<'_>) -> Result<Prepared, Errno> {
    let mut blocks = false;
    let mut makes_fd = false;
    let (number, registers): (u32, Registers) = match call {
        HostCall::Read { fd, dst } => {
            blocks = true;
            (nr::__NR_read, [int(*fd), out(dst), dst.len(), 0, 0, 0])
        }
        HostCall::Write { fd, src } => {
            blocks = true;
            (nr::__NR_write, [int(*fd), at(src), src.len(), 0, 0, 0])
        }
        HostCall::Pread { fd, dst, offset } => {
            blocks = true;
            (nr::__NR_pread64, [int(*fd), out(dst), dst.len(), long(*offset), 0, 0])
        }
        HostCall::Pwrite { fd, src, offset } => {
            blocks = true;
            (nr::__NR_pwrite64, [int(*fd), at(src), src.len(), long(*offset), 0, 0])
        }
        HostCall::Lseek { fd, offset, whence } => {
            (nr::__NR_lseek, [int(*fd), long(*offset), *whence as usize, 0, 0, 0])
        }
        HostCall::Close { fd } => (nr::__NR_close, [int(*fd), 0, 0, 0, 0, 0]),
        HostCall::DupFrom { fd, least, cloexec } => {
            makes_fd = true;
            let command = if *cloexec { libc::F_DUPFD_CLOEXEC } else { libc::F_DUPFD };
            (nr::__NR_fcntl, [int(*fd), int(command), int(*least), 0, 0, 0])
        }
        HostCall::Dup3 { old, new, cloexec } => {
            let flags = if *cloexec { libc::O_CLOEXEC } else { 0 };
            (nr::__NR_dup3, [int(*old), int(*new), int(flags), 0, 0, 0])
        }
        HostCall::Fcntl { fd, command, arg } if fcntl_is_numeric(*command) => {
            (nr::__NR_fcntl, [int(*fd), *command as usize, *arg as usize, 0, 0, 0])
        }
        HostCall::Fstat { fd, dst } => (nr::__NR_fstat, [int(*fd), out(*dst), 0, 0, 0, 0]),
        HostCall::Ftruncate { fd, len } => {
            (nr::__NR_ftruncate, [int(*fd), long(*len), 0, 0, 0, 0])
        }
        HostCall::Fsync { fd, data_only } => {
            let number = if *data_only { nr::__NR_fdatasync } else { nr::__NR_fsync };
            (number, [int(*fd), 0, 0, 0, 0, 0])
        }
        HostCall::Eventfd2 { initial, flags } => {
            makes_fd = true;
            (nr::__NR_eventfd2, [*initial as usize, *flags as usize, 0, 0, 0, 0])
        }
        HostCall::Signalfd4 { fd, mask, flags } => {
            // With a descriptor given, that one comes back.
            makes_fd = *fd < 0;
            (nr::__NR_signalfd4, [int(*fd), one(mask), 8, *flags as usize, 0, 0])
        }
        HostCall::TimerfdCreate { clock, flags } => {
            makes_fd = true;
            (nr::__NR_timerfd_create, [int(*clock), *flags as usize, 0, 0, 0, 0])
        }
        HostCall::TimerfdSettime { fd, flags, new, old } => {
            (nr::__NR_timerfd_settime, [int(*fd), *flags as usize, at(*new), out(*old), 0, 0])
        }
        HostCall::TimerfdGettime { fd, dst } => {
            (nr::__NR_timerfd_gettime, [int(*fd), out(*dst), 0, 0, 0, 0])
        }
        HostCall::OpenTty { flags } => {
            makes_fd = true;
            blocks = true;
            let path = c"/dev/tty".as_ptr() as usize;
            (nr::__NR_openat, [int(libc::AT_FDCWD), path, *flags as usize, 0, 0, 0])
        }
        HostCall::Socket { domain, kind, protocol } => {
            makes_fd = true;
            (nr::__NR_socket, [int(*domain), int(*kind), int(*protocol), 0, 0, 0])
        }
        HostCall::Bind { fd, addr } => (nr::__NR_bind, [int(*fd), at(addr), addr.len(), 0, 0, 0]),
        HostCall::Connect { fd, addr } => {
            blocks = true;
            (nr::__NR_connect, [int(*fd), at(addr), addr.len(), 0, 0, 0])
        }
        HostCall::Listen { fd, backlog } => {
            (nr::__NR_listen, [int(*fd), int(*backlog), 0, 0, 0, 0])
        }
        HostCall::Accept4 { fd, addr, len, flags } => {
            (blocks, makes_fd) = (true, true);
            **len = (**len).min(addr.len() as u32);
            (nr::__NR_accept4, [int(*fd), out(addr), one(*len), *flags as usize, 0, 0])
        }
        HostCall::Getsockname { fd, addr, len } => {
            **len = (**len).min(addr.len() as u32);
            (nr::__NR_getsockname, [int(*fd), out(addr), one(*len), 0, 0, 0])
        }
        HostCall::Getpeername { fd, addr, len } => {
            **len = (**len).min(addr.len() as u32);
            (nr::__NR_getpeername, [int(*fd), out(addr), one(*len), 0, 0, 0])
        }
        HostCall::Setsockopt { fd, level, name, value }
            if sockets::option_is_plain(*level, *name) =>
        {
            let registers = [int(*fd), int(*level), int(*name), at(value), value.len(), 0];
            (nr::__NR_setsockopt, registers)
        }
        HostCall::Getsockopt { fd, level, name, value, len }
            if sockets::option_is_plain(*level, *name) =>
        {
            **len = (**len).min(value.len() as u32);
            let registers = [int(*fd), int(*level), int(*name), out(value), one(*len), 0];
            (nr::__NR_getsockopt, registers)
        }
        HostCall::Shutdown { fd, how } => (nr::__NR_shutdown, [int(*fd), int(*how), 0, 0, 0, 0]),
        HostCall::EpollCreate1 { flags } => {
            makes_fd = true;
            (nr::__NR_epoll_create1, [*flags as usize, 0, 0, 0, 0, 0])
        }
        HostCall::EpollCtl { epfd, op, fd, event } => {
            (nr::__NR_epoll_ctl, [int(*epfd), int(*op), int(*fd), at(*event), 0, 0])
        }
        HostCall::Pause => {
            blocks = true;
            (nr::__NR_pause, [0; 6])
        }
        HostCall::ClockGettime { clock, dst } => {
            (nr::__NR_clock_gettime, [int(*clock), out(*dst), 0, 0, 0, 0])
        }
        HostCall::ClockGetres { clock, dst } => {
            (nr::__NR_clock_getres, [int(*clock), out(*dst), 0, 0, 0, 0])
        }
        HostCall::ClockNanosleep { clock, flags, request, remain } => {
            blocks = true;
            let registers = [int(*clock), *flags as usize, at(*request), out(*remain), 0, 0];
            (nr::__NR_clock_nanosleep, registers)
        }
        HostCall::Getitimer { which, dst } => {
            (nr::__NR_getitimer, [int(*which), out(*dst), 0, 0, 0, 0])
        }
        HostCall::Setitimer { which, new, old } => {
            (nr::__NR_setitimer, [int(*which), at(*new), out(*old), 0, 0, 0])
        }
        HostCall::TimerCreate { clock, event, id } => {
            let event = event.map_or(0, |event| at(event));
            (nr::__NR_timer_create, [int(*clock), event, one(*id), 0, 0, 0])
        }
        HostCall::TimerSettime { id, flags, new, old } => {
            (nr::__NR_timer_settime, [int(*id), *flags as usize, at(*new), out(*old), 0, 0])
        }
        HostCall::TimerGettime { id, dst } => {
            (nr::__NR_timer_gettime, [int(*id), out(*dst), 0, 0, 0, 0])
        }
        HostCall::TimerGetoverrun { id } => {
            (nr::__NR_timer_getoverrun, [int(*id), 0, 0, 0, 0, 0])
        }
        HostCall::TimerDelete { id } => (nr::__NR_timer_delete, [int(*id), 0, 0, 0, 0, 0]),
        HostCall::Times { dst } => (nr::__NR_times, [out(*dst), 0, 0, 0, 0, 0]),
        HostCall::Getrusage { who, dst } => {
            (nr::__NR_getrusage, [int(*who), out(*dst), 0, 0, 0, 0])
        }
        HostCall::Simple(call) => simple(*call),
        HostCall::Getrandom { dst, flags } => {
            blocks = true;
            (nr::__NR_getrandom, [out(dst), dst.len(), *flags as usize, 0, 0, 0])
        }
        HostCall::Uname { dst } => (nr::__NR_uname, [out(*dst), 0, 0, 0, 0, 0]),
        HostCall::Sysinfo { dst } => (nr::__NR_sysinfo, [out(*dst), 0, 0, 0, 0, 0]),
        HostCall::Getrlimit { resource, dst } => {
            (nr::__NR_getrlimit, [*resource as usize, out(*dst), 0, 0, 0, 0])
        }
        HostCall::SchedGetaffinity { tid, dst } => {
            (nr::__NR_sched_getaffinity, [int(*tid), dst.len(), out(dst), 0, 0, 0])
        }
        HostCall::SchedSetaffinity { tid, mask } => {
            (nr::__NR_sched_setaffinity, [int(*tid), mask.len(), at(mask), 0, 0, 0])
        }
        HostCall::SchedGetparam { tid, dst } => {
            (nr::__NR_sched_getparam, [int(*tid), out(*dst), 0, 0, 0, 0])
        }
        HostCall::SchedRrGetInterval { tid, dst } => {
            (nr::__NR_sched_rr_get_interval, [int(*tid), out(*dst), 0, 0, 0, 0])
        }
        HostCall::Getcpu { dst } => {
            let cpu = out(*dst);
            (nr::__NR_getcpu, [cpu, cpu + 4, 0, 0, 0, 0])
        }
        HostCall::Getgroups { dst } => (nr::__NR_getgroups, [dst.len(), out(dst), 0, 0, 0, 0]),
        HostCall::Capget { header, data } => {
            (nr::__NR_capget, [out(*header), out(*data), 0, 0, 0, 0])
        }
        HostCall::SetName { name } => {
            (nr::__NR_prctl, [libc::PR_SET_NAME as usize, at(*name), 0, 0, 0, 0])
        }
        HostCall::GetName { name } => {
            (nr::__NR_prctl, [libc::PR_GET_NAME as usize, out(*name), 0, 0, 0, 0])
        }
        HostCall::Kill { pid, signo } => (nr::__NR_kill, [int(*pid), int(*signo), 0, 0, 0, 0]),
        HostCall::Tgkill { tgid, tid, signo } => {
            (nr::__NR_tgkill, [int(*tgid), int(*tid), int(*signo), 0, 0, 0])
        }
        HostCall::Sigqueue { tgid, tid: None, signo, info } => {
            (nr::__NR_rt_sigqueueinfo, [int(*tgid), int(*signo), at(*info), 0, 0, 0])
        }
        HostCall::Sigqueue { tgid, tid: Some(tid), signo, info } => {
            let registers = [int(*tgid), int(*tid), int(*signo), at(*info), 0, 0];
            (nr::__NR_rt_tgsigqueueinfo, registers)
        }
        HostCall::Sigpending { dst } => (nr::__NR_rt_sigpending, [out(*dst), 8, 0, 0, 0, 0]),
        // Not plain numbers after all, or made elsewhere in `run`.
        _ => return Err(Errno::EINVAL),
    };
    Ok(Prepared { number, registers, blocks, makes_fd })
}

fn simple(call: Simple) -> (u32, Registers) {
    let (number, args) = match call {
        Simple::Getuid => (nr::__NR_getuid, [0; 3]),
        Simple::Geteuid => (nr::__NR_geteuid, [0; 3]),
        Simple::Getgid => (nr::__NR_getgid, [0; 3]),
        Simple::Getegid => (nr::__NR_getegid, [0; 3]),
        Simple::Getpgid(pid) => (nr::__NR_getpgid, [pid, 0, 0]),
        Simple::Getsid(pid) => (nr::__NR_getsid, [pid, 0, 0]),
        Simple::Setpgid(pid, group) => (nr::__NR_setpgid, [pid, group, 0]),
        Simple::Setsid => (nr::__NR_setsid, [0; 3]),
        Simple::SchedYield => (nr::__NR_sched_yield, [0; 3]),
        Simple::SchedGetscheduler(tid) => (nr::__NR_sched_getscheduler, [tid, 0, 0]),
        Simple::SchedPriorityMax(policy) => (nr::__NR_sched_get_priority_max, [policy, 0, 0]),
        Simple::SchedPriorityMin(policy) => (nr::__NR_sched_get_priority_min, [policy, 0, 0]),
        Simple::Getpriority(which, who) => (nr::__NR_getpriority, [which, who, 0]),
        Simple::Setpriority(which, who, nice) => (nr::__NR_setpriority, [which, who, nice]),
        Simple::IoprioGet(which, who) => (nr::__NR_ioprio_get, [which, who, 0]),
    };
    let [a, b, c] = args.map(int);
    (number, [a, b, c, 0, 0, 0])
}

/// Blocking calls with a time limit: the kernel's timespec, or null.
struct Limit(Option<libc::timespec>);

impl Limit {
    fn new(timeout: Option<Timespec>) -> Limit {
        Limit(timeout.map(|t| libc::timespec { tv_sec: t.sec, tv_nsec: t.nsec.into() }))
    }
    fn at(&mut self) -> usize {
        self.0.as_mut().map_or(0, one)
    }
}

fn poll(fds: &mut [PollFd], timeout: Option<Timespec>) -> Result<u64, Errno> {
    let mut limit = Limit::new(timeout);
    let registers = [out(fds), fds.len(), limit.at(), 0, 0, 0];
    // SAFETY: `PollFd` is `struct pollfd`; array and limit live on.
    value(unsafe { sys::interruptible(nr::__NR_ppoll, registers) })
}

fn epoll_wait(epfd: i32, events: &mut [u8], timeout: Option<Timespec>) -> Result<u64, Errno> {
    const EVENT: usize = 12;
    let mut limit = Limit::new(timeout);
    let registers = [int(epfd), out(events), events.len() / EVENT, limit.at(), 0, 0];
    // SAFETY: the buffer has room for that many packed 12-byte events; it and
    // the limit live on.
    value(unsafe { sys::interruptible(nr::__NR_epoll_pwait2, registers) })
}

fn sigtimedwait(
    mut set: u64,
    info: &mut [u8; 128],
    timeout: Option<Timespec>,
) -> Result<u64, Errno> {
    let mut limit = Limit::new(timeout);
    let registers = [one(&mut set), out(info), limit.at(), 8, 0, 0];
    // SAFETY: a set of 8 bytes, a siginfo of 128, and the limit live on.
    value(unsafe { sys::interruptible(nr::__NR_rt_sigtimedwait, registers) })
}

fn ioctl(fd: i32, request: u32, mut arg: IoctlArg<'_>) -> Result<u64, Errno> {
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
    *iov = libc::iovec { iov_base: data as *mut libc::c_void, iov_len: len };
    // SAFETY: msghdr is plain integers and pointers, for which zero is valid.
    let mut head: libc::msghdr = unsafe { std::mem::zeroed() };
    head.msg_iov = iov;
    head.msg_iovlen = 1;
    head
}

fn send(
    fd: i32,
    data: &[u8],
    name: &[u8],
    control: &[u8],
    flags: u32,
) -> Result<u64, Errno> {
    let mut iov = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
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

fn receive(
    fd: i32,
    data: &mut [u8],
    name: &mut [u8],
    control: &mut [u8],
    flags: u32,
    told: &mut Received,
) -> Result<u64, Errno> {
    let mut iov = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
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

/// What a reserved number refers to at the host: an `O_PATH` descriptor,
/// which can be duplicated and closed, and neither read nor written.
fn placeholder(floor: i32) -> Result<i32, Errno> {
    static PLACEHOLDER: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(fd) = PLACEHOLDER.get() {
        return Ok(fd.as_raw_fd());
    }
    let made = make_placeholder(floor).map_err(|e| Errno(e.raw_os_error()))?;
    Ok(PLACEHOLDER.get_or_init(|| made).as_raw_fd())
}

fn make_placeholder(floor: i32) -> Result<OwnedFd, rustix::io::Errno> {
    use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = rustix::fs::memfd_create("remote file", flags)?;
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK)?;
    let path = format!("/proc/self/fd/{}", memfd.as_raw_fd());
    let by_path = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    // Without /proc the sealed memfd serves: it reads as empty.
    host::descriptor::raise(by_path.unwrap_or(memfd), floor)
}

/// Takes the lowest free number for a file that is not the host's.
///
/// # Errors
/// `EMFILE`.
pub(super) fn reserve(cloexec: bool, floor: i32) -> Result<i32, Errno> {
    let fd = placeholder(floor)?;
    let new = run(HostCall::DupFrom { fd, least: 0, cloexec }, floor)?;
    i32::try_from(new).map_err(|_| Errno::EMFILE)
}

/// The host's open descriptors below `floor`; those that were reserved can't
/// be polled and are left out.
pub(super) fn descriptors(floor: i32) -> Vec<i32> {
    /// Numbers asked about in one call.
    const STEP: usize = 4096;
    let mut open = Vec::new();
    for start in (0..floor).step_by(STEP) {
        let end = floor.min(start.saturating_add(STEP as i32));
        let mut fds: Vec<PollFd> =
            (start..end).map(|fd| PollFd { fd, events: 0, revents: 0 }).collect();
        let registers = [out(&mut fds), fds.len(), 0, 0, 0, 0];
        // SAFETY: `PollFd` is `struct pollfd`; the array lives on. The limit 0
        // of poll(2) makes it return at once.
        let asked = unsafe { sys::plain(nr::__NR_poll, registers) };
        if asked.is_ok() {
            open.extend(fds.iter().filter(|p| p.revents & 32 == 0).map(|p| p.fd));
        }
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: i32 = 900;

    fn number(n: u64) -> i32 {
        i32::try_from(n).unwrap()
    }

    #[test]
    fn a_pipe_carries_bytes() {
        let mut fds = [0; 2];
        run(HostCall::Pipe2 { fds: &mut fds, flags: 0 }, FLOOR).unwrap();
        assert_eq!(run(HostCall::Write { fd: fds[1], src: b"abc" }, FLOOR), Ok(3));
        let mut ask = [PollFd { fd: fds[0], events: 1, revents: 0 }];
        let timeout = Some(Timespec::default());
        assert_eq!(run(HostCall::Poll { fds: &mut ask, timeout }, FLOOR), Ok(1));
        assert_eq!(ask[0].revents, 1);
        let mut dst = [0; 8];
        assert_eq!(run(HostCall::Read { fd: fds[0], dst: &mut dst }, FLOOR), Ok(3));
        assert_eq!(&dst[..3], b"abc");
        assert!(descriptors(FLOOR).contains(&fds[0]));
        for fd in fds {
            run(HostCall::Close { fd }, FLOOR).unwrap();
            assert_eq!(run(HostCall::Close { fd }, FLOOR), Err(Errno::EBADF));
        }
    }

    #[test]
    fn a_reserved_number_is_neither_read_nor_written() {
        let fd = reserve(true, FLOOR).unwrap();
        let cloexec = HostCall::Fcntl { fd, command: libc::F_GETFD as u32, arg: 0 };
        assert_eq!(run(cloexec, FLOOR), Ok(1));
        assert_eq!(run(HostCall::Read { fd, dst: &mut [0] }, FLOOR), Err(Errno::EBADF));
        assert_eq!(run(HostCall::Write { fd, src: b"x" }, FLOOR), Err(Errno::EBADF));
        let copy = number(run(HostCall::DupFrom { fd, least: 0, cloexec: false }, FLOOR).unwrap());
        assert_ne!(copy, fd);
        for fd in [fd, copy] {
            assert_eq!(run(HostCall::Close { fd }, FLOOR), Ok(0));
        }
    }

    #[test]
    fn numbers_from_the_floor_on_are_not_handed_out() {
        assert_eq!(run(HostCall::Eventfd2 { initial: 0, flags: 0 }, 0), Err(Errno::EMFILE));
        let mut fds = [0; 2];
        assert_eq!(run(HostCall::Pipe2 { fds: &mut fds, flags: 0 }, 0), Err(Errno::EMFILE));
    }

    #[test]
    fn messages_travel_with_names_and_lengths() {
        let mut fds = [0; 2];
        let (domain, kind) = (libc::AF_UNIX, libc::SOCK_DGRAM);
        run(HostCall::Socketpair { domain, kind, protocol: 0, fds: &mut fds }, FLOOR).unwrap();
        let [fd, other] = fds;
        let sent = HostCall::Sendmsg { fd, data: b"hello", name: &[], control: &[], flags: 0 };
        assert_eq!(run(sent, FLOOR), Ok(5));
        let (mut data, mut name, mut told) = ([0; 3], [0; 128], Received::default());
        let received = HostCall::Recvmsg {
            fd: other,
            data: &mut data,
            name: &mut name,
            control: &mut [],
            flags: libc::MSG_TRUNC as u32,
            out: &mut told,
        };
        assert_eq!(run(received, FLOOR), Ok(5));
        assert_eq!(&data, b"hel");
        assert_ne!(told.flags & libc::MSG_TRUNC as u32, 0);
        for fd in fds {
            run(HostCall::Close { fd }, FLOOR).unwrap();
        }
    }

    #[test]
    fn what_could_hold_a_pointer_is_refused() {
        let filter = HostCall::Setsockopt { fd: 0, level: 1, name: 26, value: &[0; 16] };
        assert_eq!(run(filter, FLOOR), Err(Errno::EINVAL));
        let lock = HostCall::Fcntl { fd: 0, command: 5, arg: 0 };
        assert_eq!(run(lock, FLOOR), Err(Errno::EINVAL));
        let mut short = [0; 8];
        let arg = IoctlArg::Buffer(&mut short);
        assert_eq!(run(HostCall::Ioctl { fd: 0, request: 0x5401, arg }, FLOOR), Err(Errno::EINVAL));
        let arg = IoctlArg::Value(0);
        assert_eq!(run(HostCall::Ioctl { fd: 0, request: 0x5401, arg }, FLOOR), Err(Errno::EINVAL));
    }

    #[test]
    fn waiting_ends_with_its_limit() {
        let timeout = Some(Timespec { sec: 0, nsec: 1000 });
        assert_eq!(run(HostCall::Poll { fds: &mut [], timeout }, FLOOR), Ok(0));
        let epfd = number(run(HostCall::EpollCreate1 { flags: 0 }, FLOOR).unwrap());
        let call = HostCall::EpollWait { epfd, events: &mut [0; 24], timeout };
        assert_eq!(run(call, FLOOR), Ok(0));
        run(HostCall::Close { fd: epfd }, FLOOR).unwrap();
        let call = HostCall::Sigtimedwait { set: 1 << 9, info: &mut [0; 128], timeout };
        assert_eq!(run(call, FLOOR), Err(Errno::EAGAIN));
    }
}
