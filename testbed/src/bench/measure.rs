//! Measures one operation of one size over one link.

use super::figures::Figures;
use super::partner::{self, Asker};
use super::{Times, perftest};
use crate::cli::Operation;
use anyhow::{Context, Result};
use fabric::{Segment, Work};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Fewest operations behind a latency, however slow the link.
const FEWEST: usize = 20;
/// Most, however fast.
const MOST: usize = 200_000;
/// Operations before the clock starts: the first ones map, register, wake up.
const WARM_UP: usize = 10;
/// Operations under way when bandwidth is measured.
pub(super) const DEPTH: usize = 16;
/// Bytes under way at most.
const UNDER_WAY: usize = 4 << 20;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum What {
    /// The fabric.
    Ours(Operation),
    /// The hardware, by a program of perftest's.
    Perftest(perftest::Tool),
}

/// One line of figures to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(super) what: What,
    /// Bytes.
    pub(super) size: u64,
    /// For each of latency and bandwidth.
    pub(super) time: Duration,
}

impl Step {
    /// It takes no longer.
    pub(crate) fn limit(&self) -> Duration {
        self.time * 2 + Duration::from_secs(90)
    }

    /// Measures, asking the partner at `address`.
    pub(super) fn measure(&self, asker: &mut Asker, address: &str) -> Result<Figures> {
        let Step { what, size, time } = *self;
        let operation = match what {
            What::Ours(operation) => operation,
            What::Perftest(tool) => {
                let host = perftest::host_of(address)?;
                let asked = perftest::Asked::new(tool, size, perftest::is_alone(host));
                let port = asker.perftest(asked)?;
                let times = perftest::measure(host, port, asked)?;
                return Ok(Figures::new("perftest", tool.name(), size as usize, &times));
            }
        };
        let mut link = Link::new(asker, operation, size as usize);
        let times = link.latency(time)?;
        let (bytes, operations) = link.bandwidth(time)?;
        let backend = address.split(':').next().unwrap_or_default();
        let mut figures = Figures::new(backend, operation.name(), size as usize, &times);
        figures.mib_per_second = Some(bytes / f64::from(1 << 20));
        figures.operations_per_second = Some(operations);
        Ok(figures)
    }
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
