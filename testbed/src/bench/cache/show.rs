//! Tables and comma-separated values.

use super::compare::{Compared, compared, middle, ratio, spread};
use super::figures::{Access, Misses, Name, Row, Run};
use crate::sweep::figures::Spread;
use crate::table::{bytes, nanoseconds, number, text as table};

const NOTE: &str = "\
Times are of one access in the program, the clock's own subtracted; MISS columns are what the\n\
testbed counted meanwhile: time in the handler, and its mean parts, for all lines that a miss\n\
brings (AHEAD are those beside the one that was missed). Rates are of all threads together.\n";

/// For people. `swap` is what the baseline swapped to.
pub(super) fn text(runs: &[Run], swap: Option<&str>) -> String {
    let mut out = String::new();
    let rounds = runs.iter().map(|run| run.round).max().unwrap_or(1);
    for name in [Name::Testbed, Name::Native, Name::Swap] {
        let Some(first) = runs.iter().find(|run| run.name == name) else {
            continue;
        };
        out += &format!(
            "{name}: {} filled in {}; reading the clock takes {:.0} ns, which is subtracted",
            bytes(first.pages * proto::PAGE_SIZE),
            nanoseconds(first.fill_ns),
            first.clock_overhead_ns
        );
        out += match rounds {
            1 => "\n\n",
            _ => " (round 1; below, the median round of each line)\n\n",
        };
        let rows = middle(runs, name);
        out += &accesses(&rows);
        if rows.iter().any(|row| row.misses.is_some()) {
            out.push('\n');
            out += &misses(&rows);
        }
        out.push('\n');
    }
    out += NOTE;
    if let Some(swap) = swap {
        out += &comparison(runs, swap, rounds);
    }
    out
}

fn comparison(runs: &[Run], swap: &str, rounds: u32) -> String {
    let all = compared(runs, Name::Swap);
    if all.is_empty() {
        return format!("\nNo baseline with {swap}: no run of it ended well.\n");
    }
    let columns = [
        "PATTERN", "MIX", "THREADS", "TESTBED", "LEAST", "MOST", "SWAP", "LEAST", "MOST", "RATIO",
    ];
    let row = |c: &Compared| {
        let which = vec![c.pattern.clone(), c.mix.clone(), c.threads.to_string()];
        let spread = |s: &Spread| [s.median, s.min, s.max].map(|ns| number(ns.round() as u64));
        let ratio = vec![format!("{:.2}", c.ratio)];
        let (ours, other) = (spread(&c.testbed_ns), spread(&c.other_ns));
        [which, ours.to_vec(), other.to_vec(), ratio].concat()
    };
    let rows = std::iter::once(heading(&columns)).chain(all.iter().map(row));
    format!(
        "\nNanoseconds an access, median of {rounds} rounds in turn, and the same program under \
         swap to\n{swap}:\n\n{}",
        table(&rows.collect::<Vec<_>>())
    )
}

fn heading(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn which(access: &Access) -> Vec<String> {
    let threads = access.threads.to_string();
    vec![access.pattern.clone(), access.mix.clone(), threads]
}

fn time(ns: f64) -> String {
    nanoseconds(ns.round() as u64)
}

fn accesses(rows: &[&Row]) -> String {
    let columns = [
        "PATTERN", "MIX", "THREADS", "ACCESSES", "A SECOND", "MEAN", "50%", "99%", "99.9%",
        "LONGEST",
    ];
    let row = |row: &&Row| {
        let a = &row.access;
        let times = [a.mean_ns, a.p50_ns, a.p99_ns, a.p999_ns, a.max_ns];
        let counts = [a.accesses, row.accesses_per_second as u64].map(number);
        [which(a), counts.to_vec(), times.map(time).to_vec()].concat()
    };
    let rows = std::iter::once(heading(&columns)).chain(rows.iter().map(row));
    table(&rows.collect::<Vec<_>>())
}

fn misses(rows: &[&Row]) -> String {
    let columns = [
        "PATTERN", "MIX", "THREADS", "MISSES", "A SECOND", "MISS", "50%", "99%", "99.9%", "TRAP",
        "LOOKUP", "WIRE", "INSTALL", "EVICT", "FOLLOW", "REST", "AHEAD", "EVICTED", "DIRTY",
    ];
    let row = |row: &&Row| {
        let m = row.misses.as_ref()?;
        let (l, s) = (&m.miss_ns, &m.miss_split_ns);
        let latency = [l.p50, l.p99, l.p999].map(nanoseconds);
        let split = s.parts().map(time);
        let evicted = m.evicted_clean + m.evicted_dirty;
        let ends = [m.fetched_ahead, evicted, m.evicted_dirty].map(number);
        let counts = [m.misses, m.misses_per_second as u64].map(number);
        let mean = vec![time(l.mean)];
        let parts = [
            which(&row.access),
            counts.to_vec(),
            mean,
            latency.to_vec(),
            split.to_vec(),
            ends.to_vec(),
        ];
        Some(parts.concat())
    };
    let rows = std::iter::once(heading(&columns)).chain(rows.iter().filter_map(row));
    table(&rows.collect::<Vec<_>>())
}

/// A line for each measurement of each round. What was not counted is left
/// empty. The last columns are of all rounds of that place.
pub(super) fn csv(runs: &[Run]) -> String {
    let mut out = "where,pattern,mix,threads,accesses,wall_ns,accesses_per_second,mean_ns,min_ns,\
                   p50_ns,p90_ns,p99_ns,p999_ns,max_ns,misses,misses_per_second,miss_mean_ns,\
                   miss_p50_ns,miss_p99_ns,miss_p999_ns,miss_max_ns,trap_ns,lookup_ns,wire_ns,\
                   install_ns,evict_ns,follow_ns,rest_ns,fetched_ahead,evicted_clean,evicted_dirty,\
                   bytes_fetched,bytes_written_back,round,rounds_median_ns,rounds_least_ns,\
                   rounds_most_ns,ratio_to_testbed\n"
        .to_owned();
    for run in runs {
        for (index, row) in run.rows.iter().enumerate() {
            let a = &row.access;
            out += &format!(
                "{},{},{},{},{},{},{:.1},",
                run.name,
                a.pattern,
                a.mix,
                a.threads,
                a.accesses,
                a.wall_ns,
                row.accesses_per_second
            );
            let times = [
                a.mean_ns, a.min_ns, a.p50_ns, a.p90_ns, a.p99_ns, a.p999_ns, a.max_ns,
            ];
            out += &times.map(|ns| format!("{ns:.1}")).join(",");
            out.push(',');
            out += &row.misses.as_ref().map_or(",".repeat(18), counted);
            out += &of_rounds(runs, run, index);
            out.push('\n');
        }
    }
    out
}

fn of_rounds(runs: &[Run], run: &Run, index: usize) -> String {
    let Some(s) = spread(runs, run.name, index) else {
        return format!(",{},,,,", run.round);
    };
    let ratio = ratio(runs, run.name, index).map(|ratio| format!("{ratio:.4}"));
    format!(
        ",{},{:.1},{:.1},{:.1},{}",
        run.round,
        s.median,
        s.min,
        s.max,
        ratio.unwrap_or_default()
    )
}

fn counted(m: &Misses) -> String {
    let (l, s) = (&m.miss_ns, &m.miss_split_ns);
    let split = s.parts();
    format!(
        "{},{:.1},{:.1},{},{},{},{},{},{},{},{},{},{}",
        m.misses,
        m.misses_per_second,
        l.mean,
        l.p50,
        l.p99,
        l.p999,
        l.max,
        split.map(|ns| format!("{ns:.1}")).join(","),
        m.fetched_ahead,
        m.evicted_clean,
        m.evicted_dirty,
        m.bytes_fetched,
        m.bytes_written_back
    )
}

#[cfg(test)]
mod tests {
    use super::super::compare::tests::rounds;
    use super::*;

    fn runs() -> Vec<Run> {
        rounds(&[
            (Name::Testbed, &[900.0, 1100.0]),
            (Name::Native, &[1.0, 1.0]),
            (Name::Swap, &[3000.0, 5000.0]),
        ])
    }

    #[test]
    fn lines_have_a_value_or_none_for_each_column() {
        let text = csv(&runs());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + 6);
        let columns: Vec<usize> = lines.iter().map(|l| l.split(',').count()).collect();
        assert!(columns.iter().all(|n| *n == 38), "{columns:?} {text}");
        assert!(lines[1].starts_with("testbed,random,read,2,50,1000000,50000.0,900.0,"));
        assert!(
            lines[2].ends_with(",2,1000.0,900.0,1100.0,1.0000"),
            "{text}"
        );
        assert!(lines[6].starts_with("swap,"), "{text}");
        assert!(
            lines[6].ends_with(",,,2,4000.0,3000.0,5000.0,4.0000"),
            "{text}"
        );
    }

    #[test]
    fn the_table_shows_times_and_misses() {
        let text = text(&runs()[..1], None);
        assert!(
            text.contains("random   read  2        50        50,000    900 ns"),
            "{text}"
        );
        assert!(text.contains("22,000"), "{text}");
        assert_eq!(text.matches("LOOKUP").count(), 1, "{text}");
        assert!(!text.contains("RATIO"), "{text}");
    }

    #[test]
    fn the_comparison_shows_medians_and_their_ratio() {
        let all = text(&runs(), Some("zram (lz4)"));
        let line = "random   read  2        1,000    900    1,100  4,000  3,000  5,000  4.00";
        assert!(all.contains(line), "{all}");
        assert!(all.contains("median of 2 rounds") && all.contains("zram (lz4)"));
        let without = text(&runs()[..4], Some("zram (lz4)"));
        assert!(without.contains("No baseline"), "{without}");
    }
}
