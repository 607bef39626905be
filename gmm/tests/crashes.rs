//! kill -9 and power failure at every operation of the store: what was
//! answered before is true afterwards.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking

mod common;

use common::{as_node, config, ms, register, registered};
use gmm::core::policy::Policy;
use gmm::manager::Manager;
use gmm::store::Store;
use proto::gmm::{GmmReply, GmmRequest, ProcessGrant, Refusal, Status};
use proto::{Generation, Identity, NodeId, NodeKind, ProcessId, VRegionId};
use redb::StorageBackend;
use std::io::{Error, Result};
use std::sync::{Arc, Mutex};

/// A disk with a cache that a crash loses, in part.
#[derive(Debug, Default)]
struct Disk {
    durable: Vec<u8>,
    volatile: Vec<u8>,
    unsynced: Vec<Op>,
    /// Operations until it fails.
    left: usize,
    crashed: bool,
}

#[derive(Clone, Debug)]
enum Op {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

fn perform(op: &Op, bytes: &mut Vec<u8>) {
    match op {
        Op::Write(at, data) => {
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[*at..at + data.len()].copy_from_slice(data);
        }
        Op::SetLen(len) => bytes.resize(*len, 0),
    }
}

impl Disk {
    fn step(&mut self) -> Result<()> {
        if self.crashed || self.left == 0 {
            self.crashed = true;
            return Err(Error::other("crashed"));
        }
        self.left -= 1;
        Ok(())
    }

    fn change(&mut self, op: Op) -> Result<()> {
        self.step()?;
        perform(&op, &mut self.volatile);
        self.unsynced.push(op);
        Ok(())
    }

    /// After the crash: what was synced, and of the rest what `lucky` lets
    /// through.
    fn restart(&mut self, lucky: u64) {
        let mut bits = lucky;
        for op in std::mem::take(&mut self.unsynced) {
            bits = bits.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            if bits >> 63 == 1 {
                perform(&op, &mut self.durable);
            }
        }
        self.volatile = self.durable.clone();
        (self.crashed, self.left) = (false, usize::MAX);
    }
}

#[derive(Clone, Debug)]
struct Backend(Arc<Mutex<Disk>>);

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64> {
        Ok(self.0.lock().unwrap().volatile.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let disk = self.0.lock().unwrap();
        let at = offset as usize;
        let bytes = disk.volatile.get(at..at + out.len());
        out.copy_from_slice(bytes.ok_or_else(|| Error::other("beyond the end"))?);
        Ok(())
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.0.lock().unwrap().change(Op::SetLen(len as usize))
    }
    fn sync_data(&self) -> Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.step()?;
        disk.durable = disk.volatile.clone();
        disk.unsynced.clear();
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.0
            .lock()
            .unwrap()
            .change(Op::Write(offset as usize, data.to_vec()))
    }
}

/// What was answered.
#[derive(Default, Debug)]
struct Facts {
    nodes: Vec<(&'static str, NodeId, Generation)>,
    processes: Vec<ProcessGrant>,
    vregions: Vec<(ProcessId, u32, NodeId)>,
    ended: Vec<ProcessId>,
}

const NAMES: [(&str, NodeKind); 4] = [
    ("m0", NodeKind::Memory),
    ("m1", NodeKind::Memory),
    ("s0", NodeKind::Storage),
    ("p0", NodeKind::Processor),
];

/// Asks for things until one is not given; keeps what was answered.
fn script(manager: &mut Manager, facts: &mut Facts) -> std::result::Result<(), Refusal> {
    let mut ask = |from, request: &GmmRequest| match manager.handle_request(from, request, ms(1)) {
        GmmReply::Refused(why) => Err(why),
        reply => Ok(reply),
    };
    for (name, kind) in NAMES {
        let (id, generation) = registered(&ask(Identity::Operator, &register(kind, name, 1))?);
        facts.nodes.push((name, id, generation));
    }
    let (_, p0, generation) = facts.nodes[facts.nodes.len() - 1];
    let me = as_node((p0, generation));
    for n in 0..3 {
        let create = GmmRequest::CreateProcess {
            node: p0,
            name: format!("program {n}"),
        };
        let GmmReply::Process(grant) = ask(me, &create)? else {
            panic!()
        };
        let process = grant.process;
        facts.processes.push(grant);
        for vregion in 0..2 {
            let id = VRegionId(vregion);
            let (bytes, not) = (1 << 21, Vec::new());
            let place = GmmRequest::PlaceVRegion {
                process,
                vregion: id,
                bytes,
                not,
            };
            let GmmReply::Placed(node) = ask(Identity::Process(process), &place)? else {
                panic!()
            };
            facts.vregions.push((process, vregion, node.id));
        }
        if n == 1 {
            ask(me, &GmmRequest::EndProcess { process })?;
            facts.ended.push(process);
        }
    }
    Ok(())
}

fn status(manager: &mut Manager) -> Status {
    match manager.handle_request(Identity::Operator, &GmmRequest::Status, ms(1)) {
        GmmReply::Status(status) => status,
        other => panic!("{other:?}"),
    }
}

fn check(facts: &Facts, manager: &mut Manager) {
    let status = status(manager);
    for (name, id, generation) in &facts.nodes {
        let node = status.nodes.iter().find(|n| n.info.name == *name).unwrap();
        assert_eq!(
            (node.info.id, node.info.generation, node.alive),
            (*id, *generation, true)
        );
    }
    for grant in facts
        .processes
        .iter()
        .filter(|g| !facts.ended.contains(&g.process))
    {
        let known = status.processes.iter().find(|p| p.process == grant.process);
        // The request that ended it may have been carried out unanswered.
        let Some(known) = known else {
            assert!(grant.process.0 == 2, "{grant:?} is forgotten");
            continue;
        };
        assert_eq!(known.home, grant.home.id);
        for (_, vregion, node) in facts.vregions.iter().filter(|v| v.0 == grant.process) {
            assert!(known.vregions.contains(&(VRegionId(*vregion), *node)));
        }
    }
    for ended in &facts.ended {
        assert!(status.processes.iter().all(|p| p.process != *ended));
    }
}

fn start(disk: &Arc<Mutex<Disk>>) -> std::result::Result<Manager, gmm::store::StoreError> {
    let store = Store::with_backend(Backend(disk.clone()))?;
    Manager::new(config(Policy::RoundRobin), store, ms(0))
}

/// A disk with a store that nothing was asked of yet.
fn new_disk() -> Disk {
    let disk = Arc::new(Mutex::new(Disk {
        left: usize::MAX,
        ..Disk::default()
    }));
    drop(start(&disk).unwrap());
    let disk = std::mem::take(&mut *disk.lock().unwrap());
    assert!(disk.unsynced.is_empty(), "closing syncs");
    disk
}

#[test]
fn answers_survive_a_crash_at_every_operation() {
    let disk = Arc::new(Mutex::new(Disk {
        left: usize::MAX,
        ..new_disk()
    }));
    let mut facts = Facts::default();
    script(&mut start(&disk).unwrap(), &mut facts).unwrap();
    let total = usize::MAX - disk.lock().unwrap().left;
    assert!(total > 50, "{total} operations");

    for left in 0..total {
        let disk = Arc::new(Mutex::new(Disk { left, ..new_disk() }));
        let mut facts = Facts::default();
        // The start may crash too.
        if let Ok(mut manager) = start(&disk) {
            let outcome = script(&mut manager, &mut facts);
            assert!(
                matches!(outcome, Err(Refusal::Store(_)) | Ok(())),
                "{outcome:?}"
            );
        }
        disk.lock().unwrap().restart(left as u64);
        let mut manager = start(&disk).unwrap_or_else(|e| panic!("crash at {left}: {e}"));
        check(&facts, &mut manager);
        // Life goes on, and no number is given twice.
        let mut later = Facts::default();
        script(&mut manager, &mut later).unwrap();
        for grant in &later.processes {
            assert!(
                facts.processes.iter().all(|g| g.process != grant.process),
                "crash at {left}"
            );
        }
    }
}

#[test]
fn a_file_is_made_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    std::fs::write(dir.path().join("state.new"), b"what a crash left").unwrap();
    let store = Store::open(&path).unwrap();
    let second = Store::open(&path).unwrap_err().to_string();
    assert!(second.contains("open"), "{second}");
    drop(store);
    Store::open(&path).unwrap();
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    std::fs::write(&path, b"not a store").unwrap();
    assert!(Store::open(&path).is_err());
}
