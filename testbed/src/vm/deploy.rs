//! The testbed on the machines: the same deployment as over ssh, but each
//! machine's agent waits behind a socket.

use super::args::UpArgs;
use super::{Machines, Node, qemu};
use crate::cli::Placement;
use crate::config::Description;
use crate::plan::{Host, Memory, Plan, Processor, Storage, Via};
use crate::standing;
use anyhow::Result;
use proto::process::CacheConfig;
use std::path::PathBuf;

/// Where the storage machine has the shared directory; see init.sh.
const SHARE: &str = "/share";
/// Of a memory machine's memory this share is the component's; the kernel and
/// what is in its root file system need some.
const MEMORY_SHARE: (u64, u64) = (1, 2);

/// Emulated in software, a machine may say nothing for long while others run.
const LEASE_MS: u64 = 20_000;

/// Brings it up.
pub(super) fn deploy(args: &UpArgs, machines: &Machines) -> Result<()> {
    standing::bring_up(&Description {
        name: args.name.clone(),
        plan: plan(args, machines),
        cache: CacheConfig::default(),
    })
}

/// Takes it down, if it is up.
pub(super) fn undeploy(name: &str) -> Result<()> {
    if standing::Standing::find(name).is_ok() {
        standing::down(name)?;
    }
    Ok(())
}

/// The first machine runs programs, the last is storage with gmm, those
/// between are memory. Fewer share what there is.
fn plan(args: &UpArgs, machines: &Machines) -> Plan {
    let nodes: Vec<Node> = Node::all(machines.nodes).collect();
    let name = |node: &Node| Some(node.to_string());
    let (first, last) = (nodes.first(), nodes.last());
    let between = match nodes.len() {
        0..=2 => last.into_iter().copied().collect(),
        count => nodes[1..count - 1].to_vec(),
    };
    let (part, whole) = MEMORY_SHARE;
    let size = args.memory / whole * part / proto::EXTENT_SIZE * proto::EXTENT_SIZE;
    let memory = |(n, node): (usize, &Node)| Memory {
        name: format!("m{n}"),
        size,
        host: name(node),
    };
    let host = |node: &Node| Host {
        name: node.to_string(),
        via: Via::Socket(qemu::agent_socket(&machines.directory, *node)),
        address: node.address(),
        // Their init has made one.
        rxe: None,
    };
    Plan {
        fabric: args.fabric,
        emulate: None,
        placement: Placement::default(),
        lease_ms: Some(LEASE_MS),
        memory: between.iter().enumerate().map(memory).collect(),
        storage: vec![Storage {
            name: "s0".to_owned(),
            root: PathBuf::from(SHARE),
            origin: machines.share.clone(),
            host: last.and_then(name),
        }],
        processors: vec![Processor {
            name: "p0".to_owned(),
            host: first.and_then(name),
        }],
        log: args.log.clone(),
        hosts: nodes.iter().map(host).collect(),
        address: None,
        gmm_host: last.and_then(name),
        metrics: std::collections::BTreeMap::new(),
    }
}
