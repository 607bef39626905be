//! One connection as its initiator sees it: post an operation, reap its
//! completion. Semantics are those of a reliable connected queue pair:
//! operations of one link are carried out in the order they were posted, a
//! write is visible at the target before the message posted after it arrives,
//! and after the first failure every later operation fails too.

use crate::FabricError;
use proto::addr::RemoteAddr;
use proto::id::Identity;
use std::time::Duration;

/// Chosen by the poster, returned with the completion.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WrId(pub u64);

/// What carries a link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Backend {
    /// Shared memory of one machine.
    Shm,
    /// TCP.
    Tcp,
    /// One process under virtual time.
    Sim,
}

/// Which backend a person asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum BackendChoice {
    /// The best that both ends have: shm on one host, else tcp.
    #[default]
    Auto,
    /// Only shm.
    Shm,
    /// Only tcp.
    Tcp,
}

/// One piece of a one-sided transfer: `len` bytes between `local` (offset in
/// the posted buffer) and `remote`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Offset in the local buffer, bytes.
    pub local: u32,
    /// Length, bytes.
    pub len: u32,
    /// The remote end.
    pub remote: RemoteAddr,
}

/// Memory that one-sided operations read from or write to. While an operation
/// is posted the link owns it; the completion gives it back.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
}

impl Buffer {
    /// For backends: wraps memory that is registered with them.
    #[must_use]
    pub fn new(len: usize) -> Buffer {
        Buffer {
            bytes: vec![0; len].into_boxed_slice(),
        }
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// How an operation ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Status {
    /// All of it was done.
    Ok,
    /// The target refused it (bounds, key, permission). The link lives on.
    Refused(FabricError),
    /// The link is dead; whether the operation took effect is unknown.
    Flushed(FabricError),
}

/// What [`Link::poll`] finds.
#[derive(Debug)]
pub enum Event {
    /// A one-sided operation ended; the buffer is the poster's again.
    Done {
        /// Which.
        id: WrId,
        /// How.
        status: Status,
        /// Its buffer.
        buffer: Buffer,
    },
    /// A message was handed to the target (not: answered).
    Sent {
        /// Which.
        id: WrId,
        /// How.
        status: Status,
    },
    /// A message arrived.
    Message(Vec<u8>),
}

/// The initiating end of one connection. Exclusive: a thread that wants to
/// talk takes a link of its own (see [`crate::Peer`]), so nothing is locked
/// and nothing is handed over on the way.
pub trait Link: Send {
    /// Who is at the other end.
    fn peer(&self) -> Identity;

    /// What carries it.
    fn backend(&self) -> Backend;

    /// Memory for one-sided operations of this link.
    fn buffer(&mut self, len: usize) -> Buffer {
        Buffer::new(len)
    }

    /// Posts one-sided reads, one completion for all segments. The target's
    /// CPU is asked nothing where the hardware allows.
    ///
    /// # Errors
    /// A dead link, or segments outside the buffer; the buffer comes back.
    fn post_read(
        &mut self,
        id: WrId,
        segments: &[Segment],
        buffer: Buffer,
    ) -> Result<(), (FabricError, Buffer)>;

    /// Posts one-sided writes, one completion for all segments.
    ///
    /// # Errors
    /// As for [`Link::post_read`].
    fn post_write(
        &mut self,
        id: WrId,
        segments: &[Segment],
        buffer: Buffer,
    ) -> Result<(), (FabricError, Buffer)>;

    /// Posts a message of at most [`proto::wire::MAX_MESSAGE`] bytes (plus the
    /// RPC header). The bytes are copied.
    ///
    /// # Errors
    /// A dead link, or a message that is too long.
    fn post_send(&mut self, id: WrId, message: &[u8]) -> Result<(), FabricError>;

    /// Rings the doorbell if that is still to be done, and waits for at least
    /// one event, at most `timeout`; appends what there is to `events` and
    /// returns how many. 0 means the time is over.
    ///
    /// # Errors
    /// The link is dead and every posted operation has been reaped.
    fn poll(&mut self, events: &mut Vec<Event>, timeout: Duration) -> Result<usize, FabricError>;

    /// Reads straight into `dst`, blocking; the fast form of a posted read.
    /// `segments[..].local` are offsets into `dst`.
    ///
    /// # Errors
    /// [`FabricError::Refused`]-like errors leave the link alive; a timeout or
    /// a dead peer kills it.
    fn read(
        &mut self,
        segments: &[Segment],
        dst: &mut [u8],
        timeout: Duration,
    ) -> Result<(), FabricError>;

    /// Writes straight from `src`, blocking: returns when the target has it.
    ///
    /// # Errors
    /// As for [`Link::read`].
    fn write(
        &mut self,
        segments: &[Segment],
        src: &[u8],
        timeout: Duration,
    ) -> Result<(), FabricError>;

    /// Where the granted memory is mapped in this process (shm): the address
    /// of `len` bytes at `at`, readable until the key is revoked (after which
    /// it reads as anything, never faults). `None` where it must be
    /// fetched, also when emulated latency applies. Use
    /// [`Link::still_valid`] after reading to learn whether what was read counts.
    fn mapped(&mut self, at: RemoteAddr, len: usize) -> Option<*const u8> {
        let _ = (at, len);
        None
    }

    /// Whether the key has not been revoked (shm, after a read through
    /// [`Link::mapped`]).
    fn still_valid(&mut self, at: RemoteAddr) -> bool {
        let _ = at;
        true
    }
}
