//! What a component's end means to a program on a testbed of its own.

use super::session::Watch;
use crate::cluster::{Cluster, Death};
use crate::out::warn;
use proto::NodeKind;
use rustix::fd::BorrowedFd;

/// A gmm that ends again and again is left alone: the program needs none.
const MOST_RESTARTS: u32 = 5;

/// Watches a cluster: restarts gmm, on which no running program depends, and
/// takes the end of any other component for the end of the program.
pub(super) struct ClusterWatch<'a> {
    cluster: &'a mut Cluster,
    restarts: u32,
}

impl ClusterWatch<'_> {
    pub(super) fn new(cluster: &mut Cluster) -> ClusterWatch<'_> {
        ClusterWatch {
            cluster,
            restarts: 0,
        }
    }

    fn restart(&mut self, death: &Death) {
        let how = &death.how;
        self.restarts += 1;
        if self.restarts > MOST_RESTARTS {
            warn(&format!(
                "{} {how} once more; going on without it",
                death.name
            ));
            return;
        }
        warn(&format!("{} {how}; starting it again", death.name));
        if let Err(why) = self.cluster.restart(death.index) {
            warn(&format!("{why:#}; going on without it"));
        }
    }
}

impl Watch for ClusterWatch<'_> {
    fn events(&self) -> Vec<BorrowedFd<'_>> {
        self.cluster.events()
    }

    fn failure(&mut self) -> Option<String> {
        let (managers, others): (Vec<Death>, Vec<Death>) = self
            .cluster
            .tend()
            .into_iter()
            .partition(|death| death.kind == NodeKind::Manager);
        managers.iter().for_each(|death| self.restart(death));
        let names = others
            .iter()
            .map(|death| format!("{} {}", death.name, death.how));
        let names: Vec<String> = names.collect();
        (!names.is_empty()).then(|| format!("{}: the program can't go on", names.join(", ")))
    }
}
