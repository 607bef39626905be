//! From what a client names, a handle or a location, to descriptors.

use crate::core::descriptors::Access;
use crate::core::handle::{FileKey, Handle};
use crate::core::path;
use crate::fs::root::{errno, proc_path};
use crate::fs::{Fd, Io, Store, Wait, attr};
use proto::Errno;
use proto::store::{FileHandle, Location};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat};
use std::sync::Arc;

/// A descriptor that only names a file, the file itself if it is a link.
const NAME: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW);

/// The directory that holds a name, and the name (with slashes after it).
pub(crate) struct Parent<'a> {
    pub(crate) dir: Fd,
    pub(crate) leaf: &'a [u8],
}

impl Parent<'_> {
    /// The name alone, where it is one: not `/`, `.` or `..`.
    pub(crate) fn name(&self) -> Option<&[u8]> {
        let end = self.leaf.iter().rposition(|&b| b != b'/')?;
        match &self.leaf[..=end] {
            b"." | b".." => None,
            name => Some(name),
        }
    }
}

impl Store {
    /// A descriptor of the file that a handle names, good for `need`.
    ///
    /// # Errors
    /// `ESTALE` where the handle leads to no file or to another one; `EINVAL`
    /// where contents are asked of a special file; what open(2) gives.
    pub(crate) fn descriptor(&self, handle: &FileHandle, need: Access, wait: Wait) -> Io<Fd> {
        self.known(&Handle::decode(handle)?, need, wait)
    }

    /// As [`Store::descriptor`], of a handle that has been decoded.
    pub(crate) fn known(&self, handle: &Handle, need: Access, wait: Wait) -> Io<Fd> {
        if handle.key == self.root.key && need == Access::Name {
            return Ok(self.root.fd.clone());
        }
        let cached = {
            let descriptors = &mut self.tables().descriptors;
            match descriptors.get(handle.key, need) {
                Some(fd) => return Ok(fd),
                None => descriptors.get(handle.key, Access::Name),
            }
        };
        let name = match cached {
            Some(fd) => fd,
            None => Arc::new(self.follow_handle(handle, wait)?),
        };
        let fd = match need {
            Access::Name => name,
            access => Arc::new(reopen(name.as_fd(), access)?),
        };
        self.cache(handle.key, need, &fd);
        Ok(fd)
    }

    /// Goes where the handle says and looks whether the file is still there.
    fn follow_handle(&self, handle: &Handle, wait: Wait) -> Io<OwnedFd> {
        let opened = self.root.open_in(&handle.path, NAME, Mode::empty(), wait);
        let fd = opened.map_err(|e| match e {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG => Errno::ESTALE,
            other => other,
        })?;
        if attr::stat(fd.as_fd())?.1 == handle.key {
            Ok(fd)
        } else {
            Err(Errno::ESTALE)
        }
    }

    /// A descriptor that names what `at` names; an empty path is the
    /// directory's handle itself.
    pub(crate) fn target(&self, at: &Location, follow: bool, wait: Wait) -> Io<Fd> {
        match &at.dir {
            Some(handle) if at.path.is_empty() => self.descriptor(handle, Access::Name, wait),
            _ => {
                let flags = if follow { OFlags::PATH } else { NAME };
                self.open_at(at, flags, Mode::empty(), wait).map(Arc::new)
            }
        }
    }

    /// openat(2) inside the root.
    pub(crate) fn open_at(
        &self,
        at: &Location,
        flags: OFlags,
        mode: Mode,
        wait: Wait,
    ) -> Io<OwnedFd> {
        let dir = match &at.dir {
            Some(dir) if at.path.first() != Some(&b'/') => dir,
            _ => return self.root.open_in(&at.path, flags, mode, wait),
        };
        let dir = self.descriptor(dir, Access::Name, wait)?;
        self.open_from(&dir, &at.path, flags, mode, wait)
    }

    /// Most relative paths stay beneath their directory, which the kernel can
    /// check from there. One that may not (`EXDEV`) is looked up again from
    /// the root, by the directory's current path.
    fn open_from(
        &self,
        dir: &Fd,
        path: &[u8],
        flags: OFlags,
        mode: Mode,
        wait: Wait,
    ) -> Io<OwnedFd> {
        let beneath = ResolveFlags::BENEATH;
        match self
            .root
            .open_under(dir.as_fd(), path, flags, mode, beneath, wait)
        {
            Err(Errno::EXDEV) => {
                let whole = path::join(&self.root.path_of(dir.as_fd())?, path);
                self.root.open_in(&whole, flags, mode, wait)
            }
            other => other,
        }
    }

    /// The directory that holds the last component of `at`.
    pub(crate) fn parent<'a>(&self, at: &'a Location) -> Io<Parent<'a>> {
        let (parent, leaf) = path::split(&at.path)?;
        let at = Location {
            dir: at.dir.clone(),
            path: parent.to_vec(),
        };
        let dir = if parent == b"." {
            self.start(&at)?
        } else {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            Arc::new(self.open_at(&at, flags, Mode::empty(), Wait::Yes)?)
        };
        Ok(Parent { dir, leaf })
    }

    /// Where relative paths start.
    fn start(&self, at: &Location) -> Io<Fd> {
        match &at.dir {
            Some(handle) => self.descriptor(handle, Access::Name, Wait::Yes),
            None => Ok(self.root.fd.clone()),
        }
    }

    /// The handle of an open file. Where its path can't be told (it lost its
    /// name this instant) the one it was asked by will do: the key decides.
    pub(crate) fn handle_of(&self, fd: BorrowedFd<'_>, key: FileKey, asked: &[u8]) -> Handle {
        let path = self.root.path_of(fd).unwrap_or_else(|_| {
            asked
                .iter()
                .copied()
                .skip_while(|&b| b == b'/')
                .take(path::MAX_PATH)
                .collect()
        });
        Handle { key, path }
    }
}

/// Opens anew, with another access, what is open. The file may have been
/// renamed or unlinked meanwhile.
pub(crate) fn reopen(fd: BorrowedFd<'_>, access: Access) -> Io<OwnedFd> {
    attr::check_contents(&attr::stat(fd)?.0)?;
    let access = match access {
        Access::Name => OFlags::PATH,
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::WRONLY,
        Access::Both => OFlags::RDWR,
    };
    let flags = access | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    openat(CWD, proc_path(fd), flags, Mode::empty()).map_err(errno)
}
