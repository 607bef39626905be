//! Descriptor numbers: closing, duplicating, flags, locks.

use crate::args::Args;
use crate::consts::*;
use crate::fds::{Object, OpenFile};
use crate::hostcall::{HostCall, fcntl_is_numeric};
use crate::kernel::Kernel;
use crate::layout::Flock;
use crate::outcome::Answer;
use crate::path::{Target, open_descriptors, target};
use crate::user::UserExt;
use proto::Errno;

/// close(2).
pub fn close<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(close_fd(k, a.int(0))?)
}

/// Closes one number. As on Linux it is gone even where an error is told.
fn close_fd<K: Kernel>(k: &K, fd: i32) -> Result<u64, Errno> {
    match target(k, fd)? {
        Target::Host(fd) => k.host(HostCall::Close { fd }),
        Target::Ours(file) => {
            drop(file);
            let (file, _) = k
                .process()
                .fds
                .remove(fd, || k.host(HostCall::Close { fd }));
            flushed(k, file.as_deref())
        }
    }
}

/// What close(2) reports: errors of earlier writes.
fn flushed<K: Kernel>(k: &K, file: Option<&OpenFile<K::File>>) -> Result<u64, Errno> {
    match file.map(|f| &f.object) {
        Some(Object::Remote(remote)) => k.flush(remote).map(|()| 0),
        _ => Ok(0),
    }
}

/// close_range(2).
pub fn close_range<K: Kernel>(k: &K, a: Args) -> Answer {
    const CLOSE_RANGE_UNSHARE: u32 = 2;
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    let (first, last, flags) = (a.uint(0), a.uint(1), a.uint(2));
    if first > last || flags & !(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags & CLOSE_RANGE_UNSHARE != 0 {
        return Err(Errno::ENOSYS.into());
    }
    let chosen = |fd: &i32| (first..=last).contains(&fd.unsigned_abs());
    for fd in open_descriptors(k).into_iter().filter(chosen) {
        if flags & CLOSE_RANGE_CLOEXEC != 0 {
            let arg = FD_CLOEXEC.into();
            let _ = k.host(HostCall::Fcntl {
                fd,
                command: F_SETFD,
                arg,
            });
        } else {
            let _ = close_fd(k, fd);
        }
    }
    Ok(0)
}

/// dup(2).
pub fn dup<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(dup_from(k, a.int(0), 0, false)?)
}

fn dup_from<K: Kernel>(k: &K, fd: i32, least: i32, cloexec: bool) -> Result<u64, Errno> {
    let file = match target(k, fd)? {
        Target::Host(_) => None,
        Target::Ours(file) => Some(file),
    };
    let new = k.host(HostCall::DupFrom { fd, least, cloexec })?;
    if let (Some(file), Ok(new)) = (file, i32::try_from(new)) {
        k.process().fds.insert(new, file);
    }
    Ok(new)
}

/// dup2(2).
pub fn dup2<K: Kernel>(k: &K, a: Args) -> Answer {
    if a.int(0) == a.int(1) {
        target(k, a.int(0))?;
        k.host(HostCall::Fcntl {
            fd: a.int(0),
            command: F_GETFD,
            arg: 0,
        })?;
        return Ok(a.uint(1).into());
    }
    Ok(dup_to(k, a.int(0), a.int(1), false)?)
}

/// dup3(2).
pub fn dup3<K: Kernel>(k: &K, a: Args) -> Answer {
    let (old, new, flags) = (a.int(0), a.int(1), a.uint(2));
    if old == new || flags & !O_CLOEXEC != 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(dup_to(k, old, new, flags & O_CLOEXEC != 0)?)
}

fn dup_to<K: Kernel>(k: &K, old: i32, new: i32, cloexec: bool) -> Result<u64, Errno> {
    target(k, old)?;
    target(k, new)?;
    let host = || k.host(HostCall::Dup3 { old, new, cloexec });
    let replaced = k.process().fds.replace(old, new, host)?;
    // dup2(2) does not tell what went wrong with the file it closed.
    let _ = flushed(k, replaced.as_deref());
    Ok(u64::from(new.unsigned_abs()))
}

/// fcntl(2).
pub fn fcntl<K: Kernel>(k: &K, a: Args) -> Answer {
    let (fd, command) = (a.int(0), a.uint(1));
    let target = target(k, fd)?;
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let least = a.int(2);
            if least < 0 || least >= k.fd_floor() {
                return Err(Errno::EINVAL.into());
            }
            Ok(dup_from(k, fd, least, command == F_DUPFD_CLOEXEC)?)
        }
        // The number's own flags are the host's for every kind of file.
        F_GETFD | F_SETFD => Ok(k.host(HostCall::Fcntl {
            fd,
            command,
            arg: a.raw(2),
        })?),
        _ => match target {
            Target::Host(fd) => host_fcntl(k, fd, a),
            Target::Ours(file) => own_fcntl(k, &file, a),
        },
    }
}

fn host_fcntl<K: Kernel>(k: &K, fd: i32, a: Args) -> Answer {
    let command = a.uint(1);
    if is_lock(command) {
        // The descriptor must exist; nobody else can hold a lock.
        k.host(HostCall::Fcntl {
            fd,
            command: F_GETFD,
            arg: 0,
        })?;
        return lock(k, a);
    }
    if !fcntl_is_numeric(command) {
        return Err(Errno::EINVAL.into());
    }
    Ok(k.host(HostCall::Fcntl {
        fd,
        command,
        arg: a.raw(2),
    })?)
}

fn own_fcntl<K: Kernel>(k: &K, file: &OpenFile<K::File>, a: Args) -> Answer {
    const SETTABLE: u32 = O_APPEND | O_NONBLOCK | O_ASYNC | O_DIRECT | O_NOATIME;
    let command = a.uint(1);
    if command == F_GETFL {
        return Ok(file.flags().into());
    }
    if file.is_path_only() {
        return Err(Errno::EBADF.into());
    }
    match command {
        F_SETFL => {
            file.set_flags(a.uint(2), SETTABLE);
            Ok(0)
        }
        F_GETOWN | F_GETSIG => Ok(0),
        F_SETOWN | F_SETSIG => Ok(0),
        command if is_lock(command) => lock(k, a),
        F_GETPIPE_SZ | F_SETPIPE_SZ => Err(Errno::EBADF.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn is_lock(command: u32) -> bool {
    matches!(
        command,
        F_GETLK | F_SETLK | F_SETLKW | F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW
    )
}

/// Record locks: the structure is checked, the lock is free.
fn lock<K: Kernel>(k: &K, a: Args) -> Answer {
    let mut flock: Flock = k.get(a.addr(2))?;
    if u32::from(flock.kind) > F_UNLCK || u32::from(flock.whence) > SEEK_END {
        return Err(Errno::EINVAL.into());
    }
    if matches!(a.uint(1), F_GETLK | F_OFD_GETLK) {
        if u32::from(flock.kind) == F_UNLCK && a.uint(1) == F_GETLK {
            return Err(Errno::EINVAL.into());
        }
        flock.kind = F_UNLCK as u16;
        k.put(a.addr(2), &flock)?;
    }
    Ok(0)
}

/// flock(2): granted.
pub fn flock<K: Kernel>(k: &K, a: Args) -> Answer {
    const LOCK_NB: u32 = 4;
    if let Target::Host(fd) = target(k, a.int(0))? {
        k.host(HostCall::Fcntl {
            fd,
            command: F_GETFD,
            arg: 0,
        })?;
    }
    match a.uint(1) & !LOCK_NB {
        1 | 2 | 8 => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}
