//! When to start a component again that died: at once, but ever later if it
//! keeps dying. Pure, no clock.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// One that lived for so long is well again.
const WELL: Duration = Duration::from_secs(10);

/// The memory of one component's deaths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    started: Instant,
    early_deaths: u32,
}

impl Backoff {
    pub(super) fn new(now: Instant) -> Backoff {
        Backoff {
            started: now,
            early_deaths: 0,
        }
    }

    /// It died: when to start it again.
    pub(super) fn handle_death(&mut self, now: Instant) -> Instant {
        if now.duration_since(self.started) >= WELL {
            self.early_deaths = 0;
        }
        let delay = match self.early_deaths {
            0 => Duration::ZERO,
            n => FIRST.saturating_mul(1 << (n - 1).min(16)).min(LONGEST),
        };
        self.early_deaths = self.early_deaths.saturating_add(1);
        self.started = now + delay;
        self.started
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_once_then_ever_later_then_at_once_again() {
        let mut now = Instant::now();
        let mut backoff = Backoff::new(now);
        let mut delays = Vec::new();
        for _ in 0..10 {
            let at = backoff.handle_death(now);
            delays.push(at - now);
            now = at + Duration::from_millis(1);
        }
        assert_eq!(delays[0], Duration::ZERO);
        assert_eq!(delays[1], FIRST);
        assert!(delays.is_sorted());
        assert_eq!(delays[9], LONGEST);
        now += WELL;
        assert_eq!(backoff.handle_death(now), now);
    }
}
