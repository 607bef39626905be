//! Figures of a measurement, from what the program printed: its own times, and
//! the differences of its counters.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// Where a run was.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub(super) enum Name {
    Testbed,
    Native,
    Swap,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Name::Testbed => "testbed",
            Name::Native => "native",
            Name::Swap => "swap",
        })
    }
}

/// All measurements of one process.
#[derive(Serialize, Debug)]
pub(super) struct Run {
    pub(super) name: Name,
    /// Counted from 1.
    pub(super) round: u32,
    /// Most bytes in swap at one time, of a run with little memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) swap_peak_bytes: Option<u64>,
    /// What reading the clock costs; subtracted from each access.
    pub(super) clock_overhead_ns: f64,
    pub(super) fill_ns: u64,
    pub(super) pages: u64,
    pub(super) rows: Vec<Row>,
}

/// One measurement.
#[derive(Serialize, Debug)]
pub(super) struct Row {
    #[serde(flatten)]
    pub(super) access: Access,
    pub(super) accesses_per_second: f64,
    /// Of a testbed.
    #[serde(flatten)]
    pub(super) misses: Option<Misses>,
}

/// What the program measured. Times are nanoseconds an access.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(super) struct Access {
    pub(super) pattern: String,
    pub(super) mix: String,
    pub(super) threads: u16,
    pub(super) accesses: u64,
    pub(super) wall_ns: u64,
    pub(super) mean_ns: f64,
    pub(super) min_ns: f64,
    pub(super) p50_ns: f64,
    pub(super) p90_ns: f64,
    pub(super) p99_ns: f64,
    pub(super) p999_ns: f64,
    pub(super) max_ns: f64,
    /// Upper edge and count of each bucket.
    histogram: Vec<(f64, u64)>,
}

/// What the testbed counted meanwhile.
#[derive(Serialize, PartialEq, Debug)]
pub(super) struct Misses {
    pub(super) misses: u64,
    pub(super) misses_per_second: f64,
    pub(super) causes: BTreeMap<String, u64>,
    /// In the handler, nanoseconds.
    pub(super) miss_ns: Latency,
    /// Where the time of a miss went, mean nanoseconds.
    pub(super) miss_split_ns: Split,
    pub(super) fetched_ahead: u64,
    pub(super) evicted_clean: u64,
    pub(super) evicted_dirty: u64,
    pub(super) bytes_fetched: u64,
    pub(super) bytes_written_back: u64,
}

#[derive(Serialize, PartialEq, Debug)]
pub(super) struct Latency {
    pub(super) mean: f64,
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) p999: u64,
    /// Upper edge of the last bucket.
    pub(super) max: u64,
}

#[derive(Serialize, PartialEq, Debug)]
pub(super) struct Split {
    pub(super) trap: f64,
    pub(super) lookup: f64,
    pub(super) wire: f64,
    pub(super) install: f64,
    pub(super) evict: f64,
    pub(super) follow: f64,
    pub(super) rest: f64,
}

impl Split {
    /// In the order of the fields.
    pub(super) fn parts(&self) -> [f64; 7] {
        [
            self.trap,
            self.lookup,
            self.wire,
            self.install,
            self.evict,
            self.follow,
            self.rest,
        ]
    }
}

impl Run {
    /// From the program's output.
    pub(super) fn of(name: Name, round: u32, said: &Value) -> Result<Run> {
        let phases = said["phases"].as_array();
        let phases = phases.context("cachewalk printed no phases")?;
        let figure = |key: &str| {
            let figure = said[key].as_f64();
            figure.with_context(|| format!("cachewalk printed no {key}"))
        };
        Ok(Run {
            name,
            round,
            swap_peak_bytes: None,
            clock_overhead_ns: figure("clock_overhead_ns")?,
            fill_ns: figure("fill_ns")? as u64,
            pages: figure("pages")? as u64,
            rows: phases.iter().map(Row::of).collect::<Result<_>>()?,
        })
    }
}

impl Row {
    fn of(phase: &Value) -> Result<Row> {
        let access = Access::deserialize(phase).context("what cachewalk printed of a phase")?;
        let (before, after) = (&phase["before"], &phase["after"]);
        let per_second = |n: u64| n as f64 * 1e9 / access.wall_ns.max(1) as f64;
        let counted = !after.is_null();
        Ok(Row {
            accesses_per_second: per_second(access.accesses),
            misses: counted.then(|| Misses::of(before, after, per_second)),
            access,
        })
    }
}

impl Misses {
    fn of(before: &Value, after: &Value, per_second: impl Fn(u64) -> f64) -> Misses {
        let number = |from: &Value, at: &str| from.pointer(at).and_then(Value::as_u64).unwrap_or(0);
        let more = |at: &str| number(after, at).saturating_sub(number(before, at));
        let causes: BTreeMap<String, u64> = after["misses"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(cause, _)| (cause.clone(), more(&format!("/misses/{cause}"))))
            .collect();
        let misses = causes.values().sum();
        let counted = more("/miss_latency_ns/count");
        let spent = more("/miss_latency_ns/total");
        let each = |ns: u64| ns as f64 / counted.max(1) as f64;
        let part = |key: &str| more(&format!("/miss_split_ns/{key}"));
        let [trap, lookup, wire, install, evict, follow] =
            ["trap", "lookup", "wire", "install", "evict", "follow"].map(part);
        Misses {
            misses,
            misses_per_second: per_second(misses),
            causes,
            miss_ns: Latency::of(before, after, each(spent)),
            miss_split_ns: Split {
                trap: each(trap),
                lookup: each(lookup),
                wire: each(wire),
                install: each(install),
                evict: each(evict),
                follow: each(follow),
                rest: each(spent.saturating_sub(lookup + wire + install + evict + follow)),
            },
            fetched_ahead: more("/prefetch/lines"),
            evicted_clean: more("/evictions/clean"),
            evicted_dirty: more("/evictions/dirty"),
            bytes_fetched: more("/bytes/fetched"),
            bytes_written_back: more("/bytes/written_back"),
        }
    }
}

impl Latency {
    /// Of the faults that came between.
    fn of(before: &Value, after: &Value, mean: f64) -> Latency {
        let mut buckets = histogram(after);
        for (edge, count) in histogram(before) {
            let bucket = buckets.entry(edge).or_default();
            *bucket = bucket.saturating_sub(count);
        }
        buckets.retain(|_, count| *count > 0);
        let all: u64 = buckets.values().sum();
        let at = |share: f64| {
            let rank = (share * all as f64).ceil() as u64;
            let mut seen = 0;
            let mut edges = buckets.iter();
            let found = edges.find(|(_, count)| {
                seen += **count;
                seen >= rank
            });
            found.map_or(0, |(edge, _)| *edge)
        };
        Latency {
            mean,
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0),
        }
    }
}

fn histogram(from: &Value) -> BTreeMap<u64, u64> {
    let buckets = from.pointer("/miss_latency_ns/histogram");
    let buckets = buckets.and_then(Value::as_array).into_iter().flatten();
    buckets
        .filter_map(|bucket| Some((bucket[0].as_u64()?, bucket[1].as_u64()?)))
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn said() -> Value {
        let counters = |n: u64, buckets: Value| {
            json!({
                "misses": { "remote": 10 * n, "joined": n },
                "miss_latency_ns": { "count": 10 * n, "total": 10_000 * n, "histogram": buckets },
                "miss_split_ns": { "trap": 500 * n, "wire": 6000 * n, "evict": 3000 * n },
                "evictions": { "clean": n, "dirty": 2 * n },
                "bytes": { "fetched": 4096 * n },
            })
        };
        json!({
            "pages": 100, "clock_overhead_ns": 12.5, "fill_ns": 7, "phases": [{
                "pattern": "random", "mix": "read", "threads": 2, "accesses": 50,
                "wall_ns": 1_000_000, "mean_ns": 900.0, "min_ns": 1.0, "p50_ns": 800.0,
                "p90_ns": 850.0, "p99_ns": 1000.0, "p999_ns": 1100.0, "max_ns": 1200.0,
                "histogram": [[800.0, 40], [1200.0, 10]],
                "before": counters(1, json!([[900, 10]])),
                "after": counters(3, json!([[900, 12], [1100, 17], [2000, 1]])),
            }],
        })
    }

    #[test]
    fn counters_are_those_of_the_measurement_alone() {
        let run = Run::of(Name::Testbed, 1, &said()).unwrap();
        let row = &run.rows[0];
        assert!((row.accesses_per_second - 50_000.0).abs() < 1e-6);
        let misses = row.misses.as_ref().unwrap();
        assert_eq!((misses.misses, misses.causes["remote"]), (22, 20));
        assert!((misses.misses_per_second - 22_000.0).abs() < 1e-6);
        let latency = Latency {
            mean: 1000.0,
            p50: 1100,
            p99: 2000,
            p999: 2000,
            max: 2000,
        };
        assert_eq!(misses.miss_ns, latency);
        let split = &misses.miss_split_ns;
        assert_eq!((split.trap, split.wire, split.evict), (50.0, 600.0, 300.0));
        assert_eq!((split.lookup, split.rest), (0.0, 100.0));
        assert_eq!((misses.evicted_dirty, misses.bytes_fetched), (4, 8192));
    }

    #[test]
    fn natively_there_are_no_counters() {
        let mut said = said();
        said["phases"][0]["before"] = Value::Null;
        said["phases"][0]["after"] = Value::Null;
        let run = Run::of(Name::Native, 1, &said).unwrap();
        assert!(run.rows[0].misses.is_none());
    }

    #[test]
    fn what_is_no_output_is_refused() {
        for key in ["phases", "clock_overhead_ns"] {
            let mut said = said();
            said[key] = Value::Null;
            let why = Run::of(Name::Native, 1, &said).unwrap_err();
            assert!(why.to_string().contains(key), "{why}");
        }
    }
}
