//! `testbed bench host`: what this host charges for the parts of a miss.

use crate::cli::BenchHostArgs;
use crate::compile::compile;
use crate::ending::Ending;
use crate::out::show;
use crate::runner::{Ran, Runner, Waited};
use crate::table::{nanoseconds, text as table};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

/// The program: plain C, compiled here.
const SOURCES: [(&str, &str); 4] = [
    ("hostcosts.c", include_str!("../../programs/hostcosts.c")),
    ("hostcpus.h", include_str!("../../programs/hostcpus.h")),
    ("hostfaults.h", include_str!("../../programs/hostfaults.h")),
    ("common.h", include_str!("../../programs/common.h")),
];
/// A round takes less than a second where nothing else runs.
const DEADLINE: Duration = Duration::from_secs(60);

/// What one round printed.
#[derive(Deserialize, Debug)]
struct Round {
    cpus: Vec<u32>,
    one_core: bool,
    costs: Vec<Cost>,
}

/// Samples of one thing, of one round or of several, or why there are none.
#[derive(Deserialize, Clone, Debug)]
struct Cost {
    what: String,
    /// While another thread of the process runs on another CPU.
    beside: bool,
    /// How many one call takes, where it takes pages.
    pages: Option<u32>,
    lacking: Option<String>,
    #[serde(default)]
    ns: Vec<f64>,
    /// What a call takes from the other thread.
    #[serde(default)]
    lost_ns: Vec<f64>,
}

/// Runs it.
pub(super) fn run(args: &BenchHostArgs) -> Result<Ending> {
    let place = tempfile::tempdir().context("a directory for the benchmark")?;
    let program = compile(place.path(), "hostcosts", &SOURCES)?;
    let mut runner = Runner::without_input(DEADLINE)?;
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        match runner.run(&mut Command::new(&program), place.path())? {
            Waited::Interrupted(signal) => return Ok(Ending::Signal(signal)),
            Waited::Ran(ran) => rounds.push(read(&ran)?),
        }
    }
    let all = together(rounds)?;
    if args.json {
        show(&format!("{:#}\n", all.json(args.rounds)))?;
    } else {
        show(&all.text())?;
    }
    Ok(Ending::Exit(0))
}

fn read(ran: &Ran) -> Result<Round> {
    if ran.late {
        let seconds = DEADLINE.as_secs();
        bail!("hostcosts did not end within {seconds} s: quiet the machine, and measure again");
    }
    if ran.paused {
        bail!("hostcosts was stopped meanwhile: its times say nothing");
    }
    if !ran.status.success() {
        bail!("hostcosts failed: {}", ran.story());
    }
    serde_json::from_slice(&ran.stdout).context("what hostcosts printed")
}

/// The samples of all rounds: those of a thing are in the same place in each.
fn together(rounds: Vec<Round>) -> Result<Round> {
    let mut rounds = rounds.into_iter();
    let mut all = rounds.next().context("no round was run")?;
    for round in rounds {
        let same = |a: &Cost, b: &Cost| (&a.what, a.beside) == (&b.what, b.beside);
        let pairs = all.costs.iter().zip(&round.costs);
        let alike = pairs.fold(true, |alike, (a, b)| alike && same(a, b));
        if !alike || all.costs.len() != round.costs.len() || all.cpus != round.cpus {
            bail!("the rounds differ: what this process may use changed meanwhile");
        }
        for (cost, more) in all.costs.iter_mut().zip(round.costs) {
            cost.ns.extend(more.ns);
            cost.lost_ns.extend(more.lost_ns);
            cost.lacking = cost.lacking.take().or(more.lacking);
        }
    }
    Ok(all)
}

/// Median, least and most, nanoseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(samples: &[f64]) -> Option<Spread> {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        Some(Spread {
            median: *sorted.get(sorted.len() / 2)?,
            least: *sorted.first()?,
            most: *sorted.last()?,
        })
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "least": self.least, "most": self.most })
    }
}

impl Cost {
    fn spread(&self) -> Option<Spread> {
        Spread::of(&self.ns)
    }

    /// The median's share of each page.
    fn page(&self) -> Option<f64> {
        Some(self.spread()?.median / f64::from(self.pages?))
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what,
            "beside": self.beside,
            "pages": self.pages,
            "samples": self.ns.len(),
            "ns": self.spread().map(Spread::json),
            "a_page_ns": self.page(),
            "lost_ns": Spread::of(&self.lost_ns).map(Spread::json),
            "lacking": self.lacking,
        })
    }

    fn row(&self) -> Vec<String> {
        let spread = self.spread();
        let shown = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), ns);
        let mut row = vec![
            self.what.clone(),
            shown(spread.map(|s| s.median)),
            shown(spread.map(|s| s.least)),
            shown(spread.map(|s| s.most)),
            shown(self.page()),
        ];
        row.extend(
            self.beside
                .then(|| shown(Spread::of(&self.lost_ns).map(|s| s.median))),
        );
        row.extend(self.lacking.clone());
        row
    }
}

/// Rounded; what another thread loses can come out below nothing.
fn ns(time: f64) -> String {
    let sign = if time.round() < 0.0 { "-" } else { "" };
    // Samples are of seconds at most.
    format!("{sign}{}", nanoseconds(time.abs().round() as u64))
}

impl Round {
    fn json(&self, rounds: u16) -> Value {
        let costs: Vec<Value> = self.costs.iter().map(Cost::json).collect();
        json!({
            "rounds": rounds,
            "cpus": self.cpus,
            "one_core": self.one_core,
            "costs": costs,
        })
    }

    fn text(&self) -> String {
        let alone = self.table("ALONE", false);
        let beside = self.table("WHILE ANOTHER THREAD RUNS", true);
        format!("{}\n{alone}\n{beside}", self.place())
    }

    fn table(&self, title: &str, beside: bool) -> String {
        let mut heading = vec![title, "MEDIAN", "LEAST", "MOST", "A PAGE"];
        heading.extend(beside.then_some("OTHER LOSES"));
        let mut lines = vec![heading.into_iter().map(str::to_owned).collect()];
        let wanted = self.costs.iter().filter(|cost| cost.beside == beside);
        lines.extend(wanted.map(Cost::row));
        table(&lines)
    }

    /// Where it ran.
    fn place(&self) -> String {
        match self.cpus[..] {
            [one, other, ..] if self.one_core => {
                format!("CPU {one}; others on CPU {other}, a thread of the same core\n")
            }
            [one, other, ..] => format!("CPU {one}; others on CPU {other}\n"),
            [one] => format!("CPU {one} alone\n"),
            [] => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: &str = r#"{"cpus": [0, 2], "one_core": false, "costs": [
        {"what": "drop, 16 pages", "beside": false, "pages": 16, "ns": [1600.0, 4800.0, 800.0]},
        {"what": "drop, 16 pages", "beside": true, "pages": 16, "ns": [3200.0], "lost_ns": [-40.0]},
        {"what": "copy", "beside": false, "lacking": "userfaultfd: forbidden"}]}"#;

    fn round() -> Round {
        serde_json::from_str(ROUND).unwrap()
    }

    #[test]
    fn figures_are_of_the_samples_of_all_rounds() {
        let mut other = round();
        other.costs[0].ns = vec![320.0, 480.0];
        let all = together(vec![round(), other]).unwrap().json(2);
        let drop = &all["costs"][0];
        assert_eq!(drop["samples"], 5);
        let expected = json!({ "median": 800.0, "least": 320.0, "most": 4800.0 });
        assert_eq!((&drop["ns"], &drop["lost_ns"]), (&expected, &Value::Null));
        assert_eq!(drop["a_page_ns"], 50.0);
        assert_eq!(all["costs"][1]["lost_ns"]["median"], -40.0);
        assert_eq!(all["costs"][2]["ns"], Value::Null);
    }

    #[test]
    fn rounds_of_different_things_are_not_mixed() {
        let mut other = round();
        other.costs.swap(0, 1);
        assert!(together(vec![round(), other]).is_err());
        let mut other = round();
        other.cpus.pop();
        assert!(together(vec![round(), other]).is_err());
        assert!(together(Vec::new()).is_err());
    }

    #[test]
    fn the_line_of_what_is_lacking_says_why() {
        let text = round().text();
        assert!(text.starts_with("CPU 0; others on CPU 2\n"), "{text}");
        let line = |start: &str| text.lines().rfind(|l| l.starts_with(start)).unwrap();
        assert!(line("copy").ends_with("userfaultfd: forbidden"), "{text}");
        let cells: Vec<&str> = line("drop").split("  ").filter(|c| !c.is_empty()).collect();
        let cells: Vec<&str> = cells.into_iter().map(str::trim).collect();
        assert_eq!(
            cells[1..],
            ["3.20 us", "3.20 us", "3.20 us", "200 ns", "-40 ns"]
        );
    }
}
