//! Virtual machines for real: they boot, reach each other over soft-RoCE, run
//! a program between them, and leave nothing. It takes a minute and fetches
//! packages, so it is skipped, loudly, unless `SPLITKERNEL_VM=1`; then what is
//! missing is a failure.
#![cfg(test)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    dead_code,
    reason = "a test fails by panicking; some helpers serve other tests"
)]

#[path = "../e2e/binaries.rs"]
mod binaries;
#[path = "../e2e/programs.rs"]
mod programs;
mod rig;

use binaries::testbed;
use programs::program;
use rig::{Rig, said};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The verbs operations of `ibv_rc_pingpong`: enough to lose some, and few enough not
/// to take long.
const ROUNDS: &str = "200";

/// All in one boot, which is what takes time.
#[test]
fn three_machines_boot_talk_over_rxe_run_a_program_and_leave_nothing() {
    let Some(rig) = Rig::new("three") else { return };
    rig.ok(&["vm", "up", "--name", rig.name(), "--fabric", "verbs"]);
    let pids = rig.emulators();
    assert_eq!(pids.len(), 3);
    pings_over_rxe(&rig);
    counts_words(&rig);
    links_are_measured_beside_perftest(&rig);
    misses_are_measured(&rig);
    keeps_the_fabrics_promises(&rig);
    cables_are_cut_and_mended(&rig);
    a_dead_machine_is_an_error(&rig);
    rig.ok(&["vm", "down", rig.name()]);
    rig.assert_nothing_left(&pids);
}

/// Between two machines, by libibverbs' own example.
fn pings_over_rxe(rig: &Rig) {
    let common = [
        "ibv_rc_pingpong",
        "-d",
        "rxe0",
        "-g",
        "1",
        "-e",
        "-n",
        ROUNDS,
    ];
    let server = rig.exec("2", &common).spawn().unwrap();
    let client = [&common[..], &["10.77.0.2"]].concat();
    // It may come before the server listens.
    let output = rig::retry(Duration::from_secs(60), || {
        let output = rig.exec("1", &client).output().unwrap();
        output.status.success().then_some(output)
    });
    let output = output.expect("no ping over rxe");
    assert!(said(&output).contains("iters in"), "{}", said(&output));
    assert!(server.wait_with_output().unwrap().status.success());
}

fn counts_words(rig: &Rig) {
    let text = rig.path().join("text");
    let lines = (0..4000).map(|n| format!("word{} and more{n}\n", n % 97));
    std::fs::write(&text, lines.collect::<String>()).unwrap();
    let arguments = [text.to_str().unwrap(), "2", "50"];
    let native = std::process::Command::new(program("wordcount"))
        .args(arguments)
        .output()
        .unwrap();
    let wordcount = program("wordcount");
    let on = ["run", "--on", rig.name(), "--cache", "2M", "--"];
    let words = [&on[..], &[wordcount.to_str().unwrap()], &arguments].concat();
    let ours = rig.testbed(&words).output().unwrap();
    assert!(ours.status.success(), "{}", said(&ours));
    assert!(!ours.stdout.is_empty() && ours.stdout == native.stdout);
}

fn links_are_measured_beside_perftest(rig: &Rig) {
    let words = "bench fabric --sizes 4K --operations read --time 0.1 --perftest --json --on";
    let words: Vec<&str> = words.split(' ').chain([rig.name()]).collect();
    let output = rig.testbed(&words).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    for what in [
        "p0 to m0",
        "p0 to s0",
        "\"read\"",
        "ib_read_lat",
        "ib_send_lat",
    ] {
        assert!(text.matches(what).count() >= 2, "{what} in {text}");
    }
}

fn misses_are_measured(rig: &Rig) {
    let words = "bench cache --footprint 2M --cache 1M --patterns random --mix read --json --on";
    let words: Vec<&str> = words.split(' ').chain([rig.name()]).collect();
    let output = rig.testbed(&words).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\"random\""), "{text}");
}

/// The fabric's conformance suite over soft-RoCE, in the machine that has this
/// computer's files.
fn keeps_the_fabrics_promises(rig: &Rig) {
    let suite = format!("/share{}", conformance().display());
    let required = "SPLITKERNEL_REQUIRE_VERBS=1";
    let words = ["env", required, &suite, "verbs", "--test-threads=1"];
    let output = rig.exec("3", &words).output().unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("0 failed") && !said.contains("running 0 tests"),
        "{said}"
    );
}

/// Builds the suite, where the binaries under test are.
fn conformance() -> PathBuf {
    let target = testbed().ancestors().nth(2).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "-p", "splitkernel-fabric", "--test", "conformance"]);
    cargo.args(["--no-run", "--message-format", "json"]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = cargo.env("CARGO_TARGET_DIR", target).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages.lines().rev().find_map(|line| {
        let (_, rest) = line.split_once("\"executable\":\"")?;
        Some(PathBuf::from(rest.split_once('"')?.0))
    });
    executable.expect("cargo names no executable")
}

fn cables_are_cut_and_mended(rig: &Rig) {
    let ping = ["ping", "-c", "1", "-W", "3", "10.77.0.2"];
    // Machine 1 and 2 carry the testbed, which must not notice.
    let one = |rig: &Rig| rig.exec("3", &ping).output().unwrap().status.success();
    assert!(one(rig));
    let link = ["vm", "link", "--name", rig.name()];
    rig.ok(&[&link[..], &["3", "--loss", "100%"]].concat());
    assert!(!one(rig));
    rig.ok(&[&link[..], &["3", "--loss", "0%"]].concat());
    let mended = rig::retry(Duration::from_secs(60), || one(rig).then_some(()));
    assert!(mended.is_some());
}

fn a_dead_machine_is_an_error(rig: &Rig) {
    rig.ok(&["vm", "kill", "--name", rig.name(), "2"]);
    let output = rig.exec("2", &["true"]).output().unwrap();
    assert!(!output.status.success());
    assert!(said(&output).contains("node2"), "{}", said(&output));
}

#[test]
fn nothing_is_left_of_machines_whose_supervisor_is_killed() {
    let Some(rig) = Rig::new("killed") else {
        return;
    };
    rig.ok(&["vm", "up", "--name", rig.name(), "--nodes", "1", "--bare"]);
    let pids = rig.emulators();
    rig::kill(rig::parent(pids[0]));
    rig.assert_nothing_left(&pids);
    rig.ok(&["vm", "down", rig.name()]);
}
