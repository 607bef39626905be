//! What committing memory costs here: as huge pages, or page by page. Huge pages
//! are zeroed at the speed of memory and mapped by one entry. But in a virtual
//! machine whose host takes memory back that lies free (free page reporting),
//! large pieces of free memory are what the host has taken, and small ones are
//! what was used a moment ago. So both are timed, and the cheaper is taken.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The dearer is tried once in so many times, to see what it costs by now.
const PROBE: u32 = 32;
/// Bytes of pages that are worth timing.
const ENOUGH: u64 = 64 << 10;
/// What a huge page that could not be had counts.
const FAILED: Duration = Duration::from_millis(20);

/// See the module. Those of this process.
pub(super) static COSTS: Costs = Costs::new();

#[derive(Debug)]
pub(super) struct Costs {
    huge: Cost,
    small: Cost,
    asked: AtomicU32,
}

/// Nanoseconds a page, a moving average; 0: not known.
#[derive(Debug)]
struct Cost(AtomicU32);

impl Costs {
    const fn new() -> Costs {
        Costs {
            huge: Cost(AtomicU32::new(0)),
            small: Cost(AtomicU32::new(0)),
            asked: AtomicU32::new(0),
        }
    }

    /// Commits `len` bytes by huge pages, if these are cheaper as far as is
    /// known. Whether it did.
    pub(super) fn huge(&self, len: u64, commit: impl FnOnce() -> bool) -> bool {
        if !self.prefer_huge() {
            return false;
        }
        let begun = Instant::now();
        let done = commit();
        let took = if done { begun.elapsed() } else { FAILED };
        self.huge.note(took, len);
        done
    }

    /// Commits `len` bytes page by page.
    pub(super) fn small<T>(&self, len: u64, commit: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = commit();
        // Of a few pages the call itself is most.
        if len >= ENOUGH {
            self.small.note(begun.elapsed(), len);
        }
        done
    }

    fn prefer_huge(&self) -> bool {
        let (huge, small) = (self.huge.known(), self.small.known());
        let probe = self.asked.fetch_add(1, Ordering::Relaxed) % PROBE == PROBE - 1;
        huge == 0 || (small != 0 && (huge <= small) != probe)
    }
}

impl Cost {
    fn known(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// `len` bytes took so long. An estimate: threads may lose each other's.
    fn note(&self, took: Duration, len: u64) {
        let ns = took.as_nanos() / u128::from(len.div_ceil(4096).max(1));
        let ns = u32::try_from(ns).unwrap_or(u32::MAX);
        let next = match self.known() {
            0 => ns,
            before => before - before / 4 + ns / 4,
        };
        self.0.store(next.max(1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commits 2 MiB at these costs (`None`: no huge pages); whether as a huge
    /// page.
    fn commit(costs: &Costs, huge: Option<u64>, small: u64) -> bool {
        let micros = Duration::from_micros;
        let by_huge = costs.prefer_huge();
        if by_huge {
            costs.huge.note(huge.map_or(FAILED, micros), 2 << 20);
        }
        if !by_huge || huge.is_none() {
            costs.small.note(micros(small), 2 << 20);
        }
        by_huge && huge.is_some()
    }

    fn huge_of(costs: &Costs, huge: Option<u64>, small: u64, n: usize) -> usize {
        (0..n).filter(|_| commit(costs, huge, small)).count()
    }

    #[test]
    fn the_cheaper_is_taken_and_the_other_tried_now_and_then() {
        let costs = Costs::new();
        assert!(huge_of(&costs, Some(140), 1300, 320) >= 305);
        // The host has taken the large pieces.
        assert!(huge_of(&costs, Some(6000), 1300, 320) <= 20);
        // And they are back.
        huge_of(&costs, Some(140), 1300, 3200);
        assert!(huge_of(&costs, Some(140), 1300, 320) >= 305);
    }

    #[test]
    fn where_there_are_none_pages_do() {
        let costs = Costs::new();
        assert_eq!(huge_of(&costs, None, 1300, 320), 0);
        assert!(costs.small.known() > 500 && costs.huge.known() > costs.small.known());
    }

    #[test]
    fn what_is_done_is_said() {
        let costs = Costs::new();
        assert!(!costs.huge(2 << 20, || false));
        assert_eq!(costs.small(2 << 20, || 7), 7);
        assert!(!costs.huge(2 << 20, || unreachable!("just failed")));
    }
}
