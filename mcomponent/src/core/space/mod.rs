//! An address space at its home: the layout, which vRegion is at which memory
//! component, and which extents are promised there.
//!
//! Invariant: every extent that the layout accounts is promised by the
//! component that owns its vRegion (`promised`), so that a write to memory
//! that was mapped can't fail. An operation first gets the promises that it
//! needs, then changes the layout, which can't fail any more, then gives back
//! what nothing needs now.

mod change;
mod place;
#[cfg(test)]
mod tests;

use aspace::AddressSpace;
use proto::addr::UserRange;
use proto::gmm::NodeInfo;
use proto::mem::{SpaceDone, SpaceOp};
use proto::{Errno, NodeId, ProcessId, VRegionId};
use std::collections::{BTreeMap, BTreeSet};

/// Those who hold the memory, as an operation needs them.
pub trait Neighbours {
    /// This component.
    fn me(&self) -> NodeInfo;

    /// Asks which component is to have a vRegion; not one of `not`.
    ///
    /// # Errors
    /// `ENOMEM` where all are full.
    fn place(
        &mut self,
        process: ProcessId,
        vregion: VRegionId,
        bytes: u64,
        not: &[NodeId],
    ) -> Result<NodeInfo, Errno>;

    /// Has `owner` promise `extents`, all or none.
    ///
    /// # Errors
    /// `ENOMEM`, also where `owner` does not answer.
    fn promise(
        &mut self,
        process: ProcessId,
        owner: &NodeInfo,
        extents: &[u64],
    ) -> Result<(), Errno>;

    /// Has `owner` take back its promises, and free what was committed. It
    /// does not fail: an owner that does not answer has lost the memory, or
    /// will find out that the process is gone.
    fn release(&mut self, process: ProcessId, owner: &NodeInfo, extents: &[u64]);

    /// Frees the contents of extents of this component; the promise stays.
    fn forget(&mut self, process: ProcessId, extents: &[u64]);
}

/// See the module.
pub struct Space {
    process: ProcessId,
    layout: AddressSpace,
    owners: BTreeMap<VRegionId, NodeInfo>,
    promised: BTreeSet<u64>,
}

impl Space {
    /// An empty one.
    #[must_use]
    pub fn new(process: ProcessId) -> Space {
        Space {
            process,
            layout: AddressSpace::new(),
            owners: BTreeMap::new(),
            promised: BTreeSet::new(),
        }
    }

    /// The layout.
    #[must_use]
    pub fn layout(&self) -> &AddressSpace {
        &self.layout
    }

    /// Where a vRegion is.
    #[must_use]
    pub fn owner(&self, vregion: VRegionId) -> Option<&NodeInfo> {
        self.owners.get(&vregion)
    }

    /// The components that have vRegions of it.
    #[must_use]
    pub fn owners(&self) -> BTreeMap<NodeId, NodeInfo> {
        self.owners
            .values()
            .map(|info| (info.id, info.clone()))
            .collect()
    }

    /// Does one operation.
    ///
    /// # Errors
    /// The errno for the program; nothing is changed then, but for what
    /// mprotect(2) does before a hole.
    pub fn handle_op(
        &mut self,
        op: &SpaceOp,
        neighbours: &mut dyn Neighbours,
    ) -> Result<SpaceDone, Errno> {
        let done = |placed| SpaceDone::Done { placed };
        match op {
            SpaceOp::Map {
                addr,
                len,
                prot,
                flags,
                backing,
            } => {
                let asked = change::Asked {
                    addr: *addr,
                    len: *len,
                    prot: *prot,
                    flags: *flags,
                    backing: backing.into(),
                };
                self.map(&asked, neighbours)
            }
            SpaceOp::Unmap { range } => {
                self.unmap(*range, neighbours);
                Ok(done(Vec::new()))
            }
            SpaceOp::Protect { range, prot } => self.protect(*range, *prot, neighbours).map(done),
            SpaceOp::Remap {
                old,
                new_len,
                may_move,
                to,
            } => self.remap(*old, *new_len, *may_move, *to, neighbours),
            SpaceOp::Brk { addr } => self.brk(*addr, neighbours),
            SpaceOp::SetBrk { addr } => {
                if self.layout.has_heap() {
                    return Err(Errno::EINVAL);
                }
                self.layout.set_brk(*addr);
                let set = self.layout.has_heap();
                if set {
                    Ok(done(Vec::new()))
                } else {
                    Err(Errno::EINVAL)
                }
            }
            SpaceOp::Discard { range } => {
                self.discard(*range, neighbours);
                Ok(done(Vec::new()))
            }
        }
    }

    /// Whether the process may commit `extent` here: its vRegion is, or from
    /// now on will be, at this component, and a mapping may have pages in it.
    ///
    /// # Errors
    /// `EFAULT`: nothing there, or it belongs to another component.
    pub fn admit_commit(&mut self, extent: u64, me: &NodeInfo) -> Result<(), Errno> {
        let at = extent
            .checked_mul(proto::addr::EXTENT_SIZE)
            .ok_or(Errno::EFAULT)?;
        let vregion = proto::UserAddr(at).vregion();
        let here = self
            .owners
            .get(&vregion)
            .is_none_or(|owner| owner.id == me.id);
        if !here || !(self.promised.contains(&extent) || self.layout.may_hold_pages(extent)) {
            return Err(Errno::EFAULT);
        }
        self.owners.entry(vregion).or_insert_with(|| me.clone());
        Ok(())
    }

    /// Releases everything at every component.
    pub fn end(&mut self, neighbours: &mut dyn Neighbours) {
        for (vregion, owner) in std::mem::take(&mut self.owners) {
            let extents: Vec<u64> = extents_of(vregion).collect();
            neighbours.release(self.process, &owner, &extents);
        }
        self.promised.clear();
        self.layout = AddressSpace::new();
    }
}

/// Extents of a vRegion.
fn extents_of(vregion: VRegionId) -> std::ops::Range<u64> {
    let per = proto::addr::VREGION_SIZE / proto::addr::EXTENT_SIZE;
    let first = u64::from(vregion.0) * per;
    first..first + per
}

/// The vRegions that a range touches.
fn vregions_of(range: UserRange) -> std::ops::RangeInclusive<VRegionId> {
    let last = proto::UserAddr(range.end().0 - 1);
    range.start().vregion()..=last.vregion()
}
