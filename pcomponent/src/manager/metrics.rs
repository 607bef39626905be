//! What a processor component shows to Prometheus: the programs that run now.

use super::Programs;
use member::Exposition;
use proto::NodeKind;
use proto::stats::{LinkCounters, ProgramCounters};

/// Upper bounds of the buckets of miss latencies, nanoseconds: close together
/// where misses on shared memory and on fast networks lie (`testbed bench cache`
/// shows where); milliseconds mean that something waits.
const BOUNDS: [u64; 16] = [
    1_000,
    2_500,
    5_000,
    7_500,
    10_000,
    15_000,
    25_000,
    50_000,
    75_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
];

/// Metrics of the programs that run, and how many there were.
pub(super) fn exposition(name: &str, programs: &Programs) -> Exposition {
    let (started, running) = programs.count();
    let mut out = Exposition::of(NodeKind::Processor, name);
    let help = "Programs started.";
    out.counter("splitkernel_programs_started_total", help, started);
    out.gauge(
        "splitkernel_programs_running",
        "Programs that run.",
        running,
    );
    of_programs(&mut out, &programs.counters());
    out
}

/// A metric of each program.
type OfProgram = (&'static str, &'static str, fn(&ProgramCounters) -> u64);

const GAUGES: [OfProgram; 4] = [
    ("splitkernel_threads", "Threads of the program.", |p| {
        p.threads
    }),
    ("splitkernel_footprint_bytes", "Pages in existence.", |p| {
        p.footprint_bytes
    }),
    (
        "splitkernel_cache_resident_bytes",
        "Lines in the cache.",
        |p| p.resident_lines * p.line_bytes,
    ),
    ("splitkernel_cache_size_bytes", "The cache's size.", |p| {
        p.cache_lines * p.line_bytes
    }),
];

const COUNTERS: [OfProgram; 4] = [
    (
        "splitkernel_fetched_bytes_total",
        "Bytes from memory components.",
        |p| p.fetched_bytes,
    ),
    (
        "splitkernel_written_back_bytes_total",
        "Bytes to memory components.",
        |p| p.written_back_bytes,
    ),
    (
        "splitkernel_prefetched_lines_total",
        "Lines fetched ahead of need.",
        |p| p.prefetched_lines,
    ),
    ("splitkernel_syscalls_total", "System calls.", |p| {
        p.syscalls
    }),
];

/// A metric of each link.
type OfLink = (&'static str, &'static str, fn(&LinkCounters) -> u64);

const LINKS: [OfLink; 3] = [
    (
        "splitkernel_link_messages_total",
        "Requests and one-sided operations to a memory component.",
        |l| l.messages,
    ),
    (
        "splitkernel_link_read_bytes_total",
        "Bytes read from a memory component.",
        |l| l.read_bytes,
    ),
    (
        "splitkernel_link_written_bytes_total",
        "Bytes written to a memory component.",
        |l| l.written_bytes,
    ),
];

fn of_programs(out: &mut Exposition, programs: &[ProgramCounters]) {
    let numbers: Vec<String> = programs.iter().map(|p| p.process.0.to_string()).collect();
    let all: Vec<Named<'_>> = programs
        .iter()
        .zip(&numbers)
        .map(|(p, number)| (p, [("process", &**number), ("program", &*p.program)]))
        .collect();
    for (name, help, value) in GAUGES {
        out.gauges(name, help, all.iter().map(|(p, of)| (&of[..], value(p))));
    }
    for (name, help, value) in COUNTERS {
        out.counters(name, help, all.iter().map(|(p, of)| (&of[..], value(p))));
    }
    let misses = labelled(&all, "cause", |p| p.misses.by_cause().to_vec());
    counters(out, "splitkernel_misses_total", "Faults by cause.", &misses);
    let evicted =
        |p: &ProgramCounters| vec![("clean", p.evicted_clean), ("dirty", p.evicted_dirty)];
    let evictions = labelled(&all, "state", evicted);
    counters(
        out,
        "splitkernel_evictions_total",
        "Lines that went.",
        &evictions,
    );
    for (name, help, value) in LINKS {
        let samples = of_links(&all, value);
        counters(out, name, help, &samples);
    }
    let name = "splitkernel_miss_latency_seconds";
    out.histograms(
        name,
        "Time of a fault, from the handler's entry to its end.",
    );
    for (p, of) in &all {
        out.histogram(name, of, &BOUNDS, &p.latency_ns, p.latency_total_ns);
    }
}

/// A program and the labels of its samples.
type Named<'a> = (&'a ProgramCounters, [(&'a str, &'a str); 2]);

/// One sample with its labels.
type Sample<'a> = ([(&'a str, &'a str); 3], u64);

/// Several samples of each program, told apart by one more label.
fn labelled<'a>(
    all: &[Named<'a>],
    label: &'a str,
    values: impl Fn(&ProgramCounters) -> Vec<(&'static str, u64)>,
) -> Vec<Sample<'a>> {
    let mut samples = Vec::new();
    for (p, [process, program]) in all {
        for (which, value) in values(p) {
            samples.push(([*process, *program, (label, which)], value));
        }
    }
    samples
}

fn of_links<'a>(all: &[Named<'a>], value: fn(&LinkCounters) -> u64) -> Vec<Sample<'a>> {
    let mut samples = Vec::new();
    for (p, [process, program]) in all {
        for link in &p.links {
            samples.push(([*process, *program, ("to", &*link.to)], value(link)));
        }
    }
    samples
}

fn counters(out: &mut Exposition, name: &str, help: &str, samples: &[Sample<'_>]) {
    out.counters(
        name,
        help,
        samples.iter().map(|(of, value)| (&of[..], *value)),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::ProcessId;
    use proto::stats::MissCounts;

    #[test]
    fn a_program_by_number_name_and_link() {
        let program = ProgramCounters {
            process: ProcessId(7),
            program: "/bin/b\"usy".to_owned(),
            resident_lines: 3,
            line_bytes: 4096,
            misses: MissCounts {
                remote: 5,
                ..MissCounts::default()
            },
            latency_ns: vec![(900, 1), (2_000_000_000, 1)],
            latency_total_ns: 2_000_000_900,
            links: vec![LinkCounters {
                to: "m1".to_owned(),
                messages: 9,
                ..LinkCounters::default()
            }],
            ..ProgramCounters::default()
        };
        let mut out = Exposition::default();
        of_programs(&mut out, &[program]);
        let text = out.into_text();
        let of = r#"process="7",program="/bin/b\"usy""#;
        for line in [
            format!("splitkernel_cache_resident_bytes{{{of}}} 12288"),
            format!("splitkernel_misses_total{{{of},cause=\"remote\"}} 5"),
            format!("splitkernel_link_messages_total{{{of},to=\"m1\"}} 9"),
            format!("splitkernel_miss_latency_seconds_bucket{{{of},le=\"0.000001\"}} 1"),
            format!("splitkernel_miss_latency_seconds_bucket{{{of},le=\"1\"}} 1"),
            format!("splitkernel_miss_latency_seconds_bucket{{{of},le=\"+Inf\"}} 2"),
            format!("splitkernel_miss_latency_seconds_sum{{{of}}} 2.0000009"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }
}
