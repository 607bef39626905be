//! What this process knows of a file it has open, however often and under
//! whatever names.

use proto::mem::FileRef;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Shared by every open file of one inode.
#[derive(Debug)]
pub(super) struct FileState {
    file: Mutex<FileRef>,
    version: AtomicU64,
    dirty: AtomicBool,
    mapped: AtomicBool,
    mapped_shared: AtomicBool,
}

impl FileState {
    pub(super) fn new(file: FileRef) -> FileState {
        FileState {
            file: Mutex::new(file),
            version: AtomicU64::new(0),
            dirty: AtomicBool::new(false),
            mapped: AtomicBool::new(false),
            mapped_shared: AtomicBool::new(false),
        }
    }

    fn file_mut(&self) -> MutexGuard<'_, FileRef> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file under its latest handle.
    pub(super) fn file(&self) -> FileRef {
        self.file_mut().clone()
    }

    /// It was opened again: an older handle may name it by a path it no longer has.
    pub(super) fn renew(&self, file: FileRef) {
        *self.file_mut() = file;
    }

    /// How often this process has changed it.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// A change begins: the memory component may hold data that storage does not.
    pub(super) fn begin_change(&self) {
        self.dirty.store(true, Ordering::Release);
    }

    /// A change is over, done or not: what was read before is old. After it,
    /// not before: a reader may have fetched the old data in between.
    pub(super) fn end_change(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether storage may lack something that this process wrote.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    /// Storage has all that was written up to `version`.
    pub(super) fn clean_at(&self, version: u64) {
        if self.version() == version {
            self.dirty.store(false, Ordering::Release);
        }
    }

    /// A mapping of it was made.
    pub(super) fn note_mapping(&self, writes: bool) {
        self.mapped.store(true, Ordering::Release);
        if writes {
            self.mapped_shared.store(true, Ordering::Release);
        }
    }

    /// Whether it has ever been mapped: its handle must stay good.
    pub(super) fn is_mapped(&self) -> bool {
        self.mapped.load(Ordering::Acquire)
    }

    /// Whether it may change by stores to memory: nothing is buffered here.
    pub(super) fn is_mapped_shared(&self) -> bool {
        self.mapped_shared.load(Ordering::Acquire)
    }
}
