//! Latencies of misses: counted by one thread without a lock, summed up by
//! others while it goes on.

use super::counters::{add, get};
use hdrhistogram::Histogram;
use std::sync::atomic::AtomicU64;

/// Values below this have a bucket each; above, every octave has half as many.
/// So two decimal digits are told apart, as by an [`Histogram`] of that
/// precision, whose buckets these are.
const EXACT: u64 = 256;
const HALF: usize = EXACT as usize / 2;
/// Longest latency told apart, nanoseconds: 60 s.
const LONGEST: u64 = 60_000_000_000;
const BUCKETS: usize = index(LONGEST) + 1;

const fn index(ns: u64) -> usize {
    if ns < EXACT {
        return ns as usize;
    }
    // Bits below those that are kept.
    let shift = (ns.ilog2() - HALF.ilog2()) as usize;
    shift * HALF + (ns >> shift) as usize
}

/// The least value of a bucket.
const fn least(index: usize) -> u64 {
    if index < EXACT as usize {
        return index as u64;
    }
    let shift = index / HALF - 1;
    ((index % HALF + HALF) as u64) << shift
}

/// One thread's histogram, written by that thread alone.
pub(super) struct Buckets {
    counts: Box<[AtomicU64]>,
    total_ns: AtomicU64,
}

impl Buckets {
    pub(super) fn new() -> Buckets {
        Buckets {
            counts: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            total_ns: AtomicU64::new(0),
        }
    }

    /// One miss.
    pub(super) fn record(&self, ns: u64) {
        let ns = ns.clamp(1, LONGEST);
        add(&self.counts[index(ns)], 1);
        add(&self.total_ns, ns);
    }

    /// Adds what was recorded to `sum`; returns nanoseconds in all.
    pub(super) fn add_to(&self, sum: &mut Histogram<u64>) -> u64 {
        for (n, count) in self.counts.iter().enumerate() {
            let count = get(count);
            if count > 0 {
                sum.saturating_record_n(least(n), count);
            }
        }
        get(&self.total_ns)
    }
}

/// An empty one: 1 ns to 60 s, two significant digits.
pub(super) fn histogram() -> Histogram<u64> {
    let mut h = Histogram::new_with_bounds(1, LONGEST, 2)
        .unwrap_or_else(|_| unreachable!("bounds are right"));
    h.auto(false);
    h
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other() {
        for n in 0..BUCKETS {
            assert_eq!(index(least(n)), n);
            assert!(n == 0 || index(least(n) - 1) == n - 1, "{n}");
        }
    }

    proptest! {
        #[test]
        fn the_same_as_recorded_there(values in prop::collection::vec(0u64..100_000_000_000, 1..200)) {
            let (buckets, mut direct) = (Buckets::new(), histogram());
            for value in &values {
                buckets.record(*value);
                direct.saturating_record((*value).clamp(1, LONGEST));
            }
            let mut summed = histogram();
            let total = buckets.add_to(&mut summed);
            prop_assert_eq!(summed.len(), direct.len());
            for q in [0.0, 0.5, 0.9, 0.99, 1.0] {
                prop_assert_eq!(summed.value_at_quantile(q), direct.value_at_quantile(q));
            }
            prop_assert_eq!(total, values.iter().map(|v| (*v).clamp(1, LONGEST)).sum::<u64>());
        }
    }
}
