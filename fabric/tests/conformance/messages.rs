//! Calls and their answers.

use crate::bed::{ALICE, Bed, DROP, ECHO, KEEP, Kind, THREAD, segment};
use fabric::{Access, Emulation, FabricError, Options};
use proto::wire::MAX_MESSAGE;
use std::time::{Duration, Instant};

pub(crate) fn messages_of_every_length(kind: Kind) {
    let bed = Bed::new(kind);
    let mut alice = bed.connect(ALICE);
    for len in [
        0,
        1,
        15,
        16,
        17,
        64,
        4096,
        65_535,
        65_536,
        65_537,
        300_000,
        MAX_MESSAGE,
    ] {
        let mut message: Vec<u8> = (0..len).map(|n| (n % 253) as u8).collect();
        if let Some(first) = message.first_mut() {
            *first = ECHO;
        }
        assert!(alice.call(&message).unwrap() == message, "{len} bytes");
    }
}

pub(crate) fn a_message_that_is_too_long(kind: Kind) {
    let bed = Bed::new(kind);
    let mut alice = bed.connect(ALICE);
    let answer = alice.call(&vec![ECHO; MAX_MESSAGE + 8192]);
    assert!(matches!(answer, Err(FabricError::Invalid(_))), "{answer:?}");
    assert_eq!(alice.call(b"e").unwrap(), b"e");
}

pub(crate) fn answers_may_come_from_other_threads(kind: Kind) {
    let bed = Bed::new(kind);
    let mut alice = bed.connect(ALICE);
    for n in 0..50 {
        assert_eq!(alice.call(&[THREAD, n]).unwrap(), [THREAD, n]);
    }
}

pub(crate) fn no_answer_in_time(kind: Kind) {
    let bed = Bed::new(kind);
    let mut alice = bed.connect(ALICE);
    let limit = Duration::from_millis(30);
    let begun = Instant::now();
    let answer = alice.call_timeout(&[KEEP], limit);
    assert!(
        matches!(answer, Err(FabricError::Timeout { .. })),
        "{answer:?}"
    );
    assert!(begun.elapsed() >= limit);
    // The answer may still come: it must not be taken for another's.
    assert!(alice.is_broken());
    bed.assert_sound();
}

pub(crate) fn a_request_that_is_dropped(kind: Kind) {
    let bed = Bed::new(kind);
    let mut alice = bed.connect(ALICE);
    let begun = Instant::now();
    let answer = alice.call(&[DROP]);
    assert!(
        matches!(answer, Err(FabricError::Broken { .. })),
        "{answer:?}"
    );
    assert!(
        begun.elapsed() < Options::default().call_timeout,
        "it is told, it does not wait"
    );
}

pub(crate) fn threads_share_a_peer(kind: Kind) {
    let bed = Bed::new(kind);
    let peer = bed.peer(ALICE);
    std::thread::scope(|scope| {
        for thread in 0..8u32 {
            let peer = peer.clone();
            scope.spawn(move || {
                for n in 0..100u32 {
                    let asked = (thread, n, vec![7u8; n as usize]);
                    let answer: (u32, u32, Vec<u8>) = peer.ask(&asked).unwrap();
                    assert_eq!(answer, asked);
                }
            });
        }
    });
}

pub(crate) fn an_emulated_network_takes_its_time(kind: Kind) {
    let bed = Bed::new(kind);
    let (_region, key) = bed.granted(1 << 20, ALICE, Access::ReadWrite);
    let emulation: Emulation = "latency=400us,bandwidth=1Gbit".parse().unwrap();
    let options = Options {
        emulation: Some(emulation),
        ..bed.options()
    };
    let mut alice = bed.connect_with(ALICE, &options).unwrap();
    let mut bytes = vec![0; 100_000];
    // 100 kB are 800 us at 1 Gbit/s.
    let least = Duration::from_micros(1200);
    let begun = Instant::now();
    alice.read(&segment(key, 0, 100_000), &mut bytes).unwrap();
    let read = begun.elapsed();
    alice.write(&segment(key, 0, 100_000), &bytes).unwrap();
    let written = begun.elapsed() - read;
    alice.call(&[ECHO; 64]).unwrap();
    let called = begun.elapsed() - read - written;
    assert!(read >= least && written >= least, "{read:?} {written:?}");
    assert!(called >= Duration::from_micros(400), "{called:?}");
    assert!(
        alice.mapped(segment(key, 0, 1)[0].remote, 1).is_none(),
        "a short cut around it"
    );
}
