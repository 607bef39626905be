//! Time for leases: real time, but not the time that gmm itself slept
//! through. A manager that was stopped or starved finds heartbeats waiting for
//! it; it must read them before it calls anybody silent.

use std::time::Duration;

/// A clock that goes on by at most `step` from one reading to the next.
#[derive(Debug)]
pub struct Clock {
    real: Duration,
    now: Duration,
    step: Duration,
}

impl Clock {
    /// Starts at 0 when real time is `real`. Readings should come more often
    /// than `step`.
    #[must_use]
    pub fn new(real: Duration, step: Duration) -> Clock {
        Clock {
            real,
            now: Duration::ZERO,
            step,
        }
    }

    /// The time to go by when real time is `real`.
    pub fn handle_time(&mut self, real: Duration) -> Duration {
        let passed = real.saturating_sub(self.real);
        self.real = self.real.max(real);
        self.now += passed.min(self.step);
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_stalls_do_not_count() {
        let s = Duration::from_secs;
        let mut clock = Clock::new(s(100), s(1));
        assert_eq!(clock.handle_time(s(101)), s(1));
        assert_eq!(clock.handle_time(s(160)), s(2), "stopped for a minute");
        assert_eq!(clock.handle_time(s(150)), s(2), "never backwards");
        assert_eq!(clock.handle_time(s(160)), s(2));
        assert_eq!(clock.handle_time(s(161)), s(3));
    }
}
