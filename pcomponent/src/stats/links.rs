//! What one thread moved to and from each memory component.

use super::counters::{add, get};
use proto::NodeId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most memory components told apart, see [`Links::add`].
const MOST: usize = 64;

/// One thread's counts by memory component. Written by that thread alone, as
/// all of [`super::Counters`].
pub(super) struct Links([Link; MOST]);

#[derive(Default)]
struct Link {
    /// The component's number and one; 0 where the place is free.
    owner: AtomicU64,
    messages: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

/// Operations and bytes of one link.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Moved {
    /// One-sided operations.
    pub(crate) messages: u64,
    /// Bytes read.
    pub(crate) read: u64,
    /// Bytes written.
    pub(crate) written: u64,
}

impl Links {
    pub(super) fn new() -> Links {
        Links(std::array::from_fn(|_| Link::default()))
    }

    /// One operation. Numbers are small and dense, so its place is nearly
    /// always the first one looked at. Beyond [`MOST`] components nothing is
    /// counted: totals are elsewhere.
    pub(super) fn add(&self, node: NodeId, read: u64, written: u64) {
        let owner = node.0.wrapping_add(1);
        let first = (node.0 % MOST as u64) as usize;
        let mut places = (0..MOST).map(|n| &self.0[(first + n) % MOST]);
        let Some(link) = places.find(|l| matches!(get(&l.owner), o if o == owner || o == 0)) else {
            return;
        };
        add(&link.messages, 1);
        add(&link.read, read);
        add(&link.written, written);
        // Last, so that a reader who sees the owner sees what it owns.
        link.owner.store(owner, Ordering::Release);
    }

    /// Adds this thread's counts to `sum`.
    pub(super) fn sum_into(&self, sum: &mut BTreeMap<NodeId, Moved>) {
        for link in &self.0 {
            let owner = link.owner.load(Ordering::Acquire);
            let Some(node) = owner.checked_sub(1) else {
                continue;
            };
            let moved = sum.entry(NodeId(node)).or_default();
            moved.messages += get(&link.messages);
            moved.read += get(&link.read);
            moved.written += get(&link.written);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_whose_numbers_collide_are_told_apart() {
        let links = Links::new();
        for _ in 0..2 {
            links.add(NodeId(3), 10, 0);
            links.add(NodeId(3 + MOST as u64), 0, 7);
        }
        let mut sum = BTreeMap::new();
        links.sum_into(&mut sum);
        let of = |n| sum.get(&NodeId(n)).copied().unwrap_or_default();
        let (a, b) = (of(3), of(3 + MOST as u64));
        assert_eq!((a.messages, a.read, a.written), (2, 20, 0));
        assert_eq!((b.messages, b.read, b.written), (2, 0, 14));
        assert_eq!(sum.len(), 2);
    }

    #[test]
    fn more_components_than_places_do_no_harm() {
        let links = Links::new();
        (0..MOST as u64 + 5).for_each(|n| links.add(NodeId(n), 1, 1));
        let mut sum = BTreeMap::new();
        links.sum_into(&mut sum);
        assert_eq!(sum.len(), MOST);
    }
}
