//! The way in and out: `entry`, where every signal arrives, and the return of
//! traps by the kernel (rt_sigreturn). The other return is in `exit`.
//!
//! Where a signal finds this thread is told by the selector and the interrupted
//! rip:
//!
//! - selector 1, rip elsewhere: the program, or the gate before it has done
//!   anything. The hook is called.
//! - rip in the last instructions of the gate or of `exit`, where nothing is
//!   left to do but to load known values: the program as well; the context is
//!   moved on to where they lead ([`Block::settle`]).
//! - selector 0, or 1 with rip in the code below (its first instructions, its
//!   last ones): our own. The signal is noted, and everything blocked once the
//!   code goes on. Nothing here uses thread-locals, as the FS base may be the
//!   program's, and nothing locks or allocates.
//!
//! The action for SIGBUS blocks nothing, so that a miss needs no system call to
//! put the mask right; all others block everything. Each return looks at the
//! note last: that by the kernel with everything blocked before ([`hold`]), so
//! that no note can come after the look; that without the kernel in a way that
//! lets a signal after the look count as the program's.
//!
//! SIGBUS, SIGSEGV and SIGSYS are never blocked, and somebody may send them
//! (kill(2)). Those are noted like any other signal; one that comes after the
//! last look of a return by the kernel sets that return back to the look, and one
//! that comes before a thread's first instruction waits for its next trap.

use super::copy::fixup_of;
use super::{Block, HOOK, Hook, Next, at, current, measure, window};
use crate::signal::{self, SYNCHRONOUS, SigInfo, SigSet, UContext, reg};
use crate::sys;
use core::arch::naked_asm;

/// What `from_program` answers beside [`Next::Resume`] and [`Next::Leave`]: go
/// back without the kernel.
const FAST: u64 = Next::Retry as u64;

/// Blocks every signal that can wait on the calling thread, which is inside a
/// trap, until the trap ends. [`super::has_pending`] then says for good whether
/// one came before.
pub fn hold() {
    signal::set_mask(SigSet::ALL.without(SYNCHRONOUS));
}

/// The signals that can be blocked and may wait for a trap's end.
const WAITING: SigSet = SigSet::ALL
    .without(SYNCHRONOUS)
    .without(SigSet::of(libc::SIGKILL))
    .without(SigSet::of(libc::SIGSTOP));

// SAFETY: labels of the assembly in this module. `splitkernel_enter` alone is
// called, with a complete frame, on an attached thread (`Block::enter`).
unsafe extern "C" {
    fn splitkernel_again();
    fn splitkernel_look();
    /// rt_sigreturn(2), the one call made while the selector traps.
    pub(super) fn splitkernel_restorer();
    /// Enters the program through the kernel's own signal return, which loads
    /// every register, the FPU and the mask at once.
    pub(super) fn splitkernel_enter(frame: *mut UContext);
}

/// The signal handler. At its start the selector tells where we come from; the
/// rip of the interrupted code is at 168 of the context. rbx keeps the context;
/// it lies above the stack pointer, 16-byte aligned, behind the address that a
/// handler would return to.
// SAFETY: the kernel alone enters it, as a handler with three arguments.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn entry() {
    naked_asm!(
        "cmp byte ptr gs:[8], 0",
        "mov rax, [rdx + 168]",
        "je 2f",
        "lea rcx, [rip + {entry}]",
        "cmp rax, rcx",
        "jb 4f",
        "lea rcx, [rip + splitkernel_entry_end]",
        "cmp rax, rcx",
        "ja 4f",
        "2:",
        "lea rcx, [rip + splitkernel_gate_exit]",
        "cmp rax, rcx",
        "jb 5f",
        "lea rcx, [rip + splitkernel_gate_exit_end]",
        "cmp rax, rcx",
        "jbe 4f",
        "5:",
        "lea rcx, [rip + splitkernel_fault_exit]",
        "cmp rax, rcx",
        "jb 6f",
        "lea rcx, [rip + splitkernel_fault_exit_end]",
        "cmp rax, rcx",
        "jbe 4f",
        "6:",
        "jmp {from_personality}",
        // From the program.
        "4:",
        "mov byte ptr gs:[8], 0",
        "mov rbx, rdx",
        "rdfsbase rax",
        "mov gs:[24], rax",
        "mov rax, gs:[16]",
        "wrfsbase rax",
        "sub rsp, 8",
        "call {from_program}",
        "cmp rax, 1",
        "je 3f",
        "ja {fast}",
        // Back by the kernel.
        ".globl splitkernel_look",
        "splitkernel_look:",
        "cmp byte ptr gs:[9], 0",
        "jne splitkernel_again",
        "mov rax, gs:[24]",
        "wrfsbase rax",
        "mov byte ptr gs:[8], 1",
        "mov rsp, rbx",
        ".globl splitkernel_restorer",
        "splitkernel_restorer:",
        "mov eax, 15",
        "syscall",
        "ud2",
        ".skip 8, 0xcc",
        // A signal was noted. The FS base and the selector may be set for the
        // program already, and its vector state loaded (it is in the frame).
        ".globl splitkernel_again",
        "splitkernel_again:",
        "mov byte ptr gs:[8], 0",
        "mov rax, gs:[16]",
        "wrfsbase rax",
        "cld",
        "lea rsp, [rbx - 16]",
        "mov dword ptr [rsp], 0x1f80",
        "ldmxcsr [rsp]",
        "mov rdi, rbx",
        "call {late}",
        "cmp rax, 1",
        "jne splitkernel_look",
        // Leave the program: back to the frame of splitkernel_enter.
        "3:",
        "mov rsp, gs:[32]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        // rbx 0: not a trap that could be set back to its look.
        ".globl splitkernel_enter",
        "splitkernel_enter:",
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
        "xor ebx, ebx",
        "mov byte ptr gs:[8], 1",
        ".globl splitkernel_entry_end",
        "splitkernel_entry_end:",
        "jmp splitkernel_restorer",
        entry = sym entry,
        fast = sym super::exit::fast,
        from_program = sym from_program,
        from_personality = sym from_personality,
        late = sym late,
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
    if signo == libc::SIGBUS {
        if info.code() > 0 {
            return missed(*hook, block, info, context);
        }
        hold();
    }
    match block.settle(signo, context) {
        Some(noted) => hook(noted.signo(), &noted, context) as u64,
        None => hook(signo, info, context) as u64,
    }
}

/// A fault that may be a miss, with the program's signals unblocked.
fn missed(hook: Hook, block: &Block, info: &SigInfo, context: &mut UContext) -> u64 {
    let next = if measure::is_answered(context) {
        Next::Retry
    } else {
        hook(libc::SIGBUS, info, context)
    };
    match next {
        Next::Retry if block.exit.prepare(context) => FAST,
        Next::Leave => Next::Leave as u64,
        _ => {
            hold();
            Next::Resume as u64
        }
    }
}

/// A signal was noted before the last look: as if it had come now.
extern "C" fn late(context: *mut UContext) -> u64 {
    hold();
    // SAFETY: as in `from_program`, on behalf of which this runs.
    let (block, context) = unsafe { (&*current(), &mut *context) };
    match (HOOK.get(), block.take_noted()) {
        (Some(hook), Some(noted)) => hook(noted.signo(), &noted, context) as u64,
        _ => Next::Resume as u64,
    }
}

/// A signal while our own code ran: a fault in a copy routine, or one to be
/// noted. Takes no lock and allocates nothing.
extern "C" fn from_personality(signo: i32, info: *const SigInfo, context: *mut UContext) {
    // SAFETY: as in `from_program`.
    let (info, context) = unsafe { (&*info, &mut *context) };
    let rip = context.gregs[reg::RIP];
    let is_fault = matches!(signo, libc::SIGBUS | libc::SIGSEGV) && info.code() > 0;
    if is_fault {
        let Some(fixup) = fixup_of(rip) else {
            die(signo, info, rip);
            return;
        };
        context.gregs[reg::RIP] = fixup;
        if WAITING.without(context.sigmask) == SigSet::EMPTY {
            return;
        }
        // A miss, with signals let in. One that is noted from here on would
        // find them let in again when this returns, and another overwrite it.
        hold();
    }
    // SAFETY: only attached threads have signals unblocked.
    let block = unsafe { &*current() };
    if is_fault {
        if block.has_noted() {
            context.sigmask = SigSet::ALL.without(SYNCHRONOUS);
        }
        return;
    }
    block.note(info);
    // One signal at a time: the rest stays pending in the kernel.
    context.sigmask = SigSet::ALL.without(SYNCHRONOUS);
    if let Some(abort) = window::abort_of(rip) {
        context.gregs[reg::RIP] = abort;
    } else if is_leaving(rip) && context.gregs[reg::RBX] != 0 {
        context.gregs[reg::RIP] = splitkernel_again as *const () as u64;
    }
}

/// Whether the code at `rip` is past its look at the note, or at it.
fn is_leaving(rip: u64) -> bool {
    (at(splitkernel_look)..at(splitkernel_again)).contains(&rip)
}

/// A fault of our own: say where, then let the default action end us.
fn die(signo: i32, info: &SigInfo, rip: u64) {
    let base = die as *const () as u64;
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
