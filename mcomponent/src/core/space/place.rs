//! Getting and giving back promises.

use super::{Neighbours, Space, extents_of, vregions_of};
use proto::addr::{EXTENT_SIZE, UserRange, VREGION_SIZE};
use proto::gmm::NodeInfo;
use proto::{Errno, NodeId, UserAddr, VRegionId};
use std::collections::BTreeMap;

/// vRegions placed by an operation.
pub(super) type Placed = Vec<(VRegionId, NodeInfo)>;

/// Most extents that one operation may need: a TiB. More is more than any
/// component has, and is refused before it is counted.
pub(super) const MOST_EXTENTS: usize = 1 << 19;

/// Why promises could not be had.
pub(super) enum Lack {
    Errno(Errno),
    /// The component that has this vRegion is full; another range may do.
    Full(VRegionId),
}

impl From<Errno> for Lack {
    fn from(errno: Errno) -> Lack {
        Lack::Errno(errno)
    }
}

/// What was got, to be kept or undone as a whole.
#[derive(Default)]
pub(super) struct Got {
    pub(super) placed: Placed,
    promised: Vec<(VRegionId, Vec<u64>)>,
}

fn vregion_of(extent: u64) -> VRegionId {
    UserAddr(extent * EXTENT_SIZE).vregion()
}

impl Space {
    /// Of `extents`, those that are not promised yet, by vRegion.
    fn missing(
        &self,
        extents: impl Iterator<Item = u64>,
    ) -> Result<BTreeMap<VRegionId, Vec<u64>>, Errno> {
        let mut missing: BTreeMap<VRegionId, Vec<u64>> = BTreeMap::new();
        for (n, extent) in extents.enumerate() {
            if n >= MOST_EXTENTS {
                return Err(Errno::ENOMEM);
            }
            if !self.promised.contains(&extent) {
                missing.entry(vregion_of(extent)).or_default().push(extent);
            }
        }
        Ok(missing)
    }

    /// Gets promises for those of `extents` that have none, all or none.
    pub(super) fn acquire(
        &mut self,
        extents: impl Iterator<Item = u64>,
        neighbours: &mut dyn Neighbours,
    ) -> Result<Got, Lack> {
        let missing = self.missing(extents)?;
        let mut got = Got::default();
        for (vregion, extents) in missing {
            if let Err(lack) = self.acquire_in(vregion, extents, neighbours, &mut got) {
                self.undo(got, neighbours);
                return Err(lack);
            }
        }
        Ok(got)
    }

    fn acquire_in(
        &mut self,
        vregion: VRegionId,
        extents: Vec<u64>,
        neighbours: &mut dyn Neighbours,
        got: &mut Got,
    ) -> Result<(), Lack> {
        if let Some(owner) = self.owners.get(&vregion) {
            let full = |_| Lack::Full(vregion);
            neighbours
                .promise(self.process, owner, &extents)
                .map_err(full)?;
        } else {
            let owner = self.settle_in(vregion, &extents, neighbours)?;
            self.owners.insert(vregion, owner.clone());
            got.placed.push((vregion, owner));
        }
        self.promised.extend(&extents);
        got.promised.push((vregion, extents));
        Ok(())
    }

    /// Finds a component for a vRegion that promises `extents` of it.
    fn settle_in(
        &self,
        vregion: VRegionId,
        extents: &[u64],
        neighbours: &mut dyn Neighbours,
    ) -> Result<NodeInfo, Errno> {
        let bytes = extents.len() as u64 * EXTENT_SIZE;
        let mut not: Vec<NodeId> = Vec::new();
        loop {
            let owner = neighbours.place(self.process, vregion, bytes, &not)?;
            if not.contains(&owner.id) {
                return Err(Errno::ENOMEM);
            }
            if neighbours.promise(self.process, &owner, extents).is_ok() {
                return Ok(owner);
            }
            not.push(owner.id);
        }
    }

    /// Places vRegions of memory without reservation, so that the process
    /// knows whom to ask when it is written. What can't be placed now will be
    /// here.
    pub(super) fn place_only(
        &mut self,
        range: UserRange,
        neighbours: &mut dyn Neighbours,
    ) -> Placed {
        const MOST: usize = 4;
        let (first, last) = (vregions_of(range).start().0, vregions_of(range).end().0);
        let mut placed = Placed::new();
        for vregion in (first..=last).take(MOST).map(VRegionId) {
            if self.owners.contains_key(&vregion) {
                continue;
            }
            let Ok(owner) = neighbours.place(self.process, vregion, EXTENT_SIZE, &[]) else {
                break;
            };
            self.owners.insert(vregion, owner.clone());
            placed.push((vregion, owner));
        }
        placed
    }

    /// Gives back what [`Space::acquire`] got.
    pub(super) fn undo(&mut self, got: Got, neighbours: &mut dyn Neighbours) {
        for (vregion, extents) in got.promised {
            if let Some(owner) = self.owners.get(&vregion) {
                neighbours.release(self.process, owner, &extents);
            }
            for extent in &extents {
                self.promised.remove(extent);
            }
        }
        for (vregion, _) in got.placed {
            self.owners.remove(&vregion);
        }
    }

    /// After a change in `range`: gives back promises that nothing needs any
    /// more, and with `loose` also what may have been committed without one.
    pub(super) fn settle(
        &mut self,
        range: UserRange,
        loose: bool,
        neighbours: &mut dyn Neighbours,
    ) {
        let idle = |n: &u64| !self.layout.may_hold_pages(*n);
        let owners: Vec<(VRegionId, NodeInfo)> = self
            .owners
            .range(vregions_of(range))
            .map(|(v, o)| (*v, o.clone()))
            .collect();
        for (vregion, owner) in owners {
            let (of, touched) = (extents_of(vregion), range.extents());
            let part = of.start.max(touched.start)..of.end.min(touched.end);
            let gone: Vec<u64> = match loose {
                true => part.filter(idle).collect(),
                false => self.promised.range(part).copied().filter(idle).collect(),
            };
            if !gone.is_empty() {
                neighbours.release(self.process, &owner, &gone);
                for extent in &gone {
                    self.promised.remove(extent);
                }
            }
        }
    }

    /// The lowest vRegion of `range` that is known to be full, as the address
    /// below which to search on.
    pub(super) fn below_full(range: UserRange, full: &[VRegionId]) -> Option<UserAddr> {
        let lowest = full
            .iter()
            .filter(|v| vregions_of(range).contains(v))
            .min()?;
        Some(UserAddr(u64::from(lowest.0) * VREGION_SIZE))
    }
}
