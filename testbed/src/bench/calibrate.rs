//! `testbed bench calibrate`: what an emulated network adds, asked against
//! measured, per backend.

use super::Times;
use super::partner::{self, Asker, Partner};
use crate::cli::EmulationSpec;
use crate::ending::Ending;
use crate::out::show;
use crate::table::{nanoseconds, text};
use anyhow::{Context, Result};
use fabric::{ClusterKey, Emulation, Segment};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Networks of the field's papers and of today's data centres.
const USUAL: [&str; 4] = [
    "latency=3us,bandwidth=40Gbit",
    "latency=5us,bandwidth=100Gbit",
    "latency=20us,bandwidth=10Gbit",
    "latency=200us,bandwidth=1Gbit",
];

/// What is moved.
#[derive(Clone, Copy)]
enum Operation {
    Read(u32),
    Write(u32),
    /// There and back again: a round trip of a small message.
    Message,
}

const OPERATIONS: [(&str, Operation); 4] = [
    ("read 4 KiB", Operation::Read(4 << 10)),
    ("read 64 KiB", Operation::Read(64 << 10)),
    ("write 4 KiB", Operation::Write(4 << 10)),
    ("message 64 B", Operation::Message),
];

const MESSAGE: usize = 64;
const LARGEST: usize = 64 << 10;
/// Operations timed for one figure.
const ROUNDS: usize = 400;

/// Measures and shows a table.
pub(crate) fn run(asked: Option<&EmulationSpec>) -> Result<Ending> {
    let specs: Vec<EmulationSpec> = match asked {
        Some(spec) => vec![spec.clone()],
        None => USUAL.iter().filter_map(|text| text.parse().ok()).collect(),
    };
    let heading = [
        "BACKEND",
        "NETWORK",
        "OPERATION",
        "WITHOUT",
        "ASKED",
        "ADDED",
        "ERROR",
        "99%",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for name in ["shm", "tcp"] {
        let target = Target::new(name).with_context(|| format!("a server on {name}"))?;
        for spec in &specs {
            rows.extend(
                measure(&target, name, spec, &mut || Ok(()))?
                    .iter()
                    .map(Added::cells),
            );
        }
    }
    let legend = format!(
        "\nmedians of {ROUNDS} operations. WITHOUT is the operation without a network, ASKED what \
         the network\nis to add, ADDED what it added, 99% the 99th percentile of the whole.\n"
    );
    show(&(text(&rows) + &legend))?;
    Ok(Ending::Exit(0))
}

/// What a network added to an operation. Times in nanoseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Added {
    backend: String,
    network: String,
    operation: &'static str,
    without_ns: u64,
    asked_ns: u64,
    added_ns: u64,
    /// Per cent of what was asked; `None` where nothing was.
    error_percent: Option<f64>,
    /// Of the whole, the 99th percentile.
    p99_ns: u64,
}

impl Added {
    /// As a table has it.
    pub(crate) fn cells(&self) -> Vec<String> {
        vec![
            self.backend.clone(),
            self.network.clone(),
            self.operation.to_owned(),
            nanoseconds(self.without_ns),
            nanoseconds(self.asked_ns),
            nanoseconds(self.added_ns),
            self.error_percent
                .map_or("-".to_owned(), |error| format!("{error:+.1}%")),
            nanoseconds(self.p99_ns),
        ]
    }
}

/// What a network adds on `shm` or `tcp`, per operation.
/// `go_on` is asked before each round; its error ends it.
pub(crate) fn added(
    backend: &str,
    spec: &EmulationSpec,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Added>> {
    let target = Target::new(backend).with_context(|| format!("a server on {backend}"))?;
    measure(&target, backend, spec, go_on)
}

/// All operations over one network. With and without are measured in turn, so
/// that what else the machine does meets both.
fn measure(
    target: &Target,
    backend: &str,
    spec: &EmulationSpec,
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<Added>> {
    let mut plain = target.connect(None)?;
    let mut emulated = target.connect(Some(spec.network.clone()))?;
    let row = |(name, operation): (&'static str, Operation)| {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            go_on()?;
            without.push(plain.time(operation)?);
            with.push(emulated.time(operation)?);
        }
        let (without, with) = (Times::of(without), Times::of(with));
        let asked = asked(&spec.network, operation);
        let added = with.median.saturating_sub(without.median);
        anyhow::Ok(Added {
            backend: backend.to_owned(),
            network: spec.text.clone(),
            operation: name,
            without_ns: whole(without.median),
            asked_ns: whole(asked),
            added_ns: whole(added),
            error_percent: error(asked, added),
            p99_ns: whole(with.p99),
        })
    };
    OPERATIONS.into_iter().map(row).collect()
}

fn whole(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What an operation is to take longer: a round trip, and its bytes at the
/// bandwidth.
fn asked(network: &Emulation, operation: Operation) -> Duration {
    let size = match operation {
        Operation::Read(size) | Operation::Write(size) => u64::from(size),
        Operation::Message => MESSAGE as u64,
    };
    let transfer = network
        .bandwidth_bits
        .map_or(0, |bits| size * 8 * 1_000_000_000 / bits.max(1));
    network.latency + Duration::from_nanos(transfer)
}

fn error(asked: Duration, added: Duration) -> Option<f64> {
    let ratio = || added.as_secs_f64() / asked.as_secs_f64();
    (!asked.is_zero()).then(|| (ratio() - 1.0) * 100.0)
}

/// A server on this machine.
struct Target {
    partner: Partner,
    key: ClusterKey,
    // Its socket is in there.
    _place: tempfile::TempDir,
}

impl Target {
    fn new(backend: &str) -> Result<Target> {
        let place = tempfile::tempdir().context("a directory for the socket")?;
        let listen = match backend {
            "tcp" => "tcp:127.0.0.1:0".to_owned(),
            _ => format!("shm:{}", place.path().join("socket").display()),
        };
        let key = ClusterKey::generate()?;
        Ok(Target {
            partner: Partner::new(&listen, &key)?,
            key,
            _place: place,
        })
    }

    fn connect(&self, emulation: Option<Emulation>) -> Result<Client> {
        Ok(Client {
            asker: Asker::new(&self.partner.address(), &self.key, emulation)?,
            message: partner::echo(MESSAGE),
            bytes: vec![0; LARGEST],
        })
    }
}

struct Client {
    asker: Asker,
    message: Vec<u8>,
    bytes: Vec<u8>,
}

impl Client {
    fn time(&mut self, operation: Operation) -> Result<Duration> {
        let begun = Instant::now();
        match operation {
            Operation::Read(len) => {
                let segment = Segment {
                    local: 0,
                    len,
                    remote: self.asker.memory,
                };
                self.asker.connection.read(&[segment], &mut self.bytes)?;
            }
            Operation::Write(len) => {
                let segment = Segment {
                    local: 0,
                    len,
                    remote: self.asker.memory,
                };
                self.asker.connection.write(&[segment], &self.bytes)?;
            }
            Operation::Message => {
                self.asker.connection.call(&self.message)?;
            }
        }
        Ok(begun.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_a_round_trip_and_the_bytes() {
        let spec: EmulationSpec = "latency=3us,bandwidth=40Gbit".parse().unwrap();
        let time = |operation| asked(&spec.network, operation).as_nanos();
        assert_eq!(time(Operation::Read(4096)), 3000 + 4096 * 8 / 40);
        assert_eq!(time(Operation::Message), 3000 + 12);
        assert_eq!(
            USUAL
                .iter()
                .filter(|t| t.parse::<EmulationSpec>().is_err())
                .count(),
            0
        );
    }

    #[test]
    fn errors_have_a_sign() {
        let us = Duration::from_micros;
        let rounded = |asked, added| error(us(asked), us(added)).map(f64::round);
        assert_eq!(rounded(100, 110), Some(10.0));
        assert_eq!(rounded(100, 90), Some(-10.0));
        assert_eq!(rounded(0, 90), None);
    }
}
