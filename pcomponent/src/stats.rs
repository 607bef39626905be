//! What a process counts about itself, and the JSON that people get.
//!
//! Each thread counts into its own [`Counters`] (plain loads and stores, no
//! contended cache line); a thread's counters go on counting for the next
//! thread that takes over its place, so nothing is lost when threads end.

use crate::trace::{Account, Lane, Tracer};
use hdrhistogram::Histogram;
use host::clock;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
}

/// One thread's counters.
pub(crate) struct Counters {
    causes: [AtomicU64; CAUSES],
    fetched: AtomicU64,
    written_back: AtomicU64,
    clean: AtomicU64,
    dirty: AtomicU64,
    prefetched: AtomicU64,
    prefetch_useful: AtomicU64,
    prefetch_wasted: AtomicU64,
    caught_leaving: AtomicU64,
    split: [AtomicU64; 4],
    syscalls: [AtomicU64; SYSCALLS],
    latency: Mutex<Histogram<u64>>,
    /// Where its misses are traced, if they are.
    lane: Option<Arc<Lane>>,
}

const SYSCALLS: usize = 512;

/// Adds without a locked instruction: one thread writes, others only read.
fn add(to: &AtomicU64, n: u64) {
    to.store(to.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

/// 1 ns to 60 s, two significant digits.
fn histogram() -> Histogram<u64> {
    let mut h = Histogram::new_with_bounds(1, 60_000_000_000, 2)
        .unwrap_or_else(|_| unreachable!("bounds are right"));
    h.auto(false);
    h
}

impl Counters {
    fn new(lane: Option<Arc<Lane>>) -> Counters {
        Counters {
            causes: Default::default(),
            fetched: AtomicU64::default(),
            written_back: AtomicU64::default(),
            clean: AtomicU64::default(),
            dirty: AtomicU64::default(),
            prefetched: AtomicU64::default(),
            prefetch_useful: AtomicU64::default(),
            prefetch_wasted: AtomicU64::default(),
            caught_leaving: AtomicU64::default(),
            split: Default::default(),
            syscalls: std::array::from_fn(|_| AtomicU64::new(0)),
            latency: Mutex::new(histogram()),
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

    /// A miss took `ticks` in the handler, split so.
    pub(crate) fn miss(&self, ticks: u64, split: &Split) {
        for (to, n) in self
            .split
            .iter()
            .zip([split.lookup, split.wire, split.install, split.evict])
        {
            add(to, n);
        }
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        latency.saturating_record(clock::to_ns(ticks));
    }

    /// Bytes came from memory components.
    pub(crate) fn fetched(&self, bytes: u64) {
        add(&self.fetched, bytes);
    }
    /// Bytes went to memory components.
    pub(crate) fn written_back(&self, bytes: u64) {
        add(&self.written_back, bytes);
    }
    /// Lines were evicted.
    pub(crate) fn evicted(&self, clean: u64, dirty: u64) {
        add(&self.clean, clean);
        add(&self.dirty, dirty);
    }
    /// Lines were fetched ahead.
    pub(crate) fn prefetched(&self, lines: u64) {
        add(&self.prefetched, lines);
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

/// The counters of all threads.
pub(crate) struct Registry {
    all: Mutex<Vec<Arc<Counters>>>,
    started: Instant,
    trap_ns: AtomicU64,
    tracer: Option<Arc<Tracer>>,
}

impl Registry {
    /// Without counters yet; time starts now. Misses go to `tracer`, if there
    /// is one.
    pub(crate) fn new(tracer: Option<Arc<Tracer>>) -> Registry {
        Registry {
            all: Mutex::new(Vec::new()),
            started: Instant::now(),
            trap_ns: AtomicU64::new(0),
            tracer,
        }
    }

    /// What entering and leaving the handler costs here, measured.
    pub(crate) fn set_trap_cost(&self, cost: Duration) {
        self.trap_ns.store(nanos(cost), Ordering::Relaxed);
    }

    /// Has the rest of the trace written; `None` where there is none.
    pub(crate) fn finish_trace(&self) -> Option<Account> {
        self.tracer.as_ref().map(|tracer| tracer.finish())
    }

    /// New counters, kept for ever; the calling thread's at first.
    pub(crate) fn counters(&self) -> Arc<Counters> {
        let lane = self.tracer.as_ref().map(|tracer| tracer.lane());
        let counters = Arc::new(Counters::new(lane));
        self.all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(counters.clone());
        counters
    }

    /// The sum of all threads.
    pub(crate) fn sum(&self) -> Stats {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stats = Stats::default();
        let mut latency = histogram();
        let mut split = [0u64; 4];
        for c in all.iter() {
            let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
            stats.misses.zero_fill += get(&c.causes[Cause::ZeroFill as usize]);
            stats.misses.remote += get(&c.causes[Cause::Remote as usize]);
            stats.misses.file += get(&c.causes[Cause::File as usize]);
            stats.misses.write_protect += get(&c.causes[Cause::WriteProtect as usize]);
            stats.misses.joined += get(&c.causes[Cause::Joined as usize]);
            stats.bytes.fetched += get(&c.fetched);
            stats.bytes.written_back += get(&c.written_back);
            stats.evictions.clean += get(&c.clean);
            stats.evictions.dirty += get(&c.dirty);
            stats.prefetch.lines += get(&c.prefetched);
            stats.prefetch.useful += get(&c.prefetch_useful);
            stats.prefetch.wasted += get(&c.prefetch_wasted);
            stats.rescues.caught_leaving += get(&c.caught_leaving);
            split
                .iter_mut()
                .zip(&c.split)
                .for_each(|(to, n)| *to += get(n));
            for (number, n) in c.syscalls.iter().enumerate().filter(|(_, n)| get(n) > 0) {
                let name = abi_linux::table::name(number as u64);
                *stats.syscalls.entry(name.to_string()).or_default() += get(n);
            }
            let one = c.latency.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = latency.add(&*one);
        }
        stats.zero_fills = stats.misses.zero_fill;
        stats.prefetched_lines = stats.prefetch.lines;
        stats.seen_hits = stats.misses.write_protect + stats.misses.joined;
        stats.wall_ns = nanos(self.started.elapsed());
        stats.miss_latency_ns = Latency::of(&latency);
        stats.miss_split_ns = SplitNs {
            trap: self.trap_ns.load(Ordering::Relaxed) * latency.len(),
            lookup: clock::to_ns(split[0]),
            wire: clock::to_ns(split[1]),
            install: clock::to_ns(split[2]),
            evict: clock::to_ns(split[3]),
        };
        stats
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// A process's statistics, as written by `--stats`.
#[derive(Clone, Default, Debug, Serialize)]
pub(crate) struct Stats {
    /// From the first instruction to now.
    pub wall_ns: u64,
    /// Bytes of pages in existence now.
    pub footprint_bytes: u64,
    /// The most there were.
    pub peak_footprint_bytes: u64,
    /// Lines in the cache now.
    pub resident_lines: u64,
    /// The most there were: never above `cache.lines`.
    pub peak_resident_lines: u64,
    /// Bytes of program memory by the host's own count (smaps Rss).
    pub host_resident_bytes: u64,
    /// The most memory that the host process had, by the host's own count
    /// (VmHWM): the program's lines, our own memory, and memory components'
    /// frames as far as they are mapped here. The bound of the cache holds for
    /// the first of these alone.
    pub host_rss_peak_bytes: u64,
    /// The cache's shape.
    pub cache: CacheShape,
    /// Faults by cause.
    pub misses: Misses,
    /// First touches answered with zeros, without a message.
    pub zero_fills: u64,
    /// Faults on lines that were here (`write_protect` and `joined`): the only
    /// hits that can be seen, all others are the MMU's.
    pub seen_hits: u64,
    /// Lines fetched ahead of need.
    pub prefetched_lines: u64,
    /// What became of them.
    pub prefetch: Prefetch,
    /// Lines that were wanted again just as they were to go.
    pub rescues: Rescues,
    /// Lines evicted.
    pub evictions: Evictions,
    /// Bytes on the wire, payload alone.
    pub bytes: Bytes,
    /// Requests sent, by kind.
    pub messages: BTreeMap<String, u64>,
    /// In the handler, from entry to installed line.
    pub miss_latency_ns: Latency,
    /// Where the time of all misses went.
    pub miss_split_ns: SplitNs,
    /// System calls made, by name.
    pub syscalls: BTreeMap<String, u64>,
    /// Those of them that are not implemented.
    pub unimplemented: Vec<String>,
    /// What became of the trace, if one was asked for.
    pub trace: Option<Account>,
}

/// See [`Stats::cache`].
#[derive(Clone, Default, Debug, Serialize)]
pub(crate) struct CacheShape {
    /// Lines in all: the bound.
    pub lines: u64,
    /// Bytes in a line.
    pub line_bytes: u64,
    /// Sets.
    pub sets: u64,
    /// Lines in a set.
    pub ways: u64,
}

/// See [`Stats::misses`].
#[derive(Clone, Default, Debug, Serialize)]
pub(crate) struct Misses {
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

/// See [`Stats::prefetch`]. User space sees no accessed bits, so use is known
/// in two cases only. `useful` and `wasted` need not add up to `lines`: nothing
/// is known yet of the last lines of streams that may still go on.
#[derive(Clone, Default, Debug, Serialize)]
pub(crate) struct Prefetch {
    /// Lines fetched ahead.
    pub lines: u64,
    /// The thread missed the line behind them, so it went through them; or
    /// stored to them while they were clean.
    pub useful: u64,
    /// Their stream was given up for a newer one before that. Some may have
    /// been read all the same: this is a bound from above.
    pub wasted: u64,
}

/// See [`Stats::rescues`].
#[derive(Clone, Default, Debug, Serialize)]
pub(crate) struct Rescues {
    /// Evictions that `reuse` or `adaptive` turned away from the oldest line.
    pub second_chances: u64,
    /// A fault found its line under eviction. It waited, and the line was
    /// fetched back.
    pub caught_leaving: u64,
}

/// See [`Stats::evictions`].
#[derive(Clone, Default, Debug, Serialize)]
pub(crate) struct Evictions {
    /// Dropped.
    pub clean: u64,
    /// Written back first.
    pub dirty: u64,
}

/// See [`Stats::bytes`].
#[derive(Clone, Default, Debug, Serialize)]
pub(crate) struct Bytes {
    /// To here.
    pub fetched: u64,
    /// From here.
    pub written_back: u64,
}

/// See [`Stats::miss_latency_ns`].
#[derive(Clone, Default, Debug, Serialize)]
pub(crate) struct Latency {
    /// Faults counted.
    pub count: u64,
    /// Mean.
    pub mean: u64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// Longest.
    pub max: u64,
    /// Upper edge of each filled bucket, and how many faults are in it.
    pub histogram: Vec<(u64, u64)>,
}

impl Latency {
    fn of(h: &Histogram<u64>) -> Latency {
        if h.is_empty() {
            return Latency::default();
        }
        Latency {
            count: h.len(),
            mean: h.mean() as u64,
            p50: h.value_at_quantile(0.50),
            p90: h.value_at_quantile(0.90),
            p99: h.value_at_quantile(0.99),
            p999: h.value_at_quantile(0.999),
            max: h.max(),
            histogram: h
                .iter_recorded()
                .map(|v| (v.value_iterated_to(), v.count_at_value()))
                .collect(),
        }
    }
}

/// See [`Stats::miss_split_ns`].
#[derive(Clone, Default, Debug, Serialize)]
pub(crate) struct SplitNs {
    /// Entering and leaving the handler (measured once, times the faults).
    pub trap: u64,
    /// Finding mapping, line and way, with waits for others at the same line.
    pub lookup: u64,
    /// Bringing the bytes.
    pub wire: u64,
    /// Installing the pages.
    pub install: u64,
    /// Making room, for the missing line and those fetched ahead: victims
    /// protected, written back, dropped.
    pub evict: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_threads() {
        let registry = Registry::new(None);
        registry.set_trap_cost(Duration::from_nanos(100));
        let (a, b) = (registry.counters(), registry.counters());
        a.count(Cause::Remote);
        b.count(Cause::Remote);
        b.count(Cause::ZeroFill);
        a.evicted(1, 2);
        b.fetched(4096);
        a.prefetched(8);
        a.prefetch_known(2, 1);
        b.prefetch_known(3, 0);
        b.caught_leaving();
        b.count(Cause::WriteProtect);
        b.count(Cause::Joined);
        a.miss(
            1000,
            &Split {
                wire: 500,
                ..Split::default()
            },
        );
        let s = registry.sum();
        assert_eq!((s.misses.remote, s.zero_fills), (2, 1));
        assert_eq!(
            (s.evictions.clean, s.evictions.dirty, s.bytes.fetched),
            (1, 2, 4096)
        );
        assert_eq!(
            (s.prefetch.lines, s.prefetch.useful, s.prefetch.wasted),
            (8, 5, 1)
        );
        assert_eq!((s.prefetched_lines, s.rescues.caught_leaving), (8, 1));
        assert_eq!(s.seen_hits, 2);
        assert_eq!((s.miss_latency_ns.count, s.miss_split_ns.trap), (1, 100));
        assert!(s.miss_split_ns.wire > 0);
    }
}
