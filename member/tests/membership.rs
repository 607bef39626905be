//! Membership over the real fabric, with a gmm that is late, forgetful or away.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking

use fabric::{ClusterKey, Responder, Server, Service};
use member::{Member, MemberConfig, MemberError};
use proto::gmm::{GmmReply, GmmRequest, Load, Refusal};
use proto::{Generation, Identity, NodeId, NodeKind, wire};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);
const LEASE_MS: u64 = 90;

/// Registers everybody as node 5 and remembers who asked what.
#[derive(Default)]
struct FakeGmm {
    generation: AtomicU64,
    refuse_registrations: AtomicU64,
    seen: Mutex<Vec<(Identity, GmmRequest)>>,
}

impl FakeGmm {
    fn count(&self, matching: impl Fn(&Identity, &GmmRequest) -> bool) -> usize {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|(from, q)| matching(from, q))
            .count()
    }

    fn answer(&self, request: &GmmRequest) -> GmmReply {
        let current = Generation(self.generation.load(Ordering::SeqCst));
        match request {
            GmmRequest::Register { name, .. } => {
                let left = self.refuse_registrations.load(Ordering::SeqCst);
                if left > 0 {
                    self.refuse_registrations.store(left - 1, Ordering::SeqCst);
                    return GmmReply::Refused(Refusal::NameTaken(name.clone()));
                }
                let generation = Generation(self.generation.fetch_add(1, Ordering::SeqCst) + 1);
                GmmReply::Registered {
                    id: NodeId(5),
                    generation,
                    lease_ms: LEASE_MS,
                }
            }
            GmmRequest::Heartbeat {
                node, generation, ..
            } if *generation != current => GmmReply::Refused(Refusal::Stale {
                node: *node,
                given: *generation,
            }),
            GmmRequest::Heartbeat { .. } | GmmRequest::Leave { .. } => GmmReply::Done,
            GmmRequest::Members => GmmReply::Members(Vec::new()),
            other => panic!("{other:?}"),
        }
    }
}

impl Service for FakeGmm {
    fn call(&self, from: Identity, request: &[u8], reply: Responder) {
        let request: GmmRequest = wire::decode(request).unwrap();
        reply.answer(&self.answer(&request));
        self.seen.lock().unwrap().push((from, request));
    }
}

struct Bed {
    dir: tempfile::TempDir,
    key: ClusterKey,
    gmm: Arc<FakeGmm>,
}

impl Bed {
    fn new() -> Bed {
        let dir = tempfile::tempdir().unwrap();
        Bed {
            dir,
            key: ClusterKey::generate().unwrap(),
            gmm: Arc::default(),
        }
    }
    fn addr(&self) -> String {
        format!("shm:{}", self.dir.path().join("gmm").display())
    }
    fn serve(&self) -> Server {
        let server = Server::bind(&[self.addr()], Identity::Operator, self.key.clone()).unwrap();
        server.serve(self.gmm.clone()).unwrap();
        server
    }
    fn config(&self) -> MemberConfig {
        MemberConfig {
            kind: NodeKind::Memory,
            name: "m0".to_owned(),
            addrs: vec!["tcp:127.0.0.1:1".to_owned()],
            control: None,
            gmm: vec![self.addr()],
            key: self.key.clone(),
        }
    }
    fn join(&self) -> Member {
        Member::start(
            self.config(),
            || Load {
                used: 42,
                ..Load::default()
            },
            None,
        )
        .unwrap()
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < DEADLINE, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_beat(request: &GmmRequest) -> bool {
    matches!(
        request,
        GmmRequest::Heartbeat {
            load: Load { used: 42, .. },
            ..
        }
    )
}

#[test]
fn a_late_gmm_is_waited_for_and_a_name_that_is_still_held_too() {
    let bed = Bed::new();
    bed.gmm.refuse_registrations.store(3, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let joining = scope.spawn(|| bed.join());
        std::thread::sleep(Duration::from_millis(50));
        let _server = bed.serve();
        let member = joining.join().unwrap();
        assert_eq!(
            (member.node(), member.generation()),
            (NodeId(5), Generation(1))
        );
        let me = member.identity();
        assert_eq!(me, Identity::Node(NodeId(5), Generation(1)));
        until("heartbeats as itself", || {
            bed.gmm.count(|from, q| *from == me && is_beat(q)) > 2
        });
    });
}

#[test]
fn it_comes_back_as_another_when_it_was_given_up() {
    let bed = Bed::new();
    let _server = bed.serve();
    let member = bed.join();
    bed.gmm.generation.store(7, Ordering::SeqCst);
    until("a new generation", || member.generation() == Generation(8));
    let me = member.identity();
    until("heartbeats as that", || {
        bed.gmm.count(|from, q| *from == me && is_beat(q)) > 0
    });
    let operator = |from: &Identity, q: &GmmRequest| {
        *from == Identity::Operator && matches!(q, GmmRequest::Register { .. })
    };
    assert_eq!(bed.gmm.count(operator), 2);
    assert_eq!(
        member.ask(&GmmRequest::Members),
        Ok(GmmReply::Members(Vec::new()))
    );
    let asked = |from: &Identity, q: &GmmRequest| *from == me && *q == GmmRequest::Members;
    assert_eq!(bed.gmm.count(asked), 1);
}

#[test]
fn after_leaving_it_is_silent() {
    let bed = Bed::new();
    let _server = bed.serve();
    let member = bed.join();
    member.leave();
    member.leave();
    let last = bed.gmm.seen.lock().unwrap().last().cloned();
    assert!(
        matches!(last, Some((_, GmmRequest::Leave { .. }))),
        "{last:?}"
    );
    let all = bed.gmm.count(|_, _| true);
    std::thread::sleep(Duration::from_millis(3 * LEASE_MS));
    assert_eq!(bed.gmm.count(|_, _| true), all);
}

#[test]
fn leaving_does_not_wait_for_a_gmm_that_is_gone() {
    let bed = Bed::new();
    let config = MemberConfig {
        gmm: Vec::new(),
        ..bed.config()
    };
    assert!(matches!(
        Member::start(config, Load::default, None),
        Err(MemberError::NoAddress)
    ));
    let server = bed.serve();
    let member = bed.join();
    server.shutdown();
    drop(server);
    member.leave();
}
