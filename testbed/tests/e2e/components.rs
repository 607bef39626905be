//! What the end of each part, or of `testbed` itself, does to a program.

use crate::leftovers::Home;
use crate::passing::run_command;
use crate::process::{Ended, Running, Talk};
use rustix::process::{Pid, Signal, kill_process};
use std::time::Instant;

/// Status of `testbed run` where the system, not the program, failed.
const SYSTEM_FAILED: Ended = Ended::Exit(125);

const FABRICS: [&str; 2] = ["shm", "tcp"];

/// A program that uses memory and a file, some rounds into its work.
struct AtWork {
    home: Home,
    running: Running,
    talk: Talk,
    _files: tempfile::TempDir,
}

impl AtWork {
    fn start(fabric: &str, rounds: &str) -> AtWork {
        let home = Home::new();
        let files = crate::scratch::directory("busy-");
        let mut command = run_command(&home, &["--fabric", fabric], "busy");
        command.args(["8", rounds]).arg(files.path().join("file"));
        let (running, mut talk) = Running::start_talking(&mut command);
        talk.expect("round 3\n", &running);
        AtWork {
            home,
            running,
            talk,
            _files: files,
        }
    }

    fn component(&self, binary: &str) -> Pid {
        self.home.component(binary, self.running.pid())
    }

    fn kill(&self, binary: &str) {
        kill_process(self.component(binary), Signal::KILL).unwrap();
    }

    /// Ends, with nothing left, and gives the status, the output, and the
    /// messages.
    fn end(mut self) -> (Ended, String, String) {
        let ended = self.running.wait();
        let messages = String::from_utf8_lossy(&self.running.stderr()).into_owned();
        let said = self.talk.rest();
        self.home.expect_empty();
        (ended, said, messages)
    }
}

/// Each round appears once and in order, whatever else was said.
fn rounds(said: &str) -> usize {
    let rounds: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with("round "))
        .collect();
    for (i, line) in rounds.iter().enumerate() {
        assert_eq!(*line, format!("round {}", i + 1));
    }
    rounds.len()
}

#[test]
fn killed_memory_component() {
    for fabric in FABRICS {
        let work = AtWork::start(fabric, "1000000");
        work.kill("mcomponent");
        let (ended, said, messages) = work.end();
        assert_eq!(ended, SYSTEM_FAILED, "{messages}");
        assert!(
            messages.contains("mcomponent"),
            "does not name it: {messages}"
        );
        assert!(rounds(&said) >= 3);
    }
}

#[test]
fn killed_processor_component() {
    for fabric in FABRICS {
        let work = AtWork::start(fabric, "1000000");
        work.kill("pcomponent");
        let (ended, _, messages) = work.end();
        assert_eq!(ended, SYSTEM_FAILED, "{messages}");
        assert!(
            messages.contains("pcomponent"),
            "does not name it: {messages}"
        );
    }
}

/// The program is told (EIO), or is ended with a message that names storage.
#[test]
fn killed_storage_component() {
    for fabric in FABRICS {
        let work = AtWork::start(fabric, "1000000");
        work.kill("scomponent");
        let (ended, said, messages) = work.end();
        if ended == SYSTEM_FAILED {
            assert!(
                messages.contains("scomponent"),
                "does not name it: {messages}"
            );
        } else {
            assert_eq!(ended, Ended::Exit(5), "{said}{messages}");
            assert!(
                said.ends_with("file: Input/output error\n"),
                "{said}{messages}"
            );
        }
    }
}

/// One that hangs is found out by the deadline: EIO, and the program goes on.
#[test]
fn stopped_storage_component() {
    let work = AtWork::start("shm", "1000000");
    let storage = work.component("scomponent");
    kill_process(storage, Signal::STOP).unwrap();
    let stopped = Instant::now();
    let (ended, said, messages) = work.end();
    assert_eq!(
        ended,
        Ended::Exit(5),
        "after {:?}: {said}{messages}",
        stopped.elapsed()
    );
    assert!(
        said.ends_with("file: Input/output error\n"),
        "{said}{messages}"
    );
}

/// Nothing on the path of a page or a file waits for the global managers.
#[test]
fn killed_global_managers() {
    for fabric in FABRICS {
        let work = AtWork::start(fabric, "200");
        work.kill("gmm");
        let (ended, said, messages) = work.end();
        assert_eq!(ended, Ended::Exit(0), "{messages}");
        assert_eq!(rounds(&said), 200);
    }
}

/// The program killed from outside has died by a signal, as natively.
#[test]
fn killed_program() {
    let work = AtWork::start("shm", "1000000");
    let manager = work.component("pcomponent");
    let program = work
        .home
        .processes()
        .into_iter()
        .find(|p| p.parent == manager.as_raw_nonzero().get())
        .unwrap_or_else(|| panic!("no program among {:?}", work.home.processes()));
    kill_process(program.pid(), Signal::KILL).unwrap();
    let (ended, _, messages) = work.end();
    assert_eq!(ended, Ended::Signal(Signal::KILL.as_raw()), "{messages}");
}

#[test]
fn killed_testbed() {
    for fabric in FABRICS {
        let work = AtWork::start(fabric, "1000000");
        work.running.signal(Signal::KILL);
        let (ended, _, _) = work.end();
        assert_eq!(ended, Ended::Signal(Signal::KILL.as_raw()));
    }
}

/// Everything that carries the mark, one after the other: whichever goes
/// first, the rest follows.
#[test]
fn any_one_killed_leaves_nothing() {
    let count = AtWork::start("shm", "1000000").home.processes().len();
    assert!(count >= 6, "a testbed of {count} processes");
    for victim in 0..count {
        let mut work = AtWork::start("shm", "60");
        let mut processes = work.home.processes();
        processes.sort_by_key(|p| p.pid().as_raw_nonzero());
        let Some(process) = processes.get(victim) else {
            continue;
        };
        let what = format!("{process:?}");
        let _ = kill_process(process.pid(), Signal::KILL);
        let ended = work.running.wait();
        drop(work.talk);
        eprintln!("killed {what}: {ended:?}");
        work.home.expect_empty();
    }
}
