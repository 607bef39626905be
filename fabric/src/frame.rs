//! Frames: what travels over a stream between two components. Pure encoding
//! and validation; [`crate::stream`] moves the bytes.
//!
//! A frame is a header of 16 bytes, little-endian, and a body:
//!
//! | bytes | meaning |
//! |---|---|
//! | 0 | `0x5b` |
//! | 1 | kind |
//! | 2 | outcome, in answers |
//! | 3 | 0 |
//! | 4..8 | length of the body |
//! | 8..16 | id of the operation, chosen by who began it |
//!
//! The header and the first two bytes of a hello are the same in every version
//! of the protocol, so that two versions can refuse each other by name.

use crate::verbs::{ATTACH, RESOLVED};
use crate::{FabricError, Segment};
use proto::addr::{RemoteAddr, RemoteKey};
use proto::wire::{MAX_BULK, MAX_MESSAGE};

/// Length of a header.
pub(crate) const HEADER: usize = 16;
/// Most data in one frame; longer transfers take several.
pub(crate) const MAX_TRANSFER: usize = MAX_BULK;
/// Most segments in one frame.
pub(crate) const MAX_SEGMENTS: usize = 512;
/// Length of a segment.
pub(crate) const SEGMENT: usize = 28;
/// Length of a key.
pub(crate) const KEY: usize = 16;

const MAGIC: u8 = 0x5b;
const MAX_GREETING: usize = 256;
/// Longest reason for a refusal.
pub(crate) const MAX_REFUSAL: usize = 1024;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Handshake, first: version, nonce, identity.
    Hello = 1,
    /// Handshake: the server's nonce.
    Challenge = 2,
    /// Handshake: the client's proof.
    Proof = 3,
    /// Handshake, last: the server's proof and identity.
    Accept = 4,
    /// Handshake, last: the reason.
    Refuse = 5,
    /// A message that asks for an answer.
    Call = 16,
    /// The answer.
    Reply = 17,
    /// Segments to be read.
    Read = 18,
    /// Their bytes.
    Data = 19,
    /// Segments to be written, and their bytes.
    Write = 20,
    /// It was done.
    Written = 21,
    /// A key whose region is to be mapped (shm).
    Map = 22,
    /// Its length and access, with descriptors.
    Mapped = 23,
    /// Queue pairs to be connected (verbs).
    Attach = 24,
    /// Those at the other end.
    Attached = 25,
    /// A key whose memory is to be registered (verbs).
    Resolve = 26,
    /// How the device names it.
    Resolved = 27,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Hello,
            2 => Kind::Challenge,
            3 => Kind::Proof,
            4 => Kind::Accept,
            5 => Kind::Refuse,
            16 => Kind::Call,
            17 => Kind::Reply,
            18 => Kind::Read,
            19 => Kind::Data,
            20 => Kind::Write,
            21 => Kind::Written,
            22 => Kind::Map,
            23 => Kind::Mapped,
            24 => Kind::Attach,
            25 => Kind::Attached,
            26 => Kind::Resolve,
            27 => Kind::Resolved,
            _ => return None,
        })
    }

    /// The longest body that is right for it.
    fn longest(self) -> usize {
        match self {
            Kind::Hello | Kind::Challenge | Kind::Proof | Kind::Accept => MAX_GREETING,
            Kind::Refuse => MAX_REFUSAL,
            Kind::Call | Kind::Reply => MAX_MESSAGE,
            Kind::Read => MAX_SEGMENTS * SEGMENT,
            Kind::Data => MAX_TRANSFER,
            Kind::Write => 4 + MAX_SEGMENTS * SEGMENT + MAX_TRANSFER,
            Kind::Written => 0,
            Kind::Map | Kind::Resolve => KEY,
            Kind::Mapped => MAPPED,
            Kind::Attach | Kind::Attached => ATTACH,
            Kind::Resolved => RESOLVED,
        }
    }
}

/// How an operation ended at its target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Done = 0,
    BadKey = 1,
    OutOfBounds = 2,
    AccessDenied = 3,
    /// The service dropped the request unanswered.
    GivenUp = 4,
}

impl Outcome {
    fn of(byte: u8) -> Option<Outcome> {
        Some(match byte {
            0 => Outcome::Done,
            1 => Outcome::BadKey,
            2 => Outcome::OutOfBounds,
            3 => Outcome::AccessDenied,
            4 => Outcome::GivenUp,
            _ => return None,
        })
    }

    /// What a target answers for an error of its own memory.
    pub(crate) fn from_error(e: &FabricError) -> Outcome {
        match e {
            FabricError::OutOfBounds => Outcome::OutOfBounds,
            FabricError::AccessDenied => Outcome::AccessDenied,
            _ => Outcome::BadKey,
        }
    }

    /// What the initiator reports, `peer` being the target.
    pub(crate) fn into_result(self, peer: &str) -> Result<(), FabricError> {
        Err(match self {
            Outcome::Done => return Ok(()),
            Outcome::BadKey => FabricError::BadKey,
            Outcome::OutOfBounds => FabricError::OutOfBounds,
            Outcome::AccessDenied => FabricError::AccessDenied,
            Outcome::GivenUp => FabricError::Broken {
                peer: peer.to_owned(),
                why: "it gave the request up unanswered".to_owned(),
            },
        })
    }
}

/// A validated header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) outcome: Outcome,
    pub(crate) len: usize,
    pub(crate) id: u64,
}

/// Bytes that are no frame of this protocol.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Garbled {
    #[error("it does not speak this protocol (first byte {0:#04x})")]
    Magic(u8),
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    #[error("an outcome that does not exist: {0}")]
    Outcome(u8),
    #[error("a {0:?} frame of {1} bytes")]
    TooLong(Kind, usize),
    #[error("a {0:?} frame whose length does not fit what it holds")]
    Length(Kind),
    #[error("a {0:?} frame that nobody asked for")]
    Unexpected(Kind),
}

impl Garbled {
    pub(crate) fn by(&self, peer: &str) -> FabricError {
        FabricError::Protocol {
            peer: peer.to_owned(),
            why: self.to_string(),
        }
    }
}

impl Header {
    /// Of a frame that asks.
    pub(crate) fn new(kind: Kind, len: usize, id: u64) -> Header {
        Header {
            kind,
            outcome: Outcome::Done,
            len,
            id,
        }
    }

    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = MAGIC;
        bytes[1] = self.kind as u8;
        bytes[2] = self.outcome as u8;
        bytes[4..8].copy_from_slice(&u32::try_from(self.len).unwrap_or(u32::MAX).to_le_bytes());
        bytes[8..].copy_from_slice(&self.id.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; HEADER]) -> Result<Header, Garbled> {
        if bytes[0] != MAGIC {
            return Err(Garbled::Magic(bytes[0]));
        }
        let kind = Kind::of(bytes[1]).ok_or(Garbled::Kind(bytes[1]))?;
        let outcome = Outcome::of(bytes[2]).ok_or(Garbled::Outcome(bytes[2]))?;
        let len = u32_at(bytes, 4) as usize;
        if len > kind.longest() {
            return Err(Garbled::TooLong(kind, len));
        }
        Ok(Header {
            kind,
            outcome,
            len,
            id: u64_at(bytes, 8),
        })
    }

    /// Refuses a frame of another kind.
    pub(crate) fn expect(self, kind: Kind) -> Result<Header, Garbled> {
        if self.kind == kind {
            Ok(self)
        } else {
            Err(Garbled::Unexpected(self.kind))
        }
    }
}

/// The bytes at `at`, zeros beyond the end.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let found = bytes.get(at..at + N).and_then(|b| b.try_into().ok());
    found.unwrap_or([0; N])
}
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// A key as the body of a [`Kind::Map`].
pub(crate) fn encode_key(key: RemoteKey) -> [u8; KEY] {
    let mut bytes = [0; KEY];
    bytes[..4].copy_from_slice(&key.region.to_le_bytes());
    bytes[4..8].copy_from_slice(&key.slot.to_le_bytes());
    bytes[8..].copy_from_slice(&key.nonce.to_le_bytes());
    bytes
}

pub(crate) fn decode_key(body: &[u8]) -> Result<RemoteKey, Garbled> {
    if body.len() != KEY {
        return Err(Garbled::Length(Kind::Map));
    }
    Ok(key_at(body, 0))
}

fn key_at(bytes: &[u8], at: usize) -> RemoteKey {
    RemoteKey {
        region: u32_at(bytes, at),
        slot: u32_at(bytes, at + 4),
        nonce: u64_at(bytes, at + 8),
    }
}

const MAPPED: usize = 9;

/// The body of a [`Kind::Mapped`]: length of the region, and whether it may
/// be written.
pub(crate) fn encode_mapped(len: u64, writable: bool) -> [u8; MAPPED] {
    let mut bytes = [0; MAPPED];
    bytes[..8].copy_from_slice(&len.to_le_bytes());
    bytes[8] = writable.into();
    bytes
}

pub(crate) fn decode_mapped(body: &[u8]) -> Result<(u64, bool), Garbled> {
    match body {
        [len @ .., writable @ (0 | 1)] if len.len() == 8 => Ok((u64_at(len, 0), *writable == 1)),
        _ => Err(Garbled::Length(Kind::Mapped)),
    }
}

/// A segment as the target sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) remote: RemoteAddr,
    pub(crate) len: usize,
}

/// Appends `segments` as the target needs them.
pub(crate) fn encode_segments(segments: &[Segment], out: &mut Vec<u8>) {
    for s in segments {
        out.extend_from_slice(&encode_key(s.remote.key));
        out.extend_from_slice(&s.remote.offset.to_le_bytes());
        out.extend_from_slice(&s.len.to_le_bytes());
    }
}

fn piece(bytes: &[u8]) -> Piece {
    let remote = RemoteAddr {
        key: key_at(bytes, 0),
        offset: u64_at(bytes, KEY),
    };
    Piece {
        remote,
        len: u32_at(bytes, KEY + 8) as usize,
    }
}

/// The segments of a [`Kind::Read`] and the sum of their lengths, at most
/// [`MAX_TRANSFER`].
pub(crate) fn decode_read(
    body: &[u8],
) -> Result<(impl Iterator<Item = Piece> + Clone, usize), Garbled> {
    let (chunks, rest) = body.as_chunks::<SEGMENT>();
    let total: usize = chunks.iter().map(|c| piece(c).len).sum();
    if !rest.is_empty() || chunks.is_empty() {
        return Err(Garbled::Length(Kind::Read));
    }
    if total > MAX_TRANSFER {
        return Err(Garbled::TooLong(Kind::Data, total));
    }
    Ok((chunks.iter().map(|c| piece(c)), total))
}

/// The segments of a [`Kind::Write`], and the bytes, which are exactly as many
/// as the segments take.
pub(crate) fn decode_write(
    body: &[u8],
) -> Result<(impl Iterator<Item = Piece> + Clone, &[u8]), Garbled> {
    let wrong = Garbled::Length(Kind::Write);
    let Some((count, rest)) = body.split_at_checked(4) else {
        return Err(wrong);
    };
    let count = u32_at(count, 0) as usize;
    if count == 0 || count > MAX_SEGMENTS {
        return Err(wrong);
    }
    let Some((list, data)) = rest.split_at_checked(count * SEGMENT) else {
        return Err(wrong);
    };
    let (chunks, _) = list.as_chunks::<SEGMENT>();
    let total: usize = chunks.iter().map(|c| piece(c).len).sum();
    if total != data.len() {
        return Err(wrong);
    }
    Ok((chunks.iter().map(|c| piece(c)), data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY_1: RemoteKey = RemoteKey {
        region: 1,
        slot: 0x0203,
        nonce: 0x1122_3344_5566_7788,
    };

    #[test]
    fn bytes_of_a_header() {
        let header = Header {
            kind: Kind::Data,
            outcome: Outcome::OutOfBounds,
            len: 0x0004_0506,
            id: 0x0102_0304_0506_0708,
        };
        let bytes = [0x5b, 19, 2, 0, 6, 5, 4, 0, 8, 7, 6, 5, 4, 3, 2, 1];
        assert_eq!(header.encode(), bytes);
        assert_eq!(Header::decode(&bytes), Ok(header));
    }

    #[test]
    fn bytes_of_a_segment() {
        let remote = RemoteAddr {
            key: KEY_1,
            offset: 0x2000,
        };
        let mut out = Vec::new();
        encode_segments(
            &[Segment {
                local: 77,
                len: 0x1000,
                remote,
            }],
            &mut out,
        );
        let bytes = [
            1, 0, 0, 0, 3, 2, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0x20, 0, 0,
            0, 0, 0, 0, 0, 0x10, 0, 0,
        ];
        assert_eq!(out, bytes);
        let (pieces, total) = decode_read(&out).unwrap();
        assert_eq!(
            pieces.collect::<Vec<_>>(),
            [Piece {
                remote,
                len: 0x1000
            }]
        );
        assert_eq!(total, 0x1000);
    }

    #[test]
    fn bytes_of_a_mapping() {
        let bytes = [0, 0, 0, 0x40, 0, 0, 0, 0, 1];
        assert_eq!(encode_mapped(1 << 30, true), bytes);
        assert_eq!(decode_mapped(&bytes), Ok((1 << 30, true)));
        assert!(decode_mapped(&[0; 8]).is_err());
        assert!(decode_mapped(&[2; 9]).is_err());
        assert_eq!(decode_key(&encode_key(KEY_1)), Ok(KEY_1));
        assert!(decode_key(&[0; KEY + 1]).is_err());
    }

    #[test]
    fn what_is_too_long_is_refused() {
        for (kind, longest) in [
            (Kind::Hello, 256),
            (Kind::Call, MAX_MESSAGE),
            (Kind::Data, MAX_TRANSFER),
            (Kind::Written, 0),
        ] {
            assert!(Header::decode(&Header::new(kind, longest, 0).encode()).is_ok());
            let over = Header::new(kind, longest + 1, 0).encode();
            assert_eq!(
                Header::decode(&over),
                Err(Garbled::TooLong(kind, longest + 1))
            );
        }
    }

    fn segments() -> impl Strategy<Value = Vec<Segment>> {
        let one = (any::<(u32, u32, u64, u64)>(), 0u32..2048);
        let of = |((region, slot, nonce, offset), len)| Segment {
            local: 0,
            len,
            remote: RemoteAddr {
                key: RemoteKey {
                    region,
                    slot,
                    nonce,
                },
                offset,
            },
        };
        proptest::collection::vec(one.prop_map(of), 1..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_header_bytes_are_decoded_or_refused(bytes: [u8; HEADER]) {
            if let Ok(header) = Header::decode(&bytes) {
                let mut plain = bytes;
                plain[3] = 0;
                prop_assert_eq!(header.encode(), plain);
            }
        }

        #[test]
        fn writes_come_out_as_they_went_in(list in segments(), byte: u8) {
            let total: usize = list.iter().map(|s| s.len as usize).sum();
            let mut body = u32::try_from(list.len()).unwrap().to_le_bytes().to_vec();
            encode_segments(&list, &mut body);
            body.resize(body.len() + total, byte);
            let (pieces, data) = decode_write(&body).unwrap();
            prop_assert_eq!(data.len(), total);
            for (p, s) in pieces.zip(&list) {
                prop_assert_eq!((p.remote, p.len), (s.remote, s.len as usize));
            }
            body.pop();
            let shorter = decode_write(&body).map(|(_, data)| data.len());
            prop_assert!(shorter.is_err());
        }

        #[test]
        fn any_body_is_decoded_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((pieces, total)) = decode_read(&body) {
                prop_assert_eq!(pieces.map(|p| p.len).sum::<usize>(), total);
            }
            if let Ok((pieces, data)) = decode_write(&body) {
                prop_assert_eq!(pieces.map(|p| p.len).sum::<usize>(), data.len());
            }
        }
    }
}
