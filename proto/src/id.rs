//! Identifiers. Ids carry generations, so that a component that restarted is
//! refused under its old name instead of being mistaken for the one that died.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A component, as numbered by the global manager at its first registration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// How often a component (or the thing it names) has been started; grows only.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Generation(pub u64);

/// A process of the disaggregated system, unique over the testbed's life.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct ProcessId(pub u64);

/// A [`crate::VREGION_SIZE`] slice of a process's virtual address space:
/// the address divided by the slice's size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct VRegionId(pub u32);

/// What a component is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum NodeKind {
    /// `gmm`, the global managers.
    Manager,
    /// `pcomponent`.
    Processor,
    /// `mcomponent`.
    Memory,
    /// `scomponent`.
    Storage,
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NodeKind::Manager => "gmm",
            NodeKind::Processor => "pcomponent",
            NodeKind::Memory => "mcomponent",
            NodeKind::Storage => "scomponent",
        })
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node{}", self.0)
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process{}", self.0)
    }
}

/// Who is at the other end of a connection, as proved when it was made.
///
/// The secret that proves an identity is derived from the testbed's cluster
/// key (`fabric::auth::derive`): a component holds the cluster key and can
/// check any identity; a process holds its own secret alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Identity {
    /// A component that has not been numbered yet, or a tool (`testbed`): it
    /// holds the cluster key.
    Operator,
    /// A registered component.
    Node(NodeId, Generation),
    /// A process of the disaggregated system.
    Process(ProcessId),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Operator => f.write_str("operator"),
            Identity::Node(n, g) => write!(f, "{n}.{}", g.0),
            Identity::Process(p) => write!(f, "{p}"),
        }
    }
}

/// 256 bits that prove an identity. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
