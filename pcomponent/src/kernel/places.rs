//! Which memory component caches a file: gmm's answer, kept.

use crate::memory::FileHomes;
use fabric::Peer;
use proto::Errno;
use proto::NodeId;
use proto::gmm::{GmmReply, GmmRequest, NodeInfo};
use proto::mem::FileRef;
use proto::store::FileId;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// Asks gmm once for each file. With one memory component in the testbed there
/// is nothing to ask; without gmm the process's home serves.
pub(crate) struct Places {
    gmm: Peer,
    home: NodeInfo,
    known: RwLock<HashMap<(NodeId, FileId), NodeInfo>>,
}

impl Places {
    /// With `home` for when gmm is away.
    pub(crate) fn new(gmm: Peer, home: NodeInfo) -> Places {
        Places {
            gmm,
            home,
            known: RwLock::default(),
        }
    }
}

impl FileHomes for Places {
    fn home_of(&self, file: &FileRef) -> Result<NodeInfo, Errno> {
        let key = (file.storage, file.id);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(info) = known.get(&key) {
            return Ok(info.clone());
        }
        drop(known);
        let request = GmmRequest::PlaceFile {
            file: file.id,
            storage: file.storage,
        };
        let info = match self.gmm.ask(&request) {
            Ok(GmmReply::Placed(info)) => info,
            Ok(other) => {
                tracing::warn!("gmm placed no file: {other:?}; the home component caches it");
                self.home.clone()
            }
            Err(e) => {
                tracing::warn!("gmm cannot place a file: {e}; the home component caches it");
                self.home.clone()
            }
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        Ok(known.entry(key).or_insert(info).clone())
    }
}
