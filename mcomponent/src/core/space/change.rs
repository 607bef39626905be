//! The operations.

use super::place::{Lack, MOST_EXTENTS, Placed};
use super::{Neighbours, Space, extents_of, vregions_of};
use aspace::{AddressSpace, Remapped, Vma, VmaBacking};
use proto::addr::{EXTENT_SIZE, UserAddr, UserRange};
use proto::mem::{MapFlags, Prot, SpaceDone};
use proto::{Errno, VRegionId};

/// How many other address ranges are tried when components are full.
const MOST_RANGES: usize = 16;

/// An mmap(2).
pub(super) struct Asked {
    pub(super) addr: UserAddr,
    pub(super) len: u64,
    pub(super) prot: Prot,
    pub(super) flags: MapFlags,
    pub(super) backing: VmaBacking,
}

fn is_loose(vma: &Vma) -> bool {
    vma.may_hold_pages() && !vma.accounted
}

/// Extents that a range needs if it is `accounted`.
fn needed(range: UserRange, accounted: bool) -> std::ops::Range<u64> {
    if accounted { range.extents() } else { 0..0 }
}

fn errno(lack: &Lack) -> Errno {
    match lack {
        Lack::Errno(errno) => *errno,
        Lack::Full(_) => Errno::ENOMEM,
    }
}

impl Space {
    pub(super) fn map(
        &mut self,
        asked: &Asked,
        neighbours: &mut dyn Neighbours,
    ) -> Result<SpaceDone, Errno> {
        let mut full: Vec<VRegionId> = Vec::new();
        loop {
            let avoid = |range| Space::below_full(range, &full);
            let Asked {
                addr,
                len,
                prot,
                flags,
                backing,
            } = asked;
            let range = self.layout.plan_map(*addr, *len, *flags, backing, &avoid)?;
            let accounted = AddressSpace::would_account(range, *prot, *flags, backing);
            match self.acquire(needed(range, accounted), neighbours) {
                Ok(got) => {
                    let mut placed = got.placed;
                    placed.extend(self.place_loose(range, asked, neighbours));
                    self.apply_map(range, asked, neighbours)?;
                    return Ok(SpaceDone::Mapped { range, placed });
                }
                Err(Lack::Errno(errno)) => return Err(errno),
                Err(Lack::Full(vregion)) => {
                    let fixed = flags.has(MapFlags::FIXED) || flags.has(MapFlags::NOREPLACE);
                    if fixed || full.contains(&vregion) || full.len() >= MOST_RANGES {
                        return Err(Errno::ENOMEM);
                    }
                    full.push(vregion);
                }
            }
        }
    }

    fn place_loose(
        &mut self,
        range: UserRange,
        asked: &Asked,
        neighbours: &mut dyn Neighbours,
    ) -> Placed {
        let own = !asked.flags.has(MapFlags::SHARED) || asked.backing == VmaBacking::Anonymous;
        let loose = own && asked.flags.has(MapFlags::NORESERVE);
        if loose {
            self.place_only(range, neighbours)
        } else {
            Placed::new()
        }
    }

    fn apply_map(
        &mut self,
        range: UserRange,
        asked: &Asked,
        neighbours: &mut dyn Neighbours,
    ) -> Result<(), Errno> {
        let loose = self.has_loose(range);
        let flags = asked
            .flags
            .without(MapFlags::NOREPLACE)
            .with(MapFlags::FIXED);
        let (prot, backing) = (asked.prot, asked.backing.clone());
        let mapped = self
            .layout
            .map(range.start(), range.len(), prot, flags, backing);
        self.settle(range, loose, neighbours);
        mapped.map(|_| ())
    }

    pub(super) fn unmap(&mut self, range: UserRange, neighbours: &mut dyn Neighbours) {
        let loose = self.layout.unmap(range).iter().any(is_loose);
        self.settle(range, loose, neighbours);
    }

    pub(super) fn protect(
        &mut self,
        range: UserRange,
        prot: Prot,
        neighbours: &mut dyn Neighbours,
    ) -> Result<Placed, Errno> {
        if !self.layout.is_mapped(range) {
            // What lies before the hole is changed all the same, as in the
            // processor component's replica. It is promised when committed,
            // if that can be, like memory without reservation.
            self.layout.protect(range, prot)?;
            return Err(Errno::ENOMEM);
        }
        let need: Vec<u64> = self
            .layout
            .extents_with(range, prot)
            .take(MOST_EXTENTS + 1)
            .collect();
        let got = self
            .acquire(need.into_iter(), neighbours)
            .map_err(|lack| errno(&lack))?;
        if let Err(errno) = self.layout.protect(range, prot) {
            self.undo(got, neighbours);
            return Err(errno);
        }
        Ok(got.placed)
    }

    pub(super) fn remap(
        &mut self,
        old: UserRange,
        new_len: u64,
        may_move: bool,
        to: Option<UserAddr>,
        neighbours: &mut dyn Neighbours,
    ) -> Result<SpaceDone, Errno> {
        let accounted = self
            .layout
            .find(old.start())
            .is_some_and(|vma| vma.accounted);
        let mut full: Vec<VRegionId> = Vec::new();
        loop {
            let avoid = |range| Space::below_full(range, &full);
            let plan = self.layout.plan_remap(old, new_len, may_move, to, &avoid)?;
            let range = plan.range();
            let shrinks = matches!(plan, Remapped::Shrunk(_));
            let need = needed(range, accounted && !shrinks);
            match self.acquire(need, neighbours) {
                Ok(got) => {
                    self.apply_remap(old, range, neighbours)?;
                    return Ok(SpaceDone::Mapped {
                        range,
                        placed: got.placed,
                    });
                }
                Err(Lack::Full(vregion)) => {
                    let movable = matches!(plan, Remapped::Moved(_)) && to.is_none();
                    if !movable || full.contains(&vregion) || full.len() >= MOST_RANGES {
                        return Err(Errno::ENOMEM);
                    }
                    full.push(vregion);
                }
                Err(Lack::Errno(errno)) => return Err(errno),
            }
        }
    }

    fn apply_remap(
        &mut self,
        old: UserRange,
        new: UserRange,
        neighbours: &mut dyn Neighbours,
    ) -> Result<(), Errno> {
        let loose = self.has_loose(old) || self.has_loose(new);
        let to = Some(new.start()).filter(|at| *at != old.start());
        let done = self.layout.remap(old, new.len(), to.is_some(), to);
        self.settle(old, loose, neighbours);
        self.settle(new, loose, neighbours);
        done.map(|_| ())
    }

    /// brk(2) answers failures with the old break.
    pub(super) fn brk(
        &mut self,
        addr: UserAddr,
        neighbours: &mut dyn Neighbours,
    ) -> Result<SpaceDone, Errno> {
        let before = self.layout.brk(UserAddr(0));
        let unchanged = SpaceDone::Brk {
            addr: before,
            placed: Placed::new(),
        };
        let Some(grown) = self.layout.plan_brk(addr) else {
            return Ok(unchanged);
        };
        let end = before
            .max(addr)
            .align_up(proto::PAGE_SIZE)
            .unwrap_or(before);
        let touched = UserRange::between(addr.align_down(proto::PAGE_SIZE), end);
        let touched: Vec<UserRange> = touched.into_iter().collect();
        let need = grown.map_or(0..0, UserRange::extents);
        match self.acquire(need, neighbours) {
            Ok(got) => {
                let addr = self.layout.brk(addr);
                touched
                    .iter()
                    .for_each(|range| self.settle(*range, false, neighbours));
                Ok(SpaceDone::Brk {
                    addr,
                    placed: got.placed,
                })
            }
            Err(_) => Ok(unchanged),
        }
    }

    /// Whole extents without contents are freed; where they are promised the
    /// promise stays. At another component frames of promised memory are left
    /// as they are: they are accounted for, and the processor component knows
    /// which pages count.
    pub(super) fn discard(&mut self, range: UserRange, neighbours: &mut dyn Neighbours) {
        let me = neighbours.me().id;
        let whole = range.start().0.div_ceil(EXTENT_SIZE)..range.end().0 / EXTENT_SIZE;
        for (vregion, owner) in self.owners.range(vregions_of(range)) {
            let of = extents_of(*vregion);
            let part = of.start.max(whole.start)..of.end.min(whole.end);
            let (kept, loose): (Vec<u64>, Vec<u64>) =
                part.partition(|extent| self.promised.contains(extent));
            if owner.id == me && !kept.is_empty() {
                neighbours.forget(self.process, &kept);
            }
            if !loose.is_empty() && self.has_loose(range) {
                neighbours.release(self.process, owner, &loose);
            }
        }
    }

    fn has_loose(&self, range: UserRange) -> bool {
        self.layout.overlapping(range).any(is_loose)
    }
}
