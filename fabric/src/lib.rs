//! fallback fabric
pub mod auth;
pub mod emulate;
pub mod error;
pub mod frame;
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
