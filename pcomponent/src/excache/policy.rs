//! Replacement: which way of a full set goes.
//!
//! User space sees no accessed bits, so a policy that heeds use must learn it
//! from misses. Both that do remember the lines a set evicted last (*ghosts*,
//! as in ARC and 2Q); a line that is missed while it is remembered was needed
//! again soon after its eviction.
//!
//! - `Reuse` gives such a line a second round when its turn comes (as CLOCK).
//! - `Adaptive` evicts the oldest line as long as that is right. A program that
//!   goes round and round through a little more than the cache holds needs the
//!   oldest line next, always: there, first-in-first-out misses every line, and
//!   the best is to keep most of the lines and to let the others pass through
//!   a few ways (Belady's MIN; bimodal insertion, Qureshi et al., ISCA'07). So
//!   the cache keeps a score of how often the oldest lines came back, and while
//!   nearly all do, evicts young ones, but for one eviction in [`PROBE_EVERY`]
//!   that takes the oldest to see whether it is still needed. The score is one
//!   for all sets: as they turn at one moment, what passes through is one
//!   stretch of the program's memory and can be fetched ahead.

use super::order::{List, Order};
use proto::process::Policy;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// While young lines are evicted, one eviction in so many takes the oldest.
const PROBE_EVERY: u32 = 32;
/// An eviction of the oldest that was right weighs so many that were wrong:
/// young lines go only where about seven of eight old ones come back.
const RIGHT: u32 = 8;

/// How often a cache's oldest lines came back of late: as many times as it has
/// lines at most. Young lines go from three quarters of that on and until it is
/// down to one: a cache that changed its mind all the time would keep lines from
/// all over the place.
pub(super) struct Score {
    now: AtomicU32,
    most: u32,
    keeps: AtomicBool,
}

impl Score {
    pub(super) fn new(lines: u64) -> Score {
        Score {
            now: AtomicU32::new(0),
            most: u32::try_from(lines).unwrap_or(u32::MAX),
            keeps: AtomicBool::new(false),
        }
    }

    // Two threads may lose a step of each other's: it is an estimate, and no
    // other memory depends on it.
    fn wrong(&self) {
        let now = self.now.load(Ordering::Relaxed);
        if now < self.most {
            self.now.store(now + 1, Ordering::Relaxed);
        }
        if now > self.most / 4 * 3 && !self.keeps() {
            self.keeps.store(true, Ordering::Relaxed);
        }
    }

    fn right(&self) {
        let now = self.now.load(Ordering::Relaxed);
        if now > 0 {
            self.now.store(now.saturating_sub(RIGHT), Ordering::Relaxed);
        }
        if now < self.most / 4 && self.keeps() {
            self.keeps.store(false, Ordering::Relaxed);
        }
    }

    /// Whether most lines stay and young ones go.
    fn keeps(&self) -> bool {
        self.keeps.load(Ordering::Relaxed)
    }
}

pub(super) struct Replacement {
    policy: Policy,
    /// The ways that hold a line which is not leaving.
    order: Order,
    /// Reuse: ways that have a second chance left.
    spared: Box<[bool]>,
    /// Evictions that a policy turned away from the oldest line.
    pub(super) spared_times: u64,
    /// For each of the last evictions whether its line is remembered and has not
    /// come back; as many as there are ways: the set could have held them until
    /// now. A ring.
    ghosts: Box<[bool]>,
    /// Evictions so far.
    evictions: u32,
    /// Adaptive.
    score: Arc<Score>,
    /// Whether the line chosen last was the oldest.
    took_oldest: bool,
    /// Random: xorshift32, never zero.
    random: u32,
}

/// Evictions are remembered by their numbers modulo this.
const NUMBERS: u32 = 1 << 31;

impl Replacement {
    pub(super) fn new(policy: Policy, ways: usize, seed: u32, score: Arc<Score>) -> Replacement {
        let ways_if = |has: bool| if has { ways } else { 0 };
        let remembers = matches!(policy, Policy::Reuse | Policy::Adaptive);
        Replacement {
            policy,
            order: Order::new(ways),
            spared: vec![false; ways_if(policy == Policy::Reuse)].into_boxed_slice(),
            spared_times: 0,
            ghosts: vec![false; ways_if(remembers)].into_boxed_slice(),
            evictions: 0,
            score,
            took_oldest: true,
            random: seed.wrapping_mul(0x9E37_79B9) | 1,
        }
    }

    /// A line came to `way`; `came_back` if it is remembered.
    pub(super) fn inserted(&mut self, way: usize, came_back: bool) {
        if self.policy == Policy::Reuse {
            self.spared[way] = came_back;
        }
        let mut list = List::Staying;
        if self.policy == Policy::Adaptive {
            if came_back {
                self.score.wrong();
            }
            // Else it was a probe and is needed: back to those that stay.
            // Otherwise probes would scatter what passes through over all of
            // the program's memory, and none of it could be fetched ahead.
            if self.score.keeps() && !came_back {
                list = List::Passing;
            }
        }
        self.order.push(list, way);
    }

    /// The line in `way` is leaving, or has left.
    pub(super) fn leaves(&mut self, way: usize) {
        self.order.remove(way);
    }

    /// Whether the line that went by an eviction is remembered; it is not any
    /// more. (After 2^31 evictions a number may be taken for another's: what is
    /// counted is an estimate.)
    pub(super) fn recalls(&mut self, number: u32) -> bool {
        let since = self.evictions.wrapping_sub(number) % NUMBERS;
        if since as usize >= self.ghosts.len() {
            return false;
        }
        let at = self.slot(self.evictions.wrapping_sub(since));
        std::mem::take(&mut self.ghosts[at])
    }

    fn slot(&self, eviction: u32) -> usize {
        eviction as usize % self.ghosts.len()
    }

    /// A line goes; `chosen` by `choose`, not before its turn. The number by which
    /// it is remembered.
    pub(super) fn evicted(&mut self, chosen: bool) -> Option<u32> {
        self.evictions = self.evictions.wrapping_add(1);
        if self.ghosts.is_empty() {
            return None;
        }
        self.spared_times += u64::from(chosen && !self.took_oldest);
        let remembers = self.policy == Policy::Reuse || (chosen && self.took_oldest);
        let now = self.slot(self.evictions);
        if std::mem::replace(&mut self.ghosts[now], remembers) {
            self.score.right();
        }
        remembers.then_some(self.evictions % NUMBERS)
    }

    /// A way for which `may` holds; `None` if there is none.
    pub(super) fn choose(&mut self, may: impl Fn(usize) -> bool) -> Option<usize> {
        match self.policy {
            Policy::Fifo => self.oldest(&may),
            Policy::Random => self.any(&may),
            Policy::Reuse => self.oldest_not_spared(&may),
            Policy::Adaptive => self.adaptive(&may),
        }
    }

    fn oldest(&self, may: &impl Fn(usize) -> bool) -> Option<usize> {
        let first = |list| self.order.oldest_first(list).find(|&way| may(way));
        let both = [List::Staying, List::Passing].map(first);
        both.into_iter()
            .flatten()
            .max_by_key(|&way| self.order.age(way))
    }

    /// Whether the line in `way` may go with its neighbours: it has no second
    /// chance left, and did not come just now.
    pub(super) fn may_go_early(&self, way: usize) -> bool {
        let ways = self.order.ways();
        let kept = if ways < 64 { 2 } else { ways / 64 };
        let is_young = self.order.age(way) < kept;
        let spared = self.spared.get(way).is_some_and(|&spared| spared);
        !is_young && !spared
    }

    fn oldest_not_spared(&mut self, may: &impl Fn(usize) -> bool) -> Option<usize> {
        // Each pass takes one second chance away: at most one a way.
        for _ in 0..self.order.ways() {
            let way = self.oldest(may)?;
            if !std::mem::take(&mut self.spared[way]) {
                return Some(way);
            }
            self.order.remove(way);
            self.order.push(List::Staying, way);
            self.spared_times += 1;
        }
        self.oldest(may)
    }

    fn adaptive(&mut self, may: &impl Fn(usize) -> bool) -> Option<usize> {
        let probe = self.evictions.is_multiple_of(PROBE_EVERY);
        let young = if self.score.keeps() && !probe {
            self.young(may)
        } else {
            None
        };
        self.took_oldest = young.is_none();
        young.or_else(|| self.oldest(may))
    }

    /// The first that came of the lines that pass through, if there are a few:
    /// what was fetched ahead, and what other threads are at, is to be used
    /// before it goes. Else the youngest of the others.
    fn young(&self, may: &impl Fn(usize) -> bool) -> Option<usize> {
        let few = (self.order.ways() / 16).max(2);
        if self.order.len(List::Passing) >= few {
            let mut passing = self.order.oldest_first(List::Passing);
            if let Some(way) = passing.find(|&way| may(way)) {
                return Some(way);
            }
        }
        let mut others = self.order.youngest_first(List::Staying);
        others.find(|&way| may(way) && self.order.age(way) >= few)
    }

    fn any(&mut self, may: &impl Fn(usize) -> bool) -> Option<usize> {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        let ways = self.order.ways();
        let start = self.random as usize % ways;
        (0..ways).map(|n| (start + n) % ways).find(|&way| may(way))
    }
}
