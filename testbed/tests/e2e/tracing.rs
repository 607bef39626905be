//! `run --trace` and `testbed trace`, against the statistics of the same run.

use crate::binaries::testbed;
use crate::leftovers::Home;
use crate::process::{Ended, Output, run};
use crate::programs::program;
use crate::scratch::directory;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Traced {
    _place: tempfile::TempDir,
    trace: PathBuf,
    output: Output,
    process: Value,
}

/// A run of `cachewalk` with two threads.
fn traced(home: &Home, options: &[&str]) -> Traced {
    let place = directory("trace-");
    let (trace, stats) = (place.path().join("trace"), place.path().join("stats"));
    let mut command = Command::new(testbed());
    home.mark(&mut command)
        .args(["run", "--trace"])
        .arg(&trace)
        .arg("--stats")
        .arg(&stats)
        .args(options)
        .arg("--")
        .arg(program("cachewalk"))
        .args(["--footprint", "4194304", "--threads", "2"]);
    let output = run(&mut command, b"");
    assert_eq!(output.ended, Ended::Exit(0), "{output:?}");
    let all: Value = serde_json::from_slice(&std::fs::read(&stats).unwrap()).unwrap();
    let process = all["process"].clone();
    Traced {
        _place: place,
        trace,
        output,
        process,
    }
}

fn read(trace: &Path, form: &[&str]) -> Output {
    run(
        Command::new(testbed()).arg("trace").arg(trace).args(form),
        b"",
    )
}

/// Every miss and every eviction that is counted is in the trace once.
#[test]
fn records_are_what_the_statistics_count() {
    let home = Home::new();
    for options in [
        &["--cache", "1M"][..],
        &["--cache", "25%", "--prefetch", "0"],
        &["--cache", "2M", "--fabric", "tcp", "--line", "16K"],
    ] {
        let traced = traced(&home, options);
        assert!(
            !traced.output.stderr_text().contains("--trace"),
            "{:?}",
            traced.output
        );
        let csv = read(&traced.trace, &["--csv"]);
        assert_eq!(csv.ended, Ended::Exit(0), "{csv:?}");
        assert!(csv.stderr.is_empty(), "{csv:?}");
        let mut misses: BTreeMap<String, u64> = BTreeMap::new();
        let (mut clean, mut dirty, mut ahead, mut records) = (0, 0, 0, 0);
        for line in csv.stdout_text().lines().skip(1) {
            let fields: Vec<&str> = line.split(',').collect();
            assert_eq!(fields.len(), 11, "{line}");
            let number = |n: usize| fields[n].parse::<u64>().unwrap();
            records += 1;
            if fields[3] == "miss" {
                *misses.entry(fields[4].to_owned()).or_default() += 1;
                ahead += number(7).saturating_sub(1);
            } else {
                assert_eq!(fields[3], "eviction", "{line}");
                clean += number(8);
                dirty += number(9);
            }
        }
        let counted = &traced.process;
        for (cause, count) in counted["misses"].as_object().unwrap() {
            let seen = misses.get(cause).copied().unwrap_or(0);
            assert_eq!(seen, count.as_u64().unwrap(), "{cause} {options:?}");
        }
        assert!(misses["remote"] > 100, "{misses:?}");
        let count = |path: &str| counted.pointer(path).unwrap().as_u64().unwrap();
        assert_eq!(
            (clean, dirty),
            (count("/evictions/clean"), count("/evictions/dirty"))
        );
        assert_eq!(ahead, count("/prefetched_lines"));
        assert_eq!(
            (count("/trace/records"), count("/trace/lost")),
            (records, 0)
        );
    }
    home.expect_empty();
}

#[test]
fn other_programs_can_read_it() {
    let home = Home::new();
    let traced = traced(&home, &["--cache", "1M"]);
    let records = traced.process["trace"]["records"].as_u64().unwrap();

    let chrome: Value = serde_json::from_slice(&read(&traced.trace, &["--chrome"]).stdout).unwrap();
    let events = chrome["traceEvents"].as_array().unwrap();
    assert_eq!(events.len() as u64, records + 1);
    let wall_us = traced.process["wall_ns"].as_u64().unwrap() as f64 / 1000.0;
    let threads: std::collections::BTreeSet<u64> = events[1..]
        .iter()
        .map(|event| {
            assert_eq!(event["ph"], "X", "{event}");
            let end = event["ts"].as_f64().unwrap() + event["dur"].as_f64().unwrap();
            // The trace's clock begins a little before the statistics'.
            assert!(end <= wall_us + 1e6, "{event}");
            event["tid"].as_u64().unwrap()
        })
        .collect();
    assert!(threads.len() >= 3, "{threads:?}");

    let json = read(&traced.trace, &["--json"]).stdout_text();
    assert_eq!(json.lines().count() as u64, records);
    for line in json.lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }

    let summary = read(&traced.trace, &["--summary", "--json", "--top", "3"]);
    let summary: Value = serde_json::from_slice(&summary.stdout).unwrap();
    assert_eq!(summary["top_lines"].as_array().unwrap().len(), 3);
    let counted = &traced.process["misses"];
    let all: u64 = counted
        .as_object()
        .unwrap()
        .values()
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(summary["misses"], all);
    let text = read(&traced.trace, &[]).stdout_text();
    assert!(
        text.contains("remote") && text.contains("lines so far"),
        "{text}"
    );
}

#[test]
fn a_full_disk_is_said_and_the_program_goes_on() {
    let home = Home::new();
    let mut command = Command::new(testbed());
    home.mark(&mut command)
        .args(["run", "--trace", "/dev/full", "--"]);
    let native = run(Command::new(program("ending")).args(["return", "9"]), b"");
    let ours = run(command.arg(program("ending")).args(["return", "9"]), b"");
    assert_eq!(
        (ours.ended, &ours.stdout),
        (native.ended, &native.stdout),
        "{ours:?}"
    );
    let said = ours.stderr_text();
    assert!(
        said.contains("--trace: /dev/full") && said.contains("space"),
        "{said}"
    );
    home.expect_empty();
}

#[test]
fn what_is_no_trace_is_said() {
    let home = Home::new();
    let place = directory("trace-");
    let (missing, junk) = (place.path().join("missing"), place.path().join("junk"));
    std::fs::write(&junk, [7; 100]).unwrap();
    for (path, words) in [
        (&missing, "No such file"),
        (&junk, "does not begin as a trace"),
    ] {
        let output = read(path, &["--csv"]);
        assert_eq!(output.ended, Ended::Exit(125), "{output:?}");
        assert!(output.stderr_text().contains(words), "{output:?}");
    }
    let both = read(&junk, &["--csv", "--chrome"]);
    assert_eq!(both.ended, Ended::Exit(125), "{both:?}");

    let traced = traced(&home, &["--cache", "1M"]);
    let bytes = std::fs::read(&traced.trace).unwrap();
    std::fs::write(&junk, &bytes[..bytes.len() - 60]).unwrap();
    let cut = read(&junk, &["--csv"]);
    assert_eq!(cut.ended, Ended::Exit(0), "{cut:?}");
    assert!(cut.stderr_text().contains("no end"), "{cut:?}");

    let mut command = Command::new(testbed());
    home.mark(&mut command)
        .args(["run", "--trace", "/nowhere/t", "--"]);
    let output = run(command.arg(program("ending")).args(["return", "0"]), b"");
    assert_eq!(output.ended, Ended::Exit(125), "{output:?}");
    assert!(
        output
            .stderr_text()
            .contains("--trace: cannot write /nowhere/t"),
        "{output:?}"
    );
}
