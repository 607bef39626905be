//! The words that every backend shares.

use proto::addr::RemoteAddr;

/// What carries a link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Backend {
    /// Shared memory of one machine.
    Shm,
    /// TCP.
    Tcp,
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
/// the local buffer) and `remote`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Offset in the local buffer, bytes.
    pub local: u32,
    /// Length, bytes.
    pub len: u32,
    /// The remote end.
    pub remote: RemoteAddr,
}
