//! One process from start to end: timed, its output kept, ended when time is
//! up or a person wants an end.

use crate::component::{describe, timespec};
use crate::janitor::Janitor;
use crate::run::Input;
use crate::signals::Signals;
use crate::table::printable;
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGSTOP, SIGTERM, SIGTSTP};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// How long a process that was asked to end may take before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Bytes of its messages that are told of a process.
const MOST_SAID: usize = 300;

/// What a process left.
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    /// From before its start to its end.
    pub(crate) took: Duration,
    pub(crate) stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// It was ended because its time was up.
    pub(crate) late: bool,
    /// We were stopped meanwhile (Ctrl-Z): its time says nothing.
    pub(crate) paused: bool,
}

impl Ran {
    /// How it ended, with the last it said.
    pub(crate) fn story(&self) -> String {
        let how = describe(self.status);
        let last = &self.stderr[self.stderr.len().saturating_sub(MOST_SAID)..];
        let said = String::from_utf8_lossy(last);
        let lines: Vec<&str> = said.trim().lines().collect();
        if lines.is_empty() {
            return how;
        }
        let last = lines[lines.len().saturating_sub(3)..].join("; ");
        format!("{how}: {}", printable(&last))
    }
}

/// How a wait came out.
pub(crate) enum Waited {
    Ran(Ran),
    /// A signal to us; the process has been ended.
    Interrupted(i32),
}

/// Starts processes one after the other.
pub(crate) struct Runner {
    signals: Signals,
    input: Input,
    timeout: Duration,
    /// How long we have been stopped, in all.
    paused: Duration,
}

impl Runner {
    /// Keeps our standard input, which every process gets from its beginning.
    pub(crate) fn new(timeout: Duration) -> Result<Runner> {
        // First: whoever gives no end of it can be told to stop.
        let input = Input::kept()?;
        Runner::with(input, timeout)
    }

    /// Processes get no input.
    pub(crate) fn without_input(timeout: Duration) -> Result<Runner> {
        let nothing = File::open("/dev/null").context("/dev/null")?;
        Runner::with(Input::Terminal(nothing), timeout)
    }

    fn with(input: Input, timeout: Duration) -> Result<Runner> {
        Ok(Runner {
            signals: Signals::catch().context("cannot catch signals")?,
            input,
            timeout,
            paused: Duration::ZERO,
        })
    }

    /// For others that must end when we are told to.
    pub(crate) fn signals(&mut self) -> &mut Signals {
        &mut self.signals
    }

    /// A signal that wants us to end, if one has come.
    pub(crate) fn interrupted(&mut self) -> Option<i32> {
        let taken = self.signals.take();
        if taken.contains(&SIGTSTP) {
            // The process has had the terminal's own.
            let stopped = Instant::now();
            let _ = signal_hook::low_level::raise(SIGSTOP);
            self.paused += stopped.elapsed();
        }
        let ends = |signal: &i32| [SIGINT, SIGTERM, SIGHUP, SIGQUIT].contains(signal);
        taken.into_iter().find(ends)
    }

    /// Runs it to its end. `place` is a directory for a janitor to remove
    /// should we be killed; it kills the process then.
    pub(crate) fn run(&mut self, command: &mut Command, place: &Path) -> Result<Waited> {
        let what = command.get_program().to_owned();
        let stdout = tempfile::tempfile().context("a file for the output")?;
        let stderr = tempfile::tempfile().context("a file for the messages")?;
        let stdin = self
            .input
            .for_measuring()?
            .try_clone_to_owned()
            .context("standard input")?;
        command
            .stdin(stdin)
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?);
        let janitor = Janitor::spawn(place)?;
        let begun = Instant::now();
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {}", what.display()))?;
        let mut child = Guard::new(child)?;
        janitor.tell(child.pidfd.as_fd());
        let paused = self.paused;
        let mut late = false;
        let mut interrupted = None;
        loop {
            // What we were stopped for is not the process's time.
            let until = begun + self.timeout + (self.paused - paused);
            self.wait(&child, until)?;
            let took = begun.elapsed();
            interrupted = interrupted.or(self.interrupted());
            if let Some(status) = child.ended()? {
                janitor.dismiss();
                if let Some(signal) = interrupted {
                    return Ok(Waited::Interrupted(signal));
                }
                let (stdout, stderr) = (read_back(stdout)?, read_back(stderr)?);
                return Ok(Waited::Ran(Ran {
                    status,
                    took,
                    stdout,
                    stderr,
                    late,
                    paused: self.paused > paused,
                }));
            }
            let until = begun + self.timeout + (self.paused - paused);
            if interrupted.is_some() || Instant::now() >= until {
                late = interrupted.is_none();
                child.end()?;
            }
        }
    }

    /// Until the process ends, a signal comes, or it is late.
    fn wait(&self, child: &Guard, until: Instant) -> Result<()> {
        let left = timespec(until.saturating_duration_since(Instant::now()));
        let mut waits = [
            PollFd::new(&child.pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.event(), PollFlags::IN),
        ];
        match poll(&mut waits, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(why) => Err(why).context("poll"),
        }
    }
}

fn read_back(mut file: File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).context("the output")?;
    file.read_to_end(&mut bytes).context("the output")?;
    Ok(bytes)
}

/// A process that does not outlive this.
struct Guard {
    child: Child,
    pidfd: OwnedFd,
    status: Option<ExitStatus>,
}

impl Guard {
    fn new(mut child: Child) -> Result<Guard> {
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Guard {
                child,
                pidfd,
                status: None,
            }),
            Err(why) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(why).context("pidfd_open")
            }
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait().context("waitpid")?;
        }
        Ok(self.status)
    }

    /// Asks it to end, and kills it if it does not.
    fn end(&mut self) -> Result<()> {
        let _ = pidfd_send_signal(&self.pidfd, Signal::TERM);
        let until = Instant::now() + GRACE;
        while self.ended()?.is_none() && Instant::now() < until {
            let left = timespec(until.saturating_duration_since(Instant::now()));
            let _ = poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&left));
        }
        if self.ended()?.is_none() {
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            self.status = Some(self.child.wait().context("waitpid")?);
        }
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(script: &str, timeout: Duration) -> Ran {
        let place = tempfile::tempdir().unwrap();
        let mut runner = Runner::without_input(timeout).unwrap();
        let mut command = Command::new("sh");
        match runner
            .run(command.args(["-c", script]), place.path())
            .unwrap()
        {
            Waited::Ran(ran) => ran,
            Waited::Interrupted(signal) => panic!("interrupted by {signal}"),
        }
    }

    #[test]
    fn output_and_status_are_kept() {
        let ran = ran(
            "cat; echo out; echo why >&2; exit 3",
            Duration::from_secs(60),
        );
        assert_eq!((ran.status.code(), &*ran.stdout), (Some(3), &b"out\n"[..]));
        assert_eq!(ran.story(), "ended with status 3: why");
        assert!(!ran.late);
    }

    #[test]
    fn what_takes_too_long_is_ended() {
        let ran = ran("echo begun; exec sleep 1000", Duration::from_millis(300));
        assert!(ran.late && ran.took < Duration::from_secs(100));
        assert_eq!(ran.stdout, b"begun\n");
        assert!(ran.story().contains("SIGTERM"), "{}", ran.story());
    }
}
