//! A testbed that stays: `up`, `run --on`, `status`, `down`.

use crate::binaries::testbed;
use crate::leftovers::Home;
use crate::process::{Ended, Output, Running, run};
use crate::programs::program;
use crate::scratch::directory;
use rustix::process::{Signal, kill_process};
use std::path::PathBuf;
use std::process::{Command, Stdio};

const NAME: &str = "standing";

/// A testbed that is up, taken down at the end of its test.
struct Standing {
    home: Home,
    _place: tempfile::TempDir,
}

impl Standing {
    /// Up with the description that `testbed up --example` prints.
    fn up() -> Standing {
        let standing = Standing {
            home: Home::new(),
            _place: directory("standing-"),
        };
        let example = standing.ask(&["up", "--example"]);
        assert_eq!(example.ended, Ended::Exit(0), "{example:?}");
        let file: PathBuf = standing._place.path().join("standing.toml");
        std::fs::write(&file, &example.stdout).unwrap();
        let up = standing.ask(&["up", file.to_str().unwrap(), "--name", NAME]);
        assert_eq!(up.ended, Ended::Exit(0), "{up:?}");
        standing
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(testbed());
        self.home.mark(&mut command).args(arguments);
        command
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(arguments), b"")
    }

    fn busy(&self, rounds: &str) -> Command {
        let mut command = self.command(&["run", "--on", NAME, "--"]);
        command.arg(program("busy")).args(["4", rounds]);
        command
    }

    fn down(&self) {
        let down = self.ask(&["down", NAME]);
        assert_eq!(down.ended, Ended::Exit(0), "{down:?}");
        let left = self.home.processes();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

#[test]
fn programs_one_after_the_other() {
    let standing = Standing::up();
    for arguments in [["return", "0"], ["return", "9"], ["signal", "15"]] {
        let mut command = standing.command(&["run", "--on", NAME, "--"]);
        let ours = run(command.arg(program("ending")).args(arguments), b"");
        let native = run(Command::new(program("ending")).args(arguments), b"");
        assert_eq!(
            (ours.ended, &ours.stdout),
            (native.ended, &native.stdout),
            "{ours:?}"
        );
    }
    standing.down();
}

#[test]
fn misses_are_traced() {
    let standing = Standing::up();
    let trace = standing._place.path().join("trace");
    let mut command = standing.command(&["run", "--on", NAME, "--trace"]);
    command.arg(&trace).arg("--").arg(program("ending"));
    let ours = run(command.args(["return", "9"]), b"");
    assert_eq!(ours.ended, Ended::Exit(9), "{ours:?}");
    let summary = standing.ask(&["trace", "--json", "--summary", trace.to_str().unwrap()]);
    let summary: serde_json::Value = serde_json::from_slice(&summary.stdout).unwrap();
    assert!(summary["misses"].as_u64().unwrap() > 0, "{summary}");
    standing.down();
}

#[test]
fn links_are_measured() {
    let standing = Standing::up();
    let bench = ["bench", "fabric", "--on", NAME, "--sizes", "4K"];
    let short = ["--operations", "read,rpc", "--time", "0.01"];
    let json = standing.ask(&[&bench[..], &short, &["--json"]].concat());
    assert_eq!(json.ended, Ended::Exit(0), "{json:?}");
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&json.stdout).unwrap();
    let seen: Vec<_> = rows
        .iter()
        .map(|row| (&row["link"], &row["operation"], &row["backend"]))
        .map(|(link, operation, backend)| format!("{link} {operation} {backend}"))
        .collect();
    let expected = ["read", "rpc"].map(|operation| format!(r#""p0 to m0" "{operation}" "shm""#));
    assert_eq!(seen, expected);
    let text = standing.ask(&[&bench[..], &short].concat());
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("p0 (pcomponent) to m0 (mcomponent)"),
        "{text}"
    );
    standing.down();
}

#[test]
fn misses_are_measured() {
    let standing = Standing::up();
    let short = [
        "--footprint",
        "4M",
        "--cache",
        "1M",
        "--patterns",
        "random",
        "--json",
    ];
    let bench = [&["bench", "cache", "--on", NAME], &short[..]].concat();
    let json = standing.ask(&bench);
    assert_eq!(json.ended, Ended::Exit(0), "{json:?}");
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let rows = json["runs"][0]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "one for each mix");
    for row in rows {
        assert!(row["causes"]["remote"].as_f64().unwrap() > 0.0, "{row}");
    }
    standing.down();
}

#[test]
fn programs_side_by_side() {
    let standing = Standing::up();
    let mut all: Vec<_> = (0..3)
        .map(|_| {
            Running::start(
                standing
                    .busy("30")
                    .stdin(Stdio::null())
                    .stdout(Stdio::null()),
            )
        })
        .collect();
    for running in &mut all {
        let ended = running.wait();
        assert_eq!(
            ended,
            Ended::Exit(0),
            "{}",
            String::from_utf8_lossy(&running.stderr())
        );
    }
    standing.down();
}

#[test]
fn status_names_what_runs() {
    let standing = Standing::up();
    let (mut running, mut talk) = Running::start_talking(&mut standing.busy("1000000"));
    talk.expect("round 2\n", &running);
    let status = standing.ask(&["status", NAME]);
    assert_eq!(status.ended, Ended::Exit(0), "{status:?}");
    let json = standing.ask(&["status", NAME, "--json"]);
    let parsed: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(parsed.is_object(), "{json:?}");
    assert!(json.stdout_text().contains("busy"), "{json:?}");
    running.signal(Signal::TERM);
    assert_eq!(running.wait(), Ended::Signal(Signal::TERM.as_raw()));
    standing.down();
}

/// The supervisor brings the global managers and storage back.
#[test]
fn restarted_components() {
    let standing = Standing::up();
    let (mut running, mut talk) = Running::start_talking(&mut standing.busy("60"));
    talk.expect("round 2\n", &running);
    for process in standing.home.processes() {
        if process.binary == "gmm" {
            kill_process(process.pid(), Signal::KILL).unwrap();
        }
    }
    assert_eq!(
        running.wait(),
        Ended::Exit(0),
        "{}",
        String::from_utf8_lossy(&running.stderr())
    );
    let after = run(&mut standing.busy("3"), b"");
    assert_eq!(after.ended, Ended::Exit(0), "{after:?}");
    standing.down();
}

/// Taking it down ends what runs on it.
#[test]
fn down_during_a_run() {
    let standing = Standing::up();
    let (mut running, mut talk) = Running::start_talking(&mut standing.busy("1000000"));
    talk.expect("round 2\n", &running);
    standing.down();
    let ended = running.wait();
    assert_eq!(
        ended,
        Ended::Exit(125),
        "{}",
        String::from_utf8_lossy(&running.stderr())
    );
}

#[test]
fn unknown_names() {
    let home = Home::new();
    for arguments in [
        &["down", "nobody"][..],
        &["status", "nobody"],
        &["run", "--on", "nobody", "--", "true"],
    ] {
        let mut command = Command::new(testbed());
        let output = run(home.mark(&mut command).args(arguments), b"");
        assert_ne!(output.ended, Ended::Exit(0), "{arguments:?}: {output:?}");
        assert!(
            output.stderr_text().contains("nobody"),
            "{arguments:?}: {output:?}"
        );
    }
}
