//! The other components, in memory.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use mcomponent::peers::Others;
use mcomponent::spaces::Spaces;
use proto::gmm::NodeInfo;
use proto::mem::{FileRef, MemReply, MemRequest};
use proto::store::{Attr, FileHandle, FileId, StoreReply, StoreRequest, Timespec};
use proto::{Errno, Generation, NodeId, NodeKind, ProcessId, VRegionId};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

#[derive(Default)]
struct Storage {
    /// Content and version by inode.
    files: HashMap<u64, Content>,
    refuse_writes: Option<Errno>,
    away: bool,
    delay: Duration,
}

/// Everybody else, as seen by component `me`.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) me: u64,
    storage: Mutex<Storage>,
    pub(crate) reads: AtomicU64,
    /// Other memory components.
    pub(crate) spaces: OnceLock<Vec<Weak<Spaces>>>,
    turn: AtomicU64,
}

pub(crate) fn file(ino: u64) -> FileRef {
    FileRef {
        id: FileId { dev: 1, ino },
        storage: NodeId(100),
        handle: FileHandle(vec![ino as u8]),
    }
}

pub(crate) fn filler(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

pub(crate) fn info(id: u64) -> NodeInfo {
    NodeInfo {
        id: NodeId(id),
        kind: NodeKind::Memory,
        name: format!("m{id}"),
        generation: Generation(1),
        addrs: Vec::new(),
        host: String::new(),
        control: None,
    }
}

impl World {
    /// As component `me` sees it.
    pub(crate) fn at(me: u64) -> Arc<World> {
        Arc::new(World {
            me,
            ..World::default()
        })
    }
    pub(crate) fn with_file(ino: u64, content: &[u8]) -> Arc<World> {
        let world = World::default();
        world.add(ino, content);
        Arc::new(world)
    }
    pub(crate) fn add(&self, ino: u64, content: &[u8]) {
        let mut storage = self.storage.lock().unwrap();
        let version = storage.files.get(&ino).map_or(1, |f| f.1 + 1);
        storage.files.insert(ino, (content.to_vec(), version));
    }
    pub(crate) fn content(&self, ino: u64) -> Vec<u8> {
        self.storage.lock().unwrap().files[&ino].0.clone()
    }
    pub(crate) fn attr(&self, ino: u64) -> Attr {
        attr(ino, &self.storage.lock().unwrap().files[&ino])
    }
    pub(crate) fn refuse_writes(&self, errno: Option<Errno>) {
        self.storage.lock().unwrap().refuse_writes = errno;
    }
    pub(crate) fn go_away(&self, away: bool) {
        self.storage.lock().unwrap().away = away;
    }
    pub(crate) fn delay(&self, delay: Duration) {
        self.storage.lock().unwrap().delay = delay;
    }
}

type Content = (Vec<u8>, i64);

fn find<'a>(
    files: &'a mut HashMap<u64, Content>,
    handle: &FileHandle,
) -> Result<(u64, &'a mut Content), Errno> {
    let ino = u64::from(handle.0[0]);
    Ok((ino, files.get_mut(&ino).ok_or(Errno::ESTALE)?))
}

fn attr(ino: u64, (content, version): &Content) -> Attr {
    let time = Timespec {
        sec: *version,
        nsec: 0,
    };
    Attr {
        id: FileId { dev: 1, ino },
        mode: 0o100_644,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: content.len() as u64,
        blksize: 4096,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
    }
}

impl Others for World {
    fn node(&self) -> NodeId {
        NodeId(self.me)
    }

    fn info(&self) -> NodeInfo {
        info(self.me)
    }

    fn place(&self, _: ProcessId, _: VRegionId, _: u64, not: &[NodeId]) -> Result<NodeInfo, Errno> {
        let count = self.spaces.get().map_or(1, Vec::len) as u64;
        let turn = self.turn.fetch_add(1, Ordering::SeqCst);
        let mut ids = (0..count).map(|n| (n + turn) % count);
        ids.find(|id| !not.contains(&NodeId(*id)))
            .map(info)
            .ok_or(Errno::ENOMEM)
    }

    fn memory(&self, node: &NodeInfo, request: &MemRequest) -> Result<MemReply, Errno> {
        let spaces = self.spaces.get().unwrap()[node.id.0 as usize]
            .upgrade()
            .ok_or(Errno::EIO)?;
        Ok(match request {
            MemRequest::Reserve { process, extents } => {
                let done = spaces.reserve(*process, extents);
                done.map_or_else(MemReply::Failed, |()| MemReply::Done)
            }
            MemRequest::Unreserve { process, extents } => {
                spaces.unreserve(*process, extents);
                MemReply::Done
            }
            other => panic!("components do not send {other:?}"),
        })
    }

    fn storage(&self, _: NodeId, request: &StoreRequest) -> Result<StoreReply, Errno> {
        let delay = self.storage.lock().unwrap().delay;
        std::thread::sleep(delay);
        let mut storage = self.storage.lock().unwrap();
        if storage.away {
            return Err(Errno::EIO);
        }
        let refused = storage.refuse_writes;
        let files = &mut storage.files;
        Ok(match request {
            StoreRequest::Stat { handle } => {
                let (ino, file) = find(files, handle)?;
                StoreReply::Attr(attr(ino, file))
            }
            StoreRequest::Read {
                handle,
                offset,
                len,
            } => {
                self.reads.fetch_add(1, Ordering::SeqCst);
                let (_, (content, _)) = find(files, handle)?;
                let from = content.len().min(*offset as usize);
                let to = content.len().min(from + *len as usize);
                StoreReply::Data(content[from..to].to_vec())
            }
            StoreRequest::Write {
                handle,
                offset,
                data,
            } => {
                if let Some(errno) = refused {
                    return Err(errno);
                }
                let (ino, file) = find(files, handle)?;
                let end = *offset as usize + data.len();
                let len = file.0.len().max(end);
                file.0.resize(len, 0);
                file.0[*offset as usize..end].copy_from_slice(data);
                file.1 += 1;
                StoreReply::Written(attr(ino, file))
            }
            StoreRequest::Truncate { handle, len } => {
                let (_, file) = find(files, handle)?;
                file.0.resize(*len as usize, 0);
                file.1 += 1;
                StoreReply::Done
            }
            StoreRequest::Fsync { .. } => StoreReply::Done,
            other => panic!("the cache does not send {other:?}"),
        })
    }

    fn processes(&self) -> Option<BTreeSet<ProcessId>> {
        None
    }
}
