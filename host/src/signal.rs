//! Signals below libc: the kernel's structures, dispositions and masks.
//! libc's wrappers keep signals 32 and 33 for themselves; a program's own
//! libc needs them.

use crate::sys::{self, Errno};
use linux_raw_sys::general as nr;

/// A set of signals, bit `n - 1` for signal `n`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct SigSet(pub u64);

impl SigSet {
    /// None.
    pub const EMPTY: SigSet = SigSet(0);
    /// Every signal.
    pub const ALL: SigSet = SigSet(u64::MAX);

    /// The set of one signal; empty for a number out of 1..=64.
    #[must_use]
    pub const fn of(signal: i32) -> SigSet {
        if signal >= 1 && signal <= 64 {
            SigSet(1 << (signal - 1))
        } else {
            SigSet(0)
        }
    }
    /// Whether `signal` is in it.
    #[must_use]
    pub const fn has(self, signal: i32) -> bool {
        self.0 & SigSet::of(signal).0 != 0
    }
    /// In either.
    #[must_use]
    pub const fn with(self, other: SigSet) -> SigSet {
        SigSet(self.0 | other.0)
    }
    /// Not in `other`.
    #[must_use]
    pub const fn without(self, other: SigSet) -> SigSet {
        SigSet(self.0 & !other.0)
    }
}

/// The signals that the personality itself lives by, never blocked while a
/// program runs.
pub const SYNCHRONOUS: SigSet = SigSet::of(libc::SIGSYS)
    .with(SigSet::of(libc::SIGBUS))
    .with(SigSet::of(libc::SIGSEGV));

/// `stack_t`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StackT {
    /// Lowest address.
    pub sp: u64,
    /// `SS_*`.
    pub flags: i32,
    /// Padding.
    pub pad: i32,
    /// Bytes.
    pub size: u64,
}

/// Numbers of the general registers in [`UContext::gregs`].
pub mod reg {
    #![allow(missing_docs)]
    pub const R8: usize = 0;
    pub const R9: usize = 1;
    pub const R10: usize = 2;
    pub const R11: usize = 3;
    pub const RDI: usize = 8;
    pub const RSI: usize = 9;
    pub const RBP: usize = 10;
    pub const RBX: usize = 11;
    pub const RDX: usize = 12;
    pub const RAX: usize = 13;
    pub const RCX: usize = 14;
    pub const RSP: usize = 15;
    pub const RIP: usize = 16;
    pub const EFLAGS: usize = 17;
    /// cs, gs, fs, ss, 16 bits each.
    pub const SEGMENTS: usize = 18;
    /// Page-fault error code: bit 1 write, bit 4 instruction fetch.
    pub const ERR: usize = 19;
    pub const TRAPNO: usize = 20;
    pub const CR2: usize = 22;
}

/// The kernel's `struct ucontext` for x86-64 (arch/x86/include/uapi/asm).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UContext {
    /// `UC_*`.
    pub flags: u64,
    /// Unused by the kernel.
    pub link: u64,
    /// The alternate stack to restore.
    pub stack: StackT,
    /// General registers, see [`reg`].
    pub gregs: [u64; 23],
    /// Address of the saved FPU state, 0 for none.
    pub fpstate: u64,
    /// Reserved.
    pub reserved: [u64; 8],
    /// The mask to restore.
    pub sigmask: SigSet,
}

/// Bytes of [`UContext`] as it stands in a signal frame.
pub const UCONTEXT_SIZE: usize = std::mem::size_of::<UContext>();
const _: () = assert!(UCONTEXT_SIZE == 304);

impl UContext {
    /// As bytes, for copying to a program's stack.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; UCONTEXT_SIZE] {
        // SAFETY: UContext is repr(C) plain integers without padding bytes.
        unsafe { &*std::ptr::from_ref(self).cast() }
    }

    /// From bytes: any bytes are a context (which may not be a sane one).
    #[must_use]
    pub fn from_bytes(bytes: &[u8; UCONTEXT_SIZE]) -> UContext {
        // SAFETY: every bit pattern is valid for plain integers.
        unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) }
    }
}

/// The kernel's `siginfo_t`, 128 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct SigInfo(pub [u8; 128]);

impl SigInfo {
    fn int(&self, at: usize) -> i32 {
        i32::from_ne_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }
    /// `si_signo`.
    #[must_use]
    pub fn signo(&self) -> i32 {
        self.int(0)
    }
    /// `si_code`.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.int(8)
    }
    /// `si_addr` (SIGSEGV, SIGBUS, SIGILL, SIGFPE).
    #[must_use]
    pub fn addr(&self) -> u64 {
        let mut b = [0; 8];
        b.copy_from_slice(&self.0[16..24]);
        u64::from_ne_bytes(b)
    }
    /// A fault's information, as the kernel would have it.
    #[must_use]
    pub fn fault(signo: i32, code: i32, addr: u64) -> SigInfo {
        let mut s = SigInfo([0; 128]);
        s.0[0..4].copy_from_slice(&signo.to_ne_bytes());
        s.0[8..12].copy_from_slice(&code.to_ne_bytes());
        s.0[16..24].copy_from_slice(&addr.to_ne_bytes());
        s
    }
}

/// The kernel's `struct sigaction`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Action {
    /// `SIG_DFL` (0), `SIG_IGN` (1) or an address.
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// What the handler returns to.
    pub restorer: u64,
    /// Blocked while it runs.
    pub mask: SigSet,
}

/// `SA_RESTORER`.
pub const SA_RESTORER: u64 = 0x0400_0000;

/// Sets what the host does with `signal`; returns what it did before.
///
/// # Safety
/// A handler's address must be code fit to be entered by a signal.
///
/// # Errors
/// `EINVAL` for a signal that can't be caught.
pub unsafe fn set_action(signal: i32, action: &Action) -> Result<Action, Errno> {
    let mut old = Action::default();
    let args = [
        signal as usize,
        std::ptr::from_ref(action) as usize,
        std::ptr::from_mut(&mut old) as usize,
        8,
        0,
        0,
    ];
    // SAFETY: both structures live; the handler is the caller's promise.
    unsafe { sys::plain(nr::__NR_rt_sigaction, args) }?;
    Ok(old)
}

/// Gives `signal` its default action, or lets it be ignored.
///
/// # Errors
/// `EINVAL` for a signal that can't be caught.
pub fn set_default(signal: i32, ignore: bool) -> Result<(), Errno> {
    let action = Action {
        handler: u64::from(ignore),
        ..Action::default()
    };
    // SAFETY: no code is entered.
    unsafe { set_action(signal, &action) }.map(|_| ())
}

/// Sets the calling thread's mask; returns the old one.
pub fn set_mask(mask: SigSet) -> SigSet {
    let mut old = SigSet::EMPTY;
    let args = [
        libc::SIG_SETMASK as usize,
        std::ptr::from_ref(&mask) as usize,
        std::ptr::from_mut(&mut old) as usize,
        8,
        0,
        0,
    ];
    // SAFETY: both sets live; the call can't fail with these arguments.
    let _ = unsafe { sys::plain(nr::__NR_rt_sigprocmask, args) };
    old
}

/// Sets the calling thread's alternate stack.
///
/// # Safety
/// The memory must stay for as long as signals are delivered on it.
///
/// # Errors
/// `EPERM` while it is in use, `ENOMEM` where it is too small.
pub unsafe fn set_altstack(stack: &StackT) -> Result<(), Errno> {
    let args = [std::ptr::from_ref(stack) as usize, 0, 0, 0, 0, 0];
    // SAFETY: the structure lives; the memory is the caller's promise.
    unsafe { sys::plain(nr::__NR_sigaltstack, args) }.map(|_| ())
}
