//! The whole of it, for people.

use super::{Core, Decision, not_permitted};
use proto::Identity;
use proto::gmm::{GmmReply, NodeStatus, ProcessStatus, Refusal, Status};
use std::time::Duration;

impl Core {
    pub(super) fn status(&self, from: Identity, now: Duration) -> Result<Decision, Refusal> {
        if matches!(from, Identity::Process(_)) {
            return Err(not_permitted("a process may not see the others"));
        }
        Ok(Decision::only(GmmReply::Status(Status {
            policy: self.config.policy.to_string(),
            nodes: self.node_status(now),
            processes: self.process_status(),
        })))
    }

    fn node_status(&self, now: Duration) -> Vec<NodeStatus> {
        let nodes = self.nodes.values().map(|node| {
            let soft = self.soft(node.id);
            let silent = now.saturating_sub(soft.heard).as_millis();
            NodeStatus {
                info: node.info(),
                load: soft.load,
                alive: node.alive,
                silent_ms: u64::try_from(silent).unwrap_or(u64::MAX),
            }
        });
        nodes.collect()
    }

    fn process_status(&self) -> Vec<ProcessStatus> {
        let processes = self.processes.values().map(|process| {
            let all = (process.id, proto::VRegionId(0))..=(process.id, proto::VRegionId(u32::MAX));
            ProcessStatus {
                process: process.id,
                name: process.name.clone(),
                processor: process.processor,
                home: process.home,
                vregions: self
                    .vregions
                    .range(all)
                    .map(|((_, v), node)| (*v, *node))
                    .collect(),
            }
        });
        processes.collect()
    }
}
