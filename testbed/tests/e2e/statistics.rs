//! `--stats` and `--cache PERCENT`, checked against programs whose needs are
//! known.

use crate::binaries::testbed;
use crate::leftovers::Home;
use crate::process::{Ended, run};
use crate::programs::program;
use crate::scratch::{directory, text};
use serde_json::Value;
use std::process::Command;

const PAGE: u64 = 4096;
/// Fills 4096 pages, then reads and writes them at random and in sequence.
const WALK: [&str; 6] = [
    "--footprint",
    "16777216",
    "--patterns",
    "random,sequential",
    "--mix",
    "read,write",
];

/// The program's part of the statistics of a run.
fn statistics(options: &[&str], name: &str, arguments: &[&str]) -> Value {
    let home = Home::new();
    let place = directory("stats-");
    let path = place.path().join("stats.json");
    let mut command = Command::new(testbed());
    home.mark(&mut command)
        .args(["run", "--stats"])
        .arg(&path)
        .args(options);
    command.arg("--").arg(program(name)).args(arguments);
    let output = run(&mut command, b"");
    assert_eq!(output.ended, Ended::Exit(0), "{output:?}");
    home.expect_empty();
    let all: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    all["process"].clone()
}

/// The number at a path of keys.
fn count(statistics: &Value, path: &str) -> u64 {
    let found = path.split('.').fold(statistics, |value, key| &value[key]);
    found
        .as_u64()
        .unwrap_or_else(|| panic!("no {path} in {statistics}"))
}

/// 4096 pages, each filled, read, written, read and written again, through a
/// cache of 1024.
#[test]
fn of_known_misses() {
    const PAGES: u64 = 4096;
    const CACHED: u64 = 1024;
    for fabric in ["shm", "tcp"] {
        let options = ["--cache", "4M", "--prefetch", "0", "--fabric", fabric];
        let seen = statistics(&options, "cachewalk", &WALK);
        assert!(count(&seen, "zero_fills") >= PAGES, "{seen}");
        let footprint = count(&seen, "peak_footprint_bytes");
        assert!(
            (PAGES * PAGE..PAGES * PAGE * 5 / 4).contains(&footprint),
            "{seen}"
        );
        assert!(count(&seen, "peak_resident_lines") <= CACHED, "{seen}");
        // In sequence, each page but those of the last cacheful misses; at
        // random, three quarters do.
        let fetched = 2 * (PAGES - CACHED) + 2 * (PAGES - CACHED) / 2;
        assert!(count(&seen, "bytes.fetched") >= fetched * PAGE, "{seen}");
        assert!(count(&seen, "misses.remote") >= fetched, "{seen}");
        // What the two read passes fetched has not changed, and is not sent back.
        assert!(count(&seen, "evictions.clean") >= PAGES / 2, "{seen}");
        assert!(count(&seen, "evictions.dirty") >= PAGES, "{seen}");
        let rounds_that_write = 3;
        let most = rounds_that_write * PAGES * PAGE * 5 / 4;
        assert!(count(&seen, "bytes.written_back") <= most, "{seen}");
        assert!(count(&seen, "miss_latency_ns.count") >= fetched, "{seen}");
    }
}

/// Over time: as much at the end as the sums say, and never less than before.
#[test]
fn of_samples() {
    let seen = statistics(&["--cache", "4M"], "pagewalk", &["16"]);
    let rows: Vec<Vec<u64>> = serde_json::from_value(seen["samples"].clone()).unwrap();
    assert!((1..=1000).contains(&rows.len()), "{seen}");
    let causes = ["zero_fill", "remote", "file"];
    let misses: u64 = causes
        .iter()
        .map(|c| count(&seen, &format!("misses.{c}")))
        .sum();
    let bytes = ["fetched", "written_back"].map(|b| count(&seen, &format!("bytes.{b}")));
    assert_eq!(
        rows[rows.len() - 1][1..],
        [misses, bytes[0], bytes[1]],
        "{seen}"
    );
    let grows =
        |pair: &[Vec<u64>]| pair[0][0] < pair[1][0] && (1..4).all(|n| pair[0][n] <= pair[1][n]);
    assert!(rows.windows(2).all(grows), "{seen}");
}

/// What fits is fetched never.
#[test]
fn of_no_misses() {
    let seen = statistics(&["--cache", "64M"], "cachewalk", &WALK);
    assert_eq!(
        count(&seen, "evictions.dirty") + count(&seen, "evictions.clean"),
        0,
        "{seen}"
    );
    assert_eq!(count(&seen, "bytes.written_back"), 0, "{seen}");
}

/// Prefetch takes most of the misses in sequence away, which are half of all.
#[test]
fn of_prefetch() {
    let misses = |prefetch| {
        let options = ["--cache", "4M", "--prefetch", prefetch];
        count(&statistics(&options, "cachewalk", &WALK), "misses.remote")
    };
    let (with, without) = (misses("16"), misses("0"));
    assert!(
        with * 4 < without * 3,
        "{with} misses with prefetch, {without} without"
    );
}

/// Following the program finds what it misses at random and along pointers (which
/// the program checks), with one thread and with two, wherever bytes come from.
/// How often it is tried is a matter of time; a few times it always is.
#[test]
fn of_running_ahead() {
    let walk = ["--footprint", "16777216", "--patterns", "random,chase"];
    let walk = [&walk[..], &["--mix", "read,mixed", "--threads", "1,2"]].concat();
    for fabric in ["shm", "tcp"] {
        for (switch, line) in [("on", "4KiB"), ("off", "4KiB"), ("on", "16KiB")] {
            let options = ["--cache", "4M", "--fabric", fabric, "--line", line];
            let options = [&options[..], &["--run-ahead", switch]].concat();
            let seen = statistics(&options, "cachewalk", &walk);
            let followed = count(&seen, "prefetch.followed");
            let lines = count(&seen, "prefetch.lines");
            assert_eq!(
                followed >= 20,
                switch == "on",
                "{fabric} {line}: {followed}"
            );
            assert!(followed <= lines, "{followed} of {lines}");
            let spent = count(&seen, "miss_split_ns.follow");
            assert_eq!(spent > 0, switch == "on", "{spent}");
            let (resident, most) = (
                count(&seen, "peak_resident_lines"),
                count(&seen, "cache.lines"),
            );
            assert!(resident <= most, "{resident} of {most}");
        }
    }
}

/// A share of the footprint takes two runs, of which one is heard, and both
/// read the same input.
#[test]
fn of_a_share() {
    let home = Home::new();
    let input = text(8, 200_000);
    let mut native = Command::new(program("echo"));
    let mut ours = Command::new(testbed());
    home.mark(&mut ours)
        .args(["run", "--cache", "50%", "--"])
        .arg(program("echo"));
    let (native, ours) = (run(&mut native, &input), run(&mut ours, &input));
    assert_eq!(ours.ended, Ended::Exit(0), "{ours:?}");
    assert!(ours.stdout == native.stdout, "{ours:?}");
    home.expect_empty();
}
