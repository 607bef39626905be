//! The fabric: what joins the components, and nothing else does.
//!
//! An API shaped like RDMA verbs. A component that answers others runs a
//! [`Server`], whose [`Memory`] its peers read and write one-sided under keys
//! that it grants to identities and revokes. A [`Connection`] carries calls
//! (request and answer) and one-sided transfers, blocking or split-phase
//! ([`Connection::post`], [`Connection::complete`]); a [`Peer`] keeps a pool of
//! them, so that each thread has one to itself while it needs one: nothing is
//! locked and nothing is handed over on the way.
//!
//! What carries a connection is a backend:
//!
//! - `shm`, one machine: regions are sealed memfds that are mapped at both
//!   ends, one-sided operations are copies, messages go over a Unix socket,
//!   whose wake-ups are cheaper than a futex's across processors;
//! - `tcp`, anywhere: the server's thread plays the NIC;
//! - `verbs`, between machines with RDMA: [`verbs`];
//! - `sim`, one process under virtual time, for tests: [`sim`].
//!
//! The fabric does not know what a page or a file is.

mod auth;
mod batch;
mod connection;
mod dial;
mod emulate;
mod error;
mod frame;
mod handshake;
mod link;
mod listen;
mod mapping;
mod memory;
mod peer;
mod port;
mod server;
pub mod sim;
mod socket;
mod spin;
mod stream;
mod table;
pub mod verbs;
mod window;

pub use auth::{ClusterKey, Credential};
pub use connection::{Connection, Options};
pub use emulate::{Calibration, Emulation, calibrate};
pub use error::FabricError;
pub use link::{Backend, BackendChoice, MOST_POSTED, MOST_SEGMENTS, Segment, Ticket, Work};
pub use memory::{Access, Memory, Region};
pub use peer::{Kept, Peer, PeerGuard};
pub use server::{Responder, Server, Service};
