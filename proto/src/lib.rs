//! The vocabulary that Splitkernel's components share: identifiers, addresses,
//! and every message that crosses a wire. This crate does no I/O.
//!
//! Messages are encoded with [postcard] inside the RPC envelope of the
//! `fabric` crate; [`wire`] holds the encoding and the protocol version.
#![forbid(unsafe_code)]

pub mod addr;
pub mod errno;
pub mod gmm;
pub mod id;
pub mod mem;
pub mod process;
pub mod stats;
pub mod store;
pub mod trace;
pub mod wire;

pub use addr::{EXTENT_SIZE, PAGE_SIZE, UserAddr, UserRange, VREGION_SIZE};
pub use errno::Errno;
pub use id::{Generation, Identity, NodeId, NodeKind, ProcessId, Secret, VRegionId};
