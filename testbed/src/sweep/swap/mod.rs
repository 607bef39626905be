//! The baseline: the program natively with little memory and swap.
//!
//! A memory cgroup of its own holds each run to its limit. Everything made
//! (groups, a zram device) goes when this is dropped.

mod group;
mod zram;

use super::args::SwapOn;
use crate::runner::{Ran, Runner, Waited};
use anyhow::{Context, Result, bail};
use group::{Group, Hierarchy};
use rustix::fs::{Advice, fadvise};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use zram::Zram;

/// How often the group's counters are read while a program runs. Their reading
/// flushes counters that the kernel keeps for each CPU. Without that, reclaim
/// finds nothing to do in some runs and the program is killed while swap is
/// almost empty.
const READING: Duration = Duration::from_millis(2);

/// Joins the group `$0` and becomes the command.
const JOIN: &str = "echo $$ >\"$0\" && exec \"$@\"";
/// Joins the group `$0` and reads files.
const READ: &str = "echo $$ >\"$0\" && exec cat -- \"$@\" >/dev/null";

/// Where programs are run with little memory.
pub(crate) struct Swap {
    hierarchy: Hierarchy,
    zram: Option<Zram>,
    /// What the program reads, as far as its command line tells.
    files: Vec<PathBuf>,
}

/// A run with little memory.
pub(crate) struct Swapped {
    pub(crate) ran: Ran,
    /// Processes that the kernel killed for want of memory.
    pub(crate) kills: u64,
    /// Most bytes in swap at one time, as far as readings every 2 ms show.
    pub(crate) peak: u64,
}

/// Files that a command line names, and standard input if it is one.
pub(crate) fn named(program: &[OsString]) -> Vec<PathBuf> {
    let stdin = std::fs::read_link("/proc/self/fd/0").ok();
    let named = program.iter().skip(1).map(PathBuf::from).chain(stdin);
    named.filter(|path| path.is_file()).collect()
}

impl Swap {
    /// Makes what is needed, or says what is missing and how to get it.
    ///
    /// `size` is the bytes of swap, where a device is made for it; `files` is
    /// what programs will read.
    pub(crate) fn prepare(on: SwapOn, size: u64, files: Vec<PathBuf>) -> Result<Swap> {
        let hierarchy = Hierarchy::find()?;
        // A limit that it can't have is found out now, not after an hour.
        hierarchy.group()?.limit(size)?;
        let zram = match on {
            SwapOn::Zram => Some(Zram::new(size)?),
            SwapOn::Existing => {
                let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
                if swaps.lines().count() < 2 {
                    bail!("--swap existing: no swap is on: swapon(8) one, or give --swap zram");
                }
                None
            }
        };
        Ok(Swap {
            hierarchy,
            zram,
            files,
        })
    }

    /// What it swaps to, in words.
    pub(crate) fn description(&self) -> String {
        let to = match &self.zram {
            Some(zram) => format!("zram ({})", zram.algorithm),
            None => "existing swap".to_owned(),
        };
        // Pages that one fault reads ahead: 2 to the power of it.
        let ahead = std::fs::read_to_string("/proc/sys/vm/page-cluster").unwrap_or_default();
        format!(
            "{to}, cgroup {}, page-cluster {}",
            self.hierarchy,
            ahead.trim()
        )
    }

    /// Runs the program with `limit` bytes of memory. `None` where a signal
    /// to us ended it.
    pub(crate) fn run(
        &self,
        program: &[OsString],
        limit: u64,
        runner: &mut Runner,
        place: &Path,
    ) -> Result<Result<Swapped, i32>> {
        let group = self.hierarchy.group()?;
        group.limit(limit)?;
        if let Err(signal) = self.charge_files(&group, runner, place)? {
            return Ok(Err(signal));
        }
        let mut command = Command::new("sh");
        command
            .args(["-c", JOIN])
            .arg(group.members())
            .args(program);
        let (waited, peak) = read_during(&group, || runner.run(&mut command, place));
        let kills = group.kills();
        drop(group);
        self.warm_files();
        Ok(match waited? {
            Waited::Ran(ran) => Ok(Swapped { ran, kills, peak }),
            Waited::Interrupted(signal) => Err(signal),
        })
    }

    /// Reads the files again, for ourselves: the runs that come next find them
    /// as warm as those before did.
    fn warm_files(&self) {
        for path in &self.files {
            // What can't be read is the program's business.
            let _ = File::open(path)
                .and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
        }
    }

    /// Pages of files belong to whoever read them first. What the program
    /// reads is forgotten and read again by the group, as far as it fits: so it
    /// counts against the limit, and the run finds it as warm as it can be.
    /// Gives the signal that stopped it.
    fn charge_files(
        &self,
        group: &Group,
        runner: &mut Runner,
        place: &Path,
    ) -> Result<Result<(), i32>> {
        if self.files.is_empty() {
            return Ok(Ok(()));
        }
        for path in &self.files {
            let file = File::open(path).with_context(|| path.display().to_string())?;
            // Only clean pages can be forgotten; where they can't, they stay.
            let _ = file.sync_all();
            let _ = fadvise(&file, 0, None, Advice::DontNeed);
        }
        let mut command = Command::new("sh");
        command
            .args(["-c", READ])
            .arg(group.members())
            .args(&self.files);
        let (waited, _) = read_during(group, || runner.run(&mut command, place));
        // What it could not read, the program will read itself.
        Ok(match waited? {
            Waited::Ran(_) => Ok(()),
            Waited::Interrupted(signal) => Err(signal),
        })
    }
}

/// Reads the group's counters while something runs in it: also the most bytes
/// in swap.
fn read_during<T>(group: &Group, run: impl FnOnce() -> T) -> (T, u64) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_until(&done, group));
        let end = Finished(&done);
        let ran = run();
        drop(end);
        (ran, reader.join().unwrap_or(0))
    })
}

/// Says so when it is dropped, also by a panic: nobody then waits for ever.
struct Finished<'a>(&'a AtomicBool);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Most bytes in swap.
fn read_until(done: &AtomicBool, group: &Group) -> u64 {
    let mut peak = 0;
    while !done.load(Ordering::Relaxed) {
        peak = peak.max(group.swapped());
        std::thread::sleep(READING);
    }
    peak
}
