//! Who is in: registration, heartbeats, leaving, death.

use super::records::{Change, NodeRecord};
use super::{Core, Decision, Note, malformed, not_permitted};
use proto::gmm::{GmmReply, GmmRequest, Load, Refusal};
use proto::{Generation, Identity, NodeId, NodeKind};

/// Longest name of a component or program, bytes.
const MAX_NAME: usize = 255;
/// Most addresses of a component, and the longest.
const MAX_ADDRS: usize = 16;
const MAX_ADDR: usize = 4096;

impl Core {
    /// Registers. The same start of a component may ask again and gets the
    /// same answer; another start gets a new generation.
    pub(super) fn register(
        &self,
        from: Identity,
        request: &GmmRequest,
    ) -> Result<Decision, Refusal> {
        if from != Identity::Operator {
            return Err(not_permitted("registering needs the operator's identity"));
        }
        let GmmRequest::Register { load, .. } = request else {
            return Err(malformed("not a registration"));
        };
        let mut node = record_of(request)?;
        let mut changes = Vec::new();
        match self.names.get(&node.name).and_then(|id| self.nodes.get(id)) {
            Some(old) if old.alive && old.incarnation == node.incarnation => {
                (node.id, node.generation) = (old.id, old.generation);
                node.caches_files = old.caches_files;
                if node != *old {
                    changes.push(Change::Node(node.clone()));
                }
            }
            Some(old) => {
                if old.alive && !replaces(&node, old) {
                    return Err(Refusal::NameTaken(node.name));
                }
                if old.alive {
                    changes.extend(self.death(old));
                }
                (node.id, node.generation) = (old.id, Generation(old.generation.0 + 1));
                node.caches_files = self.may_cache_files(&node);
                changes.push(Change::Node(node.clone()));
            }
            None => {
                (node.id, node.generation) = (NodeId(self.next_node), Generation(1));
                node.caches_files = self.may_cache_files(&node);
                let next = Change::Next {
                    node: self.next_node + 1,
                    process: self.next_process,
                };
                changes.extend([next, Change::Node(node.clone())]);
            }
        }
        let reply = GmmReply::Registered {
            id: node.id,
            generation: node.generation,
            lease_ms: u64::try_from(self.config.lease.as_millis()).unwrap_or(u64::MAX),
        };
        Ok(Decision {
            reply,
            changes,
            notes: vec![Note::Heard(node.id, *load)],
        })
    }

    /// Renews a lease. A dead generation stays dead: its processes were ended
    /// and its memory given up, so it must come back as another.
    pub(super) fn heartbeat(
        &self,
        from: Identity,
        node: NodeId,
        generation: Generation,
        load: Load,
    ) -> Result<Decision, Refusal> {
        speaks_for_itself(from, node, generation)?;
        self.speaking(from)?;
        let notes = vec![Note::Heard(node, load)];
        Ok(Decision {
            reply: GmmReply::Done,
            changes: Vec::new(),
            notes,
        })
    }

    /// Leaves. Leaving twice is leaving once, also where the lease ran out in
    /// between.
    pub(super) fn leave(
        &self,
        from: Identity,
        node: NodeId,
        generation: Generation,
    ) -> Result<Decision, Refusal> {
        speaks_for_itself(from, node, generation)?;
        let stale = Refusal::Stale {
            node,
            given: generation,
        };
        let record = self
            .nodes
            .get(&node)
            .filter(|n| n.generation == generation)
            .ok_or(stale)?;
        let changes = if record.alive {
            self.death(record)
        } else {
            Vec::new()
        };
        Ok(Decision {
            reply: GmmReply::Done,
            changes,
            notes: Vec::new(),
        })
    }

    /// The live components.
    pub(super) fn members(&self) -> GmmReply {
        GmmReply::Members(
            self.nodes
                .values()
                .filter(|n| n.alive)
                .map(NodeRecord::info)
                .collect(),
        )
    }

    /// What ends with a generation: it is no longer alive; a processor's
    /// processes, and those whose address space a memory component owned, are
    /// over; vRegions that were there have no place.
    pub(super) fn death(&self, node: &NodeRecord) -> Vec<Change> {
        let dead = NodeRecord {
            alive: false,
            caches_files: false,
            ..node.clone()
        };
        let mut changes = vec![Change::Node(dead)];
        let over = self
            .processes
            .values()
            .filter(|p| p.processor == node.id || p.home == node.id);
        changes.extend(over.map(|p| Change::EndProcess(p.id)));
        let lost = self.vregions.iter().filter(|(_, place)| **place == node.id);
        changes.extend(lost.map(|((process, vregion), _)| Change::LoseVRegion(*process, *vregion)));
        changes.extend(self.heirs(node));
        changes
    }

    /// Where the last component that cached files dies, the others do it from
    /// now on.
    fn heirs(&self, dead: &NodeRecord) -> Vec<Change> {
        let others = || self.live(NodeKind::Memory).filter(|n| n.id != dead.id);
        if !dead.caches_files || others().any(|n| n.caches_files) {
            return Vec::new();
        }
        let heir = |n: &NodeRecord| {
            Change::Node(NodeRecord {
                caches_files: true,
                ..n.clone()
            })
        };
        others().map(heir).collect()
    }

    /// Files are cached by the memory components that were there before the
    /// first process: one that comes later would take files over from a cache
    /// that may hold newer data than storage.
    fn may_cache_files(&self, node: &NodeRecord) -> bool {
        let nobody_else = !self
            .live(NodeKind::Memory)
            .any(|n| n.caches_files && n.id != node.id);
        node.kind == NodeKind::Memory && (self.processes.is_empty() || nobody_else)
    }
}

/// A component that starts again where it was: an address can't be listened
/// on twice, so the one before must be dead, lease or not.
fn replaces(new: &NodeRecord, old: &NodeRecord) -> bool {
    let same_place = new.addrs.iter().any(|addr| old.addrs.contains(addr));
    let same_control = new.control.is_some() && new.control == old.control;
    new.kind == old.kind && new.host == old.host && (same_place || same_control)
}

fn speaks_for_itself(from: Identity, node: NodeId, generation: Generation) -> Result<(), Refusal> {
    if from == Identity::Node(node, generation) {
        Ok(())
    } else {
        Err(not_permitted("a component speaks for itself only"))
    }
}

/// Checks a registration's claims; number and generation are still open.
fn record_of(request: &GmmRequest) -> Result<NodeRecord, Refusal> {
    let GmmRequest::Register {
        kind,
        name,
        incarnation,
        addrs,
        host,
        control,
        ..
    } = request
    else {
        return Err(malformed("not a registration"));
    };
    if *kind == NodeKind::Manager {
        return Err(malformed("gmm does not register with itself"));
    }
    check_name(name)?;
    let long = |text: &String| text.len() > MAX_ADDR;
    if addrs.len() > MAX_ADDRS || addrs.iter().any(long) || long(host) {
        return Err(malformed("too many addresses, or too long ones"));
    }
    if control.as_ref().is_some_and(long) {
        return Err(malformed("the control socket's path is too long"));
    }
    Ok(NodeRecord {
        id: NodeId(0),
        kind: *kind,
        name: name.clone(),
        generation: Generation(0),
        incarnation: *incarnation,
        addrs: addrs.clone(),
        host: host.clone(),
        control: control.clone(),
        alive: true,
        caches_files: false,
    })
}

/// A name that people can read.
pub(super) fn check_name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(malformed(
            "a name has 1 to 255 bytes and no control characters",
        ));
    }
    Ok(())
}
