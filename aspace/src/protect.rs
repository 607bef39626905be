//! mprotect(2).

use crate::space::AddressSpace;
use proto::Errno;
use proto::addr::{UserAddr, UserRange};
use proto::mem::Prot;

impl AddressSpace {
    /// mprotect(2). Where there is a hole, what lies before it is changed all
    /// the same, as Linux has it.
    ///
    /// # Errors
    /// `ENOMEM`: a hole, or too many mappings after the splits (then nothing
    /// is changed).
    pub fn protect(&mut self, range: UserRange, prot: Prot) -> Result<(), Errno> {
        let part = self.mapped_prefix(range).ok_or(Errno::ENOMEM)?;
        let splits = self.splits(part);
        if splits > 0 && self.vmas.len() + splits > self.limit {
            return Err(Errno::ENOMEM);
        }
        self.split_at(part.start());
        self.split_at(part.end());
        let inside: Vec<UserAddr> = self.overlapping(part).map(|v| v.range.start()).collect();
        for start in inside {
            if let Some(vma) = self.vmas.get_mut(&start) {
                vma.set_prot(prot);
            }
        }
        self.merge_around(part);
        if part == range {
            Ok(())
        } else {
            Err(Errno::ENOMEM)
        }
    }
}
