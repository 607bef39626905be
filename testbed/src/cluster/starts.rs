//! Command lines of the components.

use super::{Cluster, control_path};
use crate::component::Start;
use crate::places::Binaries;
use crate::plan::Processor;
use anyhow::Result;
use proto::NodeKind;
use std::path::Path;

/// Makes the command lines of one cluster's components.
pub(super) struct Starts<'a> {
    cluster: &'a Cluster,
    binaries: Binaries,
    logs: Option<&'a Path>,
}

/// What to start, and on which other machine, if on one.
pub(super) struct Placed {
    pub(super) start: Start,
    pub(super) host: Option<String>,
}

impl<'a> Starts<'a> {
    pub(super) fn new(cluster: &'a Cluster, logs: Option<&'a Path>) -> Result<Starts<'a>> {
        let binaries = Binaries::find()?;
        Ok(Starts {
            cluster,
            binaries,
            logs,
        })
    }

    pub(super) fn gmm(&self) -> Result<Placed> {
        let plan = &self.cluster.plan;
        let place = self.place(plan.gmm_host.as_deref())?;
        let mut arguments = self.listen(&place, "gmm");
        push(
            &mut arguments,
            "--state",
            place.directory.join("gmm.redb").display(),
        );
        push(&mut arguments, "--policy", plan.placement.name());
        // Not whichever happens to register first.
        if let Some(first) = plan.storage.first() {
            push(&mut arguments, "--path", format_args!("/={}", first.name));
        }
        if let Some(lease) = plan.lease_ms {
            push(&mut arguments, "--lease", lease);
        }
        Ok(self.start(&place, NodeKind::Manager, "gmm", arguments))
    }

    /// All but gmm, which must be there first.
    pub(super) fn rest(&self) -> Result<Vec<Placed>> {
        let plan = &self.cluster.plan;
        let storage = plan.storage.iter().map(|storage| {
            let place = self.place(storage.host.as_deref())?;
            let mut arguments = self.member(&place, &storage.name, true);
            push(&mut arguments, "--root", storage.root.display());
            Ok(self.start(&place, NodeKind::Storage, &storage.name, arguments))
        });
        let memory = plan.memory.iter().map(|memory| {
            let place = self.place(memory.host.as_deref())?;
            let mut arguments = self.member(&place, &memory.name, true);
            push(&mut arguments, "--memory", memory.size);
            Ok(self.start(&place, NodeKind::Memory, &memory.name, arguments))
        });
        let processors = plan.processors.iter().map(|p| self.processor(p));
        storage.chain(memory).chain(processors).collect()
    }

    fn processor(&self, processor: &Processor) -> Result<Placed> {
        let place = self.place(processor.host.as_deref())?;
        let name = &processor.name;
        let mut arguments = self.member(&place, name, false);
        let control = control_path(place.directory, name);
        push(&mut arguments, "--control", control.display());
        push(&mut arguments, "--fabric", self.cluster.plan.fabric.name());
        if let Some(emulate) = &self.cluster.plan.emulate {
            push(&mut arguments, "--emulate", emulate);
        }
        Ok(self.start(&place, NodeKind::Processor, name, arguments))
    }

    fn place<'b>(&'b self, host: Option<&'b str>) -> Result<Place<'b>> {
        let directory = match host {
            None => &self.cluster.directory,
            Some(host) => self.cluster.hosts.client(host)?.directory(),
        };
        let address = self.cluster.plan.address_of(host);
        Ok(Place {
            host,
            directory,
            address,
        })
    }

    /// What all members take.
    fn member(&self, place: &Place<'_>, name: &str, listens: bool) -> Vec<String> {
        let mut arguments = if listens {
            self.listen(place, name)
        } else {
            Vec::new()
        };
        push(&mut arguments, "--name", name);
        for addr in &self.cluster.gmm {
            push(&mut arguments, "--gmm", addr);
        }
        arguments
    }

    fn listen(&self, place: &Place<'_>, name: &str) -> Vec<String> {
        let fabric = self.cluster.plan.fabric;
        let addr = fabric.listen(place.directory, name, place.address);
        vec!["--listen".to_owned(), addr]
    }

    fn start(
        &self,
        place: &Place<'_>,
        kind: NodeKind,
        name: &str,
        mut arguments: Vec<String>,
    ) -> Placed {
        push(
            &mut arguments,
            "--key",
            place.directory.join("key").display(),
        );
        if let Some(metrics) = self.cluster.plan.metrics.get(name) {
            push(&mut arguments, "--metrics", metrics);
        }
        if let Some(log) = &self.cluster.plan.log {
            push(&mut arguments, "--log", log);
        }
        let start = Start {
            kind,
            name: name.to_owned(),
            binary: self.binaries.path(&kind.to_string()),
            arguments,
            log: self.logs.map(|logs| logs.join(format!("{name}.log"))),
        };
        let host = place.host.map(str::to_owned);
        Placed { start, host }
    }
}

/// Where a component is to run.
struct Place<'a> {
    host: Option<&'a str>,
    /// The run directory there.
    directory: &'a Path,
    /// Where others reach it; `None` if all are on one machine.
    address: Option<&'a str>,
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
