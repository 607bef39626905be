//! Room for extents: taken from the ledger, or from extents used long ago.

use super::{File, Files, State};
use crate::spaces::Reclaim;
use fabric::Region;
use proto::Errno;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Extents dropped at once where descriptors run out.
const SPARE: usize = 16;

impl Files {
    /// Takes room; false if there is none free.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let got = self.ledger.take(bytes);
        if got {
            self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        got
    }

    pub(super) fn give(&self, bytes: u64) {
        self.ledger.give(bytes);
        self.counters.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Makes room, to be taken by the caller.
    pub(super) fn make_room(&self, bytes: u64) -> Result<(), Errno> {
        if self.reclaim(bytes) > 0 {
            return Ok(());
        }
        tracing::warn!("no room to cache a file: give this component more --memory");
        Err(Errno::ENOMEM)
    }

    pub(super) fn take_or_evict(&self, bytes: u64) -> Result<(), Errno> {
        for _ in 0..8 {
            self.make_room(bytes)?;
            if self.take(bytes) {
                return Ok(());
            }
        }
        Err(Errno::ENOMEM)
    }

    /// The region of an extent. Each takes a descriptor: where none is left,
    /// others give theirs up. `state` is locked: its file is left out.
    pub(super) fn region(&self, state: &mut State, index: u64) -> Result<Region, Errno> {
        let why = match state.windows.region(&self.memory, index) {
            Ok(region) => return Ok(region),
            Err(why) => why,
        };
        self.evict(u64::MAX, SPARE);
        state.windows.region(&self.memory, index).map_err(|again| {
            tracing::error!("a file cannot be cached: {why}; {again}");
            Errno::ENOMEM
        })
    }

    /// Drops clean extents, least recently used first, until `bytes` or `most`
    /// extents are freed. Files that are locked are left alone.
    fn evict(&self, bytes: u64, most: usize) -> u64 {
        let mut candidates: Vec<(u64, u64, Arc<File>)> = Vec::new();
        for file in self.all() {
            let Ok(state) = file.state.try_lock() else {
                continue;
            };
            let idle = state
                .cached
                .clean()
                .filter(|(_, n)| !state.windows.is_shared(*n));
            candidates.extend(idle.map(|(used, index)| (used, index, file.clone())));
        }
        candidates.sort_unstable_by_key(|(used, ..)| *used);
        let mut freed = 0;
        for (_, index, file) in candidates.into_iter().take(most) {
            if freed >= bytes {
                break;
            }
            let Ok(mut state) = file.state.try_lock() else {
                continue;
            };
            let State {
                cached, windows, ..
            } = &mut *state;
            if windows.is_shared(index) {
                continue;
            }
            if let Some(charge) = cached.evict(index) {
                let revoked = windows.drop_extent(index, cached);
                self.counters.revoked.fetch_add(revoked, Ordering::Relaxed);
                self.give(charge);
                freed += charge;
            }
        }
        freed
    }
}

impl Reclaim for Files {
    /// Clean extents first; where they don't suffice, dirty ones are written
    /// back and dropped.
    fn reclaim(&self, bytes: u64) -> u64 {
        let freed = self.evict(bytes, usize::MAX);
        if freed >= bytes {
            return freed;
        }
        self.flush_all();
        freed + self.evict(bytes - freed, usize::MAX)
    }
}
