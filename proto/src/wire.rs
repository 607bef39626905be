//! Encoding of messages and the version of the protocol.

use serde::{Serialize, de::DeserializeOwned};

/// Version of every message in this crate and of the fabric's framing. Peers
/// of different versions refuse each other by name when they connect.
pub const PROTOCOL_VERSION: u16 = 1;

/// Longest message body, bytes. Bulk data travels in messages no longer than
/// [`MAX_BULK`] or by one-sided operations.
pub const MAX_MESSAGE: usize = MAX_BULK + (64 << 10);
/// Most payload that one message carries, bytes.
pub const MAX_BULK: usize = 1 << 20;

/// A message that could not be decoded: the peer's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct Malformed(pub String);

/// Encodes a message.
///
/// # Panics
/// Never for the types of this crate: postcard fails only for maps and
/// sequences of unknown length, which they don't contain.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    #[allow(clippy::expect_used)]
    postcard::to_stdvec(value).expect("the types of this crate have known lengths")
}

/// Decodes a message; bytes left over are an error.
///
/// # Errors
/// [`Malformed`], naming what the decoder stopped at.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(Malformed(format!("{} bytes too many", rest.len()))),
        Err(e) => Err(Malformed(e.to_string())),
    }
}
