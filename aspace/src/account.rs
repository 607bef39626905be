//! Which extents are promised to the process.

use crate::space::AddressSpace;
use crate::vma::Vma;
use proto::addr::{EXTENT_SIZE, UserAddr, UserRange};
use proto::mem::{Prot, SpaceOp};

impl AddressSpace {
    /// The numbers of all extents that must be reserved, ascending: those that
    /// an accounted mapping touches.
    pub fn extents(&self) -> impl Iterator<Item = u64> {
        distinct(self.iter().filter(|vma| vma.accounted).map(|vma| vma.range))
    }

    /// Whether extent `number` must be reserved.
    #[must_use]
    pub fn is_accounted(&self, number: u64) -> bool {
        whole(number).is_some_and(|range| self.overlapping(range).any(|vma| vma.accounted))
    }

    /// Whether pages of extent `number` may live at the component that owns
    /// it: an accounted mapping touches it, or one without reservation.
    #[must_use]
    pub fn may_hold_pages(&self, number: u64) -> bool {
        whole(number).is_some_and(|range| self.overlapping(range).any(Vma::may_hold_pages))
    }

    /// Whether an authority with this layout, which has promised what is
    /// accounted, can't refuse `op`: it is possible, and needs no more promises.
    /// (Where [`AddressSpace::protect`] fails for too many mappings it fails at
    /// both, and changes nothing.)
    #[must_use]
    pub fn is_certain(&self, op: &SpaceOp) -> bool {
        let promised = |number| self.is_accounted(number);
        match op {
            SpaceOp::Unmap { .. } => true,
            SpaceOp::Protect { range, prot } => {
                self.is_mapped(*range) && self.extents_with(*range, *prot).all(promised)
            }
            SpaceOp::Brk { addr } => self
                .plan_brk(*addr)
                .is_some_and(|grown| grown.into_iter().flat_map(UserRange::extents).all(promised)),
            _ => false,
        }
    }

    /// The extents of `range`, ascending, that must be reserved once it has
    /// protection `prot`.
    pub fn extents_with(&self, range: UserRange, prot: Prot) -> impl Iterator<Item = u64> {
        let accounted = self
            .overlapping(range)
            .filter(move |vma| vma.accounted_with(prot));
        distinct(accounted.filter_map(move |vma| vma.range.intersect(range)))
    }
}

/// The extents of ascending ranges, each once.
fn distinct(ranges: impl Iterator<Item = UserRange>) -> impl Iterator<Item = u64> {
    let mut next = 0;
    ranges.flat_map(move |range| {
        let extents = range.extents();
        let from = extents.start.max(next);
        next = next.max(extents.end);
        from..extents.end
    })
}

/// The addresses of extent `number` that lie in the program's window.
fn whole(number: u64) -> Option<UserRange> {
    let start = number
        .checked_mul(EXTENT_SIZE)?
        .max(proto::addr::USER_MIN.0);
    UserRange::between(
        UserAddr(start),
        UserAddr((number + 1).checked_mul(EXTENT_SIZE)?),
    )
}
