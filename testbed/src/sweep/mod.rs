//! `testbed sweep`: slowdown against the size of the cache.

mod args;
mod beds;
mod combine;
mod compare;
mod csv;
pub(crate) mod figures;
mod machine;
mod page;
mod progress;
mod record;
mod rounds;
pub(crate) mod swap;

pub(crate) use args::{Baseline, SwapOn, SweepArgs};

use crate::ending::Ending;
use crate::out::{show, warn};
use crate::plan::Fabric;
use crate::program::{Found, Search, Unrunnable};
use crate::runner::Runner;
use crate::standing::Standing;
use anyhow::{Context, Result, bail};
use combine::Series;
use record::Sweep;
use rounds::{Lab, Stopped};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use swap::Swap;

/// Status where a run was wrong.
const WRONG: i32 = 1;

/// Runs it.
pub(crate) fn run(args: &SweepArgs) -> Result<Ending> {
    let standing = args.on.as_deref().map(Standing::find).transpose()?;
    let series = combine::series(args, standing.as_ref()).map_err(anyhow::Error::msg)?;
    // What can be known to be impossible is said before anything is run.
    for size in &args.cache.0 {
        if let crate::shape::CacheSize::Bytes(_) = size {
            for series in &series {
                series.cache_bytes(*size, 0).map_err(anyhow::Error::msg)?;
            }
        }
    }
    if standing.is_none() {
        crate::doctor::refuse_unless_able()?;
    }
    if let Err(Unrunnable { status, message }) = find(args, standing.as_ref())? {
        warn(&message);
        return Ok(Ending::Exit(status));
    }
    let memory = standing.as_ref().map_or(args.memory, |it| it.memory);
    let files = Files::new(&args.out)?;
    let mut runner = Runner::new(args.timeout)?;
    let swap = match args.baseline {
        Some(Baseline::Swap) => {
            let files = swap::named(&args.program);
            Some(Swap::prepare(args.swap, memory, files)?)
        }
        None => None,
    };
    // Its hosts may be others.
    let calibration = match &standing {
        Some(_) => Ok(Vec::new()),
        None => calibrate(&series, &mut runner)?,
    };
    let mut lab = match calibration {
        Ok(calibration) => {
            let sweep = Sweep {
                command: command_line(),
                version: env!("CARGO_PKG_VERSION"),
                begun_unix_s: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs()),
                complete: false,
                machine: machine::this(),
                program: args
                    .program
                    .iter()
                    .map(|arg| arg.display().to_string())
                    .collect(),
                rounds: args.runs,
                masks: args.mask.iter().map(ToString::to_string).collect(),
                sort_lines: args.sort_lines,
                memory_bytes: memory,
                footprint_bytes: 0,
                swap: swap.as_ref().map(Swap::description),
                series,
                calibration,
                points: Vec::new(),
                summaries: Vec::new(),
                runs: Vec::new(),
            };
            Lab::new(args, runner, swap, sweep)?
        }
        Err(signal) => return Ok(Ending::Signal(signal)),
    };
    let stopped = lab.run(&files);
    // Before anything that takes its time.
    let ended = finish(lab.sweep(), &files, stopped);
    lab.end();
    ended
}

/// Looks for the program here, where it runs natively, and on a testbed that is
/// up.
fn find(args: &SweepArgs, standing: Option<&Standing>) -> Result<Result<Found, Unrunnable>> {
    let root = Path::new("/");
    let here = Search::new(root, root, &args.program).run();
    match (standing, here) {
        (None, here) => Ok(here),
        (Some(standing), Ok(_)) => standing.find_program(&args.program),
        (Some(_), Err(Unrunnable { status, message })) => Ok(Err(Unrunnable {
            status,
            message: format!("{message}; it runs natively as well, so this machine must have it"),
        })),
    }
}

/// Measures each emulated network once on each fabric it is used on, or gives
/// the signal that stopped it. RDMA is not measured.
fn calibrate(
    series: &[Series],
    runner: &mut Runner,
) -> Result<Result<Vec<crate::bench::Added>, i32>> {
    let mut all = Vec::new();
    let mut done = Vec::new();
    for series in series {
        let backend = match series.fabric {
            Fabric::Auto | Fabric::Shm => "shm",
            Fabric::Tcp => "tcp",
            Fabric::Verbs => continue,
        };
        let Some(spec) = &series.emulate else {
            continue;
        };
        if done.contains(&(backend, spec)) {
            continue;
        }
        done.push((backend, spec));
        progress::say(&format!("calibrating {spec} on {backend}"));
        let network = spec.parse().map_err(anyhow::Error::msg)?;
        let mut stopped = None;
        let mut go_on = || {
            stopped = runner.interrupted();
            stopped.map_or(Ok(()), |_| bail!("told to end"))
        };
        let added = crate::bench::added(backend, &network, &mut go_on);
        if let Some(signal) = stopped {
            return Ok(Err(signal));
        }
        all.extend(added?);
    }
    Ok(Ok(all))
}

/// Says what came out, where it is, and what was wrong.
fn finish(sweep: &Sweep, files: &Files, stopped: Result<(), Stopped>) -> Result<Ending> {
    match &stopped {
        Err(Stopped::Failed(why)) if sweep.runs.is_empty() => bail!("{why:#}"),
        Err(Stopped::Signal(signal)) if sweep.runs.is_empty() => {
            return Ok(Ending::Signal(*signal));
        }
        _ => files.write(sweep)?,
    }
    show(&format!("{}\n{}\n", progress::table(sweep), files.names()))?;
    for what in sweep.without_baseline() {
        warn(&format!("no baseline: {what}"));
    }
    let wrong = sweep.wrong();
    for what in &wrong {
        warn(&format!("wrong: {what}"));
    }
    match stopped {
        Err(Stopped::Failed(why)) => Err(why),
        Err(Stopped::Signal(signal)) => {
            warn("stopped before its end; the files have what there was");
            Ok(Ending::Signal(signal))
        }
        Ok(()) if wrong.is_empty() => Ok(Ending::Exit(0)),
        Ok(()) => Ok(Ending::Exit(WRONG)),
    }
}

/// Where results are written.
struct Files {
    directory: PathBuf,
}

impl Files {
    const NAMES: [&'static str; 3] = ["sweep.json", "sweep.csv", "sweep.html"];

    /// In a directory that has none yet: figures that took hours are not
    /// overwritten.
    fn new(directory: &Path) -> Result<Files> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("--out: cannot make {}", directory.display()))?;
        let there = Files::NAMES.into_iter().map(|name| directory.join(name));
        if let Some(path) = there.into_iter().find(|path| path.exists()) {
            bail!(
                "--out: {} exists: give another directory, or remove it",
                path.display()
            );
        }
        // A directory that can't be written costs no run.
        drop(
            tempfile::tempfile_in(directory)
                .with_context(|| format!("--out: cannot write in {}", directory.display()))?,
        );
        Ok(Files {
            directory: directory.to_owned(),
        })
    }

    /// All of them, each whole or not at all.
    fn write(&self, sweep: &Sweep) -> Result<()> {
        let json = serde_json::to_string_pretty(sweep)? + "\n";
        for (name, text) in
            Files::NAMES
                .into_iter()
                .zip([json, csv::text(sweep), page::html(sweep)])
        {
            let path = self.directory.join(name);
            let new = self.directory.join(format!(".{name}.new"));
            std::fs::write(&new, text)
                .and_then(|()| std::fs::rename(&new, &path))
                .with_context(|| format!("--out: cannot write {}", path.display()))?;
        }
        Ok(())
    }

    fn names(&self) -> String {
        let names = Files::NAMES.map(|name| self.directory.join(name).display().to_string());
        format!("written: {}", names.join(", "))
    }
}

/// As a shell would take it.
fn command_line() -> String {
    let mut words: Vec<String> = std::env::args_os()
        .map(|word| quoted(&word.to_string_lossy()))
        .collect();
    if let Some(first) = words.first_mut() {
        // Wherever it lies.
        "testbed".clone_into(first);
    }
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=%:+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
fn args_of(arguments: &[&str]) -> SweepArgs {
    use clap::Parser;
    let all = [&["testbed", "sweep"], arguments, &["--", "true"]].concat();
    match crate::cli::Cli::parse_from(all).command {
        crate::cli::Command::Sweep(args) => *args,
        other => unreachable!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_quoted_for_a_shell() {
        assert_eq!(quoted("--cache=10,25%"), "--cache=10,25%");
        assert_eq!(quoted("it's $x"), "'it'\\''s $x'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn results_are_not_overwritten() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("new/out");
        let files = Files::new(&directory).unwrap();
        files.write(&record::tests::example()).unwrap();
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 3);
        let said = Files::new(&directory).err().unwrap().to_string();
        assert!(said.contains("--out") && said.contains("exists"), "{said}");
    }
}
