//! Latency of a backend, server and client in this process: `latency ADDRESS
//! [BYTES [ROUNDS]]`, for example `latency verbs:127.0.0.1:0 4096 1000`.
//! Columns as perftest's, microseconds.

#![allow(clippy::unwrap_used, missing_docs)]

use fabric::{
    Access, ClusterKey, Connection, Credential, FabricError, Options, Responder, Segment, Server,
    Service,
};
use proto::addr::RemoteAddr;
use proto::{Identity, ProcessId};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ME: Identity = Identity::Process(ProcessId(1));

struct Echo;
impl Service for Echo {
    fn call(&self, _: Identity, request: &[u8], reply: Responder) {
        reply.send(request);
    }
}

fn measure(
    what: &str,
    bytes: usize,
    rounds: usize,
    mut once: impl FnMut() -> Result<(), FabricError>,
) -> Result<(), FabricError> {
    for _ in 0..rounds / 10 {
        once()?;
    }
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let begun = Instant::now();
        once()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let micros = |d: Duration| d.as_secs_f64() * 1e6;
    let total: Duration = times.iter().sum();
    println!(
        "{what:8} {bytes:>8} {rounds:>11} {:>12.2} {:>12.2} {:>16.2} {:>12.2} {:>22.2}",
        micros(times[0]),
        micros(times[rounds - 1]),
        micros(times[rounds / 2]),
        micros(total) / rounds as f64,
        micros(times[(rounds - 1) * 99 / 100]),
    );
    Ok(())
}

fn main() -> Result<(), FabricError> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "tcp:127.0.0.1:0".to_owned());
    let mut number = |default| args.next().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (bytes, rounds): (usize, usize) = (number(4096), number(1000));
    let key = ClusterKey::generate()?;
    let server = Server::bind(&[address], Identity::Operator, key.clone())?;
    server.serve(Arc::new(Echo))?;
    let region = server.memory().register(bytes as u64, "latency")?;
    let granted = region.grant(ME, 0..bytes as u64, Access::ReadWrite)?;
    let credential = Credential {
        identity: ME,
        secret: key.derive(ME),
    };
    let options = Options::default();
    let connect = || Connection::open(&server.addrs(), &credential, &options);
    println!(
        "           #bytes #iterations  t_min[usec]  t_max[usec]  t_typical[usec]  t_avg[usec] \
         99% percentile[usec]"
    );
    measure("connect", 0, 10, || connect().map(drop))?;
    let mut connection = connect()?;
    let segments = [Segment {
        local: 0,
        len: bytes as u32,
        remote: RemoteAddr {
            key: granted,
            offset: 0,
        },
    }];
    let mut buffer = vec![0; bytes];
    measure("read", bytes, rounds, || {
        connection.read(&segments, &mut buffer)
    })?;
    measure("write", bytes, rounds, || {
        connection.write(&segments, &buffer)
    })?;
    measure("call", bytes, rounds, || connection.call(&buffer).map(drop))?;
    server.shutdown();
    Ok(())
}
