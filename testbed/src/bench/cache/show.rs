//! Tables and comma-separated values.

use super::figures::{Access, Misses, Row, Run};
use crate::table::{bytes, nanoseconds, number, text as table};

const NOTE: &str = "\
Times are of one access in the program, the clock's own subtracted; MISS columns are what the\n\
testbed counted meanwhile: time in the handler, and its mean parts. Rates are of all threads\n\
together.\n";

/// For people.
pub(super) fn text(runs: &[Run]) -> String {
    let mut out = String::new();
    for run in runs {
        out += &format!(
            "{}: {} filled in {}; reading the clock takes {:.0} ns, which is subtracted\n\n",
            run.name,
            bytes(run.pages * proto::PAGE_SIZE),
            nanoseconds(run.fill_ns),
            run.clock_overhead_ns
        );
        out += &accesses(run);
        if run.rows.iter().any(|row| row.misses.is_some()) {
            out.push('\n');
            out += &misses(run);
        }
        out.push('\n');
    }
    out + NOTE
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

fn accesses(run: &Run) -> String {
    let columns = [
        "PATTERN", "MIX", "THREADS", "ACCESSES", "A SECOND", "MEAN", "50%", "99%", "99.9%",
        "LONGEST",
    ];
    let row = |row: &Row| {
        let a = &row.access;
        let times = [a.mean_ns, a.p50_ns, a.p99_ns, a.p999_ns, a.max_ns];
        let counts = [a.accesses, row.accesses_per_second as u64].map(number);
        [which(a), counts.to_vec(), times.map(time).to_vec()].concat()
    };
    let rows = std::iter::once(heading(&columns)).chain(run.rows.iter().map(row));
    table(&rows.collect::<Vec<_>>())
}

fn misses(run: &Run) -> String {
    let columns = [
        "PATTERN", "MIX", "THREADS", "MISSES", "A SECOND", "MISS", "50%", "99%", "99.9%", "TRAP",
        "LOOKUP", "WIRE", "INSTALL", "EVICT", "REST", "AHEAD", "EVICTED", "DIRTY",
    ];
    let row = |row: &Row| {
        let m = row.misses.as_ref()?;
        let (l, s) = (&m.miss_ns, &m.miss_split_ns);
        let latency = [l.p50, l.p99, l.p999].map(nanoseconds);
        let split = [s.trap, s.lookup, s.wire, s.install, s.evict, s.rest].map(time);
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
    let rows = std::iter::once(heading(&columns)).chain(run.rows.iter().filter_map(row));
    table(&rows.collect::<Vec<_>>())
}

/// A line for each measurement. What was not counted is left empty.
pub(super) fn csv(runs: &[Run]) -> String {
    let mut out = "where,pattern,mix,threads,accesses,wall_ns,accesses_per_second,mean_ns,min_ns,\
                   p50_ns,p90_ns,p99_ns,p999_ns,max_ns,misses,misses_per_second,miss_mean_ns,\
                   miss_p50_ns,miss_p99_ns,miss_p999_ns,miss_max_ns,trap_ns,lookup_ns,wire_ns,\
                   install_ns,evict_ns,rest_ns,fetched_ahead,evicted_clean,evicted_dirty,\
                   bytes_fetched,bytes_written_back\n"
        .to_owned();
    for run in runs {
        for row in &run.rows {
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
            out += &row.misses.as_ref().map_or(",".repeat(17), counted);
            out.push('\n');
        }
    }
    out
}

fn counted(m: &Misses) -> String {
    let (l, s) = (&m.miss_ns, &m.miss_split_ns);
    let split = [s.trap, s.lookup, s.wire, s.install, s.evict, s.rest];
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
    use super::super::figures::tests::said;
    use super::*;
    use serde_json::Value;

    fn runs() -> Vec<Run> {
        let mut native = said();
        native["phases"][0]["after"] = Value::Null;
        let of = |name, said| Run::of(name, &said).unwrap();
        vec![of("testbed", said()), of("native", native)]
    }

    #[test]
    fn lines_have_a_value_or_none_for_each_column() {
        let text = csv(&runs());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        let columns: Vec<usize> = lines.iter().map(|l| l.split(',').count()).collect();
        assert_eq!(columns, [32, 32, 32], "{text}");
        assert!(lines[1].starts_with("testbed,random,read,2,50,1000000,50000.0,900.0,"));
        assert!(lines[2].ends_with(",,,"), "{text}");
    }

    #[test]
    fn the_table_shows_times_and_misses() {
        let text = text(&runs());
        assert!(
            text.contains("random   read  2        50        50,000    900 ns"),
            "{text}"
        );
        assert!(text.contains("22,000"), "{text}");
        assert_eq!(text.matches("LOOKUP").count(), 1, "{text}");
    }
}
