//! Address spaces whose home is here, and the frames of vRegions placed here.

use crate::core::ledger::Ledger;
use crate::core::space::{self, Applied, Leftovers};
use crate::peers::Others;
use aspace::AddressSpace;
use fabric::{Access, Memory, Region};
use proto::addr::{EXTENT_SIZE, RemoteKey, VREGION_SIZE};
use proto::gmm::NodeInfo;
use proto::mem::{Lease, MemReply, MemRequest, SpaceDone, SpaceOp};
use proto::{Errno, Generation, Identity, ProcessId, VRegionId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Extents in a vRegion.
const EXTENTS: u64 = VREGION_SIZE / EXTENT_SIZE;
/// Other components tried for a vRegion before the answer is ENOMEM.
const MOST_PLACES: usize = 8;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn vregion_of(extent: u64) -> VRegionId {
    VRegionId(u32::try_from(extent / EXTENTS).unwrap_or(u32::MAX))
}

/// An address space.
#[derive(Default)]
struct Space {
    tree: AddressSpace,
    promised: BTreeSet<u64>,
    placed: BTreeMap<VRegionId, NodeInfo>,
}

/// A process's memory here.
#[derive(Default)]
struct Frames {
    regions: HashMap<VRegionId, Region>,
    promised: HashSet<u64>,
    committed: HashMap<u64, RemoteKey>,
}

/// Frees room in the ledger by giving up cached files.
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
    homes: Mutex<HashMap<ProcessId, Arc<Mutex<Space>>>>,
    frames: Mutex<HashMap<ProcessId, Arc<Mutex<Frames>>>>,
    granted: AtomicU64,
    revoked: AtomicU64,
    committed: AtomicU64,
    promised: AtomicU64,
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
            homes: Mutex::default(),
            frames: Mutex::default(),
            granted: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            promised: AtomicU64::new(0),
        }
    }

    /// Makes an address space; one that the process had before is ended.
    pub fn create(&self, process: ProcessId) {
        self.end(process);
        lock(&self.homes).insert(process, Arc::default());
    }

    /// The processes whose home is here or that have frames here.
    pub fn processes(&self) -> BTreeSet<ProcessId> {
        let homes: BTreeSet<_> = lock(&self.homes).keys().copied().collect();
        homes.into_iter().chain(lock(&self.frames).keys().copied()).collect()
    }

    /// Ends an address space and frees its memory here and elsewhere.
    pub fn end(&self, process: ProcessId) {
        let home = lock(&self.homes).remove(&process);
        if let Some(space) = home {
            let placed = std::mem::take(&mut lock(&space).placed);
            let elsewhere: BTreeMap<_, _> = placed
                .into_values()
                .filter(|n| n.id != self.others.node())
                .map(|n| (n.id, n))
                .collect();
            for node in elsewhere.values() {
                // What can't be told now is found by that component's audit.
                let _ = self.others.memory(node, &MemRequest::EndSpace { process });
            }
        }
        let frames = lock(&self.frames).remove(&process);
        if let Some(frames) = frames {
            let frames = lock(&frames);
            let unpromised =
                frames.committed.keys().filter(|n| !frames.promised.contains(n)).count();
            let count = (frames.promised.len() + unpromised) as u64;
            self.ledger.give_of_process(count * EXTENT_SIZE);
            self.promised.fetch_sub(frames.promised.len() as u64, Ordering::Relaxed);
            self.committed.fetch_sub(frames.committed.len() as u64, Ordering::Relaxed);
            self.revoked.fetch_add(frames.committed.len() as u64, Ordering::Relaxed);
        }
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
        let space = lock(&self.homes).get(&process).cloned().ok_or(Errno::ESRCH)?;
        let mut space = lock(&space);
        Ok(ops.iter().map(|op| self.change_one(process, &mut space, op)).collect())
    }

    fn change_one(
        &self,
        process: ProcessId,
        space: &mut Space,
        op: &SpaceOp,
    ) -> Result<SpaceDone, Errno> {
        let needs = space::needs(&space.tree, &space.promised, op)?;
        let placed = self.promise(process, space, &needs.extents)?;
        let applied = space::apply(&mut space.tree, op, needs.place);
        let Space { tree, promised, .. } = &*space;
        let vain: BTreeSet<u64> = needs
            .extents
            .iter()
            .filter(|n| promised.contains(n) && !tree.may_hold_pages(**n))
            .copied()
            .collect();
        let mut left = Leftovers::default();
        if applied.is_ok() {
            left = space::leftovers(tree, promised, op);
        }
        left.unpromised.extend(vain);
        self.give_back(process, space, &left);
        Ok(match applied? {
            Applied::Mapped(range) => SpaceDone::Mapped { range, placed },
            Applied::Brk(addr) => SpaceDone::Brk { addr, placed },
            Applied::Done => SpaceDone::Done { placed },
        })
    }

    /// Has every extent of `extents` promised by the component that holds its
    /// vRegion; all or nothing.
    fn promise(
        &self,
        process: ProcessId,
        space: &mut Space,
        extents: &BTreeSet<u64>,
    ) -> Result<Vec<(VRegionId, NodeInfo)>, Errno> {
        let mut groups: BTreeMap<VRegionId, Vec<u64>> = BTreeMap::new();
        for n in extents {
            groups.entry(vregion_of(*n)).or_default().push(*n);
        }
        let mut placed = Vec::new();
        let mut done = Leftovers::default();
        for (vregion, group) in groups {
            match self.promise_group(process, space, vregion, &group) {
                Ok(info) => {
                    placed.extend(info.map(|info| (vregion, info)));
                    space.promised.extend(&group);
                    done.unpromised.extend(&group);
                }
                Err(e) => {
                    self.give_back(process, space, &done);
                    return Err(e);
                }
            }
        }
        Ok(placed)
    }

    /// Promises extents of one vRegion, placing it first if need be.
    fn promise_group(
        &self,
        process: ProcessId,
        space: &mut Space,
        vregion: VRegionId,
        group: &[u64],
    ) -> Result<Option<NodeInfo>, Errno> {
        if let Some(info) = space.placed.get(&vregion) {
            return self.promise_at(process, &info.clone(), group).map(|()| None);
        }
        let bytes = group.len() as u64 * EXTENT_SIZE;
        let mut full = Vec::new();
        while full.len() < MOST_PLACES {
            let info = self.others.place(process, vregion, bytes, &full)?;
            match self.promise_at(process, &info, group) {
                Ok(()) => {
                    space.placed.insert(vregion, info.clone());
                    return Ok(Some(info));
                }
                Err(_) => full.push(info.id),
            }
        }
        Err(Errno::ENOMEM)
    }

    fn promise_at(
        &self,
        process: ProcessId,
        node: &NodeInfo,
        group: &[u64],
    ) -> Result<(), Errno> {
        if node.id == self.others.node() {
            return self.reserve(process, group);
        }
        let request = MemRequest::Reserve { process, extents: group.to_vec() };
        match self.others.memory(node, &request)? {
            MemReply::Done => Ok(()),
            MemReply::Failed(e) => Err(e),
            _ => Err(Errno::EPROTO),
        }
    }

    fn give_back(&self, process: ProcessId, space: &mut Space, left: &Leftovers) {
        let mut groups: BTreeMap<VRegionId, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
        for n in &left.unpromised {
            space.promised.remove(n);
            groups.entry(vregion_of(*n)).or_default().0.push(*n);
        }
        for n in left.unused.difference(&left.unpromised) {
            groups.entry(vregion_of(*n)).or_default().1.push(*n);
        }
        for (vregion, (unpromised, unused)) in groups {
            match space.placed.get(&vregion) {
                Some(node) if node.id != self.others.node() => {
                    let request = MemRequest::Unreserve { process, extents: unpromised };
                    let _ = self.others.memory(node, &request);
                }
                _ => {
                    self.unreserve(process, &unpromised);
                    self.free(process, &unused);
                }
            }
        }
    }

    fn frames(&self, process: ProcessId) -> Arc<Mutex<Frames>> {
        lock(&self.frames).entry(process).or_default().clone()
    }

    /// Takes room in the ledger, from cached files if need be.
    fn take(&self, bytes: u64) -> bool {
        self.ledger.take_for_process(bytes)
            || (self.cache.reclaim(bytes) > 0 && self.ledger.take_for_process(bytes))
    }

    /// Promises extents of a vRegion placed here; all or nothing.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn reserve(&self, process: ProcessId, extents: &[u64]) -> Result<(), Errno> {
        let frames = self.frames(process);
        let mut frames = lock(&frames);
        let new: HashSet<u64> =
            extents.iter().copied().filter(|n| !frames.promised.contains(n)).collect();
        let counted = new.iter().filter(|n| !frames.committed.contains_key(n)).count() as u64;
        if !self.take(counted * EXTENT_SIZE) {
            return Err(Errno::ENOMEM);
        }
        self.promised.fetch_add(new.len() as u64, Ordering::Relaxed);
        frames.promised.extend(new);
        Ok(())
    }

    /// Takes promises back and frees what was committed under them.
    pub fn unreserve(&self, process: ProcessId, extents: &[u64]) {
        if extents.is_empty() {
            return;
        }
        let frames = self.frames(process);
        let mut frames = lock(&frames);
        for n in extents {
            let promised = frames.promised.remove(n);
            let committed = self.drop_frames(&mut frames, *n);
            self.promised.fetch_sub(u64::from(promised), Ordering::Relaxed);
            if promised || committed {
                self.ledger.give_of_process(EXTENT_SIZE);
            }
        }
    }

    /// Frees the frames of extents; promises stay.
    fn free(&self, process: ProcessId, extents: &[u64]) {
        if extents.is_empty() {
            return;
        }
        let frames = self.frames(process);
        let mut frames = lock(&frames);
        for n in extents {
            let promised = frames.promised.contains(n);
            if self.drop_frames(&mut frames, *n) && !promised {
                self.ledger.give_of_process(EXTENT_SIZE);
            }
        }
    }

    fn drop_frames(&self, frames: &mut Frames, extent: u64) -> bool {
        let Some(key) = frames.committed.remove(&extent) else { return false };
        if let Some(region) = frames.regions.get(&vregion_of(extent)) {
            region.revoke(key);
            let at = extent % EXTENTS * EXTENT_SIZE;
            if let Err(e) = region.zero(at..at + EXTENT_SIZE) {
                tracing::error!("frames of extent {extent:#x} cannot be freed: {e}");
            }
        }
        self.revoked.fetch_add(1, Ordering::Relaxed);
        self.committed.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// Commits an extent and leases it to the process.
    ///
    /// # Errors
    /// `ENOMEM`: memory that was not promised, and there is none. `EINVAL`: no
    /// address of a program.
    pub fn commit(
        &self,
        process: ProcessId,
        extent: u64,
        generation: Generation,
    ) -> Result<Lease, Errno> {
        if extent >= proto::addr::USER_MAX.extent() {
            return Err(Errno::EINVAL);
        }
        let frames = self.frames(process);
        let mut frames = lock(&frames);
        let lease = |key| Lease { key, generation, writable: true };
        if let Some(key) = frames.committed.get(&extent) {
            return Ok(lease(*key));
        }
        let promised = frames.promised.contains(&extent);
        if !promised && !self.take(EXTENT_SIZE) {
            return Err(Errno::ENOMEM);
        }
        match self.grant(&mut frames, process, extent) {
            Ok(key) => Ok(lease(key)),
            Err(e) => {
                tracing::error!("extent {extent:#x} of {process} cannot be committed: {e}");
                if !promised {
                    self.ledger.give_of_process(EXTENT_SIZE);
                }
                Err(Errno::ENOMEM)
            }
        }
    }

    fn grant(
        &self,
        frames: &mut Frames,
        process: ProcessId,
        extent: u64,
    ) -> Result<RemoteKey, fabric::FabricError> {
        let vregion = vregion_of(extent);
        if !frames.regions.contains_key(&vregion) {
            let name = format!("{process}.{}", vregion.0);
            frames.regions.insert(vregion, self.memory.register(VREGION_SIZE, &name)?);
        }
        let region = &frames.regions[&vregion];
        let at = extent % EXTENTS * EXTENT_SIZE;
        let range = at..at + EXTENT_SIZE;
        region.populate(range.clone())?;
        let key = region.grant(Identity::Process(process), range, Access::ReadWrite)?;
        frames.committed.insert(extent, key);
        self.granted.fetch_add(1, Ordering::Relaxed);
        self.committed.fetch_add(1, Ordering::Relaxed);
        Ok(key)
    }

    /// Fills in what is known here.
    pub fn report(&self, stats: &mut proto::stats::MemoryStats) {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        stats.reserved = get(&self.promised) * EXTENT_SIZE;
        stats.committed = get(&self.committed) * EXTENT_SIZE;
        stats.keys_granted = get(&self.granted);
        stats.keys_revoked = get(&self.revoked);
        stats.processes = self.processes().len() as u64;
    }
}
