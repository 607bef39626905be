//! The files of a process at the storage component.

use super::file::RemoteFile;
use super::inner::{Inner, confused, lock};
use super::state::FileState;
use super::window::Window;
use super::wire::{Components, Wire};
use crate::memory::FileHomes;
use fabric::{Credential, Options, Peer};
use proto::gmm::NodeInfo;
use proto::mem::{FileRef, MemRequest};
use proto::store::{
    Attr, DirEntry, FileHandle, Location, SetTime, StatFs, StoreReply, StoreRequest,
};
use proto::wire::MAX_BULK;
use proto::{Errno, NodeId};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

const O_ACCMODE: u32 = 0o3;
const O_TRUNC: u32 = 0o1000;
const O_PATH: u32 = 0o10_000_000;

/// The files of a process.
pub(crate) struct RemoteFiles {
    inner: Arc<Inner>,
}

impl RemoteFiles {
    /// Of a process that knows the storage component, who tells where files
    /// are cached, and its own proof of identity.
    pub(crate) fn new(
        storage: &NodeInfo,
        peer: Peer,
        homes: Arc<dyn FileHomes>,
        credential: Credential,
        options: Options,
    ) -> RemoteFiles {
        let wire = Wire::new(storage, peer, homes, credential, options);
        RemoteFiles::over(Box::new(wire), storage.id)
    }

    pub(super) fn over(wire: Box<dyn Components>, storage: NodeId) -> RemoteFiles {
        RemoteFiles {
            inner: Arc::new(Inner {
                wire,
                storage,
                states: Mutex::default(),
                foreign: OnceLock::new(),
                names: Mutex::default(),
            }),
        }
    }

    /// Adds the messages sent, by kind.
    pub(crate) fn report(&self, messages: &mut BTreeMap<String, u64>) {
        for (kind, n) in self.inner.wire.counts() {
            *messages.entry(kind.to_string()).or_default() += n;
        }
    }

    /// openat(2).
    ///
    /// # Errors
    /// As openat(2); `EIO` where a component does not answer.
    pub(crate) fn open(&self, at: &Location, flags: u32, mode: u32) -> Result<RemoteFile, Errno> {
        // The cached data is cut, not only storage's: see below.
        let cut = flags & O_TRUNC != 0 && flags & O_ACCMODE != 0 && flags & O_PATH == 0;
        let asked = if cut { flags & !O_TRUNC } else { flags };
        let request = StoreRequest::Open {
            at: at.clone(),
            flags: asked,
            mode,
        };
        let (handle, attr, created) = match self.inner.wire.storage(&request)? {
            StoreReply::Opened {
                handle,
                attr,
                created,
            } => (handle, attr, created),
            other => return confused(&other),
        };
        let file = FileRef {
            id: attr.id,
            storage: self.inner.storage,
            handle,
        };
        let state = self.inner.state(&file);
        let remote = RemoteFile {
            inner: self.inner.clone(),
            state,
            file,
            attr,
            told: AtomicBool::new(false),
            telling: Mutex::default(),
            ahead: Mutex::default(),
            window: Window::default(),
        };
        if cut && !created && remote.is_regular() {
            self.truncate(&remote, 0)?;
        }
        Ok(remote)
    }

    /// What mappings need. `shared`: stores to memory may change the file.
    ///
    /// # Errors
    /// `EIO` where a component does not answer.
    pub(crate) fn file_ref(&self, file: &RemoteFile, shared: bool) -> Result<FileRef, Errno> {
        file.tell()?;
        file.state.note_mapping(shared);
        Ok(file.file.clone())
    }

    /// pread(2).
    ///
    /// # Errors
    /// `EISDIR`, `EINVAL` (not a regular file), `EIO`, `ESTALE`.
    pub(crate) fn read_at(
        &self,
        file: &RemoteFile,
        offset: u64,
        dst: &mut [u8],
    ) -> Result<usize, Errno> {
        file.tell()?;
        // Threads that read side by side do not wait for each other's data.
        let ahead = file
            .ahead
            .try_lock()
            .ok()
            .filter(|_| !file.state.is_mapped_shared());
        let Some(mut ahead) = ahead else {
            return file.fetch_all(offset, dst);
        };
        let mut done = 0;
        while done < dst.len() {
            let at = offset + done as u64;
            let version = file.state.version();
            if let Some(served) = ahead.serve(version, at, &mut dst[done..]) {
                done += served.len;
                if served.ends {
                    break;
                }
                continue;
            }
            let want = dst.len() - done;
            let asked = ahead.plan(at, want);
            let data = file.fetch(at, asked)?;
            let used = data.len().min(want);
            dst[done..done + used].copy_from_slice(&data[..used]);
            let short = data.len() < asked;
            ahead.keep(version, at, data, asked, used);
            done += used;
            if short {
                break;
            }
        }
        Ok(done)
    }

    /// pwrite(2): all of it.
    ///
    /// # Errors
    /// As pwrite(2), `EIO`, `ESTALE`; a part may have been written.
    pub(crate) fn write_at(&self, file: &RemoteFile, offset: u64, src: &[u8]) -> Result<(), Errno> {
        let mut at = offset;
        for data in src.chunks(MAX_BULK) {
            file.write(Some(at), data)?;
            at += data.len() as u64;
        }
        Ok(())
    }

    /// `O_APPEND`: where the first byte went. Atomic up to [`MAX_BULK`] bytes.
    ///
    /// # Errors
    /// As [`RemoteFiles::write_at`].
    pub(crate) fn append(&self, file: &RemoteFile, src: &[u8]) -> Result<u64, Errno> {
        let mut start = None;
        for data in src.chunks(MAX_BULK) {
            let at = file.write(None, data)?;
            start = start.or(Some(at));
        }
        start.map_or_else(|| self.size(file), Ok)
    }

    /// The size, with what has not reached storage.
    ///
    /// # Errors
    /// `EIO`, `ESTALE`.
    pub(crate) fn size(&self, file: &RemoteFile) -> Result<u64, Errno> {
        file.tell()?;
        Ok(self.inner.cached_state(&file.file)?.0)
    }

    /// What close(2) waits for: storage has what this process wrote.
    ///
    /// # Errors
    /// What went wrong with earlier writes.
    pub(crate) fn flush(&self, file: &RemoteFile) -> Result<(), Errno> {
        self.inner.flush(&file.state)
    }

    /// fsync(2), fdatasync(2).
    ///
    /// # Errors
    /// What went wrong with this or earlier writes.
    pub(crate) fn sync(&self, file: &RemoteFile, data_only: bool) -> Result<(), Errno> {
        if !file.is_regular() {
            let handle = file.file.handle.clone();
            return self.inner.done(&StoreRequest::Fsync { handle, data_only });
        }
        let version = file.state.version();
        let request = MemRequest::FileSync {
            file: file.file.clone(),
            data_only,
        };
        self.inner.wire.memory(&file.file, &request)?;
        file.state.clean_at(version);
        Ok(())
    }

    /// Storage has all that this process wrote to any file.
    ///
    /// # Errors
    /// The first that came up; the rest is flushed all the same.
    pub(crate) fn flush_all(&self) -> Result<(), Errno> {
        let states: Vec<Arc<FileState>> = lock(&self.inner.states).values().cloned().collect();
        let results: Vec<Result<(), Errno>> =
            states.iter().map(|state| self.inner.flush(state)).collect();
        results.into_iter().collect()
    }

    /// ftruncate(2).
    ///
    /// # Errors
    /// As ftruncate(2), `EIO`, `ESTALE`.
    pub(crate) fn truncate(&self, file: &RemoteFile, len: u64) -> Result<(), Errno> {
        file.tell()?;
        let request = MemRequest::FileTruncate {
            file: file.file.clone(),
            len,
        };
        file.change(&request).map(|_| ())
    }

    /// fallocate(2): by storage, once it has everything.
    ///
    /// # Errors
    /// As fallocate(2), `EIO`, `ESTALE`.
    pub(crate) fn fallocate(
        &self,
        file: &RemoteFile,
        mode: u32,
        offset: u64,
        len: u64,
    ) -> Result<(), Errno> {
        self.inner.flush(&file.state)?;
        let handle = file.file.handle.clone();
        let done = self.inner.done(&StoreRequest::Fallocate {
            handle: handle.clone(),
            mode,
            offset,
            len,
        });
        file.state.end_change();
        done?;
        // Size and content may be others now: the cache learns of the version.
        let attr = self.inner.attr(&StoreRequest::Stat { handle })?;
        let request = MemRequest::FileOpen {
            file: file.file.clone(),
            attr,
        };
        self.inner.wire.memory(&file.file, &request).map(|_| ())
    }

    /// fstat(2).
    ///
    /// # Errors
    /// `EIO`, `ESTALE`.
    pub(crate) fn stat(&self, file: &RemoteFile) -> Result<Attr, Errno> {
        let handle = file.file.handle.clone();
        self.inner
            .with_cached(self.inner.attr(&StoreRequest::Stat { handle })?)
    }

    /// stat(2), lstat(2).
    ///
    /// # Errors
    /// As stat(2), `EIO`.
    pub(crate) fn stat_path(&self, at: &Location, follow: bool) -> Result<Attr, Errno> {
        let request = StoreRequest::StatPath {
            at: at.clone(),
            follow,
        };
        self.inner.with_cached(self.inner.attr(&request)?)
    }

    /// getdents64(2): entries after `cookie`, and whether nothing follows.
    ///
    /// # Errors
    /// `ENOTDIR`, `EIO`, `ESTALE`.
    pub(crate) fn read_dir(
        &self,
        file: &RemoteFile,
        cookie: u64,
        max_bytes: u32,
    ) -> Result<(Vec<DirEntry>, bool), Errno> {
        let handle = file.file.handle.clone();
        match self.inner.wire.storage(&StoreRequest::ReadDir {
            handle,
            cookie,
            max_bytes,
        })? {
            StoreReply::Entries { entries, end } => Ok((entries, end)),
            other => confused(&other),
        }
    }

    /// utimensat(2): after what was written, whose time it is not to be.
    ///
    /// # Errors
    /// As utimensat(2), `EIO`.
    pub(crate) fn utimens(
        &self,
        at: &Location,
        atime: SetTime,
        mtime: SetTime,
        follow: bool,
    ) -> Result<(), Errno> {
        if lock(&self.inner.states)
            .values()
            .any(|state| state.is_dirty())
        {
            let request = StoreRequest::StatPath {
                at: at.clone(),
                follow,
            };
            let id = self.inner.attr(&request)?.id;
            let state = lock(&self.inner.states).get(&id).cloned();
            state.map_or(Ok(()), |state| self.inner.flush(&state))?;
        }
        self.change(&StoreRequest::Utimens {
            at: at.clone(),
            atime,
            mtime,
            follow,
        })
    }

    /// A request that is answered with `Done`.
    ///
    /// # Errors
    /// What the storage component answered, `EIO`.
    pub(crate) fn change(&self, request: &StoreRequest) -> Result<(), Errno> {
        self.inner.done(request)
    }

    /// readlinkat(2).
    ///
    /// # Errors
    /// As readlinkat(2), `EIO`.
    pub(crate) fn readlink(&self, at: &Location) -> Result<Vec<u8>, Errno> {
        self.inner.data(&StoreRequest::Readlink { at: at.clone() })
    }

    /// The absolute path of a handle.
    ///
    /// # Errors
    /// `ENOENT` (removed), `ESTALE`, `EIO`.
    pub(crate) fn path_of(&self, handle: &FileHandle) -> Result<Vec<u8>, Errno> {
        self.inner.data(&StoreRequest::PathOf {
            handle: handle.clone(),
        })
    }

    /// The path of a mapped file when it was first asked for; empty if it has none.
    pub(crate) fn path_of_mapping(&self, file: &FileRef) -> Vec<u8> {
        if let Some(path) = lock(&self.inner.names).get(&file.id) {
            return path.clone();
        }
        let path = self.path_of(&file.handle).unwrap_or_default();
        lock(&self.inner.names).insert(file.id, path.clone());
        path
    }

    /// statfs(2).
    ///
    /// # Errors
    /// As statfs(2), `EIO`.
    pub(crate) fn statfs(&self, at: &Location) -> Result<StatFs, Errno> {
        match self
            .inner
            .wire
            .storage(&StoreRequest::Statfs { at: at.clone() })?
        {
            StoreReply::StatFs(statfs) => Ok(statfs),
            other => confused(&other),
        }
    }

    /// Whether files of `device` are those of the storage component's own
    /// /proc, /sys or /dev.
    pub(crate) fn is_foreign_device(&self, device: u64) -> bool {
        let inner = &self.inner;
        inner
            .foreign
            .get_or_init(|| inner.find_foreign())
            .contains(&device)
    }
}
