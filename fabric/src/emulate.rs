//! An emulated network: what an operation costs on top of what it cost here.

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// A network to be emulated. Applied by the initiator to every operation: a
/// transfer of n bytes takes `latency` (a round trip) and n * 8 / bandwidth
/// longer than it took. Transfers over one link share its bandwidth.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Emulation {
    /// Added to each operation: a whole round trip.
    pub latency: Duration,
    /// Bits per second of a link; `None` is no limit.
    pub bandwidth_bits: Option<u64>,
}

/// Longer than this a wait sleeps, as the timer's slack allows, and spins the rest.
const SLEEPS: Duration = Duration::from_micros(300);
/// What a sleep may overrun.
const SLACK: Duration = Duration::from_micros(150);
/// Longer than this a wait lets other threads run.
const YIELDS: Duration = Duration::from_micros(20);

fn number<'a>(value: &'a str, cure: &str) -> Result<(f64, &'a str), String> {
    let unit = value
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(value.len());
    let (digits, unit) = value.split_at(unit);
    let number = digits
        .parse::<f64>()
        .ok()
        .filter(|n| n.is_finite() && *n >= 0.0);
    number
        .map(|n| (n, unit))
        .ok_or_else(|| format!("{value:?} is no number: give {cure}"))
}

fn latency(value: &str) -> Result<Duration, String> {
    let cure = "for example latency=3us (ns, us or ms)";
    let (n, unit) = number(value, cure)?;
    let scale = match unit {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        _ => return Err(format!("latency {value:?} has no unit: give {cure}")),
    };
    let within = Duration::try_from_secs_f64(n * scale)
        .ok()
        .filter(|d| d.as_secs() < 60);
    within.ok_or_else(|| format!("latency {value:?} is too long: give less than a minute"))
}

fn bandwidth(value: &str) -> Result<u64, String> {
    let cure = "for example bandwidth=40Gbit (Kbit, Mbit or Gbit)";
    let (n, unit) = number(value, cure)?;
    let scale = match unit {
        "Kbit" => 1e3,
        "Mbit" => 1e6,
        "Gbit" => 1e9,
        _ => return Err(format!("bandwidth {value:?} has no unit: give {cure}")),
    };
    let bits = n * scale;
    if !(1e3..1e15).contains(&bits) {
        return Err(format!("bandwidth {value:?}: give {cure}"));
    }
    Ok(bits as u64)
}

impl FromStr for Emulation {
    type Err = String;

    /// `latency=3us,bandwidth=40Gbit`, either alone too.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut network = Emulation::default();
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("latency", value)) => network.latency = latency(value)?,
                Some(("bandwidth", value)) => network.bandwidth_bits = Some(bandwidth(value)?),
                _ => return Err(format!("{part:?} is neither latency=... nor bandwidth=...")),
            }
        }
        Ok(network)
    }
}

impl fmt::Display for Emulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "latency={}ns", self.latency.as_nanos())?;
        match self.bandwidth_bits {
            Some(bits) => write!(f, ",bandwidth={}Kbit", bits / 1000),
            None => Ok(()),
        }
    }
}

impl Emulation {
    /// How long `bytes` occupy the link.
    #[must_use]
    pub fn transfer(&self, bytes: usize) -> Duration {
        let bits = bytes as u128 * 8;
        let time = |rate: u64| bits * 1_000_000_000 / u128::from(rate.max(1));
        let nanoseconds = self.bandwidth_bits.map_or(0, time);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

/// One emulated link, shared by the connections over it.
#[derive(Debug)]
pub(crate) struct Wire {
    network: Emulation,
    /// When the last transfer will have left it.
    free: Mutex<Option<Instant>>,
}

impl Wire {
    pub(crate) fn new(network: Emulation) -> Wire {
        Wire {
            network,
            free: Mutex::new(None),
        }
    }

    /// When a transfer that begins at `now` arrives, transfers before it
    /// leaving first.
    pub(crate) fn arrival(&self, now: Instant, bytes: usize) -> Instant {
        let transfer = self.network.transfer(bytes);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let left = free.map_or(now, |at| at.max(now)) + transfer;
        *free = Some(left);
        left + self.network.latency
    }

    /// Waits for as long as a transfer of `bytes` takes.
    pub(crate) fn cross(&self, bytes: usize) {
        wait_until(self.arrival(Instant::now(), bytes));
    }
}

pub(crate) fn wait_until(end: Instant) {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match left {
            Duration::ZERO => return,
            _ if left > SLEEPS => std::thread::sleep(left.saturating_sub(SLACK)),
            _ if left > YIELDS => std::thread::yield_now(),
            _ => std::hint::spin_loop(),
        }
    }
}

/// What an emulated network adds, asked against measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// What it is to add.
    pub asked: Duration,
    /// The median of what it added.
    pub median: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The median's error, as a share of what was asked; 0 where nothing was.
    pub error: f64,
}

/// Measures what `network` adds to `rounds` transfers of `bytes`.
#[must_use]
pub fn calibrate(network: &Emulation, bytes: usize, rounds: usize) -> Calibration {
    let wire = Wire::new(network.clone());
    let mut times: Vec<Duration> = (0..rounds.max(1))
        .map(|_| {
            let begun = Instant::now();
            wire.cross(bytes);
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    let asked = network.latency + network.transfer(bytes);
    let error = match asked {
        Duration::ZERO => 0.0,
        _ => at(50).as_secs_f64() / asked.as_secs_f64() - 1.0,
    };
    Calibration {
        asked,
        median: at(50),
        p99: at(99),
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_written() {
        let network: Emulation = "latency=3us,bandwidth=40Gbit".parse().unwrap();
        assert_eq!(network.latency, Duration::from_micros(3));
        assert_eq!(network.bandwidth_bits, Some(40_000_000_000));
        assert_eq!(network.to_string().parse(), Ok(network));
        let slow: Emulation = "latency=1.5ms".parse().unwrap();
        assert_eq!(
            slow,
            Emulation {
                latency: Duration::from_micros(1500),
                bandwidth_bits: None
            }
        );
        assert_eq!(slow.to_string().parse(), Ok(slow));
    }

    #[test]
    fn what_is_no_network_is_refused_with_a_cure() {
        for text in [
            "",
            "latency",
            "latency=",
            "latency=3",
            "latency=3h",
            "latency=-3us",
            "latency=nanus",
            "latency=99999999ms",
            "bandwidth=40",
            "bandwidth=0Gbit",
            "bandwidth=infGbit",
            "loss=1",
            "latency=3us,,",
        ] {
            let error = text.parse::<Emulation>().unwrap_err();
            assert!(
                error.contains("latency") || error.contains("bandwidth"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn transfers_over_one_link_queue_up() {
        let network: Emulation = "latency=10us,bandwidth=8Gbit".parse().unwrap();
        let (wire, now) = (Wire::new(network), Instant::now());
        let us = Duration::from_micros;
        assert_eq!(wire.arrival(now, 4000), now + us(14));
        assert_eq!(wire.arrival(now, 4000), now + us(18));
        assert_eq!(wire.arrival(now + us(100), 1000), now + us(111));
    }

    #[test]
    fn nothing_arrives_early() {
        let network = Emulation {
            latency: Duration::from_micros(40),
            bandwidth_bits: None,
        };
        let measured = calibrate(&network, 4096, 20);
        assert!(measured.median >= measured.asked && measured.p99 >= measured.median);
        assert!(measured.error >= 0.0);
    }
}
