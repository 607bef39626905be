//! What the open files of a process share: the way to the components, and
//! what is known of each inode.

use super::state::FileState;
use super::wire::Components;
use proto::mem::{FileRef, MemReply, MemRequest};
use proto::store::{Attr, FileId, Location, StoreReply, StoreRequest, Timespec};
use proto::{Errno, NodeId};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// See the module.
pub(super) struct Inner {
    pub(super) wire: Box<dyn Components>,
    pub(super) storage: NodeId,
    pub(super) states: Mutex<HashMap<FileId, Arc<FileState>>>,
    /// Devices of the storage component's own /proc, /sys and /dev.
    pub(super) foreign: OnceLock<HashSet<u64>>,
    pub(super) names: Mutex<HashMap<FileId, Vec<u8>>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A component answered something that is no answer to the question.
pub(super) fn confused<T>(answer: &impl std::fmt::Debug) -> Result<T, Errno> {
    let short: String = format!("{answer:?}").chars().take(80).collect();
    tracing::error!("an answer that does not fit: {short}");
    Err(Errno::EPROTO)
}

impl Inner {
    pub(super) fn state(&self, file: &FileRef) -> Arc<FileState> {
        let mut states = lock(&self.states);
        let state = states
            .entry(file.id)
            .or_insert_with(|| Arc::new(FileState::new(file.clone())));
        state.renew(file.clone());
        state.clone()
    }

    pub(super) fn done(&self, request: &StoreRequest) -> Result<(), Errno> {
        match self.wire.storage(request)? {
            StoreReply::Done => Ok(()),
            other => confused(&other),
        }
    }

    pub(super) fn data(&self, request: &StoreRequest) -> Result<Vec<u8>, Errno> {
        match self.wire.storage(request)? {
            StoreReply::Data(data) => Ok(data),
            other => confused(&other),
        }
    }

    pub(super) fn attr(&self, request: &StoreRequest) -> Result<Attr, Errno> {
        match self.wire.storage(request)? {
            StoreReply::Attr(attr) => Ok(attr),
            other => confused(&other),
        }
    }

    /// Size and modification time at the memory component.
    pub(super) fn cached_state(&self, file: &FileRef) -> Result<(u64, Timespec), Errno> {
        match self
            .wire
            .memory(file, &MemRequest::FileStat { file: file.clone() })?
        {
            MemReply::FileState { size, mtime, .. } => Ok((size, mtime)),
            other => confused(&other),
        }
    }

    /// What storage tells, corrected by what this process wrote since.
    pub(super) fn with_cached(&self, mut attr: Attr) -> Result<Attr, Errno> {
        let state = lock(&self.states).get(&attr.id).cloned();
        if let Some(state) = state.filter(|state| state.is_dirty()) {
            let (size, mtime) = self.cached_state(&state.file())?;
            attr.size = size;
            attr.mtime = attr.mtime.max(mtime);
        }
        Ok(attr)
    }

    pub(super) fn flush(&self, state: &FileState) -> Result<(), Errno> {
        if !state.is_dirty() && !state.is_mapped_shared() {
            return Ok(());
        }
        let (version, file) = (state.version(), state.file());
        let result = self
            .wire
            .memory(&file, &MemRequest::FileClose { file: file.clone() });
        // An error is told once; what could not be written will not be later.
        state.clean_at(version);
        result.map(|_| ())
    }

    pub(super) fn find_foreign(&self) -> HashSet<u64> {
        let device = |path: &[u8]| {
            let at = Location {
                dir: None,
                path: path.to_vec(),
            };
            self.attr(&StoreRequest::StatPath { at, follow: true })
                .ok()
                .map(|a| a.id.dev)
        };
        let root = device(b"/");
        let all = [&b"/proc"[..], b"/sys", b"/dev"]
            .into_iter()
            .filter_map(device);
        all.filter(|dev| Some(*dev) != root).collect()
    }
}
