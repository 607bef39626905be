//! Messages on a processor component's control socket: how `testbed` starts a
//! program and hears of its end. The socket is local (Unix, stream); frames
//! are a little-endian u32 length and the encoded message, and the program's
//! standard descriptors 0, 1, 2 travel beside [`ControlRequest::Spawn`] as
//! `SCM_RIGHTS`. A fourth, if there is one, takes the trace of its misses
//! ([`crate::trace`]).

use crate::ProcessId;
use crate::stats::ProgramCounters;
use serde::{Deserialize, Serialize};

/// Which line goes when a set is full.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Policy {
    /// Oldest first.
    Fifo,
    /// Any.
    Random,
    /// Oldest first, but a line that was missed again soon after it was
    /// evicted is kept for another round.
    Reuse,
    /// Oldest first, but where the program goes round through more than the
    /// cache holds, most lines stay and the others pass through a few ways.
    #[default]
    Adaptive,
}

/// Shape of an ExCache.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CacheConfig {
    /// Bytes in all.
    pub size: u64,
    /// Bytes in a line: a power of two from 4 KiB to 2 MiB.
    pub line: u64,
    /// Lines in a set; where nothing is said, [`CacheConfig::set_lines`] decides.
    pub ways: Option<u32>,
    /// Replacement.
    pub policy: Policy,
    /// Most lines fetched ahead by one miss; 0 turns prefetch off.
    pub prefetch: u32,
    /// Whether a miss follows the program to find some of them.
    pub run_ahead: bool,
}

impl Default for CacheConfig {
    fn default() -> Self {
        CacheConfig {
            size: 256 << 20,
            line: 4096,
            ways: None,
            policy: Policy::default(),
            prefetch: 16,
            run_ahead: true,
        }
    }
}

/// Lines in a set, about, where nothing is said. More make the misses fewer: what
/// is evicted ahead of need leaves its sets partly empty, the smaller they are the
/// more so.
const USUAL_SET: u64 = 512;
/// A set has one lock: a cache that has less than that many usual sets has this
/// many smaller ones,
const FEWEST_SETS: u64 = 16;
/// down to sets of so many lines.
const SMALL_SET: u64 = 64;

impl CacheConfig {
    /// Lines in a set: as configured, or so many that hardly a line is left over.
    #[must_use]
    pub fn set_lines(&self) -> u32 {
        let lines = self.size / self.line.max(1);
        let about = (lines / FEWEST_SETS).clamp(SMALL_SET, USUAL_SET);
        let usual = lines / (lines / about).max(1);
        self.ways
            .unwrap_or_else(|| u32::try_from(usual).unwrap_or(u32::MAX))
    }
}

/// A program to start.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Spawn {
    /// Path of the image, inside the storage component's root.
    pub program: Vec<u8>,
    /// Arguments, the name first.
    pub argv: Vec<Vec<u8>>,
    /// Environment, `NAME=value`.
    pub envp: Vec<Vec<u8>>,
    /// Working directory, absolute, inside the storage component's root.
    pub cwd: Vec<u8>,
    /// File-creation mask.
    pub umask: u32,
    /// Its cache.
    pub cache: CacheConfig,
    /// Whether sites of its system calls may be rewritten where they lie.
    pub rewrite: bool,
}

/// From `testbed` to a processor component.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ControlRequest {
    /// Starts a program; one per connection. Closing the connection ends it.
    Spawn(Spawn),
    /// Sends it a signal.
    Signal(i32),
    /// In place of [`ControlRequest::Spawn`]: the counters of all programs that
    /// run here, answered by one [`ControlReply::Counters`]. No descriptors.
    Counters,
}

/// From a processor component to `testbed`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum ControlReply {
    /// It runs.
    Started {
        /// Its identity.
        process: ProcessId,
        /// Its host process.
        pid: i32,
    },
    /// It could not be started: what and why, for people.
    Failed {
        /// The message.
        message: String,
        /// Exit status to use: 126 not executable, 127 not found, 125 else.
        status: i32,
    },
    /// It ended.
    Ended {
        /// How.
        end: End,
        /// Its statistics as JSON, where it could still give them.
        stats: Option<String>,
        /// Where the system, not the program, ended it: what and why.
        message: Option<String>,
    },
    /// To Counters. A program that does not answer in time, such as a stopped
    /// one, is left out.
    Counters(Vec<ProgramCounters>),
}

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum End {
    /// exit(2) with this status.
    Exit(i32),
    /// Killed by this signal.
    Signal(i32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_sets_leave_hardly_a_line_over() {
        let usual = [(32, 32), (100, 100), (256, 64), (4096, 256), (16_128, 520)];
        for (lines, expected) in usual {
            let mut config = CacheConfig {
                size: lines * 4096,
                ..CacheConfig::default()
            };
            assert_eq!(config.set_lines(), expected);
            config.ways = Some(64);
            assert_eq!(config.set_lines(), 64);
        }
        for lines in (64..100_000u64).step_by(77) {
            let config = CacheConfig {
                size: lines * 4096,
                ..CacheConfig::default()
            };
            let set = u64::from(config.set_lines());
            assert!((64..1024).contains(&set) && lines % set < lines / set.min(512));
        }
    }
}
