//! mremap(2).

use super::ops::MapRequest;
use super::shared::is_shared_file;
use super::{Memory, Scratch};
use crate::fatal;
use crate::stats::Counters;
use aspace::VmaBacking;
use proto::Errno;
use proto::addr::{PAGE_SIZE, UserAddr, UserRange};
use proto::mem::{Backing, MapFlags, Prot, SpaceDone, SpaceOp};

impl Memory {
    /// mremap(2). In place where that goes; else the bytes are copied to a new
    /// mapping through the cache.
    ///
    /// # Errors
    /// As mremap(2).
    pub(crate) fn remap(
        &self,
        old: UserRange,
        new_len: u64,
        may_move: bool,
        to: Option<UserAddr>,
        me: &mut Scratch,
        counters: &Counters,
    ) -> Result<UserAddr, Errno> {
        let attributes = {
            let space = self.space();
            let vma = space.find(old.start()).ok_or(Errno::EFAULT)?;
            if !vma.range.contains_range(old) {
                return Err(Errno::EFAULT);
            }
            vma.clone()
        };
        if to.is_none() {
            match self.resize(old, new_len, me, counters) {
                Err(Errno::ENOMEM) if may_move => {}
                other => return other,
            }
        }
        let backing = match &attributes.backing {
            VmaBacking::Anonymous => Backing::Anonymous,
            VmaBacking::File { file, offset } => Backing::File {
                file: (**file).clone(),
                offset: offset + (old.start().0 - attributes.range.start().0),
            },
        };
        let keep = MapFlags(attributes.flags.0 & (MapFlags::SHARED.0 | MapFlags::NORESERVE.0));
        let place = if to.is_some() {
            MapFlags::FIXED
        } else {
            MapFlags::default()
        };
        let request = MapRequest {
            addr: to.unwrap_or_default(),
            len: new_len,
            prot: attributes.prot.with(Prot::READ_WRITE),
            flags: keep.with(place),
            backing,
        };
        let new = self.map(&request, me, counters)?;
        if !is_shared_file(&attributes) {
            self.copy_touched(old, new, me, counters)?;
        }
        if request.prot != attributes.prot {
            self.change_protection(new, attributes.prot)?;
        }
        self.unmap(old, me, counters)?;
        Ok(new.start())
    }

    /// Grows or shrinks a mapping where it is.
    fn resize(
        &self,
        old: UserRange,
        new_len: u64,
        me: &mut Scratch,
        counters: &Counters,
    ) -> Result<UserAddr, Errno> {
        let new = UserRange::new(old.start(), new_len).ok_or(Errno::EINVAL)?;
        if new.len() == old.len() {
            return Ok(old.start());
        }
        if new.len() < old.len() {
            if let Some(tail) = UserRange::between(new.end(), old.end()) {
                self.unmap(tail, me, counters)?;
            }
            return Ok(old.start());
        }
        let mut changes = self.begin_change();
        let op = SpaceOp::Remap {
            old,
            new_len: new.len(),
            may_move: false,
            to: None,
        };
        let SpaceDone::Mapped { range, .. } = self.ask_home(&mut changes, op)? else {
            return Err(Errno::EPROTO);
        };
        let mut space = self.space_mut();
        self.settle_edges(&space, range, me, counters);
        if space.remap(old, new.len(), false, None) != Ok(range) {
            fatal::end(&format!(
                "the replica of the address space differs at {range}"
            ));
        }
        let prot = space.find(old.start()).map_or(Prot::NONE, |v| v.prot);
        let Some(grown) = UserRange::between(old.end(), range.end()) else {
            return Err(Errno::EPROTO);
        };
        self.map_host(grown, prot)?;
        Ok(range.start())
    }

    /// Copies the pages of `old` that have been touched to `new`.
    fn copy_touched(
        &self,
        old: UserRange,
        new: UserRange,
        me: &mut Scratch,
        counters: &Counters,
    ) -> Result<(), Errno> {
        let mut page = vec![0; PAGE_SIZE as usize];
        for offset in (0..old.len().min(new.len())).step_by(PAGE_SIZE as usize) {
            let from = UserAddr(old.start().0 + offset);
            if !self.pages.is_touched(from) {
                continue;
            }
            let copied = self.copy_in(from, &mut page, me, counters);
            let to = UserAddr(new.start().0 + offset);
            if copied != page.len() || self.copy_out(to, &page, me, counters) != page.len() {
                return Err(Errno::EFAULT);
            }
        }
        Ok(())
    }
}
