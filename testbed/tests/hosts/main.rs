//! Testbeds of several hosts over ssh, for real: each host is a network
//! namespace with its own sshd. Skipped, loudly, where those can't be made,
//! unless `SPLITKERNEL_REQUIRE_SSH=1`.
#![cfg(test)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    dead_code,
    reason = "a test fails by panicking; some helpers serve other tests"
)]

#[path = "../e2e/binaries.rs"]
mod binaries;
mod devices;
#[path = "../e2e/programs.rs"]
mod programs;
mod refusals;
mod rig;

use programs::program;
use rig::{Odd, Rig, able, kill, parent, said, until};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

/// Three hosts that are as they should be.
fn three() -> Option<Rig> {
    able().then(|| Rig::new(&[Odd::default(), Odd::default(), Odd::default()]))
}

/// A program on the testbed, its output kept.
fn run(rig: &Rig, name: &str, arguments: &[&str]) -> Command {
    let mut command = rig.testbed(&["run", "--on", "lab", "--cache", "2M", "--"]);
    command.arg(program(name)).args(arguments);
    command
}

#[test]
fn three_hosts_count_words_as_one() {
    let Some(rig) = three() else { return };
    rig.up_as_usual();
    let text = rig.path().join("text");
    let lines = (0..40_000).map(|n| format!("word{} and more{n}\n", n % 997));
    std::fs::write(&text, lines.collect::<String>()).unwrap();
    let arguments = [text.to_str().unwrap(), "2", "50"];
    let native = Command::new(program("wordcount")).args(arguments).output();
    let native = native.unwrap();
    let ours = run(&rig, "wordcount", &arguments).output().unwrap();
    assert!(ours.status.success(), "{}", said(&ours));
    assert!(!ours.stdout.is_empty() && ours.stdout == native.stdout);

    for key in rig.run_files("key") {
        let mode = std::fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{}", key.display());
    }
    assert_eq!(rig.run_files("key").len(), 4);

    let status = rig.testbed(&["status", "lab"]).output().unwrap();
    let status = said(&status);
    for (component, host) in [("p0", "n1"), ("m0", "n2"), ("s0", "n3")] {
        let row = status.lines().find(|line| line.starts_with(component));
        let row: Vec<&str> = row.unwrap_or(&status).split_whitespace().collect();
        assert_eq!(row[2..4], [host, "alive"], "{status}");
    }
    let logs = rig.testbed(&["logs", "lab"]).output().unwrap();
    for heading in ["==> supervisor <==", "==> gmm <==", "==> m0 <=="] {
        assert!(said(&logs).contains(heading), "{}", said(&logs));
    }
    let command = [
        "exec",
        "lab",
        "n2",
        "--",
        "sh",
        "-c",
        "ip -br address; exit 3",
    ];
    let exec = rig.testbed(&command).output().unwrap();
    assert_eq!(exec.status.code(), Some(3));
    assert!(said(&exec).contains(&rig.address(2)), "{}", said(&exec));
    let bench = ["bench", "fabric", "--on", "lab", "--sizes", "64"];
    let short = ["--operations", "read", "--time", "0.01"];
    let links = rig
        .testbed(&[&bench[..], &short].concat())
        .output()
        .unwrap();
    for to in ["m0 (mcomponent on n2)", "s0 (scomponent on n3)"] {
        let link = format!("p0 (pcomponent on n1) to {to}");
        assert!(said(&links).contains(&link), "{}", said(&links));
    }
    assert!(links.status.success(), "{}", said(&links));
    let walk = "bench cache --on lab --footprint 2M --cache 1M --patterns random --mix read";
    let walk: Vec<&str> = walk.split(' ').collect();
    let walk = rig
        .testbed(&walk)
        .env("TMPDIR", rig.path())
        .output()
        .unwrap();
    assert!(walk.status.success(), "{}", said(&walk));
    assert!(said(&walk).contains("random"), "{}", said(&walk));
    let out = rig.path().join("sweep");
    let sweep = [
        "sweep", "--on", "lab", "--cache", "50%", "--runs", "1", "--out",
    ];
    let mut sweep = rig.testbed(&sweep);
    sweep
        .arg(&out)
        .arg("--")
        .arg(program("wordcount"))
        .args(arguments);
    let sweep = sweep.output().unwrap();
    assert!(sweep.status.success(), "{}", said(&sweep));
    assert!(out.join("sweep.html").exists());
    let unknown = rig.testbed(&["logs", "lab", "m7"]).output().unwrap();
    assert!(!unknown.status.success() && said(&unknown).contains("m0"));

    let down = rig.testbed(&["down", "lab"]).output().unwrap();
    assert!(down.status.success(), "{}", said(&down));
    (0..=3).for_each(|host| rig.expect_nothing_left(host));
}

#[test]
fn streams_statuses_and_signals_pass_through() {
    let Some(rig) = three() else { return };
    rig.up_as_usual();
    for arguments in [["return", "9"], ["signal", "15"]] {
        let native = Command::new(program("ending")).args(arguments).output();
        let ours = run(&rig, "ending", &arguments).output().unwrap();
        assert_eq!(ours.status, native.unwrap().status, "{}", said(&ours));
    }
    let missing = rig.testbed(&["run", "--on", "lab", "--", "no-such-program"]);
    let missing = { missing }.output().unwrap();
    assert_eq!(missing.status.code(), Some(127), "{}", said(&missing));

    // More than all buffers between here and there hold, both ways.
    let mut cat = rig.testbed(&["run", "--on", "lab", "--", "busybox", "cat"]);
    let mut cat = cat
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut output) = (cat.stdin.take().unwrap(), cat.stdout.take().unwrap());
    let sent: Vec<u8> = (0..8_000_000_u32).map(|n| (n % 251) as u8).collect();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || input.write_all(&copy));
    let mut got = Vec::new();
    output.read_to_end(&mut got).unwrap();
    writer.join().unwrap().unwrap();
    assert!(got == sent && cat.wait().unwrap().success());
}

/// The trace of a program elsewhere is written here, and whole.
#[test]
fn a_trace_comes_to_the_operator() {
    let Some(rig) = three() else { return };
    rig.up_as_usual();
    let (trace, stats) = (rig.path().join("trace"), rig.path().join("stats"));
    let mut command = rig.testbed(&["run", "--on", "lab", "--cache", "2M", "--trace"]);
    command.arg(&trace).arg("--stats").arg(&stats).arg("--");
    command.arg(program("cachewalk"));
    let ours = command.args(["--footprint", "8388608"]).output().unwrap();
    assert!(ours.status.success(), "{}", said(&ours));
    let stats = std::fs::read(&stats).unwrap();
    let stats: serde_json::Value = serde_json::from_slice(&stats).unwrap();
    let records = stats["process"]["trace"]["records"].as_u64().unwrap();
    assert!(
        records > 1000 && stats["process"]["trace"]["lost"] == 0,
        "{stats}"
    );
    let mut csv = rig.testbed(&["trace", "--csv"]);
    let csv = csv.arg(&trace).output().unwrap();
    let lines = String::from_utf8_lossy(&csv.stdout).lines().count() as u64;
    assert_eq!(
        lines,
        records + 1,
        "{}",
        String::from_utf8_lossy(&csv.stderr)
    );
    assert!(csv.stderr.is_empty());
}

/// A program that runs until it is ended.
fn endless(rig: &Rig) -> Child {
    let mut command = run(rig, "busy", &["4", "1000000000"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = child.spawn().unwrap();
    until("the program runs", || {
        let status = rig.testbed(&["status", "lab"]).output().unwrap();
        said(&status).contains("busy").then_some(())
    });
    child
}

/// The program ended because the system did, with a message that has these.
fn expect_failure(child: Child, words: &[&str]) {
    let output = child.wait_with_output().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(125), "{text}");
    for word in words {
        assert!(text.contains(word), "lacks {word:?}: {text}");
    }
}

fn down_leaves_nothing(rig: &Rig) {
    let down = rig.testbed(&["down", "lab"]).output().unwrap();
    assert!(down.status.success(), "{}", said(&down));
    (0..=3).for_each(|host| rig.expect_nothing_left(host));
}

#[test]
fn an_agent_that_is_killed_takes_its_components_with_it() {
    let Some(rig) = three() else { return };
    rig.up_as_usual();
    let program = endless(&rig);
    let agents = rig.processes(2, "agent");
    agents.iter().for_each(|pid| kill(*pid));
    expect_failure(program, &["m0", "lost"]);
    rig.expect_nothing_left(2);
    let log = rig
        .testbed(&["logs", "lab", "supervisor"])
        .output()
        .unwrap();
    assert!(said(&log).contains("mcomponent m0"), "{}", said(&log));
    down_leaves_nothing(&rig);
}

#[test]
fn a_connection_that_breaks_is_named_and_its_host_is_clean() {
    let Some(rig) = three() else { return };
    // The operator's end of the connection to n1, where the program runs; and
    // the sshd at its other end, whose child the agent is.
    let ssh = || rig.processes(0, &format!("root@{}\0", rig.address(1)))[0];
    let sshd = || parent(rig.processes(1, "--stdio")[0]);
    for end in [&ssh as &dyn Fn() -> i32, &sshd] {
        rig.up_as_usual();
        let program = endless(&rig);
        kill(end());
        expect_failure(program, &["n1", "lost"]);
        rig.expect_nothing_left(1);
        down_leaves_nothing(&rig);
    }
}

#[test]
fn a_host_that_falls_silent_is_given_up_and_cleans_up() {
    if !able() {
        return;
    }
    let notices = || Odd {
        notices: true,
        ..Odd::default()
    };
    let rig = Rig::new(&[notices(), notices(), notices()]);
    let hosts: String = (1..=3).map(|host| rig.host(host, "")).collect();
    let soon = "options = [\"ServerAliveInterval=2\", \"ServerAliveCountMax=2\", ";
    let up = rig.up(&hosts.replace("options = [", soon));
    assert!(up.status.success(), "{}", said(&up));
    let program = endless(&rig);
    rig.disconnect(1);
    expect_failure(program, &["n1", "lost"]);
    rig.expect_nothing_left(1);
    down_leaves_nothing(&rig);
}

#[test]
fn hosts_that_meet_over_ipv6() {
    let Some(rig) = three() else { return };
    let host = |host| {
        let old = format!("\naddress = \"{}\"", rig.address(host));
        let new = format!("\naddress = \"{}\"", rig.address6(host));
        rig.host(host, "").replace(&old, &new)
    };
    let up = rig.up(&(1..=3).map(host).collect::<String>());
    assert!(up.status.success(), "{}", said(&up));
    let ours = run(&rig, "ending", &["return", "7"]).output().unwrap();
    assert_eq!(ours.status.code(), Some(7), "{}", said(&ours));
    down_leaves_nothing(&rig);
}

#[test]
fn a_component_that_dies_is_started_again() {
    let Some(rig) = three() else { return };
    rig.up_as_usual();
    let program = endless(&rig);
    let memory = rig.processes(2, "mcomponent");
    assert_eq!(memory.len(), 1);
    kill(memory[0]);
    expect_failure(program, &["m0", "lost"]);
    until("a program runs again", || {
        let ours = run(&rig, "ending", &["return", "0"]).output().unwrap();
        ours.status.success().then_some(())
    });
    down_leaves_nothing(&rig);
}

#[test]
fn a_supervisor_that_is_killed_leaves_nothing_anywhere() {
    let Some(rig) = three() else { return };
    rig.up_as_usual();
    let supervisors = rig.processes(0, "supervise");
    assert_eq!(supervisors.len(), 1);
    kill(supervisors[0]);
    (0..=3).for_each(|host| rig.expect_nothing_left(host));
}
