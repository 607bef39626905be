//! Split-phase: operations posted now and completed later.

use crate::bed::{ALICE, Bed, DROP, ECHO, KEEP, Kind, THREAD, segment};
use fabric::{Access, FabricError, MOST_POSTED, MOST_SEGMENTS, Segment, Work};
use proto::addr::RemoteAddr;
use std::time::{Duration, Instant};

pub(crate) fn operations_complete_in_any_order_of_asking(kind: Kind) {
    let bed = Bed::new(kind);
    let (region, key) = bed.granted(1 << 20, ALICE, Access::ReadWrite);
    region.write(4096, b"before").unwrap();
    let mut alice = bed.connect(ALICE);
    let read = |at, len: u32| Work::Read(segment(key, at, len).to_vec(), vec![0; len as usize]);
    let first = alice.post(read(4096, 6)).unwrap();
    let call = alice.post(Work::Call(vec![THREAD, 1])).unwrap();
    let write = Work::Write(segment(key, 4096, 5).to_vec(), b"after".to_vec());
    let write = alice.post(write).unwrap();
    let second = alice.post(read(4096, 6)).unwrap();
    let last = alice.post(Work::Call(vec![ECHO, 2])).unwrap();
    assert_eq!(alice.complete(last).unwrap(), [ECHO, 2]);
    assert_eq!(
        alice.complete(second).unwrap(),
        b"aftere",
        "in the order of posting"
    );
    assert_eq!(alice.complete(first).unwrap(), b"before");
    assert_eq!(alice.complete(call).unwrap(), [THREAD, 1]);
    assert_eq!(
        alice.complete(write).unwrap(),
        b"after",
        "the buffer comes back"
    );
    let twice = alice.complete(first);
    assert!(matches!(twice, Err(FabricError::Invalid(_))), "{twice:?}");
    assert!(!alice.is_broken());
}

pub(crate) fn blocking_operations_go_between(kind: Kind) {
    let bed = Bed::new(kind);
    let (_region, key) = bed.granted(1 << 20, ALICE, Access::ReadWrite);
    let mut alice = bed.connect(ALICE);
    let mut tickets = Vec::new();
    for n in 0..40u8 {
        let at = u64::from(n) * 8192;
        let work = Work::Write(segment(key, at, 8192).to_vec(), vec![n + 1; 8192]);
        tickets.push((alice.post(work).unwrap(), n));
        let mut here = [0; 3];
        alice.read(&segment(key, at + 8189, 3), &mut here).unwrap();
        assert_eq!(here, [n + 1; 3], "what was posted before is seen");
        assert_eq!(alice.call(&[ECHO, n]).unwrap(), [ECHO, n]);
    }
    for (ticket, n) in tickets {
        assert_eq!(alice.complete(ticket).unwrap(), vec![n + 1; 8192]);
    }
}

/// More is posted than sockets hold in either direction.
pub(crate) fn much_is_posted_at_once(kind: Kind) {
    let bed = Bed::new(kind);
    let (_region, key) = bed.granted(MOST_POSTED as u64, ALICE, Access::ReadWrite);
    let mut alice = bed.connect(ALICE);
    let all = || segment(key, 0, MOST_POSTED as u32).to_vec();
    let mut tickets = Vec::new();
    for n in 0..6u8 {
        let write = Work::Write(all(), vec![n; MOST_POSTED]);
        tickets.push(alice.post(write).unwrap());
        tickets.push(
            alice
                .post(Work::Read(all(), vec![0xff; MOST_POSTED]))
                .unwrap(),
        );
    }
    for (n, pair) in tickets.chunks(2).enumerate() {
        let read = alice.complete(pair[1]).unwrap();
        assert!(read.iter().all(|b| *b == n as u8), "round {n}");
        alice.complete(pair[0]).unwrap();
    }
}

pub(crate) fn what_is_refused_is_told_at_completion(kind: Kind) {
    let bed = Bed::new(kind);
    let (region, key) = bed.granted(4096, ALICE, Access::Read);
    let mut alice = bed.connect(ALICE);
    let post = |c: &mut fabric::Connection, work| c.post(work).unwrap();
    let write = post(
        &mut alice,
        Work::Write(segment(key, 0, 8).to_vec(), vec![1; 8]),
    );
    let outside = post(
        &mut alice,
        Work::Read(segment(key, 4090, 8).to_vec(), vec![1; 8]),
    );
    let dropped = post(&mut alice, Work::Call(vec![DROP]));
    assert_eq!(alice.complete(outside), Err(FabricError::OutOfBounds));
    assert_eq!(alice.complete(write), Err(FabricError::AccessDenied));
    region.revoke(key);
    let revoked = post(
        &mut alice,
        Work::Read(segment(key, 0, 8).to_vec(), vec![1; 8]),
    );
    assert_eq!(alice.complete(revoked), Err(FabricError::BadKey));
    let given_up = alice.complete(dropped);
    assert!(
        matches!(given_up, Err(FabricError::Broken { .. })),
        "{given_up:?}"
    );
}

/// Of several operations under way one is refused, under a key that was good:
/// the others are carried out, and so are calls.
pub(crate) fn what_surrounds_a_refused_operation_is_done(kind: Kind) {
    let bed = Bed::new(kind);
    let (region, good) = bed.granted(1 << 20, ALICE, Access::ReadWrite);
    let mut alice = bed.connect(ALICE);
    for round in 1..=5u8 {
        let bad = region.grant(ALICE, 0..8192, Access::ReadWrite).unwrap();
        alice.write(&segment(bad, 0, 8), &[round; 8]).unwrap();
        let mut tickets = vec![alice.post(Work::Call(vec![THREAD, round])).unwrap()];
        region.revoke(bad);
        for key in [good, bad, good, bad, good] {
            let at = segment(key, 4096, 4096).to_vec();
            let write = Work::Write(at.clone(), vec![round; 4096]);
            tickets.push(alice.post(write).unwrap());
            tickets.push(alice.post(Work::Read(at, vec![0; 4096])).unwrap());
        }
        let results: Vec<_> = tickets.into_iter().map(|t| alice.complete(t)).collect();
        assert_eq!(results[0], Ok(vec![THREAD, round]));
        for (n, result) in results[1..].iter().enumerate() {
            let expected = match n / 2 {
                1 | 3 => Err(FabricError::BadKey),
                _ => Ok(vec![round; 4096]),
            };
            assert_eq!(*result, expected, "operation {n} of round {round}");
        }
    }
    assert!(!alice.is_broken());
}

/// Both directions are full at a time.
pub(crate) fn long_calls_are_posted_at_once(kind: Kind) {
    let bed = Bed::new(kind);
    let mut alice = bed.connect(ALICE);
    let request = |n: u8, how: u8| {
        let mut request = vec![n; 300_000 + usize::from(n)];
        request[0] = how;
        request
    };
    for how in [ECHO, THREAD] {
        let post = |n| alice.post(Work::Call(request(n, how))).unwrap();
        let tickets: Vec<_> = (0..8).map(post).collect();
        for (n, ticket) in tickets.into_iter().enumerate().rev() {
            assert!(alice.complete(ticket).unwrap() == request(n as u8, how));
        }
    }
}

pub(crate) fn what_cannot_be_posted_is_refused_at_once(kind: Kind) {
    let bed = Bed::new(kind);
    let (_region, key) = bed.granted(8 << 20, ALICE, Access::ReadWrite);
    let mut alice = bed.connect(ALICE);
    let long = MOST_POSTED as u32 + 1;
    let piece = Segment {
        local: 0,
        len: 1,
        remote: RemoteAddr { key, offset: 0 },
    };
    for work in [
        Work::Read(segment(key, 0, long).to_vec(), vec![0; long as usize]),
        Work::Read(vec![piece; MOST_SEGMENTS + 1], vec![0; 1]),
        Work::Write(segment(key, 0, 8).to_vec(), vec![0; 7]),
        Work::Read(Vec::new(), Vec::new()),
        Work::Call(vec![ECHO; 8 << 20]),
    ] {
        let bytes = work.bytes();
        let refused = alice.post(work);
        assert!(
            matches!(refused, Err(FabricError::Invalid(_))),
            "{bytes}: {refused:?}"
        );
    }
    assert_eq!(alice.call(b"e").unwrap(), b"e");
    // Blocking, the same is cut into what fits.
    alice
        .read(&vec![piece; MOST_SEGMENTS + 1], &mut [0; 1])
        .unwrap();
    let mut much = vec![1; 5 << 20];
    alice.read(&segment(key, 0, 5 << 20), &mut much).unwrap();
    assert!(much.iter().all(|b| *b == 0));
}

pub(crate) fn an_answer_that_does_not_come(kind: Kind) {
    let bed = Bed::new(kind);
    let options = fabric::Options {
        call_timeout: Duration::from_millis(40),
        ..bed.options()
    };
    let mut alice = bed.connect_with(ALICE, &options).unwrap();
    let ticket = alice.post(Work::Call(vec![KEEP])).unwrap();
    let late = alice.complete(ticket);
    assert!(matches!(late, Err(FabricError::Timeout { .. })), "{late:?}");
    assert!(alice.is_broken());
}

pub(crate) fn an_emulated_network_overlaps(kind: Kind) {
    let bed = Bed::new(kind);
    let (_region, key) = bed.granted(1 << 20, ALICE, Access::Read);
    let emulation = Some("latency=30ms".parse().unwrap());
    let options = fabric::Options {
        emulation,
        ..bed.options()
    };
    let mut alice = bed.connect_with(ALICE, &options).unwrap();
    let begun = Instant::now();
    let tickets: Vec<_> = (0..10)
        .map(|_| {
            alice
                .post(Work::Read(segment(key, 0, 64).to_vec(), vec![0; 64]))
                .unwrap()
        })
        .collect();
    for ticket in tickets {
        alice.complete(ticket).unwrap();
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(30), "{took:?}");
    assert!(
        took < Duration::from_millis(290),
        "ten round trips side by side: {took:?}"
    );
}
