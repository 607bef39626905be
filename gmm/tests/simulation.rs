//! A testbed under virtual time: messages are lost, repeated and late,
//! components and gmm itself are killed at any moment. What must hold, holds;
//! and once the trouble is over everybody agrees again.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking

mod common;

use common::{LEASE, as_node, config, heartbeat, ms, register_at};
use gmm::core::policy::Policy;
use gmm::manager::Manager;
use gmm::store::Store;
use proptest::prelude::*;
use proto::gmm::{GmmReply, GmmRequest, NodeInfo, ProcessGrant, Refusal, Status};
use proto::{Generation, Identity, NodeId, NodeKind, ProcessId, VRegionId};
use redb::StorageBackend;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Bytes that outlive the store that is on them.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Vec<u8>>>);

impl StorageBackend for Disk {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let at = offset as usize;
        out.copy_from_slice(&self.0.lock().unwrap()[at..at + out.len()]);
        Ok(())
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }
    fn sync_data(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let at = offset as usize;
        self.0.lock().unwrap()[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// SplitMix64: the same seed, the same story.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((x ^ (x >> 27)) >> 11) % below
    }
}

/// A component as `member` has it: registers, beats, registers again.
struct Actor {
    kind: NodeKind,
    name: &'static str,
    incarnation: u64,
    up: bool,
    me: Option<(NodeId, Generation)>,
    next: Duration,
}

struct Letter {
    due: Duration,
    actor: usize,
    /// The start of the actor that it is from, or for.
    incarnation: u64,
    content: Content,
}

enum Content {
    Ask(Identity, GmmRequest),
    Answer(GmmReply),
}

#[derive(Clone, Debug)]
enum Event {
    Kill(usize),
    Start(usize),
    KillGmm,
    StartGmm,
    Create(usize),
    Place(usize, u32),
    End(usize),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let actor = 0..ACTORS.len();
    prop_oneof![
        1 => actor.clone().prop_map(Event::Kill),
        2 => actor.clone().prop_map(Event::Start),
        1 => Just(Event::KillGmm),
        2 => Just(Event::StartGmm),
        3 => actor.prop_map(Event::Create),
        3 => (0..4_usize, 0..3_u32).prop_map(|(p, v)| Event::Place(p, v)),
        1 => (0..4_usize).prop_map(Event::End),
        5 => (1..3000_u64).prop_map(Event::Pass),
    ]
}

const ACTORS: [(NodeKind, &str); 6] = [
    (NodeKind::Memory, "m0"),
    (NodeKind::Memory, "m1"),
    (NodeKind::Storage, "s0"),
    (NodeKind::Processor, "p0"),
    (NodeKind::Processor, "p1"),
    (NodeKind::Memory, "m2"),
];

struct World {
    disk: Disk,
    manager: Option<Manager>,
    now: Duration,
    actors: Vec<Actor>,
    letters: Vec<Letter>,
    random: Random,
    /// Per cent of the letters that are lost, that come twice, that are late.
    trouble: u64,
    starts: u64,
    /// Which start has which generation, ever.
    generations: HashMap<(NodeId, Generation), (&'static str, u64)>,
    grants: Vec<(ProcessGrant, (NodeId, Generation))>,
    /// Answered placements, with the generation of the component then.
    places: HashMap<(ProcessId, VRegionId), (NodeId, Generation)>,
}

impl World {
    fn new(seed: u64, trouble: u64) -> World {
        let mut world = World {
            disk: Disk::default(),
            manager: None,
            now: ms(0),
            actors: Vec::new(),
            letters: Vec::new(),
            random: Random(seed),
            trouble,
            starts: 0,
            generations: HashMap::new(),
            grants: Vec::new(),
            places: HashMap::new(),
        };
        for (kind, name) in ACTORS {
            let (incarnation, up, me, next) = (0, false, None, ms(0));
            world.actors.push(Actor {
                kind,
                name,
                incarnation,
                up,
                me,
                next,
            });
        }
        world.start_gmm();
        (0..ACTORS.len()).for_each(|actor| world.start(actor));
        world
    }

    fn start_gmm(&mut self) {
        if self.manager.is_none() {
            let store = Store::with_backend(self.disk.clone()).unwrap();
            self.manager = Some(Manager::new(config(Policy::RoundRobin), store, self.now).unwrap());
        }
    }

    fn start(&mut self, actor: usize) {
        if !self.actors[actor].up {
            self.starts += 1;
            let a = &mut self.actors[actor];
            (a.up, a.incarnation, a.me, a.next) = (true, self.starts, None, self.now);
        }
    }

    fn post(&mut self, actor: usize, content: impl Fn() -> Content) {
        let copies = match self.random.next(100) {
            n if n < self.trouble => 0,
            n if n < 2 * self.trouble => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let late = self.random.next(100) < self.trouble;
            let due = self.now + ms(if late { self.random.next(5000) } else { 1 });
            let incarnation = self.actors[actor].incarnation;
            self.letters.push(Letter {
                due,
                actor,
                incarnation,
                content: content(),
            });
        }
    }

    fn speak(&mut self, actor: usize) {
        let a = &mut self.actors[actor];
        if !a.up || a.next > self.now {
            return;
        }
        a.next = self.now + LEASE / 3;
        // Half of them come back where they were, half elsewhere.
        let addr = match actor % 2 {
            0 => format!("shm:/run/{}", a.name),
            _ => format!("shm:/run/{}.{}", a.name, a.incarnation),
        };
        let (from, request) = match a.me {
            Some(me) => (as_node(me), heartbeat(me.0, me.1)),
            None => (
                Identity::Operator,
                register_at(a.kind, a.name, a.incarnation, &addr),
            ),
        };
        self.post(actor, || Content::Ask(from, request.clone()));
    }

    fn ask(&mut self, from: Identity, request: &GmmRequest) -> Option<GmmReply> {
        Some(
            self.manager
                .as_mut()?
                .handle_request(from, request, self.now),
        )
    }

    /// gmm got a letter. What it answers counts, whether it arrives or not.
    fn serve(&mut self, letter: &Letter, from: Identity, request: &GmmRequest) {
        let Some(reply) = self.ask(from, request) else {
            return;
        };
        if let GmmReply::Registered { id, generation, .. } = reply {
            let start = (self.actors[letter.actor].name, letter.incarnation);
            let known = self.generations.entry((id, generation)).or_insert(start);
            assert_eq!(*known, start, "{id} {generation:?} is two starts");
        }
        if self.actors[letter.actor].incarnation == letter.incarnation {
            self.post(letter.actor, || Content::Answer(reply.clone()));
        }
    }

    fn hear(&mut self, actor: usize, reply: &GmmReply) {
        let a = &mut self.actors[actor];
        match reply {
            GmmReply::Registered { id, generation, .. } => {
                // A late answer does not bring back an older generation.
                if a.me.is_none_or(|me| me.1 < *generation) {
                    a.me = Some((*id, *generation));
                }
            }
            GmmReply::Refused(Refusal::Stale { given, .. }) => {
                if a.me.is_some_and(|me| me.1 == *given) {
                    a.me = None;
                    a.next = self.now;
                }
            }
            GmmReply::Done | GmmReply::Refused(Refusal::NameTaken(_)) => {}
            other => panic!("{other:?}"),
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += ms(50);
            (0..self.actors.len()).for_each(|actor| self.speak(actor));
            let now = self.now;
            let (due, later) = std::mem::take(&mut self.letters)
                .into_iter()
                .partition::<Vec<_>, _>(|letter| letter.due <= now);
            self.letters = later;
            for letter in due {
                match &letter.content {
                    Content::Ask(from, request) => self.serve(&letter, *from, request),
                    Content::Answer(reply) => {
                        let a = &self.actors[letter.actor];
                        if a.up && a.incarnation == letter.incarnation {
                            self.hear(letter.actor, reply);
                        }
                    }
                }
            }
            if let Some(manager) = &mut self.manager {
                manager.handle_time(self.now);
            }
        }
    }

    fn status(&mut self) -> Status {
        match self.ask(Identity::Operator, &GmmRequest::Status) {
            Some(GmmReply::Status(status)) => status,
            other => panic!("{other:?}"),
        }
    }

    fn create(&mut self, actor: usize) {
        let Some(me) = self.actors[actor].me.filter(|_| self.actors[actor].up) else {
            return;
        };
        let request = GmmRequest::CreateProcess {
            node: me.0,
            name: "p".to_owned(),
        };
        if let Some(GmmReply::Process(grant)) = self.ask(as_node(me), &request) {
            assert!(self.grants.iter().all(|(g, _)| g.process != grant.process));
            self.grants.push((grant, me));
        }
    }

    fn place(&mut self, back: usize, vregion: u32) {
        let Some((grant, _)) = self.grants.iter().rev().nth(back) else {
            return;
        };
        let (process, vregion) = (grant.process, VRegionId(vregion));
        let (bytes, not) = (1 << 21, Vec::new());
        let request = GmmRequest::PlaceVRegion {
            process,
            vregion,
            bytes,
            not,
        };
        let reply = self.ask(Identity::Process(process), &request);
        let Some(GmmReply::Placed(node)) = reply else {
            return;
        };
        let here = (node.id, node.generation);
        let before = self.places.insert((process, vregion), here);
        let Some(before) = before.filter(|before| *before != here) else {
            return;
        };
        let status = self.status();
        let current = status.nodes.iter().find(|n| n.info.id == before.0).unwrap();
        let same = current.alive && current.info.generation == before.1;
        assert!(
            !same,
            "{process} {vregion:?} moved from {before:?}, which lives, to {here:?}"
        );
    }

    fn end(&mut self, back: usize) {
        let Some((grant, me)) = self.grants.iter().rev().nth(back) else {
            return;
        };
        let (process, me) = (grant.process, *me);
        let request = GmmRequest::EndProcess { process };
        if self.ask(as_node(me), &request) == Some(GmmReply::Done) {
            assert!(self.status().processes.iter().all(|p| p.process != process));
        }
    }

    fn apply(&mut self, event: &Event) {
        match *event {
            Event::Kill(actor) => self.actors[actor].up = false,
            Event::Start(actor) => self.start(actor),
            Event::KillGmm => self.manager = None,
            Event::StartGmm => self.start_gmm(),
            Event::Create(actor) => self.create(actor),
            Event::Place(back, vregion) => self.place(back, vregion),
            Event::End(back) => self.end(back),
            Event::Pass(time) => self.pass(ms(time)),
        }
        if self.manager.is_some() {
            self.check();
        }
    }

    /// What holds at any moment: whatever is known of a process belongs to
    /// generations that live.
    fn check(&mut self) {
        let status = self.status();
        let lives = |id: NodeId, generation: Generation| {
            status
                .nodes
                .iter()
                .any(|n| n.alive && n.info.id == id && n.info.generation == generation)
        };
        for process in &status.processes {
            let (grant, me) = self
                .grants
                .iter()
                .find(|(g, _)| g.process == process.process)
                .unwrap();
            assert!(
                lives(me.0, me.1),
                "{} outlives its processor",
                process.process
            );
            let home: &NodeInfo = &grant.home;
            assert!(
                lives(home.id, home.generation),
                "{} outlives its home",
                process.process
            );
            for (_, node) in &process.vregions {
                assert!(status.nodes.iter().any(|n| n.alive && n.info.id == *node));
            }
        }
    }

    /// The trouble is over.
    fn settle(&mut self) {
        self.trouble = 0;
        self.start_gmm();
        // Late letters, then a lease for the silent, then one to come back.
        self.pass(ms(5000) + LEASE * 4);
        let status = self.status();
        for actor in &self.actors {
            let known = status.nodes.iter().find(|n| n.info.name == actor.name);
            let alive = known.is_some_and(|n| n.alive);
            assert_eq!(alive, actor.up, "{}", actor.name);
            if let (Some(known), true) = (known, actor.up) {
                let current = (known.info.id, known.info.generation);
                assert_eq!(Some(current), actor.me, "{}", actor.name);
            }
        }
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96, failure_persistence: None, ..ProptestConfig::default()
    })]
    #[test]
    fn trouble_passes(
        seed: u64,
        trouble in 0..30_u64,
        events in proptest::collection::vec(event(), 1..60),
    ) {
        let mut world = World::new(seed, trouble);
        for event in &events {
            world.apply(event);
        }
        world.settle();
    }
}
