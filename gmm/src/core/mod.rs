//! The state machine of the managers. It decides; it does no I/O and knows no
//! clock. A request is answered in two steps: [`Core::handle_request`] looks
//! at the state and says what to answer and what would change, and
//! [`Core::apply`] makes it so, after the changes were made durable. A store
//! that fails thus leaves the state as it was.

pub mod clock;
pub mod policy;
pub mod records;

mod members;
mod paths;
mod places;
mod processes;
mod status;

pub use paths::{PathRule, PathRuleError};

use policy::Policy;
use proto::gmm::{GmmReply, GmmRequest, Load, Refusal};
use proto::{Identity, NodeId, NodeKind, ProcessId, VRegionId};
use records::{Change, NodeRecord, ProcessRecord, Snapshot};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// What the managers are told at their start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Placement policy.
    pub policy: Policy,
    /// Silent for longer means dead.
    pub lease: Duration,
    /// Which storage component serves which paths; the longest prefix counts.
    pub paths: Vec<PathRule>,
    /// Lowest number for a component or process where none was given yet.
    pub first_id: u64,
}

/// The answer to a request, and its consequences.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What to answer once the changes are durable.
    pub reply: GmmReply,
    /// To be made durable and applied, in this order, all or none.
    pub changes: Vec<Change>,
    /// To be applied; may be forgotten by a restart.
    notes: Vec<Note>,
}

/// A change that need not survive: a restart learns it anew.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Note {
    /// The component was heard.
    Heard(NodeId, Load),
    /// It was chosen for something of that many bytes.
    Chosen(NodeId, NodeKind, u64),
}

/// What is known of a component and not kept.
#[derive(Clone, Copy, Default, Debug)]
struct Soft {
    heard: Duration,
    load: Load,
    /// Bytes placed there since it last reported.
    placed: u64,
}

/// Members and placements.
pub struct Core {
    config: Config,
    nodes: BTreeMap<NodeId, NodeRecord>,
    names: HashMap<String, NodeId>,
    processes: BTreeMap<ProcessId, ProcessRecord>,
    vregions: BTreeMap<(ProcessId, VRegionId), NodeId>,
    next_node: u64,
    next_process: u64,
    soft: HashMap<NodeId, Soft>,
    /// Chosen last, for going round.
    last: HashMap<NodeKind, NodeId>,
}

impl Core {
    /// Goes on from what was kept. Components that were alive have one lease
    /// from `now` on to be heard.
    #[must_use]
    pub fn new(config: Config, kept: Snapshot, now: Duration) -> Core {
        let first = config.first_id.max(1);
        let mut core = Core {
            config,
            nodes: BTreeMap::new(),
            names: HashMap::new(),
            processes: BTreeMap::new(),
            vregions: BTreeMap::new(),
            next_node: kept.next_node.max(first),
            next_process: kept.next_process.max(first),
            soft: HashMap::new(),
            last: HashMap::new(),
        };
        let nodes = kept.nodes.into_iter().map(Change::Node);
        let processes = kept.processes.into_iter().map(Change::Process);
        let vregions = kept
            .vregions
            .into_iter()
            .map(|(p, v, n)| Change::VRegion(p, v, n));
        for change in nodes.chain(processes).chain(vregions) {
            core.apply_change(change, now);
        }
        core
    }

    /// Decides on a request of `from`.
    #[must_use]
    pub fn handle_request(&self, from: Identity, request: &GmmRequest, now: Duration) -> Decision {
        self.dispatch(from, request, now)
            .unwrap_or_else(|refusal| Decision {
                reply: GmmReply::Refused(refusal),
                changes: Vec::new(),
                notes: Vec::new(),
            })
    }

    fn dispatch(
        &self,
        from: Identity,
        request: &GmmRequest,
        now: Duration,
    ) -> Result<Decision, Refusal> {
        use GmmRequest as Q;
        match request {
            Q::Register { .. } => self.register(from, request),
            Q::Heartbeat {
                node,
                generation,
                load,
            } => self.heartbeat(from, *node, *generation, *load),
            Q::Leave { node, generation } => self.leave(from, *node, *generation),
            Q::Members => Ok(Decision::only(self.members())),
            Q::PlaceProcess => self.place_process(from),
            Q::CreateProcess { node, name } => self.create_process(from, *node, name),
            Q::EndProcess { process } => self.end_process(from, *process),
            Q::PlaceVRegion {
                process,
                vregion,
                bytes,
                not,
            } => self.place_vregion(from, (*process, *vregion), *bytes, not),
            Q::PlaceFile { file, storage } => self.place_file(*file, *storage),
            Q::PlacePath { path } => self.place_path(path),
            Q::Status => self.status(from, now),
        }
    }

    /// A component that was silent for longer than the lease, and what
    /// changes because of that. To be asked again once that is so: one death
    /// has consequences for the next.
    #[must_use]
    pub fn poll_expired(&self, now: Duration) -> Option<(&NodeRecord, Vec<Change>)> {
        let silent = |node: &&NodeRecord| {
            node.alive && now.saturating_sub(self.soft(node.id).heard) > self.config.lease
        };
        self.nodes
            .values()
            .find(silent)
            .map(|node| (node, self.death(node)))
    }

    /// Makes a decision so, after its changes were made durable.
    pub fn apply(&mut self, decision: Decision, now: Duration) {
        self.apply_changes(decision.changes, now);
        for note in &decision.notes {
            self.apply_note(note, now);
        }
    }

    /// Makes changes so, after they were made durable.
    pub fn apply_changes(&mut self, changes: Vec<Change>, now: Duration) {
        for change in changes {
            self.apply_change(change, now);
        }
    }

    fn apply_change(&mut self, change: Change, now: Duration) {
        match change {
            Change::Next { node, process } => {
                self.next_node = self.next_node.max(node);
                self.next_process = self.next_process.max(process);
            }
            Change::Node(node) => {
                self.next_node = self.next_node.max(node.id.0 + 1);
                self.names.insert(node.name.clone(), node.id);
                let old = self.nodes.insert(node.id, node.clone());
                if old.is_none_or(|old| old.generation != node.generation) {
                    self.soft.insert(
                        node.id,
                        Soft {
                            heard: now,
                            ..Soft::default()
                        },
                    );
                }
            }
            Change::Process(process) => {
                self.next_process = self.next_process.max(process.id.0 + 1);
                self.processes.insert(process.id, process);
            }
            Change::EndProcess(process) => {
                self.processes.remove(&process);
                self.vregions.retain(|(owner, _), _| *owner != process);
            }
            Change::VRegion(process, vregion, node) => {
                self.vregions.insert((process, vregion), node);
            }
            Change::LoseVRegion(process, vregion) => {
                self.vregions.remove(&(process, vregion));
            }
        }
    }

    fn apply_note(&mut self, note: &Note, now: Duration) {
        match *note {
            Note::Heard(node, load) => {
                self.soft.insert(
                    node,
                    Soft {
                        heard: now,
                        load,
                        placed: 0,
                    },
                );
            }
            Note::Chosen(node, kind, bytes) => {
                self.last.insert(kind, node);
                let soft = self.soft.entry(node).or_default();
                soft.placed = soft.placed.saturating_add(bytes);
            }
        }
    }

    fn soft(&self, node: NodeId) -> Soft {
        self.soft.get(&node).copied().unwrap_or_default()
    }

    /// The live components of a kind, by number.
    fn live(&self, kind: NodeKind) -> impl Iterator<Item = &NodeRecord> {
        self.nodes
            .values()
            .filter(move |n| n.alive && n.kind == kind)
    }

    /// The current record of a component that speaks for itself.
    fn speaking(&self, from: Identity) -> Result<&NodeRecord, Refusal> {
        let Identity::Node(node, given) = from else {
            return Err(not_permitted("only a registered component may ask that"));
        };
        let record = self.nodes.get(&node);
        record
            .filter(|n| n.alive && n.generation == given)
            .ok_or(Refusal::Stale { node, given })
    }
}

impl Decision {
    /// An answer that changes nothing.
    fn only(reply: GmmReply) -> Decision {
        Decision {
            reply,
            changes: Vec::new(),
            notes: Vec::new(),
        }
    }
}

fn not_permitted(why: &str) -> Refusal {
    Refusal::NotPermitted(why.to_owned())
}

fn malformed(why: &str) -> Refusal {
    Refusal::Malformed(why.to_owned())
}
