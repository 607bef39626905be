//! What a sweep knows: written as `sweep.json`, and drawn from.

use super::combine::Series;
use super::figures::{Counters, Spread};
use crate::bench::Added;
use serde::Serialize;
use serde_json::Value;

/// What is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// The program by itself.
    Native,
    /// The program on a testbed.
    Testbed,
    /// The program natively, with little memory and swap.
    Swap,
}

impl Kind {
    /// As the files have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Native => "native",
            Kind::Testbed => "testbed",
            Kind::Swap => "swap",
        }
    }
}

/// One thing that is run once in each round.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Point {
    pub(super) kind: Kind,
    /// For people.
    pub(super) label: String,
    /// Of a testbed, which of the sweep's series.
    pub(super) series: Option<usize>,
    /// The cache's size as it was asked for.
    pub(super) cache: Option<String>,
    /// Bytes of the cache; of swap, of memory.
    pub(super) cache_bytes: Option<u64>,
    /// The same, per cent of the footprint.
    pub(super) share_percent: Option<f64>,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Run {
    /// Which of the sweep's points.
    pub(super) point: usize,
    /// From 1.
    pub(super) round: u32,
    /// From 1: a baseline that failed is tried again.
    pub(super) attempt: u32,
    /// From the start of a process to its end: with `--fresh`, with all it takes
    /// to bring a testbed up and down.
    pub(super) elapsed_ns: u64,
    /// Of the program; `None` where it is not known.
    pub(super) wall_ns: Option<u64>,
    /// Why it does not count.
    pub(super) wrong: Option<String>,
    /// Of swap.
    pub(super) swap_peak_bytes: Option<u64>,
    /// The program's statistics, as `testbed run --stats` gives them.
    pub(super) process: Option<Value>,
}

/// What the runs of a point come to. Wrong ones do not count.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    pub(super) right: usize,
    pub(super) wrong: usize,
    pub(super) wall_ns: Option<Spread>,
    /// Times over the median of the native runs.
    pub(super) slowdown: Option<Spread>,
    pub(super) counters: Option<Counters>,
}

/// The machine that it ran on.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    pub(super) kernel: String,
    pub(super) processor: String,
    pub(super) cpus: usize,
    pub(super) memory_bytes: u64,
}

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Sweep {
    /// The command line, for a shell.
    pub(super) command: String,
    pub(super) version: &'static str,
    /// Seconds since 1970.
    pub(super) begun_unix_s: u64,
    /// Whether all rounds were run.
    pub(super) complete: bool,
    pub(super) machine: Machine,
    pub(super) program: Vec<String>,
    pub(super) rounds: u32,
    pub(super) masks: Vec<String>,
    pub(super) sort_lines: bool,
    pub(super) memory_bytes: u64,
    /// The most memory that the program had, of its own and of mapped files.
    pub(super) footprint_bytes: u64,
    /// What the baseline swapped to.
    pub(super) swap: Option<String>,
    pub(super) series: Vec<Series>,
    /// What emulated networks added, measured before the first round.
    pub(super) calibration: Vec<Added>,
    pub(super) points: Vec<Point>,
    /// One for each of `points`; made when it is written.
    pub(super) summaries: Vec<Summary>,
    pub(super) runs: Vec<Run>,
}

impl Sweep {
    /// Makes the summaries new.
    pub(super) fn summarize(&mut self) {
        let native = self.walls(|point| point.kind == Kind::Native);
        let native = Spread::of(&native).map(|spread| spread.median);
        self.summaries = (0..self.points.len())
            .map(|n| self.summary(n, native))
            .collect();
    }

    fn walls(&self, wanted: impl Fn(&Point) -> bool) -> Vec<f64> {
        self.runs
            .iter()
            .filter(|run| wanted(&self.points[run.point]) && run.wrong.is_none())
            .filter_map(|run| Some(run.wall_ns? as f64))
            .collect()
    }

    fn summary(&self, point: usize, native: Option<f64>) -> Summary {
        let runs: Vec<&Run> = self.runs.iter().filter(|run| run.point == point).collect();
        let (wrong, right): (Vec<&Run>, Vec<&Run>) =
            runs.into_iter().partition(|run| run.wrong.is_some());
        let walls: Vec<f64> = right
            .iter()
            .filter_map(|run| Some(run.wall_ns? as f64))
            .collect();
        let wall_ns = Spread::of(&walls);
        let processes: Vec<&Value> = right
            .iter()
            .filter_map(|run| run.process.as_ref())
            .collect();
        let native = native.filter(|native| *native > 0.0);
        Summary {
            right: right.len(),
            wrong: wrong.len(),
            wall_ns,
            slowdown: wall_ns.and_then(|wall| Some(wall.over(native?))),
            counters: Counters::of(&processes),
        }
    }

    /// The runs that make the sweep a failure, in words: those of the program
    /// and of testbeds. A baseline that can't be had is none of these.
    pub(super) fn wrong(&self) -> Vec<String> {
        self.said(|kind| kind != Kind::Swap)
    }

    /// Baselines that could not be had.
    pub(super) fn without_baseline(&self) -> Vec<String> {
        self.said(|kind| kind == Kind::Swap)
    }

    fn said(&self, wanted: impl Fn(Kind) -> bool) -> Vec<String> {
        let say = |run: &Run| {
            let point = &self.points[run.point];
            let why = run.wrong.as_ref().filter(|_| wanted(point.kind))?;
            let attempt = match run.attempt {
                1 => String::new(),
                n => format!(", attempt {n}"),
            };
            Some(format!(
                "{}, round {}{attempt}: {why}",
                point.label, run.round
            ))
        };
        self.runs.iter().filter_map(say).collect()
    }

    /// The run of a point whose time is nearest to the median.
    pub(super) fn typical(&self, point: usize) -> Option<&Run> {
        let median = self.summaries.get(point)?.wall_ns?.median;
        let off = |run: &&Run| (run.wall_ns.unwrap_or(0) as f64 - median).abs();
        self.runs
            .iter()
            .filter(|run| run.point == point && run.wrong.is_none())
            .min_by(|one, other| off(one).total_cmp(&off(other)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    fn point(kind: Kind, label: &str, share: Option<f64>) -> Point {
        Point {
            kind,
            label: label.to_owned(),
            series: (kind == Kind::Testbed).then_some(0),
            cache: share.map(|share| format!("{share}%")),
            cache_bytes: share.map(|share| (share * 1e4) as u64),
            share_percent: share,
        }
    }

    fn run(point: usize, round: u32, wall_ms: u64, wrong: Option<&str>) -> Run {
        Run {
            point,
            round,
            attempt: 1,
            elapsed_ns: wall_ms * 1_000_000 + 7,
            wall_ns: Some(wall_ms * 1_000_000),
            wrong: wrong.map(str::to_owned),
            swap_peak_bytes: None,
            process: (point == 1 || point == 2).then(|| {
                json!({
                    "miss_latency_ns": { "count": 10, "total": 90_000, "mean": 9000, "p50": 8000, "p99": 20000,
                        "histogram": [[8000, 9], [20000, 1]] },
                    "miss_split_ns": { "trap": 10_000, "wire": 50_000, "lookup": 1000,
                        "install": 2000, "evict": 3000 },
                    "bytes": { "fetched": 40960, "written_back": 4096 },
                    "messages": { "read": 3 },
                    "samples": [[0, 0, 0, 0], [1_000_000, 5, 4096, 0], [3_000_000, 10, 40960, 4096]],
                })
            }),
        }
    }

    /// Two rounds of a native run, two caches and a baseline that was killed.
    pub(in crate::sweep) fn example() -> Sweep {
        let mut sweep = Sweep {
            command: "testbed sweep -- ./a<b 'x y'".to_owned(),
            version: "0",
            begun_unix_s: 1_700_000_000,
            complete: true,
            machine: Machine {
                kernel: "6.1".to_owned(),
                processor: "CPU".to_owned(),
                cpus: 2,
                memory_bytes: 1 << 30,
            },
            program: vec!["./a<b".to_owned(), "x y".to_owned()],
            rounds: 2,
            masks: Vec::new(),
            sort_lines: false,
            memory_bytes: 1 << 30,
            footprint_bytes: 1_000_000,
            swap: None,
            series: Vec::new(),
            calibration: Vec::new(),
            points: vec![
                point(Kind::Native, "native", None),
                point(Kind::Testbed, "shm, 25%", Some(25.0)),
                point(Kind::Testbed, "shm, 50%", Some(50.0)),
                point(Kind::Swap, "swap, 25%", Some(25.0)),
            ],
            summaries: Vec::new(),
            runs: vec![
                run(0, 1, 100, None),
                run(1, 1, 300, None),
                run(2, 1, 150, Some("output differs")),
                run(3, 1, 10, Some("was killed")),
                run(0, 2, 200, None),
                run(1, 2, 450, None),
                run(2, 2, 180, None),
                run(3, 2, 10, Some("was killed")),
            ],
        };
        let args = super::super::args_of(&["--fabric", "shm"]);
        sweep.series = super::super::combine::series(&args, None).unwrap();
        sweep.summarize();
        sweep
    }

    #[test]
    fn summaries_are_of_right_runs_against_native_medians() {
        let sweep = example();
        let slow = |n: usize| {
            sweep.summaries[n]
                .slowdown
                .map(|s| (s.min, s.median, s.max))
        };
        assert_eq!(slow(1), Some((2.0, 2.5, 3.0)));
        assert_eq!(slow(2), Some((1.2, 1.2, 1.2)));
        assert_eq!(slow(3), None);
        assert_eq!((sweep.summaries[2].right, sweep.summaries[2].wrong), (1, 1));
        assert_eq!(sweep.typical(2).map(|run| run.round), Some(2));
    }

    #[test]
    fn wrong_runs_are_named() {
        let sweep = example();
        assert_eq!(sweep.wrong(), ["shm, 50%, round 1: output differs"]);
        assert_eq!(sweep.without_baseline().len(), 2);
    }
}
