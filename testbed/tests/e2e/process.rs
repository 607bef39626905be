//! Child processes with a deadline.

use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long any one process may take: far more than it needs on a loaded
/// machine, far less than a person waits for a hang.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    Exit(i32),
    Signal(i32),
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Ended {
        match status.code() {
            Some(code) => Ended::Exit(code),
            None => Ended::Signal(status.signal().unwrap()),
        }
    }
}

/// What a process left.
pub(crate) struct Output {
    pub(crate) ended: Ended,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Output {
    pub(crate) fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |bytes: &[u8]| {
            let shown = &bytes[bytes.len().saturating_sub(3000)..];
            String::from_utf8_lossy(shown).into_owned()
        };
        writeln!(f, "ended by {:?}", self.ended)?;
        writeln!(f, "--- end of stdout\n{}", show(&self.stdout))?;
        writeln!(f, "--- end of stderr\n{}", show(&self.stderr))
    }
}

/// Runs to the end with this input. Output goes to files, so that nobody has
/// to read it meanwhile.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut stdin = tempfile::tempfile().unwrap();
    stdin.write_all(input).unwrap();
    stdin.rewind().unwrap();
    let stdout = tempfile::tempfile().unwrap();
    command.stdin(stdin).stdout(stdout.try_clone().unwrap());
    let mut running = Running::start(command);
    let ended = running.wait();
    Output {
        ended,
        stdout: read_back(stdout),
        stderr: running.stderr(),
    }
}

fn read_back(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A process in a group of its own, killed with its group when dropped.
pub(crate) struct Running {
    child: Child,
    what: String,
    stderr: File,
    started: Instant,
}

impl Running {
    /// Starts it; its standard error goes to a file.
    pub(crate) fn start(command: &mut Command) -> Running {
        let stderr = tempfile::tempfile().unwrap();
        let what = format!("{command:?}");
        let child = command
            .stderr(stderr.try_clone().unwrap())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        Running {
            child,
            what,
            stderr,
            started: Instant::now(),
        }
    }

    /// Starts it with a pipe to read what it says.
    pub(crate) fn start_talking(command: &mut Command) -> (Running, Talk) {
        let mut running = Running::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
        let talk = Talk {
            from: running.child.stdout.take().unwrap(),
            heard: String::new(),
        };
        (running, talk)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Signals the process alone.
    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// What it has written to standard error so far.
    pub(crate) fn stderr(&self) -> Vec<u8> {
        // Through another description: the offset is shared with the child.
        let path = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&self.stderr)
        );
        std::fs::read(Path::new(&path)).unwrap()
    }

    /// Waits for its end, at most until [`DEADLINE`] after its start.
    pub(crate) fn wait(&mut self) -> Ended {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.into();
            }
            if self.started.elapsed() > DEADLINE {
                self.kill_group();
                let stderr = self.stderr();
                panic!(
                    "no end after {DEADLINE:?}: {}\n--- stderr\n{}",
                    self.what,
                    String::from_utf8_lossy(&stderr)
                );
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn kill_group(&mut self) {
        // A group that has ended is no error.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill_group();
        }
    }
}

/// The other end of a process's standard output.
pub(crate) struct Talk {
    from: ChildStdout,
    heard: String,
}

impl Talk {
    /// Reads until `text` has been said.
    pub(crate) fn expect(&mut self, text: &str, running: &Running) {
        let by = Instant::now() + DEADLINE;
        while !self.heard.contains(text) {
            assert!(
                self.hear_before(by) > 0,
                "waited for {text:?} from {}, heard {:?}\n--- stderr\n{}",
                running.what,
                self.heard,
                String::from_utf8_lossy(&running.stderr()),
            );
        }
    }

    /// Everything said until the end.
    pub(crate) fn rest(mut self) -> String {
        let by = Instant::now() + DEADLINE;
        while self.hear_before(by) > 0 {}
        self.heard
    }

    /// Bytes heard: 0 at the end, or when time is up.
    fn hear_before(&mut self, by: Instant) -> usize {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let left = by.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap(),
            tv_nsec: 0,
        };
        let mut waits = [PollFd::new(&self.from, PollFlags::IN)];
        if poll(&mut waits, Some(&left)).unwrap() == 0 {
            return 0;
        }
        let mut buffer = [0; 4096];
        let count = self.from.read(&mut buffer).unwrap();
        self.heard
            .push_str(&String::from_utf8_lossy(&buffer[..count]));
        count
    }
}
