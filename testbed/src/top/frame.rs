//! Rates from two snapshots.

use super::snapshot::Snapshot;
use proto::ProcessId;
use proto::stats::{LinkCounters, MemoryStats, ProgramCounters};
use serde::Serialize;
use std::collections::BTreeMap;

/// What is shown: the state at its end, and rates over an interval.
#[derive(Serialize, Debug)]
pub(super) struct Frame {
    pub(super) testbed: String,
    pub(super) interval_ns: u64,
    pub(super) programs: Vec<Program>,
    pub(super) memory: Vec<Memory>,
    pub(super) links: Vec<Link>,
    /// Components that did not answer.
    pub(super) silent: Vec<String>,
}

#[derive(Serialize, Debug, PartialEq)]
pub(super) struct Program {
    pub(super) process: u64,
    pub(super) program: String,
    pub(super) processor: String,
    pub(super) pid: i32,
    pub(super) threads: u64,
    pub(super) footprint_bytes: u64,
    pub(super) resident_lines: u64,
    pub(super) cache_lines: u64,
    /// Lines brought since it started.
    pub(super) misses: u64,
    pub(super) misses_per_s: f64,
    /// Of faults in the interval; 0 if there were none.
    pub(super) miss_mean_ns: u64,
    pub(super) miss_p99_ns: u64,
    pub(super) fetched_bytes_per_s: f64,
    pub(super) written_back_bytes_per_s: f64,
}

#[derive(Serialize, Debug, PartialEq)]
pub(super) struct Memory {
    pub(super) name: String,
    pub(super) used_bytes: u64,
    pub(super) promised_bytes: u64,
    pub(super) capacity_bytes: u64,
    pub(super) requests_per_s: f64,
}

#[derive(Serialize, Debug, PartialEq, Default)]
pub(super) struct Link {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) messages_per_s: f64,
    pub(super) read_bytes_per_s: f64,
    pub(super) written_bytes_per_s: f64,
}

/// An amount that grew over an interval.
#[derive(Clone, Copy)]
struct Over {
    ns: u64,
}

impl Over {
    /// A second's share. What became less began again from zero.
    fn rate(self, old: u64, new: u64) -> f64 {
        match self.ns {
            0 => 0.0,
            ns => new.checked_sub(old).unwrap_or(new) as f64 * 1e9 / ns as f64,
        }
    }
}

/// What happened from `old` to `new`.
pub(super) fn between(testbed: &str, old: &Snapshot, new: &Snapshot) -> Frame {
    let elapsed = new.at.saturating_duration_since(old.at).as_nanos();
    let over = Over {
        ns: u64::try_from(elapsed).unwrap_or(u64::MAX),
    };
    let before: BTreeMap<ProcessId, &ProgramCounters> =
        old.programs.iter().map(|(_, p)| (p.process, p)).collect();
    let nothing = ProgramCounters::default();
    let pairs = || {
        new.programs.iter().map(|(at, p)| {
            let old = match before.get(&p.process) {
                Some(old) => *old,
                // It was not heard before, and is older: it has no rate yet.
                None if p.wall_ns > over.ns => p,
                None => &nothing,
            };
            (at, old, p)
        })
    };
    Frame {
        testbed: testbed.to_owned(),
        interval_ns: over.ns,
        programs: pairs()
            .map(|(at, old, new)| program(at, old, new))
            .collect(),
        memory: new
            .memory
            .iter()
            .map(|(name, m)| memory(name, m, old, over))
            .collect(),
        links: links(pairs()),
        silent: new.silent.clone(),
    }
}

/// Its own clock counts: answers come when they come, and one that is new has
/// lived for less than the interval.
fn time(old: &ProgramCounters, new: &ProgramCounters) -> Over {
    let ns = new.wall_ns.saturating_sub(old.wall_ns);
    Over { ns }
}

fn program(processor: &str, old: &ProgramCounters, new: &ProgramCounters) -> Program {
    let over = time(old, new);
    let faults = faults(&old.latency_ns, &new.latency_ns);
    let count = faults.iter().map(|(_, n)| n).sum::<u64>();
    let total = new.latency_total_ns.saturating_sub(old.latency_total_ns);
    Program {
        process: new.process.0,
        program: new.program.clone(),
        processor: processor.to_owned(),
        pid: new.pid,
        threads: new.threads,
        footprint_bytes: new.footprint_bytes,
        resident_lines: new.resident_lines,
        cache_lines: new.cache_lines,
        misses: new.misses.lines(),
        misses_per_s: over.rate(old.misses.lines(), new.misses.lines()),
        miss_mean_ns: total.checked_div(count).unwrap_or(0),
        miss_p99_ns: quantile(&faults, count, 0.99),
        fetched_bytes_per_s: over.rate(old.fetched_bytes, new.fetched_bytes),
        written_back_bytes_per_s: over.rate(old.written_back_bytes, new.written_back_bytes),
    }
}

/// The buckets of what came between two states of one histogram.
fn faults(old: &[(u64, u64)], new: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let old: BTreeMap<u64, u64> = old.iter().copied().collect();
    let left = |&(edge, n): &(u64, u64)| (edge, n.saturating_sub(*old.get(&edge).unwrap_or(&0)));
    new.iter().map(left).filter(|(_, n)| *n > 0).collect()
}

/// The upper edge of the bucket that holds a quantile of `count` values.
fn quantile(buckets: &[(u64, u64)], count: u64, q: f64) -> u64 {
    let rank = (count as f64 * q).ceil() as u64;
    let mut below = 0;
    let found = buckets.iter().find(|(_, n)| {
        below += n;
        below >= rank
    });
    found.map_or(0, |(edge, _)| *edge)
}

fn memory(name: &str, new: &MemoryStats, old: &Snapshot, over: Over) -> Memory {
    let requests = |m: &MemoryStats| m.requests.iter().map(|(_, n)| n).sum::<u64>();
    let before = old.memory.iter().find(|(of, _)| of == name);
    // One that was not heard before has no rate yet.
    let before = before.map_or(requests(new), |(_, m)| requests(m));
    Memory {
        name: name.to_owned(),
        used_bytes: new.committed + new.file_cache,
        promised_bytes: new.reserved,
        capacity_bytes: new.capacity,
        requests_per_s: over.rate(before, requests(new)),
    }
}

/// All programs of a processor component share its links.
fn links<'a>(
    programs: impl Iterator<Item = (&'a String, &'a ProgramCounters, &'a ProgramCounters)>,
) -> Vec<Link> {
    let mut sums: BTreeMap<(&str, &str), Link> = BTreeMap::new();
    let nothing = LinkCounters::default();
    for (from, old, new) in programs {
        let over = time(old, new);
        for link in &new.links {
            let before = old
                .links
                .iter()
                .find(|l| l.to == link.to)
                .unwrap_or(&nothing);
            let sum = sums.entry((from, &link.to)).or_insert_with(|| Link {
                from: from.clone(),
                to: link.to.clone(),
                ..Link::default()
            });
            sum.messages_per_s += over.rate(before.messages, link.messages);
            sum.read_bytes_per_s += over.rate(before.read_bytes, link.read_bytes);
            sum.written_bytes_per_s += over.rate(before.written_bytes, link.written_bytes);
        }
    }
    sums.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::stats::MissCounts;
    use std::time::{Duration, Instant};

    fn counters(process: u64, ms: u64, misses: u64, bytes: u64) -> ProgramCounters {
        ProgramCounters {
            process: ProcessId(process),
            wall_ns: ms * 1_000_000,
            misses: MissCounts {
                remote: misses,
                joined: 99,
                ..MissCounts::default()
            },
            fetched_bytes: bytes,
            links: vec![LinkCounters {
                to: "m0".to_owned(),
                messages: misses,
                read_bytes: bytes,
                written_bytes: 0,
            }],
            ..ProgramCounters::default()
        }
    }

    fn snapshot(at: Instant, programs: Vec<ProgramCounters>, requests: u64) -> Snapshot {
        let stats = MemoryStats {
            requests: vec![("Commit".to_owned(), requests)],
            ..MemoryStats::default()
        };
        Snapshot {
            at,
            programs: programs.into_iter().map(|p| ("p0".to_owned(), p)).collect(),
            memory: vec![("m0".to_owned(), stats)],
            silent: Vec::new(),
        }
    }

    #[test]
    fn rates_are_over_each_programs_own_time() {
        let begun = Instant::now();
        let old = snapshot(begun, vec![counters(1, 1000, 10, 4096)], 100);
        let now = vec![counters(1, 3000, 30, 8192), counters(2, 500, 7, 0)];
        let new = snapshot(begun + Duration::from_secs(2), now, 104);
        let frame = between("lab", &old, &new);
        let rates: Vec<f64> = frame.programs.iter().map(|p| p.misses_per_s).collect();
        assert_eq!(rates, [10.0, 14.0]);
        assert_eq!(frame.programs[0].fetched_bytes_per_s, 2048.0);
        assert_eq!(frame.memory[0].requests_per_s, 2.0);
        let [link] = &frame.links[..] else {
            panic!("{frame:?}")
        };
        assert_eq!((link.messages_per_s, link.read_bytes_per_s), (24.0, 2048.0));
    }

    #[test]
    fn what_began_again_counts_from_zero_and_no_time_is_no_rate() {
        let begun = Instant::now();
        let old = snapshot(begun, vec![], 100);
        let new = snapshot(begun + Duration::from_secs(1), vec![], 3);
        assert_eq!(between("lab", &old, &new).memory[0].requests_per_s, 3.0);
        assert_eq!(between("lab", &old, &old).memory[0].requests_per_s, 0.0);
        assert_eq!(Over { ns: 0 }.rate(0, 5), 0.0);
    }

    #[test]
    fn latencies_are_of_the_interval_alone() {
        let old = ProgramCounters {
            latency_ns: vec![(10, 1000), (5000, 1)],
            latency_total_ns: 15_000,
            ..ProgramCounters::default()
        };
        let new = ProgramCounters {
            latency_ns: vec![(10, 1000), (100, 98), (5000, 3)],
            latency_total_ns: 35_000,
            ..ProgramCounters::default()
        };
        let shown = program("p0", &old, &new);
        assert_eq!((shown.miss_mean_ns, shown.miss_p99_ns), (200, 5000));
        let idle = program("p0", &new, &new);
        assert_eq!((idle.miss_mean_ns, idle.miss_p99_ns), (0, 0));
    }
}
