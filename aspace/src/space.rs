//! The tree and the moves that every operation is made of.

use crate::vma::Vma;
use proto::addr::{UserAddr, UserRange};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

/// Most VMAs of a process (Linux's default of `vm.max_map_count`).
pub const MAX_VMAS: usize = 65530;

/// The mappings of a process and its break.
///
/// Operations that fail change nothing, but for [`AddressSpace::protect`],
/// which like mprotect(2) changes what lies before a hole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressSpace {
    /// By start; disjoint; no two neighbours continue each other.
    pub(crate) vmas: BTreeMap<UserAddr, Vma>,
    pub(crate) heap: Option<Heap>,
    pub(crate) limit: usize,
    total: u64,
}

/// The area that brk(2) moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Heap {
    pub(crate) start: UserAddr,
    /// Any byte address at or above `start`.
    pub(crate) end: UserAddr,
}

impl Default for AddressSpace {
    fn default() -> Self {
        AddressSpace::new()
    }
}

impl AddressSpace {
    /// An empty one.
    #[must_use]
    pub fn new() -> AddressSpace {
        AddressSpace::with_limit(MAX_VMAS)
    }

    /// An empty one that holds at most `limit` VMAs.
    #[must_use]
    pub fn with_limit(limit: usize) -> AddressSpace {
        AddressSpace {
            vmas: BTreeMap::new(),
            heap: None,
            limit,
            total: 0,
        }
    }

    /// The mapping that holds `a`.
    #[must_use]
    pub fn find(&self, a: UserAddr) -> Option<&Vma> {
        let (_, vma) = self.vmas.range(..=a).next_back()?;
        vma.range.contains(a).then_some(vma)
    }

    /// All mappings, lowest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Vma> {
        self.vmas.values()
    }

    /// How many mappings there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.vmas.len()
    }

    /// Whether nothing is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.vmas.is_empty()
    }

    /// Bytes mapped.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The mappings that share an address with `range`, lowest first.
    pub fn overlapping(&self, range: UserRange) -> impl Iterator<Item = &Vma> {
        let first = self
            .find(range.start())
            .filter(|v| v.range.start() < range.start());
        let from = Included(range.start());
        first.into_iter().chain(
            self.vmas
                .range((from, Excluded(range.end())))
                .map(|(_, v)| v),
        )
    }

    /// Whether all of `range` is mapped.
    #[must_use]
    pub fn is_mapped(&self, range: UserRange) -> bool {
        self.mapped_prefix(range) == Some(range)
    }

    /// The part of `range` before its first hole.
    pub(crate) fn mapped_prefix(&self, range: UserRange) -> Option<UserRange> {
        let mut end = range.start();
        for vma in self.overlapping(range) {
            if vma.range.start() > end {
                break;
            }
            end = vma.range.end();
        }
        UserRange::between(range.start(), end.min(range.end()))
    }

    /// Whether nothing is mapped in `range`.
    #[must_use]
    pub fn is_free(&self, range: UserRange) -> bool {
        self.overlapping(range).next().is_none()
    }

    /// munmap(2): removes what is mapped in `range`, holes are fine, and gives
    /// the removed pieces. A split by it may exceed the limit of VMAs by one:
    /// it gives back more than it takes.
    pub fn unmap(&mut self, range: UserRange) -> Vec<Vma> {
        self.split_at(range.start());
        self.split_at(range.end());
        let starts: Vec<UserAddr> = self.overlapping(range).map(|v| v.range.start()).collect();
        starts
            .into_iter()
            .filter_map(|start| self.remove(start))
            .collect()
    }

    /// Adds a mapping where nothing is, merged with neighbours like it.
    pub(crate) fn insert(&mut self, vma: Vma) {
        let range = vma.range;
        self.total += range.len();
        self.vmas.insert(range.start(), vma);
        self.merge_around(range);
    }

    fn remove(&mut self, start: UserAddr) -> Option<Vma> {
        let vma = self.vmas.remove(&start)?;
        self.total -= vma.range.len();
        Some(vma)
    }

    /// How many VMAs more there are once `range`'s edges are edges of VMAs.
    pub(crate) fn splits(&self, range: UserRange) -> usize {
        let inside = |at: UserAddr| self.find(at).is_some_and(|v| v.range.start() < at);
        usize::from(inside(range.start())) + usize::from(inside(range.end()))
    }

    /// Makes `at` an edge where it lies inside a VMA.
    pub(crate) fn split_at(&mut self, at: UserAddr) {
        let Some((low, high)) = self.find(at).and_then(|v| v.split(at)) else {
            return;
        };
        self.vmas.insert(low.range.start(), low);
        self.vmas.insert(high.range.start(), high);
    }

    /// Merges what continues each other in `range` and at its edges.
    pub(crate) fn merge_around(&mut self, range: UserRange) {
        let before = self
            .vmas
            .range(..range.start())
            .next_back()
            .map(|(start, _)| *start);
        let mut at = before.or_else(|| self.next_start(Included(range.start())));
        while let Some(start) = at.filter(|start| *start <= range.end()) {
            let Some(next) = self
                .next_start(Excluded(start))
                .filter(|n| *n <= range.end())
            else {
                return;
            };
            at = if self.merge(start, next) {
                Some(start)
            } else {
                Some(next)
            };
        }
    }

    fn next_start(&self, from: std::ops::Bound<UserAddr>) -> Option<UserAddr> {
        self.vmas
            .range((from, Unbounded))
            .next()
            .map(|(start, _)| *start)
    }

    fn merge(&mut self, low: UserAddr, high: UserAddr) -> bool {
        let (Some(a), Some(b)) = (self.vmas.get(&low), self.vmas.get(&high)) else {
            return false;
        };
        if !a.continues_in(b) {
            return false;
        }
        let Some(range) = UserRange::between(a.range.start(), b.range.end()) else {
            return false;
        };
        self.vmas.remove(&high);
        if let Some(merged) = self.vmas.get_mut(&low) {
            merged.range = range;
        }
        true
    }
}
