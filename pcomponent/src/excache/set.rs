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

pub(super) struct Set {
    pub(super) ways: Mutex<Ways>,
    pub(super) changed: Condvar,
}

pub(super) struct Ways {
    tags: Box<[u64]>,
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
        self.tags.iter().position(|&tag| tag == line.0)
    }

    pub(super) fn line(&self, way: usize) -> LineNo {
        LineNo(self.tags[way])
    }

    pub(super) fn state(&self, way: usize) -> State {
        self.states[way]
    }

    pub(super) fn is_full(&self) -> bool {
        self.free == 0
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
        let way = self.tags.iter().position(|&tag| tag == NO_LINE)?;
        self.free -= 1;
        self.tags[way] = line.0;
        self.set_state(way, State::Fetching);
        self.replacement.inserted(way, line);
        Some(way)
    }

    pub(super) fn release(&mut self, way: usize) {
        self.set_state(way, State::Free);
        self.tags[way] = NO_LINE;
        self.free += 1;
    }

    /// Chooses a resident line by the policy; it is `Evicting` then.
    pub(super) fn evict(&mut self) -> Option<(usize, LineNo, bool)> {
        let states = &self.states;
        let way = self
            .replacement
            .choose(|way| matches!(states[way], State::Resident { .. }))?;
        let State::Resident { dirty } = self.states[way] else {
            return None;
        };
        self.set_state(way, State::Evicting);
        let line = LineNo(self.tags[way]);
        self.replacement.evicted(line);
        Some((way, line, dirty))
    }
}
