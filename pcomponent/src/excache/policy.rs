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

use super::LineNo;
use super::set::position;
use proto::process::Policy;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// While young lines are evicted, one eviction in so many takes the oldest.
const PROBE_EVERY: u32 = 32;
/// The highest score, for each set. Young lines go from three quarters of it
/// on and until it is down to one: a cache that changed its mind all the time
/// would keep lines from all over the place.
const MOST_SCORE: u32 = 64;
/// An eviction of the oldest that was right weighs so many that were wrong:
/// young lines go only where about seven of eight old ones come back.
const RIGHT: u32 = 8;

/// How often a cache's oldest lines came back of late.
pub(super) struct Score {
    now: AtomicU32,
    most: u32,
    keeps: AtomicBool,
}

impl Score {
    pub(super) fn new(sets: u32) -> Score {
        Score {
            now: AtomicU32::new(0),
            most: sets.saturating_mul(MOST_SCORE),
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
    /// When each way was filled: larger is younger.
    stamps: Box<[u32]>,
    clock: u32,
    /// Reuse: ways that have a second chance left.
    spared: Box<[bool]>,
    /// Evictions that a policy turned away from the oldest line.
    pub(super) spared_times: u64,
    /// The lines of the last evictions, as many as there are ways: the set
    /// could have held them until now. A ring; [`NONE`] is not remembered.
    ghosts: Box<[u32]>,
    /// Evictions so far.
    evictions: u32,
    /// Adaptive.
    score: Arc<Score>,
    /// Adaptive: ways of lines that came while most stay.
    passing: Box<[bool]>,
    /// Adaptive: whether the line chosen last was the oldest.
    took_oldest: bool,
    /// Random: xorshift32, never zero.
    random: u32,
}

const NONE: u32 = 0;

/// A line as it is remembered: short, so that many fit a processor's cache.
/// Lines that look alike lie terabytes apart.
fn ghost(line: LineNo) -> u32 {
    (line.0 as u32).max(NONE + 1)
}

impl Replacement {
    pub(super) fn new(policy: Policy, ways: usize, seed: u32, score: Arc<Score>) -> Replacement {
        let ways_if = |has: bool| if has { ways } else { 0 };
        let reuse = ways_if(policy == Policy::Reuse);
        let adaptive = ways_if(policy == Policy::Adaptive);
        Replacement {
            policy,
            stamps: vec![0; ways].into_boxed_slice(),
            clock: 0,
            spared: vec![false; reuse].into_boxed_slice(),
            spared_times: 0,
            ghosts: vec![NONE; reuse + adaptive].into_boxed_slice(),
            evictions: 0,
            score,
            passing: vec![false; adaptive].into_boxed_slice(),
            took_oldest: false,
            random: seed.wrapping_mul(0x9E37_79B9) | 1,
        }
    }

    pub(super) fn inserted(&mut self, way: usize, line: LineNo) {
        let came_back = self.forget(line);
        if self.policy == Policy::Reuse {
            self.spared[way] = came_back;
        }
        if self.policy == Policy::Adaptive {
            if came_back {
                self.score.wrong();
            }
            // Else it was a probe and is needed: back to those that stay.
            // Otherwise probes would scatter what passes through over all of
            // the program's memory, and none of it could be fetched ahead.
            self.passing[way] = self.score.keeps() && !came_back;
        }
        self.stamps[way] = self.tick();
    }

    /// Whether `line` was remembered; it is not any more.
    fn forget(&mut self, line: LineNo) -> bool {
        let line = ghost(line);
        let found = position(&self.ghosts, line);
        found.map(|at| self.ghosts[at] = NONE).is_some()
    }

    /// `line` goes; `chosen` by `choose`, not before its turn.
    pub(super) fn evicted(&mut self, line: LineNo, chosen: bool) {
        self.evictions = self.evictions.wrapping_add(1);
        if self.ghosts.is_empty() {
            return;
        }
        let remembers = self.policy == Policy::Reuse || (chosen && self.took_oldest);
        let now = self.evictions as usize % self.ghosts.len();
        let kept = if remembers { ghost(line) } else { NONE };
        if std::mem::replace(&mut self.ghosts[now], kept) != NONE {
            self.score.right();
        }
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
        // Ages, not stamps, so that the counter may wrap.
        (0..self.stamps.len())
            .filter(|&way| may(way))
            .max_by_key(|&way| self.age(way))
    }

    /// Whether the line in `way` may go with its neighbours: it has no second
    /// chance left, and did not come just now.
    pub(super) fn may_go_early(&self, way: usize) -> bool {
        let ways = self.stamps.len();
        let kept = if ways < 64 { 2 } else { ways / 64 };
        let is_young = (self.age(way) as usize) < kept;
        let spared = self.spared.get(way).is_some_and(|&spared| spared);
        !is_young && !spared
    }

    fn age(&self, way: usize) -> u32 {
        self.clock.wrapping_sub(self.stamps[way])
    }

    fn oldest_not_spared(&mut self, may: &impl Fn(usize) -> bool) -> Option<usize> {
        // Each pass takes one second chance away: at most one a way.
        for _ in 0..self.stamps.len() {
            let way = self.oldest(may)?;
            if !std::mem::take(&mut self.spared[way]) {
                return Some(way);
            }
            self.stamps[way] = self.tick();
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
        self.spared_times += u64::from(young.is_some());
        young.or_else(|| self.oldest(may))
    }

    /// The first that came of the lines that pass through, if there are a few:
    /// what was fetched ahead, and what other threads are at, is to be used
    /// before it goes. Else the youngest of the others.
    fn young(&self, may: &impl Fn(usize) -> bool) -> Option<usize> {
        let few = (self.stamps.len() / 16).max(2);
        let lines = || (0..self.stamps.len()).filter(|&way| may(way));
        let passing = || lines().filter(|&way| self.passing[way]);
        if passing().count() >= few {
            return passing().max_by_key(|&way| self.age(way));
        }
        lines()
            .filter(|&way| !self.passing[way] && self.age(way) >= few as u32)
            .min_by_key(|&way| self.age(way))
    }

    fn any(&mut self, may: &impl Fn(usize) -> bool) -> Option<usize> {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        let ways = self.stamps.len();
        let start = self.random as usize % ways;
        (0..ways).map(|n| (start + n) % ways).find(|&way| may(way))
    }

    fn tick(&mut self) -> u32 {
        self.clock = self.clock.wrapping_add(1);
        self.clock
    }
}
