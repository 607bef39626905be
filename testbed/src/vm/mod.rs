//! Virtual machines: a testbed of several machines on one computer, joined by
//! soft-RoCE, for those who have no RDMA.
//!
//! A *supervisor* (as of testbeds that stay) owns QEMU processes and the
//! [`switch`] that joins them. In each machine [`image`]'s init brings up
//! soft-RoCE and two node agents, behind sockets of the host: one for the
//! testbed that is deployed on the machines, one for `testbed vm exec`.

mod args;
mod client;
mod console;
mod cpio;
mod deploy;
mod image;
mod kernel;
mod modules;
mod packages;
mod qemu;
mod supervisor;
mod switch;

pub(crate) use args::Vm;
pub(crate) use client::run;
pub(crate) use supervisor::supervise;

use crate::places;
use anyhow::{Context, Result, anyhow};
use console::Stage;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use switch::Link;

/// Most machines of one testbed.
const MOST_NODES: u16 = 16;
/// What the machines shall be, as `testbed vm up` understood it.
const ORDER: &str = "order.json";
/// Where what is.
const WHERE: &str = "machines.json";
/// The supervisor's own log.
const SUPERVISOR_LOG: &str = "supervisor.log";

/// A machine's number, from 1 on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub(crate) struct Node(u16);

impl Node {
    fn new(number: u16) -> Option<Node> {
        (1..=MOST_NODES).contains(&number).then_some(Node(number))
    }

    fn number(self) -> u16 {
        self.0
    }

    /// Among all.
    fn index(self) -> usize {
        usize::from(self.0) - 1
    }

    fn all(count: u16) -> impl Iterator<Item = Node> {
        (1..=count).filter_map(Node::new)
    }

    /// On the machines' own network.
    fn address(self) -> String {
        format!("10.77.0.{}", self.0)
    }

    fn mac(self) -> String {
        format!("52:54:00:77:00:{:02x}", self.0)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node{}", self.0)
    }
}

impl From<Node> for u16 {
    fn from(node: Node) -> u16 {
        node.0
    }
}

impl TryFrom<u16> for Node {
    type Error = String;

    fn try_from(number: u16) -> Result<Node, String> {
        Node::new(number).ok_or_else(|| format!("{number} is no machine: 1 to {MOST_NODES}"))
    }
}

impl FromStr for Node {
    type Err = String;

    /// `2` or `node2`.
    fn from_str(text: &str) -> Result<Node, String> {
        let number = text.strip_prefix("node").unwrap_or(text).parse().ok();
        let node = number.and_then(Node::new);
        node.ok_or_else(|| format!("{text:?} is no machine: give 1, 2, ... or node1, node2, ..."))
    }
}

/// What machines shall be made. Kept as [`ORDER`].
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    name: String,
    nodes: u16,
    /// Bytes of each.
    memory: u64,
    cpus: u16,
    kernel: PathBuf,
    initramfs: PathBuf,
    binaries: PathBuf,
    /// A directory of the host that the last machine serves.
    share: Option<PathBuf>,
}

impl Order {
    /// Storage is on the last machine.
    fn share_of(&self, node: Node) -> Option<&Path> {
        let last = node.number() == self.nodes;
        self.share.as_deref().filter(|_| last)
    }
}

/// Machines that are up, as others need to know them. Kept as [`WHERE`].
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Machines {
    /// The run directory.
    directory: PathBuf,
    nodes: u16,
    acceleration: String,
    share: Option<PathBuf>,
}

impl Machines {
    fn read(name: &str) -> Result<Machines> {
        places::check_name(name).map_err(anyhow::Error::msg)?;
        let path = state_directory(name)?.join(WHERE);
        let text = std::fs::read(&path)
            .map_err(|_| anyhow!("no machines {name:?} are up: `testbed vm up --name {name}`"))?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }

    fn supervisor(&self, name: &str) -> Result<UnixStream> {
        let path = supervisor_socket(&self.directory);
        UnixStream::connect(path).with_context(|| {
            format!(
                "the supervisor of the machines {name:?} is gone, and they with it: clear what is \
                 left with `testbed vm down {name}`"
            )
        })
    }

    /// One of them.
    fn check(&self, node: Node) -> Result<()> {
        anyhow::ensure!(
            node.number() <= self.nodes,
            "there is no {node}: there are {}",
            self.nodes
        );
        Ok(())
    }
}

/// What the supervisor is asked: a line of JSON on its socket.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Request {
    Down,
    Status,
    /// Ends a machine as a power cut would.
    Kill(Node),
    /// Changes a machine's cable.
    Link(Node, LinkChange),
}

/// What shall be different; the rest stays.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct LinkChange {
    cut: Option<bool>,
    loss: Option<u32>,
    delay: Option<Duration>,
}

/// What it answers: a line too.
type Reply = Result<Vec<MachineStatus>, String>;

/// A machine as it is now.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct MachineStatus {
    node: Node,
    /// QEMU's; none if it has ended.
    pid: Option<u32>,
    stage: Stage,
    link: Link,
    /// Memory that QEMU uses, bytes.
    resident: Option<u64>,
}

/// Beside the testbeds' own, under a name that none of them can have.
fn state_directory(name: &str) -> Result<PathBuf> {
    Ok(places::state_home()?.join(".vm").join(name))
}

fn supervisor_socket(directory: &Path) -> PathBuf {
    directory.join("supervisor")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_named_by_number() {
        assert_eq!("node3".parse(), Ok(Node(3)));
        assert_eq!("1".parse(), Ok(Node(1)));
        for wrong in ["0", "17", "", "node", "-1", "x"] {
            assert!(wrong.parse::<Node>().is_err(), "{wrong}");
        }
        assert!(serde_json::from_str::<Node>("0").is_err());
        assert_eq!(Node(2).to_string(), "node2");
    }
}
