//! Which sets are low on free ways: where a batch of evictions finds its
//! victims without a look at every set.

use super::Shape;
use std::sync::atomic::{AtomicU64, Ordering};

/// A set is low with fewer free ways than this part of all of them at most: two
/// of 64.
const PART: u32 = 32;

/// With fewer free ways than this a set is low: two batches over all sets, and one
/// more. When a set is full, the others have anything from none to that many free,
/// so that there is a batch to be had from those that are low. Were only full sets
/// low, random misses would find few of them at one time, and so small batches; and
/// dropping few pages costs the host more for each (`testbed bench host`). Were
/// more sets low, more of the cache would be empty.
fn enough(shape: Shape) -> u32 {
    let wanted = 2 * shape.batch() as u32 / shape.sets + 1;
    wanted.max(2).min(shape.ways / PART).max(1)
}

/// A bit for each set. Changed under the set's lock; others take it for a hint
/// and look again under the lock.
pub(super) struct Low {
    bits: Box<[AtomicU64]>,
    sets: usize,
    enough: u32,
}

impl Low {
    /// All ways are free.
    pub(super) fn new(shape: Shape) -> Low {
        let sets = shape.sets as usize;
        Low {
            bits: (0..sets.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            sets,
            enough: enough(shape),
        }
    }

    /// Whether a set with so many free ways is low.
    pub(super) fn is_low(&self, free: u32) -> bool {
        free < self.enough
    }

    /// A way was taken from a set that has so many left.
    pub(super) fn took(&self, set: usize, free: u32) {
        if free + 1 == self.enough {
            self.bits[set / 64].fetch_or(1 << (set % 64), Ordering::Relaxed);
        }
    }

    /// A way was given back to a set that has so many now.
    pub(super) fn gave(&self, set: usize, free: u32) {
        if free == self.enough {
            self.bits[set / 64].fetch_and(!(1 << (set % 64)), Ordering::Relaxed);
        }
    }

    /// Sets that are low: those from `first` on, then those before it.
    pub(super) fn from(&self, first: usize) -> impl Iterator<Item = usize> + '_ {
        let first = first % self.sets;
        self.between(first, self.sets).chain(self.between(0, first))
    }

    fn between(&self, begin: usize, end: usize) -> impl Iterator<Item = usize> + '_ {
        (begin / 64..end.div_ceil(64)).flat_map(move |n| {
            let mut left = self.bits[n].load(Ordering::Relaxed);
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(n * 64 + bit)
            })
            .filter(move |set| (begin..end).contains(set))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_sets_are_found_round_and_round() {
        let shape = Shape::new(200 * 64 * 4096, 4096, 64).unwrap();
        let low = Low::new(shape);
        assert_eq!((low.sets, low.enough), (200, 2));
        for set in [0, 63, 64, 130, 199] {
            low.took(set, 2);
            low.took(set, 1);
            low.took(set, 0);
        }
        let all = |first| low.from(first).collect::<Vec<_>>();
        assert_eq!(all(0), [0, 63, 64, 130, 199]);
        assert_eq!(all(64), [64, 130, 199, 0, 63]);
        assert_eq!(all(131), [199, 0, 63, 64, 130]);
        assert_eq!(all(200), all(0));
        low.gave(64, 1);
        low.gave(130, 2);
        assert_eq!(all(1), [63, 64, 199, 0]);
    }

    #[test]
    fn sets_are_short_of_a_batch_together() {
        let enough = |lines: u64, ways| enough(Shape::new(lines * 4096, 4096, ways).unwrap());
        assert_eq!(
            [64, 512, 25_600].map(|ways| enough(25_600, ways)),
            [2, 3, 129]
        );
        assert_eq!([8, 32, 63].map(|ways| enough(4096, ways)), [1, 1, 1]);
        // A batch is of eight such lines.
        let large = Shape::new(256 << 20, 64 << 10, 256).unwrap();
        assert_eq!((large.batch(), super::enough(large)), (8, 2));
    }
}
