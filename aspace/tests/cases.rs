//! The rules that people ask about, one by one.
#![allow(clippy::unwrap_used)]

use aspace::{AddressSpace, GUARD_GAP, TOP, VmaBacking};
use proto::Errno;
use proto::addr::{EXTENT_SIZE, PAGE_SIZE, USER_MAX, USER_MIN, UserAddr, UserRange};
use proto::mem::{MapFlags, Prot, SpaceDone, SpaceOp};

const RW: Prot = Prot::READ_WRITE;
const PRIVATE: MapFlags = MapFlags(0);

fn anon(space: &mut AddressSpace, at: u64, len: u64, flags: MapFlags) -> Result<UserRange, Errno> {
    space.map(UserAddr(at), len, RW, flags, VmaBacking::Anonymous)
}

fn range(at: u64, len: u64) -> UserRange {
    UserRange::new(UserAddr(at), len).unwrap()
}

#[test]
fn bad_arguments_have_the_errno_of_mmap() {
    let mut space = AddressSpace::new();
    let fixed = MapFlags::FIXED;
    assert_eq!(anon(&mut space, 0, 0, PRIVATE), Err(Errno::EINVAL));
    assert_eq!(anon(&mut space, 0, u64::MAX, PRIVATE), Err(Errno::ENOMEM));
    assert_eq!(anon(&mut space, 0x20_0001, 4096, fixed), Err(Errno::EINVAL));
    assert_eq!(anon(&mut space, 0, 4096, fixed), Err(Errno::EPERM));
    assert_eq!(
        anon(&mut space, USER_MAX.0, 4096, fixed),
        Err(Errno::ENOMEM)
    );
    assert_eq!(anon(&mut space, !4095, 4096, fixed), Err(Errno::ENOMEM));
    assert!(space.is_empty());
}

#[test]
fn unfixed_mappings_go_downwards_and_hints_are_honoured() {
    let mut space = AddressSpace::new();
    let first = anon(&mut space, 0, 1, PRIVATE).unwrap();
    assert_eq!(first.end(), TOP);
    let second = anon(&mut space, first.start().0, 8192, PRIVATE).unwrap();
    assert_eq!(second.end(), first.start(), "a taken hint is only a hint");
    assert_eq!(space.len(), 1, "they are one mapping");
    let hinted = anon(&mut space, 0x1234_5678, 8192, PRIVATE).unwrap();
    assert_eq!(hinted.start(), UserAddr(0x1234_6000));
    let low = anon(&mut space, 0, 8192, MapFlags::LOW).unwrap();
    assert_eq!(low.end(), UserAddr(1 << 31));
}

#[test]
fn refused_places_are_passed_over() {
    let space = AddressSpace::new();
    let limit = UserAddr(TOP.0 - (5 << 30));
    let avoid = |r: UserRange| (r.end() > limit).then_some(limit);
    let chosen = space.choose(4096, UserAddr(0), PRIVATE, &avoid).unwrap();
    assert_eq!(chosen.end(), limit);
    let never = |r: UserRange| Some(r.end());
    let small = UserAddr(USER_MIN.0);
    assert_eq!(
        space.choose(1 << 45, small, PRIVATE, &never),
        Err(Errno::ENOMEM),
        "a refusal that names nothing lower gives up"
    );
}

#[test]
fn stacks_keep_their_distance() {
    let mut space = AddressSpace::new();
    let stack = anon(&mut space, 0, 8 << 20, MapFlags::STACK).unwrap();
    let next = anon(&mut space, 0, 4096, PRIVATE).unwrap();
    assert_eq!(next.end().0, stack.start().0 - GUARD_GAP);
    let other = anon(&mut space, 0, 4096, MapFlags::STACK).unwrap();
    let third = anon(&mut space, 0, 4096, PRIVATE).unwrap();
    assert_eq!(other.end(), next.start());
    assert_eq!(third.end().0, other.start().0 - GUARD_GAP);
}

#[test]
fn the_break_stops_before_what_is_in_its_way() {
    let mut space = AddressSpace::new();
    assert_eq!(space.brk(UserAddr(0x50_0000)), UserAddr(0), "no heap yet");
    space.set_brk(UserAddr(0x50_0001));
    space.set_brk(UserAddr(0x70_0000));
    assert_eq!(space.brk(UserAddr(0)), UserAddr(0x50_1000));
    assert_eq!(space.brk(UserAddr(0x50_1234)), UserAddr(0x50_1234));
    assert_eq!(
        space.find(UserAddr(0x50_1fff)).map(|v| v.flags),
        Some(MapFlags::HEAP)
    );
    anon(&mut space, 0x60_0000, 4096, MapFlags::FIXED).unwrap();
    assert_eq!(space.brk(UserAddr(0x60_0000)), UserAddr(0x50_1234));
    assert_eq!(
        space.brk(UserAddr(0x5f_f000)),
        UserAddr(0x5f_f000),
        "a page stays between"
    );
    assert_eq!(space.brk(UserAddr(0x50_1000)), UserAddr(0x50_1000));
    assert_eq!(space.len(), 1);
    assert_eq!(space.brk(UserAddr(u64::MAX)), UserAddr(0x50_1000));
}

#[test]
fn memory_that_was_writable_stays_accounted() {
    let mut space = AddressSpace::new();
    let at = 16 * EXTENT_SIZE;
    let all = range(at, 2 * EXTENT_SIZE);
    let none = Prot::NONE;
    space
        .map(
            all.start(),
            all.len(),
            none,
            MapFlags::FIXED,
            VmaBacking::Anonymous,
        )
        .unwrap();
    assert_eq!(space.extents().count(), 0);
    assert!(space.extents_with(all, RW).eq([16, 17]));
    assert_eq!(space.extents_with(all, Prot::READ).count(), 0);
    space.protect(range(at, PAGE_SIZE), RW).unwrap();
    assert_eq!(space.extents().collect::<Vec<_>>(), [16]);
    space.protect(range(at, PAGE_SIZE), Prot::NONE).unwrap();
    assert!(space.is_accounted(16), "its page lives on");
    space.unmap(range(at, PAGE_SIZE));
    assert!(!space.is_accounted(16));
    assert!(!space.may_hold_pages(16));
}

#[test]
fn shared_files_and_noreserve_are_not_accounted() {
    let file = proto::mem::FileRef {
        id: proto::store::FileId { dev: 1, ino: 2 },
        storage: proto::NodeId(1),
        handle: proto::store::FileHandle(vec![]),
    };
    let backing = VmaBacking::File {
        file: std::sync::Arc::new(file),
        offset: 0,
    };
    let r = range(1 << 30, PAGE_SIZE);
    let account = |flags, b: &VmaBacking| AddressSpace::would_account(r, RW, flags, b);
    assert!(account(PRIVATE, &backing));
    assert!(account(MapFlags::SHARED, &VmaBacking::Anonymous));
    assert!(!account(MapFlags::SHARED, &backing));
    assert!(!account(MapFlags::NORESERVE, &VmaBacking::Anonymous));
}

#[test]
fn offsets_that_leave_the_file_are_refused() {
    let mut space = AddressSpace::new();
    let file = proto::mem::FileRef {
        id: proto::store::FileId { dev: 1, ino: 2 },
        storage: proto::NodeId(1),
        handle: proto::store::FileHandle(vec![]),
    };
    let file = std::sync::Arc::new(file);
    let mut at = |offset| {
        let backing = VmaBacking::File {
            file: file.clone(),
            offset,
        };
        space
            .map(UserAddr(0), 8192, Prot::READ, PRIVATE, backing)
            .map(UserRange::len)
    };
    assert_eq!(at(1), Err(Errno::EINVAL));
    assert_eq!(at(!4095), Err(Errno::EOVERFLOW));
    assert_eq!(at((1 << 63) - 8192), Err(Errno::EOVERFLOW));
    assert_eq!(at((1 << 63) - 12288), Ok(8192));
}

#[test]
fn a_replica_notices_that_it_differs() {
    let mut replica = AddressSpace::new();
    let op = SpaceOp::Brk {
        addr: UserAddr(0x50_2000),
    };
    let done = SpaceDone::Brk {
        addr: UserAddr(0x50_2000),
        placed: vec![],
    };
    assert_eq!(
        replica.follow(&op, &done),
        Err(Errno::EPROTO),
        "it has no heap"
    );
    let done = SpaceDone::Done { placed: vec![] };
    assert_eq!(
        replica.follow(&op, &done),
        Err(Errno::EPROTO),
        "no answer to brk"
    );
}
