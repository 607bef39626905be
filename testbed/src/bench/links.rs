//! `testbed bench fabric`: what one-sided reads, writes and calls cost over a
//! link, by size. Columns have the names that perftest's users know.

use super::partner::{self, Asker, LARGEST, Partner};
use super::{Times, perftest};
use crate::cli::{BenchFabricArgs, Operation};
use crate::ending::Ending;
use crate::out::show;
use crate::signals::Signals;
use crate::table::text;
use anyhow::{Context, Result, bail};
use fabric::{ClusterKey, Segment, Work};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::Serialize;
use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

/// Fewest operations behind a latency, however slow the link.
const FEWEST: usize = 20;
/// Most, however fast.
const MOST: usize = 200_000;
/// Operations before the clock starts: the first ones map, register, wake up.
const WARM_UP: usize = 10;
/// Operations under way when bandwidth is measured.
const DEPTH: usize = 16;
/// Bytes under way at most.
const UNDER_WAY: usize = 4 << 20;

/// One line of figures.
#[derive(Clone, Debug, Serialize)]
struct Figures {
    backend: String,
    operation: String,
    bytes: usize,
    iterations: usize,
    t_min_us: f64,
    t_typical_us: f64,
    t_avg_us: f64,
    t_99_us: f64,
    t_max_us: f64,
    /// Of operations under way together; perftest's own come without.
    mib_per_second: Option<f64>,
    operations_per_second: Option<f64>,
}

/// Measures and shows.
pub(super) fn run(args: &BenchFabricArgs) -> Result<Ending> {
    if let Some(&size) = args
        .sizes
        .iter()
        .find(|&&s| !(1..=LARGEST as u64).contains(&s))
    {
        bail!("--sizes {size}: give sizes from 1 to {LARGEST} bytes");
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
    let mut table = Table::new(args.json);
    for (n, listen) in args.fabric.bench_addresses(place.path()).iter().enumerate() {
        if n > 0 {
            table.gap()?;
        }
        let partner = Partner::new(listen, &key)?;
        measure(&partner.address(), &key, args, &mut table)?;
    }
    table.end()
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
    let backend = address.split(':').next().unwrap_or_default();
    for &operation in &args.operations {
        for &size in &args.sizes {
            let mut link = Link::new(&mut asker, operation, size as usize);
            let times = link.latency(args.time)?;
            let (bytes, operations) = link.bandwidth(args.time)?;
            let mut figures = Figures::new(backend, operation.name(), size as usize, &times);
            figures.mib_per_second = Some(bytes / f64::from(1 << 20));
            figures.operations_per_second = Some(operations);
            table.add(figures)?;
        }
    }
    if args.perftest {
        let host = perftest::host_of(address)?;
        for tool in perftest::Tool::ALL {
            for &size in &args.sizes {
                let asked = perftest::Asked::new(tool, size);
                let port = asker.perftest(asked)?;
                let times = perftest::measure(host, port, asked)?;
                table.add(Figures::new("perftest", tool.name(), size as usize, &times))?;
            }
        }
    }
    Ok(())
}

/// One operation over one connection.
struct Link<'a> {
    asker: &'a mut Asker,
    operation: Operation,
    size: usize,
    buffer: Vec<u8>,
    question: Vec<u8>,
}

impl Link<'_> {
    fn new(asker: &mut Asker, operation: Operation, size: usize) -> Link<'_> {
        Link {
            asker,
            operation,
            size,
            buffer: vec![0; size],
            question: partner::echo(size),
        }
    }

    fn segment(&self) -> Segment {
        Segment {
            local: 0,
            // At most `LARGEST`.
            len: self.size as u32,
            remote: self.asker.memory,
        }
    }

    fn once(&mut self) -> Result<Duration> {
        let segment = [self.segment()];
        let connection = &mut self.asker.connection;
        let begun = Instant::now();
        match self.operation {
            Operation::Read => connection.read(&segment, &mut self.buffer)?,
            Operation::Write => connection.write(&segment, &self.buffer)?,
            Operation::Rpc => drop(connection.call(&self.question)?),
        }
        Ok(begun.elapsed())
    }

    /// One operation after the other, for `time`.
    fn latency(&mut self, time: Duration) -> Result<Times> {
        for _ in 0..WARM_UP {
            self.once()?;
        }
        let (begun, mut times) = (Instant::now(), Vec::new());
        while times.len() < FEWEST || (begun.elapsed() < time && times.len() < MOST) {
            times.push(self.once()?);
        }
        Ok(Times::of(times))
    }

    fn work(&self, buffer: Vec<u8>) -> Work {
        match self.operation {
            Operation::Read => Work::Read(vec![self.segment()], buffer),
            Operation::Write => Work::Write(vec![self.segment()], buffer),
            Operation::Rpc => Work::Call(partner::sink(self.size)),
        }
    }

    /// Bytes and operations a second with [`DEPTH`] of them under way.
    fn bandwidth(&mut self, time: Duration) -> Result<(f64, f64)> {
        let depth = (UNDER_WAY / self.size).clamp(1, DEPTH);
        let (begun, mut done) = (Instant::now(), 0u32);
        let mut under_way = VecDeque::with_capacity(depth);
        while begun.elapsed() < time || done < FEWEST as u32 {
            let buffer = if under_way.len() == depth {
                done += 1;
                self.asker
                    .connection
                    .complete(under_way.pop_front().context("none under way")?)?
            } else {
                vec![0; self.size]
            };
            let work = self.work(buffer);
            under_way.push_back(self.asker.connection.post(work)?);
        }
        for ticket in under_way {
            done += 1;
            self.asker.connection.complete(ticket)?;
        }
        let rate = f64::from(done) / begun.elapsed().as_secs_f64();
        Ok((rate * self.size as f64, rate))
    }
}

impl Figures {
    fn new(backend: &str, operation: &str, bytes: usize, times: &Times) -> Figures {
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        Figures {
            backend: backend.to_owned(),
            operation: operation.to_owned(),
            bytes,
            iterations: times.count,
            t_min_us: us(times.min),
            t_typical_us: us(times.median),
            t_avg_us: us(times.mean),
            t_99_us: us(times.p99),
            t_max_us: us(times.max),
            mib_per_second: None,
            operations_per_second: None,
        }
    }

    fn cells(&self) -> Vec<String> {
        let time = |us: f64| format!("{us:.2}");
        let maybe = |value: Option<f64>, places: usize| {
            value.map_or("-".to_owned(), |value| format!("{value:.places$}"))
        };
        vec![
            self.backend.clone(),
            self.operation.clone(),
            self.bytes.to_string(),
            self.iterations.to_string(),
            time(self.t_min_us),
            time(self.t_typical_us),
            time(self.t_avg_us),
            time(self.t_99_us),
            time(self.t_max_us),
            maybe(self.mib_per_second, 1),
            maybe(self.operations_per_second.map(|rate| rate / 1e6), 6),
        ]
    }
}

const HEADING: [&str; 11] = [
    "backend",
    "operation",
    "#bytes",
    "#iterations",
    "t_min[usec]",
    "t_typical[usec]",
    "t_avg[usec]",
    "99% percentile[usec]",
    "t_max[usec]",
    "BW average[MB/sec]",
    "MsgRate[Mpps]",
];

/// What was measured, shown as it comes.
struct Table {
    json: bool,
    all: Vec<Figures>,
}

impl Table {
    fn new(json: bool) -> Table {
        Table {
            json,
            all: Vec::new(),
        }
    }

    fn add(&mut self, figures: Figures) -> Result<()> {
        if !self.json {
            let cells = figures.cells();
            let wide = |cell: String, heading: &str| format!("{cell:>w$}", w = heading.len());
            let row: Vec<String> = cells
                .into_iter()
                .zip(HEADING)
                .enumerate()
                .map(|(n, (cell, heading))| match n {
                    0 | 1 => format!("{cell:11}"),
                    _ => wide(cell, heading),
                })
                .collect();
            if self.all.is_empty() {
                let heading: Vec<String> = HEADING
                    .into_iter()
                    .enumerate()
                    .map(|(n, name)| {
                        if n < 2 {
                            format!("{name:11}")
                        } else {
                            name.to_owned()
                        }
                    })
                    .collect();
                show(&text(&[heading]))?;
            }
            show(&text(&[row]))?;
        }
        self.all.push(figures);
        Ok(())
    }

    fn gap(&self) -> Result<()> {
        if self.json { Ok(()) } else { Ok(show("\n")?) }
    }

    fn end(self) -> Result<Ending> {
        if self.json {
            show(&(serde_json::to_string_pretty(&self.all)? + "\n"))?;
        } else {
            show(&format!(
                "\nTimes are of one operation after the other, until it is complete: of rpc, the \
                 answer of\nthe same size. BW and MsgRate are of {DEPTH} under way together; MB \
                 are 2^20 bytes, as perftest has\nthem. ib_write_lat and ib_send_lat print half a \
                 ping-pong, ib_read_lat a whole read.\n"
            ))?;
        }
        Ok(Ending::Exit(0))
    }
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
