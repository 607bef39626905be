//! Following the authority.

use crate::space::AddressSpace;
use proto::Errno;
use proto::addr::{UserAddr, UserRange};
use proto::mem::{MapFlags, SpaceDone, SpaceOp};

impl AddressSpace {
    /// Applies to a replica an operation that the authority did and answered
    /// with `done`. A Protect that the authority answered with `ENOMEM` for a
    /// hole is followed with [`AddressSpace::protect`].
    ///
    /// # Errors
    /// `EPROTO`: the answer does not fit the operation, or the replica comes
    /// to another end than the authority. It is then of no more use.
    pub fn follow(&mut self, op: &SpaceOp, done: &SpaceDone) -> Result<(), Errno> {
        match (op, done) {
            (
                SpaceOp::Map {
                    len: _,
                    prot,
                    flags,
                    backing,
                    ..
                },
                SpaceDone::Mapped { range, .. },
            ) => {
                let flags = flags.without(MapFlags::NOREPLACE).with(MapFlags::FIXED);
                let at = self.map(range.start(), range.len(), *prot, flags, backing.into());
                same(at.ok(), *range)
            }
            (SpaceOp::Remap { old, new_len, .. }, SpaceDone::Mapped { range, .. }) => {
                let to = Some(range.start()).filter(|at| *at != old.start());
                let at = self.remap(*old, *new_len, to.is_some(), to);
                same(at.ok(), *range)
            }
            (SpaceOp::Brk { addr: _ }, SpaceDone::Brk { addr, .. }) => {
                let unset = *addr == UserAddr(0) && !self.has_heap();
                if unset || self.brk(*addr) == *addr {
                    Ok(())
                } else {
                    Err(Errno::EPROTO)
                }
            }
            (SpaceOp::Unmap { range }, SpaceDone::Done { .. }) => {
                self.unmap(*range);
                Ok(())
            }
            (SpaceOp::Protect { range, prot }, SpaceDone::Done { .. }) => {
                self.protect(*range, *prot).map_err(|_| Errno::EPROTO)
            }
            (SpaceOp::SetBrk { addr }, SpaceDone::Done { .. }) => {
                self.set_brk(*addr);
                Ok(())
            }
            (SpaceOp::Discard { .. }, SpaceDone::Done { .. }) => Ok(()),
            _ => Err(Errno::EPROTO),
        }
    }
}

fn same(ours: Option<UserRange>, theirs: UserRange) -> Result<(), Errno> {
    if ours == Some(theirs) {
        Ok(())
    } else {
        Err(Errno::EPROTO)
    }
}
