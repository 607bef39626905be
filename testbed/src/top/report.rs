//! A frame as text.

use super::frame::{Frame, Link, Memory, Program};
use crate::table::{bytes, nanoseconds, number, printable, text};

/// Tables of programs, memory components and links.
pub(super) fn report(frame: &Frame) -> String {
    let seconds = frame.interval_ns as f64 / 1e9;
    let mut out = format!("testbed {}, over {seconds:.1} s\n", frame.testbed);
    for silent in &frame.silent {
        out += &format!("no answer: {silent}\n");
    }
    out += "\n";
    out += &match &frame.programs[..] {
        [] => "no programs\n".to_owned(),
        programs => {
            let head = [
                "ID", "PROGRAM", "ON", "THREADS", "LINES", "FULL", "MISSES/S", "MEAN", "P99",
                "IN/S", "OUT/S",
            ];
            table(&head, programs.iter().map(program))
        }
    };
    let head = ["MEMORY", "USED", "PROMISED", "CAPACITY", "REQUESTS/S"];
    out += "\n";
    out += &table(&head, frame.memory.iter().map(memory));
    if !frame.links.is_empty() {
        let head = ["LINK", "MESSAGES/S", "READ/S", "WRITTEN/S"];
        out += "\n";
        out += &table(&head, frame.links.iter().map(link));
    }
    out
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    text(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn program(p: &Program) -> Vec<String> {
    // Of the path, what tells programs apart; it may hold anything.
    let name = p.program.rsplit('/').next().unwrap_or_default();
    let share = match p.cache_lines {
        0 => 0,
        all => p.resident_lines.saturating_mul(100) / all,
    };
    let time = |ns| match ns {
        0 => "-".to_owned(),
        ns => nanoseconds(ns),
    };
    vec![
        p.process.to_string(),
        printable(name),
        p.processor.clone(),
        number(p.threads),
        number(p.resident_lines),
        format!("{share}%"),
        rate(p.misses_per_s),
        time(p.miss_mean_ns),
        time(p.miss_p99_ns),
        bytes(whole(p.fetched_bytes_per_s)),
        bytes(whole(p.written_back_bytes_per_s)),
    ]
}

fn memory(m: &Memory) -> Vec<String> {
    vec![
        m.name.clone(),
        bytes(m.used_bytes),
        bytes(m.promised_bytes),
        bytes(m.capacity_bytes),
        rate(m.requests_per_s),
    ]
}

fn link(l: &Link) -> Vec<String> {
    vec![
        format!("{} to {}", l.from, l.to),
        rate(l.messages_per_s),
        bytes(whole(l.read_bytes_per_s)),
        bytes(whole(l.written_bytes_per_s)),
    ]
}

fn rate(per_second: f64) -> String {
    number(whole(per_second))
}

fn whole(amount: f64) -> u64 {
    amount.round() as u64
}

/// What of a report a window of so many rows and columns can show.
pub(super) fn fit(report: &str, rows: usize, columns: usize) -> Vec<String> {
    let cut = |line: &str| line.chars().take(columns).collect();
    report.lines().take(rows).map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_do_the_terminal_no_harm() {
        let frame = Frame {
            testbed: "lab".to_owned(),
            interval_ns: 1_000_000_000,
            programs: vec![Program {
                process: 7,
                program: "/bin/b\x1b[2Jusy".to_owned(),
                processor: "p0".to_owned(),
                pid: 1,
                threads: 2,
                footprint_bytes: 0,
                resident_lines: 512,
                cache_lines: 1024,
                misses: 0,
                misses_per_s: 1234.4,
                miss_mean_ns: 6000,
                miss_p99_ns: 0,
                fetched_bytes_per_s: 4096.0,
                written_back_bytes_per_s: 0.0,
            }],
            memory: Vec::new(),
            links: Vec::new(),
            silent: vec!["m1 is dead".to_owned()],
        };
        let shown = report(&frame);
        assert!(!shown.contains('\x1b'), "{shown:?}");
        assert!(shown.contains("no answer: m1 is dead"), "{shown}");
        let row = "7   b?[2Jusy  p0  2        512    50%   1,234     6.00 us  -    4.00 KiB  0 B";
        assert!(shown.lines().any(|line| line == row), "{shown}");
        let window = fit(&shown, 2, 5);
        assert_eq!(window, ["testb", "no an"]);
    }
}
