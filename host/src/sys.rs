//! System calls by number. Used where libc's wrappers would hide what is
//! needed: exact errno, no cancellation, calls that a program's signal may
//! interrupt.

use crate::trap;
use std::fmt;

/// A Linux errno (positive).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "errno {} ({})",
            self.0,
            std::io::Error::from_raw_os_error(self.0)
        )
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

impl std::error::Error for Errno {}

/// Splits a raw kernel return value.
///
/// # Errors
/// The errno that the kernel answered.
pub fn check(raw: isize) -> Result<usize, Errno> {
    if (-4095..0).contains(&raw) {
        Err(Errno(i32::try_from(-raw).unwrap_or(0)))
    } else {
        Ok(raw.cast_unsigned())
    }
}

/// Makes a system call that does not block for long.
///
/// # Safety
/// The arguments must be right for the call: pointers to live host memory of
/// the size that the kernel reads or writes.
///
/// # Errors
/// The errno that the kernel answered.
pub unsafe fn plain(nr: u32, args: [usize; 6]) -> Result<usize, Errno> {
    let mut raw = nr as isize;
    // SAFETY: the caller answers for the arguments; the clobbers are those of
    // the x86-64 system-call convention.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") raw,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    check(raw)
}

/// Makes a system call that may block. On a program's thread a signal that
/// the program is to see interrupts it: the call returns `EINTR` at once, also
/// when the signal came just before it, and [`trap::take_pending`] has the
/// signal. On other threads this is [`plain`].
///
/// # Safety
/// As for [`plain`].
///
/// # Errors
/// The errno that the kernel answered; `EINTR` as said.
pub unsafe fn interruptible(nr: u32, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: the caller answers for the arguments.
    check(unsafe { trap::interruptible(nr, &args) })
}
