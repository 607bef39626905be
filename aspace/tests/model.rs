//! Every operation, in any order, against a map of pages; and replicas that
//! follow.

mod common;

use aspace::AddressSpace;
use common::{Model, TOP_PAGE, backing, file, range};
use proptest::prelude::*;
use proto::addr::{PAGE_SIZE, UserAddr};
use proto::mem::{Backing, MapFlags, Prot, SpaceDone, SpaceOp};

/// Pages below [`aspace::TOP`] that the operations aim at: more than an
/// extent, so that its edges are met, and more than a guard gap.
const WINDOW: u64 = 800;

#[derive(Clone, Debug)]
enum Op {
    Map {
        at: u64,
        count: u64,
        prot: u8,
        flags: u32,
        file: Option<(u64, u64)>,
    },
    Unmap {
        at: u64,
        count: u64,
    },
    Protect {
        at: u64,
        count: u64,
        prot: u8,
    },
    Remap {
        at: u64,
        count: u64,
        new: u64,
        may_move: bool,
        to: Option<u64>,
    },
    Brk {
        addr: u64,
    },
    SetBrk {
        page: u64,
    },
}

fn page() -> impl Strategy<Value = u64> {
    // Few distinct places, so that edges meet.
    (0..WINDOW / 8).prop_map(|n| TOP_PAGE - WINDOW + n * 8)
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![4 => (1..5_u64).prop_map(|n| n * 8), 1 => 1..300_u64]
}

fn flags() -> impl Strategy<Value = u32> {
    let place = prop_oneof![
        Just(0),
        Just(MapFlags::FIXED.0),
        Just(MapFlags::NOREPLACE.0)
    ];
    let kind = prop_oneof![
        6 => Just(0),
        1 => Just(MapFlags::SHARED.0),
        1 => Just(MapFlags::NORESERVE.0),
        1 => Just(MapFlags::STACK.0),
    ];
    (place, kind).prop_map(|(a, b)| a | b)
}

fn op() -> impl Strategy<Value = Op> {
    let prot = || prop_oneof![Just(0_u8), Just(1), Just(3)];
    // Two files; an offset that goes with the address lets neighbours merge.
    let file = prop_oneof![2 => Just(None), 1 => (1..3_u64).prop_map(Some)];
    let map = (page(), count(), prot(), flags(), file, any::<bool>()).prop_map(
        |(at, count, prot, flags, ino, hinted)| {
            let offset = (at - (TOP_PAGE - WINDOW)) * PAGE_SIZE;
            let placed = flags & (MapFlags::FIXED.0 | MapFlags::NOREPLACE.0) != 0;
            let at = if hinted || placed { at } else { 0 };
            Op::Map {
                at,
                count,
                prot,
                flags,
                file: ino.map(|ino| (ino, offset)),
            }
        },
    );
    let remap = (
        page(),
        count(),
        count(),
        any::<bool>(),
        proptest::option::of(page()),
    )
        .prop_map(|(at, count, new, may_move, to)| Op::Remap {
            at,
            count,
            new,
            may_move,
            to,
        });
    prop_oneof![
        4 => map,
        2 => (page(), count()).prop_map(|(at, count)| Op::Unmap { at, count }),
        3 => (page(), count(), prot()).prop_map(|(at, count, prot)| Op::Protect { at, count, prot }),
        2 => remap,
        2 => (page(), 0..PAGE_SIZE).prop_map(|(at, n)| Op::Brk { addr: at * PAGE_SIZE + n }),
        1 => page().prop_map(|page| Op::SetBrk { page }),
    ]
}

fn at(page: u64) -> UserAddr {
    UserAddr(page * PAGE_SIZE)
}

/// Does `op` on both and compares what they answer; gives it as home would
/// send it to a replica, if it was done.
fn step(op: &Op, space: &mut AddressSpace, model: &mut Model) -> Option<(SpaceOp, SpaceDone)> {
    let done = SpaceDone::Done { placed: Vec::new() };
    let mapped = |range| SpaceDone::Mapped {
        range,
        placed: Vec::new(),
    };
    match *op {
        Op::Map {
            at: page,
            count,
            prot,
            flags,
            file: spec,
        } => {
            let (prot, flags) = (Prot(prot), MapFlags(flags));
            let len = count * PAGE_SIZE - 1;
            let ours = space.map(at(page), len, prot, flags, backing(spec));
            let theirs = model.map(page, count, prot, flags, spec);
            assert_eq!(ours, theirs.map(|first| range(first, count)));
            let backing = spec.map_or(Backing::Anonymous, |(ino, offset)| Backing::File {
                file: file(ino),
                offset,
            });
            let op = SpaceOp::Map {
                addr: at(page),
                len,
                prot,
                flags,
                backing,
            };
            ours.ok().map(|range| (op, mapped(range)))
        }
        Op::Unmap { at: page, count } => {
            let before = space.total();
            let gone = space.unmap(range(page, count));
            model.unmap(page, count);
            assert_eq!(
                gone.iter().map(|v| v.range.len()).sum::<u64>(),
                before - space.total()
            );
            Some((
                SpaceOp::Unmap {
                    range: range(page, count),
                },
                done,
            ))
        }
        Op::Protect {
            at: page,
            count,
            prot,
        } => {
            let ours = space.protect(range(page, count), Prot(prot));
            assert_eq!(ours, model.protect(page, count, Prot(prot)));
            let op = SpaceOp::Protect {
                range: range(page, count),
                prot: Prot(prot),
            };
            // A failed one may have changed the part before a hole.
            Some((op, done))
        }
        Op::Remap {
            at: page,
            count,
            new,
            may_move,
            to,
        } => {
            let old = range(page, count);
            let ours = space.remap(old, new * PAGE_SIZE, may_move, to.map(at));
            let theirs = model.remap(page, count, new, may_move, to);
            assert_eq!(ours, theirs.map(|first| range(first, new)));
            let op = SpaceOp::Remap {
                old,
                new_len: new * PAGE_SIZE,
                may_move,
                to: to.map(at),
            };
            ours.ok().map(|range| (op, mapped(range)))
        }
        Op::Brk { addr } => {
            let ours = space.brk(UserAddr(addr));
            assert_eq!(ours, UserAddr(model.brk(addr)));
            let done = SpaceDone::Brk {
                addr: ours,
                placed: Vec::new(),
            };
            Some((
                SpaceOp::Brk {
                    addr: UserAddr(addr),
                },
                done,
            ))
        }
        Op::SetBrk { page } => {
            space.set_brk(at(page));
            model
                .brk
                .get_or_insert((page * PAGE_SIZE, page * PAGE_SIZE));
            Some((SpaceOp::SetBrk { addr: at(page) }, done))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn is_a_map_of_pages(ops in proptest::collection::vec(op(), 1..40), limit in 4..60_usize) {
        let mut space = AddressSpace::with_limit(limit);
        let mut model = Model::new(limit);
        for op in &ops {
            step(op, &mut space, &mut model);
            model.check(&space);
        }
    }

    #[test]
    fn failures_change_nothing(ops in proptest::collection::vec(op(), 1..40), limit in 1..8_usize) {
        let mut space = AddressSpace::with_limit(limit);
        let mut model = Model::new(limit);
        for op in &ops {
            let before = space.clone();
            if step(op, &mut space, &mut model).is_none() {
                prop_assert_eq!(&before, &space);
            }
        }
    }

    #[test]
    fn replicas_follow(ops in proptest::collection::vec(op(), 1..40)) {
        let mut home = AddressSpace::new();
        let mut model = Model::new(aspace::MAX_VMAS);
        let mut replica = AddressSpace::new();
        for op in &ops {
            let Some((op, done)) = step(op, &mut home, &mut model) else { continue };
            match &op {
                SpaceOp::Protect { range, prot } => drop(replica.protect(*range, *prot)),
                _ => prop_assert_eq!(replica.follow(&op, &done), Ok(())),
            }
            prop_assert_eq!(&replica, &home);
        }
    }
}
