//! What a testbed consists of.

use crate::cli::{Placement, RunArgs};
use clap::ValueEnum;
use fabric::BackendChoice;
use proto::NodeKind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What carries messages and pages.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fabric {
    /// The best that both ends have: shm on one machine.
    #[default]
    Auto,
    /// Shared memory.
    Shm,
    /// TCP on the loopback interface.
    Tcp,
    /// RDMA: an InfiniBand, RoCE or soft-RoCE device (see `testbed doctor`).
    Verbs,
}

impl Fabric {
    /// As the components' command lines have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Fabric::Auto => "auto",
            Fabric::Shm => "shm",
            Fabric::Tcp => "tcp",
            Fabric::Verbs => "verbs",
        }
    }

    /// As the fabric has it.
    pub(crate) fn choice(self) -> BackendChoice {
        match self {
            Fabric::Auto => BackendChoice::Auto,
            Fabric::Shm => BackendChoice::Shm,
            Fabric::Tcp => BackendChoice::Tcp,
            Fabric::Verbs => BackendChoice::Verbs,
        }
    }

    /// Where a component listens that others reach at `address`; at none, all
    /// are on one machine, and `auto` needs no port that others could reach.
    pub(crate) fn listen(self, directory: &Path, name: &str, address: Option<&str>) -> String {
        match (self, address) {
            (Fabric::Shm, _) | (Fabric::Auto, None) => {
                format!("shm:{}", directory.join(format!("{name}.sock")).display())
            }
            (Fabric::Tcp, None) => "tcp:127.0.0.1:0".to_owned(),
            (Fabric::Verbs, None) => "verbs:127.0.0.1:0".to_owned(),
            (Fabric::Tcp | Fabric::Auto, Some(address)) => {
                format!("tcp:{}:0", bracketed(address))
            }
            (Fabric::Verbs, Some(address)) => format!("verbs:{}:0", bracketed(address)),
        }
    }
}

/// An IPv6 address as it stands before a port (RFC 3986).
fn bracketed(address: &str) -> String {
    match address.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => address.to_owned(),
    }
}

/// A testbed, on one machine or several.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) fabric: Fabric,
    /// The emulated network, as the components take it.
    pub(crate) emulate: Option<String>,
    pub(crate) placement: Placement,
    /// gmm's lease, milliseconds, if not its default.
    pub(crate) lease_ms: Option<u64>,
    pub(crate) memory: Vec<Memory>,
    pub(crate) storage: Vec<Storage>,
    pub(crate) processors: Vec<Processor>,
    pub(crate) log: Option<String>,
    /// Other machines than the operator's.
    #[serde(default)]
    pub(crate) hosts: Vec<Host>,
    /// Where those reach the operator's machine.
    #[serde(default)]
    pub(crate) address: Option<String>,
    /// gmm's host.
    #[serde(default)]
    pub(crate) gmm_host: Option<String>,
    /// Where components show metrics, by their names; the others don't.
    #[serde(default)]
    pub(crate) metrics: BTreeMap<String, SocketAddr>,
}

/// A machine that components run on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) via: Via,
    /// Where other hosts reach it: an address or a name.
    pub(crate) address: String,
    /// A soft-RoCE device to make there.
    pub(crate) rxe: Option<Rxe>,
}

/// How testbed reaches a machine's agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Via {
    /// ssh starts it.
    Ssh(Ssh),
    /// It listens already, behind a Unix socket: a virtual machine's port.
    Socket(PathBuf),
}

/// How ssh(1) reaches a machine.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ssh {
    /// `[user@]host`.
    pub(crate) destination: String,
    pub(crate) port: Option<u16>,
    pub(crate) identity: Option<PathBuf>,
    /// As `-J`.
    pub(crate) jump: Option<String>,
    /// As `-o`, each `Key=value`.
    pub(crate) options: Vec<String>,
    /// Directory for the binaries, on the machine; below its user's home if it
    /// begins with `~/`.
    pub(crate) directory: String,
}

/// A soft-RoCE device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Rxe {
    pub(crate) name: String,
    pub(crate) netdev: String,
}

/// A memory component.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
    /// The operator's machine if none.
    #[serde(default)]
    pub(crate) host: Option<String>,
}

/// A storage component.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Storage {
    pub(crate) name: String,
    pub(crate) root: PathBuf,
    /// The same directory where it lies on the operator's machine, if it does.
    #[serde(default)]
    pub(crate) origin: Option<PathBuf>,
    #[serde(default)]
    pub(crate) host: Option<String>,
}

/// A processor component.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Processor {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) host: Option<String>,
}

impl Plan {
    /// One of each component, on this machine: a memory component of so many
    /// bytes, a storage component with that root.
    pub(crate) fn of_one_each(fabric: Fabric, memory: u64, root: PathBuf) -> Plan {
        Plan {
            fabric,
            emulate: None,
            placement: Placement::default(),
            lease_ms: None,
            memory: vec![Memory {
                name: "m0".to_owned(),
                size: memory,
                host: None,
            }],
            storage: vec![Storage {
                name: "s0".to_owned(),
                root,
                origin: None,
                host: None,
            }],
            processors: vec![Processor {
                name: "p0".to_owned(),
                host: None,
            }],
            log: None,
            hosts: Vec::new(),
            address: None,
            gmm_host: None,
            metrics: BTreeMap::new(),
        }
    }

    /// What `testbed run` makes.
    pub(crate) fn for_run(args: &RunArgs, root: PathBuf) -> Plan {
        let memory = (0..args.memory_components).map(|n| Memory {
            name: format!("m{n}"),
            size: args.memory,
            host: None,
        });
        Plan {
            emulate: args.emulate.as_ref().map(|emulate| emulate.text.clone()),
            placement: args.placement,
            memory: memory.collect(),
            log: args.log.clone(),
            ..Plan::of_one_each(args.fabric, args.memory, root)
        }
    }

    /// Each component's name, kind and host, gmm's first.
    pub(crate) fn components(&self) -> Vec<(NodeKind, &str, Option<&str>)> {
        let gmm = (NodeKind::Manager, "gmm", self.gmm_host.as_deref());
        let storage = self.storage.iter();
        let storage = storage.map(|s| (NodeKind::Storage, &*s.name, s.host.as_deref()));
        let memory = self.memory.iter();
        let memory = memory.map(|m| (NodeKind::Memory, &*m.name, m.host.as_deref()));
        let processors = self.processors.iter();
        let processors = processors.map(|p| (NodeKind::Processor, &*p.name, p.host.as_deref()));
        std::iter::once(gmm)
            .chain(storage)
            .chain(memory)
            .chain(processors)
            .collect()
    }

    /// Where others reach what runs on a host; `None` where all is on the
    /// operator's machine.
    pub(crate) fn address_of(&self, host: Option<&str>) -> Option<&str> {
        match host {
            Some(name) => {
                let mut hosts = self.hosts.iter();
                hosts.find(|h| h.name == name).map(|h| &*h.address)
            }
            None => self.address.as_deref(),
        }
    }

    /// Bytes of all memory components.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory
            .iter()
            .fold(0, |sum, m| sum.saturating_add(m.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_listen_where_others_reach_them() {
        let listen = |fabric: Fabric, address| fabric.listen(Path::new("/run/x"), "m0", address);
        assert_eq!(listen(Fabric::Auto, None), "shm:/run/x/m0.sock");
        assert_eq!(listen(Fabric::Tcp, None), "tcp:127.0.0.1:0");
        assert_eq!(listen(Fabric::Auto, Some("10.0.0.2")), "tcp:10.0.0.2:0");
        assert_eq!(listen(Fabric::Tcp, Some("fd00::2")), "tcp:[fd00::2]:0");
        assert_eq!(listen(Fabric::Tcp, Some("node-2")), "tcp:node-2:0");
    }
}
