//! What one thread counts.

use super::links::Links;
use crate::trace::Lane;
use host::clock;
use proto::NodeId;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::latency::Buckets;

/// Why there was a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    /// First touch of anonymous memory: no message.
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

const CAUSES: usize = 5;

impl Cause {
    /// As a trace has it.
    pub(crate) fn traced(self) -> proto::trace::Cause {
        match self {
            Cause::ZeroFill => proto::trace::Cause::ZeroFill,
            Cause::Remote => proto::trace::Cause::Remote,
            Cause::File => proto::trace::Cause::File,
            Cause::WriteProtect => proto::trace::Cause::WriteProtect,
            Cause::Joined => proto::trace::Cause::Joined,
        }
    }
}

/// Where the time of one miss went, in ticks of [`clock`]. What is left of the
/// whole is bookkeeping.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Split {
    /// Finding mapping, line and way, with waits for others at the same line.
    pub lookup: u64,
    /// Bringing the bytes.
    pub wire: u64,
    /// Installing the pages.
    pub install: u64,
    /// Making room, for the missing line and those fetched ahead.
    pub evict: u64,
    /// Following the program to find what it misses next.
    pub follow: u64,
}

/// One thread's counters. Only that thread writes them, by plain loads and
/// stores; whoever asks while it runs reads them from another thread, and no
/// lock is between the two. So a miss costs the same whether somebody watches
/// or not, but for the cache lines that a look pulls over to the reader's CPU:
/// a few a look, and looks are ten a second at most from the process itself
/// and as many as people ask for.
pub(crate) struct Counters {
    causes: [AtomicU64; CAUSES],
    fetched: AtomicU64,
    written_back: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) clean: AtomicU64,
    pub(super) dirty: AtomicU64,
    pub(super) grown: AtomicU64,
    pub(super) straight: AtomicU64,
    pub(super) prefetched: AtomicU64,
    pub(super) followed: AtomicU64,
    pub(super) prefetch_useful: AtomicU64,
    pub(super) prefetch_wasted: AtomicU64,
    pub(super) caught_leaving: AtomicU64,
    pub(super) split: [AtomicU64; 5],
    pub(super) syscalls: [AtomicU64; SYSCALLS],
    pub(super) latency: Buckets,
    pub(super) links: Links,
    /// Where its misses are traced, if they are.
    lane: Option<Arc<Lane>>,
}

const SYSCALLS: usize = 512;

/// Adds without a locked instruction: one thread writes, others only read.
pub(super) fn add(to: &AtomicU64, n: u64) {
    to.store(to.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

/// What a counter says now.
pub(super) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Counters {
    pub(super) fn new(lane: Option<Arc<Lane>>) -> Counters {
        Counters {
            causes: Default::default(),
            fetched: AtomicU64::default(),
            written_back: AtomicU64::default(),
            reads: AtomicU64::default(),
            writes: AtomicU64::default(),
            clean: AtomicU64::default(),
            dirty: AtomicU64::default(),
            grown: AtomicU64::default(),
            straight: AtomicU64::default(),
            prefetched: AtomicU64::default(),
            followed: AtomicU64::default(),
            prefetch_useful: AtomicU64::default(),
            prefetch_wasted: AtomicU64::default(),
            caught_leaving: AtomicU64::default(),
            split: Default::default(),
            syscalls: std::array::from_fn(|_| AtomicU64::new(0)),
            latency: Buckets::new(),
            links: Links::new(),
            lane,
        }
    }

    /// Where this thread's misses and evictions are traced, if they are.
    pub(crate) fn lane(&self) -> Option<&Lane> {
        self.lane.as_deref()
    }

    /// A fault ended.
    pub(crate) fn count(&self, cause: Cause) {
        add(&self.causes[cause as usize], 1);
    }

    /// Faults of one cause.
    pub(super) fn causes(&self, cause: Cause) -> u64 {
        get(&self.causes[cause as usize])
    }

    /// A miss took `ticks` in the handler, split so.
    pub(crate) fn miss(&self, ticks: u64, split: &Split) {
        let parts = [
            split.lookup,
            split.wire,
            split.install,
            split.evict,
            split.follow,
        ];
        for (to, n) in self.split.iter().zip(parts) {
            add(to, n);
        }
        self.latency.record(clock::to_ns(ticks));
    }

    /// Bytes came from memory components.
    pub(crate) fn fetched(&self, bytes: u64) {
        add(&self.fetched, bytes);
    }
    /// Bytes went to memory components.
    pub(crate) fn written_back(&self, bytes: u64) {
        add(&self.written_back, bytes);
    }
    /// Bytes that came and went.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (get(&self.fetched), get(&self.written_back))
    }
    /// One operation read so many bytes of a memory component.
    pub(crate) fn read_from(&self, node: NodeId, bytes: u64) {
        add(&self.reads, 1);
        self.links.add(node, bytes, 0);
    }
    /// One operation wrote so many bytes to a memory component.
    pub(crate) fn wrote_to(&self, node: NodeId, bytes: u64) {
        add(&self.writes, 1);
        self.links.add(node, 0, bytes);
    }
    /// Lines were evicted.
    pub(crate) fn evicted(&self, clean: u64, dirty: u64) {
        add(&self.clean, clean);
        add(&self.dirty, dirty);
    }
    /// Lines came as a heap grew.
    pub(crate) fn grown(&self, lines: u64) {
        add(&self.grown, lines);
    }
    /// A system call wrote whole lines that were absent.
    pub(crate) fn put_straight(&self, lines: u64) {
        add(&self.straight, lines);
    }
    /// Lines were fetched ahead.
    pub(crate) fn prefetched(&self, lines: u64) {
        add(&self.prefetched, lines);
    }
    /// Lines were fetched ahead that following the program found.
    pub(crate) fn followed(&self, lines: u64) {
        add(&self.prefetched, lines);
        add(&self.followed, lines);
    }
    /// Of lines that were fetched ahead, so many more are known to have been
    /// touched, or were given up.
    pub(crate) fn prefetch_known(&self, useful: u64, wasted: u64) {
        add(&self.prefetch_useful, useful);
        add(&self.prefetch_wasted, wasted);
    }
    /// A fault found its line under eviction.
    pub(crate) fn caught_leaving(&self) {
        add(&self.caught_leaving, 1);
    }
    /// Where system calls are counted, by number: for the thread alone.
    pub(crate) fn syscalls(&self) -> &[AtomicU64; SYSCALLS] {
        &self.syscalls
    }
    /// A system call was made.
    pub(crate) fn syscall(&self, number: u64) {
        if let Some(n) = self
            .syscalls
            .get(usize::try_from(number).unwrap_or(usize::MAX))
        {
            add(n, 1);
        }
    }
}
