//! Connections: who meets whom, how many, and again.

use crate::bed::{ALICE, BOB, Bed, Kind, eventually, segment};
use fabric::{
    Access, Backend, BackendChoice, ClusterKey, Connection, Credential, FabricError, Options,
    Server,
};
use proto::{Generation, Identity, NodeId};
use std::sync::Arc;

pub fn the_two_know_each_other(kind: Kind) {
    let bed = Bed::new(kind);
    let alice = bed.connect(ALICE);
    assert_eq!(alice.peer(), Identity::Operator);
    let backend = if kind == Kind::Shm {
        Backend::Shm
    } else {
        Backend::Tcp
    };
    assert_eq!(alice.backend(), backend);
    let registered = Identity::Node(NodeId(4), Generation(2));
    bed.server.set_identity(registered);
    assert_eq!(bed.connect(BOB).peer(), registered);
}

pub fn another_testbeds_key_is_refused(kind: Kind) {
    let bed = Bed::new(kind);
    let other = ClusterKey::generate().unwrap();
    let credential = Credential {
        identity: ALICE,
        secret: other.derive(ALICE),
    };
    let refused = Connection::open(&bed.server.addrs(), &credential, &bed.options());
    let error = refused.err().expect("it was let in");
    assert!(matches!(error, FabricError::Rejected { .. }), "{error}");
    // A secret proves its own identity and no other.
    let credential = Credential {
        identity: BOB,
        secret: bed.key.derive(ALICE),
    };
    let refused = Connection::open(&bed.server.addrs(), &credential, &bed.options());
    assert!(matches!(refused, Err(FabricError::Rejected { .. })));
    assert!(
        !bed.tester
            .events
            .lock()
            .unwrap()
            .iter()
            .any(|(_, who)| *who == BOB)
    );
    bed.assert_sound();
}

pub fn nobody_is_there(kind: Kind) {
    let bed = Bed::new(kind);
    let addrs = bed.server.addrs();
    bed.server.shutdown();
    let address = match kind {
        Kind::Shm => addrs[0].clone(),
        // Port 1 of this host: nothing listens there.
        Kind::Tcp => "tcp:127.0.0.1:1".to_owned(),
    };
    let opened = Connection::open(&[address.clone()], &bed.credential(ALICE), &bed.options());
    let error = opened.err().expect("somebody answered");
    assert!(matches!(error, FabricError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&address), "{error}");
}

pub fn a_hundred_connections(kind: Kind) {
    let bed = Bed::new(kind);
    let (_region, key) = bed.granted(1 << 20, ALICE, Access::Read);
    let mut all: Vec<Connection> = (0..100).map(|_| bed.connect(ALICE)).collect();
    for (n, connection) in all.iter_mut().enumerate() {
        assert_eq!(connection.call(&[n as u8]).unwrap(), [n as u8]);
        connection
            .read(&segment(key, n as u64, 8), &mut [1; 8])
            .unwrap();
    }
}

pub fn many_short_connections(kind: Kind) {
    let bed = Bed::new(kind);
    for n in 0..500u32 {
        let mut connection = bed.connect(ALICE);
        if n % 3 > 0 {
            assert_eq!(connection.call(&n.to_le_bytes()).unwrap(), n.to_le_bytes());
        }
    }
    bed.assert_sound();
}

pub fn a_peer_comes_and_goes(kind: Kind) {
    let bed = Bed::new(kind);
    let events = || bed.tester.events.lock().unwrap().clone();
    let first = bed.connect(ALICE);
    let second = bed.connect(ALICE);
    let mut bob = bed.connect(BOB);
    eventually("three connected", || events().len() == 3);
    drop(first);
    bob.call(b"e").unwrap();
    drop(bob);
    eventually("bob is gone", || events().contains(&("gone", BOB)));
    assert!(!events().contains(&("gone", ALICE)), "one of two is left");
    drop(second);
    eventually("alice is gone", || events().contains(&("gone", ALICE)));
    assert_eq!(events().len(), 5);
}

pub fn a_peer_reconnects_after_a_restart(kind: Kind) {
    let bed = Bed::new(kind);
    let peer = bed.peer(ALICE);
    let (_region, key) = bed.granted(4096, ALICE, Access::ReadWrite);
    peer.get()
        .unwrap()
        .write(&segment(key, 0, 1), &[1])
        .unwrap();
    assert_eq!(peer.ask::<_, u32>(&7u32).unwrap(), 7);
    bed.server.shutdown();
    eventually("the old server is gone", || {
        peer.ask::<_, u32>(&7u32).is_err()
    });
    let addrs = bed.server.addrs();
    let restarted = Server::bind(&addrs, Identity::Operator, bed.key.clone()).unwrap();
    restarted.serve(bed.tester.clone()).unwrap();
    eventually("it answers again", || peer.ask::<_, u32>(&8u32) == Ok(8));
    // Memory of before is not memory of now: not by its key, not by a mapping.
    let region = restarted.memory().register(4096, "now").unwrap();
    let now = region.grant(ALICE, 0..4096, Access::ReadWrite).unwrap();
    let mut connection = peer.get().unwrap();
    let mut byte = [0xee];
    connection.read(&segment(now, 0, 1), &mut byte).unwrap();
    assert_eq!(byte, [0]);
    assert_eq!(
        connection.read(&segment(key, 0, 1), &mut byte),
        Err(FabricError::BadKey)
    );
    drop(connection);
    restarted.shutdown();
}

pub fn only_the_chosen_backend_is_used(kind: Kind) {
    let bed = Bed::new(kind);
    let other = if kind == Kind::Shm {
        BackendChoice::Tcp
    } else {
        BackendChoice::Shm
    };
    let options = Options {
        choice: other,
        ..Options::default()
    };
    let opened = bed.connect_with(ALICE, &options);
    assert!(matches!(opened, Err(FabricError::Unreachable { .. })));
    let options = Options {
        choice: BackendChoice::Auto,
        ..Options::default()
    };
    assert!(bed.connect_with(ALICE, &options).is_ok());
}

pub fn an_address_in_use_is_not_taken_over(kind: Kind) {
    let bed = Bed::new(kind);
    let second = Server::bind(&bed.server.addrs(), Identity::Operator, bed.key.clone());
    assert!(second.is_err());
    bed.assert_sound();
    // Descriptors of ours go where they are told.
    let options = Options {
        fd_floor: Some(500),
        ..bed.options()
    };
    let mut high = bed.connect_with(ALICE, &options).unwrap();
    assert_eq!(high.call(b"e").unwrap(), b"e");
    drop(Arc::clone(&bed.tester));
}
