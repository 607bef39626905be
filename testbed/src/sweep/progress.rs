//! What a sweep says while it goes on, and at its end.

use super::record::{Run, Sweep};
use crate::out::show_error;
use crate::table::{bytes, nanoseconds, number, text};
use std::time::Duration;

/// A line on standard error.
pub(super) fn say(what: &str) {
    show_error(&format!("sweep: {what}\n"));
}

/// Says how a run came out, and how long the rest may take.
pub(super) fn tell(sweep: &Sweep, run: &Run) {
    let label = &sweep.points[run.point].label;
    let came = match (&run.wrong, run.wall_ns) {
        (Some(why), _) => format!("WRONG: {why}"),
        (None, wall) => nanoseconds(wall.unwrap_or(0)),
    };
    let left = left(sweep, run);
    say(&format!(
        "round {} of {}, {label}: {came}; {} left",
        run.round,
        sweep.rounds,
        readable(left)
    ));
}

/// What the runs after this one will take, if they take what they took so far;
/// those of which nothing is known yet, as long as the others on average.
fn left(sweep: &Sweep, last: &Run) -> Duration {
    let mean = |point: Option<usize>| {
        let of = sweep
            .runs
            .iter()
            .filter(|run| point.is_none_or(|point| run.point == point));
        let (sum, n) = of.fold((0, 0), |(sum, n), run| (sum + run.elapsed_ns, n + 1));
        (n > 0).then(|| sum / n)
    };
    let points = sweep.points.len();
    let each = |point: usize| mean(Some(point)).or(mean(None)).unwrap_or(0);
    let round: u64 = (0..points).map(each).sum();
    let rest: u64 = (last.point + 1..points).map(each).sum();
    let rounds = u64::from(sweep.rounds.saturating_sub(last.round));
    Duration::from_nanos(rest + round * rounds)
}

fn readable(time: Duration) -> String {
    match time.as_secs() {
        s if s >= 3600 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        s if s >= 60 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{s} s"),
    }
}

/// The figures in short.
pub(super) fn table(sweep: &Sweep) -> String {
    let heading = [
        "", "CACHE", "RUNS", "TIME", "SLOWDOWN", "MIN", "MAX", "FAULTS", "FETCHED",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for (point, summary) in sweep.points.iter().zip(&sweep.summaries) {
        let dash = || "-".to_owned();
        let slow = |read: fn(&super::figures::Spread) -> f64| {
            summary
                .slowdown
                .as_ref()
                .map_or_else(dash, |spread| format!("{:.2}", read(spread)))
        };
        let counters = summary.counters.as_ref();
        rows.push(vec![
            point.label.clone(),
            point.cache_bytes.map_or_else(dash, bytes),
            match summary.wrong {
                0 => summary.right.to_string(),
                wrong => format!("{} ({wrong} wrong)", summary.right),
            },
            summary
                .wall_ns
                .map_or_else(dash, |wall| nanoseconds(wall.median as u64)),
            slow(|spread| spread.median),
            slow(|spread| spread.min),
            slow(|spread| spread.max),
            counters.map_or_else(dash, |counters| number(counters.faults as u64)),
            counters.map_or_else(dash, |counters| bytes(counters.fetched_bytes as u64)),
        ]);
    }
    text(&rows)
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::example;
    use super::*;

    #[test]
    fn the_time_left_follows_from_what_was() {
        let mut sweep = example();
        sweep.runs.truncate(3);
        // Of the third point's baseline nothing is known: the mean of three.
        let ms = left(&sweep, &sweep.runs[2]).as_millis();
        let unknown = (100 + 300 + 150) / 3;
        assert_eq!(ms, unknown + (100 + 300 + 150 + unknown));
        let sweep = example();
        assert_eq!(left(&sweep, &sweep.runs[7]), Duration::ZERO);
        assert_eq!(readable(Duration::from_secs(3725)), "1 h 2 min");
    }

    #[test]
    fn wrong_runs_are_counted_in_the_table() {
        let table = table(&example());
        assert!(
            table.contains("shm, 50%") && table.contains("1 (1 wrong)"),
            "{table}"
        );
        assert!(table.contains("2.50"), "{table}");
    }
}
