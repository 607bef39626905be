//! The fabric: what joins the components, and nothing else does.
//!
//! An API shaped like RDMA verbs. A component that answers others runs a
//! [`Server`], whose [`Memory`] its peers read and write one-sided under keys
//! that it grants to identities and revokes. A [`Connection`] carries calls
//! (request and reply) and one-sided transfers; a [`Peer`] keeps a pool of
//! them, so that each thread has one to itself while it needs one: nothing is
//! locked and nothing is handed over on the way.
//!
//! Backends: `shm` (one machine: regions are sealed memfds that are mapped at
//! both ends, one-sided operations are copies, messages go over the Unix
//! socket, whose wake-ups are cheaper than a futex's across processors) and
//! `tcp` (anywhere: the server's thread plays the NIC).
//!
//! The fabric does not know what a page or a file is.

pub mod auth;
pub mod emulate;
pub mod error;
mod frame;
pub mod link;
pub mod memory;
pub mod rpc;
mod server;
pub use auth::{ClusterKey, Credential};
pub use emulate::Emulation;
pub use error::FabricError;
pub use link::{Backend, BackendChoice, Segment};
pub use memory::{Access, Memory, Region};
pub use rpc::{Connection, Options, Peer, PeerGuard};
pub use server::{Responder, Server, Service};
