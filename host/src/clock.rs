//! A cheap clock for measuring the fault path: the time-stamp counter,
//! calibrated once against CLOCK_MONOTONIC.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A reading of the time-stamp counter, in ticks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticks(u64);

/// Reads the counter: no system call, so little beside what it measures.
#[inline]
#[must_use]
pub fn now() -> Ticks {
    // SAFETY: RDTSC has no memory effects and exists on every x86-64 CPU.
    Ticks(unsafe { core::arch::x86_64::_rdtsc() })
}

impl Ticks {
    /// Ticks from `earlier` to this reading; 0 where it runs backwards.
    #[inline]
    #[must_use]
    pub fn since(self, earlier: Ticks) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The reading as a number.
    #[inline]
    #[must_use]
    pub fn count(self) -> u64 {
        self.0
    }
}

/// Nanoseconds of `ticks`.
#[must_use]
pub fn to_ns(ticks: u64) -> u64 {
    let ns = ticks as f64 * ns_per_tick();
    ns as u64
}

/// Nanoseconds in a tick. The first call counts them for 2 ms.
pub fn ns_per_tick() -> f64 {
    static RATE: OnceLock<f64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let (start, ticks) = (Instant::now(), now());
        while start.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        let elapsed = now().since(ticks).max(1);
        start.elapsed().as_nanos() as f64 / elapsed as f64
    })
}
