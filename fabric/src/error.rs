//! What can go wrong between two components, and whose fault it is.

use std::time::Duration;

/// An error of the fabric. [`FabricError::is_fatal`] tells whether the link
/// survived it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FabricError {
    /// Nobody answers there.
    #[error("cannot reach {addr}: {why}")]
    Unreachable {
        /// The address tried.
        addr: String,
        /// The reason.
        why: String,
    },
    /// The peer does not accept who we say we are, or speaks another version.
    #[error("{addr} refused the connection: {why}")]
    Rejected {
        /// The address.
        addr: String,
        /// The reason.
        why: String,
    },
    /// The peer is gone.
    #[error("the connection to {peer} broke: {why}")]
    Broken {
        /// Who.
        peer: String,
        /// The reason.
        why: String,
    },
    /// The deadline passed.
    #[error("no answer from {peer} within {after:?}")]
    Timeout {
        /// Who.
        peer: String,
        /// The deadline.
        after: Duration,
    },
    /// The key was revoked, never granted, or belongs to somebody else.
    #[error("the remote key is not valid for this connection")]
    BadKey,
    /// Outside the granted range.
    #[error("the access leaves the granted range")]
    OutOfBounds,
    /// Reads only, or writes only.
    #[error("the grant does not permit this access")]
    AccessDenied,
    /// The peer broke the protocol.
    #[error("{peer} broke the protocol: {why}")]
    Protocol {
        /// Who.
        peer: String,
        /// What it did.
        why: String,
    },
    /// Our own request was wrong (too long, outside its buffer).
    #[error("invalid request: {0}")]
    Invalid(String),
    /// This machine refused something (memory, descriptors, permission).
    #[error("{what}: {why}")]
    Local {
        /// What was tried.
        what: String,
        /// What the system said.
        why: String,
    },
}

impl FabricError {
    pub(crate) fn local(what: &str, why: impl std::fmt::Display) -> FabricError {
        FabricError::Local {
            what: what.to_owned(),
            why: why.to_string(),
        }
    }

    pub(crate) fn broken(peer: &str, why: impl std::fmt::Display) -> FabricError {
        FabricError::Broken {
            peer: peer.to_owned(),
            why: why.to_string(),
        }
    }

    pub(crate) fn unreachable(addr: &str, why: impl std::fmt::Display) -> FabricError {
        FabricError::Unreachable {
            addr: addr.to_owned(),
            why: why.to_string(),
        }
    }

    /// Whether the link that reported it is dead.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        !matches!(
            self,
            FabricError::BadKey
                | FabricError::OutOfBounds
                | FabricError::AccessDenied
                | FabricError::Invalid(_)
        )
    }
}
