//! The trace of a program's misses: a header, then records of one size, all
//! little-endian. `docs/tracing.md` has the layout in a table.

use thiserror::Error;

/// How a trace begins.
pub const MAGIC: [u8; 8] = *b"SKTRACE\n";
/// Version of this layout.
pub const VERSION: u32 = 1;
/// Bytes of a header.
pub const HEADER: usize = 64;
/// Bytes of a record.
pub const RECORD: usize = 40;

const EVICTION: u16 = 16;
const LOST: u16 = 32;
const END: u16 = 0xffff;

/// Why bytes are no trace.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum TraceError {
    /// They begin otherwise.
    #[error("it does not begin as a trace does")]
    Magic,
    /// Of another version.
    #[error("it has version {0} of the format, this program reads {VERSION}")]
    Version(u32),
    /// The header says sizes that this version does not have.
    #[error("its header says {header} bytes for itself and {record} for a record: it is damaged")]
    Sizes {
        /// Of the header.
        header: u32,
        /// Of a record.
        record: u32,
    },
    /// A record of no kind that there is.
    #[error("a record is of kind {0}, which there is not: it is damaged")]
    Kind(u16),
    /// A record says an access that there is not.
    #[error("a record is of access {0}, which there is not: it is damaged")]
    Access(u16),
}

/// What a trace begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The program's process on the processor component's host.
    pub pid: u32,
    /// Bytes in a cache line.
    pub line_bytes: u64,
    /// Lines in the cache.
    pub lines: u64,
    /// When the clock of the records began: nanoseconds of `CLOCK_MONOTONIC`
    /// of the processor component's host.
    pub start_monotonic_ns: u64,
    /// The same moment in nanoseconds since 1970.
    pub start_unix_ns: u64,
}

/// Why there was a miss.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// First touch of anonymous memory.
    ZeroFill,
    /// The line was at its memory component.
    Remote,
    /// A line of a file.
    File,
    /// First store to a clean line.
    WriteProtect,
    /// Another thread had brought the line meanwhile.
    Joined,
}

impl Cause {
    /// All, in the order of their numbers, from 1.
    pub const ALL: [Cause; 5] = [
        Cause::ZeroFill,
        Cause::Remote,
        Cause::File,
        Cause::WriteProtect,
        Cause::Joined,
    ];

    /// As the statistics have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Cause::ZeroFill => "zero_fill",
            Cause::Remote => "remote",
            Cause::File => "file",
            Cause::WriteProtect => "write_protect",
            Cause::Joined => "joined",
        }
    }
}

/// What the program tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

impl Access {
    const ALL: [Access; 3] = [Access::Read, Access::Write, Access::Execute];

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Execute => "execute",
        }
    }
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A fault was answered.
    Miss {
        /// Why it was.
        cause: Cause,
        /// What the program tried.
        access: Access,
        /// Lines that were brought, those fetched ahead among them.
        lines: u32,
    },
    /// Lines were evicted together.
    Eviction {
        /// Dropped.
        clean: u32,
        /// Written back first.
        dirty: u32,
    },
    /// Records of this thread were lost here.
    Lost {
        /// How many.
        records: u64,
    },
    /// The program ended in good order; the last record.
    End {
        /// Records before this one.
        records: u64,
        /// Records that were lost.
        lost: u64,
    },
}

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// When it began: nanoseconds since the start.
    pub time_ns: u64,
    /// How long it took, nanoseconds; 0 of `Lost` and `End`.
    pub duration_ns: u64,
    /// Which thread, by its number on the processor component's host.
    pub thread: u32,
    /// The address that was touched; of an eviction, that of the lowest line.
    pub address: u64,
    /// What it was.
    pub event: Event,
}

/// A record as five words: so it is kept until it is written.
pub type Words = [u64; RECORD / 8];

impl Header {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        let halves = [VERSION, HEADER as u32, RECORD as u32, self.pid];
        for (to, n) in bytes[8..24].chunks_exact_mut(4).zip(halves) {
            to.copy_from_slice(&n.to_le_bytes());
        }
        let words = [
            self.line_bytes,
            self.lines,
            self.start_monotonic_ns,
            self.start_unix_ns,
        ];
        for (to, n) in bytes[24..56].chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&n.to_le_bytes());
        }
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`TraceError`] where they are not a header of this version.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Header, TraceError> {
        let half = |at: usize| {
            bytes[at..at + 4]
                .iter()
                .rev()
                .fold(0, |n, b| n << 8 | u32::from(*b))
        };
        let word = |at: usize| u64::from(half(at)) | u64::from(half(at + 4)) << 32;
        if bytes[..8] != MAGIC {
            return Err(TraceError::Magic);
        }
        if half(8) != VERSION {
            return Err(TraceError::Version(half(8)));
        }
        let (header, record) = (half(12), half(16));
        let line = word(24);
        if header as usize != HEADER || record as usize != RECORD || !line.is_power_of_two() {
            return Err(TraceError::Sizes { header, record });
        }
        Ok(Header {
            pid: half(20),
            line_bytes: line,
            lines: word(32),
            start_monotonic_ns: word(40),
            start_unix_ns: word(48),
        })
    }
}

impl Record {
    /// As words: time, address, duration, thread with kind and access, two
    /// counts.
    #[must_use]
    pub fn words(&self) -> Words {
        let (kind, access, counts) = match self.event {
            Event::Miss {
                cause,
                access,
                lines,
            } => (cause as u16 + 1, access as u16, u64::from(lines)),
            Event::Eviction { clean, dirty } => {
                (EVICTION, 0, u64::from(clean) | u64::from(dirty) << 32)
            }
            Event::Lost { records } => (LOST, 0, records),
            Event::End { lost, .. } => (END, 0, lost),
        };
        let address = match self.event {
            Event::End { records, .. } => records,
            _ => self.address,
        };
        let kinds = u64::from(self.thread) | u64::from(kind) << 32 | u64::from(access) << 48;
        [self.time_ns, address, self.duration_ns, kinds, counts]
    }

    /// From words.
    ///
    /// # Errors
    /// [`TraceError::Kind`], [`TraceError::Access`].
    pub fn from_words(words: Words) -> Result<Record, TraceError> {
        let [time_ns, address, duration_ns, kinds, counts] = words;
        let (kind, access) = ((kinds >> 32) as u16, (kinds >> 48) as u16);
        let (low, high) = (counts as u32, (counts >> 32) as u32);
        let event = match kind {
            EVICTION => Event::Eviction {
                clean: low,
                dirty: high,
            },
            LOST => Event::Lost { records: counts },
            END => Event::End {
                records: address,
                lost: counts,
            },
            _ => Event::Miss {
                cause: *usize::from(kind)
                    .checked_sub(1)
                    .and_then(|n| Cause::ALL.get(n))
                    .ok_or(TraceError::Kind(kind))?,
                access: *Access::ALL
                    .get(usize::from(access))
                    .ok_or(TraceError::Access(access))?,
                lines: low,
            },
        };
        let address = match event {
            Event::End { .. } => 0,
            _ => address,
        };
        Ok(Record {
            time_ns,
            duration_ns,
            thread: kinds as u32,
            address,
            event,
        })
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`TraceError::Kind`], [`TraceError::Access`].
    pub fn decode(bytes: &[u8; RECORD]) -> Result<Record, TraceError> {
        let mut words = Words::default();
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        }
        Record::from_words(words)
    }
}

/// Words as bytes.
#[must_use]
pub fn to_bytes(words: &Words) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0..5usize, 0..3usize, any::<u32>()).prop_map(|(cause, access, lines)| Event::Miss {
                cause: Cause::ALL[cause],
                access: Access::ALL[access],
                lines
            }),
            any::<(u32, u32)>().prop_map(|(clean, dirty)| Event::Eviction { clean, dirty }),
            any::<u64>().prop_map(|records| Event::Lost { records }),
            any::<(u64, u64)>().prop_map(|(records, lost)| Event::End { records, lost }),
        ]
    }

    proptest! {
        #[test]
        fn records_come_back(
            (time_ns, duration_ns, thread, address) in any::<(u64, u64, u32, u64)>(),
            event in event(),
        ) {
            let address = if matches!(event, Event::End { .. }) { 0 } else { address };
            let record = Record { time_ns, duration_ns, thread, address, event };
            prop_assert_eq!(Record::decode(&to_bytes(&record.words())), Ok(record));
        }

        #[test]
        fn headers_come_back(
            (pid, lines, start_monotonic_ns, start_unix_ns) in any::<(u32, u64, u64, u64)>(),
            shift in 0..64u32,
        ) {
            let line_bytes = 1 << shift;
            let header = Header { pid, line_bytes, lines, start_monotonic_ns, start_unix_ns };
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn whatever_comes_is_a_record_or_an_error(bytes: [u8; RECORD], head: [u8; HEADER]) {
            if let Ok(record) = Record::decode(&bytes) {
                prop_assert_eq!(Record::from_words(record.words()), Ok(record));
            }
            prop_assert!(Header::decode(&head).is_err());
        }
    }

    #[test]
    fn the_layout_is_what_the_document_says() {
        let record = Record {
            time_ns: 1,
            duration_ns: 3,
            thread: 4,
            address: 2,
            event: Event::Miss {
                cause: Cause::Remote,
                access: Access::Write,
                lines: 5,
            },
        };
        let bytes = to_bytes(&record.words());
        let mut expected = [0; RECORD];
        for (at, byte) in [(0, 1), (8, 2), (16, 3), (24, 4), (28, 2), (30, 1), (32, 5)] {
            expected[at] = byte;
        }
        assert_eq!(bytes, expected);
    }

    #[test]
    fn other_versions_and_sizes_are_refused() {
        let header = Header {
            pid: 1,
            line_bytes: 4096,
            lines: 1,
            start_monotonic_ns: 0,
            start_unix_ns: 0,
        };
        let with = |at: usize| {
            let mut bytes = header.encode();
            bytes[at] ^= 9;
            Header::decode(&bytes).unwrap_err()
        };
        assert_eq!(with(0), TraceError::Magic);
        assert_eq!(with(8), TraceError::Version(VERSION ^ 9));
        assert!(matches!(with(12), TraceError::Sizes { .. }));
        assert!(matches!(with(16), TraceError::Sizes { .. }));
    }
}
