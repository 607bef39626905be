//! Messages of the global managers (`gmm`): membership and placement.
//! Nothing on the path of a page sends one of these.

use crate::{Generation, NodeId, NodeKind, ProcessId, VRegionId, store::FileId};
use serde::{Deserialize, Serialize};

/// A component as the others see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its number.
    pub id: NodeId,
    /// What it is.
    pub kind: NodeKind,
    /// Its name in the testbed's description, unique per testbed.
    pub name: String,
    /// Its current start.
    pub generation: Generation,
    /// Where it listens, best first: `shm:PATH`, `tcp:HOST:PORT`,
    /// `verbs:HOST:PORT`.
    pub addrs: Vec<String>,
    /// The host it runs on (the kernel's boot id): shm links need equality.
    pub host: String,
    /// Processor components: the Unix socket where programs are started.
    pub control: Option<String>,
}

/// How full and how busy a component is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Load {
    /// Bytes of memory it offers (memory components).
    pub capacity: u64,
    /// Bytes promised to processes.
    pub reserved: u64,
    /// Bytes in use.
    pub used: u64,
    /// Processes served or run.
    pub processes: u64,
    /// Requests answered since it started.
    pub requests: u64,
}

/// Requests to gmm.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum GmmRequest {
    /// A component starts, or starts again under a name it had. Identity: operator.
    Register {
        /// Its kind.
        kind: NodeKind,
        /// Its name; registering a live name from elsewhere is refused.
        name: String,
        /// Drawn at random at every start: tells a repeated registration
        /// (same incarnation, same answer) from a restart (new generation).
        incarnation: u64,
        /// Where it listens.
        addrs: Vec<String>,
        /// Its host's boot id.
        host: String,
        /// See [`NodeInfo::control`].
        control: Option<String>,
        /// What it offers.
        load: Load,
    },
    /// Renews a lease. Identity: that node.
    Heartbeat {
        /// Who.
        node: NodeId,
        /// Which start of it.
        generation: Generation,
        /// Current load.
        load: Load,
    },
    /// Leaves in good order. Identity: that node.
    Leave {
        /// Who.
        node: NodeId,
        /// Which start of it.
        generation: Generation,
    },
    /// The live components (all kinds).
    Members,
    /// Chooses a processor component for a new process. Identity: operator.
    PlaceProcess,
    /// A processor component starts a process. Identity: that node.
    CreateProcess {
        /// Who starts it.
        node: NodeId,
        /// For people: the program's name.
        name: String,
    },
    /// The process is gone. Identity: the node that started it.
    EndProcess {
        /// Which.
        process: ProcessId,
    },
    /// Chooses the memory component for a vRegion of a process; the same
    /// question gets the same answer while that component lives, unless it is
    /// in `not`. Identity: the process's home memory component, or the process.
    PlaceVRegion {
        /// Whose.
        process: ProcessId,
        /// Which.
        vregion: VRegionId,
        /// Bytes wanted soon.
        bytes: u64,
        /// Components that said they are full.
        not: Vec<NodeId>,
    },
    /// Which memory component caches a file; sticky while it lives.
    PlaceFile {
        /// Which file.
        file: FileId,
        /// The storage component that serves it.
        storage: NodeId,
    },
    /// Which storage component serves an absolute path.
    PlacePath {
        /// The path.
        path: Vec<u8>,
    },
    /// Everything, for `testbed status`.
    Status,
}

/// Answers of gmm.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum GmmReply {
    /// To Register.
    Registered {
        /// Its number from now on.
        id: NodeId,
        /// This start's generation.
        generation: Generation,
        /// The lease: silent for longer means dead. Milliseconds.
        lease_ms: u64,
    },
    /// To Heartbeat, Leave, EndProcess.
    Done,
    /// To Members.
    Members(Vec<NodeInfo>),
    /// To PlaceProcess, PlaceVRegion, PlaceFile, PlacePath.
    Placed(NodeInfo),
    /// To CreateProcess.
    Process(ProcessGrant),
    /// To Status.
    Status(Status),
    /// The request can't be met.
    Refused(Refusal),
}

/// A new process and the components that will serve it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessGrant {
    /// Its number.
    pub process: ProcessId,
    /// The memory component that owns its address space.
    pub home: NodeInfo,
    /// The storage component that serves `/`.
    pub storage: NodeInfo,
}

/// Why gmm refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No live component of that kind.
    #[error("no live {0} is registered")]
    NoComponent(NodeKind),
    /// Every memory component is full.
    #[error("every memory component is full")]
    OutOfMemory,
    /// The generation is not the current one: the sender was given up for
    /// dead, or another start took its name. It must register again.
    #[error("generation {given:?} of {node} is not current")]
    Stale {
        /// Who.
        node: NodeId,
        /// What it said.
        given: Generation,
    },
    /// A live component has that name.
    #[error("the name {0:?} belongs to another live component")]
    NameTaken(String),
    /// Unknown process.
    #[error("{0} is not known")]
    NoProcess(ProcessId),
    /// The sender may not ask that.
    #[error("not permitted: {0}")]
    NotPermitted(String),
    /// The request was malformed.
    #[error("malformed request: {0}")]
    Malformed(String),
    /// The embedded store failed.
    #[error("the manager's store failed: {0}")]
    Store(String),
}

/// One row of `testbed status` per component.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Who.
    pub info: NodeInfo,
    /// Last known load.
    pub load: Load,
    /// Whether its lease holds.
    pub alive: bool,
    /// Milliseconds since it was last heard.
    pub silent_ms: u64,
}

/// One row of `testbed status` per process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Which.
    pub process: ProcessId,
    /// The program.
    pub name: String,
    /// The processor component.
    pub processor: NodeId,
    /// The home memory component.
    pub home: NodeId,
    /// Where its vRegions are.
    pub vregions: Vec<(VRegionId, NodeId)>,
}

/// The whole of what gmm knows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Placement policy in force.
    pub policy: String,
    /// Components.
    pub nodes: Vec<NodeStatus>,
    /// Processes.
    pub processes: Vec<ProcessStatus>,
}
