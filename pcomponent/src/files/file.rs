//! One open file.

use super::ahead::Ahead;
use super::inner::{Inner, confused, lock};
use super::state::FileState;
use super::window::Window;
use proto::mem::{FileRef, MemReply, MemRequest};
use proto::store::{Attr, FileHandle, FileId, StoreRequest};
use proto::wire::MAX_BULK;
use proto::{Errno, NodeId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;

/// An open file. Dropping it closes it.
#[allow(unreachable_pub)] // An associated type of a public trait's implementation.
pub struct RemoteFile {
    pub(super) inner: Arc<Inner>,
    pub(super) state: Arc<FileState>,
    pub(super) file: FileRef,
    pub(super) attr: Attr,
    pub(super) told: AtomicBool,
    pub(super) telling: Mutex<()>,
    pub(super) ahead: Mutex<Ahead>,
    pub(super) window: Window,
}

impl RemoteFile {
    /// Its handle.
    pub(crate) fn handle(&self) -> FileHandle {
        self.file.handle.clone()
    }

    /// Its attributes when it was opened.
    pub(crate) fn attr_at_open(&self) -> &Attr {
        &self.attr
    }

    /// Which file it is.
    pub(crate) fn id(&self) -> FileId {
        self.file.id
    }

    /// The storage component that serves it.
    pub(crate) fn storage(&self) -> NodeId {
        self.file.storage
    }

    pub(super) fn is_regular(&self) -> bool {
        self.attr.mode & S_IFMT == S_IFREG
    }

    /// Tells the cache, before the first look at data, which version was
    /// opened. What this process has written and not flushed it knows best.
    pub(super) fn tell(&self) -> Result<(), Errno> {
        if self.told.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one = lock(&self.telling);
        if self.told.load(Ordering::Acquire) {
            return Ok(());
        }
        if !self.is_regular() {
            return Err(if self.attr.mode & S_IFMT == S_IFDIR {
                Errno::EISDIR
            } else {
                Errno::EINVAL
            });
        }
        if !self.state.is_dirty() {
            let (file, attr) = (self.file.clone(), self.version_opened()?);
            self.inner
                .wire
                .memory(&self.file, &MemRequest::FileOpen { file, attr })?;
        }
        self.told.store(true, Ordering::Release);
        Ok(())
    }

    /// What storage told when the file was opened; if this process has changed
    /// it, what storage tells now: the other may be from before a write-back.
    fn version_opened(&self) -> Result<Attr, Errno> {
        if self.state.version() == 0 {
            return Ok(self.attr.clone());
        }
        self.inner.attr(&StoreRequest::Stat {
            handle: self.handle(),
        })
    }

    pub(super) fn fetch(&self, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        self.window.fetched();
        let len = len.min(MAX_BULK);
        let file = self.file.clone();
        let request = MemRequest::FileRead {
            file,
            offset,
            len: len as u32,
        };
        match self.inner.wire.memory(&self.file, &request)? {
            MemReply::Data(data) if data.len() <= len => Ok(data),
            other => confused(&other),
        }
    }

    pub(super) fn fetch_all(&self, offset: u64, dst: &mut [u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < dst.len() {
            let asked = (dst.len() - done).min(MAX_BULK);
            let data = self.fetch(offset + done as u64, asked)?;
            dst[done..done + data.len()].copy_from_slice(&data);
            done += data.len();
            if data.len() < asked {
                break;
            }
        }
        Ok(done)
    }

    pub(super) fn write(&self, offset: Option<u64>, data: &[u8]) -> Result<u64, Errno> {
        self.tell()?;
        let (file, data) = (self.file.clone(), data.to_vec());
        match self.change(&MemRequest::FileWrite { file, offset, data })? {
            MemReply::Written { offset, .. } => Ok(offset),
            other => confused(&other),
        }
    }

    pub(super) fn change(&self, request: &MemRequest) -> Result<MemReply, Errno> {
        self.state.begin_change();
        let reply = self.inner.wire.memory(&self.file, request);
        self.state.end_change();
        reply
    }

    /// Nothing has to be known of the file any more, unless a shared mapping
    /// may still change it.
    fn forget(&self, states: &mut HashMap<FileId, Arc<FileState>>) {
        if !self.state.is_mapped_shared() {
            states.remove(&self.file.id);
        }
    }
}

impl Drop for RemoteFile {
    fn drop(&mut self) {
        let last = {
            let mut states = lock(&self.inner.states);
            // The map's and ours: clones are made under the lock.
            let last = Arc::strong_count(&self.state) == 2;
            if last && !self.state.is_dirty() {
                self.forget(&mut states);
            }
            last
        };
        if last && self.state.is_dirty() {
            if let Err(e) = self.inner.flush(&self.state) {
                tracing::error!("writing a file back when it was closed: {e}");
            }
            self.forget(&mut lock(&self.inner.states));
        }
        // A mapping outlives the descriptor it was made from.
        if !self.state.is_mapped() {
            let _ = self.inner.wire.storage(&StoreRequest::Close {
                handle: self.handle(),
            });
        }
    }
}

impl std::fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RemoteFile({:?})", self.file.id)
    }
}
