//! The trap: how control passes from a program to the personality and back.
//!
//! A program's thread is a host thread that has *entered* the program
//! ([`Block::enter`]). From then on each system call (SIGSYS, by syscall user
//! dispatch), each absent or protected page (SIGBUS) and each signal lands in
//! `entry`, on the thread's own alternate stack with every asynchronous
//! signal blocked. It swaps the program's FS base for ours, so that Rust and
//! libc have their thread-locals, lets system calls through (the dispatch
//! selector), and calls the hook. It is entered from program code only, never
//! from our own: the hook may lock and allocate. Two things arrive from our
//! own code, both handled here without taking a lock: a fault in [`copy`]
//! (answered by a short count), and a signal inside the window of
//! `interruptible` (noted in the block, and the call returns `EINTR`).
//!
//! A rewritten system call comes in another way, through `gate`, without the
//! kernel and with the program's signals unblocked.
//!
//! GS points at the thread's [`Block`]; a program that moves it destroys
//! itself and nobody else.

use crate::signal::{Action, SA_RESTORER, SYNCHRONOUS, SigInfo, SigSet, StackT, UContext, reg};
use crate::sys::Errno;
use crate::{mapping, signal, sys};
use core::arch::{asm, naked_asm};
use std::cell::Cell;
use std::sync::OnceLock;

mod gate;
mod stubs;

pub use gate::{COUNTED, Fast, Gate, is_able as gate_is_able, set_fast};
pub use stubs::{BEFORE, SITE, STUB_AREA, Stubs, area as stub_area, jump_to, recognise};

const PR_SET_SYSCALL_USER_DISPATCH: usize = 59;
const PR_SYS_DISPATCH_OFF: usize = 0;
const PR_SYS_DISPATCH_ON: usize = 1;
const SS_DISABLE: i32 = 2;

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
}

/// The hook: signal, its information, and the program's context to change.
pub type Hook = fn(signal: i32, info: &SigInfo, context: &mut UContext) -> Next;

static HOOK: OnceLock<Hook> = OnceLock::new();

/// What GS points at. The assembly knows the offsets of the first fields.
#[repr(C)]
pub struct Block {
    this: Cell<u64>,     // 0
    selector: Cell<u8>,  // 8: 0 lets system calls through, 1 traps them
    pending: Cell<u8>,   // 9: pending_info is set
    host_fs: Cell<u64>,  // 16
    user_fs: Cell<u64>,  // 24
    host_rsp: Cell<u64>, // 32
    gate: Gate,          // 40
    window_mask: Cell<SigSet>,
    pending_info: Cell<SigInfo>,
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
            pending: Cell::new(0),
            host_fs: Cell::new(0),
            user_fs: Cell::new(0),
            host_rsp: Cell::new(0),
            gate: Gate::new(top),
            window_mask: Cell::new(SigSet::ALL),
            pending_info: Cell::new(SigInfo([0; 128])),
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
        self.pending.set(0);
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
        // SAFETY: the frame is complete; see `enter_raw`.
        unsafe { enter_raw(self.frame.as_ptr()) };
    }
}

fn read_fs() -> u64 {
    let base: u64;
    // SAFETY: reading the FS base has no effect; FSGSBASE is checked at start-up.
    unsafe { asm!("rdfsbase {}", out(reg) base, options(nomem, nostack)) };
    base
}

/// What one trap costs here beyond what the handler does: the median time of a
/// fault that is answered at once. The calling thread must be attached and the
/// traps installed.
///
/// # Errors
/// What mmap(2) or userfaultfd(2) answered.
pub fn measure(uffd: &crate::uffd::Uffd) -> Result<std::time::Duration, Errno> {
    let page = mapping::map_anywhere(4096)? as u64;
    uffd.register(page, 4096, false)?;
    let mut byte = 0u8;
    let mut times: Vec<_> = (0..15)
        .map(|_| {
            let begun = std::time::Instant::now();
            // SAFETY: `byte` is ours; the page is absent for good.
            let _ = unsafe { copy(std::ptr::from_mut(&mut byte) as u64, page, 1) };
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    // SAFETY: the page is ours and nobody else's.
    unsafe { mapping::unmap(page, 4096) }?;
    Ok(times[times.len() / 2])
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
    let action = Action {
        handler: entry as *const () as u64,
        flags: flags as u64 | SA_RESTORER,
        restorer: restorer as *const () as u64,
        mask: SigSet::ALL.without(SYNCHRONOUS),
    };
    // SAFETY: `entry` is written to be entered by a signal on attached
    // threads; others block every signal that can be blocked.
    unsafe { signal::set_action(signo, &action) }.map(|_| ())
}

/// The code that may make system calls while the selector traps them: the
/// return from the trap alone.
fn exempt_range() -> (usize, usize) {
    (restorer as *const () as usize, 16)
}

/// The signal handler. At its start the selector tells where we come from:
/// 1 the program, 0 our own code. The exit of the gate counts as the program
/// whatever the selector says: the FS base is the program's there and nothing
/// is left to do. The rip of the interrupted code is at 168 of the context.
#[unsafe(naked)]
unsafe extern "C" fn entry() {
    naked_asm!(
        "cmp byte ptr gs:[8], 0",
        "jne 4f",
        "mov rax, [rdx + 168]",
        "lea rcx, [rip + splitkernel_gate_exit]",
        "cmp rax, rcx",
        "jb 2f",
        "lea rcx, [rip + splitkernel_gate_exit_end]",
        "cmp rax, rcx",
        "ja 2f",
        "4:",
        "mov byte ptr gs:[8], 0",
        "rdfsbase rax",
        "mov gs:[24], rax",
        "mov rax, gs:[16]",
        "wrfsbase rax",
        "sub rsp, 8",
        "call {from_program}",
        "add rsp, 8",
        "test rax, rax",
        "jnz 3f",
        "mov rax, gs:[24]",
        "wrfsbase rax",
        "mov byte ptr gs:[8], 1",
        "ret",
        "2:",
        "jmp {from_personality}",
        // Leave the program: back to the frame of enter_raw.
        "3:",
        "mov rsp, gs:[32]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        from_program = sym from_program,
        from_personality = sym from_personality,
    )
}

/// rt_sigreturn(2), the one call made while the selector traps.
#[unsafe(naked)]
unsafe extern "C" fn restorer() {
    naked_asm!("mov eax, 15", "syscall", "ud2")
}

/// Enters the program through the kernel's own signal return, which loads
/// every register, the FPU and the mask at once.
#[unsafe(naked)]
unsafe extern "C" fn enter_raw(frame: *mut UContext) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov gs:[32], rsp",
        "mov rax, gs:[24]",
        "wrfsbase rax",
        "mov rsp, rdi",
        "mov byte ptr gs:[8], 1",
        "jmp {restorer}",
        restorer = sym restorer,
    )
}

extern "C" fn from_program(signo: i32, info: *const SigInfo, context: *mut UContext) -> u64 {
    let Some(hook) = HOOK.get() else {
        std::process::abort()
    };
    // SAFETY: the kernel put both on the trap stack for this handler alone.
    let (info, context) = unsafe { (&*info, &mut *context) };
    // SAFETY: only attached threads come here.
    let block = unsafe { &*current() };
    match block.settle(signo, context) {
        Some(noted) => hook(noted.signo(), &noted, context) as u64,
        None => hook(signo, info, context) as u64,
    }
}

/// A signal while our own code ran: a fault in `copy`, or an interruption of
/// a blocking call. Takes no lock and allocates nothing.
extern "C" fn from_personality(signo: i32, info: *const SigInfo, context: *mut UContext) {
    // SAFETY: as in `from_program`.
    let (info, context) = unsafe { (&*info, &mut *context) };
    let rip = context.gregs[reg::RIP];
    if signo == libc::SIGBUS || signo == libc::SIGSEGV {
        if let Some(fixup) = fixup_of(rip) {
            context.gregs[reg::RIP] = fixup;
            return;
        }
        die(signo, info, rip);
        return;
    }
    // SAFETY: only attached threads have signals unblocked.
    let block = unsafe { &*current() };
    block.pending_info.set(*info);
    block.pending.set(1);
    // One signal at a time: the rest stays pending in the kernel.
    context.sigmask = SigSet::ALL.without(SYNCHRONOUS);
    let (start, end, abort) = window();
    if (start..=end).contains(&rip) {
        context.gregs[reg::RIP] = abort;
    }
}

/// A fault of our own: say where, then let the default action end us.
fn die(signo: i32, info: &SigInfo, rip: u64) {
    let base = crate::trap::die as *const () as u64;
    let text = format!(
        "splitkernel: internal fault: signal {signo} at {rip:#x} (die at {base:#x}), address {:#x}\n",
        info.addr()
    );
    // SAFETY: write(2) of live bytes.
    let _ = unsafe {
        sys::plain(
            linux_raw_sys::general::__NR_write,
            [2, text.as_ptr() as usize, text.len(), 0, 0, 0],
        )
    };
    let _ = signal::set_default(signo, false);
}

/// The signal that interrupted the last `interruptible` call of this thread, or
/// came while a call through the gate was answered.
#[must_use]
pub fn take_pending(block: &Block) -> Option<SigInfo> {
    (block.pending.replace(0) != 0).then(|| block.pending_info.get())
}

/// Whether [`take_pending`] would return a signal.
#[must_use]
pub fn has_pending(block: &Block) -> bool {
    block.pending.get() != 0
}

// Copying to and from the program's memory. A fault leaves rcx with the bytes
// still to go.
#[unsafe(naked)]
unsafe extern "C" fn copy_raw(dst: u64, src: u64, len: u64) -> u64 {
    naked_asm!(
        "mov rcx, rdx",
        ".globl splitkernel_copy_fault",
        "splitkernel_copy_fault:",
        "rep movsb",
        ".globl splitkernel_copy_done",
        "splitkernel_copy_done:",
        "mov rax, rcx",
        "ret",
    )
}

// A 32-bit store and a load, each of which is one access. 0 done, 1 fault.
#[unsafe(naked)]
unsafe extern "C" fn store32_raw(dst: u64, value: u32) -> u64 {
    naked_asm!(
        "mov eax, 1",
        ".globl splitkernel_store_fault",
        "splitkernel_store_fault:",
        "mov dword ptr [rdi], esi",
        "xor eax, eax",
        ".globl splitkernel_store_done",
        "splitkernel_store_done:",
        "ret",
    )
}

unsafe extern "C" {
    fn splitkernel_copy_fault();
    fn splitkernel_copy_done();
    fn splitkernel_store_fault();
    fn splitkernel_store_done();
    fn splitkernel_window_start();
    fn splitkernel_window_end();
    fn splitkernel_window_abort();
}

fn fixup_of(rip: u64) -> Option<u64> {
    let at = |f: unsafe extern "C" fn()| f as *const () as u64;
    if rip == at(splitkernel_copy_fault) {
        Some(at(splitkernel_copy_done))
    } else if rip == at(splitkernel_store_fault) {
        Some(at(splitkernel_store_done))
    } else {
        None
    }
}

fn window() -> (u64, u64, u64) {
    let at = |f: unsafe extern "C" fn()| f as *const () as u64;
    (
        at(splitkernel_window_start),
        at(splitkernel_window_end),
        at(splitkernel_window_abort),
    )
}

/// Copies `len` bytes; returns how many were NOT copied, because an address
/// could not be accessed. One of the two may be the program's.
///
/// # Safety
/// Addresses outside the program's window must be valid for the access; the
/// program's may be anything. Installed traps are required ([`install`]).
#[must_use]
pub unsafe fn copy(dst: u64, src: u64, len: u64) -> u64 {
    // SAFETY: passed on.
    unsafe { copy_raw(dst, src, len) }
}

/// Stores a 32-bit word in one access; false where it could not.
///
/// # Safety
/// As for [`copy`].
#[must_use]
pub unsafe fn store32(dst: u64, value: u32) -> bool {
    // SAFETY: passed on.
    unsafe { store32_raw(dst, value) == 0 }
}

// nr in edi, six arguments at rsi. GS points at a block.
#[unsafe(naked)]
unsafe extern "C" fn window_raw(nr: u32, args: *const usize) -> isize {
    naked_asm!(
        "push rbx",
        "mov eax, edi",
        "mov rbx, rsi",
        "mov rdi, [rbx]",
        "mov rsi, [rbx + 8]",
        "mov rdx, [rbx + 16]",
        "mov r10, [rbx + 24]",
        "mov r8, [rbx + 32]",
        "mov r9, [rbx + 40]",
        ".globl splitkernel_window_start",
        "splitkernel_window_start:",
        "cmp byte ptr gs:[9], 0",
        "jne 2f",
        ".globl splitkernel_window_end",
        "splitkernel_window_end:",
        "syscall",
        "pop rbx",
        "ret",
        ".globl splitkernel_window_abort",
        "splitkernel_window_abort:",
        "2:",
        "mov rax, -4",
        "pop rbx",
        "ret",
    )
}

/// Makes a blocking call with the program's signals let in; see
/// [`sys::interruptible`].
///
/// # Safety
/// The arguments must be right for the call.
pub(crate) unsafe fn interruptible(nr: u32, args: &[usize; 6]) -> isize {
    if !ATTACHED.with(Cell::get) {
        // SAFETY: passed on.
        return match unsafe { sys::plain(nr, *args) } {
            Ok(v) => v.cast_signed(),
            Err(e) => -(e.0 as isize),
        };
    }
    // SAFETY: an attached thread's GS points at its block.
    let block = unsafe { &*current() };
    signal::set_mask(block.window_mask.get());
    // SAFETY: passed on.
    let raw = unsafe { window_raw(nr, args.as_ptr()) };
    signal::set_mask(SigSet::ALL.without(SYNCHRONOUS));
    raw
}

thread_local! {
    static ATTACHED: Cell<bool> = const { Cell::new(false) };
}

/// Tells [`sys::interruptible`] that this thread is attached (or no longer).
pub fn mark_attached(on: bool) {
    ATTACHED.with(|a| a.set(on));
}
