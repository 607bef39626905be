//! Address spaces over several memory components, in one process.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::World;
use mcomponent::core::ledger::Ledger;
use mcomponent::spaces::{Reclaim, Spaces};
use proto::addr::EXTENT_SIZE;
use proto::mem::{Backing, MapFlags, Prot, SpaceDone, SpaceOp};
use proto::{Errno, Generation, ProcessId, UserAddr, UserRange};
use std::sync::Arc;

const P: ProcessId = ProcessId(5);

struct NoCache;

impl Reclaim for NoCache {
    fn reclaim(&self, _: u64) -> u64 {
        0
    }
}

struct Component {
    spaces: Arc<Spaces>,
    ledger: Arc<Ledger>,
}

fn components(count: u64, extents: u64) -> Vec<Component> {
    let worlds: Vec<Arc<World>> = (0..count).map(World::at).collect();
    let make = |world: &Arc<World>| {
        let ledger = Arc::new(Ledger::new(extents * EXTENT_SIZE));
        let memory = fabric::Memory::new().unwrap();
        let cache = Arc::new(NoCache);
        let spaces = Arc::new(Spaces::new(memory, ledger.clone(), world.clone(), cache));
        Component { spaces, ledger }
    };
    let made: Vec<Component> = worlds.iter().map(make).collect();
    for world in &worlds {
        let all = made.iter().map(|c| Arc::downgrade(&c.spaces)).collect();
        assert!(world.spaces.set(all).is_ok());
    }
    made
}

fn map(extents: u64) -> SpaceOp {
    let (addr, prot) = (UserAddr(0), Prot::READ_WRITE);
    let (flags, backing) = (MapFlags::default(), Backing::Anonymous);
    SpaceOp::Map {
        addr,
        len: extents * EXTENT_SIZE,
        prot,
        flags,
        backing,
    }
}

fn change(component: &Component, op: SpaceOp) -> Result<SpaceDone, Errno> {
    component.spaces.change(P, &[op]).unwrap().pop().unwrap()
}

fn mapped(done: Result<SpaceDone, Errno>) -> (UserRange, Option<u64>) {
    match done.unwrap() {
        SpaceDone::Mapped { range, placed } => (range, placed.first().map(|p| p.1.id.0)),
        other => panic!("{other:?}"),
    }
}

fn promised(component: &Component) -> u64 {
    component.ledger.sums().promised / EXTENT_SIZE
}

#[test]
fn memory_comes_from_all_components_and_all_of_it_goes_back() {
    let all = components(3, 32);
    all[0].spaces.create(P);
    let mut owners = Vec::new();
    for _ in 0..3 {
        let (range, owner) = mapped(change(&all[0], map(20)));
        let owner = owner.expect("each needs a vRegion of its own");
        let extent = range.start().extent();
        let lease = all[owner as usize]
            .spaces
            .commit(P, extent, Generation(3))
            .unwrap();
        assert!(lease.writable && lease.generation == Generation(3));
        let again = all[owner as usize]
            .spaces
            .commit(P, extent, Generation(3))
            .unwrap();
        assert_eq!(again.key, lease.key, "committing is idempotent");
        owners.push(owner);
    }
    owners.sort_unstable();
    assert_eq!(owners, [0, 1, 2]);
    assert_eq!(change(&all[0], map(20)), Err(Errno::ENOMEM));
    assert_eq!(all.iter().map(promised).collect::<Vec<_>>(), [20, 20, 20]);
    all[0].spaces.end(P);
    for component in &all {
        assert_eq!(component.ledger.sums().committed, 0);
        assert_eq!(promised(component), 0);
        assert!(component.spaces.processes().is_empty());
    }
}

#[test]
fn what_stays_promised_elsewhere_can_be_committed_after_a_part_went_back() {
    let all = components(2, 32);
    all[0].spaces.create(P);
    let (range, owner) = (0..4)
        .map(|_| mapped(change(&all[0], map(10))))
        .find(|(_, owner)| *owner == Some(1))
        .expect("one of two vRegions is placed at the other component");
    let other = &all[owner.unwrap() as usize];
    let part = UserRange::new(range.start(), EXTENT_SIZE).unwrap();
    change(&all[0], SpaceOp::Unmap { range: part }).unwrap();
    let next = range.start().extent() + 1;
    assert!(other.spaces.commit(P, next, Generation(1)).is_ok());
}

#[test]
fn a_component_that_is_gone_promises_nothing() {
    let mut all = components(2, 64);
    all[0].spaces.create(P);
    drop(all.pop());
    for _ in 0..2 {
        let (_, owner) = mapped(change(&all[0], map(10)));
        assert!(owner.is_none_or(|id| id == 0));
    }
    assert_eq!(promised(&all[0]), 20);
}

#[test]
fn unmapping_frees_whole_extents_and_discarding_keeps_the_promise() {
    let all = components(1, 64);
    let home = &all[0];
    home.spaces.create(P);
    let (range, _) = mapped(change(home, map(4)));
    let first = range.start().extent();
    for n in first..first + 4 {
        home.spaces.commit(P, n, Generation(1)).unwrap();
    }
    let part = UserRange::new(range.start(), EXTENT_SIZE + 4096).unwrap();
    change(home, SpaceOp::Discard { range: part }).unwrap();
    assert_eq!(
        (promised(home), home.ledger.sums().committed / EXTENT_SIZE),
        (4, 3)
    );
    change(home, SpaceOp::Unmap { range: part }).unwrap();
    assert_eq!(
        (promised(home), home.ledger.sums().committed / EXTENT_SIZE),
        (3, 3)
    );
    assert_eq!(
        home.spaces.commit(P, first, Generation(1)),
        Err(Errno::EFAULT)
    );
    assert!(home.spaces.commit(P, first + 1, Generation(1)).is_ok());
}

#[test]
fn strangers_get_nothing() {
    let all = components(1, 64);
    let other = ProcessId(6);
    assert_eq!(all[0].spaces.change(other, &[map(1)]), Err(Errno::ESRCH));
    assert_eq!(
        all[0].spaces.commit(other, 1000, Generation(1)),
        Err(Errno::EFAULT)
    );
    assert_eq!(
        all[0].spaces.reserve(other, &[u64::MAX]),
        Err(Errno::EINVAL)
    );
    assert!(
        all[0]
            .spaces
            .reserve(other, &(0..65).collect::<Vec<_>>())
            .is_err()
    );
    assert!(all[0].spaces.processes().is_empty());
}
