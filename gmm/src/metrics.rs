//! What gmm shows to Prometheus.

use member::Exposition;
use proto::NodeKind;
use proto::gmm::Status;

/// Metrics of a status; `None`, where the manager did not say in time, leaves
/// all but the build's out.
#[must_use]
pub fn exposition(status: Option<&Status>) -> Exposition {
    let mut out = Exposition::of(NodeKind::Manager, "gmm");
    let Some(status) = status else { return out };
    let kinds: Vec<String> = status
        .nodes
        .iter()
        .map(|n| n.info.kind.to_string())
        .collect();
    let nodes = || status.nodes.iter().zip(&kinds);
    let labels: Vec<[(&str, &str); 2]> = nodes()
        .map(|(node, kind)| [("component", &*node.info.name), ("kind", &**kind)])
        .collect();
    let by_node = |value: fn(&proto::gmm::NodeStatus) -> u64| {
        let values = status.nodes.iter().map(value);
        let of = labels.iter().map(|l| &l[..]);
        of.zip(values).collect::<Vec<_>>()
    };
    out.gauges(
        "splitkernel_member_up",
        "Whether the component's lease holds.",
        by_node(|n| u64::from(n.alive)),
    );
    let silent = status.nodes.iter().map(|n| n.silent_ms * 1_000_000);
    out.durations(
        "splitkernel_member_silent_seconds",
        "Time since the component was last heard.",
        labels.iter().map(|l| &l[..]).zip(silent),
    );
    out.gauges(
        "splitkernel_member_processes",
        "Processes served or run, as the component told last.",
        by_node(|n| n.load.processes),
    );
    out.gauge(
        "splitkernel_processes",
        "Processes of the testbed.",
        status.processes.len() as u64,
    );
    let regions = status.processes.iter().map(|p| p.vregions.len() as u64);
    out.gauge(
        "splitkernel_placed_regions",
        "Regions of 1 GiB that are placed at memory components.",
        regions.sum(),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_named_and_silence_is_no_claim() {
        let info = proto::gmm::NodeInfo {
            id: proto::NodeId(1),
            kind: NodeKind::Memory,
            name: "m0".to_owned(),
            generation: proto::Generation(1),
            addrs: Vec::new(),
            host: String::new(),
            control: None,
        };
        let node = proto::gmm::NodeStatus {
            info,
            load: proto::gmm::Load::default(),
            alive: true,
            silent_ms: 12,
        };
        let status = Status {
            policy: "round-robin".to_owned(),
            nodes: vec![node],
            processes: Vec::new(),
        };
        let text = exposition(Some(&status)).into_text();
        for line in [
            r#"splitkernel_member_up{component="m0",kind="mcomponent"} 1"#,
            r#"splitkernel_member_silent_seconds{component="m0",kind="mcomponent"} 0.012"#,
            "splitkernel_processes 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        let text = exposition(None).into_text();
        assert!(text.contains("build_info") && !text.contains("processes"));
    }
}
