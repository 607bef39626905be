//! The storage buffer cache: extents of files, filled from storage, read and
//! written one-sided under leases or by message, written back.
//!
//! [`crate::core::cached`] decides what is here and what is dirty; this module
//! moves the bytes. An extent is *filling* while one thread brings it; others
//! who want it wait. A file is *busy* while one thread writes it back or cuts
//! it; others who want that wait. Neither holds the file's lock while storage
//! is asked, and every wait ends within `PATIENCE`.

mod ahead;
mod fill;
mod flush;
mod room;
mod windows;

use crate::core::cached::{Cached, Dropped, MOST_SIZE};
use crate::core::ledger::Ledger;
use crate::peers::Others;
use ahead::Ahead;
use fabric::Memory;
use proto::addr::{EXTENT_SIZE, PAGE_SIZE};
use proto::mem::{FileLease, FileRef, Lease, MemReply};
use proto::store::{Attr, FileHandle, FileId, StoreReply, StoreRequest, Timespec};
use proto::wire::MAX_BULK;
use proto::{Errno, Generation, Identity, NodeId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};
use windows::Windows;

/// Longest wait for another thread's work on a file; clients wait for 5 s.
const PATIENCE: Duration = Duration::from_secs(4);
/// A writer that has made this much of one file dirty writes it back itself.
const MOST_DIRTY: u64 = 64 << 20;
/// Most extents leased in one answer beside the one that was asked for.
const MOST_MORE: u32 = 15;
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time for a file that is written now.
fn now() -> Timespec {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let sec = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timespec {
        sec,
        nsec: since.subsec_nanos(),
    }
}

/// Counters of the cache.
#[derive(Default)]
struct Counters {
    bytes: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    ahead: AtomicU64,
    granted: AtomicU64,
    revoked: AtomicU64,
    clock: AtomicU64,
}

/// A file in the cache.
struct File {
    storage: NodeId,
    id: FileId,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Shown by storage to be this file's.
    handle: FileHandle,
    cached: Cached,
    windows: Windows,
    /// A thread writes it back or cuts it.
    busy: bool,
}

impl File {
    fn name(&self) -> String {
        crate::peers::file_name(self.storage, self.id)
    }
}

impl State {
    fn reply(&self) -> MemReply {
        let (size, mtime) = (self.cached.size(), self.cached.mtime());
        MemReply::FileState {
            size,
            mtime,
            dirty: self.cached.is_dirty(),
        }
    }

    /// A lease of extent `index`, which is here, and whether it is a new one.
    fn lease(
        &mut self,
        index: u64,
        to: Identity,
        generation: Generation,
        writable: bool,
    ) -> Result<(FileLease, bool), Errno> {
        let (key, new) = self.windows.grant(index, to, writable)?;
        let size = self.cached.size();
        let lease = FileLease {
            lease: Lease {
                key,
                generation,
                writable,
            },
            valid: size.saturating_sub(index * EXTENT_SIZE).min(EXTENT_SIZE),
            size,
        };
        Ok((lease, new))
    }
}

/// See the module.
pub struct Files {
    /// This, for threads that read ahead.
    me: Weak<Files>,
    memory: Memory,
    ledger: Arc<Ledger>,
    others: Arc<dyn Others>,
    table: Mutex<HashMap<(NodeId, FileId), Arc<File>>>,
    ahead: Ahead,
    counters: Counters,
}

impl Files {
    /// An empty cache.
    pub fn new(memory: Memory, ledger: Arc<Ledger>, others: Arc<dyn Others>) -> Arc<Files> {
        Arc::new_cyclic(|me| Files {
            me: me.clone(),
            memory,
            ledger,
            others,
            table: Mutex::default(),
            ahead: Ahead::default(),
            counters: Counters::default(),
        })
    }

    fn known(&self, file: &FileRef) -> Option<Arc<File>> {
        lock(&self.table).get(&(file.storage, file.id)).cloned()
    }

    /// What storage shows under `handle`, if that is the file it is said to be:
    /// a process must not pass one file off as another.
    fn ask_attr(&self, storage: NodeId, id: FileId, handle: &FileHandle) -> Result<Attr, Errno> {
        let request = StoreRequest::Stat {
            handle: handle.clone(),
        };
        match self.others.storage(storage, &request)? {
            StoreReply::Attr(attr) if attr.id != id => Err(Errno::ESTALE),
            StoreReply::Attr(attr) if attr.mode & S_IFMT != S_IFREG => Err(Errno::EINVAL),
            StoreReply::Attr(attr) => Ok(attr),
            _ => Err(Errno::EPROTO),
        }
    }

    /// The file's entry, of the version that storage has.
    fn entry(&self, file: &FileRef) -> Result<Arc<File>, Errno> {
        let Some(entry) = self.known(file) else {
            return self.new_entry(file);
        };
        let (stale, handle) = {
            let state = lock(&entry.state);
            (state.cached.poll_stale(), state.handle.clone())
        };
        if !stale {
            return Ok(entry);
        }
        let (attr, handle) = match self.ask_attr(file.storage, file.id, &handle) {
            Err(Errno::ESTALE) => (
                self.ask_attr(file.storage, file.id, &file.handle)?,
                file.handle.clone(),
            ),
            other => (other?, handle),
        };
        let mut state = lock(&entry.state);
        state.handle = handle;
        let State {
            cached, windows, ..
        } = &mut *state;
        let dropped = cached.handle_attr(&attr, |n| windows.is_shared(n));
        self.drop_frames(&mut state, &dropped);
        drop(state);
        Ok(entry)
    }

    fn new_entry(&self, file: &FileRef) -> Result<Arc<File>, Errno> {
        let attr = self.ask_attr(file.storage, file.id, &file.handle)?;
        let made = || {
            let state = State {
                handle: file.handle.clone(),
                cached: Cached::new(&attr),
                windows: Windows::default(),
                busy: false,
            };
            let (storage, id) = (file.storage, file.id);
            Arc::new(File {
                storage,
                id,
                state: Mutex::new(state),
                changed: Condvar::new(),
            })
        };
        let mut table = lock(&self.table);
        Ok(table
            .entry((file.storage, file.id))
            .or_insert_with(made)
            .clone())
    }

    /// A client opened the file and saw `attr` at storage. It is believed as
    /// far as that storage is asked before cached data is used again.
    pub fn open(&self, file: &FileRef, attr: &Attr) -> MemReply {
        let unknown = MemReply::FileState {
            size: attr.size,
            mtime: attr.mtime,
            dirty: false,
        };
        let Some(entry) = self.known(file) else {
            return unknown;
        };
        let mut state = lock(&entry.state);
        state.cached.handle_seen(attr);
        if state.cached.poll_stale() {
            unknown
        } else {
            state.reply()
        }
    }

    /// Size and times with what is dirty here.
    ///
    /// # Errors
    /// `EIO`, `ESTALE`.
    pub fn stat(&self, file: &FileRef) -> Result<MemReply, Errno> {
        Ok(lock(&self.entry(file)?.state).reply())
    }

    /// read(2).
    ///
    /// # Errors
    /// `EIO` and what storage answered.
    pub fn read(&self, file: &FileRef, offset: u64, len: u32) -> Result<Vec<u8>, Errno> {
        let entry = self.entry(file)?;
        let len = u64::from(len).min(MAX_BULK as u64);
        let mut data = Vec::new();
        loop {
            let at = offset.saturating_add(data.len() as u64);
            if data.len() as u64 == len || at >= lock(&entry.state).cached.size() {
                return Ok(data);
            }
            let mut state = self.filled(&entry, at / EXTENT_SIZE)?;
            let left = state
                .cached
                .size()
                .saturating_sub(at)
                .min(len - data.len() as u64);
            let part = (EXTENT_SIZE - at % EXTENT_SIZE).min(left);
            let from = data.len();
            data.resize(from + part as usize, 0);
            state.windows.read(at, &mut data[from..])?;
            let ahead = state.cached.poll_ahead(at / EXTENT_SIZE..=at / EXTENT_SIZE);
            drop(state);
            self.ahead.ask(&self.me, &entry, ahead);
        }
    }

    /// write(2): where it went, and the size after it.
    ///
    /// # Errors
    /// `EIO` and what storage answered; `EFBIG`.
    pub fn write(
        &self,
        file: &FileRef,
        offset: Option<u64>,
        data: &[u8],
    ) -> Result<(u64, u64), Errno> {
        let entry = self.entry(file)?;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let at = offset.unwrap_or_else(|| lock(&entry.state).cached.size());
            let end = at
                .checked_add(data.len() as u64)
                .filter(|end| *end <= MOST_SIZE);
            let end = end.ok_or(Errno::EFBIG)?;
            if let Some(size) = self.try_write(&entry, (at, end), offset.is_none(), data)? {
                if lock(&entry.state).cached.dirty_bytes() > MOST_DIRTY {
                    self.flush(&entry)?;
                }
                return Ok((at, size));
            }
        }
        Err(Errno::EIO)
    }

    /// Writes if nothing came in between: the size after it. Else try again.
    fn try_write(
        &self,
        entry: &File,
        (at, end): (u64, u64),
        append: bool,
        data: &[u8],
    ) -> Result<Option<u64>, Errno> {
        if at < end {
            for index in at / EXTENT_SIZE..end.div_ceil(EXTENT_SIZE) {
                drop(self.filled(entry, index)?);
            }
        }
        let mut state = lock(&entry.state);
        // Appending writers come one after the other, also over a fill.
        if !state.cached.has_all(at, end) || (append && state.cached.size() != at) {
            return Ok(None);
        }
        let growth = state.cached.growth(at, end);
        if !self.take(growth) {
            drop(state);
            self.make_room(growth)?;
            return Ok(None);
        }
        // What a shared mapping left behind the end is not to be seen now.
        let size = state.cached.size();
        if at > size && state.windows.is_shared(size / EXTENT_SIZE) {
            let page = size.next_multiple_of(PAGE_SIZE);
            state.windows.zero(size..at.min(page))?;
        }
        state.cached.handle_grown(at, end);
        state.windows.write(at, data)?;
        state.cached.handle_written(at, end, now());
        Ok(Some(state.cached.size()))
    }

    /// ftruncate(2).
    ///
    /// # Errors
    /// `EIO` and what storage answered.
    pub fn truncate(&self, file: &FileRef, len: u64) -> Result<MemReply, Errno> {
        if len > MOST_SIZE {
            return Err(Errno::EFBIG);
        }
        let entry = self.entry(file)?;
        self.begin_busy(&entry)?;
        let result = self.cut(&entry, len);
        self.end_busy(&entry);
        result
    }

    fn cut(&self, entry: &File, len: u64) -> Result<MemReply, Errno> {
        let handle = lock(&entry.state).handle.clone();
        let request = StoreRequest::Truncate {
            handle: handle.clone(),
            len,
        };
        match self.others.storage(entry.storage, &request)? {
            StoreReply::Done => {}
            _ => return Err(Errno::EPROTO),
        }
        let attr = self.ask_attr(entry.storage, entry.id, &handle)?;
        let mut state = lock(&entry.state);
        let dropped = state.cached.handle_cut(len, &attr);
        self.drop_frames(&mut state, &dropped);
        Ok(state.reply())
    }

    /// Fills an extent and leases it, and up to `more` after it that are here.
    ///
    /// # Errors
    /// `ENXIO`: past the end of the file. `EIO` and what storage answered.
    pub fn lease(
        &self,
        file: &FileRef,
        index: u64,
        more: u32,
        writable: bool,
        (to, generation): (Identity, Generation),
    ) -> Result<Vec<FileLease>, Errno> {
        let entry = self.entry(file)?;
        let start = index.checked_mul(EXTENT_SIZE).ok_or(Errno::ENXIO)?;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if start >= lock(&entry.state).cached.size() {
                return Err(Errno::ENXIO);
            }
            let mut state = self.filled(&entry, index)?;
            // Growth is paid for one extent.
            let more = if writable { 0 } else { more.min(MOST_MORE) };
            let last = state.cached.ready_until(index, u64::from(more));
            let end = state.cached.size().min(start + EXTENT_SIZE);
            let growth = if writable {
                state.cached.growth(start, end)
            } else {
                0
            };
            if !self.take(growth) {
                drop(state);
                self.make_room(growth)?;
                continue;
            }
            if writable {
                state.cached.handle_grown(start, end);
            }
            let clock = self.counters.clock.load(Ordering::Relaxed);
            let mut leases = Vec::new();
            for n in index..=last {
                let (lease, new) = match state.lease(n, to, generation, writable) {
                    // What was not asked for need not be had.
                    Err(_) if n > index => break,
                    granted => granted?,
                };
                if new {
                    self.counters.granted.fetch_add(1, Ordering::Relaxed);
                    state.cached.look(n, clock);
                }
                leases.push(lease);
            }
            let given = index..=index + leases.len() as u64 - 1;
            let ahead = state.cached.poll_ahead(given);
            drop(state);
            self.ahead.ask(&self.me, &entry, ahead);
            return Ok(leases);
        }
        Err(Errno::EIO)
    }

    /// `by` wrote pages one-sided.
    ///
    /// # Errors
    /// `ESTALE`: it has no writable lease of them (any more).
    pub fn dirty(&self, file: &FileRef, pages: &[(u64, u32)], by: Identity) -> Result<(), Errno> {
        let entry = self.known(file).ok_or(Errno::ESTALE)?;
        let mut state = lock(&entry.state);
        let State {
            cached, windows, ..
        } = &mut *state;
        let mut all = true;
        for (first, count) in pages {
            let range = *first..first.saturating_add(u64::from(*count));
            all &= cached.handle_dirty(range, now(), |n| windows.may_write(n, by));
        }
        if all { Ok(()) } else { Err(Errno::ESTALE) }
    }

    /// The process is gone: it keeps no leases.
    pub fn forget(&self, who: Identity) {
        for entry in self.all() {
            let revoked = lock(&entry.state).windows.revoke_all_of(who);
            self.counters.revoked.fetch_add(revoked, Ordering::Relaxed);
        }
    }

    fn all(&self) -> Vec<Arc<File>> {
        lock(&self.table).values().cloned().collect()
    }

    /// Frees what `dropped` names.
    fn drop_frames(&self, state: &mut State, dropped: &Dropped) {
        let State {
            cached, windows, ..
        } = state;
        let mut revoked = 0;
        for index in &dropped.extents {
            revoked += windows.drop_extent(*index, cached);
        }
        if let Some((index, from)) = dropped.tail {
            revoked += windows.revoke(index);
            let start = index * EXTENT_SIZE;
            if let Err(e) = windows.zero(start + from..start + EXTENT_SIZE) {
                tracing::error!("a file's tail cannot be cleared: {e}");
            }
        }
        self.counters.revoked.fetch_add(revoked, Ordering::Relaxed);
        self.give(dropped.charge);
    }

    /// Fills in what is known here.
    pub fn report(&self, stats: &mut proto::stats::MemoryStats) {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        stats.file_cache = get(&self.counters.bytes);
        stats.storage_read = get(&self.counters.read);
        stats.storage_written = get(&self.counters.written);
        stats.read_ahead = get(&self.counters.ahead);
        stats.keys_granted += get(&self.counters.granted);
        stats.keys_revoked += get(&self.counters.revoked);
    }
}
