//! How `testbed` itself ends: as the program ended.

use proto::process::End;
use rustix::process::{Resource, Rlimit, setrlimit};
use signal_hook::consts::SIGPIPE;
use signal_hook::low_level;

/// Exit status where the system, not the program, failed.
pub(crate) const SYSTEM_FAILED: i32 = 125;

/// The last thing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// exit(2) with this status.
    Exit(i32),
    /// Die by this signal, as the program did.
    Signal(i32),
}

impl From<End> for Ending {
    fn from(end: End) -> Ending {
        match end {
            End::Exit(status) => Ending::Exit(status),
            End::Signal(signal) => Ending::Signal(signal),
        }
    }
}

impl Ending {
    /// Ends the process. Everything must have been cleaned up.
    pub(crate) fn end(self) -> ! {
        match self {
            Ending::Exit(status) => std::process::exit(status),
            Ending::Signal(signal) => die_by(signal),
        }
    }
}

/// A core dump would be of `testbed`, of no use to anyone. Where the signal
/// does not end us (it is blocked), the status says it as shells do.
fn die_by(signal: i32) -> ! {
    let _ = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
    let ours = crate::signals::FORWARDED.contains(&signal) || signal == SIGPIPE;
    let _ = if ours {
        low_level::emulate_default_handler(signal)
    } else {
        low_level::raise(signal)
    };
    std::process::exit(128 + signal)
}
