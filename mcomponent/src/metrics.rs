//! What a memory component shows to Prometheus.

use member::Exposition;
use proto::NodeKind;
use proto::stats::MemoryStats;

/// Metrics of its counters.
#[must_use]
pub fn exposition(name: &str, stats: &MemoryStats) -> Exposition {
    let mut out = Exposition::of(NodeKind::Memory, name);
    out.counters_by(
        "splitkernel_requests_total",
        "Requests answered.",
        "kind",
        &stats.requests,
    );
    for (name, help, value) in [
        (
            "splitkernel_memory_capacity_bytes",
            "Memory offered.",
            stats.capacity,
        ),
        (
            "splitkernel_memory_reserved_bytes",
            "Memory promised to processes.",
            stats.reserved,
        ),
        (
            "splitkernel_memory_committed_bytes",
            "Memory of processes in use.",
            stats.committed,
        ),
        (
            "splitkernel_file_cache_bytes",
            "Memory of cached files.",
            stats.file_cache,
        ),
        (
            "splitkernel_memory_processes",
            "Processes with memory here.",
            stats.processes,
        ),
    ] {
        out.gauge(name, help, value);
    }
    for (name, help, value) in [
        (
            "splitkernel_storage_read_bytes_total",
            "Bytes filled from storage.",
            stats.storage_read,
        ),
        (
            "splitkernel_storage_written_bytes_total",
            "Bytes written back to storage.",
            stats.storage_written,
        ),
        (
            "splitkernel_read_ahead_extents_total",
            "Extents of files filled ahead of need.",
            stats.read_ahead,
        ),
        (
            "splitkernel_keys_granted_total",
            "Keys granted.",
            stats.keys_granted,
        ),
        (
            "splitkernel_keys_revoked_total",
            "Keys revoked.",
            stats.keys_revoked,
        ),
    ] {
        out.counter(name, help, value);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_is_not_what_is_used() {
        let stats = MemoryStats {
            requests: vec![("Commit".to_owned(), 3)],
            reserved: 20,
            committed: 10,
            ..MemoryStats::default()
        };
        let text = exposition("m0", &stats).into_text();
        for line in [
            r#"splitkernel_requests_total{kind="Commit"} 3"#,
            "splitkernel_memory_reserved_bytes 20",
            "splitkernel_memory_committed_bytes 10",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }
}
