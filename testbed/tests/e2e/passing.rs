//! What passes through `testbed run`: input, output, signals.

use crate::binaries::testbed;
use crate::case::{Case, FEW};
use crate::leftovers::Home;
use crate::process::{Ended, Running};
use crate::programs::program;
use crate::scratch::text;
use rustix::process::Signal;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// `testbed run` with a small cache, before the program and its arguments.
pub(crate) fn run_command(home: &Home, options: &[&str], name: &str) -> Command {
    let mut command = Command::new(testbed());
    home.mark(&mut command);
    command
        .args(["run", "--cache", "4M", "--memory", "256M"])
        .args(options)
        .arg("--");
    command.arg(program(name));
    command
}

#[test]
fn input_and_both_outputs() {
    Case::new("echo", "").input(text(3, 400_000)).check(FEW);
    Case::new("echo", "").check(&[]);
    Case::new("echo", "")
        .input(b"no end of line".to_vec())
        .check(&[]);
}

/// Input arrives as it is typed, not at its end.
#[test]
fn input_from_a_pipe() {
    let home = Home::new();
    let mut command = run_command(&home, &[], "echo");
    let mut running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut to = running.child().stdin.take().unwrap();
    let mut from = running.child().stdout.take().unwrap();
    for line in ["one\n", "two\n", "three\n"] {
        to.write_all(line.as_bytes()).unwrap();
    }
    drop(to);
    assert_eq!(
        running.wait(),
        Ended::Exit(0),
        "{}",
        String::from_utf8_lossy(&running.stderr())
    );
    let mut said = String::new();
    from.read_to_string(&mut said).unwrap();
    assert_eq!(said, "     1\tone\n     2\ttwo\n     3\tthree\n");
    home.expect_empty();
}

/// Much output into a pipe whose reader leaves: SIGPIPE, as natively.
#[test]
fn a_reader_that_leaves() {
    let home = Home::new();
    let mut command = run_command(&home, &[], "busy");
    command.args(["1", "100000000"]);
    let mut running = Running::start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut from = running.child().stdout.take().unwrap();
    let mut some = [0; 20];
    from.read_exact(&mut some).unwrap();
    assert!(some.starts_with(b"round 1\nround 2\n"));
    drop(from);
    assert_eq!(running.wait(), Ended::Signal(Signal::PIPE.as_raw()));
    home.expect_empty();
}

/// A program that handles a signal sees it and goes on to its own end.
#[test]
fn signals_that_are_handled() {
    for how in ["wait", "spin"] {
        for signal in [Signal::INT, Signal::TERM, Signal::USR1, Signal::HUP] {
            let home = Home::new();
            let mut command = run_command(&home, &[], "patience");
            let (mut running, mut talk) = Running::start_talking(command.arg(how));
            talk.expect("ready\n", &running);
            running.signal(signal);
            assert_eq!(running.wait(), Ended::Exit(7), "{how}, {signal:?}");
            assert_eq!(talk.rest(), format!("ready\nsignal {}\n", signal.as_raw()));
            home.expect_empty();
        }
    }
}

/// One that does not is ended by it, and so is `testbed`.
#[test]
fn signals_that_are_not_handled() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        let home = Home::new();
        let mut command = run_command(&home, &[], "patience");
        let (mut running, mut talk) = Running::start_talking(command.arg("default"));
        talk.expect("ready\n", &running);
        running.signal(signal);
        assert_eq!(running.wait(), Ended::Signal(signal.as_raw()));
        home.expect_empty();
    }
}

/// Ctrl-C reaches the whole process group, the components with it.
#[test]
fn an_interrupt_from_the_terminal() {
    let home = Home::new();
    let mut command = run_command(&home, &[], "patience");
    let (mut running, mut talk) = Running::start_talking(command.process_group(0).arg("wait"));
    talk.expect("ready\n", &running);
    rustix::process::kill_process_group(running.pid(), Signal::INT).unwrap();
    assert_eq!(running.wait(), Ended::Exit(7));
    assert_eq!(talk.rest(), "ready\nsignal 2\n");
    home.expect_empty();
}

/// SIGTERM before the testbed is up: nothing may stay.
#[test]
fn a_signal_during_start() {
    for delay in [0, 3, 10, 20, 30, 45] {
        let home = Home::new();
        let mut command = run_command(&home, &[], "patience");
        let mut running = Running::start(command.arg("default").stdout(Stdio::null()));
        std::thread::sleep(std::time::Duration::from_millis(delay));
        running.signal(Signal::TERM);
        assert_eq!(
            running.wait(),
            Ended::Signal(Signal::TERM.as_raw()),
            "after {delay} ms"
        );
        home.expect_empty();
    }
}
