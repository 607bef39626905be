//! Runs testbed with places of its own, and sees what it leaves.

use crate::binaries::testbed;
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long processes and directories may take to go.
const GONE: Duration = Duration::from_secs(30);

/// Some machines' place.
pub(crate) struct Rig {
    place: tempfile::TempDir,
    name: &'static str,
}

impl Rig {
    /// `None`, with a word, where these tests are not asked for.
    pub(crate) fn new(name: &'static str) -> Option<Rig> {
        if std::env::var_os("SPLITKERNEL_VM").is_none_or(|v| v != "1") {
            eprintln!("SKIPPED: virtual machines are tested with SPLITKERNEL_VM=1");
            return None;
        }
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("run")).unwrap();
        Some(Rig { place, name })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }

    fn run_directory(&self) -> PathBuf {
        self.path().join("run")
    }

    /// The cache is the user's: packages are fetched once.
    pub(crate) fn testbed(&self, words: &[&str]) -> Command {
        let mut command = Command::new(testbed());
        command.args(words).stdin(Stdio::null());
        command
            .env("XDG_STATE_HOME", self.path().join("state"))
            .env("XDG_RUNTIME_DIR", self.run_directory());
        command
    }

    pub(crate) fn ok(&self, words: &[&str]) -> Output {
        let output = self.testbed(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", said(&output));
        output
    }

    /// A command in a machine.
    pub(crate) fn exec(&self, node: &str, words: &[&str]) -> Command {
        let mut command = self.testbed(&["vm", "exec", "--name", self.name, node, "--"]);
        command.args(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The machines' processes.
    pub(crate) fn emulators(&self) -> Vec<i32> {
        let status = self.ok(&["vm", "status", self.name]);
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        let pid = |line: &str| {
            let rest = line.split_once("QEMU ")?.1;
            rest.split_once(',')?.0.parse().ok()
        };
        text.lines().filter_map(pid).collect()
    }

    pub(crate) fn assert_nothing_left(&self, pids: &[i32]) {
        let gone = retry(GONE, || {
            let living = pids
                .iter()
                .any(|pid| Path::new(&format!("/proc/{pid}")).exists());
            let left = std::fs::read_dir(self.run_directory()).unwrap().count();
            (!living && left == 0).then_some(())
        });
        let left: Vec<_> = std::fs::read_dir(self.run_directory()).unwrap().collect();
        assert!(gone.is_some(), "{pids:?} or {left:?} are left");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A test that failed leaves machines.
        let _ = self.testbed(&["vm", "down", self.name]).output();
    }
}

pub(crate) fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// Tries until there is something, or the time is over.
pub(crate) fn retry<T>(most: Duration, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + most;
    loop {
        let found = attempt();
        if found.is_some() || Instant::now() > until {
            return found;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The process that started one (PPid, proc(5)).
pub(crate) fn parent(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    line.unwrap().trim().parse().unwrap()
}

pub(crate) fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}
