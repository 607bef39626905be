//! Counters that components report about themselves.

use crate::ProcessId;
use serde::{Deserialize, Serialize};

/// A storage component's counters since it started.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StorageStats {
    /// Requests answered, by kind.
    pub requests: Vec<(String, u64)>,
    /// Bytes read from files.
    pub bytes_read: u64,
    /// Bytes written to files.
    pub bytes_written: u64,
    /// Requests that ended in an errno.
    pub errors: u64,
}

/// A memory component's counters since it started.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MemoryStats {
    /// Requests answered, by kind.
    pub requests: Vec<(String, u64)>,
    /// Bytes it offers.
    pub capacity: u64,
    /// Bytes promised to processes.
    pub reserved: u64,
    /// Bytes of committed extents.
    pub committed: u64,
    /// Bytes of cached files.
    pub file_cache: u64,
    /// Bytes filled from storage.
    pub storage_read: u64,
    /// Bytes written back to storage.
    pub storage_written: u64,
    /// Extents filled ahead of need.
    pub read_ahead: u64,
    /// Live processes.
    pub processes: u64,
    /// Keys granted.
    pub keys_granted: u64,
    /// Keys revoked.
    pub keys_revoked: u64,
}

/// A running program's counters, as its processor component tells them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ProgramCounters {
    /// Which.
    pub process: ProcessId,
    /// The program's name.
    pub program: String,
    /// Its host process.
    pub pid: i32,
    /// Nanoseconds since its first instruction.
    pub wall_ns: u64,
    /// Threads of the program.
    pub threads: u64,
    /// Bytes of pages in existence.
    pub footprint_bytes: u64,
    /// Lines in the cache.
    pub resident_lines: u64,
    /// The bound of those.
    pub cache_lines: u64,
    /// Bytes in a line.
    pub line_bytes: u64,
    /// Faults by cause.
    pub misses: MissCounts,
    /// Lines dropped.
    pub evicted_clean: u64,
    /// Lines written back and dropped.
    pub evicted_dirty: u64,
    /// Lines fetched ahead of need.
    pub prefetched_lines: u64,
    /// Payload bytes from memory components.
    pub fetched_bytes: u64,
    /// Payload bytes to them.
    pub written_back_bytes: u64,
    /// System calls.
    pub syscalls: u64,
    /// Time of all faults in the handler, nanoseconds.
    pub latency_total_ns: u64,
    /// Latencies of faults: upper edge in nanoseconds and count of each bucket
    /// that is not empty, in order.
    pub latency_ns: Vec<(u64, u64)>,
    /// What went to and from each memory component.
    pub links: Vec<LinkCounters>,
}

/// Faults by cause; see docs/configuration.md.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MissCounts {
    /// First touch of anonymous memory.
    pub zero_fill: u64,
    /// Line was at its memory component.
    pub remote: u64,
    /// Line of a file.
    pub file: u64,
    /// First store to a clean line.
    pub write_protect: u64,
    /// Line had come meanwhile.
    pub joined: u64,
}

impl MissCounts {
    /// Each cause by name.
    #[must_use]
    pub fn by_cause(&self) -> [(&'static str, u64); 5] {
        [
            ("zero_fill", self.zero_fill),
            ("remote", self.remote),
            ("file", self.file),
            ("write_protect", self.write_protect),
            ("joined", self.joined),
        ]
    }

    /// Those that brought a line: not write faults on clean lines, and not
    /// faults on lines that another thread had brought.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.zero_fill + self.remote + self.file
    }
}

/// A program's traffic with one memory component.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LinkCounters {
    /// The component's name.
    pub to: String,
    /// Requests and one-sided operations.
    pub messages: u64,
    /// Bytes read by one-sided operations.
    pub read_bytes: u64,
    /// Bytes written by them.
    pub written_bytes: u64,
}
