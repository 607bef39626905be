//! Processes: their beginning and their end.

use super::records::{Change, ProcessRecord};
use super::{Core, Decision, Note, not_permitted};
use proto::gmm::{GmmReply, ProcessGrant, Refusal};
use proto::{Identity, NodeId, NodeKind, ProcessId};

/// Longest name kept of a program, characters.
const MAX_NAME: usize = 255;

impl Core {
    /// Chooses a processor component for a program.
    pub(super) fn place_process(&self, from: Identity) -> Result<Decision, Refusal> {
        if from != Identity::Operator {
            return Err(not_permitted(
                "placing a process needs the operator's identity",
            ));
        }
        let node = self.choose(NodeKind::Processor, 0, &[])?;
        let notes = vec![Note::Chosen(node.id, NodeKind::Processor, 0)];
        Ok(Decision {
            reply: GmmReply::Placed(node.info()),
            changes: Vec::new(),
            notes,
        })
    }

    /// Numbers a process and chooses who will serve it.
    pub(super) fn create_process(
        &self,
        from: Identity,
        node: NodeId,
        name: &str,
    ) -> Result<Decision, Refusal> {
        let processor = self.speaking(from)?;
        if processor.id != node || processor.kind != NodeKind::Processor {
            return Err(not_permitted(
                "a processor component creates processes, for itself",
            ));
        }
        let home = self.choose(NodeKind::Memory, 0, &[])?;
        let storage = self.storage_for(b"/")?;
        let id = ProcessId(self.next_process);
        let process = ProcessRecord {
            id,
            name: name
                .chars()
                .filter(|c| !c.is_control())
                .take(MAX_NAME)
                .collect(),
            processor: node,
            home: home.id,
        };
        let next = Change::Next {
            node: self.next_node,
            process: id.0 + 1,
        };
        let grant = ProcessGrant {
            process: id,
            home: home.info(),
            storage: storage.info(),
        };
        Ok(Decision {
            reply: GmmReply::Process(grant),
            changes: vec![next, Change::Process(process)],
            notes: vec![Note::Chosen(home.id, NodeKind::Memory, 0)],
        })
    }

    /// A process is over. It may have been over already: a repeated end, or
    /// that of a process whose memory component died, is no error.
    pub(super) fn end_process(
        &self,
        from: Identity,
        process: ProcessId,
    ) -> Result<Decision, Refusal> {
        let node = self.speaking(from)?;
        let changes = match self.processes.get(&process) {
            Some(record) if record.processor != node.id => {
                return Err(not_permitted("another component started that process"));
            }
            Some(_) => vec![Change::EndProcess(process)],
            None if process.0 < self.next_process => Vec::new(),
            None => return Err(Refusal::NoProcess(process)),
        };
        Ok(Decision {
            reply: GmmReply::Done,
            changes,
            notes: Vec::new(),
        })
    }
}
