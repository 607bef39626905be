//! The figures behind the charts.

use super::svg::escaped;
use crate::sweep::figures::Spread;
use crate::sweep::record::{Point, Summary, Sweep};
use crate::table::{bytes, nanoseconds, number};

const HEADING: [&str; 18] = [
    "",
    "cache",
    "share",
    "runs",
    "time",
    "slowdown",
    "least",
    "most",
    "misses",
    "fetched",
    "written back",
    "messages",
    "median miss",
    "99%",
    "wire",
    "evict",
    "other parts",
    "of a miss",
];

fn row(cells: &[String], tag: &str) -> String {
    let cells: String = cells
        .iter()
        .map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell)))
        .collect();
    format!("<tr>{cells}</tr>\n")
}

fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = heading.iter().map(|&cell| cell.to_owned()).collect();
    let body: String = rows.iter().map(|cells| row(cells, "td")).collect();
    format!(
        "<div class=\"wide\"><table>\n<thead>{}</thead>\n<tbody>\n{body}</tbody></table></div>\n",
        row(&heading, "th")
    )
}

/// Everything that is drawn, and what emulated networks added.
pub(super) fn figures(sweep: &Sweep) -> String {
    let points = sweep.points.iter().zip(&sweep.summaries);
    let rows: Vec<Vec<String>> = points
        .map(|(point, summary)| cells(point, summary))
        .collect();
    let note = "<p class=\"note\">Medians of right runs; the parts of a miss are means over all \
                misses. Everything else is in sweep.json, and a row for each run in sweep.csv.</p>\n";
    table(&HEADING, &rows) + note + &calibration(sweep)
}

fn cells(point: &Point, summary: &Summary) -> Vec<String> {
    let dash = || "-".to_owned();
    let slow = |read: fn(&Spread) -> f64| {
        summary
            .slowdown
            .as_ref()
            .map_or_else(dash, |spread| format!("{:.3}", read(spread)))
    };
    let runs = match summary.wrong {
        0 => summary.right.to_string(),
        wrong => format!("{}, {wrong} WRONG", summary.right),
    };
    let mut cells = vec![
        point.label.clone(),
        point.cache_bytes.map_or_else(dash, bytes),
        point
            .share_percent
            .map_or_else(dash, |share| format!("{share:.1}%")),
        runs,
        summary
            .wall_ns
            .map_or_else(dash, |wall| nanoseconds(wall.median as u64)),
        slow(|spread| spread.median),
        slow(|spread| spread.min),
        slow(|spread| spread.max),
    ];
    let Some(counters) = &summary.counters else {
        cells.resize_with(HEADING.len(), dash);
        return cells;
    };
    let time = |value: f64| nanoseconds(value as u64);
    let split = counters.split_per_fault_ns;
    let whole: f64 = split.iter().sum();
    cells.extend([
        number(counters.faults as u64),
        bytes(counters.fetched_bytes as u64),
        bytes(counters.written_back_bytes as u64),
        number(counters.messages as u64),
        time(counters.p50_ns),
        time(counters.p99_ns),
        time(split[2]),
        time(split[4]),
        time(whole - split[2] - split[4]),
        time(whole),
    ]);
    cells
}

fn calibration(sweep: &Sweep) -> String {
    if sweep.calibration.is_empty() {
        return String::new();
    }
    let heading = [
        "backend",
        "network",
        "operation",
        "without",
        "asked",
        "added",
        "error",
        "99%",
    ];
    let rows: Vec<Vec<String>> = sweep
        .calibration
        .iter()
        .map(crate::bench::Added::cells)
        .collect();
    format!(
        "<h2>What emulated networks added</h2>\n{}",
        table(&heading, &rows)
    )
}

/// What was wrong, and what there is no baseline for.
pub(super) fn wrong(sweep: &Sweep) -> String {
    let mut out = String::new();
    if !sweep.complete {
        out += "<p class=\"bad\">Stopped before its end: these are the runs until then.</p>\n";
    }
    for (heading, list) in [
        ("Wrong runs, which do not count:", sweep.wrong()),
        ("No baseline:", sweep.without_baseline()),
    ] {
        if !list.is_empty() {
            let items: String = list
                .iter()
                .map(|what| format!("<li>{}</li>\n", escaped(what)))
                .collect();
            out += &format!("<div class=\"bad\">{heading}<ul>\n{items}</ul></div>\n");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::record::tests::example;

    #[test]
    fn rows_are_as_wide_as_the_heading() {
        let sweep = example();
        for (point, summary) in sweep.points.iter().zip(&sweep.summaries) {
            assert_eq!(cells(point, summary).len(), HEADING.len());
        }
        assert!(figures(&sweep).contains("1, 1 WRONG"));
    }

    #[test]
    fn what_was_wrong_is_listed() {
        let said = wrong(&example());
        assert!(
            said.contains("<li>shm, 50%, round 1: output differs</li>"),
            "{said}"
        );
        assert_eq!(said.matches("was killed").count(), 2, "{said}");
    }
}
