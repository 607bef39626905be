//! Counters that components report about themselves.

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
