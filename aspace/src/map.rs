//! mmap(2).

use crate::choose::round_up;
use crate::space::AddressSpace;
use crate::vma::{Vma, VmaBacking};
use proto::Errno;
use proto::addr::{PAGE_SIZE, USER_MIN, UserAddr, UserRange};
use proto::mem::{MapFlags, Prot};

impl AddressSpace {
    /// mmap(2): exactly at `addr` with `FIXED` (what was there goes) or
    /// `NOREPLACE`, else where [`AddressSpace::choose`] says.
    ///
    /// # Errors
    /// `EINVAL` (no length, unaligned address or offset), `EEXIST`
    /// (`NOREPLACE`), `EPERM` (below [`USER_MIN`]), `EOVERFLOW` (offset +
    /// length), `ENOMEM` (no room, too many mappings, or outside the window).
    pub fn map(
        &mut self,
        addr: UserAddr,
        len: u64,
        prot: Prot,
        flags: MapFlags,
        backing: VmaBacking,
    ) -> Result<UserRange, Errno> {
        let range = self.plan_map(addr, len, flags, &backing, &|_| None)?;
        self.unmap(range);
        self.insert(Vma::new(range, prot, flags, backing));
        Ok(range)
    }

    /// Where [`AddressSpace::map`] would map; nothing is changed. `avoid` as
    /// for [`AddressSpace::choose`], not asked for fixed addresses.
    ///
    /// # Errors
    /// As [`AddressSpace::map`].
    pub fn plan_map(
        &self,
        addr: UserAddr,
        len: u64,
        flags: MapFlags,
        backing: &VmaBacking,
        avoid: &dyn Fn(UserRange) -> Option<UserAddr>,
    ) -> Result<UserRange, Errno> {
        let len = round_up(len)?;
        check_offset(backing, len)?;
        let noreplace = flags.has(MapFlags::NOREPLACE);
        let range = if noreplace || flags.has(MapFlags::FIXED) {
            let range = fixed(addr, len)?;
            if noreplace && !self.is_free(range) {
                return Err(Errno::EEXIST);
            }
            range
        } else {
            self.choose(len, addr, flags, avoid)?
        };
        if self.vmas.len() >= self.limit {
            return Err(Errno::ENOMEM);
        }
        Ok(range)
    }

    /// Whether [`AddressSpace::map`] of such a mapping is accounted.
    #[must_use]
    pub fn would_account(
        range: UserRange,
        prot: Prot,
        flags: MapFlags,
        backing: &VmaBacking,
    ) -> bool {
        Vma::new(range, prot, flags, backing.clone()).accounted
    }
}

/// The errno of a range at a fixed address that is not one of the window.
pub(crate) fn fixed(addr: UserAddr, len: u64) -> Result<UserRange, Errno> {
    match UserRange::new(addr, len) {
        Some(range) => Ok(range),
        None if !addr.is_aligned(PAGE_SIZE) => Err(Errno::EINVAL),
        None if addr < USER_MIN => Err(Errno::EPERM),
        None => Err(Errno::ENOMEM),
    }
}

fn check_offset(backing: &VmaBacking, len: u64) -> Result<(), Errno> {
    match backing {
        VmaBacking::Anonymous => Ok(()),
        VmaBacking::File { offset, .. } if offset % PAGE_SIZE != 0 => Err(Errno::EINVAL),
        // A file's size is an i64 (off_t).
        VmaBacking::File { offset, .. } => match offset.checked_add(len) {
            Some(end) if i64::try_from(end).is_ok() => Ok(()),
            _ => Err(Errno::EOVERFLOW),
        },
    }
}
