//! One file in the storage buffer cache: which extents of it are here, what is
//! dirty, what storage has. No bytes and no I/O: who fills, flushes and cuts
//! reports the steps, in any order that threads may bring about.
//!
//! Invariants that the callers keep by doing what they are told:
//! - Of a ready extent, bytes past `size` are zeros.
//! - A page that differs from storage is dirty, or being written.
//! - A fill that was begun before a change of version or a cut is discarded
//!   when it ends: it may have brought bytes of before.

use proto::Errno;
use proto::addr::{EXTENT_SIZE, PAGE_SIZE};
use proto::store::{Attr, Timespec};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};

/// Most extents filled ahead of a sequential reader.
const MOST_AHEAD: u64 = 4;
/// Extents before those given last that a reader may ask for without that it has
/// jumped.
const NEAR: u64 = 4;
/// Largest file size (`off_t` is signed).
pub const MOST_SIZE: u64 = i64::MAX as u64;
const PAGES: u64 = EXTENT_SIZE / PAGE_SIZE;

/// Which state of the file storage showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Version {
    size: u64,
    mtime: Timespec,
    ctime: Timespec,
}

impl From<&Attr> for Version {
    fn from(attr: &Attr) -> Version {
        Version {
            size: attr.size,
            mtime: attr.mtime,
            ctime: attr.ctime,
        }
    }
}

#[derive(Debug)]
struct Extent {
    /// While it is filled: the ticket of the fill.
    filling: Option<u64>,
    used: u64,
    /// Bytes that it takes of the component's capacity.
    charged: u64,
}

/// What a fill has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fill {
    /// To be shown when it ends.
    pub ticket: u64,
    /// Offset in the file.
    pub start: u64,
    /// Bytes that storage has of the extent; the rest is zeros.
    pub len: u64,
    /// Bytes of capacity that it takes.
    pub charge: u64,
}

/// What an extent is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// Not here.
    Absent,
    /// Being filled.
    Filling,
    /// Here.
    Ready,
}

/// A run of pages being written back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Offset in the file, page-aligned.
    pub start: u64,
    /// Bytes, within one extent and within the file's size.
    pub len: u64,
}

/// What a cut leaves to be done with the frames.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Dropped {
    /// Extents that are gone: revoke their leases, zero their frames.
    pub extents: Vec<u64>,
    /// Bytes of capacity that they took.
    pub charge: u64,
    /// An extent whose bytes from this offset in it on must be zeroed.
    pub tail: Option<(u64, u64)>,
}

/// See the module.
#[derive(Debug)]
pub struct Cached {
    size: u64,
    stored: u64,
    mtime: Timespec,
    version: Version,
    /// Storage may have another version by now.
    stale: bool,
    extents: BTreeMap<u64, Extent>,
    dirty: BTreeSet<u64>,
    writing: Option<Run>,
    error: Option<Errno>,
    tickets: u64,
    /// The extents that a reader was given last, the first and the last.
    given: Option<(u64, u64)>,
    depth: u64,
}

impl Cached {
    /// Nothing is here yet of the file that storage shows as `attr`.
    #[must_use]
    pub fn new(attr: &Attr) -> Cached {
        Cached {
            size: attr.size,
            stored: attr.size,
            mtime: attr.mtime,
            version: attr.into(),
            stale: false,
            extents: BTreeMap::new(),
            dirty: BTreeSet::new(),
            writing: None,
            error: None,
            tickets: 0,
            given: None,
            depth: 0,
        }
    }

    /// Bytes, with what is dirty.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Last modification as known here.
    #[must_use]
    pub fn mtime(&self) -> Timespec {
        self.mtime
    }

    /// Whether data waits to go to storage.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || self.writing.is_some()
    }

    /// Bytes of dirty pages.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty.len() as u64 * PAGE_SIZE
    }

    /// Whether nothing of the file need be remembered.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.extents.is_empty() && !self.is_dirty() && self.error.is_none()
    }

    /// Somebody saw `attr` at storage; it is only a hint.
    pub fn handle_seen(&mut self, attr: &Attr) {
        self.stale |= self.version != attr.into();
    }

    /// Whether storage should be asked for its version before the data here
    /// is used. What is dirty here counts more than what storage has.
    #[must_use]
    pub fn poll_stale(&self) -> bool {
        self.stale && !self.is_dirty()
    }

    /// Storage shows `attr`. Data of another version is dropped, but for
    /// extents that `keep` says may be dirty without our knowing.
    pub fn handle_attr(&mut self, attr: &Attr, keep: impl Fn(u64) -> bool) -> Dropped {
        if self.is_dirty() {
            return Dropped::default();
        }
        self.stale = false;
        if self.version == attr.into() && self.size == attr.size {
            return Dropped::default();
        }
        let dropped = self.drop_from(0, keep);
        self.set_version(attr);
        self.size = attr.size;
        dropped
    }

    fn set_version(&mut self, attr: &Attr) {
        self.version = attr.into();
        self.stored = attr.size;
        self.mtime = attr.mtime;
    }

    fn drop_from(&mut self, first: u64, keep: impl Fn(u64) -> bool) -> Dropped {
        let mut dropped = Dropped::default();
        for (index, extent) in self.extents.range_mut(first..) {
            if extent.filling.is_some() {
                // It ends by finding that its ticket is not valid any more.
                extent.filling = Some(0);
            } else if !keep(*index) {
                dropped.extents.push(*index);
                dropped.charge += extent.charged;
            }
        }
        for index in &dropped.extents {
            self.extents.remove(index);
        }
        dropped
    }

    /// Whether extent `index` is here; one that is, has been used now.
    pub fn look(&mut self, index: u64, clock: u64) -> Presence {
        match self.extents.get_mut(&index) {
            None => Presence::Absent,
            Some(extent) if extent.filling.is_some() => Presence::Filling,
            Some(extent) => {
                extent.used = clock;
                Presence::Ready
            }
        }
    }

    /// Begins to fill extent `index`, which is absent.
    pub fn begin_fill(&mut self, index: u64, clock: u64) -> Fill {
        self.tickets += 1;
        let ticket = self.tickets;
        let start = index * EXTENT_SIZE;
        let charge = charge_of(index, self.size);
        let extent = Extent {
            filling: Some(ticket),
            used: clock,
            charged: charge,
        };
        self.extents.insert(index, extent);
        let len = self.stored.saturating_sub(start).min(EXTENT_SIZE);
        Fill {
            ticket,
            start,
            len,
            charge,
        }
    }

    /// The fill is over. Whether its bytes count: if not, the extent is gone,
    /// its frames must be zeroed and its charge given back.
    pub fn end_fill(&mut self, index: u64, ticket: u64, brought: bool) -> bool {
        let Some(extent) = self.extents.get_mut(&index) else {
            return false;
        };
        if brought && extent.filling == Some(ticket) {
            extent.filling = None;
            return true;
        }
        self.extents.remove(&index);
        false
    }

    /// Whether all of `[at, end)` is here.
    #[must_use]
    pub fn has_all(&self, at: u64, end: u64) -> bool {
        extents_of(at, end).all(|n| {
            self.extents
                .get(&n)
                .is_some_and(|extent| extent.filling.is_none())
        })
    }

    /// Bytes of capacity that writing `[at, end)` takes, beyond what its
    /// extents take already.
    #[must_use]
    pub fn growth(&self, at: u64, end: u64) -> u64 {
        let size = self.size.max(end);
        let more = |n: u64| {
            let charged = self.extents.get(&n).map_or(0, |extent| extent.charged);
            charge_of(n, size).saturating_sub(charged)
        };
        extents_of(at, end).map(more).sum()
    }

    /// `[at, end)`, all of it here, was written, and [`Cached::growth`] taken.
    pub fn handle_written(&mut self, at: u64, end: u64, now: Timespec) {
        if at >= end {
            return;
        }
        self.size = self.size.max(end);
        self.handle_grown(at, end);
        self.dirty.extend(at / PAGE_SIZE..end.div_ceil(PAGE_SIZE));
        self.mtime = now;
    }

    /// What [`Cached::growth`] said of `[at, end)` was taken.
    pub fn handle_grown(&mut self, at: u64, end: u64) {
        for n in extents_of(at, end) {
            let charge = charge_of(n, self.size.max(end));
            if let Some(extent) = self.extents.get_mut(&n) {
                extent.charged = extent.charged.max(charge);
            }
        }
    }

    /// Pages were written one-sided. Those of extents that are not `ours`, or
    /// past the end, are not taken; whether all others were here.
    pub fn handle_dirty(
        &mut self,
        pages: Range<u64>,
        now: Timespec,
        ours: impl Fn(u64) -> bool,
    ) -> bool {
        let pages = pages.start..pages.end.min(self.size.div_ceil(PAGE_SIZE));
        let mut all = true;
        for n in extents_of(pages.start * PAGE_SIZE, pages.end * PAGE_SIZE) {
            let ready = self
                .extents
                .get(&n)
                .is_some_and(|extent| extent.filling.is_none());
            if ready && ours(n) {
                let (first, last) = (n * PAGES, (n + 1) * PAGES);
                self.dirty
                    .extend(pages.start.max(first)..pages.end.min(last));
                self.mtime = now;
            } else {
                all = false;
            }
        }
        all
    }

    /// Takes the first run of dirty pages, at most `most` bytes, to be written
    /// back; one at a time.
    pub fn poll_write(&mut self, most: u64) -> Option<Run> {
        let first = *self.dirty.first()?;
        let mut next = first;
        while (next - first) * PAGE_SIZE < most && self.dirty.remove(&next) {
            next += 1;
            // A run lies in one extent.
            if next.is_multiple_of(PAGES) {
                break;
            }
        }
        let start = first * PAGE_SIZE;
        let len = (next * PAGE_SIZE).min(self.size).saturating_sub(start);
        let run = Run { start, len };
        self.writing = Some(run);
        Some(run)
    }

    /// The run is at storage, which shows `attr` now.
    pub fn handle_stored(&mut self, attr: &Attr) {
        self.writing = None;
        let mtime = self.mtime;
        self.set_version(attr);
        if self.is_dirty() {
            self.mtime = mtime;
        } else if attr.size != self.size {
            // Somebody else changed it at storage.
            self.stale = true;
        }
    }

    /// The run could not be written. It is tried again unless that is `vain`;
    /// the error is told once either way.
    pub fn handle_refused(&mut self, errno: Errno, vain: bool) {
        let Some(run) = self.writing.take() else {
            return;
        };
        self.error = Some(errno);
        if vain {
            self.stale = true;
        } else {
            let end = (run.start + run.len).div_ceil(PAGE_SIZE);
            self.dirty.extend(run.start / PAGE_SIZE..end);
        }
    }

    /// What went wrong with writes since the last call.
    pub fn take_error(&mut self) -> Option<Errno> {
        self.error.take()
    }

    /// Storage has cut or extended the file to `len` bytes and shows `attr`.
    /// Nothing is being written meanwhile.
    pub fn handle_cut(&mut self, len: u64, attr: &Attr) -> Dropped {
        self.dirty.split_off(&len.div_ceil(PAGE_SIZE));
        let mut dropped = self.drop_from(len.div_ceil(EXTENT_SIZE), |_| false);
        let index = len / EXTENT_SIZE;
        if let Some(extent) = self.extents.get_mut(&index).filter(|_| len < self.size) {
            match extent.filling {
                Some(_) => extent.filling = Some(0),
                None => dropped.tail = Some((index, len % EXTENT_SIZE)),
            }
        }
        self.size = len;
        self.set_version(attr);
        dropped
    }

    /// The last of the extents from `index` on, at most `more` after it, that
    /// are all here and hold bytes of the file.
    #[must_use]
    pub fn ready_until(&self, index: u64, more: u64) -> u64 {
        let end = self.size.div_ceil(EXTENT_SIZE);
        let next = (index + 1)..end.min(index.saturating_add(more + 1));
        let ready = next.take_while(|n| {
            let extent = self.extents.get(n);
            extent.is_some_and(|extent| extent.filling.is_none())
        });
        ready.last().unwrap_or(index)
    }

    /// The extents to fill ahead of a reader that was given these. One that asks
    /// again for what was given last, or for what lies a little before it (another
    /// thread, a lease that is renewed), says nothing new.
    pub fn poll_ahead(&mut self, given: RangeInclusive<u64>) -> Range<u64> {
        let (first, last) = given.into_inner();
        let sequential = match self.given {
            Some((start, end)) if last <= end && first + NEAR >= start => return 0..0,
            Some((start, end)) => (start..=end + 1).contains(&first),
            None => false,
        };
        self.given = Some((first, last));
        self.depth = match (sequential, first) {
            (true, _) => (self.depth * 2).clamp(1, MOST_AHEAD),
            // From the beginning on: what is here already was read in sequence.
            (false, 0) => last.min(MOST_AHEAD),
            (false, _) => 0,
        };
        last + 1..(last + 1 + self.depth).min(self.stored.div_ceil(EXTENT_SIZE))
    }

    /// Extents that can be dropped: when they were used last, and their index.
    pub fn clean(&self) -> impl Iterator<Item = (u64, u64)> {
        let ready = self
            .extents
            .iter()
            .filter(|(_, extent)| extent.filling.is_none());
        ready
            .filter(|(index, _)| self.is_clean(**index))
            .map(|(n, extent)| (extent.used, *n))
    }

    fn is_clean(&self, index: u64) -> bool {
        let writing = self
            .writing
            .is_some_and(|run| run.start / EXTENT_SIZE == index);
        !writing
            && self
                .dirty
                .range(index * PAGES..(index + 1) * PAGES)
                .next()
                .is_none()
    }

    /// Drops extent `index` if it is clean: its frames must be zeroed. Gives
    /// the capacity that it took.
    pub fn evict(&mut self, index: u64) -> Option<u64> {
        let extent = self.extents.get(&index)?;
        if extent.filling.is_some() || !self.is_clean(index) {
            return None;
        }
        self.extents.remove(&index).map(|extent| extent.charged)
    }

    /// Whether any extent in `range` is here or on its way.
    #[must_use]
    pub fn has_any(&self, range: Range<u64>) -> bool {
        self.extents.range(range).next().is_some()
    }
}

/// The extents that `[at, end)` touches.
fn extents_of(at: u64, end: u64) -> Range<u64> {
    if at >= end {
        0..0
    } else {
        at / EXTENT_SIZE..end.div_ceil(EXTENT_SIZE)
    }
}

/// Bytes that extent `index` of a file of `size` bytes takes: whole pages, one
/// at least.
fn charge_of(index: u64, size: u64) -> u64 {
    let inside = size
        .saturating_sub(index * EXTENT_SIZE)
        .clamp(1, EXTENT_SIZE);
    inside.div_ceil(PAGE_SIZE) * PAGE_SIZE
}

#[cfg(test)]
#[path = "cached_tests.rs"]
mod tests;
