//! Command lines of the components.

use super::Cluster;
use crate::component::Start;
use crate::places::Binaries;
use proto::NodeKind;
use std::path::Path;

/// Makes the command lines of one cluster's components.
pub(super) struct Starts<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) binaries: Binaries,
    pub(super) logs: Option<&'a Path>,
}

impl Starts<'_> {
    pub(super) fn gmm(&self) -> Start {
        let plan = &self.cluster.plan;
        let state = self.cluster.directory.join("gmm.redb");
        let mut arguments = self.listen("gmm");
        push(&mut arguments, "--state", state.display());
        push(&mut arguments, "--policy", plan.placement.name());
        // Not whichever happens to register first.
        if let Some(first) = plan.storage.first() {
            push(&mut arguments, "--path", format_args!("/={}", first.name));
        }
        if let Some(lease) = plan.lease_ms {
            push(&mut arguments, "--lease", lease);
        }
        self.start(NodeKind::Manager, "gmm", arguments)
    }

    /// All but gmm, which must be there first.
    pub(super) fn rest(&self) -> Vec<Start> {
        let plan = &self.cluster.plan;
        let storage = plan.storage.iter().map(|storage| {
            let mut arguments = self.member(&storage.name, true);
            push(&mut arguments, "--root", storage.root.display());
            self.start(NodeKind::Storage, &storage.name, arguments)
        });
        let memory = plan.memory.iter().map(|memory| {
            let mut arguments = self.member(&memory.name, true);
            push(&mut arguments, "--memory", memory.size);
            self.start(NodeKind::Memory, &memory.name, arguments)
        });
        let processors = plan.processors.iter().map(|name| self.processor(name));
        storage.chain(memory).chain(processors).collect()
    }

    fn processor(&self, name: &str) -> Start {
        let mut arguments = self.member(name, false);
        push(
            &mut arguments,
            "--control",
            self.cluster.control(name).display(),
        );
        push(&mut arguments, "--fabric", self.cluster.plan.fabric.name());
        if let Some(emulate) = &self.cluster.plan.emulate {
            push(&mut arguments, "--emulate", emulate);
        }
        self.start(NodeKind::Processor, name, arguments)
    }

    /// What all members take.
    fn member(&self, name: &str, listens: bool) -> Vec<String> {
        let mut arguments = if listens {
            self.listen(name)
        } else {
            Vec::new()
        };
        push(&mut arguments, "--name", name);
        for addr in &self.cluster.gmm {
            push(&mut arguments, "--gmm", addr);
        }
        arguments
    }

    fn listen(&self, name: &str) -> Vec<String> {
        let addr = self
            .cluster
            .plan
            .fabric
            .listen(&self.cluster.directory, name);
        vec!["--listen".to_owned(), addr]
    }

    fn start(&self, kind: NodeKind, name: &str, mut arguments: Vec<String>) -> Start {
        push(&mut arguments, "--key", self.cluster.key_path().display());
        if let Some(log) = &self.cluster.plan.log {
            push(&mut arguments, "--log", log);
        }
        let binary = self.binaries.path(&kind.to_string());
        let log = self
            .logs
            .map(|directory| directory.join(format!("{name}.log")));
        Start {
            kind,
            name: name.to_owned(),
            binary,
            arguments,
            log,
        }
    }
}

fn push(arguments: &mut Vec<String>, option: &str, value: impl std::fmt::Display) {
    arguments.push(option.to_owned());
    arguments.push(value.to_string());
}

/// Values of an option that may be repeated.
pub(super) fn values<'a>(
    arguments: &'a [String],
    option: &'a str,
) -> impl Iterator<Item = &'a String> {
    let pairs = arguments.iter().zip(arguments.iter().skip(1));
    pairs
        .filter(move |(name, _)| *name == option)
        .map(|(_, value)| value)
}

/// A port that the system chose is kept for a restart: others know it.
pub(super) fn fix_address(start: &mut Start, addrs: &[String]) {
    let at = start
        .arguments
        .iter()
        .position(|argument| argument == "--listen");
    if let (Some(at), [addr]) = (at, addrs)
        && let Some(value) = start.arguments.get_mut(at + 1)
    {
        value.clone_from(addr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn a_chosen_port_is_kept() {
        let arguments = ["--listen", "tcp:127.0.0.1:0", "--name", "m0"].map(str::to_owned);
        let mut start = Start {
            kind: NodeKind::Memory,
            name: "m0".to_owned(),
            binary: PathBuf::new(),
            arguments: arguments.to_vec(),
            log: None,
        };
        fix_address(&mut start, &["tcp:127.0.0.1:4711".to_owned()]);
        let listens: Vec<_> = values(&start.arguments, "--listen").collect();
        assert_eq!(listens, ["tcp:127.0.0.1:4711"]);
        assert_eq!(start.arguments[2..], ["--name", "m0"]);
    }
}
