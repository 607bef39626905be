//! What the two ends tell each other of their queue pairs, over the control
//! connection once they know who they are. Pure encoding and validation.
//!
//! The body of an `Attach` and of the `Attached` that answers it, all
//! little-endian but the GID:
//!
//! | bytes | meaning |
//! |---|---|
//! | 0 | 0 for both queue pairs, 1 for that of one-sided operations alone |
//! | 1 | link layer: 1 InfiniBand, 2 Ethernet |
//! | 2 | MTU of the path, as in ibv_modify_qp(3): 1 is 256 bytes, 5 is 4096 |
//! | 3, 4 | reads at a time that the end answers, and that it asks for |
//! | 5 | 0 |
//! | 6..8 | LID |
//! | 8..24 | GID |
//! | 24..32 | messages that it has buffers for, bytes of each (4 + 4) |
//! | 32..40 | queue pair of messages: number, first packet (4 + 4) |
//! | 40..48 | that of one-sided operations |
//! | 48..56 | number of the protection domain (0 from a client) |

use super::sys::LINK_ETHERNET;

/// Length of the body.
pub(crate) const ATTACH: usize = 56;
/// Numbers of packets have 24 bits.
const PACKETS: u32 = 1 << 24;
/// Codes of MTUs.
const MTUS: std::ops::RangeInclusive<u8> = 1..=5;

/// A port as the other end must know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// Number of the port, on its own machine alone.
    pub(crate) port: u8,
    /// Index of the GID there, on its own machine alone.
    pub(crate) gid_index: u8,
    pub(crate) ethernet: bool,
    pub(crate) mtu: u8,
    /// RDMA reads at a time that it answers
    pub(crate) answers: u8,
    /// and that it asks for.
    pub(crate) asks: u8,
    pub(crate) lid: u16,
    pub(crate) gid: [u8; 16],
}

/// One end of a queue pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends {
    pub(crate) number: u32,
    /// The number of the first packet that it sends.
    pub(crate) first: u32,
}

impl Ends {
    /// The end `number`, its packets counted from anywhere, so that those of
    /// an earlier connection are told from these.
    pub(crate) fn of(number: u32) -> Ends {
        Ends {
            number,
            first: fastrand::u32(0..PACKETS),
        }
    }
}

/// What is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    /// Everything: a new connection.
    All,
    /// The queue pair of one-sided operations, anew.
    Transfers,
}

/// The body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Attach {
    pub(crate) what: What,
    pub(crate) place: Place,
    /// Messages for which there are buffers,
    pub(crate) credits: u32,
    /// and how long each may be.
    pub(crate) chunk: u32,
    pub(crate) messages: Ends,
    pub(crate) transfers: Ends,
    pub(crate) domain: u64,
}

impl Attach {
    pub(crate) fn encode(&self) -> [u8; ATTACH] {
        let mut bytes = [0; ATTACH];
        let place = &self.place;
        bytes[0] = u8::from(self.what == What::Transfers);
        bytes[1] = if place.ethernet { LINK_ETHERNET } else { 1 };
        bytes[2..5].copy_from_slice(&[place.mtu, place.answers, place.asks]);
        bytes[6..8].copy_from_slice(&place.lid.to_le_bytes());
        bytes[8..24].copy_from_slice(&place.gid);
        let words = [
            self.credits,
            self.chunk,
            self.messages.number,
            self.messages.first,
            self.transfers.number,
            self.transfers.first,
        ];
        for (to, word) in bytes[24..48].chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes[48..].copy_from_slice(&self.domain.to_le_bytes());
        bytes
    }

    /// What a peer says of itself, if it can be so.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Attach> {
        let bytes: &[u8; ATTACH] = bytes.try_into().ok()?;
        let word = |at: usize| bytes[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
        let ends = |at| Ends {
            number: word(at),
            first: word(at + 4),
        };
        let what = match bytes[0] {
            0 => What::All,
            1 => What::Transfers,
            _ => return None,
        };
        let attach = Attach {
            what,
            place: Place {
                port: 0,
                gid_index: 0,
                ethernet: bytes[1] == LINK_ETHERNET,
                mtu: bytes[2],
                answers: bytes[3],
                asks: bytes[4],
                lid: u16::from_le_bytes([bytes[6], bytes[7]]),
                gid: bytes[8..24].try_into().ok()?,
            },
            credits: word(24),
            chunk: word(28),
            messages: ends(32),
            transfers: ends(40),
            domain: bytes[48..].try_into().map_or(0, u64::from_le_bytes),
        };
        let sound = matches!(bytes[1], 1 | LINK_ETHERNET)
            && MTUS.contains(&attach.place.mtu)
            && (1..=1 << 16).contains(&attach.credits)
            && (1 << 10..=1 << 20).contains(&attach.chunk)
            && [attach.messages, attach.transfers]
                .iter()
                .all(|e| e.number < PACKETS && e.first < PACKETS);
        sound.then_some(attach)
    }
}

/// How granted memory is reached: the body of a `Resolved`, little-endian:
/// address (8), length (8), key (4), whether it may be written (1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Resolved {
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) rkey: u32,
    pub(crate) writable: bool,
}

/// Length of a [`Resolved`].
pub(crate) const RESOLVED: usize = 21;

impl Resolved {
    pub(crate) fn encode(&self) -> [u8; RESOLVED] {
        let mut bytes = [0; RESOLVED];
        bytes[..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.rkey.to_le_bytes());
        bytes[20] = self.writable.into();
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Resolved> {
        let bytes: &[u8; RESOLVED] = bytes.try_into().ok()?;
        let long = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        let resolved = Resolved {
            start: long(0),
            len: long(8),
            rkey: bytes[16..20].try_into().map_or(0, u32::from_le_bytes),
            writable: bytes[20] == 1,
        };
        let sound = bytes[20] < 2 && resolved.start.checked_add(resolved.len).is_some();
        sound.then_some(resolved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attach() -> Attach {
        Attach {
            what: What::Transfers,
            place: Place {
                port: 0,
                gid_index: 0,
                ethernet: true,
                mtu: 5,
                answers: 16,
                asks: 128,
                lid: 0x0102,
                gid: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1],
            },
            credits: 8,
            chunk: 8192,
            messages: Ends {
                number: 17,
                first: 0x0a_0b0c,
            },
            transfers: Ends {
                number: 18,
                first: 1,
            },
            domain: 9,
        }
    }

    #[test]
    fn bytes_of_an_attachment() {
        let bytes = attach().encode();
        assert_eq!(bytes[..8], [1, 2, 5, 16, 128, 0, 2, 1]);
        assert_eq!(bytes[20..32], [10, 0, 0, 1, 8, 0, 0, 0, 0, 0x20, 0, 0]);
        assert_eq!(bytes[32..40], [17, 0, 0, 0, 0x0c, 0x0b, 0x0a, 0]);
        assert_eq!(bytes[40..50], [18, 0, 0, 0, 1, 0, 0, 0, 9, 0]);
        assert_eq!(Attach::decode(&bytes), Some(attach()));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let good = attach().encode();
        for (at, byte) in [
            (0, 2),
            (1, 0),
            (1, 3),
            (2, 0),
            (2, 6),
            (24, 0),
            (27, 1),
            (35, 1),
            (47, 1),
        ] {
            let mut bytes = good;
            bytes[at] = byte;
            assert_eq!(Attach::decode(&bytes), None, "byte {at}");
        }
        assert_eq!(Attach::decode(&good[1..]), None);
    }

    #[test]
    fn bytes_of_a_resolution() {
        let resolved = Resolved {
            start: 0x7f00_0000_1000,
            len: 0x20_0000,
            rkey: 0x0403_0201,
            writable: true,
        };
        let bytes = resolved.encode();
        assert_eq!(bytes[..6], [0, 0x10, 0, 0, 0, 0x7f]);
        assert_eq!(bytes[16..], [1, 2, 3, 4, 1]);
        assert_eq!(Resolved::decode(&bytes), Some(resolved));
        let mut wraps = bytes;
        wraps[..8].fill(0xff);
        assert_eq!(Resolved::decode(&wraps), None);
        assert_eq!(Resolved::decode(&bytes[1..]), None);
    }
}
