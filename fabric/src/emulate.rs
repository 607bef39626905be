//! An emulated network.
use std::time::{Duration, Instant};
/// Latency and bandwidth added to every operation of a link, on the asking side.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Emulation {
    /// Added once to every operation.
    pub latency: Duration,
    /// Bits a second; each operation waits for its payload's transfer too.
    pub bandwidth_bits: Option<u64>,
}
impl std::str::FromStr for Emulation {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let mut e = Emulation::default();
        for part in s.split(',') {
            let (k, v) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} is not NAME=VALUE"))?;
            let split = v.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(v.len());
            let n: f64 = v[..split]
                .parse()
                .map_err(|_| format!("{v:?} is not a number with a unit"))?;
            match (k, &v[split..]) {
                ("latency", u) => {
                    let f = match u {
                        "ns" => 1.0,
                        "us" => 1e3,
                        "ms" => 1e6,
                        _ => return Err(format!("latency {v:?}: give ns, us or ms")),
                    };
                    e.latency = Duration::from_nanos((n * f) as u64);
                }
                ("bandwidth", u) => {
                    let f = match u {
                        "Mbit" => 1e6,
                        "Gbit" => 1e9,
                        _ => return Err(format!("bandwidth {v:?}: give Mbit or Gbit")),
                    };
                    e.bandwidth_bits = Some((n * f) as u64);
                }
                _ => return Err(format!("{k:?} is not latency or bandwidth")),
            }
        }
        Ok(e)
    }
}
impl Emulation {
    pub(crate) fn delay(&self, begun: Instant, bytes: usize) {
        let transfer = self.bandwidth_bits.map_or(0, |b| {
            (bytes as u128 * 8 * 1_000_000_000 / u128::from(b.max(1))) as u64
        });
        let end = begun + self.latency + Duration::from_nanos(transfer);
        loop {
            let now = Instant::now();
            if now >= end {
                return;
            }
            let left = end - now;
            if left > Duration::from_micros(200) {
                std::thread::sleep(left - Duration::from_micros(100));
            } else {
                std::hint::spin_loop();
            }
        }
    }
}
