//! The other components as the memory of a process needs them: address-space
//! changes at home, leases of extents, leases of file extents, one-sided
//! transfers.
//!
//! A component that does not answer within its deadline cannot be worked
//! around here: the program's bytes are there. The process ends with a message
//! that names the component ([`crate::fatal`]).

use super::pages::{Extent, Held};
use crate::fatal;
use crate::stats::Moved;
use fabric::{Connection, Credential, FabricError, Kept, Options, Peer, Segment};
use proto::addr::{EXTENT_SIZE, RemoteAddr, UserAddr};
use proto::gmm::NodeInfo;
use proto::mem::{FileLease, FileRef, MemReply, MemRequest, SpaceDone, SpaceOp};
use proto::stats::LinkCounters;
use proto::store::FileId;
use proto::{Errno, NodeId, VRegionId};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// A memory component.
#[derive(Clone)]
pub(crate) struct Node {
    /// Its number.
    pub id: NodeId,
    /// For messages.
    pub name: String,
    /// Its connections.
    pub peer: Peer,
}

/// Where a file is cached, as [`crate::files`] knows it.
pub(crate) trait FileHomes: Send + Sync {
    /// The memory component that caches `file`.
    ///
    /// # Errors
    /// `EIO` where the global manager could not say and there is no other way.
    fn home_of(&self, file: &FileRef) -> Result<NodeInfo, Errno>;
}

/// A file lease held here.
#[derive(Clone, Copy)]
pub(crate) struct HeldFile {
    /// Who granted it.
    pub node: NodeId,
    /// What.
    pub lease: FileLease,
}

/// Leases asked for beside one that is needed: of the extents after it, where the
/// memory component has them.
const MORE_EXTENTS: u32 = 15;

type FileKey = (NodeId, FileId, u64);

/// Threads that may keep connections of their own; more share the pool's. A
/// component serves some thousands in all.
const MOST_KEEPERS: u32 = 64;

/// The connections that one thread keeps: a miss then takes no lock that
/// others take, and asks nothing twice.
#[derive(Default)]
pub(crate) struct Links {
    kept: Vec<(NodeId, Arc<Node>, Kept)>,
    refused: bool,
}

/// See the module.
pub(crate) struct Remote {
    home: Arc<Node>,
    credential: Credential,
    options: Options,
    nodes: RwLock<HashMap<NodeId, Arc<Node>>>,
    owners: RwLock<HashMap<VRegionId, NodeId>>,
    files: RwLock<HashMap<FileKey, HeldFile>>,
    homes: Arc<dyn FileHomes>,
    sent: Mutex<BTreeMap<(&'static str, NodeId), u64>>,
    keepers: AtomicU32,
}

fn kind(request: &MemRequest) -> &'static str {
    match request {
        MemRequest::Space(_) => "mem.Space",
        MemRequest::Commit { .. } => "mem.Commit",
        MemRequest::FileExtent { .. } => "mem.FileExtent",
        MemRequest::FileDirty { .. } => "mem.FileDirty",
        MemRequest::FileOpen { .. } => "mem.FileOpen",
        MemRequest::FileSync { .. } => "mem.FileSync",
        _ => "mem.other",
    }
}

impl Remote {
    /// Of a process whose home is `home`.
    pub(crate) fn new(
        home: &NodeInfo,
        credential: Credential,
        options: Options,
        homes: Arc<dyn FileHomes>,
    ) -> Remote {
        let node = Arc::new(Node {
            id: home.id,
            name: home.name.clone(),
            peer: Peer::new(home.addrs.clone(), credential.clone(), options.clone()),
        });
        Remote {
            nodes: RwLock::new(HashMap::from([(home.id, node.clone())])),
            home: node,
            credential,
            options,
            owners: RwLock::default(),
            files: RwLock::default(),
            homes,
            sent: Mutex::default(),
            keepers: AtomicU32::new(0),
        }
    }

    /// The home memory component.
    pub(crate) fn home(&self) -> &Node {
        &self.home
    }

    fn learn(&self, info: &NodeInfo) -> Arc<Node> {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let made = || {
            let (credential, options) = (self.credential.clone(), self.options.clone());
            let peer = Peer::new(info.addrs.clone(), credential, options);
            Arc::new(Node {
                id: info.id,
                name: info.name.clone(),
                peer,
            })
        };
        nodes.entry(info.id).or_insert_with(made).clone()
    }

    /// A component that has been named to us before.
    pub(crate) fn node(&self, id: NodeId) -> Arc<Node> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.get(&id).unwrap_or(&self.home).clone()
    }

    /// Asks a memory component; a fabric error ends the process.
    pub(crate) fn ask(&self, node: &Node, request: &MemRequest) -> MemReply {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        *sent.entry((kind(request), node.id)).or_default() += 1;
        drop(sent);
        match node.peer.ask(request) {
            Ok(reply) => reply,
            Err(e) => fatal::component_lost(&node.name, &e),
        }
    }

    /// Changes the address space at home, all changes in one message.
    ///
    /// # Errors
    /// What the memory component answered to the whole.
    pub(crate) fn space_ops(
        &self,
        ops: Vec<SpaceOp>,
    ) -> Result<Vec<Result<SpaceDone, Errno>>, Errno> {
        match self.ask(&self.home, &MemRequest::Space(ops)) {
            MemReply::Space(done) => {
                done.iter().flatten().for_each(|d| self.learn_placed(d));
                Ok(done)
            }
            MemReply::Failed(e) => Err(e),
            other => fatal::confused(&self.home.name, &format!("{other:?}")),
        }
    }

    fn learn_placed(&self, done: &SpaceDone) {
        let (SpaceDone::Mapped { placed, .. }
        | SpaceDone::Brk { placed, .. }
        | SpaceDone::Done { placed }) = done;
        for (vregion, info) in placed {
            let id = self.learn(info).id;
            let mut owners = self.owners.write().unwrap_or_else(PoisonError::into_inner);
            owners.insert(*vregion, id);
        }
    }

    fn owner_of(&self, at: UserAddr) -> Arc<Node> {
        let owners = self.owners.read().unwrap_or_else(PoisonError::into_inner);
        owners
            .get(&at.vregion())
            .map_or_else(|| self.home.clone(), |id| self.node(*id))
    }

    /// The lease of an extent, committing it on first use.
    ///
    /// # Errors
    /// `ENOMEM` for memory that was mapped without reservation, when the
    /// component is full.
    pub(crate) fn lease(&self, extent: &Extent, number: u64) -> Result<Held, Errno> {
        if let Some(held) = extent.lease() {
            return Ok(held);
        }
        let node = self.owner_of(UserAddr(number * EXTENT_SIZE));
        match self.ask(&node, &MemRequest::Commit { extent: number }) {
            MemReply::Lease(lease) => {
                let held = Held {
                    node: node.id,
                    lease,
                };
                extent.set_lease(Some(held));
                Ok(held)
            }
            MemReply::Failed(e) => Err(e),
            other => fatal::confused(&node.name, &format!("{other:?}")),
        }
    }

    /// The lease of a file's extent that is held already.
    pub(crate) fn held_file(&self, file: &FileRef, index: u64) -> Option<HeldFile> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.get(&(file.storage, file.id, index)).copied()
    }

    /// The lease of a file's extent.
    ///
    /// # Errors
    /// What the memory component answered (`EIO`, `ESTALE`, `ENXIO` for an
    /// extent past the file's end).
    pub(crate) fn file_lease(
        &self,
        file: &FileRef,
        index: u64,
        writable: bool,
    ) -> Result<HeldFile, Errno> {
        match self.held_file(file, index) {
            Some(held) if held.lease.lease.writable || !writable => Ok(held),
            _ => self.ask_file_lease(file, index, writable),
        }
    }

    /// The same, asked for again: the file may have grown since the last time.
    ///
    /// # Errors
    /// As for [`Remote::file_lease`].
    pub(crate) fn renew_file_lease(
        &self,
        file: &FileRef,
        index: u64,
        writable: bool,
    ) -> Result<HeldFile, Errno> {
        let held = self.held_file(file, index);
        let writable = writable || held.is_some_and(|held| held.lease.lease.writable);
        self.ask_file_lease(file, index, writable)
    }

    fn ask_file_lease(
        &self,
        file: &FileRef,
        index: u64,
        writable: bool,
    ) -> Result<HeldFile, Errno> {
        let node = self.learn(&self.homes.home_of(file)?);
        let request = MemRequest::FileExtent {
            file: file.clone(),
            index,
            writable,
            more: MORE_EXTENTS,
        };
        let leases = match self.ask(&node, &request) {
            MemReply::FileLeases(leases) => leases,
            MemReply::Failed(e) => return Err(e),
            other => fatal::confused(&node.name, &format!("{other:?}")),
        };
        let id = node.id;
        let held = |lease| HeldFile { node: id, lease };
        let Some(first) = leases.first().copied().map(held) else {
            fatal::confused(&node.name, "no lease")
        };
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        for (n, lease) in (index..).zip(leases.into_iter().take(MORE_EXTENTS as usize + 1)) {
            let key = (file.storage, file.id, n);
            let writable = files.get(&key).is_some_and(|h| h.lease.lease.writable);
            if n == index || !writable {
                files.insert(key, held(lease));
            }
        }
        Ok(first)
    }

    /// Tells the cache of a file that this process opened it.
    ///
    /// # Errors
    /// What the memory component answered.
    pub(crate) fn file_open(&self, file: &FileRef, attr: &proto::store::Attr) -> Result<(), Errno> {
        let node = self.learn(&self.homes.home_of(file)?);
        let request = MemRequest::FileOpen {
            file: file.clone(),
            attr: attr.clone(),
        };
        match self.ask(&node, &request) {
            MemReply::Failed(e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Forgets the leases of a file: it was written, truncated or reopened.
    pub(crate) fn forget_file(&self, storage: NodeId, id: FileId) {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files.retain(|(s, f, _), _| (*s, *f) != (storage, id));
    }

    /// Tells the cache of a file that pages were written one-sided.
    pub(crate) fn file_dirty(&self, file: &FileRef, pages: Vec<(u64, u32)>) -> Result<(), Errno> {
        let node = self.learn(&self.homes.home_of(file)?);
        match self.ask(
            &node,
            &MemRequest::FileDirty {
                file: file.clone(),
                pages,
            },
        ) {
            MemReply::Failed(e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Makes a file's data durable, with what was written one-sided.
    ///
    /// # Errors
    /// What the components answered.
    pub(crate) fn file_sync(&self, file: &FileRef) -> Result<(), Errno> {
        let node = self.learn(&self.homes.home_of(file)?);
        match self.ask(
            &node,
            &MemRequest::FileSync {
                file: file.clone(),
                data_only: true,
            },
        ) {
            MemReply::Failed(e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Runs `transfer` on a connection to `id`. `Ok(false)`: a key was not
    /// valid any more; renew the leases and try again.
    pub(crate) fn transfer(
        &self,
        id: NodeId,
        transfer: impl FnOnce(&mut Connection) -> Result<(), FabricError>,
    ) -> bool {
        let node = self.node(id);
        let connection = node.peer.get();
        ended(&node, connection.and_then(|mut c| transfer(&mut c)))
    }

    /// The same over the connection that the calling thread keeps.
    pub(super) fn transfer_over(
        &self,
        links: &mut Links,
        id: NodeId,
        transfer: impl FnOnce(&mut Connection) -> Result<(), FabricError>,
    ) -> bool {
        let at = match links.kept.iter().position(|(node, ..)| *node == id) {
            Some(at) => at,
            None if self.may_keep(links) => {
                let node = self.node(id);
                let kept = Kept::new(&node.peer);
                links.kept.push((id, node, kept));
                links.kept.len() - 1
            }
            None => return self.transfer(id, transfer),
        };
        let (_, node, kept) = &mut links.kept[at];
        ended(node, kept.get().and_then(transfer))
    }

    fn may_keep(&self, links: &mut Links) -> bool {
        if links.kept.is_empty() && !links.refused {
            links.refused = self.keepers.fetch_add(1, Ordering::Relaxed) >= MOST_KEEPERS;
        }
        !links.refused
    }

    /// Adds what was sent to `messages`.
    pub(crate) fn report(&self, messages: &mut BTreeMap<String, u64>) {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        for ((kind, _), n) in sent.iter() {
            *messages.entry((*kind).to_string()).or_default() += n;
        }
    }

    /// The traffic with each component: what threads moved, by name, with the
    /// requests that were sent.
    pub(crate) fn links(&self, mut moved: BTreeMap<NodeId, Moved>) -> Vec<LinkCounters> {
        // Copied, so that no request of the program's waits for what follows.
        let sent = self.sent.lock();
        let sent = sent.unwrap_or_else(PoisonError::into_inner).clone();
        for ((_, node), n) in &sent {
            moved.entry(*node).or_default().messages += n;
        }
        let link = |(node, moved): (NodeId, Moved)| LinkCounters {
            to: self.node(node).name.clone(),
            messages: moved.messages,
            read_bytes: moved.read,
            written_bytes: moved.written,
        };
        moved.into_iter().map(link).collect()
    }

    /// Reads `segments` from `id` into `dst`; false as for [`Remote::transfer`].
    pub(super) fn read(
        &self,
        links: &mut Links,
        id: NodeId,
        segments: &[Segment],
        dst: &mut [u8],
    ) -> bool {
        self.transfer_over(links, id, |c| c.read(segments, dst))
    }

    /// Writes `segments` of `src` to `id`; false as for [`Remote::transfer`].
    pub(super) fn write(
        &self,
        links: &mut Links,
        id: NodeId,
        segments: &[Segment],
        src: &[u8],
    ) -> bool {
        self.transfer_over(links, id, |c| c.write(segments, src))
    }
}

/// Whether a transfer was done; a component that is lost ends the process.
fn ended(node: &Node, result: Result<(), FabricError>) -> bool {
    match result {
        Ok(()) => true,
        Err(FabricError::BadKey) => false,
        Err(e) => fatal::component_lost(&node.name, &e),
    }
}

/// A place in an extent's lease.
pub(super) fn within(held: &Held, at: UserAddr) -> RemoteAddr {
    RemoteAddr {
        key: held.lease.key,
        offset: at.0 % EXTENT_SIZE,
    }
}
