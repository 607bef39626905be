//! What files are: stat(2), statx(2), access(2), statfs(2) and their like.

use crate::args::Args;
use crate::consts::*;
use crate::fds::{Object, OpenFile};
use crate::hostcall::HostCall;
use crate::kernel::Kernel;
use crate::layout::{Stat, Statfs, Statx, StatxTimestamp, split_dev, stat_from_host};
use crate::outcome::Answer;
use crate::path::{self, Place, Target, target};
use crate::pseudo::{self, Found};
use crate::user::UserExt;
use proto::store::{Attr, Location};
use proto::{Errno, UserAddr};

/// stat(2).
pub fn stat<K: Kernel>(k: &K, a: Args) -> Answer {
    stat_at(k, AT_FDCWD, a.addr(0), a.addr(1), 0)
}

/// lstat(2).
pub fn lstat<K: Kernel>(k: &K, a: Args) -> Answer {
    stat_at(k, AT_FDCWD, a.addr(0), a.addr(1), AT_SYMLINK_NOFOLLOW)
}

/// newfstatat(2).
pub fn newfstatat<K: Kernel>(k: &K, a: Args) -> Answer {
    const KNOWN: u32 = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH;
    if a.uint(3) & !KNOWN != 0 {
        return Err(Errno::EINVAL.into());
    }
    stat_at(k, a.int(0), a.addr(1), a.addr(2), a.uint(3))
}

/// fstat(2).
pub fn fstat<K: Kernel>(k: &K, a: Args) -> Answer {
    let facts = facts_of_fd(k, a.int(0))?;
    k.put(a.addr(1), &facts.stat())?;
    Ok(0)
}

fn stat_at<K: Kernel>(k: &K, dirfd: i32, at: UserAddr, to: UserAddr, flags: u32) -> Answer {
    let place = resolve(k, dirfd, at, flags)?;
    let facts = facts(k, place, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    k.put(to, &facts.stat())?;
    Ok(0)
}

/// Linux (6.11 on) takes a null path for an empty one in these calls.
fn resolve<K: Kernel>(
    k: &K,
    dirfd: i32,
    at: UserAddr,
    flags: u32,
) -> Result<Place<K::File>, Errno> {
    if at.0 == 0 && flags & AT_EMPTY_PATH != 0 {
        return path::resolve_bytes(k, dirfd, Vec::new(), flags);
    }
    path::resolve(k, dirfd, at, flags)
}

/// statx(2).
pub fn statx<K: Kernel>(k: &K, a: Args) -> Answer {
    const KNOWN: u32 = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE;
    const STATX_RESERVED: u32 = 0x8000_0000;
    let (flags, mask) = (a.uint(2), a.uint(3));
    if flags & !KNOWN != 0
        || mask & STATX_RESERVED != 0
        || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE
    {
        return Err(Errno::EINVAL.into());
    }
    let place = resolve(k, a.int(0), a.addr(1), flags)?;
    let facts = facts(k, place, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    k.put(a.addr(4), &facts.statx())?;
    Ok(0)
}

/// What is known of a file.
pub(crate) enum Facts {
    /// Ours.
    Attr(Attr),
    /// The host's.
    Host(Stat),
}

impl Facts {
    fn stat(&self) -> Stat {
        match self {
            Facts::Attr(attr) => attr.into(),
            Facts::Host(stat) => *stat,
        }
    }

    fn statx(&self) -> Statx {
        match self {
            Facts::Attr(attr) => attr.into(),
            Facts::Host(stat) => statx_of(stat),
        }
    }
}

fn statx_of(stat: &Stat) -> Statx {
    const STATX_BASIC_STATS: u32 = 0x7ff;
    let time = |t: crate::layout::RawTimespec| StatxTimestamp {
        sec: t.sec,
        nsec: u32::try_from(t.nsec).unwrap_or(0),
        pad: 0,
    };
    let (dev, rdev) = (split_dev(stat.dev), split_dev(stat.rdev));
    Statx {
        mask: STATX_BASIC_STATS,
        blksize: u32::try_from(stat.blksize).unwrap_or(4096),
        nlink: u32::try_from(stat.nlink).unwrap_or(u32::MAX),
        uid: stat.uid,
        gid: stat.gid,
        mode: (stat.mode & 0xffff) as u16,
        ino: stat.ino,
        size: stat.size.unsigned_abs(),
        blocks: stat.blocks.unsigned_abs(),
        atime: time(stat.atime),
        ctime: time(stat.ctime),
        mtime: time(stat.mtime),
        dev_major: dev.0,
        dev_minor: dev.1,
        rdev_major: rdev.0,
        rdev_minor: rdev.1,
        ..Statx::default()
    }
}

fn facts_of_fd<K: Kernel>(k: &K, fd: i32) -> Result<Facts, Errno> {
    match target(k, fd)? {
        Target::Ours(file) => facts(k, Place::Itself(file), true),
        Target::Host(fd) => facts(k, Place::Host(fd), true),
    }
}

/// What is known of the file at `place`.
pub(crate) fn facts<K: Kernel>(k: &K, place: Place<K::File>, follow: bool) -> Result<Facts, Errno> {
    match place {
        Place::Remote(at, _) => remote_attr(k, &at, follow).map(Facts::Attr),
        Place::Pseudo(path) => pseudo_facts(k, &path, follow),
        Place::Itself(file) => attr_of(k, &file).map(Facts::Attr),
        Place::Host(fd) => {
            let mut raw = [0; 144];
            k.host(HostCall::Fstat { fd, dst: &mut raw })?;
            Ok(Facts::Host(stat_from_host(&raw)))
        }
    }
}

fn remote_attr<K: Kernel>(k: &K, at: &Location, follow: bool) -> Result<Attr, Errno> {
    let attr = k.stat_path(at, follow)?;
    if !follow || !k.is_foreign_device(attr.id.dev) {
        return Ok(attr);
    }
    // A link led to the storage component's own /proc, /sys or /dev.
    match pseudo::find(k, &foreign_path(k, at)?, true)? {
        (Found::Node(node), path) => Ok(node.attr(k, &path)),
        _ => Err(Errno::ENOENT),
    }
}

/// Where a path that leads to a foreign device leads to.
fn foreign_path<K: Kernel>(k: &K, at: &Location) -> Result<Vec<u8>, Errno> {
    let file = k.open(at, O_PATH, 0)?;
    let real = k.path_of(&k.handle(&file))?;
    Ok(pseudo::from_storage(&path::clean(&real)))
}

fn pseudo_facts<K: Kernel>(k: &K, path: &[u8], follow: bool) -> Result<Facts, Errno> {
    let (found, path) = pseudo::find(k, path, follow)?;
    match found {
        Found::Node(node) => Ok(Facts::Attr(node.attr(k, &path))),
        Found::Descriptor(fd) => facts_of_fd(k, fd),
        Found::Outside => {
            let at = Location { dir: None, path };
            remote_attr(k, &at, follow).map(Facts::Attr)
        }
    }
}

fn attr_of<K: Kernel>(k: &K, file: &OpenFile<K::File>) -> Result<Attr, Errno> {
    match &file.object {
        Object::Remote(remote) => k.stat(remote),
        Object::Text { attr, .. } | Object::PseudoDir { attr, .. } => Ok(attr.clone()),
        Object::Device(device) => Ok(pseudo::device_attr(k, *device, &file.path)),
    }
}

/// access(2).
pub fn access<K: Kernel>(k: &K, a: Args) -> Answer {
    access_at(k, AT_FDCWD, a.addr(0), a.uint(1), 0)
}

/// faccessat(2).
pub fn faccessat<K: Kernel>(k: &K, a: Args) -> Answer {
    access_at(k, a.int(0), a.addr(1), a.uint(2), 0)
}

/// faccessat2(2).
pub fn faccessat2<K: Kernel>(k: &K, a: Args) -> Answer {
    access_at(k, a.int(0), a.addr(1), a.uint(2), a.uint(3))
}

fn access_at<K: Kernel>(k: &K, dirfd: i32, at: UserAddr, mode: u32, flags: u32) -> Answer {
    const KNOWN: u32 = AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH;
    if mode & !7 != 0 || flags & !KNOWN != 0 {
        return Err(Errno::EINVAL.into());
    }
    match path::resolve(k, dirfd, at, flags)? {
        Place::Remote(at, _) => k.access(&at, mode, flags & !AT_EMPTY_PATH)?,
        place => {
            let facts = facts(k, place, flags & AT_SYMLINK_NOFOLLOW == 0)?;
            permits(facts.stat().mode, mode)?;
        }
    }
    Ok(0)
}

/// Whether anybody may do that: pseudo-files are the same for all.
fn permits(bits: u32, wanted: u32) -> Result<(), Errno> {
    let allowed = (bits >> 6) | (bits >> 3) | bits;
    if wanted & !allowed & 7 == 0 {
        Ok(())
    } else {
        Err(Errno::EACCES)
    }
}

/// statfs(2).
pub fn statfs<K: Kernel>(k: &K, a: Args) -> Answer {
    let place = path::resolve(k, AT_FDCWD, a.addr(0), 0)?;
    let found = match place {
        Place::Remote(at, _) => k.statfs(&at)?,
        Place::Pseudo(path) => match pseudo::find(k, &path, true)? {
            (Found::Outside, path) => k.statfs(&Location { dir: None, path })?,
            (_, path) => pseudo::statfs(&path),
        },
        Place::Itself(_) | Place::Host(_) => return Err(Errno::ENOENT.into()),
    };
    k.put(a.addr(1), &Statfs::from(&found))?;
    Ok(0)
}

/// fstatfs(2).
pub fn fstatfs<K: Kernel>(k: &K, a: Args) -> Answer {
    let found = match target(k, a.int(0))? {
        Target::Ours(file) => match &file.object {
            Object::Remote(remote) => k.statfs(&Location {
                dir: Some(k.handle(remote)),
                path: Vec::new(),
            })?,
            _ => pseudo::statfs(&file.path),
        },
        Target::Host(fd) => {
            facts(k, Place::Host(fd), true)?;
            pseudo::statfs(b"/dev")
        }
    };
    k.put(a.addr(1), &Statfs::from(&found))?;
    Ok(0)
}
