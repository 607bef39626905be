//! Threads.

use super::Kernel;
use abi_linux::kernel::{FutexOp, ThreadOps};
use proto::Errno;
use proto::addr::UserAddr;

impl ThreadOps for Kernel<'_> {
    fn pid(&self) -> i32 {
        rustix::process::getpid().as_raw_nonzero().get()
    }

    fn ppid(&self) -> i32 {
        // The manager, which the program can't know, stands for init.
        1
    }

    fn tid(&self) -> i32 {
        self.task.tid
    }

    fn threads(&self) -> Vec<i32> {
        self.process.threads()
    }

    fn set_clear_child_tid(&self, at: UserAddr) {
        self.task.clear_child_tid.set(at.0);
    }

    fn set_fs(&self, base: u64) {
        self.task.set_user_fs(base);
    }

    fn fs(&self) -> u64 {
        self.task.user_fs()
    }

    fn set_robust_list(&self, head: UserAddr, len: u64) {
        self.task.robust_list.set((head.0, len));
    }

    fn robust_list(&self) -> (UserAddr, u64) {
        let (head, len) = self.task.robust_list.get();
        (UserAddr(head), len)
    }

    fn futex(&self, op: &FutexOp) -> Result<u64, Errno> {
        super::futex::futex(self.process, self.task, op)
    }
}
