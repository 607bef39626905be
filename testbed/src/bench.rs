//! `testbed bench fabric`: latency and bandwidth of the fabric's operations by
//! size, per backend, in the columns of perftest (ib_read_lat, ib_read_bw).

use crate::cli::FabricBench;
use crate::ending::Ending;
use crate::out::show;
use crate::plan::Fabric;
use anyhow::{Context, Result, bail};
use fabric::{
    Access, ClusterKey, Connection, Credential, Options, Region, Responder, Segment, Server,
    Service, Work,
};
use proto::Identity;
use proto::addr::RemoteAddr;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Who measures; the cluster key makes anybody's secret.
const ME: Identity = Identity::Operator;
/// Operations under way when bandwidth is measured.
const WINDOW: usize = 16;
/// Bytes moved at most for one figure of bandwidth.
const MOST_MOVED: usize = 64 << 20;

/// Answers with the request; an empty one with the granted memory.
struct Echo(RemoteAddr);

impl Service for Echo {
    fn call(&self, _: Identity, request: &[u8], reply: Responder) {
        match request {
            [] => reply.answer(&self.0),
            request => reply.send(request),
        }
    }
}

/// A server to be measured.
struct Target {
    server: Server,
    _region: Region,
}

impl Target {
    fn new(listen: String, key: &ClusterKey) -> Result<Target> {
        let server = Server::bind(&[listen], ME, key.clone())?;
        let len = fabric::MOST_POSTED as u64;
        let region = server.memory().register(len, "bench")?;
        region.populate(0..len)?;
        let granted = region.grant(ME, 0..len, Access::ReadWrite)?;
        let at = RemoteAddr {
            key: granted,
            offset: 0,
        };
        server.serve(Arc::new(Echo(at)))?;
        Ok(Target {
            server,
            _region: region,
        })
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.server.shutdown();
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    Read,
    Write,
    Call,
}

impl Operation {
    const ALL: [Operation; 3] = [Operation::Read, Operation::Write, Operation::Call];

    fn name(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Call => "rpc",
        }
    }
}

/// One line of the table.
struct Row {
    backend: String,
    operation: Operation,
    bytes: usize,
    /// Sorted.
    times: Vec<Duration>,
    /// MiB/s; none of calls.
    bandwidth: Option<f64>,
}

impl Row {
    /// Microseconds below which `share` per cent of the operations took.
    fn percentile(&self, share: usize) -> f64 {
        let last = self.times.len().saturating_sub(1);
        micros(self.times.get(last * share / 100).copied())
    }

    fn average(&self) -> f64 {
        let total: Duration = self.times.iter().sum();
        micros(Some(total)) / self.times.len().max(1) as f64
    }

    fn text(&self) -> String {
        let bandwidth = self.bandwidth.map_or("-".to_owned(), |b| format!("{b:.2}"));
        format!(
            "{:<8} {:<6} {:>8} {:>11} {:>12.2} {:>12.2} {:>16.2} {:>12.2} {:>21.2} {:>14}\n",
            self.backend,
            self.operation.name(),
            self.bytes,
            self.times.len(),
            self.percentile(0),
            self.percentile(100),
            self.percentile(50),
            self.average(),
            self.percentile(99),
            bandwidth,
        )
    }

    fn json(&self) -> Value {
        json!({
            "backend": self.backend,
            "operation": self.operation.name(),
            "bytes": self.bytes,
            "iterations": self.times.len(),
            "min_us": self.percentile(0),
            "max_us": self.percentile(100),
            "median_us": self.percentile(50),
            "average_us": self.average(),
            "p99_us": self.percentile(99),
            "mib_per_second": self.bandwidth,
        })
    }
}

fn micros(time: Option<Duration>) -> f64 {
    time.unwrap_or_default().as_secs_f64() * 1e6
}

fn heading() -> String {
    format!(
        "{:<8} {:<6} {:>8} {:>11} {:>12} {:>12} {:>16} {:>12} {:>21} {:>14}\n",
        "backend",
        "op",
        "#bytes",
        "#iterations",
        "t_min[usec]",
        "t_max[usec]",
        "t_typical[usec]",
        "t_avg[usec]",
        "99% percentile[usec]",
        "BW_avg[MiB/s]",
    )
}

/// Measures, or serves who measures.
pub(crate) fn run(args: &FabricBench) -> Result<Ending> {
    match (&args.listen, &args.connect, &args.key) {
        (Some(listen), _, Some(key)) => serve(listen, key),
        (None, Some(address), Some(key)) => {
            let key = ClusterKey::load(key)?;
            let backend = address.split(':').next().unwrap_or_default();
            let rows = measure(backend, std::slice::from_ref(address), &key, args)?;
            output(&rows, args.json)
        }
        (None, None, _) => {
            let mut rows = Vec::new();
            for backend in backends(args.fabric) {
                rows.extend(measure_here(backend, args)?);
            }
            output(&rows, args.json)
        }
        _ => bail!("--listen and --connect need --key FILE: --listen makes the file, copy it"),
    }
}

fn output(rows: &[Row], as_json: bool) -> Result<Ending> {
    if as_json {
        let all: Vec<Value> = rows.iter().map(Row::json).collect();
        show(&format!("{:#}\n", json!({ "rows": all })))?;
    } else {
        let all: String = rows.iter().map(Row::text).collect();
        show(&(heading() + &all))?;
    }
    Ok(Ending::Exit(0))
}

/// All that this host has, or the one that was asked for.
fn backends(asked: Fabric) -> Vec<Fabric> {
    if asked != Fabric::Auto {
        return vec![asked];
    }
    let mut all = vec![Fabric::Shm, Fabric::Tcp];
    let able = |f: &host::probe::Finding| f.level == host::probe::Level::Ok;
    if fabric::verbs::probe().iter().all(able) {
        all.push(Fabric::Verbs);
    }
    all
}

fn measure_here(backend: Fabric, args: &FabricBench) -> Result<Vec<Row>> {
    let place = tempfile::tempdir().context("a directory for the socket")?;
    let key = ClusterKey::generate()?;
    let target = Target::new(backend.listen(place.path(), "bench"), &key)
        .with_context(|| format!("a server on {}", backend.name()))?;
    measure(backend.name(), &target.server.addrs(), &key, args)
}

/// Serves until it is killed, saying how to measure.
fn serve(listen: &str, file: &Path) -> Result<Ending> {
    let key = match file.exists() {
        true => ClusterKey::load(file)?,
        false => {
            let key = ClusterKey::generate()?;
            key.save(file)?;
            key
        }
    };
    let target = Target::new(listen.to_owned(), &key)?;
    let (addrs, file) = (target.server.addrs().join(" "), file.display());
    show(&format!(
        "listening on {addrs}; on the other host: testbed bench fabric --connect ADDRESS --key \
         FILE (a copy of {file}). End with Ctrl-C.\n"
    ))?;
    loop {
        std::thread::park();
    }
}

fn measure(
    backend: &str,
    addrs: &[String],
    key: &ClusterKey,
    args: &FabricBench,
) -> Result<Vec<Row>> {
    let credential = Credential {
        identity: ME,
        secret: key.derive(ME),
    };
    let mut connection = Connection::open(addrs, &credential, &Options::default())?;
    let at: RemoteAddr = connection.ask(&())?;
    let mut client = Client { connection, at };
    let mut rows = Vec::new();
    for operation in Operation::ALL {
        for bytes in &args.sizes {
            rows.push(client.row(backend, operation, *bytes, args.iterations)?);
        }
    }
    Ok(rows)
}

struct Client {
    connection: Connection,
    at: RemoteAddr,
}

impl Client {
    fn row(
        &mut self,
        backend: &str,
        operation: Operation,
        bytes: usize,
        iterations: usize,
    ) -> Result<Row> {
        if bytes == 0 || bytes > fabric::MOST_POSTED {
            bail!("--sizes {bytes}: give 1 to {}", fabric::MOST_POSTED);
        }
        let mut buffer = vec![1; bytes];
        for _ in 0..iterations / 10 {
            self.once(operation, &mut buffer)?;
        }
        let mut times = Vec::with_capacity(iterations);
        for _ in 0..iterations.max(1) {
            let begun = Instant::now();
            self.once(operation, &mut buffer)?;
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        let bandwidth = match operation {
            Operation::Call => None,
            _ => Some(self.bandwidth(operation, bytes, iterations)?),
        };
        Ok(Row {
            backend: backend.to_owned(),
            operation,
            bytes,
            times,
            bandwidth,
        })
    }

    fn segment(&self, bytes: usize) -> [Segment; 1] {
        [Segment {
            local: 0,
            len: bytes as u32,
            remote: self.at,
        }]
    }

    fn once(&mut self, operation: Operation, buffer: &mut [u8]) -> Result<()> {
        let segment = self.segment(buffer.len());
        match operation {
            Operation::Read => self.connection.read(&segment, buffer)?,
            Operation::Write => self.connection.write(&segment, buffer)?,
            Operation::Call => drop(self.connection.call(buffer)?),
        }
        Ok(())
    }

    /// MiB/s, [`WINDOW`] operations being under way.
    fn bandwidth(&mut self, operation: Operation, bytes: usize, iterations: usize) -> Result<f64> {
        let rounds = iterations.min(MOST_MOVED / bytes).max(WINDOW);
        let segment = self.segment(bytes).to_vec();
        let work = |buffer| match operation {
            Operation::Read => Work::Read(segment.clone(), buffer),
            _ => Work::Write(segment.clone(), buffer),
        };
        let mut posted = VecDeque::with_capacity(WINDOW);
        let begun = Instant::now();
        for n in 0..rounds {
            let buffer = match posted.pop_front() {
                Some(ticket) if n >= WINDOW => self.connection.complete(ticket)?,
                _ => vec![1; bytes],
            };
            posted.push_back(self.connection.post(work(buffer))?);
        }
        for ticket in posted {
            self.connection.complete(ticket)?;
        }
        let moved = (rounds * bytes) as f64 / f64::from(1 << 20);
        Ok(moved / begun.elapsed().as_secs_f64().max(1e-9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_of_one_host_are_measured() {
        let args = FabricBench {
            fabric: Fabric::Tcp,
            sizes: vec![1, 70_000],
            iterations: 20,
            listen: None,
            connect: None,
            key: None,
            json: false,
        };
        let rows = measure_here(Fabric::Tcp, &args).unwrap();
        assert_eq!(rows.len(), 6);
        for row in &rows {
            assert_eq!(row.times.len(), 20);
            assert!(row.percentile(0) <= row.percentile(50));
            assert_eq!(row.bandwidth.is_none(), row.operation == Operation::Call);
            assert_eq!(row.json()["backend"], "tcp");
        }
        assert_eq!(rows[0].text().len(), heading().len());
    }

    #[test]
    fn sizes_have_a_limit() {
        let args = FabricBench {
            fabric: Fabric::Shm,
            sizes: vec![fabric::MOST_POSTED + 1],
            iterations: 1,
            listen: None,
            connect: None,
            key: None,
            json: false,
        };
        let error = measure_here(Fabric::Shm, &args).err().unwrap();
        assert!(error.to_string().contains("--sizes"), "{error}");
    }
}
