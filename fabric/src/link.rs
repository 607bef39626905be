//! What carries a connection: the split-phase interface of every backend, and
//! the pieces that one-sided operations move.

use crate::FabricError;
use crate::stream::Deadline;
use proto::addr::{RemoteAddr, RemoteKey};

/// What carries a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Backend {
    /// Shared memory of one machine.
    Shm,
    /// TCP.
    Tcp,
    /// RDMA.
    Verbs,
    /// The simulated network of one process: see [`crate::sim`].
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
    /// Only verbs.
    Verbs,
}

impl BackendChoice {
    /// Whether it lets a link of `backend` be made.
    #[must_use]
    pub fn allows(self, backend: Backend) -> bool {
        match self {
            BackendChoice::Auto => true,
            BackendChoice::Shm => backend == Backend::Shm,
            BackendChoice::Tcp => backend == Backend::Tcp,
            BackendChoice::Verbs => backend == Backend::Verbs,
        }
    }
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

impl Segment {
    /// The bytes that `segments` move.
    #[must_use]
    pub fn total(segments: &[Segment]) -> usize {
        segments.iter().map(|s| s.len as usize).sum()
    }

    /// Refuses one that leaves a local buffer of `len` bytes.
    pub(crate) fn check(&self, len: usize) -> Result<(), FabricError> {
        if self.local as usize + self.len as usize <= len {
            return Ok(());
        }
        let (at, n) = (self.local, self.len);
        Err(FabricError::Invalid(format!(
            "{n} bytes at {at} of a buffer of {len}"
        )))
    }

    /// Its part of the local buffer.
    pub(crate) fn of<'a>(&self, buffer: &'a [u8]) -> Result<&'a [u8], FabricError> {
        self.check(buffer.len())?;
        Ok(&buffer[self.local as usize..][..self.len as usize])
    }

    /// As [`Segment::of`].
    pub(crate) fn of_mut<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a mut [u8], FabricError> {
        self.check(buffer.len())?;
        Ok(&mut buffer[self.local as usize..][..self.len as usize])
    }

    /// Itself in pieces of at most `most` bytes.
    pub(crate) fn pieces(self, most: u32) -> impl Iterator<Item = Segment> {
        (0..self.len)
            .step_by(most as usize)
            .map(move |from| Segment {
                local: self.local + from,
                len: (self.len - from).min(most),
                remote: self.remote.plus(from.into()),
            })
    }
}

/// Most bytes that one posted operation moves; blocking transfers are cut.
pub const MOST_POSTED: usize = crate::frame::MAX_TRANSFER;
/// Most segments of one posted operation.
pub const MOST_SEGMENTS: usize = crate::frame::MAX_SEGMENTS;

/// An operation to be posted. Its buffer belongs to the link until the
/// operation completes, and comes back then.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Work {
    /// Reads granted memory into the buffer.
    Read(Vec<Segment>, Vec<u8>),
    /// Writes granted memory from the buffer.
    Write(Vec<Segment>, Vec<u8>),
    /// Sends the buffer as a request; the answer comes back in its place.
    Call(Vec<u8>),
}

impl Work {
    /// The bytes that it moves, a call's answer not counted.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Work::Read(segments, _) | Work::Write(segments, _) => Segment::total(segments),
            Work::Call(request) => request.len(),
        }
    }

    /// Refuses what no link could carry.
    pub(crate) fn check(&self) -> Result<(), FabricError> {
        let refused = |why: String| Err(FabricError::Invalid(why));
        match self {
            Work::Read(segments, buffer) | Work::Write(segments, buffer) => {
                let (count, bytes) = (segments.len(), Segment::total(segments));
                if count == 0 || count > MOST_SEGMENTS || bytes > MOST_POSTED {
                    let most = format!("{MOST_SEGMENTS} segments and {MOST_POSTED} bytes");
                    return refused(format!(
                        "{count} segments of {bytes} bytes posted at once: {most} are the most"
                    ));
                }
                check_local(segments, buffer.len())
            }
            Work::Call(request) => check_message(request.len()),
        }
    }
}

/// Refuses segments that leave a local buffer of `len` bytes.
pub(crate) fn check_local(segments: &[Segment], len: usize) -> Result<(), FabricError> {
    segments.iter().try_for_each(|s| s.check(len))
}

/// Refuses a message that is too long.
pub(crate) fn check_message(len: usize) -> Result<(), FabricError> {
    use proto::wire::MAX_MESSAGE;
    if len <= MAX_MESSAGE {
        return Ok(());
    }
    let why = format!("a message of {len} bytes, {MAX_MESSAGE} is the most");
    Err(FabricError::Invalid(why))
}

/// A posted operation, until it is completed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket(pub(crate) u64);

/// One end of a connection, used by one thread at a time. After a fatal error
/// ([`FabricError::is_fatal`]) of anything but a completed operation itself it
/// is not used again.
///
/// Operations of one link take effect in the order in which they were posted
/// (as on a reliable connection of RDMA); answers to calls may come in any.
pub(crate) trait Link: Send {
    /// Who is at the other end, for messages.
    fn name(&self) -> &str;

    /// Starts an operation, whose buffers have been checked.
    fn post(&mut self, work: Work, deadline: &Deadline) -> Result<Ticket, FabricError>;

    /// Waits for a posted operation and gives its buffer back.
    fn complete(&mut self, ticket: Ticket, deadline: &Deadline) -> Result<Vec<u8>, FabricError>;

    /// A call, waited for.
    fn call(&mut self, request: &[u8], deadline: &Deadline) -> Result<Vec<u8>, FabricError>;

    /// A read of any length, waited for, without a buffer of the link's own.
    fn read(
        &mut self,
        segments: &[Segment],
        dst: &mut [u8],
        deadline: &Deadline,
    ) -> Result<(), FabricError>;

    /// As `read`, a write.
    fn write(
        &mut self,
        segments: &[Segment],
        src: &[u8],
        deadline: &Deadline,
    ) -> Result<(), FabricError>;

    /// Whether the peer still holds its end, as far as is known.
    fn check_open(&mut self) -> Result<(), FabricError>;

    /// Where `len` granted bytes are mapped in this process; `None` where the
    /// backend maps nothing.
    fn address(
        &mut self,
        at: RemoteAddr,
        len: usize,
        write: bool,
        deadline: &Deadline,
    ) -> Option<Result<*mut u8, FabricError>>;

    /// Whether a key that was used through [`Link::address`] has not been revoked.
    fn is_valid(&self, key: RemoteKey) -> bool;
}
