//! What a storage component shows to Prometheus.

use member::Exposition;
use proto::NodeKind;
use proto::stats::StorageStats;

/// Metrics of its counters, and of how many clients are connected.
#[must_use]
pub fn exposition(name: &str, stats: &StorageStats, clients: u64) -> Exposition {
    let mut out = Exposition::of(NodeKind::Storage, name);
    out.counters_by(
        "splitkernel_requests_total",
        "Requests answered.",
        "kind",
        &stats.requests,
    );
    for (name, help, value) in [
        (
            "splitkernel_file_read_bytes_total",
            "Bytes read from files.",
            stats.bytes_read,
        ),
        (
            "splitkernel_file_written_bytes_total",
            "Bytes written to files.",
            stats.bytes_written,
        ),
        (
            "splitkernel_request_errors_total",
            "Requests that ended in an errno.",
            stats.errors,
        ),
    ] {
        out.counter(name, help, value);
    }
    out.gauge("splitkernel_storage_clients", "Connected clients.", clients);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_the_right_way() {
        let stats = StorageStats {
            requests: vec![("open".to_owned(), 3)],
            bytes_read: 20,
            bytes_written: 10,
            errors: 1,
        };
        let text = exposition("s0", &stats, 2).into_text();
        for line in [
            r#"splitkernel_requests_total{kind="open"} 3"#,
            "splitkernel_file_read_bytes_total 20",
            "splitkernel_file_written_bytes_total 10",
            "splitkernel_request_errors_total 1",
            "splitkernel_storage_clients 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }
}
