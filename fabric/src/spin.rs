//! When to poll and when to sleep.
//!
//! A thread that waits for its peer first polls the socket for a while, giving
//! the CPU away between two looks, then sleeps. Where both run on one CPU the
//! peer gets it at once; where they run on two, a peer that polls sees a frame
//! within a microsecond, and one that slept must be woken across CPUs, which
//! costs a virtual machine more than all of the polling. Who waits longer than
//! [`LONGEST`] sleeps and costs nothing.
//!
//! Polling in vain again and again (the peer is far away, or slow) makes
//! attempts rarer, but never rare: whether it pays depends on where the
//! scheduler has put the two, and that changes.

use std::time::{Duration, Instant};

/// Nobody polls for longer: a little more than it takes to wake a thread on
/// another CPU of a virtual machine, so that two ends that have both fallen
/// asleep find back to polling.
const LONGEST: Duration = Duration::from_micros(100);
/// Attempts in vain double the number of waits that sleep at once, up to this.
const MOST_SKIPPED: u32 = 3;

/// The decisions of one waiting thread.
#[derive(Debug, Default)]
pub(crate) struct Spin {
    skip: u32,
    skipped_after_miss: u32,
}

/// One wait.
#[derive(Debug)]
pub(crate) struct Attempt {
    until: Option<Instant>,
    polled: bool,
}

impl Spin {
    /// A wait begins.
    pub(crate) fn begin(&mut self) -> Attempt {
        if self.skip > 0 {
            self.skip -= 1;
            return Attempt {
                until: None,
                polled: false,
            };
        }
        Attempt {
            until: Some(Instant::now() + LONGEST),
            polled: true,
        }
    }

    /// The wait ended with what was waited for.
    pub(crate) fn end(&mut self, attempt: &Attempt) {
        match (attempt.polled, attempt.until) {
            (false, _) => {}
            (true, Some(_)) => self.skipped_after_miss = 0,
            (true, None) => {
                self.skipped_after_miss = (self.skipped_after_miss * 2 + 1).min(MOST_SKIPPED);
                self.skip = self.skipped_after_miss;
            }
        }
    }
}

impl Attempt {
    /// Whether there is nothing left but to sleep.
    pub(crate) fn is_over(&self) -> bool {
        self.until.is_none()
    }

    /// Nothing has come yet: whether to poll once more.
    pub(crate) fn again(&mut self) -> bool {
        if self.until.is_some_and(|until| Instant::now() < until) {
            std::thread::yield_now();
            return true;
        }
        self.until = None;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_vain() -> Attempt {
        Attempt {
            until: None,
            polled: true,
        }
    }

    #[test]
    fn attempts_in_vain_become_rarer_and_success_makes_them_usual() {
        let mut spin = Spin::default();
        let mut tried = 0;
        for _ in 0..800 {
            if spin.begin().is_over() {
                continue;
            }
            tried += 1;
            spin.end(&in_vain());
        }
        assert!(
            (190..=215).contains(&tried),
            "{tried} attempts in 800 waits"
        );
        while spin.begin().is_over() {}
        let success = spin.begin();
        spin.end(&Attempt {
            until: Some(Instant::now()),
            ..success
        });
        assert!((0..10).all(|_| {
            let attempt = spin.begin();
            spin.end(&Attempt {
                until: Some(Instant::now()),
                polled: true,
            });
            !attempt.is_over()
        }));
    }

    #[test]
    fn an_attempt_ends() {
        let mut attempt = Spin::default().begin();
        let begun = Instant::now();
        while attempt.again() {}
        assert!(attempt.is_over() && begun.elapsed() >= LONGEST);
    }
}
