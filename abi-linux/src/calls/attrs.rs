//! Changing what files are: modes, owners, times, sizes; and making data
//! durable.

use crate::args::Args;
use crate::consts::*;
use crate::fds::{Object, OpenFile};
use crate::hostcall::HostCall;
use crate::kernel::Kernel;
use crate::layout::{RawTimespec, Timeval, Utimbuf};
use crate::outcome::Answer;
use crate::path::{self, Place, Target, target};
use crate::pseudo::{self, Found};
use crate::user::UserExt;
use proto::store::{Location, SetTime, Timespec};
use proto::{Errno, UserAddr};

use super::open::is_directory;

/// A place whose attributes can be changed.
fn changeable<K: Kernel>(k: &K, dirfd: i32, at: UserAddr, flags: u32) -> Result<Location, Errno> {
    match path::resolve(k, dirfd, at, flags)? {
        Place::Remote(at, _) => Ok(at),
        Place::Itself(file) => location(k, &file),
        Place::Host(_) => Err(Errno::EPERM),
        Place::Pseudo(path) => match pseudo::find(k, &path, flags & AT_SYMLINK_NOFOLLOW == 0)? {
            (Found::Outside, path) => Ok(Location { dir: None, path }),
            (Found::Descriptor(fd), _) => of_fd(k, fd),
            (Found::Node(_), _) => Err(Errno::EPERM),
        },
    }
}

fn location<K: Kernel>(k: &K, file: &OpenFile<K::File>) -> Result<Location, Errno> {
    match &file.object {
        Object::Remote(remote) => Ok(Location {
            dir: Some(k.handle(remote)),
            path: Vec::new(),
        }),
        _ => Err(Errno::EPERM),
    }
}

/// What an f-call changes: not through `O_PATH`.
fn of_fd<K: Kernel>(k: &K, fd: i32) -> Result<Location, Errno> {
    match target(k, fd)? {
        Target::Ours(file) if file.is_path_only() => Err(Errno::EBADF),
        Target::Ours(file) => location(k, &file),
        Target::Host(fd) => {
            k.host(HostCall::Fcntl {
                fd,
                command: F_GETFD,
                arg: 0,
            })?;
            Err(Errno::EPERM)
        }
    }
}

/// chmod(2).
pub fn chmod<K: Kernel>(k: &K, a: Args) -> Answer {
    chmod_to(k, &changeable(k, AT_FDCWD, a.addr(0), 0)?, a.uint(1))
}

/// fchmod(2).
pub fn fchmod<K: Kernel>(k: &K, a: Args) -> Answer {
    chmod_to(k, &of_fd(k, a.int(0))?, a.uint(1))
}

/// fchmodat(2).
pub fn fchmodat<K: Kernel>(k: &K, a: Args) -> Answer {
    chmod_to(k, &changeable(k, a.int(0), a.addr(1), 0)?, a.uint(2))
}

/// fchmodat2(2).
pub fn fchmodat2<K: Kernel>(k: &K, a: Args) -> Answer {
    let flags = a.uint(3);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let at = changeable(k, a.int(0), a.addr(1), flags)?;
    if flags & AT_SYMLINK_NOFOLLOW != 0 && k.stat_path(&at, false)?.mode & S_IFMT == S_IFLNK {
        return Err(Errno::EOPNOTSUPP.into());
    }
    chmod_to(k, &at, a.uint(2))
}

fn chmod_to<K: Kernel>(k: &K, at: &Location, mode: u32) -> Answer {
    k.chmod(at, mode & 0o7777)?;
    Ok(0)
}

/// chown(2).
pub fn chown<K: Kernel>(k: &K, a: Args) -> Answer {
    chown_to(
        k,
        &changeable(k, AT_FDCWD, a.addr(0), 0)?,
        a.uint(1),
        a.uint(2),
        true,
    )
}

/// lchown(2).
pub fn lchown<K: Kernel>(k: &K, a: Args) -> Answer {
    let at = changeable(k, AT_FDCWD, a.addr(0), AT_SYMLINK_NOFOLLOW)?;
    chown_to(k, &at, a.uint(1), a.uint(2), false)
}

/// fchown(2).
pub fn fchown<K: Kernel>(k: &K, a: Args) -> Answer {
    chown_to(k, &of_fd(k, a.int(0))?, a.uint(1), a.uint(2), true)
}

/// fchownat(2).
pub fn fchownat<K: Kernel>(k: &K, a: Args) -> Answer {
    let flags = a.uint(4);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let at = changeable(k, a.int(0), a.addr(1), flags)?;
    chown_to(
        k,
        &at,
        a.uint(2),
        a.uint(3),
        flags & AT_SYMLINK_NOFOLLOW == 0,
    )
}

fn chown_to<K: Kernel>(k: &K, at: &Location, uid: u32, gid: u32, follow: bool) -> Answer {
    k.chown(at, uid, gid, follow)?;
    Ok(0)
}

/// utime(2).
pub fn utime<K: Kernel>(k: &K, a: Args) -> Answer {
    let times = match a.opt_addr(1) {
        None => [SetTime::Now; 2],
        Some(at) => {
            let times: Utimbuf = k.get(at)?;
            [times.actime, times.modtime].map(|sec| SetTime::To(Timespec { sec, nsec: 0 }))
        }
    };
    set_times(k, &changeable(k, AT_FDCWD, a.addr(0), 0)?, times, true)
}

/// utimes(2).
pub fn utimes<K: Kernel>(k: &K, a: Args) -> Answer {
    let times = timevals(k, a.opt_addr(1))?;
    set_times(k, &changeable(k, AT_FDCWD, a.addr(0), 0)?, times, true)
}

/// futimesat(2).
pub fn futimesat<K: Kernel>(k: &K, a: Args) -> Answer {
    let times = timevals(k, a.opt_addr(2))?;
    let at = match a.opt_addr(1) {
        None => of_fd(k, a.int(0))?,
        Some(path) => changeable(k, a.int(0), path, 0)?,
    };
    set_times(k, &at, times, true)
}

fn timevals<K: Kernel>(k: &K, at: Option<UserAddr>) -> Result<[SetTime; 2], Errno> {
    let Some(at) = at else {
        return Ok([SetTime::Now; 2]);
    };
    let [first, second] = k.get::<[Timeval; 2]>(at)?.map(|t| {
        let usec = u32::try_from(t.usec)
            .ok()
            .filter(|usec| *usec < 1_000_000)?;
        Some(SetTime::To(Timespec {
            sec: t.sec,
            nsec: usec * 1000,
        }))
    });
    Ok([first.ok_or(Errno::EINVAL)?, second.ok_or(Errno::EINVAL)?])
}

/// utimensat(2).
pub fn utimensat<K: Kernel>(k: &K, a: Args) -> Answer {
    let flags = a.uint(3);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let times = match a.opt_addr(2) {
        None => [SetTime::Now; 2],
        Some(at) => {
            let [first, second] = k.get::<[RawTimespec; 2]>(at)?.map(set_time);
            [first?, second?]
        }
    };
    if times == [SetTime::Omit; 2] {
        return Ok(0);
    }
    let at = match a.opt_addr(1) {
        None if flags == 0 => of_fd(k, a.int(0))?,
        None => return Err(Errno::EINVAL.into()),
        Some(path) => changeable(k, a.int(0), path, flags)?,
    };
    set_times(k, &at, times, flags & AT_SYMLINK_NOFOLLOW == 0)
}

fn set_time(t: RawTimespec) -> Result<SetTime, Errno> {
    const UTIME_NOW: i64 = (1 << 30) - 1;
    const UTIME_OMIT: i64 = (1 << 30) - 2;
    match t.nsec {
        UTIME_NOW => Ok(SetTime::Now),
        UTIME_OMIT => Ok(SetTime::Omit),
        0..1_000_000_000 => Ok(SetTime::To(t.into())),
        _ => Err(Errno::EINVAL),
    }
}

fn set_times<K: Kernel>(k: &K, at: &Location, times: [SetTime; 2], follow: bool) -> Answer {
    k.utimens(at, times[0], times[1], follow)?;
    Ok(0)
}

/// truncate(2).
pub fn truncate<K: Kernel>(k: &K, a: Args) -> Answer {
    let len = u64::try_from(a.long(1)).map_err(|_| Errno::EINVAL)?;
    let at = match path::resolve(k, AT_FDCWD, a.addr(0), 0)? {
        Place::Remote(at, _) => at,
        _ => return Err(Errno::EINVAL.into()),
    };
    let file = k.open(&at, O_WRONLY, 0)?;
    if k.mode_at_open(&file) & S_IFMT != S_IFREG {
        return Err(Errno::EINVAL.into());
    }
    k.truncate(&file, len)?;
    k.flush(&file)?;
    Ok(0)
}

/// ftruncate(2).
pub fn ftruncate<K: Kernel>(k: &K, a: Args) -> Answer {
    let len = u64::try_from(a.long(1)).map_err(|_| Errno::EINVAL)?;
    let file = match target(k, a.int(0))? {
        Target::Ours(file) => file,
        Target::Host(fd) => return Ok(k.host(HostCall::Ftruncate { fd, len: a.long(1) })?),
    };
    if file.is_path_only() {
        return Err(Errno::EBADF.into());
    }
    file.check_writable().map_err(|_| Errno::EINVAL)?;
    let Object::Remote(remote) = &file.object else {
        return Err(Errno::EINVAL.into());
    };
    k.truncate(remote, len)?;
    Ok(0)
}

/// fallocate(2).
pub fn fallocate<K: Kernel>(k: &K, a: Args) -> Answer {
    let (offset, len) = (a.long(2), a.long(3));
    let (Ok(start), Ok(bytes @ 1..)) = (u64::try_from(offset), u64::try_from(len)) else {
        return Err(Errno::EINVAL.into());
    };
    if offset.checked_add(len).is_none() {
        return Err(Errno::EFBIG.into());
    }
    let file = match target(k, a.int(0))? {
        Target::Ours(file) => file,
        Target::Host(fd) => {
            k.host(HostCall::Fcntl {
                fd,
                command: F_GETFD,
                arg: 0,
            })?;
            return Err(Errno::ESPIPE.into());
        }
    };
    file.check_writable()?;
    let Object::Remote(remote) = &file.object else {
        return Err(Errno::ENODEV.into());
    };
    if is_directory(k, &file) {
        return Err(Errno::EISDIR.into());
    }
    k.fallocate(remote, a.uint(1), start, bytes)?;
    Ok(0)
}

/// fsync(2).
pub fn fsync<K: Kernel>(k: &K, a: Args) -> Answer {
    sync_fd(k, a.int(0), false)
}

/// fdatasync(2).
pub fn fdatasync<K: Kernel>(k: &K, a: Args) -> Answer {
    sync_fd(k, a.int(0), true)
}

/// sync_file_range(2): durable where only writing was asked for.
pub fn sync_file_range<K: Kernel>(k: &K, a: Args) -> Answer {
    if a.long(1) < 0 || a.long(2) < 0 || a.uint(3) & !7 != 0 {
        return Err(Errno::EINVAL.into());
    }
    sync_fd(k, a.int(0), true)
}

fn sync_fd<K: Kernel>(k: &K, fd: i32, data_only: bool) -> Answer {
    let file = match target(k, fd)? {
        Target::Ours(file) => file,
        Target::Host(fd) => return Ok(k.host(HostCall::Fsync { fd, data_only })?),
    };
    if file.is_path_only() {
        return Err(Errno::EBADF.into());
    }
    match &file.object {
        Object::Remote(remote) => k.sync(remote, data_only)?,
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// sync(2).
pub fn sync<K: Kernel>(k: &K, _: Args) -> Answer {
    // sync(2) has no way to tell of an error.
    let _ = k.flush_all();
    Ok(0)
}

/// syncfs(2).
pub fn syncfs<K: Kernel>(k: &K, a: Args) -> Answer {
    match target(k, a.int(0))? {
        Target::Ours(file) if file.is_path_only() => return Err(Errno::EBADF.into()),
        Target::Ours(_) => k.flush_all()?,
        Target::Host(fd) => {
            k.host(HostCall::Fcntl {
                fd,
                command: F_GETFD,
                arg: 0,
            })?;
        }
    }
    Ok(0)
}

/// umask(2).
pub fn umask<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(k.process().set_umask(a.uint(0)).into())
}

/// posix_fadvise(2): the file cache sees access patterns for itself.
pub fn fadvise64<K: Kernel>(k: &K, a: Args) -> Answer {
    advisable(k, a.int(0))?;
    if a.long(2) < 0 || a.uint(3) > 5 {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}

/// readahead(2).
pub fn readahead<K: Kernel>(k: &K, a: Args) -> Answer {
    advisable(k, a.int(0)).map_err(|e| if e == Errno::ESPIPE { Errno::EINVAL } else { e })?;
    Ok(0)
}

fn advisable<K: Kernel>(k: &K, fd: i32) -> Result<(), Errno> {
    match target(k, fd)? {
        Target::Ours(file) => file.check_readable().or_else(|_| file.check_writable()),
        // Host objects are pipes and their like, or say so here.
        Target::Host(fd) => match k.host(HostCall::Lseek {
            fd,
            offset: 0,
            whence: SEEK_CUR,
        }) {
            Ok(_) => Ok(()),
            Err(e) => Err(e),
        },
    }
}
