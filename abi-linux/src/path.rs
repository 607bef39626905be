//! Paths: where a path argument leads, and which paths are the processor
//! component's own (`/proc`, `/sys`, `/dev`).

use crate::consts::{AT_EMPTY_PATH, AT_FDCWD};
use crate::fds::{Object, OpenFile};
use crate::kernel::Kernel;
use crate::process::Cwd;
use crate::user::UserExt;
use proto::store::Location;
use proto::{Errno, UserAddr};
use std::sync::Arc;

/// Where a path argument leads.
#[derive(Debug)]
pub enum Place<F> {
    /// A path at the storage component, and the absolute path it is thought
    /// to be (links not resolved).
    Remote(Location, Vec<u8>),
    /// A clean absolute path below `/proc`, `/sys` or `/dev`.
    Pseudo(Vec<u8>),
    /// The description itself (`AT_EMPTY_PATH`).
    Itself(Arc<OpenFile<F>>),
    /// The host descriptor itself (`AT_EMPTY_PATH`).
    Host(i32),
}

/// What a descriptor number refers to.
#[derive(Debug)]
pub enum Target<F> {
    /// A description of ours.
    Ours(Arc<OpenFile<F>>),
    /// A host object (which may not exist: the host says `EBADF`).
    Host(i32),
}

/// What `fd` refers to.
///
/// # Errors
/// `EBADF` for numbers that no program can have.
pub fn target<K: Kernel>(k: &K, fd: i32) -> Result<Target<K::File>, Errno> {
    if fd < 0 || fd >= k.fd_floor() {
        return Err(Errno::EBADF);
    }
    Ok(k.process()
        .fds
        .get(fd)
        .map_or(Target::Host(fd), Target::Ours))
}

/// Every open descriptor, in order.
pub fn open_descriptors<K: Kernel>(k: &K) -> Vec<i32> {
    let mut numbers = k.descriptors();
    numbers.extend(k.process().fds.numbers());
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Reads a path argument and resolves it against `dirfd`.
///
/// # Errors
/// `EFAULT`, `ENAMETOOLONG`, `ENOENT` (empty), `EBADF`, `ENOTDIR` (`dirfd` is
/// no directory).
pub fn resolve<K: Kernel>(
    k: &K,
    dirfd: i32,
    at: UserAddr,
    flags: u32,
) -> Result<Place<K::File>, Errno> {
    resolve_bytes(k, dirfd, k.path(at)?, flags)
}

/// As [`resolve`], for a path that has been read.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_bytes<K: Kernel>(
    k: &K,
    dirfd: i32,
    path: Vec<u8>,
    flags: u32,
) -> Result<Place<K::File>, Errno> {
    if path.is_empty() {
        if flags & AT_EMPTY_PATH == 0 {
            return Err(Errno::ENOENT);
        }
        return itself(k, dirfd);
    }
    if path.starts_with(b"/") {
        return Ok(place_of(clean(&path), || Location { dir: None, path }));
    }
    if dirfd == AT_FDCWD {
        return from_cwd(k, path);
    }
    match target(k, dirfd)? {
        Target::Ours(file) => from_dir(k, &file, path),
        Target::Host(fd) => Err(not_a_directory(k, fd)),
    }
}

fn place_of<F>(absolute: Vec<u8>, location: impl FnOnce() -> Location) -> Place<F> {
    if is_pseudo(&absolute) {
        Place::Pseudo(absolute)
    } else {
        Place::Remote(location(), absolute)
    }
}

fn itself<K: Kernel>(k: &K, dirfd: i32) -> Result<Place<K::File>, Errno> {
    if dirfd == AT_FDCWD {
        return from_cwd(k, b".".to_vec());
    }
    Ok(match target(k, dirfd)? {
        Target::Ours(file) => Place::Itself(file),
        Target::Host(fd) => Place::Host(fd),
    })
}

fn from_cwd<K: Kernel>(k: &K, path: Vec<u8>) -> Result<Place<K::File>, Errno> {
    let cwd = k.process().cwd();
    match &*cwd {
        Cwd::Open(file) => from_dir(k, file, path),
        Cwd::Path(base) => {
            let joined = join(base, &path);
            Ok(place_of(clean(&joined), || Location {
                dir: None,
                path: joined,
            }))
        }
    }
}

fn from_dir<K: Kernel>(
    k: &K,
    dir: &OpenFile<K::File>,
    path: Vec<u8>,
) -> Result<Place<K::File>, Errno> {
    let absolute = clean(&join(&dir.path, &path));
    match &dir.object {
        Object::Remote(file) => {
            let handle = k.handle(file);
            Ok(place_of(absolute, || Location {
                dir: Some(handle),
                path,
            }))
        }
        Object::PseudoDir { .. } => Ok(place_of(absolute.clone(), || Location {
            dir: None,
            path: absolute,
        })),
        _ => Err(Errno::ENOTDIR),
    }
}

/// A host object is never a directory of the program's: `ENOTDIR`, or `EBADF`
/// where there is none.
fn not_a_directory<K: Kernel>(k: &K, fd: i32) -> Errno {
    let mut raw = [0; 144];
    match k.host(crate::HostCall::Fstat { fd, dst: &mut raw }) {
        Ok(_) => Errno::ENOTDIR,
        Err(e) => e,
    }
}

/// Whether a clean absolute path is the processor component's own. Shared
/// memory objects (shm_open(3)) are files like any other.
#[must_use]
pub fn is_pseudo(path: &[u8]) -> bool {
    let below = |root: &[u8]| {
        path.strip_prefix(root)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    below(b"/proc") || below(b"/sys") || (below(b"/dev") && !below(b"/dev/shm"))
}

/// `base` and `path` as one path.
#[must_use]
pub fn join(base: &[u8], path: &[u8]) -> Vec<u8> {
    if path.starts_with(b"/") {
        return path.to_vec();
    }
    let mut joined = base.to_vec();
    if !joined.ends_with(b"/") {
        joined.push(b'/');
    }
    joined.extend_from_slice(path);
    joined
}

/// An absolute path without `.`, `..` and doubled slashes, taken lexically.
#[must_use]
pub fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut clean = Vec::with_capacity(path.len() + 1);
    for part in parts {
        clean.push(b'/');
        clean.extend_from_slice(part);
    }
    if clean.is_empty() {
        clean.push(b'/');
    }
    clean
}
