//! Which component gets what.

use super::policy::Candidate;
use super::records::{Change, NodeRecord};
use super::{Core, Decision, Note, not_permitted};
use proto::gmm::{GmmReply, Refusal};
use proto::store::FileId;
use proto::{Identity, NodeId, NodeKind, ProcessId, VRegionId};

impl Core {
    /// The memory component for a vRegion: where it is, or one by policy.
    pub(super) fn place_vregion(
        &self,
        from: Identity,
        (process, vregion): (ProcessId, VRegionId),
        bytes: u64,
        not: &[NodeId],
    ) -> Result<Decision, Refusal> {
        let home = self
            .processes
            .get(&process)
            .ok_or(Refusal::NoProcess(process))?
            .home;
        if from != Identity::Process(process) && self.speaking(from)?.id != home {
            return Err(not_permitted("that process has another home"));
        }
        if let Some(node) = self
            .vregions
            .get(&(process, vregion))
            .filter(|n| !not.contains(n))
            && let Some(node) = self.nodes.get(node).filter(|n| n.alive)
        {
            return Ok(Decision::only(GmmReply::Placed(node.info())));
        }
        let node = self.choose(NodeKind::Memory, bytes, not)?;
        Ok(Decision {
            reply: GmmReply::Placed(node.info()),
            changes: vec![Change::VRegion(process, vregion, node.id)],
            notes: vec![Note::Chosen(node.id, NodeKind::Memory, bytes)],
        })
    }

    /// The memory component that caches a file: the one of those that cache
    /// files that weighs most together with the file (rendezvous hashing), so
    /// that nothing need be remembered for each file, and the death of one
    /// moves only the files that it had.
    pub(super) fn place_file(&self, file: FileId, storage: NodeId) -> Result<Decision, Refusal> {
        let known = self
            .nodes
            .get(&storage)
            .is_some_and(|n| n.kind == NodeKind::Storage);
        if !known {
            return Err(Refusal::NoComponent(NodeKind::Storage));
        }
        let caches = self.live(NodeKind::Memory).filter(|n| n.caches_files);
        let chosen = caches.max_by_key(|n| (weight(n.id, file, storage), n.id));
        let node = chosen.ok_or(Refusal::NoComponent(NodeKind::Memory))?;
        Ok(Decision::only(GmmReply::Placed(node.info())))
    }

    /// A live component by policy. Memory is not refused because of what gmm
    /// believes, only where every live component has said no itself.
    pub(super) fn choose(
        &self,
        kind: NodeKind,
        bytes: u64,
        not: &[NodeId],
    ) -> Result<&NodeRecord, Refusal> {
        let willing = self.live(kind).filter(|n| !not.contains(&n.id));
        let candidates: Vec<_> = willing.map(|n| self.candidate(n)).collect();
        let last = self.last.get(&kind).copied();
        let chosen = self.config.policy.choose(&candidates, bytes, last);
        chosen.and_then(|id| self.nodes.get(&id)).ok_or_else(|| {
            let full = kind == NodeKind::Memory && self.live(kind).next().is_some();
            if full {
                Refusal::OutOfMemory
            } else {
                Refusal::NoComponent(kind)
            }
        })
    }

    fn candidate(&self, node: &NodeRecord) -> Candidate {
        let soft = self.soft(node.id);
        let mine = self
            .processes
            .values()
            .filter(|p| p.processor == node.id || p.home == node.id);
        Candidate {
            node: node.id,
            capacity: soft.load.capacity,
            reserved: soft.load.reserved.saturating_add(soft.placed),
            processes: mine.count() as u64,
        }
    }
}

/// Mixes the three into 64 bits (the finaliser of SplitMix64, thrice).
fn weight(node: NodeId, file: FileId, storage: NodeId) -> u64 {
    [storage.0, file.dev, file.ino]
        .into_iter()
        .fold(mix(node.0), |hash, part| mix(hash ^ part))
}

fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_spread_over_components() {
        let mut counts = [0_u32; 4];
        for ino in 0..4000 {
            let file = FileId { dev: 1, ino };
            let best = (0..4)
                .max_by_key(|n| weight(NodeId(*n), file, NodeId(9)))
                .unwrap();
            counts[best as usize] += 1;
        }
        assert!(counts.iter().all(|n| (800..1200).contains(n)), "{counts:?}");
    }
}
