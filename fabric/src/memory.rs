//! Memory that peers may reach one-sided.
use crate::FabricError;
use proto::Identity;
use proto::addr::{RemoteAddr, RemoteKey};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// What a grant permits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// One-sided reads.
    Read,
    /// One-sided reads and writes.
    ReadWrite,
}

pub(crate) const SLOTS: usize = 1 << 20;
/// One key, as clients on this host see it.
#[repr(C)]
pub(crate) struct Entry {
    pub(crate) nonce: AtomicU64,
    pub(crate) offset: AtomicU64,
    pub(crate) len: AtomicU64,
    pub(crate) region_access: AtomicU64,
}

fn local(what: &str, why: impl std::fmt::Display) -> FabricError {
    FabricError::Local {
        what: what.into(),
        why: why.to_string(),
    }
}

/// A shared mapping of a memfd.
pub(crate) struct Mapping {
    pub(crate) at: *mut u8,
    pub(crate) len: usize,
}
// SAFETY: the mapping is shared bytes, reached through raw copies alone.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}
impl Mapping {
    pub(crate) fn new(fd: impl AsFd, len: usize, write: bool) -> Result<Mapping, FabricError> {
        use rustix::mm::{MapFlags, ProtFlags};
        let prot = if write {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        // SAFETY: a new mapping at a place the kernel chooses disturbs nothing.
        let at = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                prot,
                MapFlags::SHARED | MapFlags::NORESERVE,
                fd,
                0,
            )
        }
        .map_err(|e| local("mmap", e))?;
        Ok(Mapping { at: at.cast(), len })
    }
}
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody keeps a pointer beyond the mapping.
        let _ = unsafe { rustix::mm::munmap(self.at.cast(), self.len) };
    }
}

struct Slot {
    identity: Identity,
    region: u32,
}
pub(crate) struct Inner {
    pub(crate) table_fd: OwnedFd,
    table: Mapping,
    slots: RwLock<Vec<Option<Slot>>>,
    free: Mutex<Vec<u32>>,
    nonce: AtomicU64,
    next_region: AtomicU32,
    pub(crate) regions: RwLock<HashMap<u32, std::sync::Weak<RegionInner>>>,
}
pub(crate) struct RegionInner {
    id: u32,
    pub(crate) fd: OwnedFd,
    map: Mapping,
    pub(crate) holders: Mutex<HashMap<Identity, (Access, u32)>>,
    mem: Arc<Inner>,
}
/// The registered memory of one server, shared by all of its listeners.
#[derive(Clone)]
pub struct Memory(pub(crate) Arc<Inner>);
/// Registered memory; its keys die with its last handle.
#[derive(Clone)]
pub struct Region(pub(crate) Arc<RegionInner>);

impl Inner {
    pub(crate) fn entry(&self, slot: u32) -> Option<&Entry> {
        if slot as usize >= SLOTS {
            return None;
        }
        // SAFETY: the slot lies inside the table, whose entries are atomics.
        Some(unsafe { &*self.table.at.cast::<Entry>().add(slot as usize) })
    }
    /// Where an access by `who` goes.
    pub(crate) fn resolve(
        &self,
        who: Identity,
        at: RemoteAddr,
        len: u32,
        write: bool,
    ) -> Result<(Arc<RegionInner>, u64), FabricError> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let slot = slots
            .get(at.key.slot as usize)
            .and_then(Option::as_ref)
            .ok_or(FabricError::BadKey)?;
        let e = self.entry(at.key.slot).ok_or(FabricError::BadKey)?;
        if e.nonce.load(Ordering::Acquire) != at.key.nonce
            || at.key.nonce == 0
            || slot.identity != who
            || slot.region != at.key.region
        {
            return Err(FabricError::BadKey);
        }
        if write && e.region_access.load(Ordering::Relaxed) & 1 == 0 {
            return Err(FabricError::AccessDenied);
        }
        let glen = e.len.load(Ordering::Relaxed);
        if at
            .offset
            .checked_add(len.into())
            .is_none_or(|end| end > glen)
        {
            return Err(FabricError::OutOfBounds);
        }
        let region = self
            .regions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&slot.region)
            .and_then(std::sync::Weak::upgrade)
            .ok_or(FabricError::BadKey)?;
        Ok((region, e.offset.load(Ordering::Relaxed) + at.offset))
    }
}
impl RegionInner {
    pub(crate) fn ptr(&self, off: u64) -> *mut u8 {
        self.map.at.wrapping_add(off as usize)
    }
    /// Copies out of the region; the range has been resolved.
    pub(crate) fn load(&self, at: u64, len: usize, to: &mut Vec<u8>) {
        let start = to.len();
        to.resize(start + len, 0);
        // SAFETY: a resolved range lies inside the mapping; others may write to
        // it meanwhile, as with RDMA.
        unsafe { std::ptr::copy_nonoverlapping(self.ptr(at), to[start..].as_mut_ptr(), len) };
    }

    /// Copies into the region; the range has been resolved.
    pub(crate) fn store(&self, at: u64, from: &[u8]) {
        // SAFETY: as for `load`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.ptr(at), from.len()) };
    }

    pub(crate) fn size(&self) -> usize {
        self.map.len
    }
}
impl Drop for RegionInner {
    fn drop(&mut self) {
        self.mem
            .regions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
        let mut slots = self
            .mem
            .slots
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for (n, s) in slots.iter_mut().enumerate() {
            if s.as_ref().is_some_and(|s| s.region == self.id) {
                *s = None;
                if let Some(e) = self.mem.entry(n as u32) {
                    e.nonce.store(0, Ordering::Release);
                }
                self.mem
                    .free
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(n as u32);
            }
        }
    }
}
impl Memory {
    /// None registered yet.
    ///
    /// # Errors
    /// The key table cannot be made.
    pub fn new() -> Result<Memory, FabricError> {
        let fd = memfd("keys", SLOTS * size_of::<Entry>())?;
        let table = Mapping::new(&fd, SLOTS * size_of::<Entry>(), true)?;
        Ok(Memory(Arc::new(Inner {
            table_fd: fd,
            table,
            slots: RwLock::default(),
            free: Mutex::default(),
            // Keys of an earlier start must not fit.
            nonce: AtomicU64::new(u64::from_le_bytes(crate::auth::random()?) >> 2 | 1),
            next_region: AtomicU32::new(1),
            regions: RwLock::default(),
        })))
    }
    /// Registers `len` bytes of zeros, sparse: pages are taken when they are
    /// touched.
    ///
    /// # Errors
    /// Out of descriptors or address space.
    pub fn register(&self, len: u64, name: &str) -> Result<Region, FabricError> {
        let fd = memfd(name, len as usize)?;
        let map = Mapping::new(&fd, len as usize, true)?;
        let id = self.0.next_region.fetch_add(1, Ordering::Relaxed);
        let r = Arc::new(RegionInner {
            id,
            fd,
            map,
            holders: Mutex::default(),
            mem: self.0.clone(),
        });
        self.0
            .regions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, Arc::downgrade(&r));
        Ok(Region(r))
    }
}
fn memfd(name: &str, len: usize) -> Result<OwnedFd, FabricError> {
    let fd = rustix::fs::memfd_create(
        name,
        rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING,
    )
    .map_err(|e| local("memfd_create", e))?;
    rustix::fs::ftruncate(&fd, len as u64).map_err(|e| local("ftruncate", e))?;
    // Nobody who holds it can make it shorter under another's feet.
    use rustix::fs::SealFlags;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&fd, seals).map_err(|e| local("sealing a memfd", e))?;
    Ok(fd)
}
impl Region {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.0.map.len as u64
    }
    /// Never: a region has at least a page.
    pub fn is_empty(&self) -> bool {
        false
    }
    /// Grants `range` to one identity. On shared memory its holder maps the
    /// whole region, so memory that others must not see belongs in regions of
    /// its own.
    ///
    /// # Errors
    /// `OutOfBounds`; too many keys.
    pub fn grant(
        &self,
        to: Identity,
        range: Range<u64>,
        access: Access,
    ) -> Result<RemoteKey, FabricError> {
        if range.end > self.len() || range.start >= range.end {
            return Err(FabricError::OutOfBounds);
        }
        let mem = &self.0.mem;
        {
            let mut h = self
                .0
                .holders
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let e = h.entry(to).or_insert((access, 0));
            e.1 += 1;
            if access == Access::ReadWrite {
                e.0 = access;
            }
        }
        let mut slots = mem.slots.write().unwrap_or_else(PoisonError::into_inner);
        let n = match mem
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
        {
            Some(n) => n as usize,
            None => {
                slots.push(None);
                slots.len() - 1
            }
        };
        let e = mem
            .entry(n as u32)
            .ok_or_else(|| local("grant", "too many keys"))?;
        slots[n] = Some(Slot {
            identity: to,
            region: self.0.id,
        });
        let nonce = mem.nonce.fetch_add(1, Ordering::Relaxed);
        e.offset.store(range.start, Ordering::Relaxed);
        e.len.store(range.end - range.start, Ordering::Relaxed);
        e.region_access.store(
            u64::from(self.0.id) << 8 | u64::from(access == Access::ReadWrite),
            Ordering::Relaxed,
        );
        e.nonce.store(nonce, Ordering::Release);
        Ok(RemoteKey {
            region: self.0.id,
            slot: n as u32,
            nonce,
        })
    }
    /// Ends a grant: no operation under the key starts from now on.
    pub fn revoke(&self, key: RemoteKey) {
        let mem = &self.0.mem;
        let mut slots = mem.slots.write().unwrap_or_else(PoisonError::into_inner);
        let Some(e) = mem.entry(key.slot) else { return };
        if e.nonce.load(Ordering::Acquire) != key.nonce {
            return;
        }
        e.nonce.store(0, Ordering::SeqCst);
        if let Some(slot) = slots.get_mut(key.slot as usize).and_then(Option::take) {
            let mut holders = self
                .0
                .holders
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some((_, keys)) = holders.get_mut(&slot.identity) {
                *keys -= 1;
                if *keys == 0 {
                    holders.remove(&slot.identity);
                }
            }
        }
        mem.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(key.slot);
    }
    fn check(&self, off: u64, len: u64) -> Result<(), FabricError> {
        if off.checked_add(len).is_none_or(|e| e > self.len()) {
            Err(FabricError::OutOfBounds)
        } else {
            Ok(())
        }
    }
    /// Copies out.
    ///
    /// # Errors
    /// `OutOfBounds`.
    pub fn read(&self, offset: u64, dst: &mut [u8]) -> Result<(), FabricError> {
        self.check(offset, dst.len() as u64)?;
        // SAFETY: checked to lie inside the mapping; bytes that others may write
        // meanwhile, as with RDMA.
        unsafe { std::ptr::copy_nonoverlapping(self.0.ptr(offset), dst.as_mut_ptr(), dst.len()) };
        Ok(())
    }
    /// Copies in.
    ///
    /// # Errors
    /// `OutOfBounds`.
    pub fn write(&self, offset: u64, src: &[u8]) -> Result<(), FabricError> {
        self.check(offset, src.len() as u64)?;
        // SAFETY: checked to lie inside the mapping, as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), self.0.ptr(offset), src.len()) };
        Ok(())
    }
    /// Makes `range` zeros and gives whole pages back to the host.
    ///
    /// # Errors
    /// `OutOfBounds`; what fallocate(2) answered.
    pub fn zero(&self, range: Range<u64>) -> Result<(), FabricError> {
        self.check(
            range.start,
            range
                .end
                .checked_sub(range.start)
                .ok_or(FabricError::OutOfBounds)?,
        )?;
        rustix::fs::fallocate(
            &self.0.fd,
            rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
            range.start,
            range.end - range.start,
        )
        .map_err(|e| local("punch", e))
    }
    /// Takes the pages of `range` now, so that no one faults for them later.
    ///
    /// # Errors
    /// `OutOfBounds`.
    pub fn populate(&self, range: Range<u64>) -> Result<(), FabricError> {
        self.check(
            range.start,
            range
                .end
                .checked_sub(range.start)
                .ok_or(FabricError::OutOfBounds)?,
        )?;
        // SAFETY: the range lies inside the region's own mapping.
        let _ = unsafe {
            rustix::mm::madvise(
                self.0.ptr(range.start).cast(),
                (range.end - range.start) as usize,
                rustix::mm::Advice::LinuxPopulateWrite,
            )
        };
        Ok(())
    }
}
