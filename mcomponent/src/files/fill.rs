//! From storage to the cache.

use super::state::{Fill, State};
use super::{Files, PATIENCE, lock};
use crate::files::state::File;
use fabric::Region;
use proto::Errno;
use proto::addr::{EXTENT_SIZE, PAGE_SIZE, VREGION_SIZE};
use proto::mem::FileRef;
use proto::store::{Attr, StoreReply, StoreRequest};
use proto::wire::MAX_BULK;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

impl Files {
    pub(super) fn ask_attr(&self, file: &FileRef) -> Result<Attr, Errno> {
        let request = StoreRequest::Stat {
            handle: file.handle.clone(),
        };
        match self.others.storage(file.storage, &request)? {
            StoreReply::Attr(attr) => Ok(attr),
            _ => Err(Errno::EPROTO),
        }
    }

    /// The file's state once extent `index` is there; filled by this thread, or
    /// by another that is waited for.
    pub(super) fn filled<'f>(
        &self,
        file: &'f File,
        index: u64,
        how: Fill,
    ) -> Result<MutexGuard<'f, State>, Errno> {
        let begun = Instant::now();
        let clock = self.counters.clock.fetch_add(1, Ordering::Relaxed);
        let mut state = lock(&file.state);
        loop {
            match state.extents.get(&index).map(|e| e.ready) {
                Some(true) => {
                    state.touch(index, clock);
                    return Ok(state);
                }
                Some(false) => {
                    let left = PATIENCE.saturating_sub(begun.elapsed());
                    if left.is_zero() {
                        return Err(Errno::EIO);
                    }
                    let waited = file.changed.wait_timeout(state, left);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => {
                    drop(state);
                    self.fill(file, index, how, clock)?;
                    state = lock(&file.state);
                }
            }
        }
    }

    /// Fills an extent that nobody has; no error if another thread was first.
    fn fill(&self, file: &File, index: u64, how: Fill, clock: u64) -> Result<(), Errno> {
        let start = index * EXTENT_SIZE;
        let mut state = lock(&file.state);
        if state.extents.contains_key(&index) {
            return Ok(());
        }
        let inside = state
            .size
            .max(start + 1)
            .saturating_sub(start)
            .min(EXTENT_SIZE);
        let bytes = match how {
            Fill::Whole => inside.div_ceil(PAGE_SIZE) * PAGE_SIZE,
            Fill::Nothing => EXTENT_SIZE,
        };
        let region = state.region(&self.memory, index)?;
        // Marked first: making room may look at this very file.
        state.begin(index, bytes, clock);
        let stored = state.stored.saturating_sub(start).min(EXTENT_SIZE);
        let handle = state.handle.clone();
        drop(state);
        let result = self.room(bytes).and_then(|()| match how {
            Fill::Nothing => Ok(()),
            Fill::Whole => self
                .bring(file, &region, handle, start, stored)
                .inspect_err(|_| {
                    self.release(bytes);
                }),
        });
        let mut state = lock(&file.state);
        match (&result, state.extents.get_mut(&index)) {
            (Ok(()), Some(extent)) => extent.ready = true,
            _ => {
                state.extents.remove(&index);
            }
        }
        drop(state);
        file.changed.notify_all();
        result
    }

    /// Takes room for an extent, from other files' if need be.
    fn room(&self, bytes: u64) -> Result<(), Errno> {
        let got = self.ledger.take(bytes)
            || (crate::spaces::Reclaim::reclaim(self, bytes) > 0 && self.ledger.take(bytes));
        if !got {
            tracing::warn!("no room to cache a file: give this component more --memory");
            return Err(Errno::ENOMEM);
        }
        self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn bring(
        &self,
        file: &File,
        region: &Region,
        handle: proto::store::FileHandle,
        start: u64,
        stored: u64,
    ) -> Result<(), Errno> {
        let mut done = 0;
        while done < stored {
            let len = (stored - done).min(MAX_BULK as u64) as u32;
            let handle = handle.clone();
            let request = StoreRequest::Read {
                handle,
                offset: start + done,
                len,
            };
            let StoreReply::Data(data) = self.others.storage(file.of.storage, &request)? else {
                return Err(Errno::EPROTO);
            };
            if data.is_empty() {
                break; // Shorter than it was: the rest is zeros.
            }
            if data.len() > len as usize {
                return Err(Errno::EPROTO);
            }
            let at = (start + done) % VREGION_SIZE;
            region.write(at, &data).map_err(|_| Errno::EIO)?;
            self.counters
                .read
                .fetch_add(data.len() as u64, Ordering::Relaxed);
            done += data.len() as u64;
        }
        Ok(())
    }

    /// Fills extents that a sequential reader will want, on a thread of its own
    /// so that the reader need not wait.
    pub(super) fn fill_ahead(self: &Arc<Self>, file: &Arc<File>, ahead: Range<u64>) {
        let (files, file) = (self.clone(), file.clone());
        let spawned = std::thread::Builder::new()
            .name("ahead".into())
            .spawn(move || {
                for index in ahead {
                    let clock = files.counters.clock.load(Ordering::Relaxed);
                    if lock(&file.state).extents.contains_key(&index) {
                        continue;
                    }
                    match files.fill(&file, index, Fill::Whole, clock) {
                        Ok(()) => files.counters.ahead.fetch_add(1, Ordering::Relaxed),
                        Err(_) => break, // Whoever needs it will be told.
                    };
                }
            });
        if let Err(e) = spawned {
            tracing::debug!("no thread to read ahead: {e}");
        }
    }
}
