//! Where each line of the address space is: a table as pages have one, so that a
//! look costs the same whatever a set's ways are, and neighbouring lines lie side
//! by side in it.
//!
//! A line's entry is used under the lock of the line's set, which orders all
//! accesses to it: the atomics are there because neighbours' sets are others.

use super::LineNo;
use crate::sparse::Sparse;
use std::sync::atomic::{AtomicU32, Ordering};

/// Entries made at a time.
const CHUNK: usize = 512;
/// Addresses are below this power of two.
const ADDRESS_BITS: u32 = 47;
const IS_GONE: u32 = 1 << 31;

/// What is known of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// Nothing.
    Absent,
    /// It is in this way of its set.
    Way(u32),
    /// It went, by the eviction of its set with this number modulo 2^31.
    Gone(u32),
}

pub(super) struct Map(Sparse<[AtomicU32; CHUNK]>);

fn place(line: LineNo) -> (u64, usize) {
    (line.0 / CHUNK as u64, (line.0 % CHUNK as u64) as usize)
}

impl Map {
    /// Of a cache with lines of so many bytes, as a power of two.
    pub(super) fn new(line_shift: u32) -> Map {
        let lines = 1usize << (ADDRESS_BITS - line_shift);
        Map(Sparse::new(lines.div_ceil(CHUNK)))
    }

    pub(super) fn get(&self, line: LineNo) -> Entry {
        let (chunk, at) = place(line);
        let raw = self
            .0
            .get(chunk)
            .map_or(0, |c| c[at].load(Ordering::Relaxed));
        match raw {
            0 => Entry::Absent,
            gone if gone & IS_GONE != 0 => Entry::Gone(gone & !IS_GONE),
            way => Entry::Way(way - 1),
        }
    }

    /// False if there is no such line: its address is no program's.
    pub(super) fn set(&self, line: LineNo, entry: Entry) -> bool {
        let raw = match entry {
            Entry::Absent => 0,
            Entry::Way(way) => way + 1,
            Entry::Gone(number) => number | IS_GONE,
        };
        let (chunk, at) = place(line);
        let none = || std::array::from_fn(|_| AtomicU32::new(0));
        let entries = self.0.get_or_make(chunk, none);
        entries
            .map(|c| c[at].store(raw, Ordering::Relaxed))
            .is_some()
    }
}
