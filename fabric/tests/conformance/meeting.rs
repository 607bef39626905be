//! Connections: who meets whom, how many, and again.

use crate::bed::{ALICE, BOB, Bed, ECHO, Kind, eventually, segment};
use fabric::{
    Access, Backend, BackendChoice, ClusterKey, Connection, Credential, FabricError, Options,
    Server,
};
use proto::{Generation, Identity, NodeId};

pub(crate) fn the_two_know_each_other(kind: Kind) {
    let bed = Bed::new(kind);
    let alice = bed.connect(ALICE);
    assert_eq!(alice.peer(), Identity::Operator);
    let backend = match kind {
        Kind::Shm => Backend::Shm,
        Kind::Tcp => Backend::Tcp,
        Kind::Sim => Backend::Sim,
        Kind::Verbs => Backend::Verbs,
    };
    assert_eq!(alice.backend(), backend);
    let registered = Identity::Node(NodeId(4), Generation(2));
    bed.server.set_identity(registered);
    assert_eq!(bed.connect(BOB).peer(), registered);
}

pub(crate) fn another_testbeds_key_is_refused(kind: Kind) {
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

pub(crate) fn nobody_is_there(kind: Kind) {
    let bed = Bed::new(kind);
    let addrs = bed.server.addrs();
    bed.server.shutdown();
    let address = match kind {
        Kind::Shm | Kind::Sim => addrs[0].clone(),
        // Port 1 of this host: nothing listens there.
        Kind::Tcp => "tcp:127.0.0.1:1".to_owned(),
        Kind::Verbs => "verbs:127.0.0.1:1".to_owned(),
    };
    let opened = Connection::open(&[address.clone()], &bed.credential(ALICE), &bed.options());
    let error = opened.err().expect("somebody answered");
    assert!(matches!(error, FabricError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&address), "{error}");
}

pub(crate) fn a_hundred_connections(kind: Kind) {
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

pub(crate) fn many_short_connections(kind: Kind) {
    let bed = Bed::new(kind);
    for n in 0..500u32 {
        let mut connection = bed.connect(ALICE);
        if n % 3 > 0 {
            let request = [ECHO, n as u8, (n >> 8) as u8];
            assert_eq!(connection.call(&request).unwrap(), request);
        }
    }
    bed.assert_sound();
}

pub(crate) fn a_peer_comes_and_goes(kind: Kind) {
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

pub(crate) fn only_the_chosen_backend_is_used(kind: Kind) {
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

pub(crate) fn an_address_in_use_is_not_taken_over(kind: Kind) {
    let bed = Bed::new(kind);
    let second = Server::bind(&bed.server.addrs(), Identity::Operator, bed.key.clone());
    assert!(second.is_err());
    bed.assert_sound();
}

/// A program in the same process must not meet our descriptors.
pub(crate) fn descriptors_go_above_the_floor(kind: Kind) {
    let bed = Bed::new(kind);
    let (_region, key) = bed.granted(4096, ALICE, Access::Read);
    let options = Options {
        fd_floor: Some(700),
        ..bed.options()
    };
    let mut all = Vec::new();
    for _ in 0..20 {
        let mut high = bed.connect_with(ALICE, &options).unwrap();
        high.read(&segment(key, 0, 8), &mut [0; 8]).unwrap();
        all.push(high);
    }
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let number = |e: std::io::Result<std::fs::DirEntry>| {
        e.unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .parse::<u32>()
            .unwrap()
    };
    let above = open.map(number).filter(|n| *n >= 700).count();
    assert!(above >= all.len(), "{above} descriptors above 700");
}
