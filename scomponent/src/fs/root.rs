//! The root, and opening paths in it. openat2(2) with `RESOLVE_IN_ROOT` makes
//! the kernel itself treat the root as `/`: `..` and absolute links end there.

use crate::core::handle::FileKey;
use crate::fs::attr;
use crate::fs::{Fd, Io, Wait};
use proto::Errno;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2, readlinkat};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// How often a look-up that raced with a rename is repeated.
const RACES: usize = 64;

/// The directory that clients see as `/`.
pub struct Root {
    pub(crate) fd: Fd,
    pub(crate) key: FileKey,
    /// Whether the kernel can look up without waiting (`RESOLVE_CACHED`,
    /// Linux 5.12).
    cached: bool,
    /// Its path on the host, without a final slash: empty for `/`.
    host: Vec<u8>,
}

impl Root {
    /// Opens it.
    ///
    /// # Errors
    /// It is no directory that can be searched; the kernel lacks openat2(2)
    /// (before Linux 5.6); or procfs is not mounted.
    pub fn open(path: &Path) -> std::io::Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, path, flags, Mode::empty())?;
        openat2(&fd, ".", flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
        let mut host = std::fs::read_link(proc_path(fd.as_fd()))?
            .as_os_str()
            .as_bytes()
            .to_vec();
        if host == b"/" {
            host.clear();
        }
        let (_, key) =
            attr::stat(fd.as_fd()).map_err(|e| std::io::Error::from_raw_os_error(e.0))?;
        let cached = ResolveFlags::IN_ROOT | ResolveFlags::CACHED;
        let cached = match openat2(&fd, ".", flags, Mode::empty(), cached) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => true,
            Err(_) => false,
        };
        Ok(Root {
            fd: Arc::new(fd),
            key,
            cached,
            host,
        })
    }

    /// Opens `path` as seen from the root, whatever it starts with.
    pub(crate) fn open_in(
        &self,
        path: &[u8],
        flags: OFlags,
        mode: Mode,
        wait: Wait,
    ) -> Io<OwnedFd> {
        let path = if path.is_empty() { &b"."[..] } else { path };
        self.open_under(
            self.fd.as_fd(),
            path,
            flags,
            mode,
            ResolveFlags::IN_ROOT,
            wait,
        )
    }

    /// openat2(2), never through magic links, repeated where the kernel could
    /// not be sure because of a rename elsewhere.
    pub(crate) fn open_under(
        &self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        flags: OFlags,
        mode: Mode,
        scope: ResolveFlags,
        wait: Wait,
    ) -> Io<OwnedFd> {
        let mut resolve = scope | ResolveFlags::NO_MAGICLINKS;
        if wait == Wait::No {
            if !self.cached {
                return Err(Errno::EAGAIN);
            }
            resolve |= ResolveFlags::CACHED;
        }
        for _ in 0..RACES {
            match openat2(dir, path, flags | OFlags::CLOEXEC, mode, resolve) {
                Ok(fd) => return Ok(fd),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) if wait == Wait::Yes => std::thread::yield_now(),
                Err(e) => return Err(errno(e)),
            }
        }
        Err(Errno::EAGAIN)
    }

    /// The path of an open file as seen from the root, without a leading
    /// slash; empty for the root. `ENOENT` where it has no name any more.
    pub(crate) fn path_of(&self, fd: BorrowedFd<'_>) -> Io<Vec<u8>> {
        if attr::stat(fd)?.0.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        let host = readlinkat(CWD, proc_path(fd), Vec::new())
            .map_err(errno)?
            .into_bytes();
        match host.strip_prefix(&self.host[..]) {
            Some([b'/', path @ ..]) => Ok(path.to_vec()),
            Some([]) => Ok(Vec::new()),
            _ => Err(Errno::ESTALE),
        }
    }
}

/// A name under which this process can open again what it has open.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A host errno as the program will see it.
pub(crate) fn errno(e: rustix::io::Errno) -> Errno {
    Errno(e.raw_os_error())
}
