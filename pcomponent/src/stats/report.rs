//! The JSON that people get when a process has ended.

use crate::trace::Account;
use hdrhistogram::Histogram;
use proto::stats::MissCounts;
use serde::Serialize;
use std::collections::BTreeMap;

use super::samples::Counts;

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
    /// Lines of zeros that came with the call that grew a heap, not by a miss.
    pub grown_lines: u64,
    /// Lines that a system call (read(2)) wrote whole, and that were absent: they
    /// came with its bytes, not by a miss.
    pub straight_lines: u64,
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
    /// Over time: see [`super::Samples::rows`].
    pub samples: Vec<[u64; 4]>,
}

impl Stats {
    /// What a sample holds.
    pub(super) fn counts(&self) -> Counts {
        let bytes = &self.bytes;
        [self.misses.lines(), bytes.fetched, bytes.written_back]
    }
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

impl Misses {
    /// Those that brought a line here: on the others it was here already.
    pub(super) fn lines(&self) -> u64 {
        self.zero_fill + self.remote + self.file
    }
}

impl From<Misses> for MissCounts {
    fn from(misses: Misses) -> MissCounts {
        MissCounts {
            zero_fill: misses.zero_fill,
            remote: misses.remote,
            file: misses.file,
            write_protect: misses.write_protect,
            joined: misses.joined,
        }
    }
}

/// See [`Stats::prefetch`]. User space sees no accessed bits, so use is known
/// in two cases only. `useful` and `wasted` need not add up to `lines`: nothing
/// is known yet of the last lines of streams that may still go on, and nothing of
/// those that were found by following the program.
#[derive(Clone, Default, Debug, Serialize)]
pub(crate) struct Prefetch {
    /// Lines fetched ahead.
    pub lines: u64,
    /// Those of them that were found by following the program.
    pub followed: u64,
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
    /// All of them together.
    pub total: u64,
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
    pub(super) fn of(h: &Histogram<u64>, total: u64) -> Latency {
        if h.is_empty() {
            return Latency::default();
        }
        Latency {
            count: h.len(),
            total,
            mean: total / h.len(),
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
    /// Following the program to find what it misses next.
    pub follow: u64,
}
