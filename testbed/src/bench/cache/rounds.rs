//! The runs, in turn: what else the machine does meets all alike.

use super::figures::{Name, Run};
use super::wire::{Bare, Pings};
use crate::out::{show_error, warn};
use crate::runner::{Ran, Runner, Waited};
use crate::sweep::swap::Swap;
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

/// How often a baseline is tried.
const ATTEMPTS: u32 = 3;

/// What is run in each round.
pub(super) enum Way {
    /// As a person would do it: `testbed run .. -- PROGRAM ..`.
    Testbed(Vec<OsString>),
    Native(Vec<OsString>),
    /// Natively, with so many bytes of memory.
    Swap(Swap, u64, Vec<OsString>),
}

impl Way {
    fn name(&self) -> Name {
        match self {
            Way::Testbed(_) => Name::Testbed,
            Way::Native(_) => Name::Native,
            Way::Swap(..) => Name::Swap,
        }
    }
}

/// What came of all rounds.
#[derive(Default)]
pub(super) struct Sitting {
    pub(super) runs: Vec<Run>,
    /// A bare ping-pong in each round, where it was asked for.
    pub(super) pings: Vec<Pings>,
}

/// All rounds, or the signal that ended them. `place` is a directory that goes
/// with the programs should we be killed.
pub(super) fn run(
    ways: &[Way],
    rounds: u32,
    bare: Option<&Bare>,
    runner: &mut Runner,
    place: &Path,
) -> Result<Result<Sitting, i32>> {
    let mut sitting = Sitting::default();
    for round in 1..=rounds {
        for way in ways {
            let of = match rounds {
                1 => String::new(),
                _ => format!(", round {round} of {rounds}"),
            };
            show_error(&format!("bench cache: measuring ({}{of})\n", way.name()));
            match once(way, round, runner, place)? {
                Ok(run) => sitting.runs.extend(run),
                Err(signal) => return Ok(Err(signal)),
            }
        }
        if let Some(bare) = bare {
            sitting.pings.push(bare.measure(round)?);
        }
    }
    Ok(Ok(sitting))
}

/// One run; `None` of a baseline that did not come off.
fn once(
    way: &Way,
    round: u32,
    runner: &mut Runner,
    place: &Path,
) -> Result<Result<Option<Run>, i32>> {
    let command = match way {
        Way::Testbed(command) | Way::Native(command) => command,
        Way::Swap(swap, limit, program) => {
            return swapped(swap, *limit, program, round, runner, place);
        }
    };
    let (name, arguments) = command.split_first().context("an empty command")?;
    let mut command = Command::new(name);
    match runner.run(command.args(arguments), place)? {
        Waited::Interrupted(signal) => Ok(Err(signal)),
        Waited::Ran(ran) => read(way.name(), round, &ran).map(|run| Ok(Some(run))),
    }
}

/// A run with little memory. One that the kernel killed is tried again; where
/// it always kills, there is no baseline.
fn swapped(
    swap: &Swap,
    limit: u64,
    program: &[OsString],
    round: u32,
    runner: &mut Runner,
    place: &Path,
) -> Result<Result<Option<Run>, i32>> {
    for _ in 0..ATTEMPTS {
        let swapped = match swap.run(program, limit, runner, place)? {
            Ok(swapped) => swapped,
            Err(signal) => return Ok(Err(signal)),
        };
        if swapped.kills == 0 {
            let mut run = read(Name::Swap, round, &swapped.ran)?;
            run.swap_peak_bytes = Some(swapped.peak);
            return Ok(Ok(Some(run)));
        }
    }
    warn(&format!(
        "no baseline in round {round}: the kernel killed it {ATTEMPTS} times for want of memory"
    ));
    Ok(Ok(None))
}

/// What a run printed.
fn read(name: Name, round: u32, ran: &Ran) -> Result<Run> {
    if ran.late {
        bail!("cachewalk ({name}) did not end within --timeout: measure less, or give more");
    }
    if ran.paused {
        bail!("cachewalk ({name}) was stopped meanwhile: its times say nothing");
    }
    if !ran.status.success() {
        bail!("cachewalk failed ({name}): {}", ran.story());
    }
    let said = serde_json::from_slice(&ran.stdout).context("what cachewalk printed")?;
    Run::of(name, round, &said)
}
