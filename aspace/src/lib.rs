//! The address space of a process: a map from ranges to what is mapped there.
//!
//! The memory component at home holds the one that counts; the processor
//! component keeps a replica by applying the same changes, fixed at the
//! addresses that home answered.
#![forbid(unsafe_code)]

use proto::Errno;
use proto::addr::{EXTENT_SIZE, PAGE_SIZE, USER_MAX, USER_MIN, UserAddr, UserRange};
use proto::mem::{FileRef, MapFlags, Prot};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most mappings (`vm.max_map_count`'s usual value).
pub const MAX_VMAS: usize = 65530;
/// Mappings are placed below this, top down.
const MMAP_TOP: u64 = USER_MAX.0 - (1 << 30);
/// `MAP_32BIT` mappings are placed below this.
const LOW_TOP: u64 = 1 << 31;
/// Kept free below a stack.
const STACK_GAP: u64 = 256 * PAGE_SIZE;
const KEPT: u32 = MapFlags::SHARED.0 | MapFlags::NORESERVE.0 | MapFlags::STACK.0 | MapFlags::HEAP.0;

/// What a mapping shows before it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VmaBacking {
    /// Zeros.
    Anonymous,
    /// A file.
    File {
        /// Which.
        file: Arc<FileRef>,
        /// Offset in the file of the mapping's first byte.
        offset: u64,
    },
}

impl VmaBacking {
    /// The backing `n` bytes on.
    fn advanced(&self, n: u64) -> VmaBacking {
        match self {
            VmaBacking::Anonymous => VmaBacking::Anonymous,
            VmaBacking::File { file, offset } => VmaBacking::File {
                file: file.clone(),
                offset: offset + n,
            },
        }
    }
}

/// One mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vma {
    /// Where.
    pub range: UserRange,
    /// Access.
    pub prot: Prot,
    /// `SHARED`, `NORESERVE`, `STACK`, `HEAP`.
    pub flags: MapFlags,
    /// What.
    pub backing: VmaBacking,
    /// Whether it counts against capacity: private, and writable now or before.
    pub accounted: bool,
}

impl Vma {
    fn part(&self, range: UserRange) -> Vma {
        let ahead = range.start().0 - self.range.start().0;
        Vma {
            range,
            backing: self.backing.advanced(ahead),
            ..self.clone()
        }
    }

    fn continues(&self, before: &Vma) -> bool {
        before.range.end() == self.range.start()
            && before.prot == self.prot
            && before.flags == self.flags
            && before.accounted == self.accounted
            && !self.flags.has(MapFlags::STACK)
            && before.backing.advanced(before.range.len()) == self.backing
    }
}

fn is_accounted(prot: Prot, flags: MapFlags) -> bool {
    prot.has(Prot::WRITE) && !flags.has(MapFlags::NORESERVE) && !flags.has(MapFlags::SHARED)
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AddressSpace {
    vmas: BTreeMap<u64, Vma>,
    heap_start: u64,
    brk: u64,
}

impl AddressSpace {
    /// Nothing mapped.
    #[must_use]
    pub fn new() -> AddressSpace {
        AddressSpace::default()
    }

    /// The mapping that holds `a`.
    #[must_use]
    pub fn find(&self, a: UserAddr) -> Option<&Vma> {
        let (_, vma) = self.vmas.range(..=a.0).next_back()?;
        vma.range.contains(a).then_some(vma)
    }

    /// All mappings, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &Vma> {
        self.vmas.values()
    }

    /// How many mappings there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.vmas.len()
    }

    /// Whether nothing is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.vmas.is_empty()
    }

    /// The mappings that share an address with `range`, ascending.
    pub fn overlapping(&self, range: UserRange) -> impl Iterator<Item = &Vma> {
        let first = self
            .find(range.start())
            .map_or(range.start().0, |v| v.range.start().0);
        self.vmas.range(first..range.end().0).map(|(_, vma)| vma)
    }

    /// Whether `range` has no hole.
    #[must_use]
    pub fn is_mapped(&self, range: UserRange) -> bool {
        let mut at = range.start();
        for vma in self.overlapping(range) {
            if vma.range.start() > at {
                return false;
            }
            at = vma.range.end();
        }
        at >= range.end()
    }

    /// Whether a mapping of this extent counts against capacity.
    #[must_use]
    pub fn is_accounted(&self, extent: u64) -> bool {
        let whole = extent.checked_mul(EXTENT_SIZE).and_then(|a| {
            UserRange::new(
                UserAddr(a).max(USER_MIN),
                EXTENT_SIZE - a.max(USER_MIN.0) % EXTENT_SIZE,
            )
        });
        whole.is_some_and(|w| self.overlapping(w).any(|v| v.accounted))
    }

    /// Where a mapping would go: exactly there with `FIXED` or `NOREPLACE`, at
    /// the hint if that is free, else the highest free place that fits.
    ///
    /// # Errors
    /// `EEXIST` (`NOREPLACE`), `EINVAL` (an address that can't be), `ENOMEM`.
    pub fn choose(&self, addr: UserAddr, len: u64, flags: MapFlags) -> Result<UserRange, Errno> {
        let fixed = flags.has(MapFlags::FIXED) || flags.has(MapFlags::NOREPLACE);
        if len == 0 || (fixed && !addr.is_aligned(PAGE_SIZE)) {
            return Err(Errno::EINVAL);
        }
        if fixed {
            let range = UserRange::new(addr, len).ok_or(Errno::ENOMEM)?;
            let taken = self.overlapping(range).next().is_some();
            if flags.has(MapFlags::NOREPLACE) && taken {
                return Err(Errno::EEXIST);
            }
            return Ok(range);
        }
        if addr.0 != 0 {
            let hinted = UserRange::new(addr.align_down(PAGE_SIZE), len);
            if let Some(r) = hinted.filter(|r| self.overlapping(*r).next().is_none()) {
                return Ok(r);
            }
        }
        let top = if flags.has(MapFlags::LOW) {
            LOW_TOP
        } else {
            MMAP_TOP
        };
        self.highest_gap(len, top, flags)
    }

    fn highest_gap(&self, len: u64, top: u64, flags: MapFlags) -> Result<UserRange, Errno> {
        let len = UserAddr(len).align_up(PAGE_SIZE).ok_or(Errno::ENOMEM)?.0;
        let below = if flags.has(MapFlags::STACK) {
            STACK_GAP
        } else {
            0
        };
        let mut end = top;
        for vma in self.vmas.range(..top).rev().map(|(_, v)| v) {
            let floor = vma.range.end().0 + below;
            if end.checked_sub(len).is_some_and(|start| start >= floor) {
                break;
            }
            let gap = if vma.flags.has(MapFlags::STACK) {
                STACK_GAP
            } else {
                0
            };
            end = end.min(vma.range.start().0.saturating_sub(gap));
        }
        let start = end.checked_sub(len).ok_or(Errno::ENOMEM)?;
        let room = UserRange::new(UserAddr(start), len).ok_or(Errno::ENOMEM)?;
        if self.overlapping(room).next().is_some() {
            Err(Errno::ENOMEM)
        } else {
            Ok(room)
        }
    }

    /// mmap(2).
    ///
    /// # Errors
    /// As [`AddressSpace::choose`]; `ENOMEM` for too many mappings.
    pub fn map(
        &mut self,
        addr: UserAddr,
        len: u64,
        prot: Prot,
        flags: MapFlags,
        backing: VmaBacking,
    ) -> Result<UserRange, Errno> {
        let range = self.choose(addr, len, flags)?;
        if self.vmas.len() + 2 > MAX_VMAS {
            return Err(Errno::ENOMEM);
        }
        self.unmap(range);
        let flags = MapFlags(flags.0 & KEPT);
        let accounted = is_accounted(prot, flags);
        self.insert(Vma {
            range,
            prot,
            flags,
            backing,
            accounted,
        });
        Ok(range)
    }

    /// Inserts and merges with the neighbours.
    fn insert(&mut self, mut vma: Vma) {
        if let Some((&key, before)) = self.vmas.range(..vma.range.start().0).next_back() {
            if vma.continues(before) {
                let merged = UserRange::between(before.range.start(), vma.range.end());
                if let Some(range) = merged {
                    vma = Vma {
                        range,
                        ..before.clone()
                    };
                    self.vmas.remove(&key);
                }
            }
        }
        if let Some(after) = self.vmas.get(&vma.range.end().0) {
            if after.continues(&vma) {
                if let Some(range) = UserRange::between(vma.range.start(), after.range.end()) {
                    self.vmas.remove(&vma.range.end().0);
                    vma.range = range;
                }
            }
        }
        self.vmas.insert(vma.range.start().0, vma);
    }

    /// munmap(2): the pieces that were there.
    pub fn unmap(&mut self, range: UserRange) -> Vec<Vma> {
        let touched: Vec<Vma> = self.overlapping(range).cloned().collect();
        let mut gone = Vec::with_capacity(touched.len());
        for vma in touched {
            self.vmas.remove(&vma.range.start().0);
            let keep = [
                UserRange::between(vma.range.start(), range.start()),
                UserRange::between(range.end(), vma.range.end()),
            ];
            for part in keep
                .into_iter()
                .flatten()
                .filter(|p| vma.range.contains_range(*p))
            {
                self.vmas.insert(part.start().0, vma.part(part));
            }
            gone.extend(vma.range.intersect(range).map(|r| vma.part(r)));
        }
        gone
    }

    /// mprotect(2). Pages before a hole are changed, as Linux does.
    ///
    /// # Errors
    /// `ENOMEM`: a hole, or too many mappings.
    pub fn protect(&mut self, range: UserRange, prot: Prot) -> Result<(), Errno> {
        if self.vmas.len() + 2 > MAX_VMAS {
            return Err(Errno::ENOMEM);
        }
        let mut at = range.start();
        let parts: Vec<UserRange> = self
            .overlapping(range)
            .filter_map(|v| v.range.intersect(range))
            .collect();
        for part in parts {
            if part.start() > at {
                break;
            }
            for mut vma in self.unmap(part) {
                vma.prot = prot;
                vma.accounted |= is_accounted(prot, vma.flags);
                self.insert(vma);
            }
            at = part.end();
        }
        if at >= range.end() {
            Ok(())
        } else {
            Err(Errno::ENOMEM)
        }
    }

    /// mremap(2): shrinks, grows in place, or moves. The pages' contents are
    /// the caller's business.
    ///
    /// # Errors
    /// `EFAULT`: `old` is not inside one mapping. `ENOMEM`: no room (in place,
    /// or anywhere if it may move). `EINVAL`: lengths or addresses.
    pub fn remap(
        &mut self,
        old: UserRange,
        new_len: u64,
        may_move: bool,
        to: Option<UserAddr>,
    ) -> Result<UserRange, Errno> {
        let vma = self
            .find(old.start())
            .filter(|v| v.range.contains_range(old))
            .cloned();
        let vma = vma.ok_or(Errno::EFAULT)?;
        let new = UserRange::new(old.start(), new_len).ok_or(Errno::EINVAL)?;
        if to.is_none() && new.len() <= old.len() {
            if let Some(tail) = UserRange::between(new.end(), old.end()) {
                self.unmap(tail);
            }
            return Ok(new);
        }
        if to.is_none() {
            let grown = UserRange::between(old.end(), new.end()).ok_or(Errno::EINVAL)?;
            if old.end() == vma.range.end() && self.overlapping(grown).next().is_none() {
                let backing = vma.backing.advanced(old.end().0 - vma.range.start().0);
                self.insert(Vma {
                    range: grown,
                    backing,
                    ..vma
                });
                return Ok(new);
            }
            if !may_move {
                return Err(Errno::ENOMEM);
            }
        }
        let flags = if to.is_some() {
            MapFlags::FIXED
        } else {
            MapFlags::default()
        };
        let place = self.choose(to.unwrap_or_default(), new.len(), flags)?;
        if place.overlaps(old) {
            return Err(Errno::EINVAL);
        }
        self.unmap(place);
        let backing = vma.backing.advanced(old.start().0 - vma.range.start().0);
        self.unmap(old);
        self.insert(Vma {
            range: place,
            backing,
            ..vma
        });
        Ok(place)
    }

    /// Where the heap starts.
    pub fn set_brk(&mut self, addr: UserAddr) {
        (self.heap_start, self.brk) = (addr.0, addr.0);
    }

    /// brk(2): the break after it; unchanged where it can't move.
    pub fn brk(&mut self, addr: UserAddr) -> UserAddr {
        let page = |a: u64| UserAddr(a).align_up(PAGE_SIZE).map_or(u64::MAX, |a| a.0);
        let (now, want) = (page(self.brk), page(addr.0));
        if addr.0 < self.heap_start || self.heap_start == 0 || want > USER_MAX.0 {
            return UserAddr(self.brk);
        }
        if let Some(gone) = UserRange::between(UserAddr(want), UserAddr(now)) {
            self.unmap(gone);
        }
        if let Some(grown) = UserRange::between(UserAddr(now), UserAddr(want)) {
            if self.overlapping(grown).next().is_some() {
                return UserAddr(self.brk);
            }
            let flags = MapFlags::HEAP;
            let prot = Prot::READ_WRITE;
            let backing = VmaBacking::Anonymous;
            self.insert(Vma {
                range: grown,
                prot,
                flags,
                backing,
                accounted: true,
            });
        }
        self.brk = addr.0;
        addr
    }
}
