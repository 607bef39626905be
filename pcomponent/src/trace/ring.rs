//! What one thread has traced and is not written yet: a ring with one writer,
//! the thread, and one reader, the tracer's thread. Neither ever waits for the
//! other: a full ring loses records, and counts them.

use proto::trace::Words;
use std::sync::atomic::{AtomicU64, Ordering};

/// Records in a ring: far more than a thread can miss, a trap and a copied page
/// each, between two visits of the reader, who comes every few milliseconds.
const RECORDS: usize = 32 << 10;

/// See the module.
pub(super) struct Ring {
    slots: Box<[[AtomicU64; 5]]>,
    /// Records ever put in; the thread's.
    head: AtomicU64,
    /// Records ever taken out; the reader's.
    tail: AtomicU64,
    /// Records that found no room; the thread's.
    lost: AtomicU64,
}

impl Ring {
    pub(super) fn new() -> Ring {
        Ring::with(RECORDS)
    }

    fn with(records: usize) -> Ring {
        Ring {
            slots: (0..records).map(|_| Default::default()).collect(),
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    fn slot(&self, number: u64) -> &[AtomicU64; 5] {
        &self.slots[(number % self.slots.len() as u64) as usize]
    }

    /// Puts a record in, or counts it as lost. The thread's alone.
    pub(super) fn push(&self, record: &Words) {
        let head = self.head.load(Ordering::Relaxed);
        // Acquire: the reader is done with the slot that is overwritten.
        if head - self.tail.load(Ordering::Acquire) >= self.slots.len() as u64 {
            let lost = self.lost.load(Ordering::Relaxed);
            self.lost.store(lost + 1, Ordering::Relaxed);
            return;
        }
        for (to, word) in self.slot(head).iter().zip(record) {
            to.store(*word, Ordering::Relaxed);
        }
        // Release: the words are there before the count says so.
        self.head.store(head + 1, Ordering::Release);
    }

    /// Gives `each` what is in and takes it out. The reader's alone.
    pub(super) fn drain(&self, mut each: impl FnMut(&Words)) {
        let head = self.head.load(Ordering::Acquire);
        let mut tail = self.tail.load(Ordering::Relaxed);
        while tail < head {
            let mut words = Words::default();
            for (word, from) in words.iter_mut().zip(self.slot(tail)) {
                *word = from.load(Ordering::Relaxed);
            }
            each(&words);
            tail += 1;
            self.tail.store(tail, Ordering::Release);
        }
    }

    /// Records that were lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_order_and_the_rest_is_counted() {
        let ring = Ring::with(4);
        let mut out = Vec::new();
        for n in 0..6 {
            ring.push(&[n; 5]);
        }
        ring.drain(|words| out.push(*words));
        assert_eq!((ring.lost(), out), (2, (0..4).map(|n| [n; 5]).collect()));
        ring.push(&[9; 5]);
        let mut out = Vec::new();
        ring.drain(|words| out.push(*words));
        assert_eq!((ring.lost(), out), (2, vec![[9; 5]]));
    }

    #[test]
    fn two_threads_see_whole_records_once_each() {
        const ALL: u64 = 200_000;
        let ring = Ring::with(64);
        let mut seen = Vec::new();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (1..=ALL).for_each(|n| ring.push(&[n; 5])));
            while !writer.is_finished() {
                ring.drain(|words| seen.push(*words));
            }
            ring.drain(|words| seen.push(*words));
        });
        assert_eq!(seen.len() as u64 + ring.lost(), ALL);
        assert!(
            seen.iter()
                .all(|words| words.iter().all(|w| *w == words[0]))
        );
        assert!(seen.windows(2).all(|pair| pair[0][0] < pair[1][0]));
    }
}
