//! From storage to the cache.

use super::{File, Files, PATIENCE, State, lock};
use crate::core::cached::{Fill, Presence};
use crate::peers::Wanted;
use fabric::Region;
use proto::Errno;
use proto::addr::VREGION_SIZE;
use proto::store::FileHandle;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

impl Files {
    /// The file's state once extent `index` is there; filled by this thread, or
    /// by another that is waited for.
    pub(super) fn filled<'f>(
        &self,
        file: &'f File,
        index: u64,
    ) -> Result<MutexGuard<'f, State>, Errno> {
        let begun = Instant::now();
        let clock = self.counters.clock.fetch_add(1, Ordering::Relaxed);
        let mut state = lock(&file.state);
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            match state.cached.look(index, clock) {
                Presence::Ready => return Ok(state),
                _ if left.is_zero() => return Err(Errno::EIO),
                Presence::Filling => {
                    let waited = file.changed.wait_timeout(state, left);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Presence::Absent => {
                    drop(state);
                    self.fill(file, index)?;
                    state = lock(&file.state);
                }
            }
        }
    }

    /// Fills an extent if nobody has; whether that was to be done. No error if
    /// the file changed meanwhile.
    pub(super) fn fill(&self, file: &File, index: u64) -> Result<bool, Errno> {
        let clock = self.counters.clock.load(Ordering::Relaxed);
        let mut state = lock(&file.state);
        if state.cached.look(index, clock) != Presence::Absent {
            return Ok(false);
        }
        let region = self.region(&mut state, index)?;
        let handle = state.handle.clone();
        let fill = state.cached.begin_fill(index, clock);
        drop(state);
        let room = if self.take(fill.charge) {
            Ok(())
        } else {
            self.take_or_evict(fill.charge)
        };
        let brought = room.and_then(|()| self.bring(file, &region, &handle, fill));
        let mut state = lock(&file.state);
        if !state.cached.end_fill(index, fill.ticket, brought.is_ok()) {
            let State {
                cached, windows, ..
            } = &mut *state;
            windows.drop_extent(index, cached);
            if room.is_ok() {
                self.give(fill.charge);
            }
        }
        drop(state);
        file.changed.notify_all();
        brought.map(|()| true)
    }

    fn bring(
        &self,
        file: &File,
        region: &Region,
        handle: &FileHandle,
        fill: Fill,
    ) -> Result<(), Errno> {
        let start = fill.start % VREGION_SIZE;
        // A whole extent may be a huge page; else its pages come with its bytes.
        let huge = region.commit_huge(start..start + fill.len);
        let wanted = Wanted {
            handle,
            offset: fill.start,
            len: fill.len,
            region,
            to: start,
            committed: huge,
        };
        // Where it is shorter than it was, the rest is zeros.
        let came = self.others.bring(file.storage, wanted).inspect_err(|e| {
            // What storage says is the client's to hear.
            if *e == Errno::ENOMEM {
                tracing::error!("{} cannot be cached: {e}", file.name());
            }
        })?;
        self.counters.read.fetch_add(came, Ordering::Relaxed);
        Ok(())
    }
}
