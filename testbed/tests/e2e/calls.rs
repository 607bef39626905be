//! System calls that are rewritten where they lie, and `testbed bench calls`.

use crate::binaries::testbed;
use crate::case::{Case, Cell};
use crate::leftovers::Home;
use crate::process::{Ended, run};
use crate::programs::{Libc, program, program_with};
use crate::scratch::directory;
use serde_json::Value;
use std::process::Command;

const CELLS: &[Cell] = &[
    Cell::new(100, "shm"),
    Cell::new(10, "shm").with(&["--policy", "fifo"]),
    Cell::new(50, "shm").lines_of(16 << 10),
    Cell::new(50, "tcp"),
    Cell::new(100, "shm").with(&["--no-rewrite"]),
];

#[test]
fn rewritten_calls_change_nothing() {
    Case::new("sites", "data").check(CELLS);
}

#[test]
fn rewritten_calls_change_nothing_at_other_addresses() {
    let sites = program_with("sites", Libc::GlibcPie);
    Case::of(sites, vec!["data".to_owned()]).check(&CELLS[..1]);
}

/// That the sites of the test above are rewritten at all: the mapping of the
/// stubs is there, and is not without.
#[test]
fn sites_are_rewritten_unless_told_otherwise() {
    let place = directory("sites-");
    let logged = |options: &[&str]| {
        let mut command = Command::new(testbed());
        Home::new().mark(&mut command).arg("run").args(options);
        command.args(["--log", "pcomponent=debug", "--"]);
        command.arg(program("sites")).arg("data");
        let output = run(command.current_dir(place.path()), b"");
        assert_eq!(output.ended, Ended::Exit(0), "{output:?}");
        output.stderr_text().matches("rewritten: true").count()
    };
    assert!(logged(&[]) >= 128);
    assert_eq!(logged(&["--no-rewrite"]), 0);
}

#[test]
fn the_benchmark_says_what_calls_cost() {
    let mut command = Command::new(testbed());
    let home = Home::new();
    home.mark(&mut command)
        .args(["bench", "calls", "--rounds", "1", "--json"]);
    let output = run(&mut command, b"");
    assert_eq!(output.ended, Ended::Exit(0), "{output:?}");
    let all: Value = serde_json::from_str(&output.stdout_text()).unwrap();
    let calls = all["calls"].as_array().unwrap();
    let name = |n: &str| calls.iter().any(|row| row["call"] == n);
    assert!(
        calls.len() == 5 && name("getppid") && name("pread of 4 KiB"),
        "{all}"
    );
    for row in calls {
        let ns = |key: &str| row[key].as_f64().unwrap();
        assert!(ns("native_ns") > 0.0 && ns("testbed_ns") > 0.0, "{row}");
        let more = ns("testbed_ns") - ns("native_ns");
        assert!((ns("more_ns") - more).abs() < 1e-6, "{row}");
    }
}
