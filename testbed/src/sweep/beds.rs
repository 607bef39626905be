//! The testbeds that a sweep's runs are on.

use super::args::SweepArgs;
use super::combine::Series;
use super::progress;
use super::rounds::Stopped;
use crate::cluster::{Cluster, StartError};
use crate::places;
use crate::plan::{Fabric, Plan};
use crate::signals::Signals;
use crate::standing::Standing;
use std::path::PathBuf;

/// See the module.
pub(super) struct Beds {
    memory: u64,
    from: Origin,
}

/// Where they come from.
enum Origin {
    /// `testbed run` makes one for each run.
    Runs,
    /// One that is up, by its name.
    Person(String),
    /// Ours: one for each network, from when it is first needed to the end.
    Us(Vec<Bed>),
}

struct Bed {
    fabric: Fabric,
    emulate: Option<String>,
    cluster: Option<Cluster>,
    /// A program has run on it, and its memory component has the files.
    warm: bool,
}

impl Beds {
    pub(super) fn new(args: &SweepArgs, memory: u64) -> Beds {
        let from = match &args.on {
            Some(name) => Origin::Person(name.clone()),
            None if args.fresh => Origin::Runs,
            None => Origin::Us(Vec::new()),
        };
        Beds { memory, from }
    }

    /// Options of `testbed run` for a run of a series, and whether a run is due
    /// before that counts for nothing.
    pub(super) fn ready(
        &mut self,
        series: &Series,
        signals: &mut Signals,
    ) -> Result<(Vec<String>, bool), Stopped> {
        let beds = match &mut self.from {
            Origin::Person(name) => return Ok((vec!["--on".to_owned(), name.clone()], false)),
            Origin::Runs => return Ok((series.network(self.memory), false)),
            Origin::Us(beds) => beds,
        };
        let bed = Bed::of(beds, series);
        bed.tend();
        if bed.cluster.is_none() {
            bed.cluster = Some(bed.start(self.memory, signals)?);
            bed.warm = false;
        }
        let mut options = Vec::new();
        if let Some(cluster) = &bed.cluster {
            let directory = Standing::publish("sweep", cluster)?;
            options = vec!["--on".to_owned(), directory.display().to_string()];
        }
        let cold = !std::mem::replace(&mut bed.warm, true);
        Ok((options, cold))
    }

    /// Takes ours down.
    pub(super) fn end(self) {
        if let Origin::Us(beds) = self.from {
            let clusters = beds.into_iter().filter_map(|bed| bed.cluster);
            clusters.for_each(Cluster::stop);
        }
    }
}

impl Bed {
    /// The one of a series' network.
    fn of<'a>(beds: &'a mut Vec<Bed>, series: &Series) -> &'a mut Bed {
        let same = |bed: &Bed| bed.fabric == series.fabric && bed.emulate == series.emulate;
        let at = beds.iter().position(same).unwrap_or(beds.len());
        if at == beds.len() {
            beds.push(Bed {
                fabric: series.fabric,
                emulate: series.emulate.clone(),
                cluster: None,
                warm: false,
            });
        }
        &mut beds[at]
    }

    fn start(&self, memory: u64, signals: &mut Signals) -> Result<Cluster, Stopped> {
        let plan = Plan {
            emulate: self.emulate.clone(),
            ..Plan::of_one_each(self.fabric, memory, PathBuf::from("/"))
        };
        let directory = places::run_directory("sweep")?;
        let started = Cluster::start(plan, "sweep", directory, None, signals);
        started.map_err(|why| match why {
            StartError::Signal(signal) => Stopped::Signal(signal),
            StartError::Failed(why) => Stopped::Failed(why.context("a testbed did not come up")),
        })
    }

    /// One that has lost a component is of no more use.
    fn tend(&mut self) {
        let deaths = self.cluster.as_mut().map(Cluster::tend);
        for death in deaths.iter().flatten() {
            progress::say(&format!("{} {}: a new testbed", death.name, death.how));
            self.cluster = None;
        }
    }
}
