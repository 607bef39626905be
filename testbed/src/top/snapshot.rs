//! What all components have counted by now.

use crate::standing::Standing;
use crate::table::printable;
use anyhow::{Context, Result, bail};
use proto::NodeKind;
use proto::gmm::Status;
use proto::stats::{MemoryStats, ProgramCounters};
use serde::Deserialize;
use serde_json::Value;
use std::time::Instant;

/// See the module.
pub(super) struct Snapshot {
    pub(super) at: Instant,
    pub(super) programs: Vec<(String, ProgramCounters)>,
    pub(super) memory: Vec<(String, MemoryStats)>,
    /// Who did not answer, and why.
    pub(super) silent: Vec<String>,
}

impl Snapshot {
    /// Asks gmm and each component. A component that does not answer is no
    /// error: the others are shown.
    pub(super) fn take(standing: &Standing) -> Result<Snapshot> {
        let components = standing.components();
        let status = status(&components)?;
        let mut snapshot = Snapshot {
            at: Instant::now(),
            programs: Vec::new(),
            memory: Vec::new(),
            silent: Vec::new(),
        };
        let mut nodes = status.nodes;
        nodes.sort_by(|a, b| a.info.name.cmp(&b.info.name));
        for node in nodes {
            let name = node.info.name;
            if !node.alive {
                snapshot.silent.push(format!("{name} is dead"));
                continue;
            }
            let told = match node.info.kind {
                NodeKind::Memory => snapshot.add_memory(&name, &components[&name]),
                NodeKind::Processor => snapshot.add_programs(&name, standing),
                NodeKind::Storage | NodeKind::Manager => Ok(()),
            };
            if let Err(why) = told {
                snapshot.silent.push(printable(&format!("{name}: {why:#}")));
            }
        }
        Ok(snapshot)
    }

    fn add_memory(&mut self, name: &str, stats: &Value) -> Result<()> {
        if let Some(why) = stats["error"].as_str() {
            bail!("{why}");
        }
        let stats = MemoryStats::deserialize(stats).context("not counters of memory")?;
        self.memory.push((name.to_owned(), stats));
        Ok(())
    }

    fn add_programs(&mut self, name: &str, standing: &Standing) -> Result<()> {
        let programs = standing.programs(name)?;
        let named = programs.into_iter().map(|p| (name.to_owned(), p));
        self.programs.extend(named);
        Ok(())
    }
}

fn status(components: &Value) -> Result<Status> {
    let why = components["error"].as_str();
    if let Some(why) = why.or(components["gmm"]["error"].as_str()) {
        bail!("{why}");
    }
    Status::deserialize(&components["gmm"]).context("gmm told something else than its status")
}
