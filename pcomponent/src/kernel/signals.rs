//! Signals.

use super::Kernel;
use crate::task::UserAction;
use abi_linux::kernel::SignalOps;
use abi_linux::layout::{SigAction, StackT};
use host::signal::{self, SigSet};
use proto::Errno;

impl SignalOps for Kernel<'_> {
    fn sigaction(&self, signo: i32, new: Option<SigAction>) -> Result<SigAction, Errno> {
        let signals = &self.process.signals;
        let old = match new {
            Some(a) => signals.set(
                signo,
                UserAction {
                    handler: a.handler,
                    flags: a.flags,
                    restorer: a.restorer,
                    mask: SigSet(a.mask),
                },
            )?,
            None if (1..=64).contains(&signo) => signals.action(signo),
            None => return Err(Errno::EINVAL),
        };
        Ok(SigAction {
            handler: old.handler,
            flags: old.flags,
            restorer: old.restorer,
            mask: old.mask.0,
        })
    }

    fn mask(&self) -> u64 {
        self.task.mask().0
    }

    fn set_mask(&self, mask: u64) {
        self.task.set_mask(SigSet(mask));
    }

    fn set_mask_for_call(&self, mask: u64) {
        self.task.set_mask_for_call(SigSet(mask));
    }

    fn altstack(&self) -> StackT {
        let s = self.task.altstack();
        let on = if self.task.on_altstack() { 1 } else { 0 };
        StackT {
            sp: s.sp,
            flags: s.flags | on,
            pad: 0,
            size: s.size,
        }
    }

    fn set_altstack(&self, stack: StackT) -> Result<(), Errno> {
        if self.task.on_altstack() {
            return Err(Errno::EPERM);
        }
        self.task.set_altstack(signal::StackT {
            sp: stack.sp,
            flags: stack.flags,
            pad: 0,
            size: stack.size,
        });
        Ok(())
    }
}
