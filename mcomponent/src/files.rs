//! The storage buffer cache: extents of files, filled from storage, read and
//! written one-sided under leases or by message, written back.
//!
//! An extent is *filling* while one thread brings it; others who want it wait.
//! A file is *flushing* while one thread writes it back; others who want it
//! flushed wait. Neither holds the file's lock while storage is asked.

mod fill;
mod flush;
mod state;

use crate::core::ledger::Ledger;
use crate::peers::Others;
use crate::spaces::Reclaim;
use fabric::{Access, Memory};
use proto::addr::EXTENT_SIZE;
use proto::mem::{FileLease, FileRef, Lease, MemReply};
use proto::store::{Attr, FileId};
use proto::wire::MAX_BULK;
use proto::{Errno, Generation, Identity, NodeId};
use state::{File, Fill, State};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest wait for another thread's work on a file.
const PATIENCE: Duration = Duration::from_secs(20);
/// A writer that has made this much of one file dirty writes it back itself.
const MOST_DIRTY: u64 = 64 << 20;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counters of the cache.
#[derive(Default)]
pub(crate) struct Counters {
    bytes: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    ahead: AtomicU64,
    clock: AtomicU64,
}

/// See the module.
pub struct Files {
    memory: Memory,
    ledger: Arc<Ledger>,
    others: Arc<dyn Others>,
    table: Mutex<HashMap<(NodeId, FileId), Arc<File>>>,
    pub(crate) counters: Counters,
}

impl Files {
    /// An empty cache.
    pub fn new(memory: Memory, ledger: Arc<Ledger>, others: Arc<dyn Others>) -> Files {
        Files {
            memory,
            ledger,
            others,
            table: Mutex::default(),
            counters: Counters::default(),
        }
    }

    fn known(&self, file: &FileRef) -> Option<Arc<File>> {
        lock(&self.table).get(&(file.storage, file.id)).cloned()
    }

    /// The file's entry; one that is not there is made with what storage says.
    fn entry(&self, file: &FileRef) -> Result<Arc<File>, Errno> {
        if let Some(entry) = self.known(file) {
            return Ok(entry);
        }
        let attr = self.ask_attr(file)?;
        Ok(self.entry_of(file, &attr))
    }

    fn entry_of(&self, file: &FileRef, attr: &Attr) -> Arc<File> {
        let mut table = lock(&self.table);
        let made = || {
            Arc::new(File {
                of: file.clone(),
                state: Mutex::new(State::new(file.handle.clone(), attr)),
                changed: Condvar::new(),
            })
        };
        table
            .entry((file.storage, file.id))
            .or_insert_with(made)
            .clone()
    }

    /// A client opened the file and saw `attr` at storage.
    pub fn open(&self, file: &FileRef, attr: &Attr) -> MemReply {
        let entry = self.entry_of(file, attr);
        let mut state = lock(&entry.state);
        state.handle = file.handle.clone();
        if !state.is_dirty() && !state.is_version(attr) {
            let freed = state.forget(0);
            self.release(freed);
            state.set_version(attr);
        }
        state.reply()
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
        let size = lock(&entry.state).size;
        let len = u64::from(len)
            .min(MAX_BULK as u64)
            .min(size.saturating_sub(offset));
        let mut data = vec![0; len as usize];
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let part = (EXTENT_SIZE - at % EXTENT_SIZE).min(len - done);
            let state = self.filled(&entry, at / EXTENT_SIZE, Fill::Whole)?;
            state.read(at, &mut data[done as usize..(done + part) as usize])?;
            done += part;
        }
        Ok(data)
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
        // Appending writers come one after the other, also over a fill.
        let begun = Instant::now();
        let at = loop {
            let at = offset.unwrap_or_else(|| lock(&entry.state).size);
            let end = at.checked_add(data.len() as u64).ok_or(Errno::EFBIG)?;
            for index in at / EXTENT_SIZE..end.div_ceil(EXTENT_SIZE) {
                let over = Fill::unless_overwritten(index, at, end);
                drop(self.filled(&entry, index, over)?);
            }
            let mut state = lock(&entry.state);
            let still = offset.is_some() || state.size == at;
            if still && state.has_all(at, end) {
                state.write(at, data)?;
                break at;
            }
            if begun.elapsed() > PATIENCE {
                return Err(Errno::EIO);
            }
        };
        let (size, dirty) = {
            let state = lock(&entry.state);
            (state.size, state.dirty_bytes())
        };
        if dirty > MOST_DIRTY {
            self.flush(&entry)?;
        }
        Ok((at, size))
    }

    /// ftruncate(2).
    ///
    /// # Errors
    /// `EIO` and what storage answered.
    pub fn truncate(&self, file: &FileRef, len: u64) -> Result<MemReply, Errno> {
        let entry = self.entry(file)?;
        self.flush(&entry)?;
        let handle = file.handle.clone();
        self.others.storage(
            file.storage,
            &proto::store::StoreRequest::Truncate { handle, len },
        )?;
        let attr = self.ask_attr(file)?;
        let mut state = lock(&entry.state);
        let freed = state.cut(len);
        self.release(freed);
        state.set_version(&attr);
        state.size = len;
        Ok(state.reply())
    }

    /// fsync(2).
    ///
    /// # Errors
    /// What went wrong with any write since the last call.
    pub fn sync(&self, file: &FileRef, data_only: bool) -> Result<MemReply, Errno> {
        let reply = self.close(file)?;
        let handle = file.handle.clone();
        let request = proto::store::StoreRequest::Fsync { handle, data_only };
        self.others.storage(file.storage, &request)?;
        Ok(reply)
    }

    /// Writes back what is dirty.
    ///
    /// # Errors
    /// What went wrong with any write since the last call.
    pub fn close(&self, file: &FileRef) -> Result<MemReply, Errno> {
        let Some(entry) = self.known(file) else {
            return Ok(MemReply::Done);
        };
        self.flush(&entry)?;
        let mut state = lock(&entry.state);
        match state.error.take() {
            Some(e) => Err(e),
            None => Ok(state.reply()),
        }
    }

    /// Fills an extent and leases it.
    ///
    /// # Errors
    /// `EIO` and what storage answered.
    pub fn lease(
        self: &Arc<Self>,
        file: &FileRef,
        index: u64,
        writable: bool,
        to: Identity,
        generation: Generation,
    ) -> Result<FileLease, Errno> {
        if index > u64::MAX / EXTENT_SIZE - 1 {
            return Err(Errno::EFBIG);
        }
        let entry = self.entry(file)?;
        let mut state = self.filled(&entry, index, Fill::Whole)?;
        let access = if writable {
            Access::ReadWrite
        } else {
            Access::Read
        };
        let key = state.grant(index, to, access)?;
        let start = index * EXTENT_SIZE;
        let lease = FileLease {
            lease: Lease {
                key,
                generation,
                writable,
            },
            valid: state.size.saturating_sub(start).min(EXTENT_SIZE),
            size: state.size,
        };
        let ahead = state.ahead_of(index);
        drop(state);
        if let Some(ahead) = ahead {
            self.fill_ahead(&entry, ahead);
        }
        Ok(lease)
    }

    /// Pages were written one-sided.
    ///
    /// # Errors
    /// `ESTALE`: the extent is not cached (any more).
    pub fn dirty(&self, file: &FileRef, pages: &[(u64, u32)]) -> Result<(), Errno> {
        let entry = self.known(file).ok_or(Errno::ESTALE)?;
        let mut state = lock(&entry.state);
        pages
            .iter()
            .for_each(|(first, count)| state.mark(*first, u64::from(*count)));
        Ok(())
    }

    /// Writes back every file that has been dirty since the last call.
    pub fn flush_all(&self) {
        let all: Vec<Arc<File>> = lock(&self.table).values().cloned().collect();
        for entry in all {
            if lock(&entry.state).is_dirty() {
                if let Err(e) = self.flush(&entry) {
                    tracing::warn!("{} cannot be written back: {e}", entry.name());
                }
            }
        }
    }

    fn release(&self, bytes: u64) {
        self.ledger.give(bytes);
        self.counters.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Fills in what is known here.
    pub fn report(&self, stats: &mut proto::stats::MemoryStats) {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        stats.file_cache = get(&self.counters.bytes);
        stats.storage_read = get(&self.counters.read);
        stats.storage_written = get(&self.counters.written);
        stats.read_ahead = get(&self.counters.ahead);
    }
}

impl Reclaim for Files {
    /// Gives up clean extents, the least recently used first.
    fn reclaim(&self, bytes: u64) -> u64 {
        let all: Vec<Arc<File>> = lock(&self.table).values().cloned().collect();
        let mut candidates: Vec<(u64, u64, Arc<File>)> = Vec::new();
        for file in all {
            let Ok(state) = file.state.try_lock() else {
                continue;
            };
            candidates.extend(
                state
                    .clean()
                    .map(|(used, index)| (used, index, file.clone())),
            );
        }
        candidates.sort_unstable_by_key(|(used, ..)| *used);
        let mut freed = 0;
        for (_, index, file) in candidates {
            if freed >= bytes {
                break;
            }
            if let Ok(mut state) = file.state.try_lock() {
                let n = state.give_up(index);
                self.release(n);
                freed += n;
            }
        }
        freed
    }
}
