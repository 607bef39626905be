//! The ExCache: the processor component's DRAM as a software-managed,
//! virtually indexed cache of lines, sets x ways. A hit costs nothing (the
//! host's page table looks it up); everything here is about misses.
//!
//! This module is the cache's *directory*: which line is in which way and in
//! what state. It moves no data and makes no system call; see `memory` for
//! that.
//!
//! # States and who may change them
//!
//! ```text
//!            begin_fetch               finish_fetch
//!   (absent) ───────────▶ Fetching ─────────────────▶ Resident ──┐
//!       ▲                    │ abandon                  │        │ mark_dirty
//!       └────────────────────┴──── finish_evict ◀── Evicting ◀───┘ pick_victims, take
//! ```
//!
//! `Fetching` and `Evicting` are *busy*: exactly one thread, the one that
//! brought the line there, owns it and will end the state; everyone else who
//! wants the line waits on the set's condition variable, so misses to one line
//! join one fetch, and a write to a line under eviction waits until its bytes
//! are safe at the memory component and then fetches them back.
//!
//! # Locks
//!
//! One lock per set, a leaf: no other lock is taken and no program memory is
//! touched under it. `pick_victims` takes several sets' locks one after the
//! other, never two at once, all but the first by `try_lock`. A busy line's
//! owner holds no set lock while it works.

mod low;
mod map;
mod order;
mod policy;
mod set;
#[cfg(test)]
mod tests;

use host::sys::Errno;
use low::Low;
use set::{Set, State};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A line of the program's address space: address / line size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LineNo(pub u64);

/// A way that holds a line; valid while the line is busy and owned by us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    set: u32,
    way: u32,
}

/// A line on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Victim {
    /// Where it is.
    pub slot: Slot,
    /// Which line.
    pub line: LineNo,
    /// Whether it may differ from what the memory component has.
    pub dirty: bool,
}

/// What a miss finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begin {
    /// The line is ours to fetch: end with `finish_fetch` or `abandon`.
    Fetch(Slot),
    /// It is here already.
    Resident {
        /// Writes to it are let through already.
        dirty: bool,
    },
    /// Another thread is fetching or evicting it.
    Busy {
        /// Evicting: it was here until now.
        evicting: bool,
    },
    /// Its set has no free way.
    Full,
}

/// Size of a cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Line size as a power of two.
    pub line_shift: u32,
    /// Number of sets.
    pub sets: u32,
    /// Lines in a set.
    pub ways: u32,
}

/// Fewest ways: an instruction can touch six lines at once (two of code, two
/// pairs of data) and all of them may fall into one set.
pub const MIN_WAYS: u32 = 8;
/// Fewest lines in a cache: enough for a handful of threads to make progress.
pub const MIN_LINES: u64 = 32;

/// Most bytes that one batch of evictions or one fetch moves.
pub const BATCH_BYTES: u64 = 512 << 10;
/// Most lines in a batch of evictions.
const BATCH_LINES: usize = 64;

/// A shape that can't be built, and the cure.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ShapeError {
    /// Not a power of two, or out of range.
    #[error("a cache line of {0} bytes is not a power of two from 4 KiB to 2 MiB (--line)")]
    Line(u64),
    /// Too few ways.
    #[error("a set needs at least {MIN_WAYS} ways: an instruction can touch six lines (--ways)")]
    Ways,
    /// Too small.
    #[error(
        "a cache of {size} bytes holds {lines} lines of {line} bytes; it needs at least {MIN_LINES}: give --cache {} or more", MIN_LINES * line
    )]
    Size {
        /// Asked.
        size: u64,
        /// Lines in it.
        lines: u64,
        /// Line size.
        line: u64,
    },
    /// Too large for the directory.
    #[error("a cache of {0} bytes is more than this directory can index (--cache)")]
    Huge(u64),
}

impl Shape {
    /// The shape of a cache of at most `size` bytes. Where the ways don't
    /// divide the lines, the cache is made smaller, never larger: the size is
    /// a bound.
    ///
    /// # Errors
    /// [`ShapeError`].
    pub fn new(size: u64, line: u64, ways: u32) -> Result<Shape, ShapeError> {
        if !line.is_power_of_two() || !(4096..=2 << 20).contains(&line) {
            return Err(ShapeError::Line(line));
        }
        let lines = size / line;
        if lines < MIN_LINES {
            return Err(ShapeError::Size { size, lines, line });
        }
        if ways < MIN_WAYS {
            return Err(ShapeError::Ways);
        }
        let ways = u64::from(ways).min(lines);
        let sets = u32::try_from(lines / ways).map_err(|_| ShapeError::Huge(size))?;
        let ways = u32::try_from(ways).map_err(|_| ShapeError::Huge(size))?;
        Ok(Shape {
            line_shift: line.trailing_zeros(),
            sets,
            ways,
        })
    }

    /// Lines in all.
    #[must_use]
    pub fn lines(self) -> u64 {
        u64::from(self.sets) * u64::from(self.ways)
    }
    /// Bytes in a line.
    #[must_use]
    pub fn line_size(self) -> u64 {
        1 << self.line_shift
    }
    /// Most lines in a batch of victims.
    #[must_use]
    pub fn batch(self) -> usize {
        let by_bytes = BATCH_BYTES / self.line_size();
        let by_share = self.lines() / 16;
        by_bytes.min(by_share).clamp(1, BATCH_LINES as u64) as usize
    }
}

/// Which dirty lines a batch of victims may have.
#[derive(Clone, Copy)]
pub enum Dirty<'a> {
    /// Any.
    Anywhere,
    /// Those of one neighbourhood: of the first victim's, as this says. They
    /// have to be write-protected, and one call (and one interruption of other
    /// CPUs) does that for a stretch of memory.
    Near(&'a dyn Fn(LineNo) -> (LineNo, LineNo)),
}

/// What a batch of victims may be.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// Most lines.
    pub most: usize,
    /// Which dirty ones.
    pub dirty: Dirty<'a>,
}

/// The line that a set's policy chooses; where not `any`, only if it is clean.
fn choose(ways: &mut set::Ways, any: bool) -> Option<(usize, LineNo, bool)> {
    if any {
        ways.evict()
    } else {
        ways.evict_clean()
    }
}

/// The directory.
pub struct ExCache {
    shape: Shape,
    sets: Box<[Set]>,
    low: Low,
    resident: AtomicU64,
    peak: AtomicU64,
}

impl ExCache {
    /// An empty cache.
    ///
    /// # Errors
    /// `ENOMEM`: not so much address space as the directory needs.
    pub fn new(shape: Shape, policy: proto::process::Policy) -> Result<ExCache, Errno> {
        let score = Arc::new(policy::Score::new(shape.lines()));
        let map = Arc::new(map::Map::new(shape.line_shift)?);
        let sets = (0..shape.sets)
            .map(|n| Set::new(shape.ways, policy, n, Arc::clone(&score), Arc::clone(&map)))
            .collect();
        Ok(ExCache {
            shape,
            sets,
            low: Low::new(shape),
            resident: AtomicU64::new(0),
            peak: AtomicU64::new(0),
        })
    }

    /// Its shape.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Lines that hold, or are about to hold, host memory: now and at most.
    #[must_use]
    pub fn occupancy(&self) -> (u64, u64) {
        let now = self.resident.load(Ordering::Relaxed);
        self.note(now);
        (now, self.peak.load(Ordering::Relaxed))
    }

    /// There were so many lines. Asked before each that goes, and when somebody
    /// looks: in between the number only rises, so no peak is missed.
    fn note(&self, lines: u64) {
        if lines > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(lines, Ordering::Relaxed);
        }
    }

    /// How often the policy chose a line and gave it a second round instead.
    #[must_use]
    pub fn spared(&self) -> u64 {
        (0..self.sets.len())
            .map(|set| self.lock(set).spared())
            .sum()
    }

    fn set_of(&self, line: LineNo) -> usize {
        // The index is below the number of sets, which is a u32.
        (line.0 % u64::from(self.shape.sets)) as usize
    }

    fn lock(&self, set: usize) -> MutexGuard<'_, set::Ways> {
        self.sets[set]
            .ways
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(set: usize, way: usize) -> Slot {
        Slot {
            set: set as u32,
            way: way as u32,
        }
    }

    /// A thread missed `line`.
    pub fn begin_fetch(&self, line: LineNo) -> Begin {
        let set = self.set_of(line);
        let mut ways = self.lock(set);
        match ways.find(line) {
            Some(way) => match ways.state(way) {
                State::Resident { dirty } => Begin::Resident { dirty },
                state => Begin::Busy {
                    evicting: state == State::Evicting,
                },
            },
            None => match ways.claim(line) {
                Some(way) => {
                    self.low.took(set, ways.free());
                    self.resident.fetch_add(1, Ordering::Relaxed);
                    Begin::Fetch(Self::slot(set, way))
                }
                None => Begin::Full,
            },
        }
    }

    /// Whether `line` is here and at rest.
    pub fn holds(&self, line: LineNo) -> bool {
        self.look(line).is_some()
    }

    /// The same, and whether it is dirty.
    #[must_use]
    pub fn look(&self, line: LineNo) -> Option<bool> {
        let ways = self.lock(self.set_of(line));
        match ways.state(ways.find(line)?) {
            State::Resident { dirty } => Some(dirty),
            _ => None,
        }
    }

    /// The line is installed; `dirty` says that writes to it are let through.
    pub fn finish_fetch(&self, slot: Slot, dirty: bool) {
        let mut ways = self.lock(slot.set as usize);
        ways.set_state(slot.way as usize, State::Resident { dirty });
        self.wake(slot.set as usize, ways);
    }

    /// The fetch came to nothing.
    pub fn abandon(&self, slot: Slot) {
        self.free(slot);
    }

    /// The victim's bytes are safe and its memory is gone.
    pub fn finish_evict(&self, slot: Slot) {
        self.free(slot);
    }

    fn free(&self, slot: Slot) {
        let mut ways = self.lock(slot.set as usize);
        ways.release(slot.way as usize);
        self.low.gave(slot.set as usize, ways.free());
        let before = self.resident.fetch_sub(1, Ordering::Relaxed);
        self.note(before);
        self.wake(slot.set as usize, ways);
    }

    fn wake(&self, set: usize, ways: MutexGuard<'_, set::Ways>) {
        let waiting = ways.waiting > 0;
        drop(ways);
        if waiting {
            self.sets[set].changed.notify_all();
        }
    }

    /// Runs `lift`, which lets writes through to a resident line, and marks it
    /// dirty (it may be that already: it was protected with its neighbours).
    /// False if the line is not resident (any more). `lift` runs under the set's
    /// lock so that an eviction either comes before it (and the line is not
    /// resident) or sees the line dirty, and protects it after.
    pub fn make_dirty<E>(
        &self,
        line: LineNo,
        lift: impl FnOnce() -> Result<(), E>,
    ) -> Result<bool, E> {
        let mut ways = self.lock(self.set_of(line));
        let Some(way) = ways.find(line) else {
            return Ok(false);
        };
        match ways.state(way) {
            State::Resident { .. } => {
                lift()?;
                ways.set_state(way, State::Resident { dirty: true });
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Runs `change` if `line` is here and at rest, telling it whether the line
    /// is dirty, under the set's lock: so nobody evicts it meanwhile.
    pub fn while_resident<R>(&self, line: LineNo, change: impl FnOnce(bool) -> R) -> Option<R> {
        let ways = self.lock(self.set_of(line));
        match ways.state(ways.find(line)?) {
            State::Resident { dirty } => Some(change(dirty)),
            _ => None,
        }
    }

    /// Waits until `line` is not busy, or `limit` has passed (false).
    #[must_use]
    pub fn wait(&self, line: LineNo, limit: Duration) -> bool {
        let set = self.set_of(line);
        self.wait_set(set, limit, |ways| match ways.find(line) {
            Some(way) => matches!(ways.state(way), State::Resident { .. }),
            None => true,
        })
    }

    /// Waits until the set of `line` has a way that is free or can be freed.
    #[must_use]
    pub fn wait_room(&self, line: LineNo, limit: Duration) -> bool {
        self.wait_set(self.set_of(line), limit, |ways| !ways.all_busy())
    }

    fn wait_set(&self, set: usize, limit: Duration, ready: impl Fn(&set::Ways) -> bool) -> bool {
        let end = Instant::now() + limit;
        let mut ways = self.lock(set);
        while !ready(&ways) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            ways.waiting += 1;
            let (again, _) = self.sets[set]
                .changed
                .wait_timeout(ways, left)
                .unwrap_or_else(PoisonError::into_inner);
            ways = again;
            ways.waiting -= 1;
        }
        true
    }

    /// Chooses lines to evict, `batch.most` at most: first one from the set
    /// that `line` falls into, then by `batch.dirty` one from each of the
    /// following sets that are low on free ways, round and round, or the first
    /// one's neighbours. One batch then makes room for a run of neighbouring
    /// lines. By low sets it costs each set no more ways than it is short of;
    /// neighbours are taken whether their sets are low or not, and leave a part of
    /// the cache empty: it is the price of protecting them by one call. The
    /// victims are busy and the caller's.
    pub fn pick_victims(&self, line: LineNo, batch: &Batch<'_>, victims: &mut Vec<Victim>) {
        let (first, from) = (self.set_of(line), victims.len());
        if batch.most > 0
            && let Some(victim) = self.lock(first).evict()
        {
            victims.push(Self::victim(first, victim));
        }
        let any = match batch.dirty {
            Dirty::Anywhere => true,
            Dirty::Near(around) => {
                if let Some(victim) = victims.get(from).filter(|v| v.dirty).copied() {
                    let around = around(victim.line);
                    self.pick_near(victim.line, around, batch.most, victims);
                    return;
                }
                false
            }
        };
        // Round and round, one of each set at a time: what was fetched in order
        // lies in following sets, and goes in order.
        let mut before = usize::MAX;
        while victims.len() < batch.most && victims.len() != before {
            before = victims.len();
            for set in self.low.from(first + 1) {
                if victims.len() >= batch.most {
                    break;
                }
                if let Ok(mut ways) = self.sets[set].ways.try_lock()
                    && self.low.is_low(ways.room())
                    && let Some(victim) = choose(&mut ways, any)
                {
                    victims.push(Self::victim(set, victim));
                }
            }
        }
    }

    /// Adds the lines in `[around.0, around.1)` that may go before their turn,
    /// those behind `line` first: what was written in order was so ascending.
    /// Then those before it, the nearest first: what lies between victims is
    /// write-protected with them.
    fn pick_near(
        &self,
        line: LineNo,
        around: (LineNo, LineNo),
        most: usize,
        victims: &mut Vec<Victim>,
    ) {
        for n in (line.0 + 1..around.1.0).chain((around.0.0..line.0).rev()) {
            if victims.len() >= most {
                return;
            }
            let set = self.set_of(LineNo(n));
            if let Ok(mut ways) = self.sets[set].ways.try_lock()
                && !ways.mostly_busy()
                && let Some(victim) = ways.evict_early(LineNo(n))
            {
                victims.push(Self::victim(set, victim));
            }
        }
    }

    fn victim(set: usize, (way, line, dirty): (usize, LineNo, bool)) -> Victim {
        Victim {
            slot: Self::slot(set, way),
            line,
            dirty,
        }
    }

    /// Takes one resident line for eviction, whatever its age. `None` if it is
    /// absent or busy.
    pub fn take(&self, line: LineNo) -> Option<Victim> {
        let set = self.set_of(line);
        let mut ways = self.lock(set);
        let way = ways.find(line)?;
        let State::Resident { dirty } = ways.state(way) else {
            return None;
        };
        ways.set_state(way, State::Evicting);
        Some(Self::victim(set, (way, line, dirty)))
    }

    /// Takes every resident line in `[from, to)`, appending to `victims`.
    pub fn take_range(&self, from: LineNo, to: LineNo, victims: &mut Vec<Victim>) {
        if to.0.saturating_sub(from.0) <= self.shape.lines() {
            victims.extend((from.0..to.0).filter_map(|n| self.take(LineNo(n))));
            return;
        }
        for set in 0..self.sets.len() {
            let mut ways = self.lock(set);
            for way in 0..self.shape.ways as usize {
                if let (line, State::Resident { dirty }) = (ways.line(way), ways.state(way))
                    && from <= line
                    && line < to
                {
                    ways.set_state(way, State::Evicting);
                    victims.push(Self::victim(set, (way, line, dirty)));
                }
            }
        }
    }
}
