//! The baseline: the program natively with little memory and swap.
//!
//! A memory cgroup of its own holds each run to its limit. Everything made
//! (groups, a zram device) goes when this is dropped.

mod group;
mod zram;

use super::args::SwapOn;
use super::child::{Ran, Runner, Waited};
use anyhow::{Context, Result, bail};
use group::{Group, Hierarchy};
use rustix::fs::{Advice, fadvise};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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

/// Where programs are run with little memory.
pub(super) struct Swap {
    hierarchy: Hierarchy,
    zram: Option<Zram>,
    /// What the program reads, as far as its command line tells.
    files: Vec<PathBuf>,
}

/// A run with little memory.
pub(super) struct Swapped {
    pub(super) ran: Ran,
    /// Processes that the kernel killed for want of memory.
    pub(super) kills: u64,
    /// Most bytes in swap at one time, as far as readings every 2 ms show.
    pub(super) peak: u64,
}

impl Swap {
    /// Makes what is needed, or says what is missing and how to get it.
    ///
    /// `size` is the bytes of swap, where a device is made for it.
    pub(super) fn prepare(on: SwapOn, size: u64, program: &[OsString]) -> Result<Swap> {
        let hierarchy = Hierarchy::find()?;
        drop(hierarchy.group()?);
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
        let stdin = std::fs::read_link("/proc/self/fd/0").ok();
        let named = program.iter().skip(1).map(PathBuf::from).chain(stdin);
        let files = named.filter(|path| path.is_file()).collect();
        Ok(Swap {
            hierarchy,
            zram,
            files,
        })
    }

    /// What it swaps to, in words.
    pub(super) fn description(&self) -> String {
        match &self.zram {
            Some(zram) => format!("zram ({}), cgroup {}", zram.algorithm, self.hierarchy),
            None => format!("existing swap, cgroup {}", self.hierarchy),
        }
    }

    /// Runs the program with `limit` bytes of memory. `None` where a signal
    /// to us ended it.
    pub(super) fn run(
        &self,
        program: &[OsString],
        limit: u64,
        runner: &mut Runner,
        place: &Path,
    ) -> Result<Result<Swapped, i32>> {
        let group = self.hierarchy.group()?;
        group.limit(limit)?;
        self.charge_files(&group)?;
        let mut command = Command::new("sh");
        command
            .args(["-c", JOIN])
            .arg(group.members())
            .args(program);
        let done = AtomicBool::new(false);
        let (waited, peak) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_until(&done, &group));
            let waited = runner.run(&mut command, place);
            done.store(true, Ordering::Relaxed);
            (waited, reader.join().unwrap_or(0))
        });
        let kills = group.kills();
        Ok(match waited? {
            Waited::Ran(ran) => Ok(Swapped { ran, kills, peak }),
            Waited::Interrupted(signal) => Err(signal),
        })
    }

    /// Pages of files belong to whoever read them first. What the program
    /// reads is forgotten and read again by the group, as far as it fits: so it
    /// counts against the limit, and the run finds it as warm as it can be.
    fn charge_files(&self, group: &Group) -> Result<()> {
        if self.files.is_empty() {
            return Ok(());
        }
        for path in &self.files {
            let file = File::open(path).with_context(|| path.display().to_string())?;
            // Only clean pages can be forgotten; where they can't, they stay.
            let _ = file.sync_all();
            let _ = fadvise(&file, 0, None, Advice::DontNeed);
        }
        let mut command = Command::new("sh");
        command
            .args(["-c", JOIN])
            .arg(group.members())
            .args(["cat", "--"])
            .args(&self.files);
        let done = AtomicBool::new(false);
        let status = std::thread::scope(|scope| {
            scope.spawn(|| read_until(&done, group));
            let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
            done.store(true, Ordering::Relaxed);
            status
        });
        // What it could not read, the program will read itself.
        status.map(drop).context("cannot run cat")
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
