//! `testbed bench cache`: accesses and misses, by pattern. `cachewalk` makes
//! them; on a testbed it reads its own counters before and after each
//! measurement, so one process and one fill serve them all.

mod compare;
mod figures;
mod rounds;
mod show;
mod wire;

use crate::cli::{BenchCacheArgs, CacheArgs};
use crate::compile::compile;
use crate::ending::Ending;
use crate::out::show;
use crate::plan::Fabric;
use crate::runner::Runner;
use crate::shape::{self, CacheSize, switch};
use crate::standing::Standing;
use crate::sweep::Baseline;
use crate::sweep::swap::Swap;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use figures::Name;
use proto::process::CacheConfig;
use rounds::{Sitting, Way};
use serde_json::json;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use wire::Bare;

/// The program: plain C, compiled here.
const SOURCES: [(&str, &str); 4] = [
    ("cachewalk.c", include_str!("../../../programs/cachewalk.c")),
    ("common.h", include_str!("../../../programs/common.h")),
    ("sampling.h", include_str!("../../../programs/sampling.h")),
    ("selftest.h", include_str!("../../../programs/selftest.h")),
];
/// The cache, where nothing is said of it.
const CACHE: u64 = 100 << 20;
const PAGE: u64 = proto::PAGE_SIZE;
/// Numbers of threads that cachewalk takes: its `MOST_LIST`, less the end.
const MOST_COUNTS: usize = 15;

/// Runs it.
pub(super) fn run(args: &BenchCacheArgs) -> Result<Ending> {
    let standing = args.on.as_deref().map(Standing::find).transpose()?;
    if standing.is_none() {
        crate::doctor::refuse_unless_able()?;
    }
    let usual = standing.as_ref().map(|it| it.cache.clone());
    let cache = cache(args, &usual.unwrap_or_default())?;
    if args.threads.len() > MOST_COUNTS {
        bail!("--threads: give {MOST_COUNTS} numbers at most");
    }
    // Before it takes its time: a wrong path costs no run.
    let csv = args.csv.as_deref().map(create).transpose()?;
    let swap = match args.baseline {
        Some(Baseline::Swap) => Some(Swap::prepare(args.swap, memory(args), Vec::new())?),
        None => None,
    };
    let swap_is = swap.as_ref().map(Swap::description);
    let place = tempfile::tempdir().context("a directory for the benchmark")?;
    let program = compile(place.path(), "cachewalk", &SOURCES)?;
    let there = match &standing {
        Some(standing) => {
            let there = standing.inside(&program)?;
            if let Err(why) = standing.find_program(&[there.clone().into()])? {
                bail!("{why}: set TMPDIR to a directory of its storage component");
            }
            there
        }
        None => program.clone(),
    };
    let mut runner = Runner::without_input(args.timeout)?;
    let ways = ways(args, cache, [&program, &there], swap);
    // An emulated network takes longer than any TCP: there is nothing to compare.
    let bare = matches!(args.fabric, Fabric::Tcp) && args.emulate.is_none();
    let bare = bare.then(|| Bare::start(place.path())).transpose()?;
    let done = rounds::run(&ways, args.runs, bare.as_ref(), &mut runner, place.path())?;
    let Sitting { runs, pings } = match done {
        Ok(sitting) => sitting,
        Err(signal) => return Ok(Ending::Signal(signal)),
    };
    if let Some(mut csv) = csv {
        let path = args.csv.as_deref().unwrap_or(Path::new("")).display();
        let written = csv.write_all(show::csv(&runs).as_bytes());
        written.with_context(|| format!("--csv: cannot write {path}"))?;
    }
    if args.json {
        let all = json!({
            "footprint_bytes": args.footprint,
            "cache_bytes": cache,
            "swap": swap_is,
            "comparison": compare::compared(&runs, Name::Swap),
            "bare_tcp": pings,
            "runs": runs,
        });
        show(&format!("{all:#}\n"))?;
    } else {
        show(&show::text(&runs, swap_is.as_deref()))?;
        show(&wire::text(&runs, &pings))?;
    }
    Ok(Ending::Exit(0))
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("--csv: cannot write {}", path.display()))
}

/// Its size, bytes: refused here as `testbed run` would, but before anything
/// takes its time.
fn cache(args: &BenchCacheArgs, usual: &CacheConfig) -> Result<u64> {
    let given = &args.cache;
    let size = match given.cache {
        None => CACHE,
        Some(CacheSize::Bytes(size)) => size,
        Some(CacheSize::Percent(percent)) => {
            let shape = CacheConfig {
                line: given.line.unwrap_or(usual.line),
                ways: given.ways.or(usual.ways),
                ..usual.clone()
            };
            shape::share(percent, args.footprint, &shape)
        }
    };
    let all = CacheArgs {
        cache: Some(CacheSize::Bytes(size)),
        ..given.clone()
    };
    let config = shape::config(&all, usual).map_err(anyhow::Error::msg)?;
    Ok(config.size)
}

fn names<T: ValueEnum>(values: &[T]) -> String {
    let names = values.iter().filter_map(ValueEnum::to_possible_value);
    names
        .map(|value| value.get_name().to_owned())
        .collect::<Vec<_>>()
        .join(",")
}

/// What the program is told.
fn walk(args: &BenchCacheArgs, cache: u64) -> Vec<OsString> {
    let threads: Vec<String> = args.threads.iter().map(u16::to_string).collect();
    let warmup = args.warmup.unwrap_or(cache / PAGE);
    let mut all = vec![
        ("--footprint", args.footprint.to_string()),
        ("--patterns", names(&args.patterns)),
        ("--mix", names(&args.mix)),
        ("--threads", threads.join(",")),
        ("--warmup", warmup.to_string()),
        ("--stride", args.stride.to_string()),
        ("--theta", args.theta.to_string()),
        ("--seed", args.seed.to_string()),
    ];
    all.extend(args.accesses.map(|n| ("--accesses", n.to_string())));
    all.extend(args.time.map(|t| ("--time", t.as_secs_f64().to_string())));
    all.into_iter()
        .flat_map(|(option, value)| [option.into(), value.into()])
        .collect()
}

/// What each round consists of.
/// The program is at one path here, and at another on the testbed.
fn ways(
    args: &BenchCacheArgs,
    cache: u64,
    [here, there]: [&Path; 2],
    swap: Option<Swap>,
) -> Vec<Way> {
    let command = |program: &Path| [vec![program.into()], walk(args, cache)].concat();
    let natively = || command(here);
    let mut ways = vec![Way::Testbed(on_testbed(args, cache, command(there)))];
    if args.native {
        ways.push(Way::Native(natively()));
    }
    ways.extend(swap.map(|swap| Way::Swap(swap, cache, natively())));
    ways
}

/// Bytes of the memory component, and of swap: a quarter more than the
/// footprint, the program's own, and what it needs to fill it.
fn memory(args: &BenchCacheArgs) -> u64 {
    (args.footprint / 4 * 5 + (256 << 20)).max(4 << 30)
}

/// The same as a person would do it: `testbed run --cache .. -- cachewalk ..`.
fn on_testbed(args: &BenchCacheArgs, cache: u64, program: Vec<OsString>) -> Vec<OsString> {
    let given = &args.cache;
    let mut options = match &args.on {
        Some(name) => vec![("--on", Some(name.clone()))],
        None => vec![
            ("--fabric", Some(args.fabric.name().to_owned())),
            ("--memory", Some(memory(args).to_string())),
            ("--emulate", args.emulate.as_ref().map(|e| e.text.clone())),
        ],
    };
    options.extend([
        ("--cache", Some(cache.to_string())),
        ("--line", given.line.map(|n| n.to_string())),
        ("--ways", given.ways.map(|n| n.to_string())),
        ("--policy", given.policy.map(|policy| names(&[policy]))),
        ("--prefetch", given.prefetch.map(|n| n.to_string())),
        (
            "--run-ahead",
            given.run_ahead.map(|on| switch(on).to_owned()),
        ),
    ]);
    let mut command: Vec<OsString> = vec!["/proc/self/exe".into(), "run".into()];
    for (option, value) in options {
        if let Some(value) = value {
            command.extend([option.into(), value.into()]);
        }
    }
    command.push("--".into());
    command.extend(program);
    command
}
