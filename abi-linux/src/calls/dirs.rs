//! Directories and names: listing, the working directory, making, removing,
//! renaming and linking.

use crate::args::Args;
use crate::consts::*;
use crate::fds::{Object, OpenFile};
use crate::kernel::Kernel;
use crate::layout::{Dirent64Head, DirentHead, Layout};
use crate::outcome::Answer;
use crate::path::{self, Place, Target, target};
use crate::process::Cwd;
use crate::pseudo::{self, Found, Node};
use crate::user::UserExt;
use proto::store::{DirEntry, Location};
use proto::{Errno, UserAddr};

use super::open::{is_directory, open_directory};

/// getdents64(2).
pub fn getdents64<K: Kernel>(k: &K, a: Args) -> Answer {
    list(k, a, |entry| {
        let reclen = (Dirent64Head::SIZE + entry.name.len() + 1).next_multiple_of(8);
        let mut record = vec![0; reclen];
        let head = Dirent64Head {
            ino: entry.ino,
            off: entry.cookie.cast_signed(),
            reclen: reclen as u16,
            kind: entry.kind,
        };
        head.encode(&mut record);
        record[Dirent64Head::SIZE..][..entry.name.len()].copy_from_slice(&entry.name);
        record
    })
}

/// getdents(2): the type stands in the record's last byte.
pub fn getdents<K: Kernel>(k: &K, a: Args) -> Answer {
    list(k, a, |entry| {
        let reclen = (DirentHead::SIZE + entry.name.len() + 2).next_multiple_of(8);
        let mut record = vec![0; reclen];
        let head = DirentHead {
            ino: entry.ino,
            off: entry.cookie.cast_signed(),
            reclen: reclen as u16,
        };
        head.encode(&mut record);
        record[DirentHead::SIZE..][..entry.name.len()].copy_from_slice(&entry.name);
        record[reclen - 1] = entry.kind;
        record
    })
}

fn list<K: Kernel>(k: &K, a: Args, record: impl Fn(&DirEntry) -> Vec<u8>) -> Answer {
    /// Most bytes of entries that one call asks the storage component for.
    const MOST: usize = 256 << 10;
    let file = match target(k, a.int(0))? {
        Target::Ours(file) if !file.is_path_only() => file,
        Target::Ours(_) => return Err(Errno::EBADF.into()),
        Target::Host(fd) => {
            super::stat::facts(k, Place::Host(fd), true)?;
            return Err(Errno::ENOTDIR.into());
        }
    };
    if !is_directory(k, &file) {
        return Err(Errno::ENOTDIR.into());
    }
    let room = (a.uint(2) as usize).min(MOST);
    let mut cursor = file.offset();
    let mut out = Vec::new();
    let mut next = *cursor;
    let mut any = false;
    for entry in entries(k, &file, *cursor, room)? {
        any = true;
        let bytes = record(&entry);
        if out.len() + bytes.len() > room {
            break;
        }
        out.extend(bytes);
        next = entry.cookie;
    }
    if any && out.is_empty() {
        return Err(Errno::EINVAL.into());
    }
    k.write(a.addr(1), &out)?;
    *cursor = next;
    Ok(out.len() as u64)
}

fn entries<K: Kernel>(
    k: &K,
    file: &OpenFile<K::File>,
    cookie: u64,
    room: usize,
) -> Result<Vec<DirEntry>, Errno> {
    match &file.object {
        Object::Remote(remote) => {
            let bytes = u32::try_from(room).unwrap_or(u32::MAX);
            let (mut entries, end) = k.read_dir(remote, cookie, bytes)?;
            if entries.is_empty() && !end {
                entries = k.read_dir(remote, cookie, bytes.max(4096))?.0;
            }
            if !entries.iter().all(is_sound) {
                return Err(Errno::EIO);
            }
            Ok(entries)
        }
        Object::PseudoDir { entries, .. } => {
            let number = |n: usize| n as u64;
            let entry = |(n, (name, kind)): (usize, &(Vec<u8>, u8))| DirEntry {
                ino: pseudo::inode(&path::join(&file.path, name)),
                cookie: number(n) + 1,
                kind: *kind,
                name: name.clone(),
            };
            let skip = usize::try_from(cookie).unwrap_or(usize::MAX);
            Ok(entries.iter().enumerate().skip(skip).map(entry).collect())
        }
        _ => Err(Errno::ENOTDIR),
    }
}

/// Whether an entry that another component told of can be one: its name is no
/// path, and its length fits the 16 bits of the program's record.
fn is_sound(entry: &DirEntry) -> bool {
    let name = &entry.name;
    (1..PATH_MAX).contains(&name.len()) && !name.iter().any(|b| matches!(b, 0 | b'/'))
}

/// getcwd(2): the length with the NUL.
pub fn getcwd<K: Kernel>(k: &K, a: Args) -> Answer {
    let cwd = k.process().cwd();
    let mut path = match &*cwd {
        Cwd::Path(path) => path.clone(),
        Cwd::Open(file) => match &file.object {
            Object::Remote(remote) => k.path_of(&k.handle(remote))?,
            _ => file.path.clone(),
        },
    };
    path.push(0);
    if path.len() > a.len(1) {
        return Err(Errno::ERANGE.into());
    }
    k.write(a.addr(0), &path)?;
    Ok(path.len() as u64)
}

/// chdir(2).
pub fn chdir<K: Kernel>(k: &K, a: Args) -> Answer {
    let place = path::resolve(k, AT_FDCWD, a.addr(0), 0)?;
    let remote = match &place {
        Place::Remote(at, _) => Some(at.clone()),
        _ => None,
    };
    // What is no directory is ENOTDIR, whatever its permissions.
    let directory = open_directory(k, place)?;
    if let Some(at) = remote {
        const X_OK: u32 = 1;
        k.access(&at, X_OK, AT_EACCESS)?;
    }
    k.process().set_cwd(directory);
    Ok(0)
}

/// fchdir(2).
pub fn fchdir<K: Kernel>(k: &K, a: Args) -> Answer {
    match target(k, a.int(0))? {
        Target::Ours(file) if is_directory(k, &file) => {
            k.process().set_cwd(file);
            Ok(0)
        }
        Target::Ours(_) => Err(Errno::ENOTDIR.into()),
        Target::Host(fd) => {
            super::stat::facts(k, Place::Host(fd), true)?;
            Err(Errno::ENOTDIR.into())
        }
    }
}

/// A place where names can be changed: not below `/proc`, `/sys` and `/dev`.
fn changeable<K: Kernel>(k: &K, dirfd: i32, at: UserAddr) -> Result<Location, Errno> {
    match path::resolve(k, dirfd, at, 0)? {
        Place::Remote(at, _) => Ok(at),
        Place::Pseudo(path) => match pseudo::find(k, &path, false) {
            Ok((Found::Outside, path)) => Ok(Location { dir: None, path }),
            Ok(_) => Err(Errno::EPERM),
            Err(e) => Err(e),
        },
        Place::Itself(_) | Place::Host(_) => Err(Errno::ENOENT),
    }
}

/// As [`changeable`], for a name that is to be made: `EEXIST` where it is.
fn makeable<K: Kernel>(k: &K, dirfd: i32, at: UserAddr) -> Result<Location, Errno> {
    match changeable(k, dirfd, at) {
        Err(Errno::EPERM) => Err(Errno::EEXIST),
        Err(Errno::ENOENT) if k.path(at).is_ok_and(|p| !p.is_empty()) => Err(Errno::EACCES),
        other => other,
    }
}

/// mkdir(2).
pub fn mkdir<K: Kernel>(k: &K, a: Args) -> Answer {
    mkdir_at(k, AT_FDCWD, a.addr(0), a.uint(1))
}

/// mkdirat(2).
pub fn mkdirat<K: Kernel>(k: &K, a: Args) -> Answer {
    mkdir_at(k, a.int(0), a.addr(1), a.uint(2))
}

fn mkdir_at<K: Kernel>(k: &K, dirfd: i32, at: UserAddr, mode: u32) -> Answer {
    let at = makeable(k, dirfd, at)?;
    k.mkdir(&at, mode & 0o1777 & !k.process().umask())?;
    Ok(0)
}

/// mknod(2).
pub fn mknod<K: Kernel>(k: &K, a: Args) -> Answer {
    mknod_at(k, AT_FDCWD, a.addr(0), a.uint(1))
}

/// mknodat(2).
pub fn mknodat<K: Kernel>(k: &K, a: Args) -> Answer {
    mknod_at(k, a.int(0), a.addr(1), a.uint(2))
}

fn mknod_at<K: Kernel>(k: &K, dirfd: i32, at: UserAddr, mode: u32) -> Answer {
    let kind = match mode & S_IFMT {
        0 => S_IFREG,
        S_IFREG | S_IFIFO => mode & S_IFMT,
        S_IFCHR | S_IFBLK | S_IFSOCK => return Err(Errno::EPERM.into()),
        _ => return Err(Errno::EINVAL.into()),
    };
    let at = makeable(k, dirfd, at)?;
    k.mknod(&at, kind | (mode & 0o7777 & !k.process().umask()))?;
    Ok(0)
}

/// unlink(2).
pub fn unlink<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(k.unlink(&changeable(k, AT_FDCWD, a.addr(0))?, false)
        .map(|()| 0)?)
}

/// rmdir(2).
pub fn rmdir<K: Kernel>(k: &K, a: Args) -> Answer {
    Ok(k.unlink(&changeable(k, AT_FDCWD, a.addr(0))?, true)
        .map(|()| 0)?)
}

/// unlinkat(2).
pub fn unlinkat<K: Kernel>(k: &K, a: Args) -> Answer {
    if a.uint(2) & !AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL.into());
    }
    let at = changeable(k, a.int(0), a.addr(1))?;
    k.unlink(&at, a.uint(2) & AT_REMOVEDIR != 0)?;
    Ok(0)
}

/// rename(2).
pub fn rename<K: Kernel>(k: &K, a: Args) -> Answer {
    rename_at(k, (AT_FDCWD, a.addr(0)), (AT_FDCWD, a.addr(1)), 0)
}

/// renameat(2).
pub fn renameat<K: Kernel>(k: &K, a: Args) -> Answer {
    rename_at(k, (a.int(0), a.addr(1)), (a.int(2), a.addr(3)), 0)
}

/// renameat2(2).
pub fn renameat2<K: Kernel>(k: &K, a: Args) -> Answer {
    const NOREPLACE: u32 = 1;
    const EXCHANGE: u32 = 2;
    let flags = a.uint(4);
    if flags & !(NOREPLACE | EXCHANGE) != 0 || flags == NOREPLACE | EXCHANGE {
        return Err(Errno::EINVAL.into());
    }
    rename_at(k, (a.int(0), a.addr(1)), (a.int(2), a.addr(3)), flags)
}

fn rename_at<K: Kernel>(k: &K, from: (i32, UserAddr), to: (i32, UserAddr), flags: u32) -> Answer {
    let from = changeable(k, from.0, from.1)?;
    let to = changeable(k, to.0, to.1).map_err(across)?;
    k.rename(&from, &to, flags)?;
    Ok(0)
}

/// `/proc` and its like are other file systems.
fn across(e: Errno) -> Errno {
    if e == Errno::EPERM { Errno::EXDEV } else { e }
}

/// link(2).
pub fn link<K: Kernel>(k: &K, a: Args) -> Answer {
    link_at(k, (AT_FDCWD, a.addr(0)), (AT_FDCWD, a.addr(1)), 0)
}

/// linkat(2).
pub fn linkat<K: Kernel>(k: &K, a: Args) -> Answer {
    let flags = a.uint(4);
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    link_at(k, (a.int(0), a.addr(1)), (a.int(2), a.addr(3)), flags)
}

fn link_at<K: Kernel>(k: &K, from: (i32, UserAddr), to: (i32, UserAddr), flags: u32) -> Answer {
    let follow = flags & AT_SYMLINK_FOLLOW != 0;
    let from = match path::resolve(k, from.0, from.1, flags)? {
        Place::Remote(at, _) => at,
        Place::Itself(file) => match &file.object {
            Object::Remote(remote) => Location {
                dir: Some(k.handle(remote)),
                path: Vec::new(),
            },
            _ => return Err(Errno::EXDEV.into()),
        },
        // `/proc/self/fd/N` is how files without a name get one.
        Place::Pseudo(path) => match pseudo::find(k, &path, follow)? {
            (Found::Outside, path) => Location { dir: None, path },
            _ => return Err(Errno::EXDEV.into()),
        },
        Place::Host(_) => return Err(Errno::EXDEV.into()),
    };
    let to = makeable(k, to.0, to.1)?;
    k.link(&from, &to, follow)?;
    Ok(0)
}

/// symlink(2).
pub fn symlink<K: Kernel>(k: &K, a: Args) -> Answer {
    symlink_at(k, a.addr(0), AT_FDCWD, a.addr(1))
}

/// symlinkat(2).
pub fn symlinkat<K: Kernel>(k: &K, a: Args) -> Answer {
    symlink_at(k, a.addr(0), a.int(1), a.addr(2))
}

fn symlink_at<K: Kernel>(k: &K, target: UserAddr, dirfd: i32, at: UserAddr) -> Answer {
    let target = k.path(target)?;
    if target.is_empty() {
        return Err(Errno::ENOENT.into());
    }
    k.symlink(&target, &makeable(k, dirfd, at)?)?;
    Ok(0)
}

/// readlink(2).
pub fn readlink<K: Kernel>(k: &K, a: Args) -> Answer {
    readlink_at(k, AT_FDCWD, a.addr(0), a.addr(1), a.int(2))
}

/// readlinkat(2).
pub fn readlinkat<K: Kernel>(k: &K, a: Args) -> Answer {
    readlink_at(k, a.int(0), a.addr(1), a.addr(2), a.int(3))
}

fn readlink_at<K: Kernel>(k: &K, dirfd: i32, at: UserAddr, to: UserAddr, room: i32) -> Answer {
    let room = usize::try_from(room)
        .ok()
        .filter(|n| *n > 0)
        .ok_or(Errno::EINVAL)?;
    let mut content = match path::resolve(k, dirfd, at, AT_EMPTY_PATH)? {
        Place::Remote(at, _) => k.readlink(&at)?,
        Place::Pseudo(path) => pseudo_link(k, &path)?,
        Place::Itself(file) => match &file.object {
            Object::Remote(remote) => k.readlink(&Location {
                dir: Some(k.handle(remote)),
                path: Vec::new(),
            })?,
            Object::Text { content, attr } if attr.mode & S_IFMT == S_IFLNK => content.clone(),
            _ => return Err(Errno::ENOENT.into()),
        },
        Place::Host(_) => return Err(Errno::ENOENT.into()),
    };
    content.truncate(room);
    k.write(to, &content)?;
    Ok(content.len() as u64)
}

fn pseudo_link<K: Kernel>(k: &K, path: &[u8]) -> Result<Vec<u8>, Errno> {
    match pseudo::find(k, path, false)? {
        (Found::Node(Node::Link(to)), _) => Ok(to),
        (Found::Node(Node::Descriptor(fd)), _) => pseudo::descriptor_target(k, fd),
        (Found::Outside, path) => k.readlink(&Location { dir: None, path }),
        _ => Err(Errno::EINVAL),
    }
}
