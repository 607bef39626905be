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
    origin: Origin,
}

/// Where they come from.
enum Origin {
    /// `testbed run` makes one for each run.
    Runs,
    /// One that is up, by its name.
    Person(String),
    /// Ours: one for each network, from the beginning to the end.
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
        let origin = match &args.on {
            Some(name) => Origin::Person(name.clone()),
            None if args.fresh => Origin::Runs,
            None => Origin::Us(Vec::new()),
        };
        Beds { memory, origin }
    }

    /// Options of `testbed run` for a run of a series, and whether the program's
    /// files are warm as far as we see to it.
    pub(super) fn ready(
        &mut self,
        series: &Series,
        signals: &mut Signals,
    ) -> Result<(Vec<String>, bool), Stopped> {
        let beds = match &mut self.origin {
            Origin::Person(name) => return Ok((on(name), true)),
            Origin::Runs => return Ok((series.network(self.memory), true)),
            Origin::Us(beds) => beds,
        };
        let bed = Bed::of(beds, series);
        bed.tend();
        let cluster = match bed.cluster.take() {
            Some(cluster) => cluster,
            None => {
                bed.warm = false;
                bed.start(self.memory, signals)?
            }
        };
        let cluster = bed.cluster.insert(cluster);
        let directory = cluster.directory().display().to_string();
        Ok((on(&directory), bed.warm))
    }

    /// The program has run on the testbed of a series.
    pub(super) fn warmed(&mut self, series: &Series) {
        if let Origin::Us(beds) = &mut self.origin {
            Bed::of(beds, series).warm = true;
        }
    }

    /// Which components the testbed of a series has lost, and how.
    pub(super) fn tend(&mut self, series: &Series) -> Option<String> {
        match &mut self.origin {
            Origin::Us(beds) => Bed::of(beds, series).tend(),
            _ => None,
        }
    }

    /// Takes ours down.
    pub(super) fn end(self) {
        if let Origin::Us(beds) = self.origin {
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
        let cluster = started.map_err(|why| match why {
            StartError::Signal(signal) => Stopped::Signal(signal),
            StartError::Failed(why) => {
                let network = self.emulate.as_deref().unwrap_or("no emulated network");
                let what = format!("--fabric {}, {network}", self.fabric.name());
                Stopped::Failed(why.context(format!("the testbed for {what}, did not come up")))
            }
        })?;
        Standing::publish("sweep", &cluster)?;
        Ok(cluster)
    }

    /// One that has lost a component is of no more use: which, and how.
    fn tend(&mut self) -> Option<String> {
        let deaths = self.cluster.as_mut().map(Cluster::tend).unwrap_or_default();
        if deaths.is_empty() {
            return None;
        }
        self.cluster = None;
        let each = deaths
            .iter()
            .map(|death| format!("{} {}", death.name, death.how));
        let lost = each.collect::<Vec<_>>().join(", ");
        progress::say(&format!("{lost}: the next run gets a new testbed"));
        Some(lost)
    }
}

fn on(testbed: &str) -> Vec<String> {
    ["--on", testbed].map(str::to_owned).to_vec()
}
