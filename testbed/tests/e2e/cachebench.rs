//! `testbed bench cache`, and the program behind it.

use crate::binaries::testbed;
use crate::leftovers::Home;
use crate::process::{Ended, Output, Running, run};
use crate::programs::program;
use crate::scratch::directory;
use crate::sweep::{can_swap, groups, swapping, swaps};
use serde_json::Value;
use std::process::{Command, Stdio};

const PATTERNS: [&str; 5] = ["random", "sequential", "strided", "zipf", "chase"];
const MIXES: [&str; 3] = ["read", "write", "mixed"];

fn bench(home: &Home, arguments: &[&str]) -> Output {
    let mut command = Command::new(testbed());
    home.mark(&mut command).args(["bench", "cache"]);
    run(command.args(arguments), b"")
}

/// Its samplers and its histogram are what they should be.
#[test]
fn the_program_passes_its_own_test() {
    let output = run(Command::new(program("cachewalk")).arg("--self-test"), b"");
    assert_eq!(output.ended, Ended::Exit(0), "{output:?}");
    assert_eq!(output.stdout_text(), "self-test passed\n");
}

#[test]
fn the_program_refuses_what_it_does_not_know() {
    for (arguments, words) in [
        (["--patterns", "spiral"], "spiral"),
        (["--footprint", "12x"], "--footprint 12x"),
        (["--threads", "0"], "--threads 0"),
        (["--theta", "nan"], "--theta nan"),
        (["--stride", "100"], "multiple of 64"),
        (["--accesses", "-1"], "--accesses -1"),
    ] {
        let output = run(Command::new(program("cachewalk")).args(arguments), b"");
        assert_eq!(output.ended, Ended::Exit(2), "{arguments:?}: {output:?}");
        assert!(output.stderr_text().contains(words), "{output:?}");
    }
}

fn number(value: &Value, path: &str) -> f64 {
    let found = value.pointer(path).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("no {path} in {value}"))
}

fn check_times(row: &Value, accesses: f64) {
    assert!((number(row, "/accesses") - accesses).abs() < 0.5, "{row}");
    let order = ["min", "p50", "p90", "p99", "p999", "max"];
    let times = order.map(|name| number(row, &format!("/{name}_ns")));
    assert!(times.windows(2).all(|two| two[0] <= two[1]), "{row}");
    let mean = number(row, "/mean_ns");
    assert!(mean >= times[0] && mean <= times[5], "{row}");
    let buckets = row["histogram"].as_array().unwrap();
    let counted: f64 = buckets.iter().map(|b| number(b, "/1")).sum();
    assert!((counted - accesses).abs() < 0.5, "{row}");
}

fn check_misses(row: &Value, cached: bool) {
    let causes = row["causes"].as_object().unwrap();
    let sum: f64 = causes.values().map(|n| n.as_f64().unwrap()).sum();
    assert!((sum - number(row, "/misses")).abs() < 0.5, "{row}");
    if cached {
        return;
    }
    // A cache of a quarter: hardly a pattern can have fewer misses than these.
    assert!(sum >= 20.0, "{row}");
    let parts = [
        "trap", "lookup", "wire", "install", "evict", "follow", "rest",
    ];
    let split = parts.map(|part| number(row, &format!("/miss_split_ns/{part}")));
    let mean = number(row, "/miss_ns/mean");
    assert!(mean > 0.0 && split.iter().all(|part| *part >= 0.0), "{row}");
    // All but the trap are parts of the time in the handler; means are rounded.
    let handled: f64 = split[1..].iter().sum();
    assert!((handled - mean).abs() <= mean / 20.0 + 2.0, "{row}");
    assert!(
        number(row, "/miss_ns/p50") <= number(row, "/miss_ns/p999"),
        "{row}"
    );
}

#[test]
fn every_pattern_with_every_mix() {
    let home = Home::new();
    let place = directory("cache-");
    let csv = place.path().join("figures.csv");
    let small = ["--footprint", "4M", "--cache", "25%", "--prefetch", "0"];
    let output = bench(
        &home,
        &[
            &small[..],
            &["--threads", "1,2", "--native", "--json", "--csv"],
            &[csv.to_str().unwrap()],
        ]
        .concat(),
    );
    assert_eq!(output.ended, Ended::Exit(0), "{output:?}");
    home.expect_empty();
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let runs = all["runs"].as_array().unwrap();
    let names: Vec<&str> = runs
        .iter()
        .map(|run| run["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["testbed", "native"]);
    let mut expected = Vec::new();
    for threads in [1, 2] {
        for pattern in PATTERNS {
            expected.extend(MIXES.map(|mix| format!("{pattern} {mix} {threads}")));
        }
    }
    for run in runs {
        assert!(number(run, "/clock_overhead_ns") >= 0.0);
        let rows = run["rows"].as_array().unwrap();
        let seen: Vec<String> = rows
            .iter()
            .map(|row| {
                let text = |key: &str| row[key].as_str().unwrap();
                format!("{} {} {}", text("pattern"), text("mix"), row["threads"])
            })
            .collect();
        assert_eq!(seen, expected);
        for row in rows {
            check_times(row, 1024.0);
            if run["name"] == "testbed" {
                check_misses(row, false);
            } else {
                assert!(row["misses"].is_null(), "{row}");
            }
        }
    }
    let text = std::fs::read_to_string(&csv).unwrap();
    assert_eq!(text.lines().count(), 1 + 2 * expected.len());
    let columns: Vec<usize> = text.lines().map(|l| l.split(',').count()).collect();
    assert!(columns.iter().all(|n| *n == columns[0]), "{text}");
}

/// A scan that reads misses every page; what fits misses hardly ever.
#[test]
fn misses_are_those_of_the_measurement() {
    let home = Home::new();
    let scan = [
        "--footprint",
        "8M",
        "--patterns",
        "sequential",
        "--mix",
        "read",
        "--json",
    ];
    let misses = |more: &[&str]| {
        let output = bench(&home, &[&scan[..], more].concat());
        assert_eq!(output.ended, Ended::Exit(0), "{output:?}");
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        let row = all.pointer("/runs/0/rows/0").unwrap().clone();
        check_misses(&row, true);
        number(&row, "/causes/remote")
    };
    let fifo = ["--cache", "2M", "--prefetch", "0", "--policy", "fifo"];
    let scanned = misses(&fifo);
    // Beside the 2048 pages, some of the program's own.
    assert!((2048.0..2200.0).contains(&scanned), "{scanned}");
    let fits = misses(&["--cache", "32M"]);
    assert!(fits < 50.0, "{fits}");
    let timed = misses(&[&fifo[..], &["--time", "0.05", "--warmup", "0"]].concat());
    assert!(timed > 0.0);
}

/// Rounds in turn, and what they come to; where there is no swap to be had, the
/// refusal says what is missing.
#[test]
fn the_testbed_beside_swap() {
    let home = Home::new();
    let _alone = swapping();
    let before = swaps();
    let mut command = Command::new(testbed());
    home.mark(&mut command).args(["bench", "cache", "--json"]);
    command.args([
        "--footprint",
        "48M",
        "--cache",
        "24M",
        "--patterns",
        "random",
    ]);
    command.args(["--mix", "read,write", "--runs", "2", "--baseline", "swap"]);
    let place = directory("cache-");
    let json = place.path().join("json");
    command.stdout(std::fs::File::create(&json).unwrap());
    let mut running = Running::start(command.stdin(Stdio::null()));
    let number_of_it = running.child().id();
    let ended = running.wait();
    let said = String::from_utf8_lossy(&running.stderr()).into_owned();
    home.expect_empty();
    assert_eq!(swaps(), before, "{said}");
    assert_eq!(groups(number_of_it), 0, "{said}");
    if !can_swap() {
        eprintln!("SKIPPED: no root, zram or memory cgroups here, so no baseline is tested");
        assert_eq!(ended, Ended::Exit(125), "{said}");
        assert!(said.contains("--baseline swap"), "{said}");
        return;
    }
    assert_eq!(ended, Ended::Exit(0), "{said}");
    let all: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let runs = all["runs"].as_array().unwrap();
    let order: Vec<String> = runs
        .iter()
        .map(|run| format!("{} {}", run["name"].as_str().unwrap(), run["round"]))
        .collect();
    assert_eq!(
        order,
        ["testbed 1", "swap 1", "testbed 2", "swap 2"],
        "{said}"
    );
    assert!(all["swap"].as_str().unwrap().contains("zram"), "{all}");
    for run in runs.iter().filter(|run| run["name"] == "swap") {
        assert!(number(run, "/swap_peak_bytes") > 1e6, "{run}");
    }
    let compared = all["comparison"].as_array().unwrap();
    assert_eq!(compared.len(), 2);
    for (index, line) in compared.iter().enumerate() {
        let means = |name: &str| -> Vec<f64> {
            let of = runs.iter().filter(|run| run["name"] == name);
            of.map(|run| number(run, &format!("/rows/{index}/mean_ns")))
                .collect()
        };
        let middle = |means: &[f64]| f64::midpoint(means[0], means[1]);
        let (ours, other) = (middle(&means("testbed")), middle(&means("swap")));
        assert!(
            (number(line, "/testbed_ns/median") - ours).abs() < 0.01,
            "{line}"
        );
        assert!(
            (number(line, "/ratio") - other / ours).abs() < 0.001,
            "{line}"
        );
        assert!(number(line, "/other_ns/min") <= number(line, "/other_ns/max"));
    }
}

#[test]
fn people_get_a_table() {
    let home = Home::new();
    let short = [
        "--footprint",
        "4M",
        "--cache",
        "1M",
        "--patterns",
        "chase",
        "--mix",
        "read",
    ];
    let output = bench(&home, &short);
    assert_eq!(output.ended, Ended::Exit(0), "{output:?}");
    let text = output.stdout_text();
    for word in ["chase", "LOOKUP", "INSTALL", "99.9%", "subtracted"] {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn what_cannot_be_measured_is_said() {
    let home = Home::new();
    for (arguments, words) in [
        (&["--patterns", "spiral"][..], "chase"),
        (&["--mix", "modify"], "mixed"),
        (&["--threads", "0"], "1..=256"),
        (&["--stride", "100"], "multiple of 64"),
        (&["--theta", "-1"], "0.99"),
        (&["--footprint", "1K"], "1MiB"),
        (&["--cache", "4K"], "--cache"),
        (&["--time", "1", "--accesses", "1"], "--accesses"),
        (&["--runs", "0"], "1..=1000"),
        (&["--swap", "zram"], "--baseline"),
        (&["--csv", "/nowhere/x.csv"], "/nowhere/x.csv"),
    ] {
        let output = bench(&home, arguments);
        assert_eq!(output.ended, Ended::Exit(125), "{arguments:?}: {output:?}");
        assert!(
            output.stderr_text().contains(words),
            "{arguments:?}: {output:?}"
        );
    }
}
