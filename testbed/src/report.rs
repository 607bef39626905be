//! Where the time went, from the statistics, for people.

use crate::table::{bytes, nanoseconds, number};
use serde_json::Value;
use std::fmt::Write;

/// Several lines, each ended.
pub(crate) fn text(all: &Value) -> String {
    let process = &all["process"];
    if process.is_null() {
        return "no statistics: the program left none\n".to_owned();
    }
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = time(&mut out, process);
    let _ = cache(&mut out, process);
    let _ = traffic(&mut out, process);
    let _ = calls(&mut out, process);
    let _ = components(&mut out, &all["components"]);
    out
}

/// The share of `part` in `whole`, in per cent.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 * 100.0 / whole as f64
    }
}

fn count(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// Faults overlap where there are several threads: their times are a sum over
/// threads, not a part of the wall-clock time.
fn time(out: &mut String, process: &Value) -> std::fmt::Result {
    const PARTS: [(&str, &str); 6] = [
        ("trap", "entering and leaving the handler"),
        ("lookup", "finding line and way, with waits"),
        ("wire", "bringing the bytes"),
        ("install", "installing the pages"),
        ("evict", "making room: writing back, dropping"),
        ("follow", "following the program to its next misses"),
    ];
    let wall = count(process, "/wall_ns");
    let faults = count(process, "/miss_latency_ns/count");
    let trap = count(process, "/miss_split_ns/trap");
    let handled = count(process, "/miss_latency_ns/total");
    let spent = handled + trap;
    writeln!(out, "wall-clock time        {}", nanoseconds(wall))?;
    writeln!(
        out,
        "in cache faults        {} in {} of them (summed over threads; {:.1}% of the wall-clock time)",
        nanoseconds(spent),
        number(faults),
        share(spent, wall)
    )?;
    let mut known = 0;
    for (key, meaning) in PARTS {
        let part = count(process, &format!("/miss_split_ns/{key}"));
        known += part;
        line(out, key, part, spent, meaning)?;
    }
    line(
        out,
        "other",
        spent.saturating_sub(known),
        spent,
        "messages and bookkeeping",
    )?;
    let latency = |key: &str| nanoseconds(count(process, &format!("/miss_latency_ns/{key}")));
    writeln!(
        out,
        "one fault              median {}, mean {}, 90% {}, 99% {}, 99.9% {}, longest {}",
        latency("p50"),
        latency("mean"),
        latency("p90"),
        latency("p99"),
        latency("p999"),
        latency("max")
    )
}

fn line(out: &mut String, key: &str, part: u64, whole: u64, meaning: &str) -> std::fmt::Result {
    let (time, share) = (nanoseconds(part), share(part, whole));
    writeln!(out, "  {key:8} {time:>10} {share:>5.1}%   {meaning}")
}

fn cache(out: &mut String, process: &Value) -> std::fmt::Result {
    let line = count(process, "/cache/line_bytes");
    let lines = count(process, "/cache/lines");
    writeln!(
        out,
        "footprint              {} at its peak",
        bytes(count(process, "/peak_footprint_bytes"))
    )?;
    writeln!(
        out,
        "cache                  {} ({} lines of {}, {} sets of {} ways), {} lines filled at most",
        bytes(lines * line),
        number(lines),
        bytes(line),
        number(count(process, "/cache/sets")),
        count(process, "/cache/ways"),
        number(count(process, "/peak_resident_lines"))
    )?;
    let causes = named(&process["misses"]);
    writeln!(out, "faults by cause        {causes}")?;
    writeln!(
        out,
        "fetched ahead          {} lines; {} filled as a heap grew",
        number(count(process, "/prefetched_lines")),
        number(count(process, "/grown_lines"))
    )?;
    writeln!(
        out,
        "evictions              {}",
        named(&process["evictions"])
    )
}

fn traffic(out: &mut String, process: &Value) -> std::fmt::Result {
    writeln!(
        out,
        "bytes                  {} fetched, {} written back",
        bytes(count(process, "/bytes/fetched")),
        bytes(count(process, "/bytes/written_back"))
    )?;
    writeln!(
        out,
        "messages               {}",
        named(&process["messages"])
    )
}

fn calls(out: &mut String, process: &Value) -> std::fmt::Result {
    writeln!(
        out,
        "system calls           {}",
        named(&process["syscalls"])
    )?;
    let missing = process["unimplemented"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let missing: Vec<&str> = missing.iter().filter_map(Value::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    writeln!(out, "not implemented        {}", missing.join(", "))
}

fn components(out: &mut String, all: &Value) -> std::fmt::Result {
    let Some(all) = all.as_object() else {
        return Ok(());
    };
    for (name, stats) in all.iter().filter(|(name, _)| *name != "gmm") {
        if let Some(error) = stats["error"].as_str() {
            writeln!(out, "{name:22} {error}")?;
        } else if stats.get("committed").is_some() {
            writeln!(
                out,
                "{name:22} memory: {} of files cached, {} read from storage, {} written to it",
                bytes(count(stats, "/file_cache")),
                bytes(count(stats, "/storage_read")),
                bytes(count(stats, "/storage_written"))
            )?;
        } else {
            writeln!(
                out,
                "{name:22} storage: {} read, {} written",
                bytes(count(stats, "/bytes_read")),
                bytes(count(stats, "/bytes_written"))
            )?;
        }
    }
    Ok(())
}

/// The six largest of a map of counters.
fn named(counters: &Value) -> String {
    let mut counters: Vec<(&str, u64)> = counters
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, count)| Some((name.as_str(), count.as_u64()?)))
        .filter(|(_, count)| *count > 0)
        .collect();
    counters.sort_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
    let rest = counters.len().saturating_sub(6);
    let shown = counters
        .iter()
        .take(6)
        .map(|(name, count)| format!("{} {name}", number(*count)));
    let mut shown: Vec<String> = shown.collect();
    if rest > 0 {
        shown.push(format!("{rest} other kinds"));
    }
    if shown.is_empty() {
        "none".to_owned()
    } else {
        shown.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_add_up_and_counters_are_sorted() {
        let all = json!({
            "process": {
                "wall_ns": 1_000_000,
                "misses": { "remote": 7, "file": 1000, "joined": 0 },
                "miss_latency_ns": { "count": 100, "total": 90_000, "mean": 900 },
                "miss_split_ns": { "trap": 10_000, "wire": 50_000, "lookup": 20_000 },
            },
            "components": { "m0": { "error": "gone" }, "gmm": {} },
        });
        let text = text(&all);
        assert!(
            text.contains("in cache faults        100 us in 100 of them"),
            "{text}"
        );
        assert!(text.contains("10.0% of the wall-clock time"), "{text}");
        assert!(text.contains("wire        50.0 us  50.0%"), "{text}");
        assert!(text.contains("other       20.0 us  20.0%"), "{text}");
        assert!(text.contains("1,000 file, 7 remote\n"), "{text}");
        assert!(text.contains("m0                     gone"), "{text}");
    }

    #[test]
    fn nothing_to_tell_is_said() {
        assert!(text(&json!({ "process": null })).contains("no statistics"));
    }
}
