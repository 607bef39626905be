//! `HostOps` of a thread's context.

use super::hostcalls;
use crate::kernel::Kernel;
use abi_linux::HostCall;
use abi_linux::kernel::HostOps;
use proto::Errno;

impl HostOps for Kernel<'_> {
    fn host(&self, call: HostCall<'_>) -> Result<u64, Errno> {
        hostcalls::run(call, self.fd_floor())
    }

    fn reserve(&self, cloexec: bool) -> Result<i32, Errno> {
        hostcalls::reserve(cloexec, self.fd_floor())
    }

    fn descriptors(&self) -> Vec<i32> {
        hostcalls::descriptors(self.fd_floor())
    }

    fn fd_floor(&self) -> i32 {
        self.shared().fd_floor
    }
}
