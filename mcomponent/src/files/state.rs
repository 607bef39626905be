//! One file's cached extents.

use fabric::{Access, Memory, Region};
use proto::addr::{EXTENT_SIZE, PAGE_SIZE, RemoteKey, VREGION_SIZE};
use proto::mem::{FileRef, MemReply};
use proto::store::{Attr, FileHandle, Timespec};
use proto::{Errno, Identity};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Condvar, Mutex};

/// Extents in a window of a file, which is one registered region.
const WINDOW: u64 = VREGION_SIZE / EXTENT_SIZE;
/// Most extents filled ahead.
const MOST_AHEAD: u64 = 4;

/// A file in the cache.
pub(super) struct File {
    pub(super) of: FileRef,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
}

impl File {
    pub(super) fn name(&self) -> String {
        crate::peers::file_name(self.of.storage, self.of.id)
    }
}

/// How much of an extent must come from storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fill {
    /// What storage has of it.
    Whole,
    /// Nothing: it is about to be overwritten.
    Nothing,
}

impl Fill {
    /// For an extent of which `[at, end)` will be written.
    pub(super) fn unless_overwritten(index: u64, at: u64, end: u64) -> Fill {
        let start = index * EXTENT_SIZE;
        if at <= start && end >= start + EXTENT_SIZE {
            Fill::Nothing
        } else {
            Fill::Whole
        }
    }
}

/// An extent.
pub(super) struct Extent {
    pub(super) ready: bool,
    keys: HashMap<(Identity, bool), RemoteKey>,
    used: u64,
    /// Bytes that it takes in the ledger.
    pub(super) bytes: u64,
}

pub(super) struct State {
    pub(super) handle: FileHandle,
    pub(super) size: u64,
    /// Bytes that storage has: what lies beyond is zeros or dirty.
    pub(super) stored: u64,
    mtime: Timespec,
    version: (Timespec, u64),
    windows: HashMap<u64, Region>,
    pub(super) extents: BTreeMap<u64, Extent>,
    /// Page numbers.
    dirty: BTreeSet<u64>,
    pub(super) flushing: bool,
    pub(super) error: Option<Errno>,
    last: u64,
    depth: u64,
}

impl State {
    pub(super) fn new(handle: FileHandle, attr: &Attr) -> State {
        State {
            handle,
            size: attr.size,
            stored: attr.size,
            mtime: attr.mtime,
            version: (attr.mtime, attr.size),
            windows: HashMap::new(),
            extents: BTreeMap::new(),
            dirty: BTreeSet::new(),
            flushing: false,
            error: None,
            last: u64::MAX - 1,
            depth: 0,
        }
    }

    pub(super) fn reply(&self) -> MemReply {
        MemReply::FileState {
            size: self.size,
            mtime: self.mtime,
            dirty: self.is_dirty(),
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.flushing || !self.dirty.is_empty() || self.size != self.stored
    }

    pub(super) fn dirty_bytes(&self) -> u64 {
        self.dirty.len() as u64 * PAGE_SIZE
    }

    pub(super) fn is_version(&self, attr: &Attr) -> bool {
        self.version == (attr.mtime, attr.size)
    }

    pub(super) fn set_version(&mut self, attr: &Attr) {
        self.version = (attr.mtime, attr.size);
        self.mtime = attr.mtime;
        self.stored = attr.size;
        if self.dirty.is_empty() {
            self.size = attr.size;
        }
    }

    /// Our own write reached storage, which is `attr` now.
    pub(super) fn set_version_after_write(&mut self, attr: &Attr) {
        self.version = (attr.mtime, attr.size);
        self.mtime = attr.mtime;
        self.stored = attr.size;
    }

    pub(super) fn region(&mut self, memory: &Memory, index: u64) -> Result<Region, Errno> {
        let window = index / WINDOW;
        if let Some(region) = self.windows.get(&window) {
            return Ok(region.clone());
        }
        let region = memory.register(VREGION_SIZE, "file").map_err(|e| {
            tracing::error!("a file cannot be cached: {e}");
            Errno::ENOMEM
        })?;
        self.windows.insert(window, region.clone());
        Ok(region)
    }

    fn region_of(&self, index: u64) -> Result<&Region, Errno> {
        self.windows.get(&(index / WINDOW)).ok_or(Errno::EIO)
    }

    pub(super) fn begin(&mut self, index: u64, bytes: u64, clock: u64) {
        let extent = Extent {
            ready: false,
            keys: HashMap::new(),
            used: clock,
            bytes,
        };
        self.extents.insert(index, extent);
    }

    pub(super) fn touch(&mut self, index: u64, clock: u64) {
        if let Some(e) = self.extents.get_mut(&index) {
            e.used = clock;
        }
    }

    pub(super) fn has_all(&self, at: u64, end: u64) -> bool {
        (at / EXTENT_SIZE..end.div_ceil(EXTENT_SIZE))
            .all(|n| self.extents.get(&n).is_some_and(|e| e.ready))
    }

    /// Copies out of extents that are there.
    pub(super) fn read(&self, at: u64, dst: &mut [u8]) -> Result<(), Errno> {
        let region = self.region_of(at / EXTENT_SIZE)?;
        region.read(at % VREGION_SIZE, dst).map_err(|_| Errno::EIO)
    }

    /// Copies into extents that are there; what is written is dirty.
    pub(super) fn write(&mut self, at: u64, data: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        while done < data.len() {
            let to = at + done as u64;
            let room = (EXTENT_SIZE - to % EXTENT_SIZE) as usize;
            let part = &data[done..data.len().min(done + room)];
            let region = self.region_of(to / EXTENT_SIZE)?;
            region
                .write(to % VREGION_SIZE, part)
                .map_err(|_| Errno::EIO)?;
            done += part.len();
        }
        let end = at + data.len() as u64;
        self.size = self.size.max(end);
        if !data.is_empty() {
            self.mark(at / PAGE_SIZE, end.div_ceil(PAGE_SIZE) - at / PAGE_SIZE);
        }
        Ok(())
    }

    pub(super) fn mark(&mut self, first: u64, count: u64) {
        let last = self.size.div_ceil(PAGE_SIZE);
        self.dirty
            .extend(first..first.saturating_add(count).min(last));
    }

    /// Takes the first run of dirty pages, at most `most` bytes.
    pub(super) fn take_run(&mut self, most: u64) -> Option<(u64, u64)> {
        let first = *self.dirty.first()?;
        let mut next = first;
        while (next - first) * PAGE_SIZE < most && self.dirty.remove(&next) {
            next += 1;
            // A run does not cross an extent: it is read in one piece.
            if next * PAGE_SIZE % EXTENT_SIZE == 0 {
                break;
            }
        }
        let start = first * PAGE_SIZE;
        Some((
            start,
            (next * PAGE_SIZE).min(self.size).saturating_sub(start),
        ))
    }

    pub(super) fn grant(
        &mut self,
        index: u64,
        to: Identity,
        access: Access,
    ) -> Result<RemoteKey, Errno> {
        let region = self.region_of(index)?.clone();
        let extent = self.extents.get_mut(&index).ok_or(Errno::EIO)?;
        let writable = access == Access::ReadWrite;
        if let Some(key) = extent.keys.get(&(to, writable)) {
            return Ok(*key);
        }
        let at = index % WINDOW * EXTENT_SIZE;
        let key = region
            .grant(to, at..at + EXTENT_SIZE, access)
            .map_err(|e| {
                tracing::error!("a file's extent cannot be leased: {e}");
                Errno::EIO
            })?;
        extent.keys.insert((to, writable), key);
        Ok(key)
    }

    /// The extents to fill ahead of a sequential reader that is at `index`.
    pub(super) fn ahead_of(&mut self, index: u64) -> Option<std::ops::Range<u64>> {
        let sequential = index == self.last + 1;
        let again = index == self.last;
        self.last = index;
        if again {
            return None;
        }
        self.depth = if sequential {
            (self.depth * 2).clamp(1, MOST_AHEAD)
        } else {
            0
        };
        let end = (index + 1 + self.depth).min(self.stored.div_ceil(EXTENT_SIZE));
        (index + 1 < end).then_some(index + 1..end)
    }

    /// Clean extents: when they were used last, and their index.
    pub(super) fn clean(&self) -> impl Iterator<Item = (u64, u64)> {
        let flushing = self.flushing || self.size != self.stored;
        self.extents
            .iter()
            .filter(move |(index, e)| e.ready && !flushing && !self.is_extent_dirty(**index))
            // Somebody writes to it one-sided: it may be dirty without our knowing.
            .filter(|(_, e)| !e.keys.keys().any(|(_, writable)| *writable))
            .map(|(index, e)| (e.used, *index))
    }

    fn is_extent_dirty(&self, index: u64) -> bool {
        let pages = EXTENT_SIZE / PAGE_SIZE;
        self.dirty
            .range(index * pages..(index + 1) * pages)
            .next()
            .is_some()
    }

    /// Drops an extent; returns the bytes that it took.
    pub(super) fn give_up(&mut self, index: u64) -> u64 {
        if self.is_extent_dirty(index) || !self.extents.get(&index).is_some_and(|e| e.ready) {
            return 0;
        }
        let Some(extent) = self.extents.remove(&index) else {
            return 0;
        };
        if let Some(region) = self.windows.get(&(index / WINDOW)) {
            extent.keys.values().for_each(|key| region.revoke(*key));
            let at = index % WINDOW * EXTENT_SIZE;
            if let Err(e) = region.zero(at..at + EXTENT_SIZE) {
                tracing::error!("a file's frames cannot be freed: {e}");
            }
        }
        extent.bytes
    }

    /// Drops every ready extent from `first` on, dirty or not.
    pub(super) fn forget(&mut self, first: u64) -> u64 {
        let pages = EXTENT_SIZE / PAGE_SIZE;
        self.dirty.split_off(&(first * pages));
        let all: Vec<u64> = self.extents.range(first..).map(|(n, _)| *n).collect();
        all.into_iter().map(|index| self.give_up(index)).sum()
    }

    /// The file is `len` bytes long now: what lies beyond is zeros.
    pub(super) fn cut(&mut self, len: u64) -> u64 {
        self.dirty.split_off(&len.div_ceil(PAGE_SIZE));
        let tail = len % EXTENT_SIZE;
        let freed = self.forget(len.div_ceil(EXTENT_SIZE));
        let index = len / EXTENT_SIZE;
        if tail > 0 && self.extents.contains_key(&index) {
            if let Some(region) = self.windows.get(&(index / WINDOW)) {
                let at = index % WINDOW * EXTENT_SIZE;
                if let Err(e) = region.zero(at + tail..at + EXTENT_SIZE) {
                    tracing::error!("a file's tail cannot be cleared: {e}");
                }
                if let Some(extent) = self.extents.get_mut(&index) {
                    extent.keys.drain().for_each(|(_, key)| region.revoke(key));
                }
            }
        }
        freed
    }
}
