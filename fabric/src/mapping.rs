//! Shared mappings of memfds: the memory that one-sided operations of the shm
//! backend go to. With [`crate::verbs`], and `memory::staging` that copies from one
//! to another, the only unsafe code of this crate.
//!
//! Other processes read and write this memory at any time. It is only ever
//! copied from and to (no reference to it is made, but to atomics), and what
//! was copied out is untrusted.

use crate::FabricError;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Bytes of a huge page: what one entry of the second level of page tables maps.
pub(crate) const HUGE: usize = 2 << 20;
/// Where memfds of ordinary pages live (statfs(2), `TMPFS_MAGIC`).
const TMPFS: rustix::fs::FsWord = 0x0102_1994;
/// From Linux's `mman-common.h`; not all C libraries have it.
const MADV_COLLAPSE: libc::c_int = 25;

/// A mapping of the whole of a memfd. Unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    writable: bool,
}

// SAFETY: a Mapping owns address space, which belongs to the process and not
// to a thread; its bytes are only reached by copies and atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `fd`, a memfd that can't shrink below
    /// (see [`is_safe_to_map`] for one that came from a peer).
    pub(crate) fn new(fd: impl AsFd, len: u64, writable: bool) -> Result<Mapping, FabricError> {
        let failed = |why: String| FabricError::local("mapping registered memory", why);
        let len = usize::try_from(len).map_err(|e| failed(e.to_string()))?;
        let prot = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        let start = if len < HUGE {
            // SAFETY: a new mapping at an address the kernel chooses touches no
            // memory that exists.
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, flags, fd, 0) }
        } else {
            map_aligned(len, prot, flags, fd.as_fd())
        };
        let start = start.map_err(|e| failed(format!("{len} bytes: {e}")))?;
        let start = NonNull::new(start.cast()).ok_or_else(|| failed("at 0".to_owned()))?;
        Ok(Mapping {
            start,
            len,
            writable,
        })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len as u64
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// The address of `len` bytes at `offset`; `None` outside.
    pub(crate) fn at(&self, offset: u64, len: u64) -> Option<*mut u8> {
        let inside = offset.checked_add(len)? <= self.len();
        inside.then(|| self.start.as_ptr().wrapping_add(offset as usize))
    }

    /// Copies out; false outside.
    pub(crate) fn read(&self, offset: u64, dst: &mut [u8]) -> bool {
        let Some(from) = self.at(offset, dst.len() as u64) else {
            return false;
        };
        // SAFETY: `at` checked that the source lies in the mapping, which
        // lives as long as self; `dst` is ours, so they don't overlap.
        unsafe { std::ptr::copy_nonoverlapping(from, dst.as_mut_ptr(), dst.len()) };
        true
    }

    /// Copies in; false outside or where it must not be written.
    pub(crate) fn write(&self, offset: u64, src: &[u8]) -> bool {
        let Some(to) = self.at(offset, src.len() as u64).filter(|_| self.writable) else {
            return false;
        };
        // SAFETY: as for `read`, and the mapping is writable.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), to, src.len()) };
        true
    }

    /// Copies in from memory that others may be writing; false outside or where
    /// it must not be written.
    ///
    /// # Safety
    /// `src` is mapped for `len` bytes, all outside of this mapping.
    pub(crate) unsafe fn copy(&self, offset: u64, src: *const u8, len: usize) -> bool {
        let Some(to) = self.at(offset, len as u64).filter(|_| self.writable) else {
            return false;
        };
        // SAFETY: the target lies in the mapping, which is writable; the caller
        // answers for the source.
        unsafe { std::ptr::copy_nonoverlapping(src, to, len) };
        true
    }

    /// Reads what a file has from `from` on into `len` bytes at `offset`, as
    /// preadv2(2) does it under `flags`.
    pub(crate) fn read_file(
        &self,
        offset: u64,
        len: usize,
        file: BorrowedFd<'_>,
        from: u64,
        flags: libc::c_int,
    ) -> Result<usize, Errno> {
        let to = self.at(offset, len as u64).filter(|_| self.writable);
        let part = libc::iovec {
            iov_base: to.ok_or(Errno::FAULT)?.cast(),
            iov_len: len,
        };
        let from = from.try_into().map_err(|_| Errno::INVAL)?;
        // SAFETY: the kernel writes to these `len` bytes of the mapping alone.
        let n = unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, from, flags) };
        // As in `punch`.
        compiler_fence(Ordering::SeqCst);
        usize::try_from(n).map_err(|_| last_error())
    }

    /// `N` words at `offset`, a multiple of 8; `None` outside.
    pub(crate) fn words<const N: usize>(&self, offset: u64) -> Option<&[AtomicU64; N]> {
        let at = self
            .at(offset, 8 * N as u64)
            .filter(|_| offset.is_multiple_of(8))?;
        // SAFETY: inside the mapping (which starts at a page), aligned, alive
        // as long as self; atomics may be changed by others at any time. Those
        // of a read-only mapping are only loaded.
        Some(unsafe { &*at.cast::<[AtomicU64; N]>() })
    }

    /// Asks for huge pages where the system lets shared memory have them: one
    /// entry of page table and TLB for 2 MiB, here and in whoever else maps
    /// them. All of the mapping at once, which so stays one for the kernel.
    pub(crate) fn prefer_huge_pages(&self) {
        let _ = self.advise(0, self.len(), Advice::LinuxHugepage);
    }

    /// Maps the pages of a range at once: one call instead of a fault for each.
    /// Those that do not exist yet are made.
    pub(crate) fn populate(&self, offset: u64, len: u64) -> Result<(), Errno> {
        // Of shared memory a load maps as a store does, with its neighbours.
        self.advise(offset, len, Advice::LinuxPopulateRead)
    }

    /// Makes the 2 MiB at `offset` a huge page and maps it; false where the
    /// system has none. It need not give huge pages to those who merely touch
    /// shared memory (`shmem_enabled`): madvise(2), `MADV_COLLAPSE`, Linux 6.1.
    pub(crate) fn collapse(&self, offset: u64) -> bool {
        let huge = HUGE as u64;
        // It collapses what has a page.
        let ready = offset.is_multiple_of(huge) && self.populate(offset, PAGE).is_ok();
        let start = self.at(offset, huge).filter(|_| ready);
        start.is_some_and(|start| {
            // SAFETY: inside the mapping; contents stay what they are.
            unsafe { libc::madvise(start.cast(), HUGE, MADV_COLLAPSE) == 0 }
        })
    }

    /// Gives advice about a range, rounded out to its pages.
    fn advise(&self, offset: u64, len: u64, advice: Advice) -> Result<(), Errno> {
        let into = offset % PAGE;
        let start = self.at(offset - into, len + into).ok_or(Errno::INVAL)?;
        // SAFETY: inside the mapping, which starts at a page; none of the advice
        // of this module changes contents.
        unsafe { rustix::mm::madvise(start.cast(), (len + into) as usize, advice) }
    }
}

/// Maps `fd` so that its huge pages can be mapped whole: at a multiple of their
/// size.
fn map_aligned(
    len: usize,
    prot: ProtFlags,
    flags: MapFlags,
    fd: BorrowedFd<'_>,
) -> Result<*mut c_void, Errno> {
    let room = len.checked_add(HUGE).ok_or(Errno::NOMEM)?;
    let none = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: new mappings touch no memory that exists: the first at an address
    // the kernel chooses, the other inside it. What is left of the first on
    // both sides is unmapped, and nobody else knows of it.
    unsafe {
        let ends = ProtFlags::empty();
        let low = rustix::mm::mmap_anonymous(std::ptr::null_mut(), room, ends, none)?;
        let before = low.cast::<u8>().align_offset(HUGE).min(HUGE);
        let start = low.wrapping_byte_add(before);
        let mapped = rustix::mm::mmap(start, len, prot, flags | MapFlags::FIXED, fd, 0);
        if mapped.is_err() {
            let _ = rustix::mm::munmap(low, room);
            return mapped;
        }
        let (high, after) = (start.wrapping_byte_add(len), HUGE - before);
        for (at, len) in [(low, before), (high, after)] {
            if len > 0 {
                // The end of a mapping is a page's; it stays reserved at worst.
                let _ = rustix::mm::munmap(at, len);
            }
        }
        mapped
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by mmap with this length, and nothing refers to it any
        // more: addresses handed out are documented to end with it.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A zeroed, sparse memfd of fixed length: nobody who is handed it can shrink
/// it under those who have mapped it.
pub(crate) fn memfd(name: &str, len: u64) -> Result<OwnedFd, FabricError> {
    let failed = |e: Errno| FabricError::local(&format!("memory {name:?} of {len} bytes"), e);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create(name, flags).map_err(failed)?;
    rustix::fs::ftruncate(&fd, len).map_err(failed)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&fd, seals).map_err(failed)?;
    Ok(fd)
}

/// Another descriptor of a memfd, one that can't be written through.
pub(crate) fn read_only(fd: &OwnedFd) -> Result<OwnedFd, FabricError> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| FabricError::local("a read-only descriptor (is /proc mounted?)", e))
}

/// Whether mapping `len` bytes of a memfd that came from a peer can't fault
/// later: it is that long and can't shrink.
pub(crate) fn is_safe_to_map(fd: &OwnedFd, len: u64) -> bool {
    let seals = rustix::fs::fcntl_get_seals(fd).unwrap_or(SealFlags::empty());
    let real = rustix::fs::fstat(fd).map_or(0, |s| s.st_size.unsigned_abs());
    // Not of hugetlbfs, whose holes fault where its pool is empty.
    let ordinary = rustix::fs::fstatfs(fd).is_ok_and(|s| s.f_type == TMPFS);
    len > 0 && len <= real && seals.contains(SealFlags::SHRINK) && ordinary
}

/// Writes to a memfd at `offset`, making the pages that are not there: faster
/// than through a mapping, for they are not zeroed first.
pub(crate) fn store(fd: &OwnedFd, offset: u64, src: &[u8]) -> Result<(), Errno> {
    // SAFETY: the source is a slice.
    unsafe { store_from(fd, offset, src.as_ptr(), src.len()) }
}

/// As [`store`], from memory that others may be writing.
///
/// # Safety
/// `src` is mapped for `len` bytes.
pub(crate) unsafe fn store_from(
    fd: &OwnedFd,
    offset: u64,
    src: *const u8,
    len: usize,
) -> Result<(), Errno> {
    let mut done = 0;
    while done < len {
        let at = (offset + done as u64).try_into().map_err(|_| Errno::FBIG)?;
        let from = src.wrapping_add(done).cast();
        // SAFETY: `done < len`, for which the caller answers; the kernel reads
        // at most to the end.
        let n = unsafe { libc::pwrite(fd.as_raw_fd(), from, len - done, at) };
        match usize::try_from(n) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => done += n,
            Err(_) => match last_error() {
                Errno::INTR => {}
                e => return Err(e),
            },
        }
    }
    // As in `punch`.
    compiler_fence(Ordering::SeqCst);
    Ok(())
}

/// What the last call of libc ended with.
fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Zeros a range; whole pages of it are given back.
pub(crate) fn punch(fd: &OwnedFd, range: &Range<u64>) -> Result<(), Errno> {
    if range.is_empty() {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let punched = rustix::fs::fallocate(fd, flags, range.start, range.end - range.start);
    // Nothing tells the compiler that this call writes to mapped memory: where
    // all is inlined it gave what had been stored before for what is there now.
    compiler_fence(Ordering::SeqCst);
    punched
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_stay_inside() {
        let fd = memfd("test", 8192).unwrap();
        let map = Mapping::new(&fd, 8192, true).unwrap();
        assert!(map.write(8190, &[1, 2]) && !map.write(8191, &[1, 2]));
        let mut two = [0; 2];
        assert!(map.read(8190, &mut two) && two == [1, 2]);
        assert!(!map.read(u64::MAX, &mut two) && !map.read(8192, &mut two));
        assert!(map.words::<1>(8184).is_some() && map.words::<2>(8184).is_none());
        assert!(map.words::<1>(4).is_none());
    }

    #[test]
    fn a_read_only_descriptor_reads_only() {
        let fd = memfd("test", 4096).unwrap();
        let other = read_only(&fd).unwrap();
        assert!(Mapping::new(&other, 4096, true).is_err());
        assert!(!Mapping::new(&other, 4096, false).unwrap().write(0, &[1]));
    }

    #[test]
    fn nobody_can_shrink_it() {
        let fd = memfd("test", 4096).unwrap();
        assert!(rustix::fs::ftruncate(&fd, 0).is_err());
        assert!(is_safe_to_map(&fd, 4096) && !is_safe_to_map(&fd, 4097));
        let soft = rustix::fs::memfd_create("soft", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&soft, 4096).unwrap();
        assert!(!is_safe_to_map(&soft, 4096));
    }

    #[test]
    fn what_can_hold_huge_pages_is_aligned_to_them() {
        for len in [HUGE as u64, 3 * HUGE as u64 + 4096] {
            let fd = memfd("test", len).unwrap();
            let map = Mapping::new(&fd, len, true).unwrap();
            assert_eq!(map.at(0, len).unwrap().align_offset(HUGE), 0);
            assert!(map.write(len - 1, &[1]));
        }
    }

    #[test]
    fn a_huge_page_keeps_what_was_there() {
        let len = 4 * HUGE as u64;
        let fd = memfd("test", len).unwrap();
        let map = Mapping::new(&fd, len, true).unwrap();
        let at = len / 2 + 5;
        store(&fd, at, &[7, 8]).unwrap();
        // With it or without: not all systems have huge pages.
        let _ = map.collapse(len / 2);
        assert!(!map.collapse(len) && !map.collapse(4096));
        let mut all = vec![9; len as usize];
        assert!(map.read(0, &mut all));
        let set: Vec<usize> = (0..all.len()).filter(|n| all[*n] != 0).collect();
        assert_eq!(
            (set, all[at as usize]),
            (vec![at as usize, at as usize + 1], 7)
        );
        // Other mappings have it as well.
        let other = Mapping::new(&fd, len, true).unwrap();
        other.populate(0, len).unwrap();
        assert!(other.write(at, &[1]) && map.read(at, &mut all[..1]));
        assert_eq!(all[0], 1);
    }

    #[test]
    fn populating_and_punching() {
        let fd = memfd("test", 1 << 20).unwrap();
        let map = Mapping::new(&fd, 1 << 20, true).unwrap();
        map.populate(100, 10_000).unwrap();
        assert!(rustix::fs::fstat(&fd).unwrap().st_blocks >= 3 * 8);
        assert!(map.write(0, &[7; 9000]));
        punch(&fd, &(100..8500)).unwrap();
        let mut bytes = [0; 9000];
        assert!(map.read(0, &mut bytes));
        assert!(bytes[..100].iter().chain(&bytes[8500..]).all(|b| *b == 7));
        assert!(bytes[100..8500].iter().all(|b| *b == 0));
    }
}
