//! What many runs come to.

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Where the time of a fault goes; the rest is messages and bookkeeping.
pub(super) const PARTS: [&str; 6] = ["trap", "lookup", "wire", "install", "evict", "follow"];

/// The middle of several values and how far they lie apart.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` of nothing. Of an even number, the median is the mean of the two
    /// in the middle.
    pub(crate) fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Spread { median, min, max })
    }

    pub(super) fn over(self, whole: f64) -> Spread {
        Spread {
            median: self.median / whole,
            min: self.min / whole,
            max: self.max / whole,
        }
    }
}

/// A number in statistics, 0 where there is none.
pub(super) fn count(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// Sum of a map of counters.
pub(super) fn total(counters: &Value) -> u64 {
    let counters = counters.as_object().into_iter().flatten();
    counters.filter_map(|(_, count)| count.as_u64()).sum()
}

/// Nanoseconds of all faults of a run: each of [`PARTS`], then the rest.
pub(super) fn split(process: &Value) -> [u64; 7] {
    let mut parts = [0; 7];
    for (part, name) in parts.iter_mut().zip(PARTS) {
        *part = count(process, &format!("/miss_split_ns/{name}"));
    }
    let handled = count(process, "/miss_latency_ns/total");
    let spent = handled.saturating_add(parts[0]);
    let known: u64 = parts.iter().sum();
    parts[6] = spent.saturating_sub(known);
    parts
}

/// Counters of the programs of several runs of one combination.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Counters {
    /// Medians over runs.
    pub(super) faults: f64,
    pub(super) fetched_bytes: f64,
    pub(super) written_back_bytes: f64,
    pub(super) messages: f64,
    pub(super) p50_ns: f64,
    pub(super) p99_ns: f64,
    /// Means over all faults of all runs, ns: [`PARTS`], then the rest.
    pub(super) split_per_fault_ns: [f64; 7],
    /// All runs together: upper edge in ns, and faults in the bucket.
    pub(super) histogram: Vec<(u64, u64)>,
}

impl Counters {
    /// `None` of no runs.
    pub(super) fn of(processes: &[&Value]) -> Option<Counters> {
        let median = |read: &dyn Fn(&Value) -> u64| {
            let values: Vec<f64> = processes
                .iter()
                .map(|process| read(process) as f64)
                .collect();
            Some(Spread::of(&values)?.median)
        };
        let at = |pointer: &'static str| median(&move |process| count(process, pointer));
        Some(Counters {
            faults: at("/miss_latency_ns/count")?,
            fetched_bytes: at("/bytes/fetched")?,
            written_back_bytes: at("/bytes/written_back")?,
            messages: median(&|process| total(&process["messages"]))?,
            p50_ns: at("/miss_latency_ns/p50")?,
            p99_ns: at("/miss_latency_ns/p99")?,
            split_per_fault_ns: split_per_fault(processes),
            histogram: merged(processes),
        })
    }

    /// For each bucket, its upper edge in ns and the share of faults that took
    /// no longer.
    pub(super) fn distribution(&self) -> Vec<(f64, f64)> {
        let all: u64 = self.histogram.iter().map(|(_, n)| n).sum();
        let mut below = 0;
        let step = |(edge, n): &(u64, u64)| {
            below += n;
            (*edge as f64, below as f64 / all as f64)
        };
        self.histogram.iter().map(step).collect()
    }
}

fn split_per_fault(processes: &[&Value]) -> [f64; 7] {
    let faults: u64 = processes
        .iter()
        .map(|p| count(p, "/miss_latency_ns/count"))
        .sum();
    let splits: Vec<[u64; 7]> = processes.iter().map(|p| split(p)).collect();
    std::array::from_fn(|part| {
        let sum: u64 = splits.iter().map(|split| split[part]).sum();
        sum as f64 / faults.max(1) as f64
    })
}

fn merged(processes: &[&Value]) -> Vec<(u64, u64)> {
    let mut all: BTreeMap<u64, u64> = BTreeMap::new();
    for process in processes {
        let buckets = process.pointer("/miss_latency_ns/histogram");
        for bucket in buckets.and_then(Value::as_array).into_iter().flatten() {
            *all.entry(count(bucket, "/0")).or_default() += count(bucket, "/1");
        }
    }
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn medians_of_odd_and_even_numbers() {
        let of = |values: &[f64]| Spread::of(values).map(|s| (s.min, s.median, s.max));
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some((1.0, 2.0, 3.0)));
        assert_eq!(of(&[4.0, 1.0, 2.0, 9.0]), Some((1.0, 3.0, 9.0)));
        assert_eq!(of(&[]), None);
        let half = Spread::of(&[1.0, 2.0, 4.0]).unwrap().over(2.0);
        assert_eq!((half.min, half.median, half.max), (0.5, 1.0, 2.0));
    }

    fn process(faults: u64, mean: u64) -> Value {
        json!({
            "miss_latency_ns": {
                "count": faults, "total": faults * mean, "mean": mean, "p50": mean, "p99": 2 * mean,
                "histogram": [[100, faults / 2], [mean * 2, faults - faults / 2]],
            },
            "miss_split_ns": { "trap": 10 * faults, "wire": 50 * faults },
            "bytes": { "fetched": 4096 * faults, "written_back": 0 },
            "messages": { "read": 3, "write": 4 },
        })
    }

    #[test]
    fn splits_add_up_to_the_whole() {
        let split = split(&process(100, 90));
        assert_eq!(split, [1000, 0, 5000, 0, 0, 0, 4000]);
        assert_eq!(split.iter().sum::<u64>(), 100 * 90 + 1000);
    }

    #[test]
    fn runs_come_together() {
        let (one, other) = (process(100, 90), process(300, 110));
        let counters = Counters::of(&[&one, &other]).unwrap();
        assert_eq!((counters.faults, counters.messages), (200.0, 7.0));
        assert_eq!(counters.split_per_fault_ns[2], 50.0);
        assert_eq!(counters.histogram, [(100, 200), (180, 50), (220, 150)]);
        let shares: Vec<f64> = counters.distribution().iter().map(|p| p.1).collect();
        assert_eq!(shares, [0.5, 0.625, 1.0]);
        assert!(Counters::of(&[]).is_none());
    }
}
