//! Requests carried out on the host's file system. Whatever the kernel can
//! decide it decides, on the real call in the resolved directory, so that a
//! program sees the errors that Linux would give it.

mod attr;
mod data;
mod meta;
mod names;
mod open;
mod readdir;
mod resolve;
mod root;

use crate::core::descriptors::{Access, Descriptors};
use crate::core::handle::FileKey;
use crate::core::newborn::Newborn;
use crate::core::opens::Opens;
use proto::store::{StoreReply, StoreRequest};
use proto::{Errno, Identity};
use rustix::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use root::Root;

/// A shared descriptor.
pub(crate) type Fd = Arc<OwnedFd>;
/// What an operation comes to.
pub(crate) type Io<T> = Result<T, Errno>;

/// Whether a request may wait for a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Answer from the kernel's caches or fail with `EAGAIN`, having changed
    /// nothing. Only requests that change nothing heed it.
    No,
    /// As long as it takes.
    Yes,
}

/// The files under one root.
///
/// Lock order: `names` before `tables`. `tables` is never held across a call
/// that may wait; `names` is held across the look at a name and its removal,
/// so that an open file can't lose its last name unseen.
pub struct Store {
    root: Root,
    tables: Mutex<Tables>,
    names: Mutex<()>,
}

struct Tables {
    descriptors: Descriptors<Fd>,
    opens: Opens,
    newborn: Newborn,
}

impl Store {
    /// Serves `root`, keeping at most `descriptors` files open.
    ///
    /// # Errors
    /// The root can't be opened, or this kernel lacks openat2(2).
    pub fn new(root: &Path, descriptors: usize) -> std::io::Result<Store> {
        Ok(Store {
            root: Root::open(root)?,
            tables: Mutex::new(Tables {
                descriptors: Descriptors::new(descriptors),
                opens: Opens::default(),
                newborn: Newborn::default(),
            }),
            names: Mutex::new(()),
        })
    }

    /// Carries out a request of `client`. `Stats` and `Stage` are not the
    /// store's to answer.
    pub fn execute(&self, client: Identity, request: &StoreRequest, wait: Wait) -> StoreReply {
        self.dispatch(client, request, wait)
            .unwrap_or_else(StoreReply::Failed)
    }

    fn dispatch(&self, client: Identity, request: &StoreRequest, wait: Wait) -> Io<StoreReply> {
        use StoreRequest as Q;
        match request {
            Q::Open { at, flags, mode } => self.open(client, at, *flags, *mode, wait),
            Q::Close { handle } => self.close(client, handle),
            Q::StatPath { at, follow } => self.stat_path(at, *follow, wait),
            Q::Stat { handle } => self.stat(handle, wait),
            Q::Read {
                handle,
                offset,
                len,
            } => self.read(handle, *offset, *len, wait),
            Q::Write {
                handle,
                offset,
                data,
            } => self.write(handle, *offset, data),
            Q::Truncate { handle, len } => self.truncate(handle, *len),
            Q::Fallocate {
                handle,
                mode,
                offset,
                len,
            } => self.fallocate(handle, *mode, *offset, *len),
            Q::Fsync { handle, data_only } => self.fsync(handle, *data_only),
            Q::ReadDir {
                handle,
                cookie,
                max_bytes,
            } => self.read_dir(handle, *cookie, *max_bytes),
            Q::Mkdir { at, mode } => self.mkdir(at, *mode),
            Q::Mknod { at, mode } => self.mknod(at, *mode),
            Q::Unlink { at, dir } => self.unlink(at, *dir),
            Q::Rename { from, to, flags } => self.rename(from, to, *flags),
            Q::Link { from, to, follow } => self.link(from, to, *follow),
            Q::Symlink { target, at } => self.symlink(target, at),
            Q::Readlink { at } => self.readlink(at, wait),
            Q::Access { at, mode, flags } => self.access(at, *mode, *flags, wait),
            Q::Chmod { at, mode } => self.chmod(at, *mode),
            Q::Chown {
                at,
                uid,
                gid,
                follow,
            } => self.chown(at, *uid, *gid, *follow),
            Q::Utimens {
                at,
                atime,
                mtime,
                follow,
            } => self.utimens(at, *atime, *mtime, *follow),
            Q::Statfs { at } => self.statfs(at, wait),
            Q::PathOf { handle } => self.path_of(handle, wait),
            Q::Stats | Q::Stage { .. } => Err(Errno::EINVAL),
        }
    }

    /// `client` has a connection.
    pub fn handle_connected(&self, client: Identity) {
        self.tables().opens.handle_connected(client);
    }

    /// `client` has no connection any more.
    pub fn handle_gone(&self, client: Identity) {
        self.tables().opens.handle_gone(client);
    }

    /// Closes what was not used since the last sweep, and what clients left
    /// open that went and did not come back. To be called now and then.
    pub fn sweep(&self) {
        let mut tables = self.tables();
        let left = tables.opens.sweep();
        let mut closed: Vec<Fd> = left
            .into_iter()
            .flat_map(|key| tables.descriptors.remove(key))
            .collect();
        closed.extend(tables.descriptors.sweep());
        drop(tables);
        drop(closed);
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> MutexGuard<'_, ()> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a descriptor into the cache; what falls out is closed here, with
    /// no lock held.
    fn cache(&self, key: FileKey, access: Access, fd: &Fd) {
        let out = self.tables().descriptors.insert(key, access, fd.clone());
        drop(out);
    }
}
