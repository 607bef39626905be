//! Open files at the storage component.

use super::ahead::Ahead;
use super::state::FileState;
use super::wire::{Components, Wire};
use crate::memory::FileHomes;
use fabric::{Credential, Options, Peer};
use proto::gmm::NodeInfo;
use proto::mem::{FileRef, MemReply, MemRequest};
use proto::store::{
    Attr, DirEntry, FileHandle, FileId, Location, SetTime, StatFs, StoreReply, StoreRequest,
    Timespec,
};
use proto::wire::MAX_BULK;
use proto::{Errno, NodeId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

const O_ACCMODE: u32 = 0o3;
const O_TRUNC: u32 = 0o1000;
const O_PATH: u32 = 0o10_000_000;
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;

/// The files of a process.
pub struct RemoteFiles {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    wire: Box<dyn Components>,
    storage: NodeId,
    states: Mutex<HashMap<FileId, Arc<FileState>>>,
    /// Devices of the storage component's own /proc, /sys and /dev.
    foreign: OnceLock<HashSet<u64>>,
    names: Mutex<HashMap<FileId, Vec<u8>>>,
}

/// An open file. Dropping it closes it.
pub struct RemoteFile {
    inner: Arc<Inner>,
    state: Arc<FileState>,
    file: FileRef,
    attr: Attr,
    /// The file's version here when it was opened.
    opened_at: u64,
    told: AtomicBool,
    telling: Mutex<()>,
    ahead: Mutex<Ahead>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A component answered something that is no answer to the question.
fn confused<T>(answer: &impl std::fmt::Debug) -> Result<T, Errno> {
    let short: String = format!("{answer:?}").chars().take(80).collect();
    tracing::error!("an answer that does not fit: {short}");
    Err(Errno::EPROTO)
}

impl RemoteFiles {
    /// Of a process that knows the storage component, who tells where files
    /// are cached, and its own proof of identity.
    pub fn new(
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
    pub fn report(&self, messages: &mut BTreeMap<String, u64>) {
        for (kind, n) in self.inner.wire.counts() {
            *messages.entry(kind.to_string()).or_default() += n;
        }
    }

    /// openat(2).
    ///
    /// # Errors
    /// As openat(2); `EIO` where a component does not answer.
    pub fn open(&self, at: &Location, flags: u32, mode: u32) -> Result<RemoteFile, Errno> {
        // The cached data is cut, not only storage's: see below.
        let cut = flags & O_TRUNC != 0 && flags & O_ACCMODE != 0 && flags & O_PATH == 0;
        let asked = if cut { flags & !O_TRUNC } else { flags };
        let request = StoreRequest::Open { at: at.clone(), flags: asked, mode };
        let (handle, attr, created) = match self.inner.wire.storage(&request)? {
            StoreReply::Opened { handle, attr, created } => (handle, attr, created),
            other => return confused(&other),
        };
        let file = FileRef { id: attr.id, storage: self.inner.storage, handle };
        let state = self.inner.state(&file);
        let remote = RemoteFile {
            inner: self.inner.clone(),
            opened_at: state.version(),
            state,
            file,
            attr,
            told: AtomicBool::new(false),
            telling: Mutex::default(),
            ahead: Mutex::default(),
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
    pub fn file_ref(&self, file: &RemoteFile, shared: bool) -> Result<FileRef, Errno> {
        file.tell()?;
        file.state.note_mapping(shared);
        Ok(file.file.clone())
    }

    /// pread(2).
    ///
    /// # Errors
    /// `EISDIR`, `EINVAL` (not a regular file), `EIO`, `ESTALE`.
    pub fn read_at(
        &self,
        file: &RemoteFile,
        offset: u64,
        dst: &mut [u8],
    ) -> Result<usize, Errno> {
        file.tell()?;
        // Threads that read side by side do not wait for each other's data.
        let ahead = file.ahead.try_lock().ok().filter(|_| !file.state.is_mapped_shared());
        let Some(mut ahead) = ahead else { return file.fetch_all(offset, dst) };
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
    pub fn write_at(&self, file: &RemoteFile, offset: u64, src: &[u8]) -> Result<(), Errno> {
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
    pub fn append(&self, file: &RemoteFile, src: &[u8]) -> Result<u64, Errno> {
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
    pub fn size(&self, file: &RemoteFile) -> Result<u64, Errno> {
        file.tell()?;
        Ok(self.inner.cached_state(&file.file)?.0)
    }

    /// What close(2) waits for: storage has what this process wrote.
    ///
    /// # Errors
    /// What went wrong with earlier writes.
    pub fn flush(&self, file: &RemoteFile) -> Result<(), Errno> {
        self.inner.flush(&file.state)
    }

    /// fsync(2), fdatasync(2).
    ///
    /// # Errors
    /// What went wrong with this or earlier writes.
    pub fn sync(&self, file: &RemoteFile, data_only: bool) -> Result<(), Errno> {
        if !file.is_regular() {
            let handle = file.file.handle.clone();
            return self.inner.done(&StoreRequest::Fsync { handle, data_only });
        }
        let version = file.state.version();
        let request = MemRequest::FileSync { file: file.file.clone(), data_only };
        self.inner.wire.memory(&file.file, &request)?;
        file.state.clean_at(version);
        Ok(())
    }

    /// Storage has all that this process wrote to any file.
    ///
    /// # Errors
    /// The first that came up; the rest is flushed all the same.
    pub fn flush_all(&self) -> Result<(), Errno> {
        let states: Vec<Arc<FileState>> = lock(&self.inner.states).values().cloned().collect();
        let results: Vec<Result<(), Errno>> =
            states.iter().map(|state| self.inner.flush(state)).collect();
        results.into_iter().collect()
    }

    /// ftruncate(2).
    ///
    /// # Errors
    /// As ftruncate(2), `EIO`, `ESTALE`.
    pub fn truncate(&self, file: &RemoteFile, len: u64) -> Result<(), Errno> {
        file.tell()?;
        let request = MemRequest::FileTruncate { file: file.file.clone(), len };
        file.change(&request).map(|_| ())
    }

    /// fallocate(2): by storage, once it has everything.
    ///
    /// # Errors
    /// As fallocate(2), `EIO`, `ESTALE`.
    pub fn fallocate(
        &self,
        file: &RemoteFile,
        mode: u32,
        offset: u64,
        len: u64,
    ) -> Result<(), Errno> {
        self.inner.flush(&file.state)?;
        let handle = file.file.handle.clone();
        let done =
            self.inner.done(&StoreRequest::Fallocate { handle: handle.clone(), mode, offset, len });
        file.state.end_change();
        done?;
        // Size and content may be others now: the cache learns of the version.
        let attr = self.inner.attr(&StoreRequest::Stat { handle })?;
        let request = MemRequest::FileOpen { file: file.file.clone(), attr };
        self.inner.wire.memory(&file.file, &request).map(|_| ())
    }

    /// fstat(2).
    ///
    /// # Errors
    /// `EIO`, `ESTALE`.
    pub fn stat(&self, file: &RemoteFile) -> Result<Attr, Errno> {
        let handle = file.file.handle.clone();
        self.inner.with_cached(self.inner.attr(&StoreRequest::Stat { handle })?)
    }

    /// stat(2), lstat(2).
    ///
    /// # Errors
    /// As stat(2), `EIO`.
    pub fn stat_path(&self, at: &Location, follow: bool) -> Result<Attr, Errno> {
        let request = StoreRequest::StatPath { at: at.clone(), follow };
        self.inner.with_cached(self.inner.attr(&request)?)
    }

    /// getdents64(2): entries after `cookie`, and whether nothing follows.
    ///
    /// # Errors
    /// `ENOTDIR`, `EIO`, `ESTALE`.
    pub fn read_dir(
        &self,
        file: &RemoteFile,
        cookie: u64,
        max_bytes: u32,
    ) -> Result<(Vec<DirEntry>, bool), Errno> {
        let handle = file.file.handle.clone();
        match self.inner.wire.storage(&StoreRequest::ReadDir { handle, cookie, max_bytes })? {
            StoreReply::Entries { entries, end } => Ok((entries, end)),
            other => confused(&other),
        }
    }

    /// utimensat(2): after what was written, whose time it is not to be.
    ///
    /// # Errors
    /// As utimensat(2), `EIO`.
    pub fn utimens(
        &self,
        at: &Location,
        atime: SetTime,
        mtime: SetTime,
        follow: bool,
    ) -> Result<(), Errno> {
        if lock(&self.inner.states).values().any(|state| state.is_dirty()) {
            let request = StoreRequest::StatPath { at: at.clone(), follow };
            let id = self.inner.attr(&request)?.id;
            let state = lock(&self.inner.states).get(&id).cloned();
            state.map_or(Ok(()), |state| self.inner.flush(&state))?;
        }
        self.change(&StoreRequest::Utimens { at: at.clone(), atime, mtime, follow })
    }

    /// A request that is answered with `Done`.
    ///
    /// # Errors
    /// What the storage component answered, `EIO`.
    pub fn change(&self, request: &StoreRequest) -> Result<(), Errno> {
        self.inner.done(request)
    }

    /// readlinkat(2).
    ///
    /// # Errors
    /// As readlinkat(2), `EIO`.
    pub fn readlink(&self, at: &Location) -> Result<Vec<u8>, Errno> {
        self.inner.data(&StoreRequest::Readlink { at: at.clone() })
    }

    /// The absolute path of a handle.
    ///
    /// # Errors
    /// `ENOENT` (removed), `ESTALE`, `EIO`.
    pub fn path_of(&self, handle: &FileHandle) -> Result<Vec<u8>, Errno> {
        self.inner.data(&StoreRequest::PathOf { handle: handle.clone() })
    }

    /// The path of a mapped file when it was first asked for; empty if it has none.
    pub fn path_of_mapping(&self, file: &FileRef) -> Vec<u8> {
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
    pub fn statfs(&self, at: &Location) -> Result<StatFs, Errno> {
        match self.inner.wire.storage(&StoreRequest::Statfs { at: at.clone() })? {
            StoreReply::StatFs(statfs) => Ok(statfs),
            other => confused(&other),
        }
    }

    /// Whether files of `device` are those of the storage component's own
    /// /proc, /sys or /dev.
    pub fn is_foreign_device(&self, device: u64) -> bool {
        let inner = &self.inner;
        inner.foreign.get_or_init(|| inner.find_foreign()).contains(&device)
    }
}

impl Inner {
    fn state(&self, file: &FileRef) -> Arc<FileState> {
        let mut states = lock(&self.states);
        let state =
            states.entry(file.id).or_insert_with(|| Arc::new(FileState::new(file.clone())));
        state.renew(file.clone());
        state.clone()
    }

    fn done(&self, request: &StoreRequest) -> Result<(), Errno> {
        match self.wire.storage(request)? {
            StoreReply::Done => Ok(()),
            other => confused(&other),
        }
    }

    fn data(&self, request: &StoreRequest) -> Result<Vec<u8>, Errno> {
        match self.wire.storage(request)? {
            StoreReply::Data(data) => Ok(data),
            other => confused(&other),
        }
    }

    fn attr(&self, request: &StoreRequest) -> Result<Attr, Errno> {
        match self.wire.storage(request)? {
            StoreReply::Attr(attr) => Ok(attr),
            other => confused(&other),
        }
    }

    /// Size and modification time at the memory component.
    fn cached_state(&self, file: &FileRef) -> Result<(u64, Timespec), Errno> {
        match self.wire.memory(file, &MemRequest::FileStat { file: file.clone() })? {
            MemReply::FileState { size, mtime, .. } => Ok((size, mtime)),
            other => confused(&other),
        }
    }

    /// What storage tells, corrected by what this process wrote since.
    fn with_cached(&self, mut attr: Attr) -> Result<Attr, Errno> {
        let state = lock(&self.states).get(&attr.id).cloned();
        if let Some(state) = state.filter(|state| state.is_dirty()) {
            let (size, mtime) = self.cached_state(&state.file())?;
            attr.size = size;
            attr.mtime = attr.mtime.max(mtime);
        }
        Ok(attr)
    }

    fn flush(&self, state: &FileState) -> Result<(), Errno> {
        if !state.is_dirty() && !state.is_mapped_shared() {
            return Ok(());
        }
        let (version, file) = (state.version(), state.file());
        let result = self.wire.memory(&file, &MemRequest::FileClose { file: file.clone() });
        // An error is told once; what could not be written will not be later.
        state.clean_at(version);
        result.map(|_| ())
    }

    fn find_foreign(&self) -> HashSet<u64> {
        let device = |path: &[u8]| {
            let at = Location { dir: None, path: path.to_vec() };
            self.attr(&StoreRequest::StatPath { at, follow: true }).ok().map(|a| a.id.dev)
        };
        let root = device(b"/");
        let all = [&b"/proc"[..], b"/sys", b"/dev"].into_iter().filter_map(device);
        all.filter(|dev| Some(*dev) != root).collect()
    }
}

impl RemoteFile {
    /// Its handle.
    pub fn handle(&self) -> FileHandle {
        self.file.handle.clone()
    }

    /// Its attributes when it was opened.
    pub fn attr_at_open(&self) -> &Attr {
        &self.attr
    }

    /// Which file it is.
    pub fn id(&self) -> FileId {
        self.file.id
    }

    /// The storage component that serves it.
    pub fn storage(&self) -> NodeId {
        self.file.storage
    }

    fn is_regular(&self) -> bool {
        self.attr.mode & S_IFMT == S_IFREG
    }

    /// Tells the cache, before the first look at data, which version was
    /// opened. If this process has changed the file since, the cache knows
    /// better than these attributes.
    fn tell(&self) -> Result<(), Errno> {
        if self.told.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one = lock(&self.telling);
        if self.told.load(Ordering::Acquire) {
            return Ok(());
        }
        if !self.is_regular() {
            return Err(if self.attr.mode & S_IFMT == 0o040_000 {
                Errno::EISDIR
            } else {
                Errno::EINVAL
            });
        }
        if self.state.version() == self.opened_at && !self.state.is_dirty() {
            let (file, attr) = (self.file.clone(), self.attr.clone());
            self.inner.wire.memory(&self.file, &MemRequest::FileOpen { file, attr })?;
        }
        self.told.store(true, Ordering::Release);
        Ok(())
    }

    fn fetch(&self, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let len = len.min(MAX_BULK);
        let file = self.file.clone();
        let request = MemRequest::FileRead { file, offset, len: len as u32 };
        match self.inner.wire.memory(&self.file, &request)? {
            MemReply::Data(data) if data.len() <= len => Ok(data),
            other => confused(&other),
        }
    }

    fn fetch_all(&self, offset: u64, dst: &mut [u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < dst.len() {
            let asked = (dst.len() - done).min(MAX_BULK);
            let data = self.fetch(offset + done as u64, asked)?;
            dst[done..done + data.len()].copy_from_slice(&data);
            done += data.len();
            if data.len() < asked {
                break;
            }
        }
        Ok(done)
    }

    fn write(&self, offset: Option<u64>, data: &[u8]) -> Result<u64, Errno> {
        self.tell()?;
        let (file, data) = (self.file.clone(), data.to_vec());
        match self.change(&MemRequest::FileWrite { file, offset, data })? {
            MemReply::Written { offset, .. } => Ok(offset),
            other => confused(&other),
        }
    }

    fn change(&self, request: &MemRequest) -> Result<MemReply, Errno> {
        self.state.begin_change();
        let reply = self.inner.wire.memory(&self.file, request);
        self.state.end_change();
        reply
    }
}

impl Drop for RemoteFile {
    fn drop(&mut self) {
        let last = {
            let mut states = lock(&self.inner.states);
            // The map's and ours: clones are made under the lock.
            let last = Arc::strong_count(&self.state) == 2;
            if last && !self.state.is_dirty() && !self.state.is_mapped_shared() {
                states.remove(&self.file.id);
            }
            last
        };
        if last && self.state.is_dirty() {
            if let Err(e) = self.inner.flush(&self.state) {
                tracing::error!("writing a file back when it was closed: {e}");
            }
            lock(&self.inner.states).remove(&self.file.id);
        }
        // A mapping outlives the descriptor it was made from.
        if !self.state.is_mapped() {
            let _ = self.inner.wire.storage(&StoreRequest::Close { handle: self.handle() });
        }
    }
}

impl std::fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RemoteFile({:?})", self.file.id)
    }
}
