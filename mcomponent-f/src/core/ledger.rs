//! How many bytes of the component are spoken for.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes promised to processes and bytes of cached files; their sum never
/// passes the capacity.
#[derive(Debug)]
pub struct Ledger {
    capacity: u64,
    /// What processes may not take: without it no file could be read, not even
    /// a program's own text.
    for_files: u64,
    taken: AtomicU64,
    by_processes: AtomicU64,
}

/// The files' share: a sixteenth, at least this.
const LEAST_FOR_FILES: u64 = 8 << 20;

impl Ledger {
    /// With nothing taken.
    #[must_use]
    pub fn new(capacity: u64) -> Ledger {
        Ledger {
            capacity,
            for_files: (capacity / 16).max(LEAST_FOR_FILES).min(capacity / 2),
            taken: AtomicU64::new(0),
            by_processes: AtomicU64::new(0),
        }
    }

    /// Takes `bytes` for a process, all or nothing; the files' share stays.
    #[must_use]
    pub fn take_for_process(&self, bytes: u64) -> bool {
        let most = self.capacity - self.for_files;
        let more = |now: u64| now.checked_add(bytes).filter(|sum| *sum <= most);
        let order = Ordering::SeqCst;
        if self.by_processes.fetch_update(order, order, more).is_err() {
            return false;
        }
        let taken = self.take(bytes);
        if !taken {
            self.by_processes.fetch_sub(bytes, order);
        }
        taken
    }

    /// Gives a process's `bytes` back.
    pub fn give_of_process(&self, bytes: u64) {
        let less = |now: u64| Some(now.saturating_sub(bytes));
        let _ = self.by_processes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        self.give(bytes);
    }

    /// Takes `bytes`, all or nothing.
    #[must_use]
    pub fn take(&self, bytes: u64) -> bool {
        let more = |now: u64| now.checked_add(bytes).filter(|sum| *sum <= self.capacity);
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Gives `bytes` back.
    pub fn give(&self, bytes: u64) {
        let less = |now: u64| Some(now.saturating_sub(bytes));
        let _ = self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
    }

    /// Bytes taken.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }

    /// Bytes in all.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_there_is() {
        let l = Ledger::new(100);
        assert!(l.take(60) && !l.take(41) && l.take(40) && !l.take(1));
        assert!(!l.take(u64::MAX));
        l.give(50);
        assert_eq!(l.taken(), 50);
        l.give(1000);
        assert_eq!(l.taken(), 0);
    }

    #[test]
    fn processes_leave_the_files_their_share() {
        let l = Ledger::new(64 << 20);
        assert!(!l.take_for_process(57 << 20) && l.take_for_process(56 << 20));
        assert!(l.take(8 << 20) && !l.take(1));
        l.give_of_process(56 << 20);
        assert_eq!(l.taken(), 8 << 20);
        assert!(l.take_for_process(1 << 20));
    }
}
