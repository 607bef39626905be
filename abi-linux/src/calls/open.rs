//! open(2) and its like: which object a path leads to, and a description of it.

use crate::args::Args;
use crate::consts::*;
use crate::fds::{Object, OpenFile, is_dir};
use crate::hostcall::HostCall;
use crate::kernel::Kernel;
use crate::layout::{Layout, OpenHow};
use crate::outcome::Answer;
use crate::path::{self, Place};
use crate::pseudo::{self, Found};
use crate::user::UserExt;
use proto::Errno;
use proto::store::Location;
use std::sync::Arc;

/// Flags that open(2) knows; others are ignored by open(2) and openat(2).
const KNOWN: u32 = O_ACCMODE
    | O_CREAT
    | O_EXCL
    | O_NOCTTY
    | O_TRUNC
    | O_APPEND
    | O_NONBLOCK
    | O_SYNC
    | O_ASYNC
    | O_DIRECT
    | O_LARGEFILE
    | O_DIRECTORY
    | O_NOFOLLOW
    | O_NOATIME
    | O_CLOEXEC
    | O_PATH
    | O_TMPFILE;
/// What `O_PATH` leaves of the other flags.
const WITH_PATH: u32 = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
/// Flags of the moment of opening, not kept in the description.
const TRANSIENT: u32 = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC;

/// open(2).
pub fn open<K: Kernel>(k: &K, a: Args) -> Answer {
    open_at(k, AT_FDCWD, k.path(a.addr(0)), a.uint(1), a.uint(2))
}

/// openat(2).
pub fn openat<K: Kernel>(k: &K, a: Args) -> Answer {
    open_at(k, a.int(0), k.path(a.addr(1)), a.uint(2), a.uint(3))
}

/// creat(2).
pub fn creat<K: Kernel>(k: &K, a: Args) -> Answer {
    let flags = O_CREAT | O_WRONLY | O_TRUNC;
    open_at(k, AT_FDCWD, k.path(a.addr(0)), flags, a.uint(1))
}

/// openat2(2), without resolution restrictions.
pub fn openat2<K: Kernel>(k: &K, a: Args) -> Answer {
    let size = a.len(3);
    if size < OpenHow::SIZE {
        return Err(Errno::EINVAL.into());
    }
    if size > proto::PAGE_SIZE as usize {
        return Err(Errno::E2BIG.into());
    }
    let mut bytes = vec![0; size];
    k.read(a.addr(2), &mut bytes)?;
    if bytes[OpenHow::SIZE..].iter().any(|b| *b != 0) {
        return Err(Errno::E2BIG.into());
    }
    let how = OpenHow::decode(&bytes);
    let flags = u32::try_from(how.flags).map_err(|_| Errno::EINVAL)?;
    let mode = u32::try_from(how.mode).map_err(|_| Errno::EINVAL)?;
    let makes = flags & (O_CREAT | (O_TMPFILE & !O_DIRECTORY)) != 0;
    if flags & !KNOWN != 0 || mode & !0o7777 != 0 || (mode != 0 && !makes) {
        return Err(Errno::EINVAL.into());
    }
    if how.resolve != 0 {
        // As a kernel would that can't promise the restriction.
        return Err(Errno::EINVAL.into());
    }
    open_at(k, a.int(0), k.path(a.addr(1)), flags, mode)
}

fn open_at<K: Kernel>(
    k: &K,
    dirfd: i32,
    path: Result<Vec<u8>, Errno>,
    flags: u32,
    mode: u32,
) -> Answer {
    let flags = check_flags(flags)?;
    let place = path::resolve_bytes(k, dirfd, path?, 0)?;
    let mode = mode & 0o7777 & !k.process().umask();
    Ok(open_place(k, place, flags, mode)?)
}

fn check_flags(flags: u32) -> Result<u32, Errno> {
    let flags = flags & KNOWN;
    if flags & O_PATH != 0 {
        return Ok(flags & WITH_PATH);
    }
    if flags & O_TMPFILE == O_TMPFILE {
        return Err(Errno::EOPNOTSUPP);
    }
    if flags & O_CREAT != 0 && flags & O_DIRECTORY != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(flags | O_LARGEFILE)
}

fn open_place<K: Kernel>(
    k: &K,
    place: Place<K::File>,
    flags: u32,
    mode: u32,
) -> Result<u64, Errno> {
    match place {
        Place::Remote(at, absolute) => open_remote(k, &at, absolute, flags, mode),
        Place::Pseudo(path) => open_pseudo(k, &path, flags, mode),
        Place::Itself(_) | Place::Host(_) => Err(Errno::ENOENT),
    }
}

/// Takes the number first: a file must not be made or truncated by an open
/// that then fails for want of one.
fn open_remote<K: Kernel>(
    k: &K,
    at: &Location,
    absolute: Vec<u8>,
    flags: u32,
    mode: u32,
) -> Result<u64, Errno> {
    let fd = k.reserve(flags & O_CLOEXEC != 0)?;
    match describe(k, at, absolute, flags, mode) {
        Ok(Opened::File(file)) => {
            k.process().fds.insert(fd, Arc::new(file));
            Ok(number(fd))
        }
        Ok(Opened::Pseudo(path)) => {
            let _ = k.host(HostCall::Close { fd });
            open_pseudo(k, &path, flags, mode)
        }
        Err(e) => {
            let _ = k.host(HostCall::Close { fd });
            Err(e)
        }
    }
}

enum Opened<F> {
    File(OpenFile<F>),
    /// A symbolic link led to `/proc`, `/sys` or `/dev`.
    Pseudo(Vec<u8>),
}

fn describe<K: Kernel>(
    k: &K,
    at: &Location,
    absolute: Vec<u8>,
    flags: u32,
    mode: u32,
) -> Result<Opened<K::File>, Errno> {
    let file = k.open(at, flags & !O_CLOEXEC, mode)?;
    if k.is_foreign_device(k.device(&file)) {
        let real = k.path_of(&k.handle(&file))?;
        return Ok(Opened::Pseudo(pseudo::from_storage(&path::clean(&real))));
    }
    match k.mode_at_open(&file) & S_IFMT {
        S_IFREG | S_IFDIR => {}
        _ if flags & O_PATH != 0 => {}
        // A FIFO, socket or device of the storage component's host.
        _ => return Err(Errno::ENXIO),
    }
    Ok(Opened::File(OpenFile::new(
        Object::Remote(file),
        absolute,
        flags & !TRANSIENT,
    )))
}

fn open_pseudo<K: Kernel>(k: &K, path: &[u8], flags: u32, mode: u32) -> Result<u64, Errno> {
    let follow = flags & O_NOFOLLOW == 0;
    let (found, path) = match pseudo::find(k, path, follow) {
        Ok(found) => found,
        // Nothing can be made there.
        Err(Errno::ENOENT) if flags & O_CREAT != 0 => return Err(Errno::EACCES),
        Err(e) => return Err(e),
    };
    if flags & O_CREAT != 0 && flags & O_EXCL != 0 {
        return Err(Errno::EEXIST);
    }
    let cloexec = flags & O_CLOEXEC != 0;
    match found {
        Found::Outside => {
            let at = Location {
                dir: None,
                path: path.clone(),
            };
            open_remote(k, &at, path, flags, mode)
        }
        Found::Descriptor(fd) => reopen(k, fd, flags, mode),
        Found::Node(node) => {
            if flags & O_DIRECTORY != 0 && !node.is_dir() {
                return Err(Errno::ENOTDIR);
            }
            let writes = flags & O_ACCMODE != O_RDONLY || flags & O_TRUNC != 0;
            if node.is_dir() && (writes || flags & O_CREAT != 0) {
                return Err(Errno::EISDIR);
            }
            if node.is_terminal() && flags & O_PATH == 0 {
                let flags = flags & (O_ACCMODE | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
                return k.host(HostCall::OpenTty { flags });
            }
            if writes && node.is_text() {
                return Err(Errno::EACCES);
            }
            let object = node.into_object(k, &path, flags)?;
            let file = OpenFile::new(object, path, flags & !TRANSIENT);
            enter(k, Arc::new(file), cloexec).map(number)
        }
    }
}

/// `/proc/self/fd/N`, `/dev/stdin`: a new description of the same file; for a
/// host object, which has no name of its own, another number for it.
fn reopen<K: Kernel>(k: &K, fd: i32, flags: u32, mode: u32) -> Result<u64, Errno> {
    let file = match path::target(k, fd).map_err(|_| Errno::ENOENT)? {
        path::Target::Host(fd) => {
            let cloexec = flags & O_CLOEXEC != 0;
            return k
                .host(HostCall::DupFrom {
                    fd,
                    least: 0,
                    cloexec,
                })
                .map_err(|e| if e == Errno::EBADF { Errno::ENOENT } else { e });
        }
        path::Target::Ours(file) => file,
    };
    match &file.object {
        Object::Remote(remote) => {
            let at = Location {
                dir: Some(k.handle(remote)),
                path: Vec::new(),
            };
            let flags = flags & !(O_CREAT | O_EXCL | O_NOFOLLOW);
            open_remote(k, &at, file.path.clone(), flags, mode)
        }
        Object::Device(device) => {
            let object = Object::Device(*device);
            let new = OpenFile::new(object, file.path.clone(), flags & !TRANSIENT);
            enter(k, Arc::new(new), flags & O_CLOEXEC != 0).map(number)
        }
        _ => open_pseudo(k, &file.path, flags, mode),
    }
}

/// Gives a description a number.
pub(crate) fn enter<K: Kernel>(
    k: &K,
    file: Arc<OpenFile<K::File>>,
    cloexec: bool,
) -> Result<i32, Errno> {
    let fd = k.reserve(cloexec)?;
    k.process().fds.insert(fd, file);
    Ok(fd)
}

/// Opens a directory for chdir(2): no number of its own.
pub(crate) fn open_directory<K: Kernel>(
    k: &K,
    place: Place<K::File>,
) -> Result<Arc<OpenFile<K::File>>, Errno> {
    let flags = O_PATH | O_DIRECTORY;
    match place {
        Place::Remote(at, absolute) => match describe(k, &at, absolute, flags, 0)? {
            Opened::File(file) => Ok(Arc::new(file)),
            Opened::Pseudo(path) => open_directory(k, Place::Pseudo(path)),
        },
        Place::Pseudo(path) => match pseudo::find(k, &path, true)? {
            (Found::Node(node), path) if node.is_dir() => {
                let object = node.into_object(k, &path, flags)?;
                Ok(Arc::new(OpenFile::new(object, path, flags)))
            }
            (Found::Outside, path) => {
                let at = Location {
                    dir: None,
                    path: path.clone(),
                };
                match describe(k, &at, path, flags, 0)? {
                    Opened::File(file) => Ok(Arc::new(file)),
                    Opened::Pseudo(_) => Err(Errno::ELOOP),
                }
            }
            _ => Err(Errno::ENOTDIR),
        },
        Place::Itself(file) => Ok(file),
        Place::Host(_) => Err(Errno::ENOTDIR),
    }
}

/// Whether a description is a directory's.
pub(crate) fn is_directory<K: Kernel>(k: &K, file: &OpenFile<K::File>) -> bool {
    match &file.object {
        Object::Remote(remote) => is_dir(k.mode_at_open(remote)),
        Object::PseudoDir { .. } => true,
        _ => false,
    }
}

fn number(fd: i32) -> u64 {
    u64::from(fd.unsigned_abs())
}
