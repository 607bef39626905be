//! From the cache to storage.

use super::{Files, PATIENCE, lock};
use crate::files::state::File;
use proto::Errno;
use proto::store::{StoreReply, StoreRequest};
use proto::wire::MAX_BULK;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Files {
    /// Writes back what is dirty now. A write that fails is remembered for the
    /// next fsync(2) or close(2); where storage does not answer the pages stay
    /// dirty and are tried again.
    ///
    /// # Errors
    /// `EIO`: storage does not answer, or another thread's flush takes too long.
    pub(super) fn flush(&self, file: &File) -> Result<(), Errno> {
        self.begin_flush(file)?;
        let result = self.write_back(file);
        lock(&file.state).flushing = false;
        file.changed.notify_all();
        result
    }

    fn begin_flush(&self, file: &File) -> Result<(), Errno> {
        let begun = Instant::now();
        let mut state = lock(&file.state);
        while state.flushing {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(Errno::EIO);
            }
            let waited = file.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.flushing = true;
        Ok(())
    }

    fn write_back(&self, file: &File) -> Result<(), Errno> {
        loop {
            let mut state = lock(&file.state);
            let Some((start, len)) = state.take_run(MAX_BULK as u64) else {
                return Ok(());
            };
            let mut data = vec![0; len as usize];
            state.read(start, &mut data)?;
            let handle = state.handle.clone();
            drop(state);
            let request = StoreRequest::Write {
                handle,
                offset: start,
                data,
            };
            match self.others.storage(file.of.storage, &request) {
                Ok(StoreReply::Written(attr)) => {
                    self.counters.written.fetch_add(len, Ordering::Relaxed);
                    lock(&file.state).set_version_after_write(&attr);
                }
                Ok(_) => return Err(self.keep(file, start, len, Errno::EPROTO)),
                Err(Errno::EIO) => return Err(self.keep(file, start, len, Errno::EIO)),
                Err(e) => {
                    tracing::error!("{}: {len} bytes at {start} are lost: {e}", file.name());
                    lock(&file.state).error = Some(e);
                }
            }
        }
    }

    /// The pages stay dirty; the error is told as well.
    fn keep(&self, file: &File, start: u64, len: u64, e: Errno) -> Errno {
        let mut state = lock(&file.state);
        state.mark(start / proto::PAGE_SIZE, len.div_ceil(proto::PAGE_SIZE));
        state.error = Some(e);
        e
    }
}
