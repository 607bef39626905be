//! What was asked and what became of it.

use proto::stats::StorageStats;
use proto::store::{StoreReply, StoreRequest};
use std::sync::atomic::{AtomicU64, Ordering};

const NAMES: [&str; 25] = [
    "open",
    "close",
    "stat_path",
    "stat",
    "read",
    "write",
    "truncate",
    "fallocate",
    "fsync",
    "read_dir",
    "mkdir",
    "mknod",
    "unlink",
    "rename",
    "link",
    "symlink",
    "readlink",
    "access",
    "chmod",
    "chown",
    "utimens",
    "statfs",
    "path_of",
    "stats",
    "stage",
];

/// Counters, written by many threads.
#[derive(Default)]
pub(super) struct Counters {
    requests: [AtomicU64; NAMES.len()],
    read: AtomicU64,
    written: AtomicU64,
    errors: AtomicU64,
}

impl Counters {
    /// A request came.
    pub(super) fn count(&self, request: &StoreRequest) {
        add(&self.requests[index(request)], 1);
        if let StoreRequest::Write { data, .. } = request {
            add(&self.written, data.len() as u64);
        }
    }

    /// It was answered. Data is counted by [`Counters::add_read`].
    pub(super) fn count_answer(&self, answer: &StoreReply) {
        if matches!(answer, StoreReply::Failed(_)) {
            add(&self.errors, 1);
        }
    }

    /// `n` bytes of a file were sent.
    pub(super) fn add_read(&self, n: usize) {
        add(&self.read, n as u64);
    }

    /// Requests in all.
    pub(super) fn requests(&self) -> u64 {
        self.requests
            .iter()
            .map(|n| n.load(Ordering::Relaxed))
            .sum()
    }

    /// For people. Kinds that were never asked are left out.
    pub(super) fn stats(&self) -> StorageStats {
        let named = NAMES.iter().zip(&self.requests);
        let counted = named.map(|(name, n)| ((*name).to_owned(), n.load(Ordering::Relaxed)));
        StorageStats {
            requests: counted.filter(|(_, n)| *n > 0).collect(),
            bytes_read: self.read.load(Ordering::Relaxed),
            bytes_written: self.written.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// Place in [`NAMES`].
fn index(request: &StoreRequest) -> usize {
    use StoreRequest as Q;
    match request {
        Q::Open { .. } => 0,
        Q::Close { .. } => 1,
        Q::StatPath { .. } => 2,
        Q::Stat { .. } => 3,
        Q::Read { .. } => 4,
        Q::Write { .. } => 5,
        Q::Truncate { .. } => 6,
        Q::Fallocate { .. } => 7,
        Q::Fsync { .. } => 8,
        Q::ReadDir { .. } => 9,
        Q::Mkdir { .. } => 10,
        Q::Mknod { .. } => 11,
        Q::Unlink { .. } => 12,
        Q::Rename { .. } => 13,
        Q::Link { .. } => 14,
        Q::Symlink { .. } => 15,
        Q::Readlink { .. } => 16,
        Q::Access { .. } => 17,
        Q::Chmod { .. } => 18,
        Q::Chown { .. } => 19,
        Q::Utimens { .. } => 20,
        Q::Statfs { .. } => 21,
        Q::PathOf { .. } => 22,
        Q::Stats => 23,
        Q::Stage { .. } => 24,
    }
}
