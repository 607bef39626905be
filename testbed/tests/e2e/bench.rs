//! `testbed bench fabric`, alone and between two processes.

use crate::binaries::testbed;
use crate::process::{Ended, run};
use crate::scratch::directory;
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
