//! The testbed on machines: each component on its own, reached through its
//! agent as over ssh, but by a serial port.

use super::Standing;
use super::qemu::Node;
use crate::agent::Client;
use crate::cli::Placement;
use crate::config::Description;
use crate::ending::Ending;
use crate::plan::{Fabric, Host, Memory, Plan, Processor, Storage, Via};
use anyhow::{Context, Result};
use proto::process::CacheConfig;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Where a machine has the shared directory.
const SHARE: &str = "/share";
/// How long an agent may take to answer; machines in software are slow.
const MEET_DEADLINE: Duration = Duration::from_secs(60);
/// How long a command may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

/// The first machine runs programs, the last serves files and has gmm, those
/// between are memory. With fewer than three, one does for several.
pub(super) fn description(standing: &Standing, fabric: Fabric) -> Result<Description> {
    let nodes = &standing.nodes;
    let first = nodes.first().context("no machine")?;
    let storage = nodes.iter().find(|n| n.share.is_some()).unwrap_or(first);
    let between: Vec<&Node> = nodes
        .iter()
        .filter(|n| n.name != first.name && n.name != storage.name)
        .collect();
    let memory = if between.is_empty() {
        vec![storage]
    } else {
        between
    };
    let host = |node: &Node| Some(node.name.clone());
    let used = |node: &&Node| {
        let names = [&first.name, &storage.name];
        names.contains(&&node.name) || memory.iter().any(|m| m.name == node.name)
    };
    let plan = Plan {
        fabric,
        emulate: None,
        placement: Placement::default(),
        // A machine in software may be silent for long when others run.
        lease_ms: Some(20_000),
        memory: memory
            .iter()
            .enumerate()
            .map(|(n, node)| Memory {
                name: format!("m{n}"),
                // What the kernel and the initramfs leave.
                size: node.memory / 2,
                host: host(node),
            })
            .collect(),
        storage: vec![Storage {
            name: "s0".to_owned(),
            root: SHARE.into(),
            origin: storage.share.clone(),
            host: host(storage),
        }],
        processors: vec![Processor {
            name: "p0".to_owned(),
            host: host(first),
        }],
        log: None,
        hosts: nodes
            .iter()
            .filter(used)
            .map(|node| Host {
                name: node.name.clone(),
                via: Via::Socket(node.port("agent")),
                address: node.address(),
                // Its init has made one.
                rxe: None,
            })
            .collect(),
        address: None,
        gmm_host: host(storage),
    };
    Ok(Description {
        name: standing.name.clone(),
        plan,
        cache: CacheConfig {
            size: first.memory / 4,
            ..CacheConfig::default()
        },
    })
}

/// Runs a command of a machine's own, with our standard streams.
pub(super) fn execute(node: &Node, command: Vec<Vec<u8>>) -> Result<Ending> {
    let path = node.port("exec");
    let context = || format!("{} does not answer at {}", node.name, path.display());
    let stream = UnixStream::connect(&path).with_context(context)?;
    let reader = stream.try_clone().with_context(context)?;
    let (reader, writer) = (Box::new(reader), Box::new(stream));
    let client = Client::connect(&node.name, "exec", reader, writer, MEET_DEADLINE)?;
    let stdio = [
        rustix::io::dup(rustix::stdio::stdin())?,
        rustix::io::dup(rustix::stdio::stdout())?,
        rustix::io::dup(rustix::stdio::stderr())?,
    ];
    let program = client.exec(command, stdio)?;
    let end = program.wait(COMMAND_DEADLINE)?;
    client.say_goodbye();
    Ok(end.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(count: u8) -> Standing {
        let names = ["processor", "memory", "storage", "node4"];
        let node = |number: u8| Node {
            name: names[usize::from(number) - 1].to_owned(),
            number,
            directory: "/run/x".into(),
            console: "/x.log".into(),
            memory: 1 << 30,
            cpus: 1,
            share: (number == 3).then(|| "/".into()),
        };
        Standing {
            name: "vm".to_owned(),
            directory: "/run/x".into(),
            nodes: (1..=count).map(node).collect(),
        }
    }

    #[test]
    fn each_component_has_its_machine() {
        let plan = description(&standing(4), Fabric::Verbs).unwrap().plan;
        let all: Vec<_> = plan
            .components()
            .iter()
            .map(|(_, name, host)| format!("{name} on {}", host.unwrap_or("none")))
            .collect();
        assert_eq!(
            all,
            [
                "gmm on storage",
                "s0 on storage",
                "m0 on memory",
                "m1 on node4",
                "p0 on processor"
            ]
        );
        assert_eq!(plan.address_of(Some("memory")), Some("10.77.0.2"));
        assert_eq!(plan.storage[0].origin.as_deref(), Some("/".as_ref()));
    }
}
