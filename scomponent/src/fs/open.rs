//! Open and Close.

use crate::core::descriptors::Access;
use crate::core::handle::Handle;
use crate::fs::attr::{kind, stat};
use crate::fs::root::{errno, proc_path};
use crate::fs::{Fd, Io, Store, Wait};
use proto::store::{Attr, FileHandle, Location, StoreReply};
use proto::{Errno, Identity};
use rustix::fd::AsFd;
use rustix::fs::{Access as Permission, FileType, Mode, OFlags, access};
use std::sync::Arc;

/// What open(2) heeds beside `O_PATH`.
const WITH_PATH: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW);
/// What decides how a file is found, made or emptied. The rest is about the
/// descriptor, which is the client's: `O_APPEND`, `O_SYNC`, `O_DIRECT`,
/// `O_NONBLOCK` and the like must not cling to a descriptor that is shared.
const HEEDED: OFlags = OFlags::ACCMODE
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::TRUNC)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::DIRECTORY);
/// Never wait for the other end of a FIFO or a carrier, never take a terminal.
const ALWAYS: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY);
/// The `O_TMPFILE` bit without `O_DIRECTORY`.
const TMPFILE: u32 = 0o20_000_000;

struct Opened {
    fd: Fd,
    /// What the descriptor is good for; `None` where it must not be shared.
    access: Option<Access>,
    attr: Attr,
    handle: Handle,
    created: bool,
}

impl Store {
    pub(crate) fn open(
        &self,
        client: Identity,
        at: &Location,
        flags: u32,
        mode: u32,
        wait: Wait,
    ) -> Io<StoreReply> {
        if flags & TMPFILE != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let flags = OFlags::from_bits_retain(flags);
        self.tables().opens.admit()?;
        let opened = if at.path.is_empty() {
            self.open_itself(at, flags, wait)?
        } else if flags.contains(OFlags::PATH) {
            self.open_name(at, flags & WITH_PATH, wait)?
        } else {
            self.open_contents(at, flags & HEEDED, mode, wait)?
        };
        self.remember(client, &opened);
        let Opened {
            attr,
            handle,
            created,
            ..
        } = opened;
        Ok(StoreReply::Opened {
            handle: handle.encode(),
            attr,
            created,
        })
    }

    fn remember(&self, client: Identity, opened: &Opened) {
        if let Some(access) = opened.access {
            self.cache(opened.handle.key, access, &opened.fd);
        }
        let mut tables = self.tables();
        tables
            .opens
            .handle_open(client, opened.handle.key, &opened.handle.path);
        if opened.created {
            let parent = crate::core::path::parent_of(&opened.handle.path).to_vec();
            tables.newborn.handle_made(opened.handle.key, &parent);
        }
    }

    /// `O_PATH`.
    fn open_name(&self, at: &Location, flags: OFlags, wait: Wait) -> Io<Opened> {
        let fd = Arc::new(self.open_at(at, flags, Mode::empty(), wait)?);
        self.opened(at, fd, Some(Access::Name), false)
    }

    /// An empty path: the directory's handle is opened again, as by way of
    /// `/proc/self/fd`.
    fn open_itself(&self, at: &Location, flags: OFlags, wait: Wait) -> Io<Opened> {
        let name = self.target(at, true, wait)?;
        if flags.contains(OFlags::PATH) {
            return self.opened(at, name, Some(Access::Name), false);
        }
        if let Some(special) = self.special(at, &name, flags)? {
            return Ok(special);
        }
        if flags.contains(OFlags::CREATE | OFlags::EXCL) {
            return Err(Errno::EEXIST);
        }
        let again = (flags & HEEDED).difference(OFlags::NOFOLLOW) | ALWAYS | OFlags::CLOEXEC;
        let fd = rustix::fs::open(proc_path(name.as_fd()), again, Mode::empty()).map_err(errno)?;
        self.opened(at, Arc::new(fd), good_for(flags), false)
    }

    fn open_contents(&self, at: &Location, flags: OFlags, mode: u32, wait: Wait) -> Io<Opened> {
        let exclusive = flags.contains(OFlags::CREATE | OFlags::EXCL);
        let look = OFlags::PATH | (flags & OFlags::NOFOLLOW);
        let found = match exclusive {
            true => Err(Errno::ENOENT),
            false => self.open_at(at, look, Mode::empty(), wait).map(Arc::new),
        };
        if let Ok(name) = &found
            && let Some(special) = self.special(at, name, flags)?
        {
            return Ok(special);
        }
        if found.as_ref().is_err_and(|e| *e == Errno::EAGAIN) && wait == Wait::No {
            return Err(Errno::EAGAIN);
        }
        let creates = flags.contains(OFlags::CREATE);
        let mode = if creates {
            Mode::from_bits_retain(mode & 0o7777)
        } else {
            Mode::empty()
        };
        let fd = Arc::new(self.open_at(at, flags | ALWAYS, mode, wait)?);
        let created = creates && found.is_err_and(|e| e == Errno::ENOENT);
        self.opened(at, fd, good_for(flags), created)
    }

    /// FIFOs and devices are named but never opened here: opening them can
    /// block or do things. What open(2) would refuse is refused.
    fn special(&self, at: &Location, name: &Fd, flags: OFlags) -> Io<Option<Opened>> {
        let (attr, _) = stat(name.as_fd())?;
        match kind(&attr) {
            FileType::RegularFile | FileType::Directory | FileType::Symlink => return Ok(None),
            // The kernel refuses that before it opens anything.
            _ if flags.contains(OFlags::DIRECTORY) => return Ok(None),
            FileType::Socket => return Err(Errno::ENXIO),
            FileType::Fifo if good_for(flags).is_none() => return Err(Errno::EINVAL),
            _ => {}
        }
        let wanted = match flags & OFlags::ACCMODE {
            OFlags::RDONLY => Permission::READ_OK,
            OFlags::WRONLY => Permission::WRITE_OK,
            _ => Permission::READ_OK | Permission::WRITE_OK,
        };
        access(proc_path(name.as_fd()), wanted).map_err(errno)?;
        self.opened(at, name.clone(), Some(Access::Name), false)
            .map(Some)
    }

    fn opened(&self, at: &Location, fd: Fd, access: Option<Access>, created: bool) -> Io<Opened> {
        let (attr, key) = stat(fd.as_fd())?;
        let handle = self.handle_of(fd.as_fd(), key, &at.path);
        Ok(Opened {
            fd,
            access,
            attr,
            handle,
            created,
        })
    }

    pub(crate) fn close(&self, client: Identity, handle: &FileHandle) -> Io<StoreReply> {
        let key = Handle::decode(handle)?.key;
        let mut tables = self.tables();
        let closed = match tables.opens.handle_close(client, key) {
            true => tables.descriptors.remove(key),
            false => Vec::new(),
        };
        drop(tables);
        drop(closed);
        Ok(StoreReply::Done)
    }
}

/// A descriptor with access mode 3 (open(2), NOTES) is good for neither.
fn good_for(flags: OFlags) -> Option<Access> {
    match flags & OFlags::ACCMODE {
        OFlags::RDONLY => Some(Access::Read),
        OFlags::WRONLY => Some(Access::Write),
        OFlags::RDWR => Some(Access::Both),
        _ => None,
    }
}
