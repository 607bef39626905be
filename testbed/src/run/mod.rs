//! `testbed run`.

mod input;
mod session;
mod traced;
mod watch;

use crate::cli::RunArgs;
use crate::cluster::{Cluster, StartError};
use crate::control::Control;
use crate::ending::{Ending, SYSTEM_FAILED};
use crate::out::{show_error, warn};
use crate::plan::Plan;
use crate::program::{Root, Search, Unrunnable};
use crate::shape::CacheSize;
use crate::signals::Signals;
use crate::standing::{Standing, StandingWatch};
use crate::{places, report, shape, stats};
use anyhow::{Context, Result};
pub(crate) use input::Input;
use proto::process::{CacheConfig, Spawn};
use rustix::fd::AsFd;
use serde_json::Value;
use session::Outcome;
pub(crate) use session::Watch;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use traced::TraceFile;
use watch::ClusterWatch;

/// Runs a program as the arguments say, and tells how to end.
pub(crate) fn run(args: &RunArgs) -> Result<Ending> {
    let report = Reporter::new(args)?;
    let trace = args.trace.as_deref().map(TraceFile::create).transpose()?;
    let trace = trace.as_ref();
    let ended = match &args.on {
        Some(name) => run_on(name, args, trace, report),
        None => run_alone(args, trace, report),
    };
    ended.or_else(|why| match why.downcast::<Unrunnable>() {
        Ok(Unrunnable { status, message }) => {
            warn(&message);
            Ok(Ending::Exit(status))
        }
        Err(why) => Err(why),
    })
}

impl std::fmt::Display for Unrunnable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Unrunnable {}

/// On a testbed of its own.
fn run_alone(args: &RunArgs, trace: Option<&TraceFile>, report: Reporter) -> Result<Ending> {
    crate::doctor::refuse_unless_able()?;
    let defaults = CacheConfig::default();
    let cache = shape::config(&args.cache, &defaults).map_err(anyhow::Error::msg)?;
    let root = Root::new(&args.root)?;
    let found = Search::new(root.path(), root.path(), &args.program).run()?;
    let spawn = found.spawn(args, cache);
    let mut signals = Signals::catch().context("cannot catch signals")?;
    let plan = Plan::for_run(args, root.path().to_owned());
    let directory = places::run_directory("run")?;
    let mut cluster = match Cluster::start(plan, "run", directory, None, &mut signals) {
        Ok(cluster) => cluster,
        Err(StartError::Signal(signal)) => return Ok(Ending::Signal(signal)),
        Err(StartError::Failed(why)) => return Err(why.context("the testbed did not come up")),
    };
    let place = Place {
        control: cluster.control("p0"),
        memory: cluster.plan().memory_bytes(),
        percent: percent(args),
        trace,
    };
    let outcome = place.run(spawn, &mut signals, &mut ClusterWatch::new(&mut cluster))?;
    let operator = cluster.operator();
    let ending = report.tell(outcome, || stats::components(&operator));
    cluster.stop();
    ending
}

/// On a testbed that is up.
fn run_on(
    name: &str,
    args: &RunArgs,
    trace: Option<&TraceFile>,
    report: Reporter,
) -> Result<Ending> {
    let standing = Standing::find(name)?;
    let cache = shape::config(&args.cache, &standing.cache).map_err(anyhow::Error::msg)?;
    let found = standing.find_program(&args.program)??;
    let spawn = found.spawn(args, cache);
    let mut signals = Signals::catch().context("cannot catch signals")?;
    let place = Place {
        control: standing.place_process()?,
        memory: standing.memory,
        percent: percent(args),
        trace,
    };
    let mut watch = StandingWatch::new(&standing);
    let outcome = place.run(spawn, &mut signals, &mut watch)?;
    report.tell(outcome, || standing.components())
}

fn percent(args: &RunArgs) -> Option<f64> {
    match args.cache.cache {
        Some(CacheSize::Percent(percent)) => Some(percent),
        _ => None,
    }
}

/// Where a program is started.
struct Place<'a> {
    control: PathBuf,
    /// Bytes of all memory components.
    memory: u64,
    /// The share that its cache is to be.
    percent: Option<f64>,
    /// What takes the trace of its misses.
    trace: Option<&'a TraceFile>,
}

impl Place<'_> {
    /// Runs it, for a share of the footprint after a run that measures it.
    fn run(
        &self,
        mut spawn: Spawn,
        signals: &mut Signals,
        watch: &mut dyn Watch,
    ) -> Result<Outcome> {
        let input = match self.percent {
            Some(percent) => {
                let input = Input::kept()?;
                let mut first = spawn.clone();
                first.cache.size = shape::full(self.memory, &spawn.cache);
                match self.measure(first, &input, signals, watch)? {
                    Ok(footprint) => {
                        spawn.cache.size = shape::share(percent, footprint, &spawn.cache);
                    }
                    Err(outcome) => return Ok(outcome),
                }
                input
            }
            None => Input::own(),
        };
        let stdio = [
            input.again()?,
            rustix::stdio::stdout(),
            rustix::stdio::stderr(),
        ];
        let outcome = self.one(spawn, stdio, self.trace, signals, watch)?;
        if let Some(trace) = self.trace
            && !matches!(outcome, Outcome::Refused { .. })
        {
            trace.account(outcome.stats());
        }
        Ok(outcome)
    }

    /// Its peak footprint, in bytes; or its end, where that is no end to learn
    /// from.
    fn measure(
        &self,
        spawn: Spawn,
        input: &Input,
        signals: &mut Signals,
        watch: &mut dyn Watch,
    ) -> Result<Result<u64, Outcome>> {
        let nowhere = File::options()
            .write(true)
            .open("/dev/null")
            .context("/dev/null")?;
        let stdio = [input.for_measuring()?, nowhere.as_fd(), nowhere.as_fd()];
        let outcome = self.one(spawn, stdio, None, signals, watch)?;
        let footprint = match &outcome {
            Outcome::Ended {
                end: proto::process::End::Exit(_),
                stats,
            } => stats
                .as_ref()
                .and_then(|stats| stats["peak_footprint_bytes"].as_u64()),
            _ => return Ok(Err(outcome)),
        };
        footprint.map(Ok).context(
            "the first run did not tell its footprint, of which --cache is to be a share: \
             give a size instead",
        )
    }

    fn one(
        &self,
        spawn: Spawn,
        stdio: [rustix::fd::BorrowedFd<'_>; 3],
        trace: Option<&TraceFile>,
        signals: &mut Signals,
        watch: &mut dyn Watch,
    ) -> Result<Outcome> {
        let mut control = Control::connect(&self.control)?;
        control.spawn(spawn, stdio, trace.map(TraceFile::descriptor))?;
        session::follow(control, signals, watch)
    }
}

/// What becomes of a run's end: messages, statistics.
struct Reporter {
    program: String,
    stats: Option<(PathBuf, File)>,
    report: bool,
}

impl Reporter {
    /// Opens the file before the program runs: a wrong path costs no run.
    fn new(args: &RunArgs) -> Result<Reporter> {
        let open = |path: &PathBuf| {
            let file = File::create(path)
                .with_context(|| format!("--stats: cannot write {}", path.display()))?;
            anyhow::Ok((path.clone(), file))
        };
        let program = args
            .program
            .first()
            .map(|name| name.to_string_lossy().into_owned());
        Ok(Reporter {
            program: program.unwrap_or_default(),
            stats: args.stats.as_ref().map(open).transpose()?,
            report: args.report,
        })
    }

    fn tell(mut self, outcome: Outcome, components: impl FnOnce() -> Value) -> Result<Ending> {
        let (ending, process) = match outcome {
            Outcome::Ended { end, stats } => (end.into(), stats),
            Outcome::Refused { status, message } => {
                warn(&message);
                (Ending::Exit(status), None)
            }
            Outcome::Failed { message, stats } => {
                warn(&message);
                (Ending::Exit(SYSTEM_FAILED), stats)
            }
        };
        if self.stats.is_some() || self.report {
            let all = serde_json::json!({
                "program": self.program,
                "process": process,
                "components": components(),
            });
            self.write(&all)?;
            if self.report {
                show_error(&report::text(&all));
            }
        }
        Ok(ending)
    }

    fn write(&mut self, all: &Value) -> Result<()> {
        let Some((path, file)) = &mut self.stats else {
            return Ok(());
        };
        let text = format!("{all:#}\n");
        let written = file.write_all(text.as_bytes());
        written.with_context(|| format!("--stats: cannot write {}", path.display()))
    }
}
