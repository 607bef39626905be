//! Where each line of the address space is: a table as pages have one, so that a
//! look costs the same whatever a set's ways are, and neighbouring lines lie side
//! by side in it.
//!
//! A line's entry is used under the lock of the line's set, which orders all
//! accesses to it: the atomics are there because neighbours' sets are others.

use super::LineNo;
use crate::sparse::Sparse;
use host::sys::Errno;
use proto::addr::USER_MAX;
use std::sync::atomic::{AtomicU32, Ordering};

/// Entries made at a time.
const CHUNK: u64 = 512;
const IS_GONE: u32 = 1 << 31;

/// What is known of a line: nothing, the way of its set that it is in, or the
/// number modulo 2^31 of the eviction of its set by which it went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry(u32);

impl Entry {
    pub(super) const ABSENT: Entry = Entry(0);

    pub(super) fn in_way(way: u32) -> Entry {
        Entry(way + 1)
    }

    pub(super) fn gone(eviction: u32) -> Entry {
        Entry(eviction | IS_GONE)
    }

    pub(super) fn way(self) -> Option<usize> {
        let here = self != Entry::ABSENT && self.0 & IS_GONE == 0;
        here.then(|| self.0 as usize - 1)
    }

    pub(super) fn eviction(self) -> Option<u32> {
        (self.0 & IS_GONE != 0).then_some(self.0 & !IS_GONE)
    }
}

pub(super) struct Map(Sparse<[AtomicU32; CHUNK as usize]>);

impl Map {
    /// Of a cache with lines of so many bytes, as a power of two.
    pub(super) fn new(line_shift: u32) -> Result<Map, Errno> {
        let lines = USER_MAX.0 >> line_shift;
        Sparse::new(lines.div_ceil(CHUNK) as usize).map(Map)
    }

    pub(super) fn get(&self, line: LineNo) -> Entry {
        let entries = self.0.get(line.0 / CHUNK);
        entries.map_or(Entry::ABSENT, |entries| {
            Entry(entries[(line.0 % CHUNK) as usize].load(Ordering::Relaxed))
        })
    }

    /// Nothing for a line that no program has.
    pub(super) fn set(&self, line: LineNo, entry: Entry) {
        let none = || std::array::from_fn(|_| AtomicU32::new(0));
        let entries = self.0.get_or_make(line.0 / CHUNK, none);
        debug_assert!(entries.is_some(), "{line:?} is no program's");
        if let Some(entries) = entries {
            entries[(line.0 % CHUNK) as usize].store(entry.0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_what_was_set() {
        for shift in [12, 16, 21] {
            let map = Map::new(shift).unwrap();
            let last = (USER_MAX.0 >> shift) - 1;
            let lines = [0, 1, CHUNK - 1, CHUNK, last].map(LineNo);
            assert!(lines.iter().all(|line| map.get(*line) == Entry::ABSENT));
            for (n, line) in lines.into_iter().enumerate() {
                map.set(line, Entry::in_way(n as u32));
                assert_eq!(map.get(line).way(), Some(n));
                assert_eq!(map.get(line).eviction(), None);
            }
            map.set(lines[0], Entry::gone(0));
            assert_eq!(
                (map.get(lines[0]).way(), map.get(lines[0]).eviction()),
                (None, Some(0))
            );
            map.set(lines[1], Entry::ABSENT);
            assert_eq!(
                (map.get(lines[1]).way(), map.get(lines[1]).eviction()),
                (None, None)
            );
            assert_eq!(map.get(lines[2]).way(), Some(2));
            assert_eq!(map.get(LineNo(u64::MAX)), Entry::ABSENT);
        }
    }
}
