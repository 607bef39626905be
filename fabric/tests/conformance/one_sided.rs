//! Reads and writes of granted memory.

use crate::bed::{ALICE, BOB, Bed, Kind, LOOK, segment};
use fabric::{Access, FabricError, Memory, Segment};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use proto::addr::{RemoteAddr, RemoteKey};

const PAGE: usize = 4096;

pub(crate) fn what_is_written_is_read(kind: Kind) {
    let bed = Bed::new(kind);
    let (region, key) = bed.granted(1 << 20, ALICE, Access::ReadWrite);
    let mut alice = bed.connect(ALICE);
    let bytes: Vec<u8> = (0..PAGE).map(|n| (n % 251) as u8).collect();
    alice
        .write(&segment(key, 8192, PAGE as u32), &bytes)
        .unwrap();
    let mut own = vec![0; PAGE];
    region.read(8192, &mut own).unwrap();
    assert_eq!(own, bytes);
    region.write(8193, b"owner").unwrap();
    let mut read = vec![0; PAGE];
    alice
        .read(&segment(key, 8192, PAGE as u32), &mut read)
        .unwrap();
    assert_eq!(
        (&read[..1], &read[1..6], &read[6..]),
        (&bytes[..1], &b"owner"[..], &bytes[6..])
    );
}

pub(crate) fn a_batch_moves_all_its_segments(kind: Kind) {
    let bed = Bed::new(kind);
    let (region, key) = bed.granted(1 << 20, ALICE, Access::ReadWrite);
    let mut alice = bed.connect(ALICE);
    // Backwards here, forwards there, with an empty one among them.
    let segments: Vec<Segment> = (0..16u32)
        .map(|n| Segment {
            local: (15 - n) * 100,
            len: if n == 7 { 0 } else { 100 },
            remote: RemoteAddr {
                key,
                offset: u64::from(n) * 5000,
            },
        })
        .collect();
    let src: Vec<u8> = (0..1600).map(|n| (n / 100) as u8 + 1).collect();
    alice.write(&segments, &src).unwrap();
    for n in (0..16u64).filter(|n| *n != 7) {
        let mut there = [0; 100];
        region.read(n * 5000, &mut there).unwrap();
        assert_eq!(there, [16 - n as u8; 100]);
    }
    let mut back = vec![0; 1600];
    alice.read(&segments, &mut back).unwrap();
    let expected: Vec<u8> = src.iter().map(|b| if *b == 9 { 0 } else { *b }).collect();
    assert_eq!(back, expected);
    alice.read(&[], &mut []).unwrap();
    alice.write(&[], &[]).unwrap();
}

pub(crate) fn a_megabyte_at_once(kind: Kind) {
    let bed = Bed::new(kind);
    let (_region, key) = bed.granted(4 << 20, ALICE, Access::ReadWrite);
    let mut alice = bed.connect(ALICE);
    let len = 1 << 20;
    let src: Vec<u8> = (0..len).map(|n| (n * 31 / 7) as u8).collect();
    alice.write(&segment(key, 123, len as u32), &src).unwrap();
    let pages: Vec<Segment> = (0..256u32)
        .map(|n| Segment {
            local: n * PAGE as u32,
            len: PAGE as u32,
            remote: RemoteAddr {
                key,
                offset: 123 + u64::from(n) * PAGE as u64,
            },
        })
        .collect();
    let mut back = vec![0; len];
    alice.read(&pages, &mut back).unwrap();
    assert!(back == src);
}

pub(crate) fn the_bounds_of_a_grant_hold(kind: Kind) {
    let bed = Bed::new(kind);
    let region = bed.memory().register(1 << 20, "bounds").unwrap();
    region.write(0, &[1; 3 * PAGE]).unwrap();
    let (from, to) = (PAGE as u64, 2 * PAGE as u64);
    let key = region.grant(ALICE, from..to, Access::ReadWrite).unwrap();
    let mut alice = bed.connect(ALICE);
    let mut bytes = vec![7; 2 * PAGE];
    for (offset, len) in [
        (0, PAGE + 1),
        (to - from, 1),
        (1, PAGE),
        (u64::MAX, 1),
        (u64::MAX - 10, 11),
    ] {
        let outside = segment(key, offset, len as u32);
        assert_eq!(
            alice.read(&outside, &mut bytes),
            Err(FabricError::OutOfBounds)
        );
        assert_eq!(alice.write(&outside, &bytes), Err(FabricError::OutOfBounds));
    }
    alice
        .write(&segment(key, 0, PAGE as u32), &[9; PAGE])
        .unwrap();
    let mut all = vec![0; 3 * PAGE];
    region.read(0, &mut all).unwrap();
    assert_eq!(all, [vec![1; PAGE], vec![9; PAGE], vec![1; PAGE]].concat());
    assert_eq!(
        region.grant(ALICE, 0..(1 << 20) + 1, Access::Read),
        Err(FabricError::OutOfBounds)
    );
    assert_eq!(
        region.grant(ALICE, 5..5, Access::Read),
        Err(FabricError::OutOfBounds)
    );
    assert_eq!(
        region.read(1 << 20, &mut [0]),
        Err(FabricError::OutOfBounds)
    );
    assert_eq!(region.write(u64::MAX, &[0]), Err(FabricError::OutOfBounds));
}

pub(crate) fn a_read_grant_is_not_for_writing(kind: Kind) {
    let bed = Bed::new(kind);
    let (region, key) = bed.granted(PAGE as u64, ALICE, Access::Read);
    region.write(0, b"safe").unwrap();
    let mut alice = bed.connect(ALICE);
    assert_eq!(
        alice.write(&segment(key, 0, 4), b"gone"),
        Err(FabricError::AccessDenied)
    );
    let mut bytes = [0; 4];
    alice.read(&segment(key, 0, 4), &mut bytes).unwrap();
    assert_eq!(&bytes, b"safe");
    assert!(!alice.is_broken());
}

pub(crate) fn a_revoked_key_is_dead(kind: Kind) {
    let bed = Bed::new(kind);
    let (region, key) = bed.granted(PAGE as u64, ALICE, Access::ReadWrite);
    let mut alice = bed.connect(ALICE);
    let mut bytes = [0; 8];
    alice.read(&segment(key, 0, 8), &mut bytes).unwrap();
    region.revoke(key);
    assert_eq!(
        alice.read(&segment(key, 0, 8), &mut bytes),
        Err(FabricError::BadKey)
    );
    assert_eq!(
        alice.write(&segment(key, 0, 8), &[1; 8]),
        Err(FabricError::BadKey)
    );
    region.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 8]);
    // The next grant may use the same slot: the old key stays dead.
    let again = region
        .grant(ALICE, 0..PAGE as u64, Access::ReadWrite)
        .unwrap();
    assert_eq!(
        alice.read(&segment(key, 0, 8), &mut bytes),
        Err(FabricError::BadKey)
    );
    alice.write(&segment(again, 0, 8), &[2; 8]).unwrap();
    // Revoking twice takes nothing else with it.
    region.revoke(key);
    alice.read(&segment(again, 0, 8), &mut bytes).unwrap();
    assert_eq!(bytes, [2; 8]);
}

pub(crate) fn a_key_that_was_never_granted(kind: Kind) {
    let bed = Bed::new(kind);
    let (_region, key) = bed.granted(PAGE as u64, ALICE, Access::ReadWrite);
    let mut alice = bed.connect(ALICE);
    let mut byte = [0];
    for wrong in [
        RemoteKey {
            nonce: key.nonce.wrapping_add(1),
            ..key
        },
        RemoteKey { nonce: 0, ..key },
        RemoteKey {
            slot: key.slot + 1,
            ..key
        },
        RemoteKey {
            slot: u32::MAX,
            ..key
        },
        RemoteKey {
            region: 0,
            slot: 0,
            nonce: 0,
        },
    ] {
        let read = alice.read(&segment(wrong, 0, 1), &mut byte);
        assert_eq!(read, Err(FabricError::BadKey), "{wrong:?}");
        let write = alice.write(&segment(wrong, 0, 1), &byte);
        assert_eq!(write, Err(FabricError::BadKey), "{wrong:?}");
    }
    alice.read(&segment(key, 0, 1), &mut byte).unwrap();
}

pub(crate) fn a_key_is_for_its_holder(kind: Kind) {
    let bed = Bed::new(kind);
    let (region, key) = bed.granted(PAGE as u64, ALICE, Access::ReadWrite);
    region.write(0, b"private").unwrap();
    let mut bob = bed.connect(BOB);
    let mut bytes = [0; 7];
    assert_eq!(
        bob.read(&segment(key, 0, 7), &mut bytes),
        Err(FabricError::BadKey)
    );
    assert_eq!(
        bob.write(&segment(key, 0, 7), &bytes),
        Err(FabricError::BadKey)
    );
    assert_eq!(bytes, [0; 7]);
    assert_eq!(bob.call(b"e").unwrap(), b"e", "the connection lives on");
    bed.connect(ALICE)
        .read(&segment(key, 0, 7), &mut bytes)
        .unwrap();
    assert_eq!(&bytes, b"private");
}

pub(crate) fn the_keys_of_a_dropped_region_die(kind: Kind) {
    let bed = Bed::new(kind);
    let region = bed.memory().register(PAGE as u64, "dropped").unwrap();
    let key = region
        .grant(ALICE, 0..PAGE as u64, Access::ReadWrite)
        .unwrap();
    let mut alice = bed.connect(ALICE);
    alice.write(&segment(key, 0, 1), &[1]).unwrap();
    let clone = region.clone();
    drop(region);
    alice.write(&segment(key, 0, 1), &[2]).unwrap();
    drop(clone);
    assert_eq!(
        alice.write(&segment(key, 0, 1), &[3]),
        Err(FabricError::BadKey)
    );
}

pub(crate) fn a_write_arrives_before_the_message_after_it(kind: Kind) {
    let bed = Bed::new(kind);
    let (_region, key) = bed.granted(PAGE as u64, ALICE, Access::ReadWrite);
    let mut alice = bed.connect(ALICE);
    for n in 1..=50u8 {
        alice.write(&segment(key, 0, 1), &[n]).unwrap();
        assert_eq!(alice.call(&[LOOK]).unwrap(), [n]);
    }
}

pub(crate) fn zeroed_memory_reads_as_zeros(kind: Kind) {
    let bed = Bed::new(kind);
    let (region, key) = bed.granted(8 * PAGE as u64, ALICE, Access::ReadWrite);
    let mut alice = bed.connect(ALICE);
    region.commit(0..8 * PAGE as u64).unwrap();
    alice
        .write(&segment(key, 0, 8 * PAGE as u32), &[5; 8 * PAGE])
        .unwrap();
    region.zero(100..5 * PAGE as u64 + 7).unwrap();
    let mut back = vec![1; 8 * PAGE];
    alice
        .read(&segment(key, 0, 8 * PAGE as u32), &mut back)
        .unwrap();
    let expected: Vec<u8> = (0..8 * PAGE)
        .map(|n| {
            if (100..5 * PAGE + 7).contains(&n) {
                0
            } else {
                5
            }
        })
        .collect();
    assert!(back == expected);
    assert!(region.zero(0..8 * PAGE as u64 + 1).is_err());
    assert!(region.commit(0..8 * PAGE as u64 + 1).is_err());
}

/// As huge pages or without, the first time and again.
pub(crate) fn committed_memory_reads_as_zeros(kind: Kind) {
    const LEN: usize = 2 << 20;
    let bed = Bed::new(kind);
    let (region, key) = bed.granted(2 * LEN as u64, ALICE, Access::ReadWrite);
    let mut alice = bed.connect(ALICE);
    let (range, at) = (LEN as u64..2 * LEN as u64, 2 * LEN - PAGE);
    for _ in 0..4 {
        region.commit(range.clone()).unwrap();
        let mut back = vec![1; LEN];
        region.read(range.start, &mut back).unwrap();
        assert!(back.iter().all(|b| *b == 0));
        let page = segment(key, at as u64, PAGE as u32);
        alice.write(&page, &[5; PAGE]).unwrap();
        alice.read(&page, &mut back[..PAGE]).unwrap();
        assert!(back[..PAGE].iter().all(|b| *b == 5));
        region.zero(range.clone()).unwrap();
    }
}

pub(crate) fn segments_outside_the_buffer_are_refused(kind: Kind) {
    let bed = Bed::new(kind);
    let (_region, key) = bed.granted(PAGE as u64, ALICE, Access::ReadWrite);
    let mut alice = bed.connect(ALICE);
    for (local, len) in [(0, 9), (8, 1), (u32::MAX, 2), (2, u32::MAX)] {
        let wrong = [Segment {
            local,
            len,
            remote: RemoteAddr { key, offset: 0 },
        }];
        let read = alice.read(&wrong, &mut [0; 8]);
        assert!(matches!(read, Err(FabricError::Invalid(_))), "{read:?}");
        let write = alice.write(&wrong, &[0; 8]);
        assert!(matches!(write, Err(FabricError::Invalid(_))), "{write:?}");
    }
    assert!(!alice.is_broken());
}

/// Any sequence of reads and writes, of any segments, gives what a plain
/// array gives; what is refused changes nothing that it should not.
pub(crate) fn any_transfers_agree_with_a_model(kind: Kind) {
    const LEN: usize = 20_000;
    let bed = Bed::new(kind);
    let (region, key) = bed.granted(LEN as u64, ALICE, Access::ReadWrite);
    let alice = std::cell::RefCell::new(bed.connect(ALICE));
    let piece = (0..LEN, 0usize..3000).prop_map(|(at, len)| (at, len.min(LEN - at)));
    let transfer = (
        any::<bool>(),
        any::<u8>(),
        proptest::collection::vec(piece, 1..20),
    );
    let transfers = proptest::collection::vec(transfer, 1..12);
    let mut runner = TestRunner::new(Config {
        cases: 40,
        ..Config::default()
    });
    let agrees = |transfers: Vec<(bool, u8, Vec<(usize, usize)>)>| {
        let mut model = vec![0u8; LEN];
        region.zero(0..LEN as u64).unwrap();
        for (is_write, seed, pieces) in transfers {
            let mut local = 0;
            let segments: Vec<Segment> = pieces
                .iter()
                .map(|(at, len)| {
                    let remote = RemoteAddr {
                        key,
                        offset: *at as u64,
                    };
                    let s = Segment {
                        local,
                        len: *len as u32,
                        remote,
                    };
                    local += *len as u32;
                    s
                })
                .collect();
            let mut bytes: Vec<u8> = (0..local).map(|n| (n as u8).wrapping_add(seed)).collect();
            let mut alice = alice.borrow_mut();
            if is_write {
                alice.write(&segments, &bytes).unwrap();
                for ((at, len), s) in pieces.iter().zip(&segments) {
                    let from = s.local as usize;
                    model[*at..at + len].copy_from_slice(&bytes[from..from + len]);
                }
            } else {
                alice.read(&segments, &mut bytes).unwrap();
                for ((at, len), s) in pieces.iter().zip(&segments) {
                    let from = s.local as usize;
                    prop_assert!(model[*at..at + len] == bytes[from..from + len]);
                }
            }
        }
        let mut whole = vec![0; LEN];
        region.read(0, &mut whole).unwrap();
        prop_assert!(whole == model);
        Ok(())
    };
    runner.run(&transfers, agrees).unwrap();
}

pub(crate) fn a_region_is_written_by_one_identity_alone(kind: Kind) {
    let bed = Bed::new(kind);
    let (region, key) = bed.granted(2 * PAGE as u64, ALICE, Access::ReadWrite);
    let half = PAGE as u64..2 * PAGE as u64;
    for access in [Access::Read, Access::ReadWrite, Access::Shared] {
        let second = region.grant(BOB, half.clone(), access);
        assert!(matches!(second, Err(FabricError::Invalid(_))), "{access:?}");
    }
    assert!(region.grant(ALICE, half.clone(), Access::Read).is_ok());
    let shared = bed.memory().register(PAGE as u64, "shared").unwrap();
    let one = shared.grant(ALICE, 0..8, Access::Shared).unwrap();
    let other = shared.grant(BOB, 0..8, Access::Shared).unwrap();
    bed.connect(ALICE)
        .write(&segment(one, 0, 5), b"hello")
        .unwrap();
    let mut seen = [0; 5];
    bed.connect(BOB)
        .read(&segment(other, 0, 5), &mut seen)
        .unwrap();
    assert_eq!(&seen, b"hello");
    region.revoke(key);
    let after = region.grant(BOB, half, Access::Read);
    assert!(after.is_err(), "alice may have kept what she was handed");
}

pub(crate) fn what_was_granted_is_fetched_into_a_region(kind: Kind) {
    let bed = Bed::new(kind);
    let (theirs, key) = bed.granted(1 << 20, ALICE, Access::Read);
    let bytes: Vec<u8> = (0..300_000u32).map(|n| (n * 7 / 3) as u8).collect();
    theirs.write(5000, &bytes).unwrap();
    let mut alice = bed.connect(ALICE);
    let own = Memory::new().unwrap().register(4 << 20, "own").unwrap();
    let at = |offset| RemoteAddr { key, offset };
    let len = bytes.len() as u32;
    own.commit(0..2 << 20).unwrap();
    for (to, committed) in [(123, true), (3 << 20, false)] {
        own.fetch(to, &mut alice, at(5000), len, committed).unwrap();
        let mut there = vec![1; bytes.len() + 2];
        own.read(to - 1, &mut there).unwrap();
        assert_eq!((there[0], there[bytes.len() + 1]), (0, 0));
        assert_eq!(there[1..=bytes.len()], bytes);
    }
    let outside = own.fetch((4 << 20) - 1, &mut alice, at(0), 2, true);
    assert_eq!(outside, Err(FabricError::OutOfBounds));
    let outside = own.fetch(0, &mut alice, at((1 << 20) - 1), 2, true);
    assert_eq!(outside, Err(FabricError::OutOfBounds));
    theirs.revoke(key);
    let revoked = own.fetch(0, &mut alice, at(0), 4096, true);
    assert_eq!(revoked, Err(FabricError::BadKey));
    alice.call(&[LOOK]).unwrap();
}
