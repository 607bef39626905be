//! `testbed bench fabric`: what one-sided reads, writes and calls cost over a
//! link, by size. Columns have the names that perftest's users know.

use super::bare::{self, How};
use super::figures::{Figures, Table};
use super::measure::{Step, What};
use super::other::Other;
use super::partner::{Asker, LARGEST, Partner};
use super::perftest;
use crate::cli::BenchFabricArgs;
use crate::ending::Ending;
use crate::out::show;
use crate::signals::Signals;
use crate::standing::Standing;
use anyhow::{Context, Result, bail};
use fabric::ClusterKey;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::path::Path;

/// Measures and shows.
pub(super) fn run(args: &BenchFabricArgs) -> Result<Ending> {
    if let Some(&size) = args
        .sizes
        .iter()
        .find(|&&s| !(1..=LARGEST as u64).contains(&s))
    {
        bail!("--sizes {size}: give sizes from 1 to {LARGEST} bytes");
    }
    if let Some(name) = &args.on {
        return on(name, args);
    }
    match (&args.listen, &args.to) {
        (Some(address), _) => listen(address, &key_of(args, true)?),
        (_, Some(address)) => {
            let key = key_of(args, false)?;
            let mut table = Table::new(args.json);
            measure(address, &key, args, &mut table)?;
            table.end()
        }
        _ => here(args),
    }
}

/// Both ends on this machine.
fn here(args: &BenchFabricArgs) -> Result<Ending> {
    let place = tempfile::tempdir().context("a directory for the socket")?;
    let key = ClusterKey::generate()?;
    let file = place.path().join("key");
    key.save(&file).context("a key for both ends")?;
    let mut table = Table::new(args.json);
    for (n, listen) in args.fabric.bench_addresses(place.path()).iter().enumerate() {
        if n > 0 {
            table.gap()?;
        }
        let other = Other::start(listen, &file)?;
        measure(&other.address, &key, args, &mut table)?;
        if listen.starts_with("tcp:") {
            bare(&other, args, &mut table)?;
        }
    }
    table.end()
}

/// What tcp itself costs, between the same two processes.
fn bare(other: &Other, args: &BenchFabricArgs, table: &mut Table) -> Result<()> {
    for how in How::ALL {
        let times = bare::ask(other.port, how, args.time)?;
        table.add(Figures::new("bare", how.name(), bare::ANSWERED, &times))?;
    }
    Ok(())
}

fn key_of(args: &BenchFabricArgs, make: bool) -> Result<ClusterKey> {
    let path = args.key.as_deref().context("give --key FILE")?;
    if make && !path.exists() {
        ClusterKey::generate()?
            .save(path)
            .with_context(|| format!("cannot write the key {}", path.display()))?;
    }
    ClusterKey::load(path).with_context(|| format!("the key {}", path.display()))
}

/// Answers until it is ended.
fn listen(address: &str, key: &ClusterKey) -> Result<Ending> {
    let mut signals = Signals::catch().context("signals")?;
    let partner = Partner::new(address, key)?;
    show(&format!("listening at {}\n", partner.address()))?;
    loop {
        let wait = PollFd::from_borrowed_fd(signals.event(), PollFlags::IN);
        match poll(&mut [wait], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(why) => return Err(why).context("poll"),
        }
        if let Some(signal) = signals.take_ending() {
            return Ok(Ending::Signal(signal));
        }
    }
}

fn measure(
    address: &str,
    key: &ClusterKey,
    args: &BenchFabricArgs,
    table: &mut Table,
) -> Result<()> {
    let network = args.emulate.as_ref().map(|spec| spec.network.clone());
    let mut asker = Asker::new(address, key, network)?;
    let perftest = args.perftest && (args.to.is_some() || address.starts_with("verbs:"));
    for step in steps(args, perftest) {
        table.add(step.measure(&mut asker, address)?)?;
    }
    Ok(())
}

/// What was asked for, in the order of the lines.
fn steps(args: &BenchFabricArgs, perftest: bool) -> Vec<Step> {
    let tools = perftest::Tool::ALL.into_iter().filter(|_| perftest);
    let ours = args.operations.iter().copied().map(What::Ours);
    let step = |what| {
        let sizes = args.sizes.iter();
        sizes.map(move |&size| Step {
            what,
            size,
            time: args.time,
        })
    };
    ours.chain(tools.map(What::Perftest))
        .flat_map(step)
        .collect()
}

/// The links of a testbed that is up, from where programs run.
fn on(name: &str, args: &BenchFabricArgs) -> Result<Ending> {
    let standing = Standing::find(name)?;
    let mut table = Table::new(args.json);
    for link in standing.links()? {
        table.title(&link.describe())?;
        for step in steps(args, args.perftest && link.is_rdma()) {
            let mut figures = standing.measure(&link, step)?;
            figures.link = Some(link.name());
            table.add(figures)?;
        }
    }
    table.end()
}

/// Where both ends on one machine listen, per backend.
impl crate::plan::Fabric {
    fn bench_addresses(self, place: &Path) -> Vec<String> {
        let one = |fabric: Self| fabric.listen(place, "bench", None);
        match self {
            Self::Auto => {
                let able = |found: &host::probe::Finding| found.level == host::probe::Level::Ok;
                let rdma = fabric::verbs::probe().iter().all(able);
                let verbs = rdma.then(|| one(Self::Verbs));
                [one(Self::Shm), one(Self::Tcp)]
                    .into_iter()
                    .chain(verbs)
                    .collect()
            }
            chosen => vec![one(chosen)],
        }
    }
}
