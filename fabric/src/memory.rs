//! Memory that peers may reach one-sided, as its owner has it.
//!
//! Lock order: a region's `grants`, then the memory's `slots`.

mod costs;
mod registered;
mod staging;

use crate::FabricError;
use crate::auth::random;
use crate::frame::Piece;
use crate::mapping::{HUGE, Mapping, memfd, punch, read_only, store};
use crate::table::{Grant, SLOTS, TABLE, Table};
use crate::verbs::{Pins, Registration};
use costs::COSTS;
use proto::Identity;
use proto::addr::RemoteKey;
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard, Weak};

/// What a grant permits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading. Any number of identities.
    Read,
    /// Reading and writing, for the one identity that owns the region from
    /// then on.
    ReadWrite,
    /// Reading and writing beside other readers and writers, each of whom may
    /// then reach the whole region (shm hands out whole regions).
    Shared,
}

impl Access {
    fn writes(self) -> bool {
        self != Access::Read
    }
}

/// The registered memory of one component, shared by its backends.
#[derive(Clone)]
pub struct Memory(Arc<Inner>);

struct Inner {
    table: Table,
    slots: RwLock<Slots>,
    next_nonce: AtomicU64,
    next_region: AtomicU32,
}

#[derive(Default)]
struct Slots {
    used: Vec<Option<Slot>>,
    free: Vec<u32>,
}

struct Slot {
    nonce: u64,
    to: Identity,
    grant: Grant,
    region: Weak<RegionInner>,
    /// With RDMA devices that have used it.
    registered: Vec<Registration>,
}

/// A piece of registered memory. Its keys die and its pages are freed when the
/// last clone is dropped.
#[derive(Clone)]
pub struct Region(Arc<RegionInner>);

struct RegionInner {
    id: u32,
    fd: OwnedFd,
    map: Mapping,
    grants: Mutex<Grants>,
    memory: Arc<Inner>,
    /// Kept by registrations.
    pins: Pins,
}

/// The grants of a region that are out.
#[derive(Default)]
struct Grants {
    by_slot: HashMap<u32, (Identity, Access)>,
    /// Who was ever granted to write it alone.
    owner: Option<Identity>,
}

impl Grants {
    /// Who of others stands in the way of a grant.
    fn excluder(&self, to: Identity, access: Access) -> Option<Identity> {
        let owner = self.owner.filter(|owner| *owner != to);
        let others = || {
            self.by_slot
                .values()
                .map(|(other, _)| *other)
                .find(|other| *other != to)
        };
        owner.or_else(|| others().filter(|_| access == Access::ReadWrite))
    }
}

impl Memory {
    /// Nothing registered yet.
    ///
    /// # Errors
    /// [`FabricError::Local`] where there is no memory for the key table.
    pub fn new() -> Result<Memory, FabricError> {
        Ok(Memory(Arc::new(Inner {
            table: Table::new()?,
            slots: RwLock::default(),
            // Keys of an earlier start must not fit.
            next_nonce: AtomicU64::new(u64::from_le_bytes(random()?) >> 2 | 1),
            next_region: AtomicU32::new(1),
        })))
    }

    /// Registers `len` bytes, zeroed; pages are committed when first touched.
    /// `name` is for `/proc/PID/maps`.
    ///
    /// # Errors
    /// [`FabricError::Local`] where the system refuses, `Invalid` for no bytes.
    pub fn register(&self, len: u64, name: &str) -> Result<Region, FabricError> {
        if len == 0 {
            return Err(FabricError::Invalid("a region of 0 bytes".to_owned()));
        }
        let fd = memfd(name, len)?;
        let map = Mapping::new(&fd, len, true)?;
        let id = self.0.next_region.fetch_add(1, Ordering::Relaxed);
        let (grants, memory, pins) = (Mutex::default(), self.0.clone(), Pins::default());
        Ok(Region(Arc::new(RegionInner {
            id,
            fd,
            map,
            grants,
            memory,
            pins,
        })))
    }

    /// Carries out a read of `who`'s into `out`, from its front.
    pub(crate) fn serve_read(
        &self,
        who: Identity,
        pieces: impl Iterator<Item = Piece>,
        mut out: &mut [u8],
    ) -> Result<(), FabricError> {
        let mut held = Vec::new();
        // Locked while copying, so that a revocation waits for us.
        let slots = self.0.slots.read().unwrap_or_else(PoisonError::into_inner);
        for piece in pieces {
            let (region, offset) = slots.resolve(who, &piece, false, &mut held)?;
            let (part, rest) = out
                .split_at_mut_checked(piece.len)
                .ok_or(FabricError::OutOfBounds)?;
            region.read(offset, part)?;
            out = rest;
        }
        Ok(())
    }

    /// Carries out a write of `who`'s: all pieces, or none where one is refused.
    pub(crate) fn serve_write(
        &self,
        who: Identity,
        pieces: impl Iterator<Item = Piece> + Clone,
        mut data: &[u8],
    ) -> Result<(), FabricError> {
        let mut held = Vec::new();
        let slots = self.0.slots.read().unwrap_or_else(PoisonError::into_inner);
        for piece in pieces.clone() {
            slots.resolve(who, &piece, true, &mut held)?;
        }
        for piece in pieces {
            let (region, offset) = slots.resolve(who, &piece, true, &mut held)?;
            let (bytes, rest) = data
                .split_at_checked(piece.len)
                .ok_or(FabricError::OutOfBounds)?;
            region.write(offset, bytes)?;
            data = rest;
        }
        Ok(())
    }

    /// The descriptor, length and access of the region that `key` lets `who`
    /// map; those of the key table for region 0.
    pub(crate) fn serve_map(
        &self,
        who: Identity,
        key: RemoteKey,
    ) -> Result<(OwnedFd, u64, bool), FabricError> {
        if key.region == 0 {
            return Ok((self.0.table.descriptor()?, TABLE, false));
        }
        let slots = self.0.slots.read().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.slot(who, key)?;
        let region = slot
            .region
            .upgrade()
            .map(Region)
            .ok_or(FabricError::BadKey)?;
        let writable = slot.grant.writable;
        drop(slots);
        let copy = || {
            region
                .0
                .fd
                .try_clone()
                .map_err(|e| FabricError::local("a descriptor", e))
        };
        let fd = if writable {
            copy()?
        } else {
            read_only(&region.0.fd)?
        };
        Ok((fd, region.len(), writable))
    }
}

impl Slots {
    fn slot_mut(&mut self, who: Identity, key: RemoteKey) -> Result<&mut Slot, FabricError> {
        let slot = self
            .used
            .get_mut(key.slot as usize)
            .and_then(Option::as_mut);
        slot.filter(|s| s.nonce == key.nonce && s.to == who)
            .ok_or(FabricError::BadKey)
    }

    fn slot(&self, who: Identity, key: RemoteKey) -> Result<&Slot, FabricError> {
        let slot = self.used.get(key.slot as usize).and_then(Option::as_ref);
        slot.filter(|s| s.nonce == key.nonce && s.to == who)
            .ok_or(FabricError::BadKey)
    }

    /// `held` must outlive the lock on these slots: should its owner drop a
    /// region meanwhile, ours is the last handle, and dropping that withdraws
    /// the region's grants, under the same lock.
    fn resolve(
        &self,
        who: Identity,
        piece: &Piece,
        write: bool,
        held: &mut Vec<Region>,
    ) -> Result<(Region, u64), FabricError> {
        let slot = self.slot(who, piece.remote.key)?;
        let offset = slot
            .grant
            .place(piece.remote.offset, piece.len as u64, write)?;
        let region = slot.region.upgrade().map(Region);
        let region = region.ok_or(FabricError::BadKey)?;
        held.push(region.clone());
        if region.0.id != piece.remote.key.region {
            return Err(FabricError::BadKey);
        }
        Ok((region, offset))
    }
}

impl Inner {
    fn slots(&self) -> RwLockWriteGuard<'_, Slots> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Invalidates the key in `slot`, waiting for operations of other
    /// processes that this one carries out.
    fn withdraw(&self, slot: u32, nonce: Option<u64>) {
        let mut slots = self.slots();
        let Some(place) = slots.used.get_mut(slot as usize) else {
            return;
        };
        if place
            .as_ref()
            .is_some_and(|s| nonce.is_none_or(|n| n == s.nonce))
        {
            self.table.withdraw(slot);
            *place = None;
            slots.free.push(slot);
        }
    }
}

#[allow(clippy::len_without_is_empty)]
impl Region {
    /// Its length in bytes; never 0.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.map.len()
    }

    fn grants(&self) -> MutexGuard<'_, Grants> {
        self.0.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `to` reach `range` until [`Region::revoke`].
    ///
    /// On shm a holder is handed the whole region, to be read, or also written
    /// where it has a writable grant, and what it was handed can't be taken
    /// away. So whoever is granted [`Access::ReadWrite`] owns the region from
    /// then on: nobody else gets a grant in it, also after a revocation.
    ///
    /// # Errors
    /// `OutOfBounds`; `Invalid` where the grants there exclude this one;
    /// `Local` where there are too many keys.
    pub fn grant(
        &self,
        to: Identity,
        range: Range<u64>,
        access: Access,
    ) -> Result<RemoteKey, FabricError> {
        if range.start >= range.end || range.end > self.len() {
            return Err(FabricError::OutOfBounds);
        }
        let mut grants = self.grants();
        if let Some(other) = grants.excluder(to, access) {
            let why = format!("{to} and {other} can't both hold a region that one of them owns");
            return Err(FabricError::Invalid(why));
        }
        let memory = &self.0.memory;
        let mut slots = memory.slots();
        let slot = slots.take()?;
        let nonce = memory.next_nonce.fetch_add(1, Ordering::Relaxed);
        let key = RemoteKey {
            region: self.0.id,
            slot,
            nonce,
        };
        let grant = Grant {
            range,
            writable: access.writes(),
        };
        memory.table.publish(key, to, &grant);
        let region = Arc::downgrade(&self.0);
        slots.used[slot as usize] = Some(Slot {
            nonce,
            to,
            grant,
            region,
            registered: Vec::new(),
        });
        grants.by_slot.insert(slot, (to, access));
        if access == Access::ReadWrite {
            grants.owner = Some(to);
        }
        Ok(key)
    }

    /// Takes a grant back; nothing where it is not valid any more. When this
    /// returns no operation under the key begins, and none that this process
    /// carries out (tcp) is running. A process on the same machine (shm) may
    /// be in the middle of a copy: its read fails then, its write may still
    /// land, in this region alone.
    pub fn revoke(&self, key: RemoteKey) {
        let mut grants = self.grants();
        if key.region == self.0.id {
            let memory = &self.0.memory;
            memory.withdraw(key.slot, Some(key.nonce));
            let slots = memory.slots.read().unwrap_or_else(PoisonError::into_inner);
            if slots
                .used
                .get(key.slot as usize)
                .is_some_and(Option::is_none)
            {
                grants.by_slot.remove(&key.slot);
            }
        }
    }

    /// Copies out.
    ///
    /// # Errors
    /// `OutOfBounds`.
    pub fn read(&self, offset: u64, dst: &mut [u8]) -> Result<(), FabricError> {
        self.0
            .map
            .read(offset, dst)
            .then_some(())
            .ok_or(FabricError::OutOfBounds)
    }

    /// Copies in.
    ///
    /// # Errors
    /// `OutOfBounds`.
    pub fn write(&self, offset: u64, src: &[u8]) -> Result<(), FabricError> {
        self.0
            .map
            .write(offset, src)
            .then_some(())
            .ok_or(FabricError::OutOfBounds)
    }

    fn check(&self, range: &Range<u64>) -> Result<(), FabricError> {
        let inside = range.start <= range.end && range.end <= self.len();
        inside.then_some(()).ok_or(FabricError::OutOfBounds)
    }

    /// Zeros a range and gives its whole pages back; those of a region with
    /// which RDMA devices work are only zeroed, for the devices would go on
    /// with the old ones.
    ///
    /// # Errors
    /// `OutOfBounds`; `Local` where the system refuses.
    pub fn zero(&self, range: Range<u64>) -> Result<(), FabricError> {
        self.check(&range)?;
        let region = &*self.0;
        match region.pins.if_none(|| punch(&region.fd, &range)) {
            Some(done) => done.map_err(|e| FabricError::local("freeing registered memory", e)),
            None => self.overwrite(range),
        }
    }

    fn overwrite(&self, range: Range<u64>) -> Result<(), FabricError> {
        zeros(range, |at, zeros| self.write(at, zeros))
    }

    /// Has it made of huge pages where the system gives them for a touch
    /// (`/sys/kernel/mm/transparent_hugepage/shmem_enabled`): for memory that
    /// is committed 2 MiB at a time.
    pub fn prefer_huge_pages(&self) {
        self.0.map.prefer_huge_pages();
    }

    /// Commits the pages of a range that holds zeros (new, or after
    /// [`Region::zero`]) now: aligned 2 MiB of it as huge pages where the system
    /// has some and they cost less.
    ///
    /// # Errors
    /// `OutOfBounds`; `Local` where there is no memory.
    pub fn commit(&self, range: Range<u64>) -> Result<(), FabricError> {
        self.check(&range)?;
        let mut at = range.start;
        while at < range.end {
            let next = (at + 1).next_multiple_of(HUGE as u64).min(range.end);
            if !self.commit_huge(at..next) {
                self.store_zeros(at..next)?;
            }
            at = next;
        }
        Ok(())
    }

    /// Commits a range that holds zeros as a huge page if it can be one, the
    /// system has one, and that costs less than pages. Whether it did.
    pub fn commit_huge(&self, range: Range<u64>) -> bool {
        let huge = HUGE as u64;
        let may = range.start.is_multiple_of(huge)
            && range.end == range.start.saturating_add(huge)
            && self.check(&range).is_ok();
        may && COSTS.huge(huge, || self.0.map.collapse(range.start))
    }

    fn store_zeros(&self, range: Range<u64>) -> Result<(), FabricError> {
        zeros(range, |at, zeros| self.store(at, zeros))
    }

    /// Copies into memory that is not committed yet: faster than
    /// [`Region::write`], which zeroes pages first. (Elsewhere it is slower, and
    /// spoils what is known of the price.)
    ///
    /// # Errors
    /// `OutOfBounds`; `Local` where there is no memory.
    pub fn store(&self, offset: u64, src: &[u8]) -> Result<(), FabricError> {
        self.check(&(offset..offset.saturating_add(src.len() as u64)))?;
        COSTS
            .small(src.len() as u64, || store(&self.0.fd, offset, src))
            .map_err(|e| FabricError::local("committing registered memory", e))
    }
}

/// Gives `each` the zeros of a range, piece by piece.
fn zeros(
    range: Range<u64>,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), FabricError>,
) -> Result<(), FabricError> {
    let zeros = [0; 64 << 10];
    for at in range.clone().step_by(zeros.len()) {
        let len = (range.end - at).min(zeros.len() as u64);
        each(at, &zeros[..len as usize])?;
    }
    Ok(())
}

impl Slots {
    fn take(&mut self) -> Result<u32, FabricError> {
        if let Some(slot) = self.free.pop() {
            return Ok(slot);
        }
        let next = u32::try_from(self.used.len()).ok().filter(|n| *n < SLOTS);
        let slot = next.ok_or_else(|| {
            FabricError::local("a grant", format!("{SLOTS} keys are out: revoke some"))
        })?;
        self.used.push(None);
        Ok(slot)
    }
}

impl Drop for RegionInner {
    fn drop(&mut self) {
        let grants = self
            .grants
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for slot in grants.by_slot.keys() {
            self.memory.withdraw(*slot, None);
        }
        // Peers may have it mapped for long: its pages go now.
        if let Err(e) = punch(&self.fd, &(0..self.map.len())) {
            tracing::warn!("registered memory was not freed: {e}");
        }
    }
}
