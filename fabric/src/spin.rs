//! When to poll and when to sleep.
//!
//! A thread that waits for its peer first polls the socket for a while, giving
//! the CPU away between two looks, then sleeps. Where both run on one CPU the
//! peer gets it at once; where they run on two, a peer that polls sees a frame
//! at once, and one that slept must be woken across CPUs, which costs a virtual
//! machine more than all of the polling. Who waits longer than
//! [`LONGEST`] sleeps and costs nothing.
//!
//! Polling in vain again and again (the peer is far away, or slow) makes
//! attempts rarer, but never rare: whether it pays depends on where the
//! scheduler has put the two, and that changes.
//!
//! Who waits for an answer from another machine takes no CPU from the peer:
//! it polls as long as answers usually take there, up to [`MOST_PATIENT`].

use std::time::{Duration, Instant};

/// Nobody polls for longer, but for an answer from another machine: a little
/// more than it takes to wake a thread on another CPU of a virtual machine, so
/// that two ends that have both fallen asleep find back to polling.
const LONGEST: Duration = Duration::from_micros(100);
/// Nobody polls for longer.
const MOST_PATIENT: Duration = Duration::from_millis(2);
/// Attempts in vain double the number of waits that sleep at once, up to this.
const MOST_SKIPPED: u32 = 3;
/// A wait that was shorter than expected takes this part of the difference off
/// what is expected.
const LEARNS: u32 = 32;

/// Whom a thread waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Peer {
    /// Anything, or an answer from this machine.
    Here,
    /// An answer from another machine.
    Afar,
}

/// The decisions of one waiting thread.
#[derive(Debug)]
pub(crate) struct Spin {
    skip: u32,
    skipped_after_miss: u32,
    /// How long to poll for what comes from afar.
    patience: Duration,
}

impl Default for Spin {
    fn default() -> Spin {
        Spin {
            skip: 0,
            skipped_after_miss: 0,
            patience: LONGEST,
        }
    }
}

/// One wait.
#[derive(Debug)]
pub(crate) struct Attempt {
    begun: Instant,
    /// When it was last known to go on.
    seen: Instant,
    /// When to sleep; `None` for now.
    until: Option<Instant>,
    polled: bool,
    from: Peer,
}

impl Spin {
    /// A wait begins.
    pub(crate) fn begin(&mut self, from: Peer) -> Attempt {
        let now = Instant::now();
        let polled = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        let time = match from {
            Peer::Here => LONGEST,
            Peer::Afar => self.patience,
        };
        Attempt {
            begun: now,
            seen: now,
            until: polled.then(|| now + time),
            polled,
            from,
        }
    }

    /// The wait ended with what was waited for.
    pub(crate) fn end(&mut self, attempt: &Attempt) {
        if attempt.from == Peer::Afar {
            let seen = match attempt.until {
                Some(_) => attempt.seen,
                // It slept: a look at the clock is the least of its costs.
                None => Instant::now(),
            };
            self.learn(seen - attempt.begun);
        }
        match (attempt.polled, attempt.until) {
            (false, _) => {}
            (true, Some(_)) => self.skipped_after_miss = 0,
            (true, None) => {
                self.skipped_after_miss = (self.skipped_after_miss * 2 + 1).min(MOST_SKIPPED);
                self.skip = self.skipped_after_miss;
            }
        }
    }

    /// An answer from afar took so long.
    fn learn(&mut self, took: Duration) {
        let enough = match took {
            // Such answers are slept for.
            _ if took > MOST_PATIENT => LONGEST,
            took => (took * 2).clamp(LONGEST, MOST_PATIENT),
        };
        if enough > self.patience {
            self.patience = enough;
        } else {
            self.patience -= (self.patience - enough) / LEARNS;
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
        let Some(until) = self.until else {
            return false;
        };
        self.seen = Instant::now();
        if self.seen < until {
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

    fn attempt(polled: bool, over: bool) -> Attempt {
        let now = Instant::now();
        Attempt {
            begun: now,
            seen: now,
            until: (!over).then_some(now),
            polled,
            from: Peer::Here,
        }
    }

    #[test]
    fn attempts_in_vain_become_rarer_and_success_makes_them_usual() {
        let mut spin = Spin::default();
        let mut tried = 0;
        for _ in 0..800 {
            if spin.begin(Peer::Here).is_over() {
                continue;
            }
            tried += 1;
            spin.end(&attempt(true, true));
        }
        assert!(
            (190..=215).contains(&tried),
            "{tried} attempts in 800 waits"
        );
        while spin.begin(Peer::Here).is_over() {}
        spin.end(&attempt(true, false));
        assert!((0..10).all(|_| {
            let polls = !spin.begin(Peer::Here).is_over();
            spin.end(&attempt(true, false));
            polls
        }));
    }

    #[test]
    fn an_attempt_ends() {
        let mut attempt = Spin::default().begin(Peer::Here);
        let begun = Instant::now();
        while attempt.again() {}
        assert!(attempt.is_over() && begun.elapsed() >= LONGEST);
    }

    #[test]
    fn patience_follows_what_answers_from_afar_take() {
        let mut spin = Spin::default();
        let us = Duration::from_micros;
        spin.learn(us(500));
        assert_eq!(spin.patience, us(1000));
        // Answers that take longer than anybody polls teach none.
        for _ in 0..1000 {
            spin.learn(us(5000));
        }
        assert!(spin.patience < us(110), "{:?}", spin.patience);
        spin.learn(us(1500));
        assert_eq!(spin.patience, MOST_PATIENT);
        for _ in 0..1000 {
            spin.learn(us(10));
        }
        assert!(spin.patience < us(110), "{:?}", spin.patience);
        // Nobody who waits for this machine polls longer for it.
        spin.learn(us(1500));
        let here = spin.begin(Peer::Here);
        assert_eq!(here.until, Some(here.begun + LONGEST));
        let afar = spin.begin(Peer::Afar);
        assert_eq!(afar.until, Some(afar.begun + MOST_PATIENT));
    }
}
