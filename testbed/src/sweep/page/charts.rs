//! The charts of a sweep.

use super::scale::Scale;
use super::svg::{Axis, Plot, element, escaped, key, look};
use crate::sweep::figures::{PARTS, count};
use crate::sweep::record::{Kind, Point, Sweep};
use crate::table::{bytes, nanoseconds};
use serde_json::Value;

/// LegoOS, word count with a working set of 1.7 GB, 40 Gbit/s InfiniBand
/// (Shan et al., OSDI 2018): per cent of it in the ExCache, and slowdown.
const LEGOOS: [(f64, f64); 3] = [(59.0, 1.17), (30.0, 1.34), (15.0, 1.74)];
/// More than this and slowdowns are drawn on a logarithmic axis.
const LINEAR: f64 = 8.0;

/// A number without needless zeros.
fn plain(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn percent(value: f64) -> String {
    plain(value) + "%"
}

fn times(value: f64) -> String {
    plain(value) + "\u{d7}"
}

/// Nanoseconds, round ones briefly.
fn time(value: f64) -> String {
    let (scaled, unit) = match value {
        v if v < 1e3 => (v, "ns"),
        v if v < 1e6 => (v / 1e3, "\u{b5}s"),
        v if v < 1e9 => (v / 1e6, "ms"),
        v => (v / 1e9, "s"),
    };
    format!("{} {unit}", plain(scaled))
}

/// Points of a testbed with their numbers, those of one cache together.
fn by_cache(sweep: &Sweep) -> Vec<(String, Vec<(usize, &Point)>)> {
    let mut panels: Vec<(String, Vec<(usize, &Point)>)> = Vec::new();
    let points = sweep.points.iter().enumerate();
    for (n, point) in points.filter(|(_, point)| point.kind == Kind::Testbed) {
        let cache = point.cache.clone().unwrap_or_default();
        match panels.iter_mut().find(|(name, _)| *name == cache) {
            Some((_, points)) => points.push((n, point)),
            None => panels.push((cache, vec![(n, point)])),
        }
    }
    panels
}

/// A figure with its legend.
fn figure(charts: &str, legend: &str) -> String {
    format!(
        "<figure><div class=\"panels\">\n{charts}</div><ul class=\"legend\">\n{legend}</ul></figure>\n"
    )
}

fn series_keys(sweep: &Sweep) -> String {
    let series = sweep.series.iter().enumerate();
    series
        .map(|(n, series)| key(&look(n), n, &series.label))
        .collect()
}

/// Slowdown against the cache's size.
pub(super) fn slowdown(sweep: &Sweep) -> String {
    let published = sweep.series.iter().any(|series| series.emulate.is_some());
    let highest = sweep
        .summaries
        .iter()
        .filter_map(|summary| Some(summary.slowdown?.max));
    let highest = highest.fold(if published { 1.8 } else { 1.2 }, f64::max);
    let widest = sweep.points.iter().filter_map(|point| point.share_percent);
    let lows = sweep
        .summaries
        .iter()
        .filter_map(|summary| Some(summary.slowdown?.min));
    let scale = if highest > LINEAR {
        Scale::logarithmic(lows.chain([1.0, highest]))
    } else {
        Scale::linear(highest)
    };
    let footprint = bytes(sweep.footprint_bytes);
    let x = Axis {
        scale: Scale::linear(widest.fold(100.0, f64::max)),
        label: format!("cache, % of the footprint of {footprint}"),
        tick: percent,
    };
    let y = Axis {
        scale,
        label: "time over native".to_owned(),
        tick: times,
    };
    let mut plot = Plot::new((760.0, 420.0), "Slowdown against cache size", &x, &y);
    plot.line("one", &[(0.0, 1.0), (1e9, 1.0)]);
    let mut legend = series_keys(sweep);
    for n in 0..sweep.series.len() {
        curve(&mut plot, sweep, (&look(n), n), |point| {
            point.series == Some(n)
        });
    }
    if sweep.points.iter().any(|point| point.kind == Kind::Swap) {
        curve(&mut plot, sweep, ("swap", 1), |point| {
            point.kind == Kind::Swap
        });
        let name = "swap, natively with as much memory (cross: no right run)";
        legend += &key("swap", 1, name);
    }
    if published {
        plot.line("published", &LEGOOS);
        for (share, slowdown) in LEGOOS {
            let tip = format!("LegoOS at {share}%: {slowdown}");
            plot.marker("published", 3, (share, slowdown), &tip);
        }
        let name = "LegoOS as published: word count, working set of 1.7 GB, 40 Gbit/s InfiniBand";
        legend += &key("published", 3, name);
    }
    figure(&plot.finish(), &legend)
}

/// The points of one series, in order of size.
fn curve(
    plot: &mut Plot,
    sweep: &Sweep,
    (class, shape): (&str, usize),
    wanted: impl Fn(&Point) -> bool,
) {
    let mut seen = Vec::new();
    for (point, summary) in sweep.points.iter().zip(&sweep.summaries) {
        let Some(share) = point.share_percent.filter(|_| wanted(point)) else {
            continue;
        };
        match summary.slowdown {
            Some(slowdown) => seen.push((share, slowdown, &point.label)),
            None if summary.wrong > 0 => {
                plot.cross(share, &format!("{}: no right run", point.label));
            }
            // Stopped before it was run.
            None => {}
        }
    }
    seen.sort_by(|one, other| one.0.total_cmp(&other.0));
    let line: Vec<(f64, f64)> = seen
        .iter()
        .map(|(share, slow, _)| (*share, slow.median))
        .collect();
    plot.line(class, &line);
    for (share, slow, label) in seen {
        plot.whisker(class, share, (slow.min, slow.max));
        let tip = format!(
            "{label}: {:.2} ({:.2} to {:.2})",
            slow.median, slow.min, slow.max
        );
        plot.marker(class, shape, (share, slow.median), &tip);
    }
}

/// How long misses took: a chart for each size of cache.
pub(super) fn latency(sweep: &Sweep) -> String {
    let of = |n: usize| Some(sweep.summaries.get(n)?.counters.as_ref()?.distribution());
    let all = (0..sweep.points.len()).filter_map(of).flatten();
    let x = Axis {
        scale: Scale::logarithmic(all.map(|(edge, _)| edge)),
        label: "time of a miss in the handler".to_owned(),
        tick: time,
    };
    let y = Axis {
        scale: Scale::linear(100.0),
        label: "misses that took no longer, %".to_owned(),
        tick: percent,
    };
    let mut charts = String::new();
    for (cache, points) in by_cache(sweep) {
        let title = format!("Miss latency, cache of {cache}");
        let mut plot = Plot::new((500.0, 300.0), &title, &x, &y);
        for (n, point) in points {
            let curve = of(n).unwrap_or_default();
            let start = curve.first().map(|(edge, _)| (*edge, 0.0));
            let steps = curve.iter().map(|(edge, share)| (*edge, share * 100.0));
            let line: Vec<(f64, f64)> = start.into_iter().chain(steps).collect();
            plot.line(&look(point.series.unwrap_or(0)), &line);
        }
        charts += &plot.finish();
    }
    figure(&charts, &series_keys(sweep))
}

/// Where a miss's time goes: a bar for each combination and size.
pub(super) fn split(sweep: &Sweep) -> String {
    const ROW: f64 = 22.0;
    const LEFT: f64 = 300.0;
    const WIDTH: f64 = 520.0;
    let rows: Vec<(&Point, [f64; 7])> = sweep
        .points
        .iter()
        .zip(&sweep.summaries)
        .filter_map(|(point, summary)| Some((point, summary.counters.as_ref()?.split_per_fault_ns)))
        .collect();
    let total = |split: &[f64; 7]| split.iter().sum::<f64>();
    let scale = Scale::linear(
        rows.iter()
            .map(|(_, split)| total(split))
            .fold(0.0, f64::max),
    );
    let bottom = rows.len() as f64 * ROW + 10.0;
    let mut body = String::new();
    for tick in scale.ticks() {
        let x = LEFT + scale.place(tick) * WIDTH;
        body += &format!(
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"4\" y2=\"{bottom}\"/>\n\
             <text class=\"tick\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>\n",
            bottom + 15.0,
            time(tick)
        );
    }
    for (row, (point, split)) in rows.iter().enumerate() {
        let y = row as f64 * ROW + 8.0;
        body += &format!(
            "<text text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{}</text>\n",
            LEFT - 8.0,
            y + 12.0,
            escaped(&point.label)
        );
        let mut x = LEFT;
        for (part, value) in split.iter().enumerate() {
            let width = scale.place(*value) * WIDTH;
            let tip = format!("{}: {}", part_name(part), nanoseconds(*value as u64));
            body += &format!(
                "<rect class=\"p{part}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
                 height=\"16\"><title>{tip}</title></rect>\n"
            );
            x += width;
        }
        let whole = nanoseconds(total(split) as u64);
        body += &format!(
            "<text x=\"{:.1}\" y=\"{:.1}\">{whole}</text>\n",
            x + 6.0,
            y + 12.0
        );
    }
    body += &format!(
        "<text class=\"label\" text-anchor=\"middle\" x=\"{}\" y=\"{}\">mean time of a miss</text>\n",
        LEFT + WIDTH / 2.0,
        bottom + 34.0
    );
    figure(
        &element((LEFT + WIDTH + 80.0, bottom + 42.0), &body),
        &part_keys(),
    )
}

fn part_name(part: usize) -> &'static str {
    PARTS.get(part).copied().unwrap_or("rest")
}

fn part_keys() -> String {
    let swatch = |part: usize| {
        let rect = format!("<rect class=\"p{part}\" width=\"14\" height=\"14\"/>\n");
        format!(
            "<li>{}{}</li>\n",
            element((14.0, 14.0), &rect),
            part_name(part)
        )
    };
    (0..=PARTS.len()).map(swatch).collect()
}

/// Seconds, misses per second and bytes per second between two samples.
fn rates(process: &Value) -> Vec<(f64, f64, f64)> {
    let samples = process["samples"].as_array().map_or(&[][..], Vec::as_slice);
    let read = |sample: &Value| ["/0", "/1", "/2", "/3"].map(|at| count(sample, at) as f64);
    let all: Vec<[f64; 4]> = samples.iter().map(read).collect();
    all.windows(2)
        .filter(|pair| pair[1][0] > pair[0][0])
        .map(|pair| {
            let seconds = (pair[1][0] - pair[0][0]) / 1e9;
            let rate = |n: usize| (pair[1][n] - pair[0][n]).max(0.0) / seconds;
            (pair[1][0] / 1e9, rate(1), rate(2) + rate(3))
        })
        .collect()
}

/// Misses and traffic over time, of the run nearest to the median; `None`
/// where statistics have no samples.
pub(super) fn over_time(sweep: &Sweep) -> Option<String> {
    let of = |n: usize| {
        let process = sweep.typical(n).and_then(|run| run.process.as_ref());
        process.map(rates).unwrap_or_default()
    };
    let all: Vec<(f64, f64, f64)> = (0..sweep.points.len()).flat_map(of).collect();
    if all.is_empty() {
        return None;
    }
    let most = |read: fn(&(f64, f64, f64)) -> f64| all.iter().map(read).fold(0.0, f64::max);
    let x = Axis {
        scale: Scale::linear(most(|rate| rate.0)),
        label: "time since the program began, s".to_owned(),
        tick: plain,
    };
    let misses = Axis {
        scale: Scale::linear(most(|rate| rate.1)),
        label: "misses per second".to_owned(),
        tick: plain,
    };
    let traffic = Axis {
        scale: Scale::linear(most(|rate| rate.2) / 1e6),
        label: "fetched and written back, MB/s".to_owned(),
        tick: plain,
    };
    let mut charts = String::new();
    for (cache, points) in by_cache(sweep) {
        let size = (500.0, 280.0);
        let mut left = Plot::new(size, &format!("Misses, cache of {cache}"), &x, &misses);
        let mut right = Plot::new(size, &format!("Traffic, cache of {cache}"), &x, &traffic);
        for (n, point) in points {
            let class = look(point.series.unwrap_or(0));
            let rates = of(n);
            let pairs = |read: fn(&(f64, f64, f64)) -> f64| -> Vec<(f64, f64)> {
                rates.iter().map(|rate| (rate.0, read(rate))).collect()
            };
            left.line(&class, &pairs(|rate| rate.1));
            right.line(&class, &pairs(|rate| rate.2 / 1e6));
        }
        charts += &left.finish();
        charts += &right.finish();
    }
    Some(figure(&charts, &series_keys(sweep)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::record::tests::example;

    #[test]
    fn ticks_are_written_with_units() {
        assert_eq!([percent(20.0), times(1.5)], ["20%", "1.5\u{d7}"]);
        assert_eq!(
            [time(500.0), time(2e4), time(1e9)],
            ["500 ns", "20 \u{b5}s", "1 s"]
        );
    }

    #[test]
    fn every_figure_has_its_mark() {
        let sweep = example();
        let svg = slowdown(&sweep);
        assert_eq!(svg.matches("class=\"whisker").count(), 2, "{svg}");
        assert_eq!(svg.matches("class=\"cross").count(), 1, "{svg}");
        assert!(
            svg.contains("shm, 25%: 2.50 (2.00 to 3.00)") && !svg.contains("LegoOS"),
            "{svg}"
        );
        assert_eq!(split(&sweep).matches("<rect").count(), 2 * 7 + 7);
        assert_eq!(latency(&sweep).matches("Miss latency").count(), 2);
    }

    #[test]
    fn published_points_stand_beside_emulated_networks() {
        let mut sweep = example();
        sweep.series[0].emulate = Some("latency=3us".to_owned());
        assert!(slowdown(&sweep).contains("LegoOS at 59%: 1.17"));
    }

    #[test]
    fn rates_are_between_samples() {
        let mut sweep = example();
        let process = sweep
            .typical(1)
            .and_then(|run| run.process.clone())
            .unwrap();
        let seen = rates(&process);
        assert_eq!(seen[0], (0.001, 5000.0, 4_096_000.0));
        assert_eq!(seen[1].1, 2500.0);
        assert!(over_time(&sweep).is_some());
        sweep.runs.iter_mut().for_each(|run| run.process = None);
        assert!(over_time(&sweep).is_none());
    }
}
