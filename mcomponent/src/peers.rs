//! The other components: gmm for placement, other memory components for
//! promises, storage components for files.

mod staged;

use fabric::{FabricError, Options, Peer, Region};
use member::Member;
use proto::gmm::{GmmReply, GmmRequest, NodeInfo};
use proto::mem::{MemReply, MemRequest};
use proto::store::{FileHandle, FileId, StoreReply, StoreRequest};
use proto::wire::MAX_BULK;
use proto::{Errno, NodeId, NodeKind, ProcessId, VRegionId};
use staged::{Came, Slots};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// What is wanted of a file at a storage component, and where it goes.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The file.
    pub handle: &'a FileHandle,
    /// From where in it.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// What they are brought into,
    pub region: &'a Region,
    /// from this offset on.
    pub to: u64,
    /// Whether the memory there is committed.
    pub committed: bool,
}

impl Wanted<'_> {
    /// What is left of it when `done` bytes are there.
    fn rest(self, done: u64) -> Self {
        Wanted {
            offset: self.offset + done,
            len: self.len - done,
            to: self.to + done,
            ..self
        }
    }
}

/// What the memory component asks of others; tests have their own.
pub trait Others: Send + Sync {
    /// Who we are.
    fn node(&self) -> NodeId;
    /// Who we are, as others know us.
    fn info(&self) -> NodeInfo;
    /// Where a vRegion goes. `ENOMEM`: every component is full.
    ///
    /// # Errors
    /// `ENOMEM`, `EIO` where gmm does not answer.
    fn place(
        &self,
        process: ProcessId,
        vregion: VRegionId,
        bytes: u64,
        not: &[NodeId],
    ) -> Result<NodeInfo, Errno>;
    /// Asks another memory component.
    ///
    /// # Errors
    /// `EIO` where it does not answer.
    fn memory(&self, node: &NodeInfo, request: &MemRequest) -> Result<MemReply, Errno>;
    /// Asks a storage component. Requests are those that may be repeated.
    ///
    /// # Errors
    /// `EIO` where it does not answer within the deadline.
    fn storage(&self, node: NodeId, request: &StoreRequest) -> Result<StoreReply, Errno>;
    /// Brings bytes of a file; how many there were, fewer only at its end.
    ///
    /// # Errors
    /// As of [`Others::storage`]; `ENOMEM` where there is no memory for them.
    fn bring(&self, node: NodeId, wanted: Wanted<'_>) -> Result<u64, Errno> {
        bring_by_messages(self, node, wanted)
    }
    /// The processes that gmm knows, if it answers.
    fn processes(&self) -> Option<BTreeSet<ProcessId>>;
}

/// Brings bytes of a file within messages.
fn bring_by_messages<O: Others + ?Sized>(
    others: &O,
    node: NodeId,
    wanted: Wanted<'_>,
) -> Result<u64, Errno> {
    let mut done = 0;
    while done < wanted.len {
        let len = (wanted.len - done).min(MAX_BULK as u64) as u32;
        let request = StoreRequest::Read {
            handle: wanted.handle.clone(),
            offset: wanted.offset + done,
            len,
        };
        let StoreReply::Data(data) = others.storage(node, &request)? else {
            return Err(Errno::EPROTO);
        };
        if data.len() > len as usize {
            return Err(Errno::EPROTO);
        }
        if data.is_empty() {
            break;
        }
        let put = wanted.region.put(wanted.to + done, &data, wanted.committed);
        put.map_err(|e| {
            tracing::error!("no memory for a file's data: {e}");
            Errno::ENOMEM
        })?;
        done += data.len() as u64;
    }
    Ok(done)
}

/// Over the fabric.
#[derive(Default)]
pub struct Network {
    member: OnceLock<Member>,
    /// Our name and where we listen.
    name: String,
    addrs: Vec<String>,
    peers: Mutex<HashMap<NodeId, (Vec<String>, Peer)>>,
    /// Places at storage components that no thread uses.
    slots: Slots,
}

impl Network {
    /// Of the component `name`, which listens at `addrs`.
    #[must_use]
    pub fn new(name: &str, addrs: Vec<String>) -> Network {
        Network {
            name: name.to_owned(),
            addrs,
            ..Network::default()
        }
    }

    /// Registered: questions can be asked from now on.
    pub fn set_member(&self, member: Member) {
        let _ = self.member.set(member);
    }

    /// Our membership.
    pub fn member(&self) -> Option<&Member> {
        self.member.get()
    }

    fn ask_gmm(&self, request: &GmmRequest) -> Result<GmmReply, Errno> {
        let member = self.member.get().ok_or(Errno::EIO)?;
        member.ask(request).map_err(|e| {
            tracing::warn!("gmm does not answer: {e}");
            Errno::EIO
        })
    }

    fn peer(&self, node: NodeId, addrs: &[String]) -> Result<Peer, Errno> {
        let member = self.member.get().ok_or(Errno::EIO)?;
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let found = peers.get(&node);
        if let Some((_, peer)) = found.filter(|(known, _)| known == addrs || addrs.is_empty()) {
            return Ok(peer.clone());
        }
        if addrs.is_empty() {
            return Err(Errno::EIO);
        }
        let peer = Peer::new(addrs.to_vec(), member.credential(), options());
        peers.insert(node, (addrs.to_vec(), peer.clone()));
        Ok(peer)
    }

    /// The addresses of a component now.
    fn look_up(&self, node: NodeId) -> Result<Vec<String>, Errno> {
        match self.ask_gmm(&GmmRequest::Members)? {
            GmmReply::Members(all) => all
                .into_iter()
                .find(|n| n.id == node)
                .map(|n| n.addrs)
                .ok_or(Errno::EIO),
            _ => Err(Errno::EIO),
        }
    }
}

/// Clients wait for 5 s: what others don't answer sooner is an error.
const PATIENCE: Duration = Duration::from_secs(4);

fn options() -> Options {
    Options {
        connect_timeout: Duration::from_secs(1),
        call_timeout: PATIENCE,
        ..Options::default()
    }
}

/// A restarted storage component is given this long to come back.
const STORAGE_PATIENCE: Duration = Duration::from_secs(3);
const STORAGE_RETRY: Duration = Duration::from_millis(100);

impl Others for Network {
    fn node(&self) -> NodeId {
        self.member.get().map_or(NodeId(0), Member::node)
    }

    fn info(&self) -> NodeInfo {
        NodeInfo {
            id: self.node(),
            kind: NodeKind::Memory,
            name: self.name.clone(),
            generation: self
                .member
                .get()
                .map(Member::generation)
                .unwrap_or_default(),
            addrs: self.addrs.clone(),
            host: member::boot_id(),
            control: None,
        }
    }

    fn place(
        &self,
        process: ProcessId,
        vregion: VRegionId,
        bytes: u64,
        not: &[NodeId],
    ) -> Result<NodeInfo, Errno> {
        let request = GmmRequest::PlaceVRegion {
            process,
            vregion,
            bytes,
            not: not.to_vec(),
        };
        match self.ask_gmm(&request)? {
            GmmReply::Placed(info) => Ok(info),
            GmmReply::Refused(proto::gmm::Refusal::OutOfMemory) => Err(Errno::ENOMEM),
            other => {
                tracing::warn!("gmm placed no vRegion of {process}: {other:?}");
                Err(Errno::ENOMEM)
            }
        }
    }

    fn memory(&self, node: &NodeInfo, request: &MemRequest) -> Result<MemReply, Errno> {
        self.peer(node.id, &node.addrs)?.ask(request).map_err(|e| {
            tracing::warn!("memory component {}: {e}", node.name);
            Errno::EIO
        })
    }

    fn storage(&self, node: NodeId, request: &StoreRequest) -> Result<StoreReply, Errno> {
        let begun = std::time::Instant::now();
        let mut peer = self
            .peer(node, &[])
            .or_else(|_| self.peer(node, &self.look_up(node)?))?;
        loop {
            match peer.ask(request) {
                Ok(StoreReply::Failed(e)) => return Err(e),
                Ok(reply) => return Ok(reply),
                Err(e @ FabricError::Timeout { .. }) => {
                    tracing::warn!("storage component {node}: {e}");
                    return Err(Errno::EIO);
                }
                Err(e) if begun.elapsed() > STORAGE_PATIENCE => {
                    tracing::warn!("storage component {node}: {e}");
                    return Err(Errno::EIO);
                }
                Err(_) => std::thread::sleep(STORAGE_RETRY),
            }
            if let Ok(again) = self.look_up(node).and_then(|addrs| self.peer(node, &addrs)) {
                peer = again;
            }
        }
    }

    fn bring(&self, node: NodeId, wanted: Wanted<'_>) -> Result<u64, Errno> {
        match self.bring_staged(node, wanted)? {
            Came::All(bytes) => Ok(bytes),
            Came::Part(done) => Ok(done + bring_by_messages(self, node, wanted.rest(done))?),
        }
    }

    fn processes(&self) -> Option<BTreeSet<ProcessId>> {
        match self.ask_gmm(&GmmRequest::Status) {
            Ok(GmmReply::Status(s)) => Some(s.processes.iter().map(|p| p.process).collect()),
            _ => None,
        }
    }
}

/// Names a file for messages.
#[must_use]
pub fn file_name(storage: NodeId, id: FileId) -> String {
    format!("file {}:{} of storage component {storage}", id.dev, id.ino)
}
