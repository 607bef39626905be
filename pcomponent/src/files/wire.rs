//! Asking the storage and memory components. A component that does not answer
//! is `EIO` for the program, and one line in the log by the component's name.

use crate::memory::FileHomes;
use fabric::{Credential, FabricError, Options, Peer};
use proto::gmm::NodeInfo;
use proto::mem::{FileRef, MemReply, MemRequest};
use proto::store::{StoreReply, StoreRequest};
use proto::{Errno, NodeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// The components as files need them; tests put a model here.
pub(super) trait Components: Send + Sync {
    /// Asks the storage component. `Failed` is an error.
    fn storage(&self, request: &StoreRequest) -> Result<StoreReply, Errno>;
    /// Asks the memory component that caches `file`. `Failed` is an error.
    fn memory(&self, file: &FileRef, request: &MemRequest) -> Result<MemReply, Errno>;
    /// Messages sent, by kind.
    fn counts(&self) -> BTreeMap<&'static str, u64>;
}

/// The components behind the fabric.
pub(super) struct Wire {
    storage: Peer,
    storage_name: String,
    homes: Arc<dyn FileHomes>,
    credential: Credential,
    options: Options,
    peers: RwLock<HashMap<NodeId, Peer>>,
    told: Mutex<BTreeSet<String>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl Wire {
    pub(super) fn new(
        storage: &NodeInfo,
        peer: Peer,
        homes: Arc<dyn FileHomes>,
        credential: Credential,
        options: Options,
    ) -> Wire {
        Wire {
            storage: peer,
            storage_name: storage.name.clone(),
            homes,
            credential,
            options,
            peers: RwLock::default(),
            told: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    fn peer(&self, info: &NodeInfo) -> Peer {
        let known = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = known.get(&info.id) {
            return peer.clone();
        }
        drop(known);
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let made = || {
            Peer::new(
                info.addrs.clone(),
                self.credential.clone(),
                self.options.clone(),
            )
        };
        peers.entry(info.id).or_insert_with(made).clone()
    }

    fn lost(&self, name: &str, error: &FabricError) -> Errno {
        if lock(&self.told).insert(name.to_string()) {
            tracing::error!("component {name} does not serve files: {error}; the program sees EIO");
        }
        Errno::EIO
    }

    fn count(&self, kind: &'static str) {
        *lock(&self.counts).entry(kind).or_default() += 1;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Components for Wire {
    fn storage(&self, request: &StoreRequest) -> Result<StoreReply, Errno> {
        self.count(store_kind(request));
        match self.storage.ask(request) {
            Ok(StoreReply::Failed(e)) => Err(e),
            Ok(reply) => Ok(reply),
            Err(e) => Err(self.lost(&self.storage_name, &e)),
        }
    }

    fn memory(&self, file: &FileRef, request: &MemRequest) -> Result<MemReply, Errno> {
        self.count(mem_kind(request));
        let info = self.homes.home_of(file)?;
        match self.peer(&info).ask(request) {
            Ok(MemReply::Failed(e)) => Err(e),
            Ok(reply) => Ok(reply),
            Err(e) => Err(self.lost(&info.name, &e)),
        }
    }

    fn counts(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.counts).clone()
    }
}

fn store_kind(request: &StoreRequest) -> &'static str {
    match request {
        StoreRequest::Open { .. } => "storage open",
        StoreRequest::Close { .. } => "storage close",
        StoreRequest::StatPath { .. } | StoreRequest::Stat { .. } => "storage stat",
        StoreRequest::ReadDir { .. } => "storage readdir",
        StoreRequest::Readlink { .. } => "storage readlink",
        StoreRequest::Access { .. } => "storage access",
        StoreRequest::PathOf { .. } => "storage path",
        StoreRequest::Fsync { .. } => "storage fsync",
        _ => "storage change",
    }
}

fn mem_kind(request: &MemRequest) -> &'static str {
    match request {
        MemRequest::FileOpen { .. } => "file open",
        MemRequest::FileClose { .. } => "file close",
        MemRequest::FileRead { .. } => "file read",
        MemRequest::FileWrite { .. } => "file write",
        MemRequest::FileTruncate { .. } => "file truncate",
        MemRequest::FileSync { .. } => "file sync",
        MemRequest::FileStat { .. } => "file stat",
        _ => "file other",
    }
}
