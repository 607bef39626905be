//! How `testbed` itself ends: as the program ended.

use proto::process::End;
use rustix::process::{Resource, Rlimit, setrlimit};
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

/// A core dump would be of `testbed`, of no use to anyone. Rust's runtime
/// handles or ignores some signals, so the default action is restored first. Where the signal does not end us, the status says it as
/// shells do.
fn die_by(signal: i32) -> ! {
    let _ = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
    let _ = host::signal::set_default(signal, false);
    host::signal::set_mask(host::signal::SigSet::EMPTY);
    let _ = low_level::raise(signal);
    std::process::exit(128 + signal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    /// The dying side of the test below; nothing by itself.
    #[test]
    fn as_a_process() {
        if let Some(signal) = std::env::var("DIE_BY")
            .ok()
            .and_then(|text| text.parse().ok())
        {
            Ending::Signal(signal).end();
        }
    }

    #[test]
    fn dies_by_any_signal_that_kills() {
        // All but those that stop or are ignored: CHLD, CONT, STOP to TTOU,
        // URG, WINCH (signal(7)).
        for signal in (1..=64).filter(|n| !matches!(n, 17..=23 | 28 | 32 | 33)) {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "ending::tests::as_a_process"]);
            let output = command.env("DIE_BY", signal.to_string()).output().unwrap();
            assert_eq!(output.status.signal(), Some(signal), "{output:?}");
            assert!(!output.status.core_dumped());
        }
    }
}
