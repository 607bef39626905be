//! What a process counts about itself, and the JSON that people get.
//!
//! Each thread counts into its own [`Counters`] (plain loads and stores, no
//! contended cache line); a thread's counters go on counting for the next
//! thread that takes over its place, so nothing is lost when threads end.

mod counters;
mod latency;
mod links;
mod report;
mod samples;

pub(crate) use counters::{Cause, Counters, Split};
pub(crate) use links::Moved;
pub(crate) use report::Stats;

use crate::trace::{Account, Tracer};
use counters::get;
use host::clock;
use proto::NodeId;
use proto::stats::ProgramCounters;
use report::{Latency, Misses, SplitNs};
use samples::{Counts, Samples};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The counters of all threads.
pub(crate) struct Registry {
    all: Mutex<Vec<Arc<Counters>>>,
    started: Instant,
    trap_ns: AtomicU64,
    samples: Mutex<Samples>,
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
            samples: Mutex::new(Samples::new()),
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
        self.all().push(counters.clone());
        counters
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Counters>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sum of all threads, without the samples over time.
    pub(crate) fn sum(&self) -> Stats {
        let all = self.all();
        let mut stats = Stats::default();
        let mut latency = latency::histogram();
        let (mut split, mut total) = ([0u64; 5], 0);
        let mut one_sided = [0; 2];
        for c in all.iter() {
            count_misses(&mut stats.misses, c);
            let (fetched, written_back) = c.bytes();
            stats.bytes.fetched += fetched;
            stats.bytes.written_back += written_back;
            one_sided[0] += get(&c.reads);
            one_sided[1] += get(&c.writes);
            stats.evictions.clean += get(&c.clean);
            stats.evictions.dirty += get(&c.dirty);
            stats.grown_lines += get(&c.grown);
            stats.straight_lines += get(&c.straight);
            stats.prefetch.lines += get(&c.prefetched);
            stats.prefetch.followed += get(&c.followed);
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
            total += c.latency.add_to(&mut latency);
        }
        drop(all);
        for (kind, n) in ["READ", "WRITE"].into_iter().zip(one_sided) {
            stats.messages.insert(kind.to_owned(), n);
        }
        stats.zero_fills = stats.misses.zero_fill;
        stats.prefetched_lines = stats.prefetch.lines;
        stats.seen_hits = stats.misses.write_protect + stats.misses.joined;
        stats.wall_ns = self.elapsed();
        stats.miss_latency_ns = Latency::of(&latency, total);
        stats.miss_split_ns = SplitNs {
            trap: self.trap_ns.load(Ordering::Relaxed) * latency.len(),
            lookup: clock::to_ns(split[0]),
            wire: clock::to_ns(split[1]),
            install: clock::to_ns(split[2]),
            evict: clock::to_ns(split[3]),
            follow: clock::to_ns(split[4]),
        };
        stats
    }

    /// As [`Registry::sum`], at the end: with all samples, and a last one.
    pub(crate) fn sum_at_end(&self) -> Stats {
        let mut stats = self.sum();
        self.sample(stats.counts());
        stats.samples = self.samples().rows().to_vec();
        stats
    }

    /// Nanoseconds since the start.
    fn elapsed(&self) -> u64 {
        nanos(self.started.elapsed())
    }

    fn samples(&self) -> MutexGuard<'_, Samples> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sample(&self, counts: Counts) -> Duration {
        // The lock first: times of samples never run backwards.
        let mut samples = self.samples();
        samples.handle(self.elapsed(), counts);
        samples.poll_delay()
    }

    /// Takes a sample if there is something new; when to come again. Reads a
    /// cache line or two of each thread's.
    pub(crate) fn take_sample(&self) -> Duration {
        let (mut misses, mut bytes) = (Misses::default(), (0, 0));
        for c in self.all().iter() {
            count_misses(&mut misses, c);
            let (fetched, written_back) = c.bytes();
            bytes = (bytes.0 + fetched, bytes.1 + written_back);
        }
        self.sample([misses.lines(), bytes.0, bytes.1])
    }

    /// The counters now, for whoever watches: all but what the cache and the
    /// links' names are known by.
    pub(crate) fn now(&self) -> (ProgramCounters, BTreeMap<NodeId, Moved>) {
        let mut now = ProgramCounters::default();
        let mut latency = latency::histogram();
        let mut links = BTreeMap::new();
        let mut misses = Misses::default();
        for c in self.all().iter() {
            count_misses(&mut misses, c);
            let (fetched, written_back) = c.bytes();
            now.fetched_bytes += fetched;
            now.written_back_bytes += written_back;
            now.evicted_clean += get(&c.clean);
            now.evicted_dirty += get(&c.dirty);
            now.prefetched_lines += get(&c.prefetched);
            now.syscalls += c.syscalls.iter().map(get).sum::<u64>();
            now.latency_total_ns += c.latency.add_to(&mut latency);
            c.links.sum_into(&mut links);
        }
        now.misses = misses.into();
        now.wall_ns = self.elapsed();
        now.latency_ns = Latency::of(&latency, now.latency_total_ns).histogram;
        (now, links)
    }
}

fn count_misses(to: &mut Misses, c: &Counters) {
    to.zero_fill += c.causes(Cause::ZeroFill);
    to.remote += c.causes(Cause::Remote);
    to.file += c.causes(Cause::File);
    to.write_protect += c.causes(Cause::WriteProtect);
    to.joined += c.causes(Cause::Joined);
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
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
        a.grown(5);
        b.grown(1);
        a.put_straight(3);
        b.put_straight(4);
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
        let s = registry.sum_at_end();
        assert_eq!((s.misses.remote, s.zero_fills), (2, 1));
        assert_eq!(
            (s.evictions.clean, s.evictions.dirty, s.bytes.fetched),
            (1, 2, 4096)
        );
        assert_eq!(
            (s.prefetch.lines, s.prefetch.useful, s.prefetch.wasted),
            (8, 5, 1)
        );
        assert_eq!((s.grown_lines, s.straight_lines), (6, 7));
        assert_eq!((s.prefetched_lines, s.rescues.caught_leaving), (8, 1));
        assert_eq!(s.seen_hits, 2);
        assert_eq!((s.miss_latency_ns.count, s.miss_split_ns.trap), (1, 100));
        assert!(s.miss_split_ns.wire > 0);
        let [row] = s.samples[..] else {
            panic!("{:?}", s.samples)
        };
        // Write faults and joined ones brought no line.
        assert_eq!(row[1..], [3, 4096, 0]);
        let (now, links) = registry.now();
        assert_eq!((now.misses.remote, now.misses.joined), (2, 1));
        assert_eq!(now.latency_ns.iter().map(|(_, n)| n).sum::<u64>(), 1);
        assert!(now.latency_total_ns > 0 && links.is_empty());
    }
}
