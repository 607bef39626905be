//! The trap: how control passes from a program to the personality and back.
//!
//! A program's thread is a host thread that has *entered* the program
//! ([`Block::enter`]). From then on each system call (SIGSYS, by syscall user
//! dispatch), each absent or protected page (SIGBUS) and each signal lands in
//! `entry`, on the thread's own alternate stack, with every asynchronous
//! signal blocked but after SIGBUS. It swaps the program's FS base for ours, so
//! that Rust and libc have their thread-locals, lets system calls through (the
//! dispatch selector), and calls the hook. That is called for program code only,
//! never for our own: it may lock and allocate. Two things arrive from our own
//! code, both handled without taking a lock: a fault in [`copy()`] (answered by a
//! short count), and a signal during a miss, a call through the gate or the
//! window of `interruptible` (noted in the block; there the call returns
//! `EINTR`).
//!
//! Traps end by the kernel's rt_sigreturn(2); an answered miss ends without it,
//! in `exit`.
//!
//! A rewritten system call comes in another way, through `gate`, without the
//! kernel and with the program's signals unblocked.
//!
//! GS points at the thread's [`Block`]; a program that moves it destroys
//! itself and nobody else.

use crate::signal::{Action, SA_RESTORER, SYNCHRONOUS, SigInfo, SigSet, StackT, UContext, reg};
use crate::sys::Errno;
use crate::{mapping, signal, sys};
use core::arch::asm;
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering, compiler_fence};

mod copy;
mod entry;
mod exit;
mod gate;
mod measure;
mod stubs;
mod window;

pub use copy::{copy, load64, store32};
pub use entry::hold;
use entry::{entry, splitkernel_enter, splitkernel_restorer};
pub use gate::{COUNTED, Fast, Gate, is_able as gate_is_able, set_fast};
pub use measure::measure;
pub use stubs::{BEFORE, SITE, STUB_AREA, Stubs, area as stub_area, jump_to, recognise};
pub(crate) use window::interruptible;
pub use window::mark_attached;

const PR_SET_SYSCALL_USER_DISPATCH: usize = 59;
const PR_SYS_DISPATCH_OFF: usize = 0;
const PR_SYS_DISPATCH_ON: usize = 1;
const SS_DISABLE: i32 = 2;
/// Signals that can be noted at a time; see [`note_of`].
const NOTES: usize = 4;

/// Bytes of a thread's trap stack, guard page included.
pub const TRAP_STACK: usize = 512 << 10;

/// What the hook wants done next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Next {
    /// Go on in the program with the context as the hook left it.
    Resume = 0,
    /// Leave the program: [`Block::enter`] returns.
    Leave = 1,
    /// A miss was answered and the context is as it was: the program makes its
    /// access again. Only for SIGBUS.
    Retry = 2,
}

/// The hook: signal, its information, and the program's context to change.
pub type Hook = fn(signal: i32, info: &SigInfo, context: &mut UContext) -> Next;

static HOOK: OnceLock<Hook> = OnceLock::new();

/// What GS points at. The assembly knows the offsets of the first fields.
#[repr(C)]
pub struct Block {
    this: Cell<u64>,     // 0
    selector: Cell<u8>,  // 8: 0 lets system calls through, 1 traps them
    pending: AtomicU8,   // 9: which of `notes` are set
    host_fs: Cell<u64>,  // 16
    user_fs: Cell<u64>,  // 24
    host_rsp: Cell<u64>, // 32
    gate: Gate,          // 40
    exit: exit::Exit,    // 128
    window_mask: Cell<SigSet>,
    notes: [Cell<SigInfo>; NOTES],
    owner: Cell<*const ()>,
    stack: StackT,
    frame: Cell<UContext>,
}

const _: () = assert!(std::mem::offset_of!(Block, selector) == 8);
const _: () = assert!(std::mem::offset_of!(Block, pending) == 9);
const _: () = assert!(std::mem::offset_of!(Block, host_fs) == 16);
const _: () = assert!(std::mem::offset_of!(Block, user_fs) == 24);
const _: () = assert!(std::mem::offset_of!(Block, host_rsp) == 32);
const _: () = assert!(std::mem::offset_of!(Block, gate) == 40);
const _: () = assert!(std::mem::offset_of!(Block, exit) == 128);

/// A context that starts at `rip` with `rsp`, all else zero, FPU reset.
#[must_use]
pub fn fresh_context(rip: u64, rsp: u64) -> UContext {
    let mut gregs = [0; 23];
    gregs[reg::RIP] = rip;
    gregs[reg::RSP] = rsp;
    gregs[reg::EFLAGS] = 0x202;
    gregs[reg::SEGMENTS] = 0x002b_0000_0000_0033; // ss 2b, cs 33: user code and data
    UContext {
        flags: 0x6, // UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
        link: 0,
        stack: StackT::default(),
        gregs,
        fpstate: 0,
        reserved: [0; 8],
        sigmask: SigSet::EMPTY,
    }
}

/// The one handle to a block: whoever holds it may use the block's cells.
/// Blocks are pooled by their owners and never freed.
#[derive(Debug)]
pub struct BlockRef(&'static Block);

// SAFETY: a block has one handle, so its cells are used by one thread at a
// time; the trap uses them on the thread that attached, which holds the handle.
unsafe impl Send for BlockRef {}

impl std::ops::Deref for BlockRef {
    type Target = Block;
    fn deref(&self) -> &Block {
        self.0
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({:p})", self)
    }
}

/// Makes a block with its trap stack.
///
/// # Errors
/// `ENOMEM`.
pub fn new_block() -> Result<BlockRef, Errno> {
    Block::new().map(BlockRef)
}

impl Block {
    fn new() -> Result<&'static Block, Errno> {
        let base = mapping::map_anywhere(TRAP_STACK)?;
        // SAFETY: the lowest page of a mapping of ours becomes the guard.
        unsafe { mapping::protect(base as u64, 4096, libc::PROT_NONE) }?;
        let stack = StackT {
            sp: base as u64 + 4096,
            flags: 0,
            pad: 0,
            size: (TRAP_STACK - 4096 - gate::XSAVE_ROOM) as u64,
        };
        let top = stack.sp + stack.size;
        let block = Box::leak(Box::new(Block {
            this: Cell::new(0),
            selector: Cell::new(0),
            pending: AtomicU8::new(0),
            host_fs: Cell::new(0),
            user_fs: Cell::new(0),
            host_rsp: Cell::new(0),
            gate: Gate::new(top),
            exit: exit::Exit::new(),
            window_mask: Cell::new(SigSet::ALL),
            notes: [const { Cell::new(SigInfo([0; 128])) }; NOTES],
            owner: Cell::new(std::ptr::null()),
            stack,
            frame: Cell::new(fresh_context(0, 0)),
        }));
        block.this.set(std::ptr::from_ref(block) as u64);
        Ok(block)
    }

    /// The FS base of the program on this thread.
    #[must_use]
    pub fn user_fs(&self) -> u64 {
        self.user_fs.get()
    }

    /// Sets the program's FS base; in force when the program goes on.
    pub fn set_user_fs(&self, base: u64) {
        self.user_fs.set(base);
    }

    /// What calls through the gate are answered with.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The pointer given to [`Block::attach`].
    #[must_use]
    pub fn owner(&self) -> *const () {
        self.owner.get()
    }

    /// Signals that may interrupt `interruptible`: all but the program's mask.
    pub fn set_window_mask(&self, mask: SigSet) {
        self.window_mask.set(mask.without(SYNCHRONOUS));
    }

    /// Makes the calling host thread one that can enter the program: blocks
    /// every signal, points GS at this block, installs the trap stack, turns
    /// syscall user dispatch on (still letting calls through).
    ///
    /// # Safety
    /// `owner` is handed back by [`current_owner`] on this thread and must
    /// outlive its stay.
    ///
    /// # Errors
    /// What prctl(2) or sigaltstack(2) answered.
    pub unsafe fn attach(&self, owner: *const ()) -> Result<(), Errno> {
        signal::set_mask(SigSet::ALL.without(SYNCHRONOUS));
        self.owner.set(owner);
        self.selector.set(0);
        self.pending.store(0, Ordering::Relaxed);
        self.exit.probe();
        self.host_fs.set(read_fs());
        // SAFETY: the trap stack is mapped for good.
        unsafe { signal::set_altstack(&self.stack) }?;
        // SAFETY: user-mode GS is not used by libc on x86-64.
        unsafe { asm!("wrgsbase {}", in(reg) std::ptr::from_ref(self), options(nostack)) };
        let (start, len) = exempt_range();
        let selector = self.selector.as_ptr() as usize;
        let args = [
            PR_SET_SYSCALL_USER_DISPATCH,
            PR_SYS_DISPATCH_ON,
            start,
            len,
            selector,
            0,
        ];
        // SAFETY: the selector byte lives as long as the block: for ever.
        unsafe { sys::plain(linux_raw_sys::general::__NR_prctl, args) }?;
        Ok(())
    }

    /// Makes the calling host thread an ordinary one again, so that another may
    /// take the block over: its system calls heed the selector no more. Signals
    /// stay blocked.
    pub fn detach(&self) {
        mark_attached(false);
        let off = [
            PR_SET_SYSCALL_USER_DISPATCH,
            PR_SYS_DISPATCH_OFF,
            0,
            0,
            0,
            0,
        ];
        // SAFETY: prctl(2) with numbers alone.
        let _ = unsafe { sys::plain(linux_raw_sys::general::__NR_prctl, off) };
        let disabled = StackT {
            flags: SS_DISABLE,
            ..StackT::default()
        };
        // SAFETY: no signal runs on the stack: they are blocked, and we are not on it.
        let _ = unsafe { signal::set_altstack(&disabled) };
        // SAFETY: as in `attach`.
        unsafe { asm!("wrgsbase {}", in(reg) 0u64, options(nostack)) };
    }

    /// Runs the program on this thread from `context` until the hook says
    /// [`Next::Leave`]. The context's mask is the program's.
    ///
    /// # Safety
    /// The thread must be attached to this block and not inside the program;
    /// an FPU state that `context` points to must stay until it is entered.
    pub unsafe fn enter(&self, context: &UContext) {
        let mut frame = *context;
        frame.stack = self.stack;
        frame.sigmask = frame.sigmask.without(SYNCHRONOUS);
        self.frame.set(frame);
        // SAFETY: the frame is complete; see `splitkernel_enter`.
        unsafe { splitkernel_enter(self.frame.as_ptr()) };
    }
}

/// A place in the assembly of this module: it is looked up, never called.
type Label = unsafe extern "C" fn();

/// Where it is.
fn at(label: Label) -> u64 {
    label as *const () as u64
}

fn read_fs() -> u64 {
    let base: u64;
    // SAFETY: reading the FS base has no effect; FSGSBASE is checked at start-up.
    unsafe { asm!("rdfsbase {}", out(reg) base, options(nomem, nostack)) };
    base
}

/// The owner of the block of the calling thread, which must be attached.
///
/// # Safety
/// The thread must be attached: GS must point at a block.
#[must_use]
pub unsafe fn current_owner() -> *const () {
    // SAFETY: the caller's promise.
    unsafe { &*current() }.owner.get()
}

unsafe fn current() -> *const Block {
    let at: *const Block;
    // SAFETY: the block's first field is its own address.
    unsafe { asm!("mov {}, gs:[0]", out(reg) at, options(nostack, readonly)) };
    at
}

/// Installs the hook and takes SIGSYS, SIGBUS and SIGSEGV over, once.
///
/// # Errors
/// What rt_sigaction(2) answered.
pub fn install(hook: Hook) -> Result<(), Errno> {
    let _ = HOOK.set(hook);
    for signo in [libc::SIGSYS, libc::SIGBUS, libc::SIGSEGV] {
        catch(signo)?;
    }
    Ok(())
}

/// Has the host deliver `signal` to the hook.
///
/// # Errors
/// `EINVAL` for a signal that can't be caught.
pub fn catch(signo: i32) -> Result<(), Errno> {
    let flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    // A miss leaves the mask as it is; see `entry`.
    let mask = match signo {
        libc::SIGBUS => SigSet::EMPTY,
        _ => SigSet::ALL.without(SYNCHRONOUS),
    };
    let action = Action {
        handler: entry as *const () as u64,
        flags: flags as u64 | SA_RESTORER,
        restorer: splitkernel_restorer as *const () as u64,
        mask,
    };
    // SAFETY: `entry` is written to be entered by a signal on attached
    // threads; others block every signal that can be blocked.
    unsafe { signal::set_action(signo, &action) }.map(|_| ())
}

/// The code that may make system calls while the selector traps them: the
/// return from the trap alone.
fn exempt_range() -> (usize, usize) {
    (splitkernel_restorer as *const () as usize, 16)
}

/// A signal that interrupted the last `interruptible` call of this thread, or
/// came while a miss or a call through the gate was answered.
#[must_use]
pub fn take_pending(block: &Block) -> Option<SigInfo> {
    block.take_noted()
}

/// Whether [`take_pending`] would return a signal.
#[must_use]
pub fn has_pending(block: &Block) -> bool {
    block.has_noted()
}

/// Which note is a signal's: those that can't be blocked have one each.
fn note_of(signo: i32) -> usize {
    match signo {
        libc::SIGBUS => 1,
        libc::SIGSEGV => 2,
        libc::SIGSYS => 3,
        _ => 0,
    }
}

impl Block {
    /// Notes a signal, from its handler. Of two with one note the first stays,
    /// as the kernel has it: all but those with a note of their own are blocked
    /// while one waits.
    fn note(&self, info: &SigInfo) {
        let n = note_of(info.signo());
        if self.pending.load(Ordering::Relaxed) & (1 << n) == 0 {
            self.notes[n].set(*info);
            self.pending.fetch_or(1 << n, Ordering::Relaxed);
        }
    }

    fn has_noted(&self) -> bool {
        self.pending.load(Ordering::Relaxed) != 0
    }

    /// The note is read before it may be written again by a handler on this
    /// thread: its bit is taken away last.
    fn take_noted(&self) -> Option<SigInfo> {
        let n = self.pending.load(Ordering::Relaxed).trailing_zeros() as usize;
        let info = self.notes.get(n)?.get();
        compiler_fence(Ordering::SeqCst);
        self.pending.fetch_and(!(1 << n), Ordering::Relaxed);
        Some(info)
    }
}
