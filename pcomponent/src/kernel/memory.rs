//! The address space.

use super::Kernel;
use crate::memory::MapRequest;
use abi_linux::kernel::{MemoryOps, MmapRequest};
use proto::Errno;
use proto::addr::{UserAddr, UserRange};
use proto::mem::{MapFlags, Prot};

impl Kernel<'_> {
    /// Stubs of rewritten system calls are not the program's to change.
    fn leave_stubs(&self, range: UserRange) -> Result<(), Errno> {
        if self.process.sites.touches(range) {
            Err(Errno::ENOMEM)
        } else {
            Ok(())
        }
    }
}

impl MemoryOps for Kernel<'_> {
    fn map(&self, request: &MmapRequest) -> Result<UserAddr, Errno> {
        if request.flags.has(MapFlags::FIXED)
            && let Some(range) = UserRange::new(request.addr, request.len)
        {
            self.leave_stubs(range)?;
        }
        let wanted = MapRequest {
            addr: request.addr,
            len: request.len,
            prot: request.prot,
            flags: request.flags,
            backing: request.backing.clone(),
        };
        let me = &mut self.task.scratch.borrow_mut();
        Ok(self
            .process
            .memory
            .map(&wanted, me, &self.task.counters)?
            .start())
    }

    fn unmap(&self, range: UserRange) -> Result<(), Errno> {
        self.leave_stubs(range)?;
        let me = &mut self.task.scratch.borrow_mut();
        self.process.memory.unmap(range, me, &self.task.counters)
    }

    fn protect(&self, range: UserRange, prot: Prot) -> Result<(), Errno> {
        self.leave_stubs(range)?;
        let me = &mut self.task.scratch.borrow_mut();
        let memory = &self.process.memory;
        memory.protect(range, prot, me, &self.task.counters)
    }

    fn remap(
        &self,
        old: UserRange,
        new_len: u64,
        may_move: bool,
        to: Option<UserAddr>,
    ) -> Result<UserAddr, Errno> {
        self.leave_stubs(old)?;
        if let Some(range) = to.and_then(|to| UserRange::new(to, new_len)) {
            self.leave_stubs(range)?;
        }
        let me = &mut self.task.scratch.borrow_mut();
        self.process
            .memory
            .remap(old, new_len, may_move, to, me, &self.task.counters)
    }

    fn brk(&self, addr: UserAddr) -> UserAddr {
        let me = &mut self.task.scratch.borrow_mut();
        self.process.memory.brk(addr, me, &self.task.counters)
    }

    fn discard(&self, range: UserRange) -> Result<(), Errno> {
        self.leave_stubs(range)?;
        let me = &mut self.task.scratch.borrow_mut();
        self.process.memory.discard(range, me, &self.task.counters)
    }

    fn will_need(&self, _range: UserRange) {
        // A hint: fetching ahead of use is left to the streams of misses.
    }

    fn sync_range(&self, range: UserRange, wait: bool) -> Result<(), Errno> {
        let me = &mut self.task.scratch.borrow_mut();
        self.process
            .memory
            .sync(range, wait, me, &self.task.counters)
    }

    fn residency(&self, range: UserRange) -> Result<Vec<bool>, Errno> {
        if !self.is_mapped(range) {
            return Err(Errno::ENOMEM);
        }
        Ok(self.process.memory.residency(range))
    }

    fn is_mapped(&self, range: UserRange) -> bool {
        self.process.memory.space().is_mapped(range)
    }
}
