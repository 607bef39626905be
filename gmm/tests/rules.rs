//! The managers' rules, one by one, on a store in memory and virtual time.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking

mod common;

use common::{LEASE, as_node, config, heartbeat, ms, register, register_at, registered};
use gmm::core::policy::Policy;
use gmm::core::{Config, PathRule};
use gmm::manager::Manager;
use gmm::store::Store;
use proto::gmm::{GmmReply, GmmRequest, Load, NodeInfo, ProcessGrant, Refusal, Status};
use proto::store::FileId;
use proto::{Generation, Identity, NodeId, NodeKind, ProcessId, VRegionId};
use std::time::Duration;

type Me = (NodeId, Generation);

struct Gmm {
    manager: Manager,
    now: Duration,
}

impl Gmm {
    fn new(config: Config) -> Gmm {
        let store = Store::in_memory().unwrap();
        Gmm {
            manager: Manager::new(config, store, ms(0)).unwrap(),
            now: ms(0),
        }
    }
    fn ask(&mut self, from: Identity, request: &GmmRequest) -> GmmReply {
        self.manager.handle_request(from, request, self.now)
    }
    fn operator(&mut self, request: &GmmRequest) -> GmmReply {
        self.ask(Identity::Operator, request)
    }
    fn join(&mut self, kind: NodeKind, name: &str) -> Me {
        registered(&self.operator(&register(kind, name, 1)))
    }
    fn beat(&mut self, me: Me) -> GmmReply {
        self.ask(as_node(me), &heartbeat(me.0, me.1))
    }
    /// Time passes in ticks, as it does for the real one.
    fn pass(&mut self, time: Duration, alive: &[Me]) {
        let end = self.now + time;
        while self.now < end {
            self.now = (self.now + ms(100)).min(end);
            for me in alive {
                assert_eq!(self.beat(*me), GmmReply::Done);
            }
            self.manager.handle_time(self.now);
        }
    }
    fn status(&mut self) -> Status {
        match self.operator(&GmmRequest::Status) {
            GmmReply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }
    fn members(&mut self) -> Vec<String> {
        match self.operator(&GmmRequest::Members) {
            GmmReply::Members(all) => all.into_iter().map(|n| n.name).collect(),
            other => panic!("{other:?}"),
        }
    }
    fn create(&mut self, me: Me) -> Result<ProcessGrant, Refusal> {
        let request = GmmRequest::CreateProcess {
            node: me.0,
            name: "program".to_owned(),
        };
        match self.ask(as_node(me), &request) {
            GmmReply::Process(grant) => Ok(grant),
            GmmReply::Refused(why) => Err(why),
            other => panic!("{other:?}"),
        }
    }
    fn place(
        &mut self,
        from: Identity,
        process: ProcessId,
        vregion: u32,
        not: &[NodeId],
    ) -> Result<NodeId, Refusal> {
        let request = GmmRequest::PlaceVRegion {
            process,
            vregion: VRegionId(vregion),
            bytes: 1 << 21,
            not: not.to_vec(),
        };
        placed(self.ask(from, &request)).map(|n| n.id)
    }
    fn place_file(&mut self, ino: u64, storage: NodeId) -> Result<NodeId, Refusal> {
        let file = FileId { dev: 1, ino };
        placed(self.operator(&GmmRequest::PlaceFile { file, storage })).map(|n| n.id)
    }
    fn place_path(&mut self, path: &str) -> Result<String, Refusal> {
        let path = path.as_bytes().to_vec();
        placed(self.operator(&GmmRequest::PlacePath { path })).map(|n| n.name)
    }
}

fn placed(reply: GmmReply) -> Result<NodeInfo, Refusal> {
    match reply {
        GmmReply::Placed(info) => Ok(info),
        GmmReply::Refused(why) => Err(why),
        other => panic!("{other:?}"),
    }
}

fn refused(reply: &GmmReply) -> &Refusal {
    match reply {
        GmmReply::Refused(why) => why,
        other => panic!("{other:?}"),
    }
}

/// A processor, two memory components and a storage component.
fn testbed() -> (Gmm, Me, [Me; 2], Me) {
    let mut gmm = Gmm::new(config(Policy::RoundRobin));
    let memory = ["m0", "m1"].map(|name| gmm.join(NodeKind::Memory, name));
    let storage = gmm.join(NodeKind::Storage, "s0");
    let processor = gmm.join(NodeKind::Processor, "p0");
    (gmm, processor, memory, storage)
}

#[test]
fn the_same_start_gets_the_same_answer_and_another_a_new_generation() {
    let mut gmm = Gmm::new(config(Policy::RoundRobin));
    let first = gmm.join(NodeKind::Memory, "m0");
    assert_eq!(gmm.join(NodeKind::Memory, "m0"), first);
    let leave = GmmRequest::Leave {
        node: first.0,
        generation: first.1,
    };
    assert_eq!(gmm.ask(as_node(first), &leave), GmmReply::Done);
    assert_eq!(
        gmm.ask(as_node(first), &leave),
        GmmReply::Done,
        "leaving twice is leaving once"
    );
    assert!(gmm.members().is_empty());
    let again = registered(&gmm.operator(&register(NodeKind::Memory, "m0", 2)));
    assert_eq!(again, (first.0, Generation(first.1.0 + 1)));
}

#[test]
fn a_live_name_is_taken_unless_it_is_a_restart_in_place() {
    let mut gmm = Gmm::new(config(Policy::RoundRobin));
    let at = |incarnation, addr| register_at(NodeKind::Memory, "m0", incarnation, addr);
    let first = registered(&gmm.operator(&at(1, "shm:/run/a")));
    let other = gmm.operator(&at(2, "shm:/run/b"));
    assert_eq!(refused(&other), &Refusal::NameTaken("m0".to_owned()));
    let restarted = registered(&gmm.operator(&at(3, "shm:/run/a")));
    assert_eq!(restarted, (first.0, Generation(2)));
    assert!(matches!(refused(&gmm.beat(first)), Refusal::Stale { .. }));
    gmm.pass(LEASE + ms(1000), &[]);
    assert_eq!(
        registered(&gmm.operator(&at(4, "shm:/run/b"))),
        (first.0, Generation(3))
    );
}

#[test]
fn silence_is_death_after_the_lease_and_not_before() {
    let mut gmm = Gmm::new(config(Policy::RoundRobin));
    let (m0, m1) = (
        gmm.join(NodeKind::Memory, "m0"),
        gmm.join(NodeKind::Memory, "m1"),
    );
    gmm.pass(LEASE, &[m1]);
    assert_eq!(gmm.members(), ["m0", "m1"]);
    gmm.pass(ms(100), &[m1]);
    assert_eq!(gmm.members(), ["m1"]);
    assert!(matches!(refused(&gmm.beat(m0)), Refusal::Stale { .. }));
    let back = gmm.join(NodeKind::Memory, "m0");
    assert_eq!(
        back,
        (m0.0, Generation(2)),
        "the same start, given up meanwhile"
    );
}

#[test]
fn a_stall_of_its_own_is_nobodys_silence() {
    let mut gmm = Gmm::new(config(Policy::RoundRobin));
    gmm.join(NodeKind::Memory, "m0");
    gmm.now += LEASE * 10;
    gmm.manager.handle_time(gmm.now);
    assert_eq!(gmm.members(), ["m0"]);
}

#[test]
fn a_death_ends_what_it_carried() {
    let (mut gmm, processor, [m0, m1], storage) = testbed();
    let second = gmm.join(NodeKind::Processor, "p1");
    let a = gmm.create(processor).unwrap();
    let b = gmm.create(second).unwrap();
    assert_eq!((a.home.id, b.home.id), (m0.0, m1.0), "homes go round");
    let me = |p: &ProcessGrant| Identity::Process(p.process);
    for vregion in 0..4 {
        gmm.place(me(&b), b.process, vregion, &[]).unwrap();
    }
    gmm.pass(LEASE + ms(200), &[processor, second, m1, storage]);
    let status = gmm.status();
    assert_eq!(status.processes.len(), 1, "a's home died");
    assert_eq!(status.processes[0].process, b.process);
    assert!(
        status.processes[0]
            .vregions
            .iter()
            .all(|(_, node)| *node == m1.0)
    );
    assert_eq!(gmm.place(me(&b), b.process, 0, &[]), Ok(m1.0));
    gmm.pass(LEASE + ms(200), &[processor, m1, storage]);
    assert!(gmm.status().processes.is_empty(), "b's processor died");
    assert_eq!(
        gmm.place(me(&b), b.process, 0, &[]),
        Err(Refusal::NoProcess(b.process))
    );
}

#[test]
fn vregions_stay_where_they_are_unless_that_is_full() {
    let (mut gmm, processor, [m0, m1], _) = testbed();
    let p = gmm.create(processor).unwrap();
    let home = as_node(if p.home.id == m0.0 { m0 } else { m1 });
    let first = gmm.place(home, p.process, 7, &[]).unwrap();
    for _ in 0..3 {
        assert_eq!(gmm.place(home, p.process, 7, &[]), Ok(first));
    }
    let other = if first == m0.0 { m1.0 } else { m0.0 };
    assert_eq!(gmm.place(home, p.process, 7, &[first]), Ok(other));
    assert_eq!(
        gmm.place(home, p.process, 7, &[]),
        Ok(other),
        "it moved for good"
    );
    let full = gmm.place(home, p.process, 8, &[m0.0, m1.0]);
    assert_eq!(full, Err(Refusal::OutOfMemory));
}

#[test]
fn everybody_speaks_for_himself() {
    let (mut gmm, processor, [m0, m1], storage) = testbed();
    let p = gmm.create(processor).unwrap();
    let q = gmm.create(processor).unwrap();
    let not_permitted = |reply: Result<NodeId, Refusal>| {
        assert!(matches!(reply, Err(Refusal::NotPermitted(_))), "{reply:?}");
    };
    let away = as_node(if p.home.id == m0.0 { m1 } else { m0 });
    not_permitted(gmm.place(away, p.process, 0, &[]));
    not_permitted(gmm.place(Identity::Process(q.process), p.process, 0, &[]));
    not_permitted(gmm.place(Identity::Operator, p.process, 0, &[]));
    let cases = [
        (as_node(m0), register(NodeKind::Memory, "m9", 1)),
        (
            Identity::Process(p.process),
            register(NodeKind::Memory, "m9", 1),
        ),
        (as_node(m0), heartbeat(m1.0, m1.1)),
        (Identity::Operator, heartbeat(m1.0, m1.1)),
        (
            as_node(m0),
            GmmRequest::Leave {
                node: m1.0,
                generation: m1.1,
            },
        ),
        (
            as_node(storage),
            GmmRequest::CreateProcess {
                node: storage.0,
                name: "x".to_owned(),
            },
        ),
        (
            Identity::Operator,
            GmmRequest::CreateProcess {
                node: processor.0,
                name: "x".to_owned(),
            },
        ),
        (as_node(m0), GmmRequest::EndProcess { process: p.process }),
        (
            Identity::Process(p.process),
            GmmRequest::EndProcess { process: q.process },
        ),
        (Identity::Process(p.process), GmmRequest::PlaceProcess),
        (Identity::Process(p.process), GmmRequest::Status),
    ];
    for (from, request) in cases {
        let reply = gmm.ask(from, &request);
        assert!(
            matches!(refused(&reply), Refusal::NotPermitted(_)),
            "{from} {request:?}"
        );
    }
    assert_eq!(gmm.status().processes.len(), 2);
}

#[test]
fn a_process_ends_once_and_its_number_is_gone() {
    let (mut gmm, processor, _, _) = testbed();
    let p = gmm.create(processor).unwrap();
    let end = GmmRequest::EndProcess { process: p.process };
    assert_eq!(gmm.ask(as_node(processor), &end), GmmReply::Done);
    assert_eq!(
        gmm.ask(as_node(processor), &end),
        GmmReply::Done,
        "a repeated end"
    );
    assert!(gmm.create(processor).unwrap().process > p.process);
    let never = GmmRequest::EndProcess {
        process: ProcessId(99),
    };
    let reply = gmm.ask(as_node(processor), &never);
    assert_eq!(refused(&reply), &Refusal::NoProcess(ProcessId(99)));
}

#[test]
fn what_is_missing_is_named() {
    let mut gmm = Gmm::new(config(Policy::MostFree));
    let reply = gmm.operator(&GmmRequest::PlaceProcess);
    assert_eq!(refused(&reply), &Refusal::NoComponent(NodeKind::Processor));
    let processor = gmm.join(NodeKind::Processor, "p0");
    assert_eq!(
        gmm.create(processor),
        Err(Refusal::NoComponent(NodeKind::Memory))
    );
    gmm.join(NodeKind::Memory, "m0");
    assert_eq!(
        gmm.create(processor),
        Err(Refusal::NoComponent(NodeKind::Storage))
    );
    gmm.join(NodeKind::Storage, "s0");
    assert!(gmm.create(processor).is_ok());
}

#[test]
fn a_file_stays_with_its_cache_while_that_lives() {
    let (mut gmm, processor, [m0, m1], storage) = testbed();
    gmm.create(processor).unwrap();
    let before: Vec<_> = (0..64)
        .map(|f| gmm.place_file(f, storage.0).unwrap())
        .collect();
    assert!(
        before.contains(&m0.0) && before.contains(&m1.0),
        "they share the work"
    );
    let late = gmm.join(NodeKind::Memory, "m2");
    let after: Vec<_> = (0..64)
        .map(|f| gmm.place_file(f, storage.0).unwrap())
        .collect();
    assert_eq!(
        after, before,
        "a newcomer takes no file from a running process"
    );
    gmm.pass(LEASE + ms(200), &[processor, m1, storage, late]);
    for f in 0..64 {
        assert_eq!(gmm.place_file(f, storage.0), Ok(m1.0));
    }
    gmm.pass(LEASE + ms(200), &[processor, storage, late]);
    assert_eq!(
        gmm.place_file(1, storage.0),
        Ok(late.0),
        "the last one dead, the rest inherit"
    );
    assert_eq!(
        gmm.place_file(1, NodeId(99)),
        Err(Refusal::NoComponent(NodeKind::Storage))
    );
}

#[test]
fn paths_go_by_the_longest_prefix() {
    let paths: Vec<PathRule> = ["/data=s1", "/data/old=s2"]
        .map(|r| r.parse().unwrap())
        .to_vec();
    let mut gmm = Gmm::new(Config {
        paths,
        ..config(Policy::RoundRobin)
    });
    for name in ["s0", "s1", "s2"] {
        gmm.join(NodeKind::Storage, name);
    }
    for (path, name) in [
        ("/", "s0"),
        ("/data/x", "s1"),
        ("/data/old/x", "s2"),
        ("/database", "s0"),
    ] {
        assert_eq!(gmm.place_path(path), Ok(name.to_owned()), "{path}");
    }
    assert!(matches!(gmm.place_path("data"), Err(Refusal::Malformed(_))));
}

#[test]
fn placements_between_heartbeats_are_counted() {
    let mut gmm = Gmm::new(config(Policy::MostFree));
    let m0 = gmm.join(NodeKind::Memory, "m0");
    let m1 = gmm.join(NodeKind::Memory, "m1");
    gmm.join(NodeKind::Storage, "s0");
    let processor = gmm.join(NodeKind::Processor, "p0");
    let p = gmm.create(processor).unwrap();
    let me = Identity::Process(p.process);
    let places: Vec<_> = (0..4)
        .map(|v| gmm.place(me, p.process, v, &[]).unwrap())
        .collect();
    assert_eq!(
        places.iter().filter(|n| **n == m0.0).count(),
        2,
        "{places:?}"
    );
    let load = Load {
        capacity: 1 << 30,
        reserved: 1 << 30,
        ..Load::default()
    };
    let full = GmmRequest::Heartbeat {
        node: m0.0,
        generation: m0.1,
        load,
    };
    assert_eq!(gmm.ask(as_node(m0), &full), GmmReply::Done);
    for v in 4..8 {
        assert_eq!(gmm.place(me, p.process, v, &[]), Ok(m1.0));
    }
    assert_eq!(
        gmm.place(me, p.process, 9, &[m1.0]),
        Ok(m0.0),
        "its own word is the last"
    );
}

#[test]
fn nonsense_is_refused() {
    let mut gmm = Gmm::new(config(Policy::RoundRobin));
    for name in ["", "a\nb", &"x".repeat(256)] {
        let reply = gmm.operator(&register(NodeKind::Memory, name, 1));
        assert!(matches!(refused(&reply), Refusal::Malformed(_)), "{name:?}");
    }
    let reply = gmm.operator(&register(NodeKind::Manager, "g", 1));
    assert!(matches!(refused(&reply), Refusal::Malformed(_)));
    assert!(gmm.members().is_empty());
}
