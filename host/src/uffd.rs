//! userfaultfd(2) in SIGBUS mode: the faulting thread is told by a signal and
//! fills its own page (see ioctl_userfaultfd(2)).

use crate::sys::{self, Errno};
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};

const UFFD_API: u64 = 0xAA;
const UFFD_USER_MODE_ONLY: usize = 1;

const UFFDIO_API: usize = 0xC018_AA3F;
const UFFDIO_REGISTER: usize = 0xC020_AA00;
const UFFDIO_UNREGISTER: usize = 0x8010_AA01;
const UFFDIO_COPY: usize = 0xC028_AA03;
const UFFDIO_ZEROPAGE: usize = 0xC020_AA04;
const UFFDIO_WRITEPROTECT: usize = 0xC018_AA06;

const REGISTER_MODE_MISSING: u64 = 1;
const REGISTER_MODE_WP: u64 = 2;
const COPY_MODE_DONTWAKE: u64 = 1;
const COPY_MODE_WP: u64 = 2;
const ZEROPAGE_MODE_DONTWAKE: u64 = 1;
const WRITEPROTECT_MODE_WP: u64 = 1;
const WRITEPROTECT_MODE_DONTWAKE: u64 = 2;

/// What a kernel's userfaultfd can do (`UFFD_FEATURE_*` bits).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features(pub u64);

impl Features {
    /// Write-protect faults (`UFFD_FEATURE_PAGEFAULT_FLAG_WP`, 5.7).
    pub const WP: Features = Features(1 << 0);
    /// Faults as signals (`UFFD_FEATURE_SIGBUS`, 4.14).
    pub const SIGBUS: Features = Features(1 << 7);
    /// Write-protected pages never populated (`UFFD_FEATURE_WP_UNPOPULATED`, 6.4).
    pub const WP_UNPOPULATED: Features = Features(1 << 13);
    /// `UFFDIO_POISON` (6.6).
    pub const POISON: Features = Features(1 << 14);
    /// Write-protect faults resolved by the kernel (`UFFD_FEATURE_WP_ASYNC`, 6.7).
    pub const WP_ASYNC: Features = Features(1 << 15);
    /// `UFFDIO_MOVE` (6.8).
    pub const MOVE: Features = Features(1 << 16);

    /// Whether all bits of `other` are there.
    #[must_use]
    pub fn has(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A userfaultfd of this process.
#[derive(Debug)]
pub struct Uffd {
    fd: OwnedFd,
    features: Features,
}

impl Uffd {
    /// Opens one with exactly the `wanted` features on. User-mode faults only,
    /// so no privilege is needed.
    ///
    /// # Errors
    /// `ENOSYS` without CONFIG_USERFAULTFD, `EPERM` where a seccomp filter
    /// forbids it, `EINVAL` where the kernel lacks a wanted feature.
    pub fn open(wanted: Features) -> Result<Uffd, Errno> {
        let flags = libc::O_CLOEXEC as usize | libc::O_NONBLOCK as usize | UFFD_USER_MODE_ONLY;
        // SAFETY: userfaultfd(2) takes flags alone.
        let raw = unsafe {
            sys::plain(
                linux_raw_sys::general::__NR_userfaultfd,
                [flags, 0, 0, 0, 0, 0],
            )
        }?;
        let raw = i32::try_from(raw).map_err(|_| Errno(libc::EBADF))?;
        // SAFETY: the kernel has just given us this descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let mut uffd = Uffd {
            fd,
            features: Features(0),
        };
        let mut api = [UFFD_API, wanted.0, 0u64];
        uffd.ioctl(UFFDIO_API, &mut api)?;
        uffd.features = Features(api[1]);
        Ok(uffd)
    }

    /// What the kernel can do, wanted or not.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// The descriptor moved out of the program's way; see [`crate::descriptor::raise`].
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn raised(self, floor: i32) -> Result<Uffd, Errno> {
        let fd = crate::descriptor::raise(self.fd, floor).map_err(|e| Errno(e.raw_os_error()))?;
        Ok(Uffd {
            fd,
            features: self.features,
        })
    }

    fn ioctl<const N: usize>(&self, request: usize, arg: &mut [u64; N]) -> Result<(), Errno> {
        let fd = self.fd.as_raw_fd() as usize;
        let arg = std::ptr::from_mut(arg) as usize;
        // SAFETY: each request is used with the array of its structure's size.
        unsafe {
            sys::plain(
                linux_raw_sys::general::__NR_ioctl,
                [fd, request, arg, 0, 0, 0],
            )
        }?;
        Ok(())
    }

    /// Takes over the faults of `[start, start + len)`, missing pages and,
    /// where `write_protect`, writes to protected ones.
    ///
    /// # Errors
    /// `EINVAL` where the range is not mapped, private and anonymous.
    pub fn register(&self, start: u64, len: u64, write_protect: bool) -> Result<(), Errno> {
        let mode = REGISTER_MODE_MISSING | if write_protect { REGISTER_MODE_WP } else { 0 };
        self.ioctl(UFFDIO_REGISTER, &mut [start, len, mode, 0])
    }

    /// Gives the faults of the range back to the kernel.
    ///
    /// # Errors
    /// `EINVAL` where the range can't be one of ours.
    pub fn unregister(&self, start: u64, len: u64) -> Result<(), Errno> {
        self.ioctl(UFFDIO_UNREGISTER, &mut [start, len])
    }

    /// Fills absent pages `[dst, dst + src.len())` atomically from `src`; with
    /// `write_protect`, their next write faults. Returns the bytes filled: less
    /// than asked where a page was present already (see the `Err` of the next).
    ///
    /// # Errors
    /// `EEXIST`: the first page is present. `ENOENT`: the range is not one
    /// registered mapping. `ENOMEM`: the host is out of memory.
    pub fn copy(&self, dst: u64, src: &[u8], write_protect: bool) -> Result<u64, Errno> {
        // SAFETY: a slice is readable for its length.
        unsafe { self.copy_raw(dst, src.as_ptr(), src.len() as u64, write_protect) }
    }

    /// As [`Uffd::copy`], from memory of this process given by address.
    ///
    /// # Safety
    /// `src` must be mapped for `len` bytes (what it holds may change: the
    /// kernel copies).
    ///
    /// # Errors
    /// As for [`Uffd::copy`].
    pub unsafe fn copy_raw(
        &self,
        dst: u64,
        src: *const u8,
        len: u64,
        write_protect: bool,
    ) -> Result<u64, Errno> {
        let mode = COPY_MODE_DONTWAKE | if write_protect { COPY_MODE_WP } else { 0 };
        let mut arg = [dst, src as u64, len, mode, 0];
        let result = loop {
            match self.ioctl(UFFDIO_COPY, &mut arg) {
                Err(Errno(libc::EAGAIN)) if arg[4].cast_signed() <= 0 => {}
                other => break other,
            }
        };
        partial(result, arg[4], len)
    }

    /// Maps the kernel's page of zeros into absent pages.
    ///
    /// # Errors
    /// As for [`Uffd::copy`].
    pub fn zeropage(&self, start: u64, len: u64) -> Result<u64, Errno> {
        let mut arg = [start, len, ZEROPAGE_MODE_DONTWAKE, 0];
        let result = loop {
            match self.ioctl(UFFDIO_ZEROPAGE, &mut arg) {
                Err(Errno(libc::EAGAIN)) if arg[3].cast_signed() <= 0 => {}
                other => break other,
            }
        };
        partial(result, arg[3], len)
    }

    /// Makes the next write to present pages of the range fault (`on`), or
    /// lets writes through again.
    ///
    /// # Errors
    /// `ENOENT`: the range is not registered for write protection.
    pub fn write_protect(&self, start: u64, len: u64, on: bool) -> Result<(), Errno> {
        // Both bits together are invalid: waking belongs to lifting alone.
        let mode = if on {
            WRITEPROTECT_MODE_WP
        } else {
            WRITEPROTECT_MODE_DONTWAKE
        };
        loop {
            match self.ioctl(UFFDIO_WRITEPROTECT, &mut [start, len, mode]) {
                Err(Errno(libc::EAGAIN)) => {}
                other => return other,
            }
        }
    }
}

/// The kernel reports progress in the structure: bytes done, or -errno.
fn partial(result: Result<(), Errno>, done: u64, len: u64) -> Result<u64, Errno> {
    match result {
        Ok(()) => Ok(len),
        Err(e) if e.0 == libc::EAGAIN && done.cast_signed() > 0 => Ok(done),
        Err(e) => Err(e),
    }
}
