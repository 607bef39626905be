//! When to poll and when to sleep.
//!
//! A thread that waits for its peer can poll the socket, which is quicker by
//! far when the peer is running on another CPU, or sleep. The kernel wakes a
//! sleeping peer on the sender's own CPU if the sender sleeps right after (a
//! synchronous wake-up, which Unix and TCP sockets ask for): polling then only
//! keeps the peer off the CPU. So a server says in its answers whether it goes
//! on polling ([`crate::frame::AWAKE`]); a client polls only then. A server
//! polls only while requests follow each other closely. Neither polls while
//! other threads want the CPUs.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Nobody polls for longer.
pub(crate) const LONGEST: Duration = Duration::from_micros(30);
/// A step of the polling loop that takes longer was interrupted by another
/// thread: the CPUs are wanted.
const INTERRUPTED: Duration = Duration::from_micros(40);
/// For how long nobody polls after that.
const RESPITE: Duration = Duration::from_millis(20);
/// Attempts in vain double the number of waits that sleep at once, up to this.
const MOST_SKIPPED: u32 = 255;

/// Threads of this process that poll at the moment.
static POLLING: AtomicU32 = AtomicU32::new(0);
/// Until when nobody polls, in nanoseconds since [`origin`].
static WANTED_UNTIL: AtomicU64 = AtomicU64::new(0);

fn origin() -> Instant {
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

fn since_origin(now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(origin()).as_nanos()).unwrap_or(u64::MAX)
}

/// How many threads of a process may poll at once: half of the CPUs, so that
/// who is polled for finds one.
fn most_polling() -> u32 {
    static MOST: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *MOST.get_or_init(|| {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        u32::try_from(cpus / 2).unwrap_or(u32::MAX)
    })
}

/// The decisions of one waiting thread.
#[derive(Debug)]
pub(crate) struct Spin {
    /// Whether there is reason to poll for the next wait.
    worthwhile: bool,
    skip: u32,
    skipped_after_miss: u32,
}

/// One wait.
#[derive(Debug)]
pub(crate) struct Attempt {
    begun: Option<Instant>,
    last: Option<Instant>,
    over: bool,
}

impl Spin {
    pub(crate) fn new() -> Spin {
        Spin {
            worthwhile: false,
            skip: 0,
            skipped_after_miss: 0,
        }
    }

    /// Says whether the next wait is expected to be short.
    pub(crate) fn expect(&mut self, short: bool) {
        self.worthwhile = short;
    }

    /// Whether the next wait will poll.
    pub(crate) fn is_worthwhile(&self) -> bool {
        self.worthwhile && self.skip == 0
    }

    /// A wait begins.
    pub(crate) fn begin(&mut self) -> Attempt {
        let none = Attempt {
            begun: None,
            last: None,
            over: true,
        };
        if !std::mem::take(&mut self.worthwhile) {
            return none;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return none;
        }
        let now = Instant::now();
        if since_origin(now) < WANTED_UNTIL.load(Ordering::Relaxed) {
            return none;
        }
        if POLLING.fetch_add(1, Ordering::Relaxed) >= most_polling() {
            POLLING.fetch_sub(1, Ordering::Relaxed);
            return none;
        }
        Attempt {
            begun: Some(now),
            last: Some(now),
            over: false,
        }
    }

    /// The wait ended with what was waited for.
    pub(crate) fn end(&mut self, attempt: &Attempt) {
        match (attempt.begun, attempt.over) {
            (None, _) => {}
            (Some(_), false) => self.skipped_after_miss = 0,
            (Some(_), true) => {
                self.skipped_after_miss = (self.skipped_after_miss * 2 + 1).min(MOST_SKIPPED);
                self.skip = self.skipped_after_miss;
            }
        }
    }
}

impl Attempt {
    /// Whether there is nothing left but to sleep.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Nothing has come yet: whether to poll once more.
    pub(crate) fn again(&mut self) -> bool {
        let (Some(begun), Some(last), false) = (self.begun, self.last, self.over) else {
            return false;
        };
        std::hint::spin_loop();
        let now = Instant::now();
        if now.saturating_duration_since(last) > INTERRUPTED {
            let until = since_origin(now + RESPITE);
            WANTED_UNTIL.store(until, Ordering::Relaxed);
            self.finish();
        } else if now.saturating_duration_since(begun) > LONGEST {
            self.finish();
        }
        self.last = Some(now);
        !self.over
    }

    fn finish(&mut self) {
        if !std::mem::replace(&mut self.over, true) {
            POLLING.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.over {
            POLLING.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Learns how closely requests follow the answers before them.
#[derive(Debug)]
pub(crate) struct Gaps {
    answered: Option<Instant>,
    /// Weighted mean, recent gaps counting most.
    mean: Duration,
}

impl Gaps {
    pub(crate) fn new() -> Gaps {
        Gaps {
            answered: None,
            mean: LONGEST * 4,
        }
    }

    /// An answer was sent at `now`.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.answered = Some(now);
    }

    /// The next request came at `now`.
    pub(crate) fn requested(&mut self, now: Instant) {
        let Some(answered) = self.answered.take() else {
            return;
        };
        // One long pause is forgotten after a few short gaps.
        let gap = now.saturating_duration_since(answered).min(LONGEST * 8);
        self.mean = (self.mean * 3 + gap) / 4;
    }

    /// Whether the next one is expected while polling lasts.
    pub(crate) fn are_short(&self) -> bool {
        self.mean < LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_learnt_and_forgotten() {
        let (mut gaps, mut now) = (Gaps::new(), Instant::now());
        let mut turn = |gaps: &mut Gaps, us| {
            gaps.answered(now);
            now += Duration::from_micros(us);
            gaps.requested(now);
            gaps.are_short()
        };
        assert!(!turn(&mut gaps, 5), "one short gap is no pattern");
        let learnt = (0..20).position(|_| turn(&mut gaps, 5));
        assert!(learnt.is_some_and(|n| n < 10));
        assert!(!turn(&mut gaps, 1_000_000));
        let again = (0..20).position(|_| turn(&mut gaps, 5));
        assert!(again.is_some_and(|n| n < 10), "a long pause is forgotten");
    }

    #[test]
    fn attempts_in_vain_become_rare() {
        let mut spin = Spin::new();
        let mut tried = 0;
        for _ in 0..1000 {
            spin.expect(true);
            if spin.is_worthwhile() {
                tried += 1;
                let miss = Attempt {
                    begun: Some(Instant::now()),
                    last: None,
                    over: true,
                };
                spin.end(&miss);
            } else {
                assert!(spin.begin().is_over());
            }
        }
        assert!((8..16).contains(&tried), "{tried} attempts in 1000 waits");
    }

    #[test]
    fn without_reason_nobody_polls() {
        let mut spin = Spin::new();
        assert!(spin.begin().is_over());
        spin.expect(false);
        assert!(spin.begin().is_over());
    }
}
