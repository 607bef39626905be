//! How many bytes of the component are spoken for.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes promised to processes and bytes of cached files; their sum never
/// passes the capacity.
#[derive(Debug)]
pub struct Ledger {
    capacity: u64,
    taken: AtomicU64,
}

impl Ledger {
    /// With nothing taken.
    #[must_use]
    pub fn new(capacity: u64) -> Ledger {
        Ledger { capacity, taken: AtomicU64::new(0) }
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
}
