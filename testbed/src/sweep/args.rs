//! The command line of `testbed sweep`.

use crate::cli::{EmulationSpec, Replacement, parse_memory};
use crate::plan::Fabric;
use crate::shape::{CacheSize, parse_cache, parse_line, parse_switch};
use clap::{Args, ValueEnum};
use regex::bytes::Regex;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// See [`crate::cli::Command::Sweep`].
#[derive(Args, Clone, Debug)]
pub(crate) struct SweepArgs {
    /// Sizes of the cache: shares of the program's footprint, 10,25,50%, where
    /// the last % holds for all before it, or sizes such as 64M.
    #[arg(long, value_name = "LIST", default_value = "10,25,50,75,100%")]
    pub(crate) cache: Caches,
    /// What carries messages and pages.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Fabric::Auto])]
    pub(crate) fabric: Vec<Fabric>,
    /// Runs on this testbed, which `testbed up` brought up, on one machine or
    /// several. The native runs are on this machine.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["fabric", "emulate", "latency", "memory", "fresh"])]
    pub(crate) on: Option<String>,
    /// Brings up a new testbed for each run: its memory component has not read
    /// any file yet. Otherwise one stays for all runs, and finds files as warm
    /// as native runs do.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Lines in a set, 8 or more [default: about 512].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(8..=1 << 20))]
    pub(crate) ways: Vec<u32>,
    /// Bytes in a cache line: powers of two, 4KiB to 2MiB [default: 4KiB].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_line)]
    pub(crate) line: Vec<u64>,
    /// Which line goes when a set is full [default: adaptive].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) policy: Vec<Replacement>,
    /// Most lines fetched ahead by one miss, `off` (0) or `on` (the default)
    /// [default: on].
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_prefetch)]
    pub(crate) prefetch: Vec<u32>,
    /// Whether a miss follows the program's code to fetch what it will miss next
    /// [default: on].
    #[arg(long, value_name = "on,off", value_delimiter = ',', value_parser = parse_switch)]
    pub(crate) run_ahead: Vec<bool>,
    /// A network to emulate, e.g. latency=3us,bandwidth=40Gbit, or `none`; may
    /// be given several times.
    #[arg(long, value_name = "SPEC", value_parser = parse_network)]
    pub(crate) emulate: Vec<Network>,
    /// Latencies to emulate (round trips added to every operation), e.g.
    /// 0,3us,10us, with each bandwidth that --emulate gives.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_latency)]
    pub(crate) latency: Vec<Network>,
    /// Rounds: in each, everything is run once.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) runs: u32,
    /// What to compare with, beside the native run: the program natively, with
    /// as much memory as the cache holds, and swap (needs root).
    #[arg(long, value_enum)]
    pub(crate) baseline: Option<Baseline>,
    /// Where that swaps to.
    #[arg(long, value_enum, default_value_t = SwapOn::Zram, requires = "baseline")]
    pub(crate) swap: SwapOn,
    /// Memory of the memory component.
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = parse_memory)]
    pub(crate) memory: u64,
    /// Output that differs from run to run, such as elapsed seconds: what
    /// matches is removed before outputs are compared; may be given several
    /// times. ^ and $ are the ends of lines.
    #[arg(long, value_name = "REGEX", value_parser = parse_mask)]
    pub(crate) mask: Vec<Regex>,
    /// Compares the lines of the output without their order.
    #[arg(long)]
    pub(crate) sort_lines: bool,
    /// Longest that a run may take; one that takes longer is ended, and wrong.
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = parse_seconds)]
    pub(crate) timeout: Duration,
    /// Directory for sweep.json, sweep.csv and sweep.html.
    #[arg(long, value_name = "DIR", default_value = "sweep")]
    pub(crate) out: PathBuf,
    /// The program, a static x86-64 binary, and its arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "PROGRAM [ARGS]"
    )]
    pub(crate) program: Vec<OsString>,
}

/// See [`SweepArgs::baseline`].
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Baseline {
    /// A memory cgroup and swap.
    Swap,
}

/// See [`SweepArgs::swap`].
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SwapOn {
    /// A compressed device in memory, made for it and removed afterwards.
    Zram,
    /// The swap that is on already.
    Existing,
}

/// Several [`CacheSize`]s.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Caches(pub(crate) Vec<CacheSize>);

impl FromStr for Caches {
    type Err = String;

    fn from_str(text: &str) -> Result<Caches, String> {
        let shares = text.trim_end().ends_with('%');
        let one = |part: &str| {
            let part = part.trim();
            let bare = part.chars().all(|c| c.is_ascii_digit() || c == '.');
            if shares && bare {
                parse_cache(&format!("{part}%"))
            } else {
                parse_cache(part)
            }
        };
        let mut all = Vec::new();
        for size in text.split(',').map(one) {
            let size = size?;
            if !all.contains(&size) {
                all.push(size);
            }
        }
        Ok(Caches(all))
    }
}

/// An emulated network, or none.
#[derive(Clone, Debug)]
pub(crate) struct Network(pub(crate) Option<EmulationSpec>);

fn parse_network(text: &str) -> Result<Network, String> {
    if text == "none" {
        return Ok(Network(None));
    }
    text.parse().map(|spec| Network(Some(spec)))
}

fn parse_latency(text: &str) -> Result<Network, String> {
    if text == "0" {
        return Ok(Network(None));
    }
    parse_network(&format!("latency={text}"))
}

fn parse_prefetch(text: &str) -> Result<u32, String> {
    match text {
        "off" => Ok(0),
        "on" => Ok(proto::process::CacheConfig::default().prefetch),
        _ => text
            .parse()
            .ok()
            .filter(|n| *n <= 1024)
            .ok_or_else(|| format!("{text:?}: give on, off, or lines from 0 to 1024")),
    }
}

fn parse_mask(text: &str) -> Result<Regex, String> {
    regex::bytes::RegexBuilder::new(text)
        .multi_line(true)
        .build()
        .map_err(|why| why.to_string())
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    seconds
        .filter(|s| (0.01..=1e6).contains(s))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("{text:?}: give seconds from 0.01 to 1000000"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn parse(arguments: &[&str]) -> Result<SweepArgs, String> {
        let all = [&["testbed", "sweep"], arguments, &["--", "true"]].concat();
        match Cli::try_parse_from(all).map_err(|e| e.to_string())?.command {
            Command::Sweep(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_last_percent_holds_for_all_before() {
        let of = |text: &str| text.parse::<Caches>().map(|caches| caches.0);
        let share = CacheSize::Percent;
        assert_eq!(
            of("10,25.5,10,100%"),
            Ok(vec![share(10.0), share(25.5), share(100.0)])
        );
        assert_eq!(
            of("10%,64M"),
            Ok(vec![share(10.0), CacheSize::Bytes(64 << 20)])
        );
        assert_eq!(
            of("64M,50%"),
            Ok(vec![CacheSize::Bytes(64 << 20), share(50.0)])
        );
        assert_eq!(of("1M,2M").unwrap().len(), 2);
    }

    #[test]
    fn defaults_are_whole() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.cache.0.len(), 5);
        assert_eq!((args.runs, args.fabric), (3, vec![Fabric::Auto]));
        let args = parse(&["--latency", "0,1us,6.5us", "--prefetch", "on,off,4"]).unwrap();
        assert_eq!(args.prefetch, [16, 0, 4]);
        assert!(args.latency[0].0.is_none());
        assert_eq!(args.latency[2].0.as_ref().unwrap().text, "latency=6.5us");
    }

    #[test]
    fn bad_values_are_refused_with_option_and_cure() {
        for (arguments, words) in [
            (&["--cache", "10,,20%"][..], &["--cache", "25%"][..]),
            (&["--cache", "10,200%"], &["--cache", "at most 100"]),
            (&["--fabric", "shm,rdma"], &["--fabric", "tcp"]),
            (&["--ways", "64,2"], &["--ways", "8"]),
            (&["--line", "4K,5000"], &["--line", "power of two"]),
            (&["--policy", "lru"], &["--policy", "adaptive"]),
            (&["--prefetch", "maybe"], &["--prefetch", "on, off"]),
            (&["--run-ahead", "far"], &["--run-ahead", "on or off"]),
            (&["--latency", "3"], &["--latency", "unit"]),
            (&["--runs", "0"], &["--runs", "1..=1000"]),
            (&["--mask", "("], &["--mask", "unclosed"]),
            (&["--swap", "zram"], &["--baseline"]),
            (&["--timeout", "0"], &["--timeout", "seconds"]),
        ] {
            let said = parse(arguments).expect_err("accepted");
            for word in words {
                assert!(said.contains(word), "{arguments:?} lacks {word:?}: {said}");
            }
        }
    }
}
