//! mremap(2).

use crate::choose::round_up;
use crate::map::fixed;
use crate::space::AddressSpace;
use crate::vma::Vma;
use proto::Errno;
use proto::addr::{UserAddr, UserRange};
use proto::mem::MapFlags;

/// What a remap comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Remapped {
    /// It stays; what is behind the new end goes.
    Shrunk(UserRange),
    /// It stays and gets longer: the whole, with the mapping it becomes.
    Grown(UserRange),
    /// It moves to there.
    Moved(UserRange),
}

impl Remapped {
    /// Where the mapping is afterwards.
    #[must_use]
    pub fn range(&self) -> UserRange {
        let (Remapped::Shrunk(range) | Remapped::Grown(range) | Remapped::Moved(range)) = self;
        *range
    }
}

impl AddressSpace {
    /// mremap(2): shrinks, grows in place, or with `may_move` moves, to `to`
    /// where that is given (what is there goes). The mapping keeps its
    /// attributes.
    ///
    /// # Errors
    /// `EFAULT` (not mapped, or grows or moves and spans several mappings),
    /// `EINVAL` (no length; `to` unaligned, outside the window, overlapping
    /// the old place, or without `may_move`), `ENOMEM` (no room).
    pub fn remap(
        &mut self,
        old: UserRange,
        new_len: u64,
        may_move: bool,
        to: Option<UserAddr>,
    ) -> Result<UserRange, Errno> {
        let plan = self.plan_remap(old, new_len, may_move, to, &|_| None)?;
        let vma = self
            .find(old.start())
            .and_then(|v| v.clipped(old))
            .ok_or(Errno::EFAULT)?;
        match plan {
            Remapped::Shrunk(new) => {
                if let Some(tail) = UserRange::between(new.end(), old.end()) {
                    self.unmap(tail);
                }
            }
            Remapped::Grown(new) => {
                self.unmap(old);
                self.insert(Vma { range: new, ..vma });
            }
            Remapped::Moved(new) => {
                self.unmap(old);
                self.unmap(new);
                self.insert(vma.moved(new));
            }
        }
        Ok(plan.range())
    }

    /// What [`AddressSpace::remap`] would do; nothing is changed. `avoid` as
    /// for [`AddressSpace::choose`].
    ///
    /// # Errors
    /// As [`AddressSpace::remap`].
    pub fn plan_remap(
        &self,
        old: UserRange,
        new_len: u64,
        may_move: bool,
        to: Option<UserAddr>,
        avoid: &dyn Fn(UserRange) -> Option<UserAddr>,
    ) -> Result<Remapped, Errno> {
        let len = round_up(new_len)?;
        let vma = self.find(old.start()).ok_or(Errno::EFAULT)?;
        if let Some(to) = to {
            if !may_move {
                return Err(Errno::EINVAL);
            }
            let new = fixed(to, len).map_err(|_| Errno::EINVAL)?;
            if new.overlaps(old) {
                return Err(Errno::EINVAL);
            }
            return self.movable(vma, old).map(|()| Remapped::Moved(new));
        }
        // Shrinking in place is an munmap, whatever lies in the tail.
        if len <= old.len() {
            let new = UserRange::new(old.start(), len).ok_or(Errno::EINVAL)?;
            return Ok(Remapped::Shrunk(new));
        }
        if !vma.range.contains_range(old) {
            return Err(Errno::EFAULT);
        }
        if let Some(new) = self.growable(vma, old, len) {
            return Ok(Remapped::Grown(new));
        }
        if !may_move {
            return Err(Errno::ENOMEM);
        }
        self.movable(vma, old)?;
        let flags = MapFlags(vma.flags.0 & MapFlags::STACK.0);
        self.choose(len, UserAddr(0), flags, avoid)
            .map(Remapped::Moved)
    }

    /// `old` grown to `len`, where it ends its mapping and what follows is free.
    fn growable(&self, vma: &Vma, old: UserRange, len: u64) -> Option<UserRange> {
        let new = UserRange::new(old.start(), len)?;
        let more = UserRange::between(old.end(), new.end())?;
        let clear = vma.range.end() == old.end() && self.is_clear(more, MapFlags::default());
        clear.then_some(new)
    }

    fn movable(&self, vma: &Vma, old: UserRange) -> Result<(), Errno> {
        if !vma.range.contains_range(old) {
            return Err(Errno::EFAULT);
        }
        // One hole and one mapping more at worst.
        if self.vmas.len() + 2 > self.limit {
            Err(Errno::ENOMEM)
        } else {
            Ok(())
        }
    }
}
