//! `testbed bench fabric`, alone and between two processes; `testbed bench host`.

use crate::binaries::testbed;
use crate::process::{Ended, run};
use crate::scratch::directory;
use rustix::thread::{CpuSet, sched_getaffinity};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const SHORT: [&str; 5] = ["--sizes", "64,64K", "--time", "0.01", "--json"];

fn bench() -> Command {
    let mut command = Command::new(testbed());
    command.args(["bench", "fabric"]);
    command
}

/// Checks figures of all operations over `backends` and gives their number.
fn check(json: &[u8], backends: &[&str], bare: bool) {
    let all: Vec<Value> = serde_json::from_slice(json).unwrap();
    let mut expected = Vec::new();
    for backend in backends {
        for operation in ["read", "write", "rpc"] {
            expected.extend([64, 65536].map(|bytes| (*backend, operation, bytes)));
        }
        if *backend == "tcp" && bare {
            expected.extend(["blocking", "polling"].map(|how| ("bare", how, 4096)));
        }
    }
    let seen = all.iter().map(|row| {
        let text = |key: &str| row[key].as_str().unwrap();
        let number = |key: &str| row[key].as_f64().unwrap();
        assert!(number("t_min_us") <= number("t_typical_us"), "{row}");
        assert!(number("t_typical_us") <= number("t_99_us"), "{row}");
        assert!(number("t_99_us") <= number("t_max_us"), "{row}");
        assert!(number("t_min_us") > 0.0, "{row}");
        let bytes = row["bytes"].as_u64().unwrap();
        if text("backend") == "bare" {
            assert!(number("iterations") >= 1.0, "{row}");
            return (text("backend"), text("operation"), bytes);
        }
        assert!(number("iterations") >= 20.0, "{row}");
        let rate = number("operations_per_second") * bytes as f64 / f64::from(1 << 20);
        assert!(
            (rate / number("mib_per_second") - 1.0).abs() < 1e-6,
            "{row}"
        );
        (text("backend"), text("operation"), bytes)
    });
    assert_eq!(seen.collect::<Vec<_>>(), expected);
}

#[test]
fn every_backend_of_one_machine() {
    let output = run(bench().args(SHORT), b"");
    assert_eq!(output.ended, Ended::Exit(0), "{output:?}");
    check(&output.stdout, &["shm", "tcp"], true);
    let one = run(bench().args(SHORT).args(["--fabric", "tcp"]), b"");
    check(&one.stdout, &["tcp"], true);
}

struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One that waits, and its address.
fn wait(key: &Path) -> (Waiting, String) {
    let mut command = bench();
    command
        .args(["--listen", "tcp:127.0.0.1:0", "--key"])
        .arg(key);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let output = child.stdout.take().unwrap();
    BufReader::new(output).read_line(&mut line).unwrap();
    let address = line
        .trim()
        .strip_prefix("listening at ")
        .unwrap()
        .to_owned();
    (Waiting(child), address)
}

#[test]
fn two_processes_with_one_key() {
    let place = directory("bench-");
    let key = place.path().join("key");
    let (_waiting, address) = wait(&key);
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let ask = |key: &Path| {
        run(
            bench()
                .args(["--to", &address, "--key"])
                .arg(key)
                .args(SHORT),
            b"",
        )
    };
    let output = ask(&key);
    assert_eq!(output.ended, Ended::Exit(0), "{output:?}");
    check(&output.stdout, &["tcp"], false);

    let other = place.path().join("other");
    let (_other, _) = wait(&other);
    let refused = ask(&other);
    assert_eq!(refused.ended, Ended::Exit(125), "{refused:?}");
    assert!(refused.stdout.is_empty());
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("key"), "{why}");
}

#[test]
fn what_cannot_be_measured_is_said() {
    for (arguments, words) in [
        (&["--sizes", "4M"][..], "1048576"),
        (&["--to", "tcp:127.0.0.1:1"], "--key"),
        (
            &["--perftest", "--listen", "tcp:127.0.0.1:0", "--key", "k"],
            "--listen",
        ),
        (&["--on", "nowhere"], "testbed up"),
        (&["--on", "lab", "--fabric", "tcp"], "--fabric"),
        (&["--time", "0"], "seconds"),
    ] {
        let output = run(bench().args(arguments), b"");
        assert_eq!(output.ended, Ended::Exit(125), "{arguments:?}");
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(why.contains(words), "{arguments:?}: {why}");
    }
}

/// One round of `bench host`, by what is measured alone and what beside another.
fn host_costs(mut command: Command) -> Value {
    command.args(["bench", "host", "--rounds", "1", "--json"]);
    let output = run(&mut command, b"");
    assert_eq!(output.ended, Ended::Exit(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn costs(all: &Value) -> &Vec<Value> {
    all["costs"].as_array().unwrap()
}

#[test]
fn what_the_host_charges() {
    let all = host_costs(Command::new(testbed()));
    let two = all["cpus"].as_array().unwrap().len() == 2;
    for cost in costs(&all) {
        let beside = cost["beside"] == true;
        if cost["ns"].is_null() {
            // What programs need is there, or no other test here could pass.
            let why = cost["lacking"].as_str().unwrap();
            assert!(why.contains("two CPUs") || why.contains("6.13"), "{cost}");
            continue;
        }
        let ns = |key: &str| cost["ns"][key].as_f64().unwrap();
        assert!(ns("least") > 0.0, "{cost}");
        assert!(
            ns("least") <= ns("median") && ns("median") <= ns("most"),
            "{cost}"
        );
        assert_eq!(cost["lost_ns"].is_object(), beside && two, "{cost}");
        if let Some(pages) = cost["pages"].as_f64() {
            let page = cost["a_page_ns"].as_f64().unwrap();
            assert!(
                (page * pages - ns("median")).abs() < 1e-6 * ns("median"),
                "{cost}"
            );
        }
    }
    let measured = |what: &str| {
        costs(&all)
            .iter()
            .any(|c| c["what"] == what && c["ns"].is_object())
    };
    for what in [
        "system call (getppid)",
        "missing page: filled, load",
        "UFFDIO_COPY, 16 pages",
        "write-protect, 1 page",
        "drop by madvise, 16 pages",
        "futex there and back, one CPU",
    ] {
        assert!(measured(what), "{what}: {all:#}");
    }
}

#[test]
fn with_one_cpu_the_host_is_measured_but_for_what_takes_two() {
    let mut one = Command::new("taskset");
    one.args(["-c", &first_cpu().to_string()]).arg(testbed());
    let all = host_costs(one);
    assert_eq!(all["cpus"].as_array().unwrap().len(), 1, "{all:#}");
    for cost in costs(&all) {
        let takes_two = cost["beside"] == true || cost["what"] == "futex there and back, two CPUs";
        let why = cost["lacking"].as_str().unwrap_or_default();
        assert_eq!(why.contains("two CPUs"), takes_two, "{cost}");
        assert!(!takes_two || cost["ns"].is_null(), "{cost}");
    }
}

/// Of those that this process may use.
fn first_cpu() -> usize {
    let allowed = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU)
        .find(|&cpu| allowed.is_set(cpu))
        .unwrap()
}
