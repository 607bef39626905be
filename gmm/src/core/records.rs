//! What is kept across restarts.

use proto::gmm::NodeInfo;
use proto::{Generation, NodeId, NodeKind, ProcessId, VRegionId};
use serde::{Deserialize, Serialize};

/// A component that was registered at least once. It is kept after its death,
/// so that its generations go on growing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its number, for ever that of its name.
    pub id: NodeId,
    /// What it is.
    pub kind: NodeKind,
    /// Its name.
    pub name: String,
    /// Its latest start.
    pub generation: Generation,
    /// What it drew at that start.
    pub incarnation: u64,
    /// Where it listens.
    pub addrs: Vec<String>,
    /// Its host's boot id.
    pub host: String,
    /// Where it starts programs.
    pub control: Option<String>,
    /// Whether it has neither left nor been silent for too long.
    pub alive: bool,
    /// Whether it caches files (memory components).
    pub caches_files: bool,
}

impl NodeRecord {
    /// As other components see it.
    #[must_use]
    pub fn info(&self) -> NodeInfo {
        NodeInfo {
            id: self.id,
            kind: self.kind,
            name: self.name.clone(),
            generation: self.generation,
            addrs: self.addrs.clone(),
            host: self.host.clone(),
            control: self.control.clone(),
        }
    }
}

/// A process that runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Its number, never used again.
    pub id: ProcessId,
    /// For people.
    pub name: String,
    /// The processor component that started it.
    pub processor: NodeId,
    /// The memory component that owns its address space.
    pub home: NodeId,
}

/// One durable change. Applying one twice is applying it once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Numbers below these were given away.
    Next {
        /// The next component.
        node: u64,
        /// The next process.
        process: u64,
    },
    /// Adds or replaces.
    Node(NodeRecord),
    /// Adds or replaces.
    Process(ProcessRecord),
    /// Removes a process and its vRegions.
    EndProcess(ProcessId),
    /// Places a vRegion.
    VRegion(ProcessId, VRegionId, NodeId),
    /// A vRegion has no place any more.
    LoseVRegion(ProcessId, VRegionId),
}

/// Everything that is kept, as read from the store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// See [`Change::Next`]; 0 where nothing was ever stored.
    pub next_node: u64,
    /// See [`Change::Next`].
    pub next_process: u64,
    /// Components.
    pub nodes: Vec<NodeRecord>,
    /// Processes.
    pub processes: Vec<ProcessRecord>,
    /// vRegions.
    pub vregions: Vec<(ProcessId, VRegionId, NodeId)>,
}
