//! What a testbed consists of.

use crate::cli::{Placement, RunArgs};
use clap::ValueEnum;
use fabric::BackendChoice;
use serde::{Deserialize, Serialize};
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

    /// Where a component listens. All are on one machine, so `auto` needs no
    /// port that others could reach.
    pub(crate) fn listen(self, directory: &Path, name: &str) -> String {
        match self {
            Fabric::Auto | Fabric::Shm => {
                format!("shm:{}", directory.join(format!("{name}.sock")).display())
            }
            Fabric::Tcp => "tcp:127.0.0.1:0".to_owned(),
            Fabric::Verbs => "verbs:127.0.0.1:0".to_owned(),
        }
    }
}

/// A testbed on one machine.
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
    /// Names of processor components.
    pub(crate) processors: Vec<String>,
    pub(crate) log: Option<String>,
}

/// A memory component.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
}

/// A storage component.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Storage {
    pub(crate) name: String,
    pub(crate) root: PathBuf,
}

impl Plan {
    /// What `testbed run` makes.
    pub(crate) fn for_run(args: &RunArgs, root: PathBuf) -> Plan {
        Plan {
            fabric: args.fabric,
            emulate: args.emulate.as_ref().map(|emulate| emulate.text.clone()),
            placement: args.placement,
            lease_ms: None,
            memory: (0..args.memory_components)
                .map(|n| Memory {
                    name: format!("m{n}"),
                    size: args.memory,
                })
                .collect(),
            storage: vec![Storage {
                name: "s0".to_owned(),
                root,
            }],
            processors: vec!["p0".to_owned()],
            log: args.log.clone(),
        }
    }

    /// Bytes of all memory components.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory
            .iter()
            .fold(0, |sum, m| sum.saturating_add(m.size))
    }
}
