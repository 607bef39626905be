//! One set: its ways, their tags and states.

use super::LineNo;
use super::map::{Entry, Map};
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

pub(super) struct Set {
    pub(super) ways: Mutex<Ways>,
    pub(super) changed: Condvar,
}

struct Way {
    /// Which line, where one is in it.
    line: LineNo,
    /// What is to be known of the line when it has left.
    after: Entry,
    state: State,
}

// With a way's mark in `order`, its place among the free and its ghost it is what
// the directory takes for a line of the cache.
const _: () = assert!(size_of::<Way>() == 16);

pub(super) struct Ways {
    all: Box<[Way]>,
    /// The free ones.
    free: Vec<u32>,
    busy: u32,
    /// Of the busy ones, those whose lines are on their way out.
    leaving: u32,
    map: Arc<Map>,
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
        map: Arc<Map>,
    ) -> Set {
        let n = ways as usize;
        Set {
            ways: Mutex::new(Ways {
                all: (0..n).map(|_| Way::free()).collect(),
                free: (0..ways).rev().collect(),
                busy: 0,
                leaving: 0,
                map,
                replacement: Replacement::new(policy, n, number, score),
                waiting: 0,
            }),
            changed: Condvar::new(),
        }
    }
}

impl Way {
    fn free() -> Way {
        Way {
            line: LineNo(0),
            after: Entry::ABSENT,
            state: State::Free,
        }
    }
}

impl Ways {
    pub(super) fn find(&self, line: LineNo) -> Option<usize> {
        self.map.get(line).way()
    }

    pub(super) fn line(&self, way: usize) -> LineNo {
        self.all[way].line
    }

    pub(super) fn state(&self, way: usize) -> State {
        self.all[way].state
    }

    pub(super) fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Ways that are free or are about to be.
    pub(super) fn room(&self) -> u32 {
        self.free() + self.leaving
    }

    pub(super) fn spared(&self) -> u64 {
        self.replacement.spared_times
    }

    pub(super) fn all_busy(&self) -> bool {
        self.busy as usize == self.all.len()
    }

    pub(super) fn mostly_busy(&self) -> bool {
        (self.busy + self.free()) as usize * 2 >= self.all.len()
    }

    pub(super) fn set_state(&mut self, way: usize, state: State) {
        let busy = |s| u32::from(matches!(s, State::Fetching | State::Evicting));
        let leaving = |s| u32::from(s == State::Evicting);
        let before = std::mem::replace(&mut self.all[way].state, state);
        self.busy = self.busy + busy(state) - busy(before);
        self.leaving = self.leaving + leaving(state) - leaving(before);
        if matches!(state, State::Evicting | State::Free) {
            self.replacement.leaves(way);
        }
    }

    /// Takes a free way for `line`, which is in none, and now being fetched.
    pub(super) fn claim(&mut self, line: LineNo) -> Option<usize> {
        let number = self.free.pop()?;
        let way = number as usize;
        let gone = self.map.get(line).eviction();
        let came_back = gone.is_some_and(|eviction| self.replacement.recalls(eviction));
        self.map.set(line, Entry::in_way(number));
        self.all[way].line = line;
        self.all[way].after = Entry::ABSENT;
        self.set_state(way, State::Fetching);
        self.replacement.inserted(way, came_back);
        Some(way)
    }

    /// A busy way is free again.
    pub(super) fn release(&mut self, way: usize) {
        self.set_state(way, State::Free);
        let Way { line, after, .. } = self.all[way];
        self.map.set(line, after);
        self.free.push(way as u32);
    }

    /// Chooses a resident line by the policy; it is `Evicting` then.
    pub(super) fn evict(&mut self) -> Option<(usize, LineNo, bool)> {
        let way = self.choose()?;
        self.leave(way, true)
    }

    /// The same, but only if the line is clean.
    pub(super) fn evict_clean(&mut self) -> Option<(usize, LineNo, bool)> {
        let way = self.choose()?;
        let clean = self.all[way].state == State::Resident { dirty: false };
        clean.then(|| self.leave(way, true)).flatten()
    }

    /// Evicts `line` if it is here, at rest, and may go before its turn.
    pub(super) fn evict_early(&mut self, line: LineNo) -> Option<(usize, LineNo, bool)> {
        let way = self.find(line)?;
        let may = self.replacement.may_go_early(way);
        may.then(|| self.leave(way, false)).flatten()
    }

    fn choose(&mut self) -> Option<usize> {
        let all = &self.all;
        self.replacement
            .choose(|way| matches!(all[way].state, State::Resident { .. }))
    }

    fn leave(&mut self, way: usize, chosen: bool) -> Option<(usize, LineNo, bool)> {
        let State::Resident { dirty } = self.all[way].state else {
            return None;
        };
        self.set_state(way, State::Evicting);
        let remembered = self.replacement.evicted(chosen);
        self.all[way].after = remembered.map_or(Entry::ABSENT, Entry::gone);
        Some((way, self.all[way].line, dirty))
    }
}
