//! One set: its ways, their tags and states.

use super::LineNo;
use super::policy::{Replacement, Score};
use std::sync::{Arc, Condvar, Mutex};

/// What a way holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Nothing.
    Free,
    /// A line that its owner is fetching.
    Fetching,
    /// A line; `dirty` if writes to it are let through.
    Resident {
        /// See above.
        dirty: bool,
    },
    /// A line that its owner is writing back or forgetting.
    Evicting,
}

/// No line has this number: addresses are below 2^47.
const NO_LINE: u64 = u64::MAX;

/// Where `value` is first. Pieces are compared without a branch: the compiler
/// makes vector instructions of that.
pub(super) fn position(all: &[u32], value: u32) -> Option<usize> {
    const PIECE: usize = 16;
    for (n, piece) in all.chunks(PIECE).enumerate() {
        if piece.iter().fold(false, |found, &v| found | (v == value)) {
            let at = piece.iter().position(|&v| v == value)?;
            return Some(n * PIECE + at);
        }
    }
    None
}

/// A line's number for the first look, short so that many fit the CPU's cache.
fn short(line: u64) -> u32 {
    line as u32
}

pub(super) struct Set {
    pub(super) ways: Mutex<Ways>,
    pub(super) changed: Condvar,
}

pub(super) struct Ways {
    tags: Box<[u64]>,
    /// Of each tag; the tags decide.
    shorts: Box<[u32]>,
    states: Box<[State]>,
    free: u32,
    busy: u32,
    replacement: Replacement,
    /// Threads asleep on the set's condition variable.
    pub(super) waiting: u32,
}

impl Set {
    pub(super) fn new(
        ways: u32,
        policy: proto::process::Policy,
        number: u32,
        score: Arc<Score>,
    ) -> Set {
        let n = ways as usize;
        Set {
            ways: Mutex::new(Ways {
                tags: vec![NO_LINE; n].into_boxed_slice(),
                shorts: vec![short(NO_LINE); n].into_boxed_slice(),
                states: vec![State::Free; n].into_boxed_slice(),
                free: ways,
                busy: 0,
                replacement: Replacement::new(policy, n, number, score),
                waiting: 0,
            }),
            changed: Condvar::new(),
        }
    }
}

impl Ways {
    pub(super) fn find(&self, line: LineNo) -> Option<usize> {
        self.find_tag(line.0)
    }

    fn find_tag(&self, tag: u64) -> Option<usize> {
        let way = position(&self.shorts, short(tag))?;
        if self.tags[way] == tag {
            return Some(way);
        }
        // Lines that look alike lie terabytes apart.
        self.tags.iter().position(|&t| t == tag)
    }

    fn set_tag(&mut self, way: usize, tag: u64) {
        self.tags[way] = tag;
        self.shorts[way] = short(tag);
    }

    pub(super) fn line(&self, way: usize) -> LineNo {
        LineNo(self.tags[way])
    }

    pub(super) fn state(&self, way: usize) -> State {
        self.states[way]
    }

    pub(super) fn free(&self) -> u32 {
        self.free
    }

    pub(super) fn spared(&self) -> u64 {
        self.replacement.spared_times
    }

    pub(super) fn all_busy(&self) -> bool {
        self.busy as usize == self.tags.len()
    }

    pub(super) fn mostly_busy(&self) -> bool {
        (self.busy + self.free) as usize * 2 >= self.tags.len()
    }

    pub(super) fn set_state(&mut self, way: usize, state: State) {
        let busy = |s| u32::from(matches!(s, State::Fetching | State::Evicting));
        self.busy = self.busy + busy(state) - busy(self.states[way]);
        self.states[way] = state;
    }

    /// Takes a free way for `line`, now being fetched.
    pub(super) fn claim(&mut self, line: LineNo) -> Option<usize> {
        if self.free == 0 {
            return None;
        }
        let way = self.find_tag(NO_LINE)?;
        self.free -= 1;
        self.set_tag(way, line.0);
        self.set_state(way, State::Fetching);
        self.replacement.inserted(way, line);
        Some(way)
    }

    pub(super) fn release(&mut self, way: usize) {
        self.set_state(way, State::Free);
        self.set_tag(way, NO_LINE);
        self.free += 1;
    }

    /// Chooses a resident line by the policy; it is `Evicting` then.
    pub(super) fn evict(&mut self) -> Option<(usize, LineNo, bool)> {
        let way = self.choose()?;
        self.leave(way, true)
    }

    /// The same, but only if the line is clean.
    pub(super) fn evict_clean(&mut self) -> Option<(usize, LineNo, bool)> {
        let way = self.choose()?;
        let clean = self.states[way] == State::Resident { dirty: false };
        clean.then(|| self.leave(way, true)).flatten()
    }

    /// Evicts `line` if it is here, at rest, and may go before its turn.
    pub(super) fn evict_early(&mut self, line: LineNo) -> Option<(usize, LineNo, bool)> {
        let way = self.find(line)?;
        let may = self.replacement.may_go_early(way);
        may.then(|| self.leave(way, false)).flatten()
    }

    fn choose(&mut self) -> Option<usize> {
        let states = &self.states;
        self.replacement
            .choose(|way| matches!(states[way], State::Resident { .. }))
    }

    fn leave(&mut self, way: usize, chosen: bool) -> Option<(usize, LineNo, bool)> {
        let State::Resident { dirty } = self.states[way] else {
            return None;
        };
        self.set_state(way, State::Evicting);
        let line = LineNo(self.tags[way]);
        self.replacement.evicted(line, chosen);
        Some((way, line, dirty))
    }
}
