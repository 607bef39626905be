//! `sweep.csv`: a row for each run (RFC 4180).

use super::figures::{PARTS, count, split, total};
use super::record::{Run, Sweep};
use crate::shape::switch;
use proto::process::CacheConfig;
use serde_json::Value;

const HEADING: [&str; 41] = [
    "kind",
    "label",
    "fabric",
    "emulate",
    "ways",
    "line_bytes",
    "policy",
    "prefetch",
    "run_ahead",
    "cache",
    "cache_bytes",
    "share_percent",
    "round",
    "attempt",
    "wrong",
    "elapsed_ns",
    "wall_ns",
    "slowdown",
    "zero_fill",
    "remote",
    "file",
    "write_protect",
    "joined",
    "evicted_clean",
    "evicted_dirty",
    "prefetched",
    "fetched_bytes",
    "written_back_bytes",
    "messages",
    "p50_ns",
    "p90_ns",
    "p99_ns",
    "p999_ns",
    "trap_ns",
    "lookup_ns",
    "wire_ns",
    "install_ns",
    "evict_ns",
    "follow_ns",
    "rest_ns",
    "swap_peak_bytes",
];

/// Counters of a program, in the order of the heading from `zero_fill` on, up
/// to the split.
const COUNTERS: [&str; 10] = [
    "/misses/zero_fill",
    "/misses/remote",
    "/misses/file",
    "/misses/write_protect",
    "/misses/joined",
    "/evictions/clean",
    "/evictions/dirty",
    "/prefetch/lines",
    "/bytes/fetched",
    "/bytes/written_back",
];

const LATENCIES: [&str; 4] = ["p50", "p90", "p99", "p999"];

/// The whole file. `slowdown` is over the median of the native runs.
pub(super) fn text(sweep: &Sweep) -> String {
    let native = sweep.summaries.first().and_then(|native| native.wall_ns);
    let native = native.map(|spread| spread.median);
    let mut out = line(HEADING.map(str::to_owned).as_slice());
    for run in &sweep.runs {
        out += &line(&row(sweep, run, native));
    }
    out
}

fn row(sweep: &Sweep, run: &Run, native: Option<f64>) -> Vec<String> {
    let point = &sweep.points[run.point];
    let series = point.series.and_then(|n| sweep.series.get(n));
    let config = series.map(super::combine::Series::config);
    let slowdown = run
        .wall_ns
        .zip(native)
        .map(|(wall, native)| wall as f64 / native);
    let mut cells = vec![
        point.kind.name().to_owned(),
        point.label.clone(),
        or_empty(series.map(|series| series.fabric.name())),
        or_empty(series.and_then(|series| series.emulate.as_ref())),
        or_empty(config.clone().map(|config| {
            let size = point.cache_bytes.unwrap_or(config.size);
            CacheConfig { size, ..config }.set_lines()
        })),
        or_empty(config.as_ref().map(|config| config.line)),
        or_empty(series.map(|series| series.policy.as_deref().unwrap_or("adaptive"))),
        or_empty(config.as_ref().map(|config| config.prefetch)),
        or_empty(config.as_ref().map(|config| switch(config.run_ahead))),
        or_empty(point.cache.as_ref()),
        or_empty(point.cache_bytes),
        or_empty(point.share_percent.map(|share| format!("{share:.3}"))),
        run.round.to_string(),
        run.attempt.to_string(),
        or_empty(run.wrong.as_ref()),
        run.elapsed_ns.to_string(),
        or_empty(run.wall_ns),
        or_empty(slowdown.map(|slowdown| format!("{slowdown:.4}"))),
    ];
    match &run.process {
        Some(process) => cells.extend(counters(process)),
        None => cells.resize(HEADING.len() - 1, String::new()),
    }
    cells.push(or_empty(run.swap_peak_bytes));
    cells
}

fn counters(process: &Value) -> Vec<String> {
    let counters = COUNTERS.iter().map(|pointer| count(process, pointer));
    let messages = total(&process["messages"]);
    let latencies = LATENCIES
        .iter()
        .map(|key| count(process, &format!("/miss_latency_ns/{key}")));
    let split = split(process);
    debug_assert_eq!(split.len(), PARTS.len() + 1);
    counters
        .chain([messages])
        .chain(latencies)
        .chain(split)
        .map(|number| number.to_string())
        .collect()
}

fn or_empty(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn line(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| quoted(cell)).collect();
    cells.join(",") + "\r\n"
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_with_commas_and_quotes_are_quoted() {
        assert_eq!(quoted("plain 1.5"), "plain 1.5");
        assert_eq!(quoted("a,b"), "\"a,b\"");
        assert_eq!(quoted("say \"x\"\n"), "\"say \"\"x\"\"\n\"");
    }

    #[test]
    fn every_run_has_a_row_as_wide_as_the_heading() {
        let mut sweep = super::super::record::tests::example();
        for point in &mut sweep.points {
            point.label = point.label.replace(',', "");
        }
        let text = text(&sweep);
        let lines: Vec<&str> = text.split("\r\n").collect();
        assert_eq!(lines.len(), 1 + sweep.runs.len() + 1);
        for line in &lines[..lines.len() - 1] {
            assert_eq!(line.split(',').count(), HEADING.len(), "{line}");
        }
        let cell = |row: usize, name: &str| {
            let at = HEADING.iter().position(|heading| *heading == name).unwrap();
            lines[row].split(',').nth(at).unwrap()
        };
        assert_eq!(
            (cell(2, "slowdown"), cell(2, "wire_ns")),
            ("2.0000", "50000")
        );
        assert_eq!(
            (cell(2, "p99_ns"), cell(2, "written_back_bytes")),
            ("20000", "4096")
        );
        assert_eq!((cell(2, "rest_ns"), cell(2, "messages")), ("34000", "3"));
        assert_eq!(
            (cell(3, "wrong"), cell(1, "remote")),
            ("output differs", "")
        );
    }
}
