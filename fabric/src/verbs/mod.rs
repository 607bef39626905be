//! The `verbs` backend: RDMA over RoCE v2, soft-RoCE and InfiniBand through
//! libibverbs, which is found at run time.
//!
//! A connection begins as one of the tcp backend's, handshake and proof
//! included. That TCP connection stays open as the control connection: the
//! two ends tell each other of their queue pairs over it (`attach`), the
//! initiator has keys looked up, and a peer that dies hangs up there at once.
//!
//! A connection has two queue pairs, both reliable:
//!
//! - one for messages (`messages`): frames are cut into sends, under
//!   credits, into receive queues that connections share (`receives`);
//! - one for one-sided operations (`transfers`), carried out by the target's
//!   device alone. A key that was revoked breaks it, as RDMA has it; it is
//!   replaced, the operation fails, those posted after it are carried out, and
//!   messages never notice.
//!
//! Protection is the device's: what is granted to an identity is registered
//! in its protection domain (`domain`) when it first uses the key, and
//! deregistered when the grant is revoked.
//!
//! | module | what |
//! |---|---|
//! | `sys` | the library's ABI |
//! | `device`, `objects`, `queue` | its objects, owned and safe to use |
//! | `ports` | which device and port |
//! | `state`, `junction` | completions, and waiting for them |
//! | `link`, `serve` | the two ends |
//! | `probe` | what stands in the way |
//!
//! With the crate's `mapping`, `sys`, `device`, `objects` and `queue` are the
//! only unsafe code.

mod attach;
mod device;
mod domain;
mod junction;
mod keys;
mod link;
mod messages;
mod objects;
mod ports;
mod probe;
mod queue;
mod receives;
mod serve;
mod state;
mod sys;
mod transfers;

pub(crate) use attach::{ATTACH, RESOLVED, Resolved};
pub(crate) use domain::{Domain, Domains, Pins, Registration};
pub(crate) use link::VerbsLink;
pub use ports::DEVICE_VARIABLE;
pub use probe::probe;
pub(crate) use serve::serve;

use crate::FabricError;
use rustix::fd::OwnedFd;
use std::net::{IpAddr, SocketAddr};

/// Bytes that are worth copying into a request, so that the device needs not
/// fetch them.
const INLINE: u32 = 220;

/// The address of our end of a TCP connection.
fn local_ip(socket: &OwnedFd) -> Result<IpAddr, FabricError> {
    let failed = |e| FabricError::local("the address of a connection", e);
    let address = rustix::net::getsockname(socket).map_err(failed)?;
    let address = SocketAddr::try_from(address).map_err(failed)?;
    Ok(address.ip())
}

/// Refuses where connections to `local` could not be made.
pub(crate) fn check(local: IpAddr) -> Result<(), FabricError> {
    if local.is_unspecified() {
        return ports::open(IpAddr::from([127, 0, 0, 1]), None).map(drop);
    }
    ports::open(local, None).map(drop)
}
