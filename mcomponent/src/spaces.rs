//! Address spaces whose home is here, and the frames of vRegions placed here.

mod frames;

use crate::core::ledger::{Committed, Ledger};
use crate::core::space::{Neighbours, Space};
use crate::peers::Others;
use fabric::Memory;
use frames::Frames;
use proto::gmm::NodeInfo;
use proto::mem::{Lease, MemReply, MemRequest, SpaceDone, SpaceOp};
use proto::stats::MemoryStats;
use proto::{Errno, Generation, NodeId, ProcessId, VRegionId};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process as this component knows it.
#[derive(Default)]
struct Tenant {
    /// Its address space, if its home is here.
    space: Mutex<Option<Space>>,
    frames: Mutex<Frames>,
}

/// Frees room by giving up cached files.
pub trait Reclaim: Send + Sync {
    /// Gives up at least `bytes` if it can; returns how many.
    fn reclaim(&self, bytes: u64) -> u64;
}

/// See the module.
pub struct Spaces {
    memory: Memory,
    ledger: Arc<Ledger>,
    others: Arc<dyn Others>,
    cache: Arc<dyn Reclaim>,
    tenants: Mutex<HashMap<ProcessId, Arc<Tenant>>>,
    granted: AtomicU64,
    revoked: AtomicU64,
}

impl Spaces {
    /// None yet.
    pub fn new(
        memory: Memory,
        ledger: Arc<Ledger>,
        others: Arc<dyn Others>,
        cache: Arc<dyn Reclaim>,
    ) -> Spaces {
        Spaces {
            memory,
            ledger,
            others,
            cache,
            tenants: Mutex::default(),
            granted: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
        }
    }

    fn tenant(&self, process: ProcessId) -> Arc<Tenant> {
        lock(&self.tenants).entry(process).or_default().clone()
    }

    fn known(&self, process: ProcessId) -> Option<Arc<Tenant>> {
        lock(&self.tenants).get(&process).cloned()
    }

    /// Makes an address space; one that the process had before is ended.
    pub fn create(&self, process: ProcessId) {
        self.end(process);
        *lock(&self.tenant(process).space) = Some(Space::new(process));
    }

    /// The processes whose home is here or that have frames here.
    pub fn processes(&self) -> BTreeSet<ProcessId> {
        lock(&self.tenants).keys().copied().collect()
    }

    /// Ends an address space and frees its memory here and elsewhere.
    pub fn end(&self, process: ProcessId) {
        let Some(tenant) = lock(&self.tenants).remove(&process) else {
            return;
        };
        let space = lock(&tenant.space).take();
        if let Some(mut space) = space {
            space.end(&mut Here {
                spaces: self,
                tenant: &tenant,
            });
        }
        // Who waits to commit finds the end, and nothing comes after it.
        let mut frames = lock(&tenant.frames);
        let dropped = frames.end(&self.ledger.end(process));
        self.revoked.fetch_add(dropped, Ordering::Relaxed);
    }

    /// Changes an address space, operation by operation.
    ///
    /// # Errors
    /// `ESRCH`: the process has no address space here.
    pub fn change(
        &self,
        process: ProcessId,
        ops: &[SpaceOp],
    ) -> Result<Vec<Result<SpaceDone, Errno>>, Errno> {
        let tenant = self.known(process).ok_or(Errno::ESRCH)?;
        let mut space = lock(&tenant.space);
        let space = space.as_mut().ok_or(Errno::ESRCH)?;
        let mut here = Here {
            spaces: self,
            tenant: &tenant,
        };
        Ok(ops
            .iter()
            .map(|op| space.handle_op(op, &mut here))
            .collect())
    }

    /// Promises extents of a vRegion placed here; all or nothing.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn reserve(&self, process: ProcessId, extents: &[u64]) -> Result<(), Errno> {
        let highest = proto::addr::USER_MAX.extent();
        if extents.iter().any(|n| *n >= highest) {
            return Err(Errno::EINVAL);
        }
        let new: Vec<u64> = extents
            .iter()
            .copied()
            .filter(|n| !self.ledger.is_promised(process, *n))
            .collect();
        let over = self.ledger.promise(process, &new)?;
        self.make_room(over)
            .inspect_err(|_| drop(self.ledger.release(process, &new)))?;
        self.tenant(process);
        Ok(())
    }

    /// Has cached files give up `bytes`.
    fn make_room(&self, bytes: u64) -> Result<(), Errno> {
        if bytes == 0 || self.cache.reclaim(bytes) >= bytes {
            return Ok(());
        }
        let sums = self.ledger.sums();
        let fits = sums.promised + sums.files <= self.ledger.capacity();
        if fits { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Takes promises back and frees what was committed under them.
    pub fn unreserve(&self, process: ProcessId, extents: &[u64]) {
        let Some(tenant) = self.known(process) else {
            return;
        };
        let committed = self.ledger.release(process, extents);
        self.drop_frames(&tenant, &committed);
        drop(tenant);
        self.forget_if_idle(process);
    }

    /// A process whose home is elsewhere and that has nothing here any more.
    fn forget_if_idle(&self, process: ProcessId) {
        let mut tenants = lock(&self.tenants);
        let Some(tenant) = tenants.get(&process) else {
            return;
        };
        // Nobody else is at it: clones are made under the lock.
        let alone = Arc::strong_count(tenant) == 1;
        let promised = self.ledger.holds_any(process);
        if alone && !promised && lock(&tenant.space).is_none() && lock(&tenant.frames).is_empty() {
            tenants.remove(&process);
        }
    }

    fn drop_frames(&self, tenant: &Tenant, extents: &[u64]) {
        if extents.is_empty() {
            return;
        }
        let dropped = lock(&tenant.frames).drop_all(extents);
        self.revoked.fetch_add(dropped, Ordering::Relaxed);
    }

    /// Commits an extent and leases it to the process.
    ///
    /// # Errors
    /// `ENOMEM`: memory that was not promised, and there is none. `EFAULT`:
    /// nothing is mapped there, or it belongs to another component.
    pub fn commit(
        &self,
        process: ProcessId,
        extent: u64,
        generation: Generation,
    ) -> Result<Lease, Errno> {
        let tenant = self.known(process).ok_or(Errno::EFAULT)?;
        if !self.ledger.is_promised(process, extent) {
            self.admit(&tenant, extent)?;
        }
        let mut frames = lock(&tenant.frames);
        if frames.is_ended() {
            return Err(Errno::EFAULT);
        }
        let lease = |key| Lease {
            key,
            generation,
            writable: true,
        };
        let (found, over) = self.ledger.commit(process, extent)?;
        if let (Committed::Already, Some(key)) = (found, frames.key(extent)) {
            return Ok(lease(key));
        }
        let made = self
            .make_room(over)
            .and_then(|()| frames.commit(&self.memory, process, extent));
        match made {
            Ok(key) => {
                self.granted.fetch_add(1, Ordering::Relaxed);
                Ok(lease(key))
            }
            Err(e) => {
                self.ledger.decommit(process, extent);
                if found == Committed::Unpromised {
                    self.ledger.release(process, &[extent]);
                }
                Err(e)
            }
        }
    }

    /// Whether an extent that was not promised may be committed. At a
    /// component that is not the process's home, home alone knows what is
    /// mapped; the process has memory there already, and takes from others
    /// only what is free.
    fn admit(&self, tenant: &Tenant, extent: u64) -> Result<(), Errno> {
        if extent >= proto::addr::USER_MAX.extent() {
            return Err(Errno::EFAULT);
        }
        match lock(&tenant.space).as_mut() {
            Some(space) => space.admit_commit(extent, &self.others.info()),
            None => Ok(()),
        }
    }

    /// Fills in what is known here.
    pub fn report(&self, stats: &mut MemoryStats) {
        let sums = self.ledger.sums();
        stats.reserved = sums.promised;
        stats.committed = sums.committed;
        stats.keys_granted = self.granted.load(Ordering::Relaxed);
        stats.keys_revoked = self.revoked.load(Ordering::Relaxed);
        stats.processes = lock(&self.tenants).len() as u64;
    }
}

/// This component and the others, as an operation on one space needs them.
struct Here<'a> {
    spaces: &'a Spaces,
    tenant: &'a Tenant,
}

impl Here<'_> {
    fn is_me(&self, owner: &NodeInfo) -> bool {
        owner.id == self.spaces.others.node()
    }
}

impl Neighbours for Here<'_> {
    fn me(&self) -> NodeInfo {
        self.spaces.others.info()
    }

    fn place(
        &mut self,
        process: ProcessId,
        vregion: VRegionId,
        bytes: u64,
        not: &[NodeId],
    ) -> Result<NodeInfo, Errno> {
        match self.spaces.others.place(process, vregion, bytes, not) {
            Ok(info) => Ok(info),
            // gmm is away: what fits here goes on.
            Err(e) if e != Errno::ENOMEM && !not.contains(&self.me().id) => Ok(self.me()),
            Err(_) => Err(Errno::ENOMEM),
        }
    }

    fn promise(
        &mut self,
        process: ProcessId,
        owner: &NodeInfo,
        extents: &[u64],
    ) -> Result<(), Errno> {
        if self.is_me(owner) {
            return self.spaces.reserve(process, extents);
        }
        let request = MemRequest::Reserve {
            process,
            extents: extents.to_vec(),
        };
        match self.spaces.others.memory(owner, &request) {
            Ok(MemReply::Done) => Ok(()),
            Ok(MemReply::Failed(Errno::ENOMEM)) => Err(Errno::ENOMEM),
            other => {
                tracing::warn!("{} promises nothing to {process}: {other:?}", owner.name);
                // Whether it heard us is unknown.
                self.release(process, owner, extents);
                Err(Errno::ENOMEM)
            }
        }
    }

    fn release(&mut self, process: ProcessId, owner: &NodeInfo, extents: &[u64]) {
        if self.is_me(owner) {
            let committed = self.spaces.ledger.release(process, extents);
            return self.spaces.drop_frames(self.tenant, &committed);
        }
        let request = MemRequest::Unreserve {
            process,
            extents: extents.to_vec(),
        };
        if let Err(e) = self.spaces.others.memory(owner, &request) {
            tracing::warn!("{} was not told what {process} gave back: {e}", owner.name);
        }
    }

    fn forget(&mut self, process: ProcessId, extents: &[u64]) {
        let is_committed = |n: &u64| self.spaces.ledger.decommit(process, *n);
        let gone: Vec<u64> = extents.iter().copied().filter(is_committed).collect();
        self.spaces.drop_frames(self.tenant, &gone);
    }
}
