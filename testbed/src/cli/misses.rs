//! Of `testbed bench cache` and `testbed trace`.

use super::{CacheArgs, EmulationSpec, parse_seconds};
use crate::plan::Fabric;
use crate::sweep::{Baseline, SwapOn};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// See [`Bench::Cache`](super::Bench::Cache).
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchCacheArgs {
    /// Memory that the program fills and walks.
    #[arg(long, value_name = "SIZE", default_value = "400M", value_parser = parse_footprint)]
    pub(crate) footprint: u64,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    /// Which patterns.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["random", "sequential", "strided", "zipf", "chase"])]
    pub(crate) patterns: Vec<Pattern>,
    /// Which accesses.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["read", "write", "mixed"])]
    pub(crate) mix: Vec<Mix>,
    /// How many threads, e.g. 1,2,8.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Vec<u16>,
    /// Accesses of each measurement, of all threads together [default: as many
    /// as the footprint has pages].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub(crate) accesses: Option<u64>,
    /// Seconds for each measurement, instead of a number of accesses.
    #[arg(long, value_name = "SECONDS", conflicts_with = "accesses", value_parser = parse_seconds)]
    pub(crate) time: Option<std::time::Duration>,
    /// Accesses before each measurement, not measured [default: as many as the
    /// cache has pages].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=1 << 40))]
    pub(crate) warmup: Option<u64>,
    /// Bytes from one access to the next in the pattern strided: a multiple of
    /// 64.
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = parse_stride)]
    pub(crate) stride: u64,
    /// Skew of the pattern zipf: 0 is none.
    #[arg(long, value_name = "X", default_value_t = 0.99, allow_negative_numbers = true, value_parser = parse_theta)]
    pub(crate) theta: f64,
    /// Longest time for all measurements of a run, seconds.
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = parse_seconds)]
    pub(crate) timeout: std::time::Duration,
    /// Begins all random sequences.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// What carries messages and pages between components.
    #[arg(long, value_enum, default_value_t = Fabric::Auto)]
    pub(crate) fabric: Fabric,
    /// A network to emulate, e.g. latency=3us,bandwidth=40Gbit.
    #[arg(long, value_name = "SPEC")]
    pub(crate) emulate: Option<EmulationSpec>,
    /// Runs on this testbed, which `testbed up` brought up, on one machine or
    /// several. The directory for temporary files (TMPDIR) must lie in its root:
    /// the program is compiled there.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["fabric", "emulate"])]
    pub(crate) on: Option<String>,
    /// The same natively as well, without a testbed.
    #[arg(long)]
    pub(crate) native: bool,
    /// Rounds: in each, everything is run once; tables show medians.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) runs: u32,
    /// What to compare with: the same natively, with as much memory as the
    /// cache holds, and swap (needs root).
    #[arg(long, value_enum)]
    pub(crate) baseline: Option<Baseline>,
    /// Where that swaps to.
    #[arg(long, value_enum, default_value_t = SwapOn::Zram, requires = "baseline")]
    pub(crate) swap: SwapOn,
    /// As JSON, with histograms.
    #[arg(long)]
    pub(crate) json: bool,
    /// File that gets a line of comma-separated values for each measurement.
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
}

/// In which order pages are touched.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pattern {
    /// Every page equally likely.
    Random,
    /// One page after the other.
    Sequential,
    /// Every --stride bytes.
    Strided,
    /// Few pages often, most seldom: by Zipf's law.
    Zipf,
    /// Along links in the pages: each access waits for the one before.
    Chase,
}

/// What is done with them.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mix {
    /// Loads.
    Read,
    /// Stores.
    Write,
    /// Either, equally likely.
    Mixed,
}

/// See [`Command::Trace`](super::Command::Trace).
#[derive(Args, Clone, Debug)]
pub(crate) struct TraceArgs {
    /// The trace.
    pub(crate) file: PathBuf,
    /// Every record as a line of comma-separated values.
    #[arg(long, group = "form")]
    pub(crate) csv: bool,
    /// For Perfetto (ui.perfetto.dev) and Chrome (chrome://tracing).
    #[arg(long, group = "form")]
    pub(crate) chrome: bool,
    /// As JSON: every record as a line; with --summary, the summary.
    #[arg(long, conflicts_with_all = ["csv", "chrome"])]
    pub(crate) json: bool,
    /// Misses by cause and thread, the most missed pages and regions, times
    /// between misses, the working set over time; so it is without options.
    #[arg(long, conflicts_with_all = ["csv", "chrome"])]
    pub(crate) summary: bool,
    /// Pages and regions that the summary names.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) top: u16,
}

fn parse_footprint(text: &str) -> Result<u64, String> {
    let size = member::parse_size(text).map_err(|e| e.to_string())?;
    if (1 << 20..=1 << 42).contains(&size) {
        return Ok(size);
    }
    Err(format!("{text}: give 1MiB to 4TiB"))
}

fn parse_stride(text: &str) -> Result<u64, String> {
    let size = member::parse_size(text).map_err(|e| e.to_string())?;
    if (64..=1 << 40).contains(&size) && size % 64 == 0 {
        return Ok(size);
    }
    Err(format!("{text}: give a multiple of 64 bytes, such as 64K"))
}

fn parse_theta(text: &str) -> Result<f64, String> {
    let theta = text.parse::<f64>().ok();
    theta
        .filter(|theta| (0.0..=10.0).contains(theta))
        .ok_or_else(|| format!("{text:?}: give a number from 0 to 10, such as 0.99"))
}
