//! `testbed bench`: measures the testbed itself.

mod bare;
mod cache;
mod calibrate;
mod calls;
mod figures;
mod host;
mod links;
mod measure;
mod other;
mod partner;
mod perftest;

pub(crate) use calibrate::{Added, added};
pub(crate) use figures::Figures;
pub(crate) use measure::Step;
pub(crate) use partner::{Asker, Partner};

use crate::cli::Bench;
use crate::ending::Ending;
use anyhow::Result;
use std::time::Duration;

/// `testbed bench`.
pub(crate) fn run(what: &Bench) -> Result<Ending> {
    match what {
        Bench::Calibrate { emulate } => calibrate::run(emulate.as_ref()),
        Bench::Fabric(args) => links::run(args),
        Bench::Cache(args) => cache::run(args),
        Bench::Calls(args) => calls::run(args),
        Bench::Host(args) => host::run(args),
        Bench::Answer { listen, key } => other::run(listen, key),
    }
}

/// What is said of many times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Times {
    count: usize,
    min: Duration,
    median: Duration,
    mean: Duration,
    p99: Duration,
    max: Duration,
}

impl Times {
    /// Of nothing, all are zero.
    fn of(mut times: Vec<Duration>) -> Times {
        times.sort_unstable();
        let count = times.len();
        let at = |share: usize| times.get(count * share / 100).copied().unwrap_or_default();
        let sum: Duration = times.iter().sum();
        Times {
            count,
            min: at(0),
            median: at(50),
            mean: sum / u32::try_from(count.max(1)).unwrap_or(u32::MAX),
            p99: at(99),
            max: times.last().copied().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_known_times() {
        let times = (1..=100).rev().map(Duration::from_micros).collect();
        let times = Times::of(times);
        let us = |time: Duration| time.as_micros();
        assert_eq!(times.count, 100);
        assert_eq!((us(times.min), us(times.max)), (1, 100));
        assert_eq!((us(times.median), us(times.p99)), (51, 100));
        assert_eq!(times.mean.as_nanos(), 50_500);
        assert_eq!(Times::of(Vec::new()).max, Duration::ZERO);
    }
}
