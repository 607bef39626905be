//! When to speak to `gmm` next: pure, no clock.

use std::time::Duration;

/// First wait after a failure.
const FIRST_RETRY: Duration = Duration::from_millis(2);
/// Longest wait between attempts before the first registration.
const LONGEST_FIRST_RETRY: Duration = Duration::from_millis(200);

/// Shortest rhythm, whatever lease is granted.
const SHORTEST_RHYTHM: Duration = Duration::from_millis(5);

/// What to tell people about the latest attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// Nothing changed.
    Same,
    /// `gmm` answered until now and does not any more.
    Lost,
    /// `gmm` answers again.
    Back,
}

/// The rhythm of one member: a third of the lease while `gmm` answers, so that
/// two heartbeats may be lost; after a failure soon, then ever later, but
/// never later than the rhythm, because a `gmm` that came back gives its
/// members one lease to be heard.
#[derive(Debug)]
pub(crate) struct Pulse {
    lease: Option<Duration>,
    failures: u32,
}

impl Pulse {
    /// Before the first registration.
    pub(crate) fn new() -> Pulse {
        Pulse {
            lease: None,
            failures: 0,
        }
    }

    /// The lease was granted, or renewed with `None`.
    pub(crate) fn handle_answer(&mut self, lease: Option<Duration>) -> News {
        self.lease = lease.or(self.lease);
        match std::mem::take(&mut self.failures) {
            0 => News::Same,
            _ => News::Back,
        }
    }

    /// `gmm` did not answer.
    pub(crate) fn handle_failure(&mut self) -> News {
        self.failures = self.failures.saturating_add(1);
        if self.failures == 1 {
            News::Lost
        } else {
            News::Same
        }
    }

    /// How long to wait now.
    pub(crate) fn poll_delay(&self) -> Duration {
        let rhythm = self.lease.map_or(LONGEST_FIRST_RETRY, |lease| {
            (lease / 3).max(SHORTEST_RHYTHM)
        });
        match self.failures {
            0 => rhythm,
            n => FIRST_RETRY.saturating_mul(1 << (n - 1).min(16)).min(rhythm),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(2000);

    #[test]
    fn beats_at_a_third_of_the_lease() {
        let mut pulse = Pulse::new();
        assert_eq!(pulse.handle_answer(Some(LEASE)), News::Same);
        assert_eq!(pulse.poll_delay(), LEASE / 3);
        assert_eq!(pulse.handle_answer(None), News::Same);
        assert_eq!(pulse.poll_delay(), LEASE / 3);
    }

    #[test]
    fn backs_off_to_the_rhythm_and_no_further() {
        let mut pulse = Pulse::new();
        pulse.handle_answer(Some(LEASE));
        assert_eq!(pulse.handle_failure(), News::Lost);
        let mut last = pulse.poll_delay();
        assert_eq!(last, FIRST_RETRY);
        for _ in 0..100 {
            assert_eq!(pulse.handle_failure(), News::Same);
            assert!(pulse.poll_delay() >= last);
            last = pulse.poll_delay();
        }
        assert_eq!(last, LEASE / 3);
        assert_eq!(pulse.handle_answer(None), News::Back);
        assert_eq!(pulse.poll_delay(), LEASE / 3);
    }

    #[test]
    fn waits_little_before_the_first_registration() {
        let mut pulse = Pulse::new();
        for _ in 0..40 {
            pulse.handle_failure();
            assert!(pulse.poll_delay() <= LONGEST_FIRST_RETRY);
        }
    }
}
