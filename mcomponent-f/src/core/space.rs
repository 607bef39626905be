//! What a change of an address space asks for and gives back, in extents.
//!
//! Memory is promised in whole extents: an extent counts while any mapping in
//! it counts (private, writable now or before, not `MAP_NORESERVE`). A change
//! is made in three steps: [`needs`] says which extents must be promised first,
//! [`apply`] changes the tree, [`leftovers`] says what is no longer needed.

use aspace::AddressSpace;
use proto::Errno;
use proto::addr::{EXTENT_SIZE, PAGE_SIZE, USER_MIN, UserAddr, UserRange};
use proto::mem::{MapFlags, Prot, SpaceOp};
use std::collections::BTreeSet;

/// What an operation will touch, decided before anything is changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Needs {
    /// Extents to promise before the change, those promised already left out.
    pub extents: BTreeSet<u64>,
    /// Where a mapping will be.
    pub place: Option<UserRange>,
}

fn missing(range: UserRange, promised: &BTreeSet<u64>) -> BTreeSet<u64> {
    range.extents().filter(|n| !promised.contains(n)).collect()
}

/// What `op` needs.
///
/// # Errors
/// Those of the call: the operation will not be done.
pub fn needs(
    tree: &AddressSpace,
    promised: &BTreeSet<u64>,
    op: &SpaceOp,
) -> Result<Needs, Errno> {
    let mut needs = Needs::default();
    match op {
        SpaceOp::Map { addr, len, prot, flags, backing } => {
            let backing = backing.into();
            let place = tree.plan_map(*addr, *len, *flags, &backing, &|_| None)?;
            if AddressSpace::would_account(place, *prot, *flags, &backing) {
                needs.extents = missing(place, promised);
            }
            needs.place = Some(place);
        }
        SpaceOp::Protect { range, prot } if prot.has(Prot::WRITE) => {
            let wanted = tree.extents_with(*range, *prot);
            needs.extents = wanted.filter(|n| !promised.contains(n)).collect();
        }
        SpaceOp::Remap { old, new_len, .. } => {
            let vma = tree.find(old.start()).ok_or(Errno::EFAULT)?;
            let new = UserRange::new(old.start(), *new_len).ok_or(Errno::EINVAL)?;
            if vma.accounted && new.len() > old.len() {
                needs.extents = missing(new, promised);
            }
        }
        SpaceOp::Brk { addr } => {
            if let Some(Some(grown)) = tree.plan_brk(*addr) {
                needs.extents = missing(grown, promised);
            }
        }
        SpaceOp::Protect { .. }
        | SpaceOp::Unmap { .. }
        | SpaceOp::Discard { .. }
        | SpaceOp::SetBrk { .. } => {}
    }
    Ok(needs)
}

/// What an operation came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Applied {
    /// A mapping is there.
    Mapped(UserRange),
    /// The break is there.
    Brk(UserAddr),
    /// Done.
    Done,
}

/// Changes the tree. `place` is what [`needs`] chose.
///
/// # Errors
/// Those of the call; the tree is as mprotect(2) leaves it, else unchanged.
pub fn apply(
    tree: &mut AddressSpace,
    op: &SpaceOp,
    place: Option<UserRange>,
) -> Result<Applied, Errno> {
    match op {
        SpaceOp::Map { len, prot, flags, backing, .. } => {
            let at = place.ok_or(Errno::EINVAL)?.start();
            let fixed = flags.without(MapFlags::NOREPLACE).with(MapFlags::FIXED);
            tree.map(at, *len, *prot, fixed, backing.into()).map(Applied::Mapped)
        }
        SpaceOp::Unmap { range } => {
            tree.unmap(*range);
            Ok(Applied::Done)
        }
        SpaceOp::Protect { range, prot } => tree.protect(*range, *prot).map(|()| Applied::Done),
        SpaceOp::Remap { old, new_len, may_move, to } => {
            tree.remap(*old, *new_len, *may_move, *to).map(Applied::Mapped)
        }
        SpaceOp::Brk { addr } => Ok(Applied::Brk(tree.brk(*addr))),
        SpaceOp::SetBrk { addr } => {
            tree.set_brk(*addr);
            Ok(Applied::Done)
        }
        SpaceOp::Discard { .. } => Ok(Applied::Done),
    }
}

/// What may be given back after a change.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leftovers {
    /// Extents that nothing counts in any more: the promise goes.
    pub unpromised: BTreeSet<u64>,
    /// Extents whose bytes nobody can see any more: the frames go.
    pub unused: BTreeSet<u64>,
}

/// What `op` left over.
#[must_use]
pub fn leftovers(tree: &AddressSpace, promised: &BTreeSet<u64>, op: &SpaceOp) -> Leftovers {
    let mut left = Leftovers::default();
    let touched = match op {
        SpaceOp::Unmap { range } => Some(*range),
        SpaceOp::Discard { range } => {
            left.unused = range.extents().filter(|n| whole(*n, *range)).collect();
            return left;
        }
        SpaceOp::Map { addr, len, flags, .. } if flags.has(MapFlags::FIXED) => {
            UserRange::new(*addr, *len)
        }
        SpaceOp::Remap { old, .. } => Some(*old),
        SpaceOp::Brk { .. } => {
            let start = tree.break_now().align_up(PAGE_SIZE);
            start.and_then(|s| UserRange::new(s, shrunk_at_most(promised, s)))
        }
        _ => None,
    };
    for number in touched.into_iter().flat_map(UserRange::extents) {
        // Pages of memory without reservation may live in an extent that was
        // promised for a neighbour: the promise then stays with them.
        if !tree.may_hold_pages(number) {
            left.unused.insert(number);
            if promised.contains(&number) {
                left.unpromised.insert(number);
            }
        }
    }
    left
}

/// How far above a shrunk break promises can lie: up to the last of them in
/// one run.
fn shrunk_at_most(promised: &BTreeSet<u64>, from: UserAddr) -> u64 {
    let first = from.extent();
    let run = promised.range(first..).zip(first..).take_while(|(n, expected)| **n == *expected);
    let count = run.count() as u64;
    ((first + count) * EXTENT_SIZE).saturating_sub(from.0).max(PAGE_SIZE)
}

fn extent_range(number: u64) -> Option<UserRange> {
    let start = UserAddr(number.checked_mul(EXTENT_SIZE)?).max(USER_MIN);
    UserRange::between(start, UserAddr((number + 1).checked_mul(EXTENT_SIZE)?))
}

fn whole(number: u64, range: UserRange) -> bool {
    extent_range(number).is_some_and(|r| range.contains_range(r))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::mem::Backing;
    use proptest::prelude::*;

    fn step(tree: &mut AddressSpace, promised: &mut BTreeSet<u64>, op: &SpaceOp) {
        let Ok(needs) = needs(tree, promised, op) else { return };
        promised.extend(&needs.extents);
        if apply(tree, op, needs.place).is_err() {
            promised.retain(|n| !needs.extents.contains(n) || tree.may_hold_pages(*n));
        }
        let left = leftovers(tree, promised, op);
        promised.retain(|n| !left.unpromised.contains(n));
    }

    fn map(addr: u64, len: u64, prot: Prot, flags: MapFlags) -> SpaceOp {
        SpaceOp::Map { addr: UserAddr(addr), len, prot, flags, backing: Backing::Anonymous }
    }

    #[test]
    fn promises_follow_mappings() {
        let (mut tree, mut promised) = (AddressSpace::new(), BTreeSet::new());
        let at = 0x4000_0000;
        step(&mut tree, &mut promised, &map(at, 3 << 20, Prot::NONE, MapFlags::FIXED));
        assert!(promised.is_empty());
        let range = UserRange::new(UserAddr(at), PAGE_SIZE).unwrap();
        step(&mut tree, &mut promised, &SpaceOp::Protect { range, prot: Prot::READ_WRITE });
        assert_eq!(promised.len(), 1);
        step(&mut tree, &mut promised, &SpaceOp::Unmap { range });
        assert!(promised.is_empty());
        step(&mut tree, &mut promised, &map(at, 9 << 20, Prot::READ_WRITE, MapFlags::FIXED));
        assert_eq!(promised.len(), 5);
        step(&mut tree, &mut promised, &map(at, 9 << 20, Prot::READ, MapFlags::FIXED));
        assert!(promised.is_empty());
    }

    #[test]
    fn the_heap_is_promised_as_it_moves() {
        let (mut tree, mut promised) = (AddressSpace::new(), BTreeSet::new());
        step(&mut tree, &mut promised, &SpaceOp::SetBrk { addr: UserAddr(0x4000_0000) });
        step(&mut tree, &mut promised, &SpaceOp::Brk { addr: UserAddr(0x4000_0000 + (5 << 20)) });
        assert_eq!(promised.len(), 3);
        step(&mut tree, &mut promised, &SpaceOp::Brk { addr: UserAddr(0x4000_0000 + 4096) });
        assert_eq!(promised.len(), 1);
    }

    fn op() -> impl Strategy<Value = SpaceOp> {
        let base = 0x4000_0000u64;
        let pages = 0u64..4096;
        let prot = prop::sample::select(vec![Prot::NONE, Prot::READ, Prot::READ_WRITE]);
        let flags = prop::sample::select(vec![
            MapFlags::FIXED,
            MapFlags::FIXED.with(MapFlags::NORESERVE),
            MapFlags::FIXED.with(MapFlags::SHARED),
            MapFlags::default(),
        ]);
        (pages, 1u64..2048, prot, flags, 0u8..4).prop_map(move |(page, len, prot, flags, kind)| {
            let (addr, len) = (base + page * PAGE_SIZE, len * PAGE_SIZE);
            let range = UserRange::new(UserAddr(addr), len).unwrap();
            match kind {
                0 => SpaceOp::Unmap { range },
                1 => SpaceOp::Protect { range, prot },
                2 => SpaceOp::Discard { range },
                _ => map(addr, len, prot, flags),
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        /// Whatever happens, every extent that counts is promised, and none that
        /// can hold no pages.
        #[test]
        fn promised_is_what_is_needed(ops in prop::collection::vec(op(), 1..40)) {
            let (mut tree, mut promised) = (AddressSpace::new(), BTreeSet::new());
            for op in ops {
                step(&mut tree, &mut promised, &op);
                let counted: BTreeSet<u64> = tree.extents().collect();
                prop_assert!(counted.is_subset(&promised));
                prop_assert!(promised.iter().all(|n| tree.may_hold_pages(*n)));
            }
        }
    }
}
