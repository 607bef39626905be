//! `testbed bench calls`: system calls, natively and on a testbed in turn.

use crate::cli::BenchCallsArgs;
use crate::compile::compile;
use crate::ending::Ending;
use crate::out::{show, show_error};
use crate::runner::{Ran, Runner, Waited};
use crate::table::text as table;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The program: plain C, compiled here.
const SOURCES: [(&str, &str); 1] = [("syscalls.c", include_str!("../../programs/syscalls.c"))];
/// Bytes of the file that it reads.
const FILE: usize = 1 << 20;

/// Nanoseconds a call, by call, of one run.
type Times = BTreeMap<String, f64>;

/// Runs it.
pub(super) fn run(args: &BenchCallsArgs) -> Result<Ending> {
    crate::doctor::refuse_unless_able()?;
    let place = tempfile::tempdir().context("a directory for the benchmark")?;
    let program = compile(place.path(), "syscalls", &SOURCES)?;
    let file = place.path().join("data");
    std::fs::write(&file, vec![1; FILE]).context("a file for the benchmark")?;
    let mut runner = Runner::without_input(args.timeout)?;
    let (mut natively, mut on_testbed) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        show_error(&format!("bench calls: round {round} of {}\n", args.rounds));
        let mut plain = Command::new(&program);
        let mut far = testbed(args, &program);
        for (command, runs) in [(&mut plain, &mut natively), (&mut far, &mut on_testbed)] {
            match runner.run(command.arg(&file), place.path())? {
                Waited::Interrupted(signal) => return Ok(Ending::Signal(signal)),
                Waited::Ran(ran) => runs.push(read(&ran)?),
            }
        }
    }
    let rows = rows(&natively, &on_testbed);
    if args.json {
        let rows: Vec<Value> = rows.iter().map(Row::json).collect();
        let all = json!({ "rounds": args.rounds, "calls": rows });
        show(&format!("{all:#}\n"))?;
    } else {
        show(&text(&rows))?;
    }
    Ok(Ending::Exit(0))
}

fn testbed(args: &BenchCallsArgs, program: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["run", "--fabric", args.fabric.name()]);
    if args.no_rewrite {
        command.arg("--no-rewrite");
    }
    command.arg("--").arg(program);
    command
}

fn read(ran: &Ran) -> Result<Times> {
    if ran.late {
        bail!("syscalls did not end within --timeout: give more");
    }
    if ran.paused {
        bail!("syscalls was stopped meanwhile: its times say nothing");
    }
    if !ran.status.success() {
        bail!("syscalls failed: {}", ran.story());
    }
    serde_json::from_slice(&ran.stdout).context("what syscalls printed")
}

/// One call: medians of the rounds, nanoseconds.
#[derive(PartialEq, Debug)]
struct Row {
    call: String,
    native: f64,
    testbed: f64,
}

impl Row {
    fn more(&self) -> f64 {
        self.testbed - self.native
    }

    fn json(&self) -> Value {
        json!({
            "call": self.call,
            "native_ns": self.native,
            "testbed_ns": self.testbed,
            "more_ns": self.more(),
        })
    }
}

/// Calls that were measured on both sides.
fn rows(native: &[Times], testbed: &[Times]) -> Vec<Row> {
    let calls = native.first().into_iter().flat_map(BTreeMap::keys);
    let row = |call: &String| {
        Some(Row {
            call: call.clone(),
            native: median(native, call)?,
            testbed: median(testbed, call)?,
        })
    };
    calls.filter_map(row).collect()
}

fn median(runs: &[Times], call: &str) -> Option<f64> {
    let mut times: Vec<f64> = runs
        .iter()
        .filter_map(|run| run.get(call).copied())
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

fn text(rows: &[Row]) -> String {
    let heading = ["CALL", "NATIVELY", "ON THE TESTBED", "MORE"];
    let ns = |time: f64| format!("{time:.0} ns");
    let mut lines = vec![heading.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| {
        let times = [row.native, row.testbed, row.more()].map(ns);
        [vec![row.call.clone()], times.to_vec()].concat()
    }));
    table(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(times: &[f64]) -> Vec<Times> {
        let run = |t: &f64| Times::from([("getppid".to_owned(), *t)]);
        times.iter().map(run).collect()
    }

    #[test]
    fn figures_are_medians_of_the_rounds() {
        let rows = rows(&runs(&[100.0, 900.0, 110.0]), &runs(&[7.0, 8.0, 500.0]));
        assert_eq!(rows.len(), 1);
        assert!((rows[0].native - 110.0).abs() < 1e-9);
        assert!((rows[0].more() + 102.0).abs() < 1e-9);
        let text = text(&rows);
        assert!(
            text.contains("110 ns") && text.contains("-102 ns"),
            "{text}"
        );
    }

    #[test]
    fn a_call_that_one_side_lacks_is_left_out() {
        assert_eq!(rows(&runs(&[1.0]), &[Times::new()]), []);
    }
}
