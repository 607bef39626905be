//! All combinations of what a sweep's lists say.

use super::args::{Network, SweepArgs};
use crate::cli::{CacheArgs, EmulationSpec};
use crate::plan::Fabric;
use crate::shape::{self, CacheSize, switch};
use crate::standing::Standing;
use crate::table::bytes;
use clap::ValueEnum;
use proto::process::CacheConfig;
use serde::Serialize;

/// One combination of everything but the cache's size.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Series {
    /// What sets it apart from the others of the sweep.
    pub(super) label: String,
    pub(super) fabric: Fabric,
    pub(super) ways: Option<u32>,
    pub(super) line: Option<u64>,
    pub(super) policy: Option<String>,
    pub(super) prefetch: Option<u32>,
    pub(super) run_ahead: Option<bool>,
    /// As `--emulate` has it.
    pub(super) emulate: Option<String>,
    #[serde(skip)]
    pub(super) args: CacheArgs,
    /// What holds where those say nothing.
    #[serde(skip)]
    pub(super) usual: CacheConfig,
}

impl Series {
    /// The shape of its cache; its size is yet to be chosen.
    pub(super) fn config(&self) -> CacheConfig {
        // Without a size nothing can be wrong: each value was checked alone.
        shape::config(&self.args, &self.usual).unwrap_or_default()
    }

    /// Bytes of a cache of that size, and whether they can be had. Whole sets
    /// where ways were asked for, as `testbed run` wants it.
    pub(super) fn cache_bytes(&self, size: CacheSize, footprint: u64) -> Result<u64, String> {
        let mut config = self.config();
        config.size = match size {
            CacheSize::Bytes(bytes) => bytes,
            CacheSize::Percent(percent) => shape::share(percent, footprint, &config),
        };
        shape::check(&config, self.ways.is_some())
            .map_err(|why| format!("{} of {}: {why}", shown(size), self.label))?;
        Ok(config.size)
    }

    /// Options of `testbed run` for a testbed of the run's own.
    pub(super) fn network(&self, memory: u64) -> Vec<String> {
        let memory = memory.to_string();
        let mut options = ["--memory", &memory, "--fabric", self.fabric.name()].to_vec();
        if let Some(network) = &self.emulate {
            options.extend(["--emulate", network]);
        }
        options.into_iter().map(str::to_owned).collect()
    }

    /// Options of `testbed run` for its cache.
    pub(super) fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                options.extend([name.to_owned(), value]);
            }
        };
        add("--ways", self.ways.map(|n| n.to_string()));
        add("--line", self.line.map(|n| n.to_string()));
        add("--policy", self.policy.clone());
        add("--prefetch", self.prefetch.map(|n| n.to_string()));
        add(
            "--run-ahead",
            self.run_ahead.map(|on| switch(on).to_owned()),
        );
        options
    }
}

/// A cache's size as people write it.
pub(super) fn shown(size: CacheSize) -> String {
    match size {
        CacheSize::Bytes(count) => bytes(count),
        CacheSize::Percent(percent) => format!("{percent}%"),
    }
}

/// Every combination, on a testbed that is up if one is given; labels say what
/// differs among them.
pub(super) fn series(args: &SweepArgs, on: Option<&Standing>) -> Result<Vec<Series>, String> {
    let networks = networks(&args.emulate, &args.latency)?;
    let mut all = Vec::new();
    for &fabric in &args.fabric {
        for network in &networks {
            for ways in each(&args.ways) {
                for line in each(&args.line) {
                    for policy in each(&args.policy) {
                        for (prefetch, run_ahead) in ahead(args) {
                            let cache = CacheArgs {
                                cache: None,
                                line,
                                ways,
                                policy,
                                prefetch,
                                run_ahead,
                            };
                            all.push(one(fabric, network, cache));
                        }
                    }
                }
            }
        }
    }
    if let Some(standing) = on {
        for series in &mut all {
            series.fabric = standing.fabric;
            series.emulate.clone_from(&standing.emulate);
            series.usual = standing.cache.clone();
        }
    }
    label(&mut all);
    Ok(all)
}

/// Each prefetch, with and without running ahead as asked for.
fn ahead(args: &SweepArgs) -> Vec<(Option<u32>, Option<bool>)> {
    let with = |prefetch| {
        each(&args.run_ahead)
            .into_iter()
            .map(move |on| (prefetch, on))
    };
    each(&args.prefetch).into_iter().flat_map(with).collect()
}

/// The list's values, or the default alone.
fn each<T: Copy>(list: &[T]) -> Vec<Option<T>> {
    if list.is_empty() {
        return vec![None];
    }
    list.iter().copied().map(Some).collect()
}

fn one(fabric: Fabric, network: &Network, args: CacheArgs) -> Series {
    let policy = args.policy.and_then(|policy| policy.to_possible_value());
    Series {
        label: String::new(),
        fabric,
        ways: args.ways,
        line: args.line,
        policy: policy.map(|value| value.get_name().to_owned()),
        prefetch: args.prefetch,
        run_ahead: args.run_ahead,
        emulate: network.0.as_ref().map(|spec| spec.text.clone()),
        args,
        usual: CacheConfig::default(),
    }
}

/// Each network with each latency.
fn networks(emulate: &[Network], latency: &[Network]) -> Result<Vec<Network>, String> {
    if latency.is_empty() || emulate.is_empty() {
        let given = [emulate, latency].concat();
        return Ok(if given.is_empty() {
            vec![Network(None)]
        } else {
            given
        });
    }
    let mut all = Vec::new();
    for network in emulate {
        for latency in latency {
            all.push(joined(network, latency)?);
        }
    }
    Ok(all)
}

fn joined(network: &Network, latency: &Network) -> Result<Network, String> {
    let (Some(spec), Some(late)) = (&network.0, &latency.0) else {
        return Ok(Network(network.0.clone().or_else(|| latency.0.clone())));
    };
    if !spec.network.latency.is_zero() {
        return Err(format!(
            "--emulate {} has a latency of its own: give it without, or leave --latency out",
            spec.text
        ));
    }
    let both: EmulationSpec = format!("{},{}", late.text, spec.text).parse()?;
    Ok(Network(Some(both)))
}

/// Says of each what not all have in common.
fn label(all: &mut [Series]) {
    let parts: Vec<[String; 7]> = all.iter().map(parts).collect();
    let differs: [bool; 7] =
        std::array::from_fn(|n| parts.iter().any(|part| part[n] != parts[0][n]));
    for (series, parts) in all.iter_mut().zip(parts) {
        let named = parts
            .into_iter()
            .zip(differs)
            .filter(|(_, differs)| *differs);
        let named: Vec<String> = named.map(|(part, _)| part).collect();
        series.label = if named.is_empty() {
            "testbed".to_owned()
        } else {
            named.join(", ")
        };
    }
}

fn parts(series: &Series) -> [String; 7] {
    let config = series.config();
    [
        series.fabric.name().to_owned(),
        series.emulate.clone().map_or_else(
            || "no added latency".to_owned(),
            |text| {
                text.replace("latency=", "+")
                    .replace("bandwidth=", "")
                    .replace(',', " ")
            },
        ),
        config.ways.map(|n| format!("{n} ways")).unwrap_or_default(),
        format!("{} lines", bytes(config.line)),
        series
            .policy
            .clone()
            .unwrap_or_else(|| "adaptive".to_owned()),
        match config.prefetch {
            0 => "no prefetch".to_owned(),
            n => format!("prefetch {n}"),
        },
        format!("run-ahead {}", switch(config.run_ahead)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn of(arguments: &[&str]) -> Result<Vec<Series>, String> {
        let all = [&["testbed", "sweep"], arguments, &["--", "true"]].concat();
        match crate::cli::Cli::parse_from(all).command {
            crate::cli::Command::Sweep(args) => series(&args, None),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_combination_once() {
        let all = of(&[
            "--fabric",
            "shm,tcp",
            "--policy",
            "adaptive,fifo",
            "--prefetch",
            "on,off",
        ]);
        let all = all.unwrap();
        let mut labels: Vec<&str> = all.iter().map(|series| &*series.label).collect();
        assert_eq!(labels[0], "shm, adaptive, prefetch 16");
        assert_eq!(labels[7], "tcp, fifo, no prefetch");
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), 8);
        assert_eq!(all[7].options().join(" "), "--policy fifo --prefetch 0");
        assert_eq!(all[7].network(4096).join(" "), "--memory 4096 --fabric tcp");
        assert_eq!(of(&[]).unwrap()[0].label, "testbed");
        let both = of(&["--run-ahead", "on,off"]).unwrap();
        assert_eq!(both[0].label, "run-ahead on");
        assert_eq!(both[1].options().join(" "), "--run-ahead off");
    }

    #[test]
    fn latencies_with_bandwidths() {
        let specs = |arguments: &[&str]| -> Vec<Option<String>> {
            of(arguments)
                .unwrap()
                .into_iter()
                .map(|series| series.emulate)
                .collect()
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(specs(&["--latency", "0,3us"]), [None, some("latency=3us")]);
        assert_eq!(
            specs(&["--latency", "0,3us", "--emulate", "bandwidth=40Gbit"]),
            [
                some("bandwidth=40Gbit"),
                some("latency=3us,bandwidth=40Gbit")
            ]
        );
        assert_eq!(
            specs(&[
                "--emulate",
                "none",
                "--emulate",
                "latency=1us,bandwidth=1Gbit"
            ]),
            [None, some("latency=1us,bandwidth=1Gbit")]
        );
        let said = of(&["--latency", "3us", "--emulate", "latency=1us"]).unwrap_err();
        assert!(
            said.contains("--emulate") && said.contains("--latency"),
            "{said}"
        );
    }

    #[test]
    fn sizes_are_checked_before_any_run() {
        let wide = &of(&["--ways", "64"]).unwrap()[0];
        assert_eq!(
            wide.cache_bytes(CacheSize::Percent(50.0), 64 << 20),
            Ok(32 << 20)
        );
        let said = wide
            .cache_bytes(CacheSize::Bytes(1_000_000), 0)
            .unwrap_err();
        assert!(said.contains("--ways"), "{said}");
        let any = &of(&[]).unwrap()[0];
        assert_eq!(
            any.cache_bytes(CacheSize::Bytes(1_000_000), 0),
            Ok(1_000_000)
        );
    }
}
