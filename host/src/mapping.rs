//! mmap(2) and its kin on the program's window. Everything here takes plain
//! addresses of a range that the caller owns: the program's own memory, which
//! no Rust reference ever points into.

use crate::sys::{self, Errno};
use linux_raw_sys::general as nr;

/// Reserves `[start, start + len)` for the program: private, anonymous, no
/// swap accounting, never replacing what is there.
///
/// # Errors
/// `EEXIST` where something is mapped there, `ENOMEM` past the host's limits
/// (`vm.max_map_count`, address space).
pub fn map_private(start: u64, len: u64, prot: i32) -> Result<(), Errno> {
    let flags =
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    let args = [
        start as usize,
        len as usize,
        prot as usize,
        flags as usize,
        usize::MAX,
        0,
    ];
    // SAFETY: MAP_FIXED_NOREPLACE can't disturb a mapping that exists.
    unsafe { sys::plain(nr::__NR_mmap, args) }.map(|_| ())
}

/// Maps personality memory anywhere: `len` bytes, zeroed, read-write, never
/// returned. For stacks and tables that outlive everything.
///
/// # Errors
/// `ENOMEM`.
pub fn map_anywhere(len: usize) -> Result<*mut u8, Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at a place the kernel chooses disturbs nothing.
    let at = unsafe {
        sys::plain(
            nr::__NR_mmap,
            [0, len, prot as usize, flags as usize, usize::MAX, 0],
        )
    }?;
    Ok(at as *mut u8)
}

/// munmap(2).
///
/// # Safety
/// The range must be the program's: nothing of ours points there.
///
/// # Errors
/// `EINVAL`, `ENOMEM` (too many mappings after the split).
pub unsafe fn unmap(start: u64, len: u64) -> Result<(), Errno> {
    // SAFETY: passed on to the caller.
    unsafe { sys::plain(nr::__NR_munmap, [start as usize, len as usize, 0, 0, 0, 0]) }.map(|_| ())
}

/// mprotect(2).
///
/// # Safety
/// As for [`unmap`].
///
/// # Errors
/// `ENOMEM`, `EACCES`.
pub unsafe fn protect(start: u64, len: u64, prot: i32) -> Result<(), Errno> {
    let args = [start as usize, len as usize, prot as usize, 0, 0, 0];
    // SAFETY: passed on to the caller.
    unsafe { sys::plain(nr::__NR_mprotect, args) }.map(|_| ())
}

/// Whether the page at `page` is mapped here (mincore(2) of anonymous memory).
///
/// # Errors
/// `ENOMEM` where nothing can be mapped.
pub fn is_present(page: u64) -> Result<bool, Errno> {
    let mut answer = 0u8;
    let args = [page as usize, 4096, (&raw mut answer) as usize, 0, 0, 0];
    // SAFETY: mincore(2) writes a byte for the one page.
    unsafe { sys::plain(nr::__NR_mincore, args) }?;
    Ok(answer & 1 != 0)
}

/// One range for [`Dropper::drop_pages`]: `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// Gives pages back to the host: madvise(MADV_DONTNEED), in one call for many
/// ranges where the kernel lets a process advise itself (process_madvise(2)
/// with any advice: Linux 6.13).
#[derive(Debug)]
pub struct Dropper {
    pidfd: Option<rustix::fd::OwnedFd>,
}

impl Dropper {
    /// Finds out what the kernel offers; `floor` as for
    /// [`crate::descriptor::raise`].
    #[must_use]
    pub fn new(floor: i32) -> Dropper {
        let pid = rustix::process::getpid();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .ok()
            .and_then(|fd| crate::descriptor::raise(fd, floor).ok());
        let mut dropper = Dropper { pidfd };
        if let Ok(at) = map_anywhere(4096) {
            let probe = [Span {
                start: at as u64,
                len: 4096,
            }];
            // SAFETY: the page is ours, new, and used by nobody.
            if unsafe { dropper.vectored(&probe) }.is_err() {
                dropper.pidfd = None;
            }
            // SAFETY: as above.
            let _ = unsafe { unmap(at as u64, 4096) };
        }
        dropper
    }

    /// Whether one call drops many ranges.
    #[must_use]
    pub fn is_vectored(&self) -> bool {
        self.pidfd.is_some()
    }

    /// Drops the pages of all `spans`.
    ///
    /// # Safety
    /// The ranges must be the program's, their contents saved or forgotten.
    ///
    /// # Errors
    /// `ENOMEM` where a range is not mapped.
    pub unsafe fn drop_pages(&self, spans: &[Span]) -> Result<(), Errno> {
        if self.pidfd.is_some() && spans.len() > 1 {
            // SAFETY: passed on to the caller.
            return unsafe { self.vectored(spans) };
        }
        for span in spans {
            let args = [
                span.start as usize,
                span.len as usize,
                libc::MADV_DONTNEED as usize,
                0,
                0,
                0,
            ];
            // SAFETY: passed on to the caller.
            unsafe { sys::plain(nr::__NR_madvise, args) }?;
        }
        Ok(())
    }

    unsafe fn vectored(&self, spans: &[Span]) -> Result<(), Errno> {
        use rustix::fd::AsRawFd;
        let Some(pidfd) = &self.pidfd else {
            return Err(Errno(libc::ENOSYS));
        };
        let fd = pidfd.as_raw_fd() as usize;
        let mut rest = spans;
        let mut skip = 0; // bytes of rest[0] already done
        while let Some(first) = rest.first().copied() {
            let done = if skip > 0 {
                let part = [Span {
                    start: first.start + skip,
                    len: first.len - skip,
                }];
                // SAFETY: passed on to the caller.
                unsafe { Self::advise(fd, &part) }?
            } else {
                // SAFETY: passed on to the caller.
                unsafe { Self::advise(fd, &rest[..rest.len().min(1024)]) }?
            };
            let mut done = done as u64 + skip;
            while let Some(span) = rest.first() {
                if done < span.len {
                    break;
                }
                done -= span.len;
                rest = &rest[1..];
            }
            skip = done;
        }
        Ok(())
    }

    unsafe fn advise(pidfd: usize, spans: &[Span]) -> Result<usize, Errno> {
        let args = [
            pidfd,
            spans.as_ptr() as usize,
            spans.len(),
            libc::MADV_DONTNEED as usize,
            0,
            0,
        ];
        // SAFETY: Span has iovec's layout; the ranges are the caller's.
        match unsafe { sys::plain(nr::__NR_process_madvise, args) } {
            Ok(0) => Err(Errno(libc::EINVAL)),
            other => other,
        }
    }
}
