//! The runs themselves, in turn: what else the machine does meets all alike.

use super::args::SweepArgs;
use super::beds::Beds;
use super::combine::shown;
use super::compare::{Masks, difference};
use super::figures::count;
use super::record::{Kind, Point, Run, Sweep};
use super::swap::Swap;
use super::{Files, progress};
use crate::runner::{Ran, Runner, Waited};
use crate::shape::{self, CacheSize};
use anyhow::{Context, Result};
use serde_json::Value;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

/// How often a baseline is tried.
const ATTEMPTS: u32 = 3;

/// Why it ended early.
pub(super) enum Stopped {
    Signal(i32),
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Stopped {
    fn from(why: anyhow::Error) -> Stopped {
        Stopped::Failed(why)
    }
}

/// How the first native run came out.
struct Reference {
    status: ExitStatus,
    output: Vec<u8>,
}

/// Everything that a run needs.
pub(super) struct Lab {
    runner: Runner,
    swap: Option<Swap>,
    beds: Beds,
    masks: Masks,
    program: Vec<OsString>,
    caches: Vec<CacheSize>,
    reference: Option<Reference>,
    sweep: Sweep,
    place: tempfile::TempDir,
}

impl Lab {
    pub(super) fn new(
        args: &SweepArgs,
        runner: Runner,
        swap: Option<Swap>,
        sweep: Sweep,
    ) -> Result<Lab> {
        Ok(Lab {
            runner,
            swap,
            beds: Beds::new(args, sweep.memory_bytes),
            masks: Masks::new(&args.mask, args.sort_lines),
            program: args.program.clone(),
            caches: args.cache.0.clone(),
            reference: None,
            sweep,
            place: tempfile::tempdir().context("a directory for statistics")?,
        })
    }

    /// What was found out.
    pub(super) fn sweep(&self) -> &Sweep {
        &self.sweep
    }

    /// Removes what was made.
    pub(super) fn end(self) {
        self.beds.end();
    }

    /// All rounds; the files are written after each.
    pub(super) fn run(&mut self, files: &Files) -> Result<(), Stopped> {
        self.learn()?;
        self.sweep.points = self.points()?;
        for round in 1..=self.sweep.rounds {
            for point in 0..self.sweep.points.len() {
                let ran = self.point(point, round);
                if ran.is_err() {
                    self.sweep.summarize();
                }
                ran?;
            }
            self.sweep.complete = round == self.sweep.rounds;
            self.sweep.summarize();
            files.write(&self.sweep)?;
        }
        Ok(())
    }

    /// Learns what is right, natively, and the footprint, with a cache that
    /// holds everything. Neither is counted: they warm the machine up.
    fn learn(&mut self) -> Result<(), Stopped> {
        progress::say("running it natively, for its output");
        let ran = self.start(&mut native(&self.program))?;
        if ran.late {
            let late = anyhow::anyhow!("the native run did not end within --timeout");
            return Err(late.into());
        }
        self.reference = Some(Reference {
            status: ran.status,
            output: self.masks.apply(ran.stdout),
        });
        // What can't be had is said before anything takes its time.
        for series in &self.sweep.series {
            self.beds.ready(series, self.runner.signals())?;
        }
        progress::say("running it with a cache that holds everything, for its footprint");
        // Where no network is emulated, if there is such a series.
        let mut all = self.sweep.series.iter();
        let plain = all.position(|series| series.emulate.is_none()).unwrap_or(0);
        let (bed, _) = self
            .beds
            .ready(&self.sweep.series[plain], self.runner.signals())?;
        let (ran, process) = self.with_all(plain, &bed)?;
        if let Some(why) = self.failed(&ran) {
            let why = anyhow::anyhow!("with a cache that holds everything: {why}");
            return Err(why.context("the footprint can't be measured").into());
        }
        let footprint = process.map_or(0, |process| count(&process, "/peak_footprint_bytes"));
        if footprint == 0 {
            return Err(anyhow::anyhow!("the program did not tell its footprint").into());
        }
        self.sweep.footprint_bytes = footprint;
        self.beds.warmed(&self.sweep.series[plain]);
        Ok(())
    }

    /// Options for a testbed for runs of a series, on which the program has run
    /// once.
    fn warm_bed(&mut self, series: usize) -> Result<Vec<String>, Stopped> {
        let (bed, warm) = self
            .beds
            .ready(&self.sweep.series[series], self.runner.signals())?;
        if warm {
            return Ok(bed);
        }
        progress::say("running it once on a new testbed, so that files are warm");
        let (ran, _) = self.with_all(series, &bed)?;
        match self.failed(&ran) {
            Some(why) => progress::say(&format!("that run failed, so they may not be: {why}")),
            None => self.beds.warmed(&self.sweep.series[series]),
        }
        let (bed, _) = self
            .beds
            .ready(&self.sweep.series[series], self.runner.signals())?;
        Ok(bed)
    }

    /// With a cache that holds everything.
    fn with_all(&mut self, series: usize, bed: &[String]) -> Result<(Ran, Option<Value>), Stopped> {
        let config = self.sweep.series[series].config();
        let full = shape::full(self.sweep.memory_bytes, &config);
        self.on_testbed(full, bed)
    }

    /// What each round consists of.
    fn points(&self) -> Result<Vec<Point>> {
        let footprint = self.sweep.footprint_bytes;
        let share = |bytes: u64| bytes as f64 * 100.0 / footprint as f64;
        let mut points = vec![Point {
            kind: Kind::Native,
            label: "native".to_owned(),
            series: None,
            cache: None,
            cache_bytes: None,
            share_percent: None,
        }];
        let mut add = |kind, series: Option<usize>, label: &str, size, bytes| {
            points.push(Point {
                kind,
                label: format!("{label}, {}", shown(size)),
                series,
                cache: Some(shown(size)),
                cache_bytes: Some(bytes),
                share_percent: Some(share(bytes)),
            });
        };
        for (n, series) in self.sweep.series.iter().enumerate() {
            for &size in &self.caches {
                let bytes = series
                    .cache_bytes(size, footprint)
                    .map_err(anyhow::Error::msg)?;
                add(Kind::Testbed, Some(n), &series.label, size, bytes);
            }
        }
        for &size in self.caches.iter().filter(|_| self.swap.is_some()) {
            let bytes = match size {
                CacheSize::Bytes(bytes) => bytes,
                CacheSize::Percent(percent) => (footprint as f64 * percent / 100.0) as u64,
            };
            add(Kind::Swap, None, "swap", size, bytes);
        }
        Ok(points)
    }

    fn point(&mut self, point: usize, round: u32) -> Result<(), Stopped> {
        let kind = self.sweep.points[point].kind;
        let most = if kind == Kind::Swap { ATTEMPTS } else { 1 };
        for attempt in 1..=most {
            let mut run = match kind {
                Kind::Native => self.natively()?,
                Kind::Testbed => self.with_cache(point)?,
                Kind::Swap => self.with_swap(point)?,
            };
            (run.point, run.round, run.attempt) = (point, round, attempt);
            let right = run.wrong.is_none();
            self.sweep.runs.push(run);
            if let Some(run) = self.sweep.runs.last() {
                progress::tell(&self.sweep, run);
            }
            if right {
                break;
            }
        }
        Ok(())
    }

    fn natively(&mut self) -> Result<Run, Stopped> {
        let ran = self.start(&mut native(&self.program))?;
        Ok(self.recorded(&ran, Some(ran.took.as_nanos()), None))
    }

    fn with_cache(&mut self, point: usize) -> Result<Run, Stopped> {
        let point = &self.sweep.points[point];
        let bytes = point.cache_bytes.unwrap_or(0);
        let number = point.series.unwrap_or(0);
        let shape = self.sweep.series[number].options();
        let bed = self.warm_bed(number)?;
        let (ran, process) = self.on_testbed(bytes, &[bed, shape].concat())?;
        let lost = self.beds.tend(&self.sweep.series[number]);
        let wall = process
            .as_ref()
            .and_then(|process| process["wall_ns"].as_u64());
        let mut run = self.recorded(&ran, wall.map(u128::from), process);
        if run.wall_ns.is_none() && run.wrong.is_none() {
            run.wrong = Some("left no statistics".to_owned());
        }
        if let (Some(wrong), Some(lost)) = (&mut run.wrong, lost) {
            *wrong = format!("{wrong} ({lost})");
        }
        Ok(run)
    }

    fn with_swap(&mut self, point: usize) -> Result<Run, Stopped> {
        let limit = self.sweep.points[point].cache_bytes.unwrap_or(0);
        let swap = self.swap.as_ref().context("no baseline was prepared")?;
        let swapped = swap.run(&self.program, limit, &mut self.runner, self.place.path())?;
        let swapped = swapped.map_err(Stopped::Signal)?;
        let mut run = self.recorded(&swapped.ran, Some(swapped.ran.took.as_nanos()), None);
        run.swap_peak_bytes = Some(swapped.peak);
        if swapped.kills > 0 {
            run.wrong = Some("killed by the kernel for want of memory".to_owned());
        }
        Ok(run)
    }

    /// As a person would do it: `testbed run --cache .. --stats ..`.
    fn on_testbed(
        &mut self,
        cache: u64,
        options: &[String],
    ) -> Result<(Ran, Option<Value>), Stopped> {
        let stats: PathBuf = self.place.path().join("stats.json");
        let _ = std::fs::remove_file(&stats); // of the run before
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["run", "--cache", &cache.to_string()])
            .args(options)
            .arg("--stats")
            .arg(&stats)
            .arg("--")
            .args(&self.program);
        let ran = self.start(&mut command)?;
        let text = std::fs::read(&stats).unwrap_or_default();
        let all: Option<Value> = serde_json::from_slice(&text).ok();
        let process = all.map(|mut all| all["process"].take());
        Ok((ran, process.filter(Value::is_object)))
    }

    fn start(&mut self, command: &mut Command) -> Result<Ran, Stopped> {
        match self.runner.run(command, self.place.path())? {
            Waited::Ran(ran) => Ok(ran),
            Waited::Interrupted(signal) => Err(Stopped::Signal(signal)),
        }
    }

    fn recorded(&self, ran: &Ran, wall: Option<u128>, process: Option<Value>) -> Run {
        let nanoseconds = |time: u128| u64::try_from(time).unwrap_or(u64::MAX);
        Run {
            point: 0,
            round: 0,
            attempt: 0,
            elapsed_ns: nanoseconds(ran.took.as_nanos()),
            wall_ns: wall.map(nanoseconds),
            wrong: self.wrong(ran),
            swap_peak_bytes: None,
            process,
        }
    }

    /// What makes it another run than the native one.
    fn wrong(&self, ran: &Ran) -> Option<String> {
        let differs = || {
            let wanted = &self.reference.as_ref()?.output;
            difference(wanted, &self.masks.apply(ran.stdout.clone()))
        };
        self.failed(ran).or_else(differs)
    }

    /// That it ended otherwise than natively, if it did.
    fn failed(&self, ran: &Ran) -> Option<String> {
        if ran.late {
            return Some("did not end within --timeout".to_owned());
        }
        if ran.paused {
            return Some("was stopped meanwhile (Ctrl-Z): its time says nothing".to_owned());
        }
        let wanted = self.reference.as_ref()?.status;
        (ran.status != wanted).then(|| {
            let wanted = crate::component::describe(wanted);
            format!("{}; natively it {wanted}", ran.story())
        })
    }
}

fn native(program: &[OsString]) -> Command {
    let (name, arguments) = match program {
        [name, arguments @ ..] => (name.clone(), arguments),
        [] => (OsString::new(), program),
    };
    let mut command = Command::new(name);
    command.args(arguments);
    command
}
