//! What a machine's serial console says of its way up.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Begins the lines that are meant for testbed; see init.sh.
const PREFIX: &str = "splitkernel-vm: ";
/// Longest line that is kept, bytes: a console may print without newlines.
const LONGEST_LINE: usize = 4096;

/// How far a machine has come.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) enum Stage {
    /// QEMU runs; the kernel has not yet reached our init.
    #[default]
    Booting,
    /// Loads kernel modules.
    Modules,
    /// Brings its network device up.
    Network,
    /// Makes its soft-RoCE device.
    Rxe,
    /// Mounts the host's directories.
    Files,
    /// Its agent listens.
    Ready,
    /// It won't come up: why.
    Failed(String),
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Booting => write!(f, "booting"),
            Stage::Modules => write!(f, "loading modules"),
            Stage::Network => write!(f, "network"),
            Stage::Rxe => write!(f, "soft-RoCE"),
            Stage::Files => write!(f, "files"),
            Stage::Ready => write!(f, "ready"),
            Stage::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

/// Reads a console as it grows.
#[derive(Default)]
pub(super) struct Progress {
    line: Vec<u8>,
    stage: Stage,
}

impl Progress {
    pub(super) fn stage(&self) -> &Stage {
        &self.stage
    }

    /// More bytes of the console. True if the stage has changed.
    pub(super) fn handle_bytes(&mut self, bytes: &[u8]) -> bool {
        let before = self.stage.clone();
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.handle_line(String::from_utf8_lossy(&line).trim());
            } else if self.line.len() < LONGEST_LINE {
                self.line.push(*byte);
            }
        }
        self.stage != before
    }

    fn handle_line(&mut self, line: &str) {
        // A kernel message may stand before it on the same line.
        let said = line.find(PREFIX).map(|at| &line[at + PREFIX.len()..]);
        let stage = match said {
            Some("modules") => Stage::Modules,
            Some("network") => Stage::Network,
            Some("rxe") => Stage::Rxe,
            Some("files") => Stage::Files,
            Some("ready") => Stage::Ready,
            Some(other) => match other.strip_prefix("failed: ") {
                Some(why) => Stage::Failed(why.to_owned()),
                None => return,
            },
            None => match line.find("Kernel panic") {
                Some(at) => Stage::Failed(line[at..].to_owned()),
                None => return,
            },
        };
        // The first failure is the cause of the others.
        if !matches!(self.stage, Stage::Failed(_)) {
            self.stage = stage;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_heard_in_pieces_and_among_other_lines() {
        let mut progress = Progress::default();
        assert!(!progress.handle_bytes(b"[    0.0] Linux version\r\nsplitkernel-vm: mod"));
        assert_eq!(*progress.stage(), Stage::Booting);
        assert!(progress.handle_bytes(b"ules\r\n"));
        assert_eq!(*progress.stage(), Stage::Modules);
        assert!(progress.handle_bytes(b"[ 1.0] noise splitkernel-vm: ready\n"));
        assert_eq!(*progress.stage(), Stage::Ready);
        assert!(!progress.handle_bytes(b"splitkernel-vm: something new\n"));
    }

    #[test]
    fn failures_are_quoted_and_last() {
        let mut progress = Progress::default();
        progress.handle_bytes(b"splitkernel-vm: failed: rxe: no module\n");
        progress.handle_bytes(b"splitkernel-vm: ready\n");
        assert_eq!(
            *progress.stage(),
            Stage::Failed("rxe: no module".to_owned())
        );
        let mut progress = Progress::default();
        progress.handle_bytes(b"[ 2.0] Kernel panic - not syncing: x\r\n");
        assert_eq!(
            *progress.stage(),
            Stage::Failed("Kernel panic - not syncing: x".to_owned())
        );
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut progress = Progress::default();
        for _ in 0..100 {
            progress.handle_bytes(&[b'x'; 1000]);
        }
        assert!(progress.line.len() <= LONGEST_LINE);
    }
}
