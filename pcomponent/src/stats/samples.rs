//! Counters over time: how many misses there were, and bytes, when.

use std::time::Duration;

/// Between two samples, while there are few enough.
const FIRST: Duration = Duration::from_millis(100);
/// Most samples kept.
const MOST: usize = 1000;
/// Longest sleep where nothing changes.
const IDLE: Duration = Duration::from_millis(1600);

/// What a sample says of the process so far: misses, bytes fetched, bytes
/// written back.
pub(crate) type Counts = [u64; 3];

/// A bounded series. Where it is full, every second sample goes and the
/// interval doubles: half of the bound at least is always there, evenly spread
/// from the start. Pure, no clock.
#[derive(Debug)]
pub(crate) struct Samples {
    rows: Vec<[u64; 4]>,
    interval: Duration,
    /// How long nothing has changed.
    idle: Duration,
    /// When that was last seen, nanoseconds.
    looked: u64,
}

impl Samples {
    pub(crate) fn new() -> Samples {
        Samples {
            rows: Vec::new(),
            interval: FIRST,
            idle: Duration::ZERO,
            looked: 0,
        }
    }

    /// So it stands `now`, nanoseconds since the start. What is as before is
    /// not worth a sample; after a pause its end is noted, so that what comes
    /// then is not smeared over it.
    pub(crate) fn handle(&mut self, now: u64, counts: Counts) {
        let last = self.rows.last().copied().unwrap_or_default();
        let [before, old @ ..] = last;
        // Threads were added up one after the other: what was seen to be more
        // before is so still.
        let counts: Counts = std::array::from_fn(|n| counts[n].max(old[n]));
        if old == counts {
            let step = self.interval.max(self.idle);
            self.idle = (self.idle + step).min(IDLE);
        } else {
            if self.looked > before {
                let [misses, fetched, written] = old;
                self.push([self.looked, misses, fetched, written]);
            }
            let [misses, fetched, written] = counts;
            self.push([now, misses, fetched, written]);
            self.idle = Duration::ZERO;
        }
        self.looked = now;
    }

    fn push(&mut self, row: [u64; 4]) {
        if self.rows.len() == MOST {
            let mut odd = false;
            self.rows.retain(|_| {
                odd = !odd;
                odd
            });
            self.interval = self.interval.saturating_mul(2);
        }
        self.rows.push(row);
    }

    /// When to look again: an interval from now, later where nothing has
    /// changed for a while. A sleeping program is not woken for; we are, ever
    /// more seldom.
    pub(crate) fn poll_delay(&self) -> Duration {
        self.interval.max(self.idle)
    }

    /// Rows of `[nanoseconds since the start, misses, bytes fetched, bytes
    /// written back]`.
    pub(crate) fn rows(&self) -> &[[u64; 4]] {
        &self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(d: Duration) -> u64 {
        u64::try_from(d.as_nanos()).unwrap()
    }

    #[test]
    fn bounded_evenly_spread_and_never_backwards() {
        let (mut samples, mut now) = (Samples::new(), 0);
        for n in 1..10_000 {
            now += ns(samples.poll_delay());
            samples.handle(now, [n, n * 4096, 0]);
            assert!(samples.rows().len() <= MOST);
        }
        assert!(samples.rows().len() >= MOST / 2);
        let gaps: Vec<u64> = samples
            .rows()
            .windows(2)
            .map(|pair| pair[1][0] - pair[0][0])
            .collect();
        let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
        assert!(*least > 0 && most / least <= 2, "{least} to {most}");
        assert!(samples.rows().windows(2).all(|p| p[1][1] > p[0][1]));
    }

    #[test]
    fn nothing_new_is_no_sample_and_looked_for_ever_more_seldom() {
        let (mut samples, mut now) = (Samples::new(), 0);
        let mut look = |samples: &mut Samples, counts| {
            now += ns(samples.poll_delay());
            samples.handle(now, counts);
            now
        };
        look(&mut samples, [1, 0, 0]);
        let mut delays = Vec::new();
        let mut last = 0;
        for _ in 0..10 {
            last = look(&mut samples, [1, 0, 0]);
            delays.push(samples.poll_delay());
        }
        assert!(delays.is_sorted() && delays[9] == IDLE, "{delays:?}");
        assert_eq!(samples.rows().len(), 1);
        let at = look(&mut samples, [5, 8, 0]);
        assert_eq!(samples.rows()[1..], [[last, 1, 0, 0], [at, 5, 8, 0]]);
        assert_eq!(samples.poll_delay(), FIRST);
    }
}
