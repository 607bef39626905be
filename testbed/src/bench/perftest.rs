//! perftest's own programs on the same pair of machines: what the hardware
//! gives to those who ask it directly.

use super::Times;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long one of its programs may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long the one that waits may take to listen.
const LISTENS: Duration = Duration::from_secs(10);
const ITERATIONS: u32 = 1000;

/// A program of the package.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Tool {
    Read,
    Write,
    Send,
}

impl Tool {
    pub(super) const ALL: [Tool; 3] = [Tool::Read, Tool::Write, Tool::Send];

    pub(super) fn name(self) -> &'static str {
        match self {
            Tool::Read => "ib_read_lat",
            Tool::Write => "ib_write_lat",
            Tool::Send => "ib_send_lat",
        }
    }
}

/// What is to be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    tool: Tool,
    /// Bytes.
    size: u64,
    iterations: u32,
    /// Waits for completion events instead of polling.
    events: bool,
}

impl Asked {
    pub(super) fn new(tool: Tool, size: u64, events: bool) -> Asked {
        Asked {
            tool,
            size,
            events,
            iterations: ITERATIONS,
        }
    }

    fn command(self, port: u16) -> Command {
        let mut command = Command::new(self.tool.name());
        if self.events {
            command.arg("-e");
        }
        command
            .args(["-F", "-s", &self.size.to_string()])
            .args(["-n", &self.iterations.to_string()])
            .args(["-p", &port.to_string()])
            .stdin(Stdio::null());
        command
    }
}

/// What the end that answers says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Waiting {
    /// It waits at this TCP port.
    At(u16),
    /// It can't.
    Not(String),
}

/// Starts the end that waits. It is ended when its deadline is over.
pub(super) fn wait_for(asked: &Asked) -> Waiting {
    let start = || -> Result<u16> {
        // Free now; should another take it meanwhile, the program says so.
        let port = TcpListener::bind(("0.0.0.0", 0))?.local_addr()?.port();
        let mut command = asked.command(port);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        host::child::tie(&mut command);
        let (started, begun) = std::sync::mpsc::channel();
        // It dies with the thread that starts it.
        std::thread::spawn(move || match command.spawn() {
            Ok(mut child) => {
                let _ = started.send(Ok(()));
                let _ = wait(&mut child, DEADLINE);
            }
            Err(why) => {
                let _ = started.send(Err(why));
            }
        });
        begun.recv()?.with_context(|| missing(asked.tool))?;
        Ok(port)
    };
    start().map_or_else(|why| Waiting::Not(format!("{why:#}")), Waiting::At)
}

fn missing(tool: Tool) -> String {
    format!("cannot start {}: install the package perftest", tool.name())
}

fn wait(child: &mut Child, limit: Duration) -> Result<bool> {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    bail!("it did not end within {limit:?}")
}

/// The host of a fabric address.
pub(super) fn host_of(address: &str) -> Result<&str> {
    let place = address.split_once(':').map(|(_, place)| place);
    let host = place.and_then(|place| Some(place.rsplit_once(':')?.0));
    let host = host.map(|host| host.trim_start_matches('[').trim_end_matches(']'));
    host.with_context(|| format!("--perftest needs an address with a host, {address} has none"))
}

/// Whether both ends of a connection to `host` share this machine's only CPU:
/// who polls without pause takes it from the other.
pub(super) fn is_alone(host: &str) -> bool {
    let alone = std::thread::available_parallelism().is_ok_and(|n| n.get() == 1);
    // An address of this machine is one that can be listened at.
    alone && TcpListener::bind((host, 0)).is_ok()
}

/// The end that asks: runs the program until the other listens.
pub(super) fn measure(host: &str, port: u16, asked: Asked) -> Result<Times> {
    let end = Instant::now() + LISTENS;
    loop {
        let mut command = asked.command(port);
        command.arg(host);
        let output = command.output().with_context(|| missing(asked.tool))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if let Some(times) = parse(&text, asked.size) {
            return Ok(times);
        }
        if Instant::now() > end {
            let why = String::from_utf8_lossy(&output.stderr);
            let last = why.lines().chain(text.lines()).last().unwrap_or("nothing");
            bail!("{} to {host} gave no figures: {last}", asked.tool.name());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The line of figures: bytes, iterations, least, most, typical, average,
/// deviation, 99% and 99.9%, in microseconds.
fn parse(text: &str, size: u64) -> Option<Times> {
    let mut lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let cells = lines.find(|cells| cells.len() >= 8 && cells[0] == size.to_string())?;
    let us = |n: usize| {
        let us: f64 = cells.get(n)?.parse().ok()?;
        Duration::try_from_secs_f64(us / 1e6).ok()
    };
    Some(Times {
        count: cells[1].parse().ok()?,
        min: us(2)?,
        max: us(3)?,
        median: us(4)?,
        mean: us(5)?,
        p99: us(7)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_what_it_prints() {
        let text = "\
 local address: LID 0000 QPN 0x0011 PSN 0x4a
---------------------------------------------------------------------------------------
 #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]   99% percentile[usec]   99.9% percentile[usec]
 4096    1000          11.50          98.25        12.75              13.50          4.00            30.25                   98.25
---------------------------------------------------------------------------------------
";
        let times = parse(text, 4096).unwrap();
        let ns = |time: Duration| time.as_nanos();
        assert_eq!(times.count, 1000);
        assert_eq!((ns(times.min), ns(times.max)), (11_500, 98_250));
        assert_eq!((ns(times.median), ns(times.mean)), (12_750, 13_500));
        assert_eq!(ns(times.p99), 30_250);
        assert!(parse(text, 64).is_none());
        assert!(parse("Couldn't connect to 10.0.0.2:1", 4096).is_none());
    }

    #[test]
    fn hosts_of_addresses() {
        assert_eq!(host_of("verbs:10.0.0.2:7471").unwrap(), "10.0.0.2");
        assert_eq!(host_of("tcp:[fe80::1]:80").unwrap(), "fe80::1");
        assert!(host_of("shm:/run/x").is_err());
    }
}
