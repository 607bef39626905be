//! Making, removing and moving names.

use crate::core::descriptors::Access;
use crate::core::handle::{FileKey, Handle};
use crate::fs::attr::{kind, stat_leaf};
use crate::fs::resolve::Parent;
use crate::fs::root::{errno, proc_path};
use crate::fs::{Fd, Io, Store, Wait};
use proto::Errno;
use proto::store::{Location, StoreReply};
use rustix::fd::AsFd;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, linkat, mkdirat, mknodat, openat,
    renameat_with, symlinkat, unlinkat,
};

impl Store {
    pub(crate) fn mkdir(&self, at: &Location, mode: u32) -> Io<StoreReply> {
        let parent = self.parent(at)?;
        let mode = Mode::from_bits_retain(mode & 0o7777);
        mkdirat(&parent.dir, parent.leaf, mode).map_err(errno)?;
        self.note_made(&parent);
        Ok(StoreReply::Done)
    }

    pub(crate) fn mknod(&self, at: &Location, mode: u32) -> Io<StoreReply> {
        let kind = match FileType::from_raw_mode(mode) {
            FileType::Fifo => FileType::Fifo,
            FileType::RegularFile => FileType::RegularFile,
            _ if mode & 0o170_000 == 0 => FileType::RegularFile,
            FileType::Directory => return Err(Errno::EINVAL),
            _ => return Err(Errno::EPERM),
        };
        let parent = self.parent(at)?;
        let mode = Mode::from_bits_retain(mode & 0o7777);
        mknodat(&parent.dir, parent.leaf, kind, mode, 0).map_err(errno)?;
        self.note_made(&parent);
        Ok(StoreReply::Done)
    }

    pub(crate) fn symlink(&self, target: &[u8], at: &Location) -> Io<StoreReply> {
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        let parent = self.parent(at)?;
        symlinkat(target, &parent.dir, parent.leaf).map_err(errno)?;
        Ok(StoreReply::Done)
    }

    pub(crate) fn link(&self, from: &Location, to: &Location, follow: bool) -> Io<StoreReply> {
        let source = self.target(from, follow, Wait::Yes)?;
        let parent = self.parent(to)?;
        // The magic link leads to what is open, be it a symbolic link itself.
        let source = proc_path(source.as_fd());
        let flags = AtFlags::SYMLINK_FOLLOW;
        linkat(CWD, source, &parent.dir, parent.leaf, flags).map_err(errno)?;
        self.note_made(&parent);
        Ok(StoreReply::Done)
    }

    pub(crate) fn unlink(&self, at: &Location, dir: bool) -> Io<StoreReply> {
        let parent = self.parent(at)?;
        let flags = if dir {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        let _names = self.names();
        let victim = self.keep_open(&parent)?;
        unlinkat(&parent.dir, parent.leaf, flags).map_err(errno)?;
        self.let_go(victim);
        Ok(StoreReply::Done)
    }

    pub(crate) fn rename(&self, from: &Location, to: &Location, flags: u32) -> Io<StoreReply> {
        let flags = RenameFlags::from_bits_retain(flags);
        let known = [
            RenameFlags::empty(),
            RenameFlags::NOREPLACE,
            RenameFlags::EXCHANGE,
        ];
        if !known.contains(&flags) {
            return Err(Errno::EINVAL);
        }
        let (from, to) = (self.parent(from)?, self.parent(to)?);
        let _names = self.names();
        self.keep_moved(&from)?;
        let victim = match flags.contains(RenameFlags::EXCHANGE) {
            true => self.keep_moved(&to).map(|()| None)?,
            false => self.keep_open(&to)?,
        };
        renameat_with(&from.dir, from.leaf, &to.dir, to.leaf, flags).map_err(errno)?;
        self.note_made(&to);
        self.let_go(victim);
        Ok(StoreReply::Done)
    }

    /// Before a name goes: a file that somebody has open must stay within
    /// reach. `ENFILE` where no more such files can be kept. A pin that turns
    /// out to be needless does no harm: the last Close takes it away.
    fn keep_open(&self, parent: &Parent<'_>) -> Io<Option<FileKey>> {
        let Some(name) = parent.name() else {
            return Ok(None);
        };
        let Ok((_, key)) = stat_leaf(parent.dir.as_fd(), name) else {
            return Ok(None);
        };
        if self.tables().opens.is_open(key) {
            self.pin(key, || {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(&parent.dir, name, flags, Mode::empty())
                    .map(Fd::new)
                    .map_err(errno)
            })?;
        }
        Ok(Some(key))
    }

    /// Before a name moves: as for one that goes, and if it is a directory's,
    /// for the open files beneath it too.
    fn keep_moved(&self, parent: &Parent<'_>) -> Io<()> {
        self.keep_open(parent)?;
        let Some(name) = parent.name() else {
            return Ok(());
        };
        let Ok((attr, _)) = stat_leaf(parent.dir.as_fd(), name) else {
            return Ok(());
        };
        if kind(&attr) != FileType::Directory {
            return Ok(());
        }
        let dir = crate::core::path::join(&self.root.path_of(parent.dir.as_fd())?, name);
        let beneath = self.tables().opens.beneath(&dir);
        for (key, path) in beneath {
            match self.pin(key, || {
                self.known(&Handle { key, path }, Access::Name, Wait::Yes)
            }) {
                // Lost already, not by this.
                Ok(()) | Err(Errno::ESTALE) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn pin(&self, key: FileKey, open: impl FnOnce() -> Io<Fd>) -> Io<()> {
        let cached = self.tables().descriptors.get(key, Access::Name);
        if cached.is_none() {
            let fd = open()?;
            self.cache(key, Access::Name, &fd);
        }
        if self.tables().descriptors.pin(key) {
            Ok(())
        } else {
            Err(Errno::ENFILE)
        }
    }

    /// After a name went: descriptors of a file that nobody has open must not
    /// keep its blocks allocated.
    fn let_go(&self, victim: Option<FileKey>) {
        let Some(key) = victim else { return };
        let mut tables = self.tables();
        let closed = match tables.opens.is_open(key) {
            true => Vec::new(),
            false => tables.descriptors.remove(key),
        };
        drop(tables);
        drop(closed);
    }

    /// Remembers that a name was made, for the next fsync of what it names.
    fn note_made(&self, parent: &Parent<'_>) {
        let Some(name) = parent.name() else { return };
        let Ok((_, key)) = stat_leaf(parent.dir.as_fd(), name) else {
            return;
        };
        if let Ok(path) = self.root.path_of(parent.dir.as_fd()) {
            self.tables().newborn.handle_made(key, &path);
        }
    }
}
