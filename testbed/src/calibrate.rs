//! `testbed bench calibrate`: what an emulated network adds, asked against
//! measured, per backend.

use crate::cli::EmulationSpec;
use crate::ending::Ending;
use crate::out::show;
use crate::table::{nanoseconds, text};
use anyhow::{Context, Result};
use fabric::{
    Access, BackendChoice, ClusterKey, Connection, Credential, Emulation, Options, Responder,
    Segment, Server, Service,
};
use proto::Identity;
use proto::addr::RemoteAddr;
use std::sync::Arc;
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
    for (name, choice) in [("shm", BackendChoice::Shm), ("tcp", BackendChoice::Tcp)] {
        let target = Target::new(choice).with_context(|| format!("a server on {name}"))?;
        for spec in &specs {
            rows.extend(measure(&target, name, spec)?);
        }
    }
    let legend = format!(
        "\nmedians of {ROUNDS} operations. WITHOUT is the operation without a network, ASKED what \
         the network\nis to add, ADDED what it added, 99% the 99th percentile of the whole.\n"
    );
    show(&(text(&rows) + &legend))?;
    Ok(Ending::Exit(0))
}

/// All operations over one network. With and without are measured in turn, so
/// that what else the machine does meets both.
fn measure(target: &Target, backend: &str, spec: &EmulationSpec) -> Result<Vec<Vec<String>>> {
    let mut plain = target.connect(None)?;
    let mut emulated = target.connect(Some(spec.network.clone()))?;
    let row = |(name, operation): (&str, Operation)| {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            without.push(plain.time(operation)?);
            with.push(emulated.time(operation)?);
        }
        let (without, with) = (Quantiles::of(without), Quantiles::of(with));
        let asked = asked(&spec.network, operation);
        let added = with.median.saturating_sub(without.median);
        anyhow::Ok(vec![
            backend.to_owned(),
            spec.text.clone(),
            name.to_owned(),
            shown(without.median),
            shown(asked),
            shown(added),
            error(asked, added),
            shown(with.p99),
        ])
    };
    OPERATIONS.into_iter().map(row).collect()
}

fn shown(time: Duration) -> String {
    nanoseconds(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
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

fn error(asked: Duration, added: Duration) -> String {
    if asked.is_zero() {
        return "-".to_owned();
    }
    format!(
        "{:+.1}%",
        (added.as_secs_f64() / asked.as_secs_f64() - 1.0) * 100.0
    )
}

struct Quantiles {
    median: Duration,
    p99: Duration,
}

impl Quantiles {
    fn of(mut times: Vec<Duration>) -> Quantiles {
        times.sort_unstable();
        let at = |share: usize| {
            times
                .get(times.len() * share / 100)
                .copied()
                .unwrap_or_default()
        };
        Quantiles {
            median: at(50),
            p99: at(99),
        }
    }
}

/// Answers every message with itself.
struct Echo;

impl Service for Echo {
    fn call(&self, _peer: Identity, request: &[u8], reply: Responder) {
        reply.send(request);
    }
}

/// A server with memory to read and write.
struct Target {
    server: Server,
    key: ClusterKey,
    memory: RemoteAddr,
    choice: BackendChoice,
    // Its socket is in there; its memory goes with it.
    _region: fabric::Region,
    _place: tempfile::TempDir,
}

impl Target {
    fn new(choice: BackendChoice) -> Result<Target> {
        let place = tempfile::tempdir().context("a directory for the socket")?;
        let listen = match choice {
            BackendChoice::Tcp => "tcp:127.0.0.1:0".to_owned(),
            _ => format!("shm:{}", place.path().join("socket").display()),
        };
        let key = ClusterKey::generate()?;
        let server = Server::bind(&[listen], Identity::Operator, key.clone())?;
        let region = server.memory().register(LARGEST as u64, "calibrate")?;
        region.populate(0..LARGEST as u64)?;
        let granted = region.grant(Identity::Operator, 0..LARGEST as u64, Access::ReadWrite)?;
        server.serve(Arc::new(Echo))?;
        let memory = RemoteAddr {
            key: granted,
            offset: 0,
        };
        Ok(Target {
            server,
            key,
            memory,
            choice,
            _region: region,
            _place: place,
        })
    }

    fn connect(&self, emulation: Option<Emulation>) -> Result<Client> {
        let identity = Identity::Operator;
        let credential = Credential {
            identity,
            secret: self.key.derive(identity),
        };
        let options = Options {
            choice: self.choice,
            emulation,
            ..Options::default()
        };
        let connection = Connection::open(&self.server.addrs(), &credential, &options)?;
        Ok(Client {
            connection,
            memory: self.memory,
            bytes: vec![0; LARGEST],
        })
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.server.shutdown();
    }
}

struct Client {
    connection: Connection,
    memory: RemoteAddr,
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
                    remote: self.memory,
                };
                self.connection.read(&[segment], &mut self.bytes)?;
            }
            Operation::Write(len) => {
                let segment = Segment {
                    local: 0,
                    len,
                    remote: self.memory,
                };
                self.connection.write(&[segment], &self.bytes)?;
            }
            Operation::Message => {
                self.connection.call(&self.bytes[..MESSAGE])?;
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
        assert_eq!(error(us(100), us(110)), "+10.0%");
        assert_eq!(error(us(100), us(90)), "-10.0%");
        assert_eq!(error(us(0), us(90)), "-");
    }

    #[test]
    fn quantiles_of_known_times() {
        let times = (1..=100).rev().map(Duration::from_micros).collect();
        let Quantiles { median, p99 } = Quantiles::of(times);
        assert_eq!((median.as_micros(), p99.as_micros()), (51, 100));
    }
}
