//! Carrying out [`HostCall`]s: from typed calls with slices to registers.
//!
//! The one module of the files that is allowed unsafe code. Most calls are
//! turned into number and registers without it (`prepare`), and made in one
//! place; those with structures of pointers are made one by one in `nested`.

mod nested;
mod prepare;
#[cfg(test)]
mod tests;

use abi_linux::HostCall;
use abi_linux::hostcall::PollFd;
use host::sys;
use linux_raw_sys::general as nr;
use prepare::{Prepared, Registers, int, out, prepare};
use proto::Errno;
use rustix::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;

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
        HostCall::Socketpair {
            domain,
            kind,
            protocol,
            fds,
        } => {
            let registers = [int(domain), int(kind), int(protocol), out(fds), 0, 0];
            pair(nr::__NR_socketpair, registers, fds, floor)
        }
        HostCall::Sendmsg {
            fd,
            data,
            name,
            control,
            flags,
        } => nested::send(fd, data, name, control, flags),
        HostCall::Recvmsg {
            fd,
            data,
            name,
            control,
            flags,
            out,
        } => nested::receive(fd, data, name, control, flags, out),
        HostCall::Poll { fds, timeout } => nested::poll(fds, timeout),
        HostCall::EpollWait {
            epfd,
            events,
            timeout,
        } => nested::epoll_wait(epfd, events, timeout),
        HostCall::Sigtimedwait { set, info, timeout } => nested::sigtimedwait(set, info, timeout),
        HostCall::Ioctl { fd, request, arg } => nested::ioctl(fd, request, arg),
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
    if call.makes_fd {
        fresh(value, floor)
    } else {
        Ok(value)
    }
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

fn pair(number: u32, registers: Registers, fds: &mut [i32; 2], floor: i32) -> Result<u64, Errno> {
    // SAFETY: the registers were made of numbers and of `fds`, two ints long.
    let done = value(unsafe { sys::plain(number, registers) })?;
    if fds.iter().any(|fd| *fd >= floor) {
        fds.iter()
            .for_each(|fd| close(u64::from(fd.unsigned_abs())));
        return Err(Errno::EMFILE);
    }
    Ok(done)
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
    rustix::fs::fcntl_add_seals(
        &memfd,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK,
    )?;
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
    let new = run(
        HostCall::DupFrom {
            fd,
            least: 0,
            cloexec,
        },
        floor,
    )?;
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
        let mut fds: Vec<PollFd> = (start..end)
            .map(|fd| PollFd {
                fd,
                events: 0,
                revents: 0,
            })
            .collect();
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
