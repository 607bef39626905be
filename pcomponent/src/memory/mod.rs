//! The program's memory: the address space (a replica of the one at the
//! memory component), the ExCache that bounds what of it is here, and the path
//! of a miss. `docs/fault-path.md` walks one page through this module.
//!
//! # Locks, in the order they are taken
//!
//! 1. `changes`: one change of the address space at a time, held across the
//!    message that makes the change at home, and around what home is told of
//!    later, so that the replica and home make changes in one order.
//! 2. `space`: shared by every miss from look-up to install, exclusive while a
//!    change is applied here. So a miss never sees half a change, and under
//!    the exclusive lock no line is busy. Its readers count themselves in
//!    different cache lines: two threads that miss do not meet here.
//! 3. The cache's set locks (leaves; see [`crate::excache`]).
//! 4. Lease tables (leaves).
//!
//! Program memory is touched under none of them (`user`): a fault there takes
//! `space` itself. (Evictions and runs ahead do touch it: what is not here, or may
//! not be read, ends them early.) (The kernel installs pages under `space`, which can't fault.)

mod ahead;
mod evict;
mod fault;
mod fill;
mod home;
mod mappings;
mod ops;
mod pages;
mod remap;
mod remote;
mod shared;
mod straight;
mod stream;
mod text;
mod user;

pub(crate) use fault::{Access, FaultEnd};
pub(crate) use ops::MapRequest;
pub(crate) use remote::{FileHomes, HeldFile, Remote};

use crate::excache::{ExCache, LineNo, Shape, Victim};
use crate::fatal;
use crate::stats::{Cause, Stats};
use aspace::AddressSpace;
use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard, ShardedLockWriteGuard};
use fabric::Segment;
use host::mapping::{Dropper, Span};
use host::uffd::{Features, Uffd};
use pages::PageTable;
use proto::NodeId;
use proto::addr::{PAGE_SIZE, UserAddr, UserRange};
use proto::process::CacheConfig;
use proto::stats::ProgramCounters;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A busy line is let go of within its owner's fabric deadlines; longer means
/// that its owner is gone.
const BUSY_LIMIT: Duration = Duration::from_secs(30);
/// See the module.
pub(crate) struct Memory {
    changes: Mutex<home::Changes>,
    space: ShardedLock<AddressSpace>,
    pages: PageTable,
    cache: ExCache,
    uffd: Uffd,
    dropper: Dropper,
    remote: Remote,
    /// Whether a file was ever mapped shared.
    shares_files: AtomicBool,
    /// Threads that may touch program memory.
    threads: AtomicU32,
    /// Most lines that come with one that is missed.
    ahead: u32,
    /// Whether a miss follows the program.
    runs_ahead: bool,
    /// Ticks that a trap costs; 0 before it was measured.
    trap: AtomicU64,
}

/// What one thread needs for its misses, made once.
pub(crate) struct Scratch {
    buffer: Vec<u8>,
    segments: Vec<(NodeId, Segment)>,
    posted: Vec<Segment>,
    victims: Vec<Victim>,
    spans: Vec<Span>,
    links: remote::Links,
    streams: stream::Streams,
    pieces: Vec<fill::Piece>,
    /// The lines that are being fetched: the one that was missed, then, in their
    /// order, those that come with it.
    run: Vec<(LineNo, crate::excache::Slot)>,
    /// Whether the stream of the lines in `run` has been storing.
    run_stores: bool,
    /// Why the last lines were brought, and how many.
    brought: (Cause, u32),
    /// The last address whose miss found the line present, and how often.
    again: (u64, u32),
    /// Loads whose lines are expected to be stored to.
    expected: u32,
    /// Runs ahead of the program; none where nothing is to be fetched ahead.
    runner: Option<Box<crate::runahead::RunAhead>>,
}

impl Scratch {
    /// Moves the segments of the first one's component from `segments` to
    /// `posted`: what one operation moves. `None` when there are no more.
    fn next_node(&mut self) -> Option<NodeId> {
        let &(node, _) = self.segments.first()?;
        self.posted.clear();
        let posted = &mut self.posted;
        self.segments.retain(|(n, s)| {
            if *n == node {
                posted.push(*s);
            }
            *n != node
        });
        Some(node)
    }
}

impl Memory {
    /// An empty address space in front of `remote`.
    ///
    /// # Errors
    /// A sentence for people: what this machine or the configuration lacks.
    pub(crate) fn new(
        config: &CacheConfig,
        remote: Remote,
        fd_floor: i32,
    ) -> Result<Memory, String> {
        let shape =
            Shape::new(config.size, config.line, config.set_lines()).map_err(|e| e.to_string())?;
        let no_room = |e| format!("address space for the tables of pages and lines: {e}");
        let wanted = Features(Features::SIGBUS.0 | Features::WP.0);
        let uffd = Uffd::open(wanted)
            .and_then(|u| u.raised(fd_floor))
            .map_err(|e| format!("userfaultfd in SIGBUS mode: {e} (see `testbed doctor`)"))?;
        Ok(Memory {
            changes: Mutex::default(),
            space: ShardedLock::new(AddressSpace::new()),
            pages: PageTable::new().map_err(no_room)?,
            cache: ExCache::new(shape, config.policy).map_err(no_room)?,
            uffd,
            dropper: Dropper::new(fd_floor),
            remote,
            shares_files: AtomicBool::new(false),
            threads: AtomicU32::new(0),
            ahead: most_ahead(shape, config.prefetch),
            runs_ahead: config.run_ahead,
            trap: AtomicU64::new(0),
        })
    }

    /// What a new thread needs.
    pub(crate) fn scratch(&self) -> Scratch {
        Scratch {
            buffer: Vec::new(),
            segments: Vec::new(),
            posted: Vec::new(),
            victims: Vec::new(),
            spans: Vec::new(),
            links: remote::Links::default(),
            streams: stream::Streams::new(self.ahead),
            pieces: Vec::new(),
            run: Vec::new(),
            run_stores: false,
            brought: (Cause::ZeroFill, 0),
            again: (0, 0),
            expected: 0,
            runner: ahead::runner(self.ahead, self.runs_ahead),
        }
    }

    /// A program thread begins (before it can touch memory).
    pub(crate) fn thread_started(&self) {
        self.threads.fetch_add(1, Ordering::SeqCst);
    }

    /// A program thread has ended: it touches memory no more.
    pub(crate) fn thread_ended(&self) {
        self.threads.fetch_sub(1, Ordering::SeqCst);
    }

    /// The components behind it.
    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// The address space as it is, for look-ups.
    pub(crate) fn space(&self) -> ShardedLockReadGuard<'_, AddressSpace> {
        self.space.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in a line of the cache, and lines in the cache.
    pub(crate) fn cache_shape(&self) -> (u64, u64) {
        let shape = self.cache.shape();
        (shape.line_size(), shape.lines())
    }

    /// Bytes of pages in existence: now and at most.
    pub(crate) fn footprint(&self) -> (u64, u64) {
        let (now, peak) = self.pages.footprint();
        (now * PAGE_SIZE, peak * PAGE_SIZE)
    }

    /// Bytes of memory of the home memory component: in all, and not promised.
    pub(crate) fn machine(&self) -> (u64, u64) {
        match self
            .remote
            .ask(self.remote.home(), &proto::mem::MemRequest::Stats)
        {
            proto::mem::MemReply::Stats(s) => (s.capacity, s.capacity.saturating_sub(s.reserved)),
            _ => (0, 0),
        }
    }

    /// How many of the `len` bytes at `at` lie in writable mappings.
    pub(crate) fn writable(&self, at: UserAddr, len: usize) -> usize {
        let space = self.space();
        let mut end = at;
        let wanted = at.0.saturating_add(len as u64);
        while end.0 < wanted {
            match space.find(end) {
                Some(vma) if vma.prot.has(proto::mem::Prot::WRITE) => end = vma.range.end(),
                _ => break,
            }
        }
        (end.0.min(wanted) - at.0) as usize
    }

    /// Whether a file was ever mapped shared: stores to memory may change it.
    pub(crate) fn shares_files(&self) -> bool {
        self.shares_files.load(Ordering::Relaxed)
    }

    fn space_mut(&self) -> ShardedLockWriteGuard<'_, AddressSpace> {
        self.space.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn line_of(&self, at: UserAddr) -> LineNo {
        LineNo(at.0 >> self.cache.shape().line_shift)
    }

    /// The bytes of `count` lines from `line` on, clipped to the window.
    fn range_of(&self, line: LineNo, count: u64) -> Option<UserRange> {
        let shift = self.cache.shape().line_shift;
        let start = UserAddr(line.0 << shift).max(proto::addr::USER_MIN);
        let end = UserAddr((line.0 + count) << shift).min(proto::addr::USER_MAX);
        UserRange::between(start, end)
    }

    /// What a trap costs here; the calling thread must be attached.
    ///
    /// # Errors
    /// What the host answered.
    pub(crate) fn measure_trap(&self) -> Result<Duration, host::sys::Errno> {
        let cost = host::trap::measure(&self.uffd)?;
        let ticks = cost.as_nanos() as f64 / host::clock::ns_per_tick();
        self.trap.store(ticks as u64, Ordering::Relaxed);
        Ok(cost)
    }

    /// As [`Memory::report`], of a program that goes on.
    pub(crate) fn report_now(&self, counters: &mut ProgramCounters) {
        let shape = self.cache.shape();
        counters.footprint_bytes = self.footprint().0;
        counters.resident_lines = self.cache.occupancy().0;
        counters.cache_lines = shape.lines();
        counters.line_bytes = shape.line_size();
    }

    /// Fills in what the cache and the page table know.
    pub(crate) fn report_cache(&self, stats: &mut Stats) {
        let (now, peak) = self.pages.footprint();
        let (resident, peak_lines) = self.cache.occupancy();
        let shape = self.cache.shape();
        stats.footprint_bytes = now * PAGE_SIZE;
        stats.peak_footprint_bytes = peak * PAGE_SIZE;
        stats.resident_lines = resident;
        stats.peak_resident_lines = peak_lines;
        stats.cache.lines = shape.lines();
        stats.cache.line_bytes = shape.line_size();
        stats.cache.sets = u64::from(shape.sets);
        stats.cache.ways = u64::from(shape.ways);
        stats.rescues.second_chances = self.cache.spared();
        self.remote.report(&mut stats.messages);
    }

    /// The same, and what the host knows, which takes longer.
    pub(crate) fn report(&self, stats: &mut Stats) {
        self.report_cache(stats);
        stats.host_resident_bytes = self.host_resident();
        stats.host_rss_peak_bytes = host_peak();
        let bound = stats.cache.lines * stats.cache.line_bytes;
        if stats.host_resident_bytes > bound {
            tracing::error!(
                "the host holds {} bytes of the program, the cache has {bound}: this is a \
                 fault of splitkernel",
                stats.host_resident_bytes
            );
        }
    }

    /// Bytes of the program's mappings that the host holds, by its own count
    /// (`Rss` of /proc/self/smaps): the bound that users care about.
    fn host_resident(&self) -> u64 {
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        let mut ours = false;
        let mut held = 0;
        for line in text.lines() {
            if let Some((start, _)) = line.split_once('-')
                && let Ok(start) = u64::from_str_radix(start, 16)
            {
                // The stubs of rewritten calls are ours, at the program's side.
                ours = start < proto::addr::USER_MAX.0 && start != host::trap::stub_area();
                continue;
            }
            if let (true, Some(rest)) = (ours, line.strip_prefix("Rss:")) {
                held += kib(rest);
            }
        }
        held * 1024
    }
}

/// Most lines to fetch ahead of `wanted`: few of the cache's, and no more than a
/// batch.
fn most_ahead(shape: Shape, wanted: u32) -> u32 {
    let by_bytes = (crate::excache::BATCH_BYTES / shape.line_size()).saturating_sub(1);
    let most = u64::from(wanted).min(shape.lines() / 16).min(by_bytes);
    u32::try_from(most).unwrap_or(0)
}

/// See [`Stats::host_rss_peak_bytes`].
fn host_peak() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.map_or(0, kib) * 1024
}

/// The number in `  123 kB`, 0 where there is none.
fn kib(text: &str) -> u64 {
    text.trim()
        .trim_end_matches(" kB")
        .trim()
        .parse()
        .unwrap_or(0)
}

/// A wait that can't end any more: the system, not the program, failed.
fn stuck(what: &str) -> ! {
    fatal::end(&format!(
        "{what} for {BUSY_LIMIT:?}: this is a fault of splitkernel"
    ))
}
