//! From the cache to storage.

use super::{File, Files, PATIENCE, lock};
use crate::core::cached::Run;
use proto::mem::{FileRef, MemReply};
use proto::store::{StoreReply, StoreRequest};
use proto::wire::MAX_BULK;
use proto::{Errno, NodeId};
use std::collections::HashSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Files {
    /// Writes back what is dirty now. A write that fails is told by the next
    /// fsync(2) or close(2); the pages stay dirty and are tried again, unless
    /// the file is gone.
    ///
    /// # Errors
    /// What storage answered; `EIO` where it does not, or where another
    /// thread's work on the file takes too long.
    pub(super) fn flush(&self, file: &File) -> Result<(), Errno> {
        self.begin_busy(file)?;
        let result = self.write_back(file);
        self.end_busy(file);
        result
    }

    /// Waits for other threads that write the file back or cut it.
    pub(super) fn begin_busy(&self, file: &File) -> Result<(), Errno> {
        let begun = Instant::now();
        let mut state = lock(&file.state);
        while state.busy {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(Errno::EIO);
            }
            let waited = file.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.busy = true;
        Ok(())
    }

    pub(super) fn end_busy(&self, file: &File) {
        lock(&file.state).busy = false;
        file.changed.notify_all();
    }

    fn write_back(&self, file: &File) -> Result<(), Errno> {
        // What is made dirty meanwhile waits for the next time.
        let mut left = lock(&file.state).cached.dirty_bytes();
        while left > 0 {
            let mut state = lock(&file.state);
            let Some(run) = state.cached.poll_write(MAX_BULK as u64) else {
                break;
            };
            let mut data = vec![0; run.len as usize];
            let copied = state.windows.read(run.start, &mut data);
            let handle = state.handle.clone();
            drop(state);
            let request = StoreRequest::Write {
                handle,
                offset: run.start,
                data,
            };
            let answer = copied.and_then(|()| self.others.storage(file.storage, &request));
            self.end_run(file, run, answer)?;
            left = left.saturating_sub(run.len.next_multiple_of(proto::PAGE_SIZE));
        }
        Ok(())
    }

    fn end_run(
        &self,
        file: &File,
        run: Run,
        answer: Result<StoreReply, Errno>,
    ) -> Result<(), Errno> {
        let mut state = lock(&file.state);
        let errno = match answer {
            Ok(StoreReply::Written(attr)) if attr.id == file.id => {
                self.counters.written.fetch_add(run.len, Ordering::Relaxed);
                state.cached.handle_stored(&attr);
                return Ok(());
            }
            Ok(_) => Errno::EPROTO,
            Err(e) => e,
        };
        // The file is gone: nobody can ever read what was written.
        let vain = matches!(errno, Errno::ESTALE | Errno::ENOENT);
        if vain {
            tracing::warn!(
                "{}: {} bytes at {} are lost: {errno}",
                file.name(),
                run.len,
                run.start
            );
        }
        state.cached.handle_refused(errno, vain);
        Err(errno)
    }

    /// fsync(2).
    ///
    /// # Errors
    /// What went wrong with any write since the last call.
    pub fn sync(&self, file: &FileRef, data_only: bool) -> Result<MemReply, Errno> {
        let reply = self.close(file)?;
        let handle = file.handle.clone();
        let request = StoreRequest::Fsync { handle, data_only };
        self.others.storage(file.storage, &request)?;
        Ok(reply)
    }

    /// Writes back what is dirty.
    ///
    /// # Errors
    /// What went wrong with any write since the last call.
    pub fn close(&self, file: &FileRef) -> Result<MemReply, Errno> {
        let Some(entry) = self.known(file) else {
            return Ok(MemReply::Done);
        };
        let flushed = self.flush(&entry);
        let mut state = lock(&entry.state);
        // Told here, and not again.
        let error = state.cached.take_error();
        flushed?;
        error.map_or_else(|| Ok(state.reply()), Err)
    }

    /// Writes back every file that is dirty, and forgets those that nothing is
    /// known of. A storage component that fails is left alone until next time.
    pub fn flush_all(&self) {
        let mut failing: HashSet<NodeId> = HashSet::new();
        for entry in self.all() {
            if failing.contains(&entry.storage) || !lock(&entry.state).cached.is_dirty() {
                continue;
            }
            if let Err(e) = self.flush(&entry) {
                tracing::warn!(
                    "{} cannot be written back: {e}; it is tried again",
                    entry.name()
                );
                failing.insert(entry.storage);
            }
        }
        self.prune();
    }

    fn prune(&self) {
        let mut table = lock(&self.table);
        // Nobody is at it: clones are made under the table's lock.
        table.retain(|_, file| {
            std::sync::Arc::strong_count(file) > 1 || !lock(&file.state).cached.is_idle()
        });
    }
}
