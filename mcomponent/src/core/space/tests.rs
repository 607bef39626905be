//! A space over a few components with little memory each.

use super::*;
use crate::core::ledger::Ledger;
use proptest::prelude::*;
use proto::addr::{EXTENT_SIZE, PAGE_SIZE, UserAddr, VREGION_SIZE};
use proto::mem::{Backing, MapFlags, Prot};
use proto::{Generation, NodeKind};

const ME: u64 = 0;
const PROCESS: ProcessId = ProcessId(9);

fn info(id: u64) -> NodeInfo {
    NodeInfo {
        id: NodeId(id),
        kind: NodeKind::Memory,
        name: format!("m{id}"),
        generation: Generation(1),
        addrs: Vec::new(),
        host: String::new(),
        control: None,
    }
}

struct Fake {
    ledgers: Vec<Ledger>,
    turn: usize,
}

impl Fake {
    fn new(extents: &[u64]) -> Fake {
        let ledgers = extents
            .iter()
            .map(|n| Ledger::new(n * EXTENT_SIZE))
            .collect();
        Fake { ledgers, turn: 0 }
    }
    fn ledger(&mut self, owner: &NodeInfo) -> &mut Ledger {
        &mut self.ledgers[owner.id.0 as usize]
    }
    fn promised(&self) -> u64 {
        self.ledgers.iter().map(|l| l.sums().promised).sum()
    }
}

impl Neighbours for Fake {
    fn me(&self) -> NodeInfo {
        info(ME)
    }
    fn place(
        &mut self,
        _: ProcessId,
        _: VRegionId,
        _: u64,
        not: &[NodeId],
    ) -> Result<NodeInfo, Errno> {
        self.turn += 1;
        let n = self.ledgers.len();
        let ids = (0..n).map(|i| ((i + self.turn) % n) as u64);
        ids.map(info)
            .find(|i| !not.contains(&i.id))
            .ok_or(Errno::ENOMEM)
    }
    fn promise(&mut self, p: ProcessId, owner: &NodeInfo, extents: &[u64]) -> Result<(), Errno> {
        self.ledger(owner).promise(p, extents).map(|_| ())
    }
    fn release(&mut self, p: ProcessId, owner: &NodeInfo, extents: &[u64]) {
        self.ledger(owner).release(p, extents);
    }
    fn forget(&mut self, p: ProcessId, extents: &[u64]) {
        for extent in extents {
            self.ledger(&info(ME)).decommit(p, *extent);
        }
    }
}

/// Half-extent steps around a vRegion's edge.
fn at() -> impl Strategy<Value = UserAddr> {
    let edge = 40 * VREGION_SIZE;
    (0..24_u64).prop_map(move |n| UserAddr(edge - 6 * EXTENT_SIZE + n * EXTENT_SIZE / 2))
}

fn len() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(PAGE_SIZE),
        (1..8_u64).prop_map(|n| n * EXTENT_SIZE / 2)
    ]
}

fn range() -> impl Strategy<Value = UserRange> {
    (at(), len()).prop_map(|(at, len)| UserRange::new(at, len).unwrap())
}

fn op() -> impl Strategy<Value = SpaceOp> {
    let prot = || prop_oneof![Just(Prot::NONE), Just(Prot::READ), Just(Prot::READ_WRITE)];
    let flags = prop_oneof![
        Just(MapFlags::FIXED),
        Just(MapFlags::default()),
        Just(MapFlags::NOREPLACE),
        Just(MapFlags::FIXED.with(MapFlags::NORESERVE)),
    ];
    let map = (
        prop_oneof![1 => Just(UserAddr(0)), 2 => at()],
        len(),
        prot(),
        flags,
    )
        .prop_map(|(addr, len, prot, flags)| SpaceOp::Map {
            addr,
            len,
            prot,
            flags,
            backing: Backing::Anonymous,
        });
    let remap = (range(), len(), any::<bool>(), proptest::option::of(at())).prop_map(
        |(old, new_len, may_move, to)| SpaceOp::Remap {
            old,
            new_len,
            may_move,
            to,
        },
    );
    prop_oneof![
        4 => map,
        2 => range().prop_map(|range| SpaceOp::Unmap { range }),
        2 => (range(), prot()).prop_map(|(range, prot)| SpaceOp::Protect { range, prot }),
        1 => remap,
        1 => at().prop_map(|addr| SpaceOp::Brk { addr }),
        1 => at().prop_map(|addr| SpaceOp::SetBrk { addr }),
        1 => range().prop_map(|range| SpaceOp::Discard { range }),
    ]
}

/// Everything that must hold between two operations.
fn check(space: &Space, fake: &Fake, hole: bool) {
    for extent in space.layout().extents() {
        let owner = space.owner(UserAddr(extent * EXTENT_SIZE).vregion());
        let promised =
            owner.is_some_and(|o| fake.ledgers[o.id.0 as usize].is_promised(PROCESS, extent));
        assert!(
            promised || hole,
            "extent {extent} is accounted and not promised"
        );
    }
    let count = space.promised.len() as u64 * EXTENT_SIZE;
    assert_eq!(fake.promised(), count, "what is promised is known at home");
    for extent in &space.promised {
        assert!(
            space.layout().may_hold_pages(*extent),
            "nothing needs extent {extent}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_accounted_is_promised(
        ops in proptest::collection::vec(op(), 1..30),
        sizes in proptest::collection::vec(1..14_u64, 1..4),
    ) {
        let mut fake = Fake::new(&sizes);
        let mut space = Space::new(PROCESS);
        let mut replica = AddressSpace::new();
        let mut hole = false;
        for op in &ops {
            let (layout, promised) = (space.layout.clone(), fake.promised());
            let result = space.handle_op(op, &mut fake);
            match (&result, op) {
                (Ok(done), _) => prop_assert_eq!(replica.follow(op, done), Ok(())),
                (Err(_), SpaceOp::Protect { range, prot }) if !layout.is_mapped(*range) => {
                    hole = true;
                    let _ = replica.protect(*range, *prot);
                }
                (Err(_), _) => {
                    prop_assert_eq!(&layout, &space.layout);
                    prop_assert_eq!(promised, fake.promised());
                }
            }
            prop_assert_eq!(&replica, &space.layout);
            check(&space, &fake, hole);
        }
        space.end(&mut fake);
        prop_assert_eq!(fake.promised(), 0, "nothing is left of it anywhere");
    }
}

/// Does at home what the replica has done already: nothing of it is refused.
fn catch_up(space: &mut Space, fake: &mut Fake, later: &mut Vec<SpaceOp>) {
    for op in later.drain(..) {
        match (&op, space.handle_op(&op, fake)) {
            (SpaceOp::Brk { addr }, Ok(SpaceDone::Brk { addr: now, .. })) => {
                assert_eq!(*addr, now);
            }
            (SpaceOp::Brk { .. }, done) => panic!("{op:?}: {done:?}"),
            (_, done) => assert!(done.is_ok(), "{op:?}: {done:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// A processor component tells home later of what is certain.
    #[test]
    fn what_is_certain_is_not_refused(
        heap in at(),
        ops in proptest::collection::vec(op(), 1..60),
        sizes in proptest::collection::vec(1..14_u64, 1..4),
    ) {
        let mut fake = Fake::new(&sizes);
        let mut space = Space::new(PROCESS);
        let mut replica = AddressSpace::new();
        let mut later = Vec::new();
        let mut hole = false;
        for op in [SpaceOp::SetBrk { addr: heap }].iter().chain(&ops) {
            if !hole && replica.is_certain(op) {
                match op {
                    SpaceOp::Unmap { range } => drop(replica.unmap(*range)),
                    SpaceOp::Brk { addr } => prop_assert_eq!(replica.brk(*addr), *addr),
                    SpaceOp::Protect { range, prot } => {
                        prop_assert_eq!(replica.protect(*range, *prot), Ok(()));
                    }
                    _ => prop_assert!(false, "{:?} is never certain", op),
                }
                later.push(op.clone());
                continue;
            }
            catch_up(&mut space, &mut fake, &mut later);
            prop_assert_eq!(&replica, &space.layout);
            match (space.handle_op(op, &mut fake), op) {
                (Ok(done), _) => prop_assert_eq!(replica.follow(op, &done), Ok(())),
                (Err(_), SpaceOp::Protect { range, prot }) if !replica.is_mapped(*range) => {
                    hole = true;
                    let _ = replica.protect(*range, *prot);
                }
                (Err(_), _) => {}
            }
        }
        catch_up(&mut space, &mut fake, &mut later);
        prop_assert_eq!(&replica, &space.layout);
    }
}

fn map(len: u64) -> SpaceOp {
    let (addr, prot, flags) = (UserAddr(0), Prot::READ_WRITE, MapFlags::default());
    SpaceOp::Map {
        addr,
        len,
        prot,
        flags,
        backing: Backing::Anonymous,
    }
}

#[test]
fn a_full_component_sends_the_next_mapping_elsewhere() {
    // Four extents each are kept for files where there are that many.
    let mut fake = Fake::new(&[64, 64]);
    let mut space = Space::new(PROCESS);
    let mut places = Vec::new();
    for _ in 0..2 {
        let done = space.handle_op(&map(40 * EXTENT_SIZE), &mut fake).unwrap();
        let SpaceDone::Mapped { range, placed } = done else {
            panic!("{done:?}")
        };
        assert_eq!(placed.len(), 1);
        places.push((range.start().vregion(), placed[0].1.id));
    }
    assert_ne!(
        places[0].0, places[1].0,
        "the second went to another vRegion"
    );
    assert_ne!(places[0].1, places[1].1, "at the other component");
    let third = space.handle_op(&map(40 * EXTENT_SIZE), &mut fake);
    assert_eq!(third, Err(Errno::ENOMEM));
    assert_eq!(fake.promised(), 80 * EXTENT_SIZE);
}

#[test]
fn absurd_lengths_are_refused_before_they_are_counted() {
    let mut fake = Fake::new(&[64]);
    let mut space = Space::new(PROCESS);
    let result = space.handle_op(&map(60 << 40), &mut fake);
    assert_eq!(result, Err(Errno::ENOMEM));
    let none = |prot, flags| SpaceOp::Map {
        addr: UserAddr(0),
        len: 60 << 40,
        prot,
        flags,
        backing: Backing::Anonymous,
    };
    assert!(
        space
            .handle_op(&none(Prot::NONE, MapFlags::default()), &mut fake)
            .is_ok()
    );
}

#[test]
fn only_what_is_mapped_here_can_be_committed() {
    let mut fake = Fake::new(&[64]);
    let mut space = Space::new(PROCESS);
    let done = space.handle_op(&map(EXTENT_SIZE), &mut fake).unwrap();
    let SpaceDone::Mapped { range, .. } = done else {
        panic!("{done:?}")
    };
    let extent = range.start().extent();
    assert_eq!(space.admit_commit(extent, &info(ME)), Ok(()));
    assert_eq!(space.admit_commit(extent, &info(7)), Err(Errno::EFAULT));
    assert_eq!(
        space.admit_commit(extent + 10, &info(ME)),
        Err(Errno::EFAULT)
    );
    assert_eq!(space.admit_commit(u64::MAX, &info(ME)), Err(Errno::EFAULT));
}
