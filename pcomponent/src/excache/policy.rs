//! Replacement: which way of a full set goes.
//!
//! User space sees no accessed bits, so a policy that heeds use must learn it
//! from misses. `Reuse` remembers the lines a set evicted last (as many as it
//! has ways); a line that is missed while it is remembered has been used
//! again soon after its eviction, and gets a second round when its turn comes
//! (the ghost list of ARC and 2Q, with the second chance of CLOCK).

use super::LineNo;
use proto::process::Policy;
use std::collections::VecDeque;

pub(super) struct Replacement {
    policy: Policy,
    /// When each way was filled: larger is younger.
    stamps: Box<[u32]>,
    clock: u32,
    /// Reuse: ways that have a second chance left.
    spared: Box<[bool]>,
    /// Reuse: second chances taken.
    pub(super) spared_times: u64,
    ghosts: VecDeque<u64>,
    /// Random: xorshift32, never zero.
    random: u32,
}

impl Replacement {
    pub(super) fn new(policy: Policy, ways: usize, seed: u32) -> Replacement {
        let reuse = if policy == Policy::Reuse { ways } else { 0 };
        Replacement {
            policy,
            stamps: vec![0; ways].into_boxed_slice(),
            clock: 0,
            spared: vec![false; reuse].into_boxed_slice(),
            spared_times: 0,
            ghosts: VecDeque::with_capacity(reuse),
            random: seed.wrapping_mul(0x9E37_79B9) | 1,
        }
    }

    pub(super) fn inserted(&mut self, way: usize, line: LineNo) {
        self.stamps[way] = self.tick();
        if self.policy == Policy::Reuse {
            let ghost = self.ghosts.iter().position(|&g| g == line.0);
            self.spared[way] = ghost.is_some();
            if let Some(at) = ghost {
                self.ghosts.remove(at);
            }
        }
    }

    pub(super) fn evicted(&mut self, line: LineNo) {
        if self.policy == Policy::Reuse {
            if self.ghosts.len() == self.stamps.len() {
                self.ghosts.pop_front();
            }
            self.ghosts.push_back(line.0);
        }
    }

    /// A way for which `may` holds; `None` if there is none.
    pub(super) fn choose(&mut self, may: impl Fn(usize) -> bool) -> Option<usize> {
        match self.policy {
            Policy::Fifo => self.oldest(&may),
            Policy::Random => self.any(&may),
            Policy::Reuse => {
                // Each pass takes one second chance away: at most one a way.
                for _ in 0..self.stamps.len() {
                    let way = self.oldest(&may)?;
                    if !std::mem::take(&mut self.spared[way]) {
                        return Some(way);
                    }
                    self.stamps[way] = self.tick();
                    self.spared_times += 1;
                }
                self.oldest(&may)
            }
        }
    }

    fn oldest(&self, may: &impl Fn(usize) -> bool) -> Option<usize> {
        // Ages, not stamps, so that the counter may wrap.
        (0..self.stamps.len())
            .filter(|&way| may(way))
            .max_by_key(|&way| self.clock.wrapping_sub(self.stamps[way]))
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
