//! What `abi-linux` asks of the processor component: the context of one thread
//! of a program, family by family.

mod futex;
mod info;
mod memory;
mod places;
mod shared;
mod signals;
mod threads;

pub(crate) use places::Places;
pub(crate) use shared::{Shared, image_path};

use crate::files::RemoteFile;
use crate::task::{Process, Task};
use abi_linux::ProcessState;
use abi_linux::kernel::UserMemory;
use proto::Errno;
use proto::addr::UserAddr;
use std::cell::RefCell;

/// One thread of the program, in a system call.
pub(crate) struct Kernel<'a> {
    pub(crate) process: &'a Process,
    pub(crate) task: &'a Task,
}

impl<'a> Kernel<'a> {
    /// The context of `task`.
    pub(crate) fn new(process: &'a Process, task: &'a Task) -> Kernel<'a> {
        Kernel { process, task }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.process.kernel
    }
}

impl Kernel<'_> {
    /// As [`UserMemory::copy_out`], from memory given by address.
    ///
    /// # Safety
    /// `src` must be mapped for `len` bytes.
    pub(crate) unsafe fn copy_out_raw(&self, at: UserAddr, src: *const u8, len: usize) -> usize {
        let me = &mut self.task.scratch.borrow_mut();
        let counters = &self.task.counters;
        // SAFETY: the caller's.
        unsafe { self.process.memory.copy_out_raw(at, src, len, me, counters) }
    }
}

impl UserMemory for Kernel<'_> {
    fn copy_in(&self, at: UserAddr, dst: &mut [u8]) -> usize {
        self.process.copy_in(self.task, at, dst)
    }

    fn copy_out(&self, at: UserAddr, src: &[u8]) -> usize {
        self.process.copy_out(self.task, at, src)
    }

    fn writable(&self, at: UserAddr, len: usize) -> usize {
        self.process.memory.writable(at, len)
    }

    fn store_word(&self, at: UserAddr, value: u32) -> Result<(), Errno> {
        let me = &mut self.task.scratch.borrow_mut();
        self.process
            .memory
            .store32(at, value, me, &self.task.counters)
    }
}

impl abi_linux::Kernel for Kernel<'_> {
    fn process(&self) -> &ProcessState<RemoteFile> {
        &self.shared().state
    }

    fn bounce(&self) -> &RefCell<Vec<u8>> {
        &self.task.bounce
    }

    fn unimplemented(&self, name: &'static str) {
        self.shared().unimplemented(name);
    }
}
