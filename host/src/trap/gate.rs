//! The gate: how a rewritten system call enters the personality, by a jump.
//!
//! The site `mov eax, imm32; syscall` has become `jmp stub; syscall`, and the
//! stub jumps to `gate_raw` with the number in eax and in rcx the address
//! behind the site. rcx and r11 are free to use: `syscall` clobbers them. Nothing
//! below the program's stack pointer is touched; the gate runs on the thread's
//! trap stack and keeps every other register, the flags and the vector state.
//!
//! Three numbers are answered by the assembly. The others go to [`Fast`], which
//! answers what needs neither a context nor, as a rule, a wait. (Exceptions are
//! bounded by the fabric's deadlines: the first read over a connection opens it,
//! and who drops the last hold of a file that another thread has closed meanwhile
//! closes it. A signal that comes then is delivered after.) What it does not
//! answer is done as if the site had never been rewritten: registers are put back and
//! control goes to the site's own `syscall`, which traps. So restarts, signal
//! frames, clone and exit know nothing of the gate.
//!
//! # Signals
//!
//! Unlike in a trap, the program's signals are not blocked here. By where they
//! arrive:
//!
//! - in a stub, or in the gate while the selector is 1 (to the end, for the
//!   three numbers): nothing has happened that can't happen again. The context is
//!   set back to the site ([`Block::settle`]), which makes the call again. rax, rcx and r11 are dead there: the site sets the first,
//!   its `syscall` the others.
//! - while the selector is 0: the handler notes the signal and has everything
//!   blocked when it returns, as in a window of `interruptible`. Until the FS
//!   base is ours the handler's code for this must not use thread-locals; it
//!   does not. The exit finds the note and makes a system call that traps, and
//!   that trap delivers the signal and restores the mask.
//! - in the exit, from the look at the note to the last jump: all registers have
//!   their final values or are known (target in rcx, flags in r11, stack pointer
//!   in the block). The context is moved on to the target. So no signal is
//!   lost between the look and the program.

use super::stubs;
use super::{Block, at, take_pending};
use crate::signal::{SigInfo, UContext, reg};
use core::arch::{asm, naked_asm};
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

/// Bytes at the top of a trap stack's mapping for the vector state.
pub(super) const XSAVE_ROOM: usize = 4096;
/// What the personality's code may change of it: SSE, AVX and AVX-512. It
/// computes nothing with the x87, and nothing with what came later.
const XSAVE_WANTED: u64 = 0xe6;

/// Answers a call: number and arguments. `None`: it must trap.
pub type Fast = fn(number: u64, args: &[u64; 6]) -> Option<i64>;

static FAST: OnceLock<Fast> = OnceLock::new();

/// Numbers of calls that a thread counts.
pub const COUNTED: usize = 512;

/// The gate's part of a [`Block`]. The assembly knows the offsets.
#[repr(C)]
pub struct Gate {
    user_rsp: Cell<u64>, // 40
    top: Cell<u64>,      // 48
    xsave: Cell<u64>,    // 56
    target: Cell<u64>,   // 64: for the exit with a signal
    flags: Cell<u64>,    // 72
    result: Cell<u64>,   // 80
    counts: Cell<u64>,   // 88: counters by number
    mask: Cell<u64>,     // 96: the components of the vector state
    pid: Cell<i64>,      // 104
    tid: Cell<i64>,      // 112
    ppid: Cell<i64>,     // 120
}

impl Gate {
    /// With its stack ending at `top`, and the room for the vector state there.
    pub(super) fn new(top: u64) -> Gate {
        Gate {
            user_rsp: Cell::new(0),
            top: Cell::new(top),
            xsave: Cell::new(top),
            target: Cell::new(0),
            flags: Cell::new(0),
            result: Cell::new(0),
            counts: Cell::new(0),
            mask: Cell::new(0),
            pid: Cell::new(0),
            tid: Cell::new(0),
            ppid: Cell::new(0),
        }
    }

    /// What getpid(2), gettid(2) and getppid(2) are answered with, and where
    /// the thread's calls are counted, by number.
    ///
    /// # Safety
    /// Must be called before the thread enters the program; `counts` must stay
    /// for as long as the thread is in it, and nobody else may write there.
    pub unsafe fn open(&self, [pid, tid, ppid]: [i32; 3], counts: &[AtomicU64; COUNTED]) {
        self.pid.set(pid.into());
        self.tid.set(tid.into());
        self.ppid.set(ppid.into());
        self.counts.set(counts.as_ptr() as u64);
        self.mask.set(enabled_states() & XSAVE_WANTED);
    }
}

/// Whether this CPU has what the gate needs: XSAVEC.
#[must_use]
pub fn is_able() -> bool {
    let basic = core::arch::x86_64::__cpuid(1);
    let has_osxsave = basic.ecx & (1 << 27) != 0;
    has_osxsave && core::arch::x86_64::__cpuid_count(0xd, 1).eax & (1 << 1) != 0 && fits()
}

/// Whether the vector state fits its room. Leaf 13 tells, for each component,
/// its size; the compacted form has them one after another, aligned to 64.
fn fits() -> bool {
    let sizes = (2..8)
        .filter(|bit| enabled_states() & XSAVE_WANTED & (1 << bit) != 0)
        .map(|bit| {
            core::arch::x86_64::__cpuid_count(0xd, bit)
                .eax
                .next_multiple_of(64) as usize
        });
    576 + sizes.sum::<usize>() <= XSAVE_ROOM
}

/// XCR0: the state components that the kernel has turned on.
fn enabled_states() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading XCR0 has no effect; callers have seen OSXSAVE.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Sets what answers calls through the gate, once.
pub fn set_fast(fast: Fast) {
    let _ = FAST.set(fast);
}

/// The address that stubs jump to.
pub(super) fn address() -> u64 {
    gate_raw as *const () as u64
}

/// The program goes on at a site. One that runs step by step goes on at the
/// `syscall` in it, as if the step had been the `mov`: sent back to where it was,
/// it would take that step for ever.
fn back_to(site: u64, signo: i32, registers: &mut [u64]) {
    registers[reg::RIP] = site;
    if signo == libc::SIGTRAP
        && let Some(number) = stubs::number_of(site)
    {
        registers[reg::RIP] = site + stubs::SITE - stubs::CALL;
        registers[reg::RAX] = number.into();
    }
}

impl Block {
    /// Puts right the context of a program that was interrupted in a stub or
    /// in the gate; see the module. Returns the signal to deliver where this
    /// is the gate's exit with a signal that was noted.
    pub(super) fn settle(&self, signo: i32, context: &mut UContext) -> Option<SigInfo> {
        let (start, flags) = (address(), at(splitkernel_gate_flags));
        let first = start..=at(splitkernel_gate_open);
        let short = at(splitkernel_gate_short)..=at(splitkernel_gate_short_end);
        let rip = context.gregs[reg::RIP];
        let gate = &self.gate;
        if self.exit.settle(context) {
            return None;
        }
        let g = &mut context.gregs;
        if let Some(site) = stubs::site_of(rip) {
            back_to(site, signo, g);
        } else if first.contains(&rip) || short.contains(&rip) {
            if rip > start {
                g[reg::RSP] = gate.user_rsp.get();
            }
            if rip >= flags {
                g[reg::EFLAGS] = g[reg::R11];
            }
            back_to(g[reg::RCX].wrapping_sub(stubs::SITE), signo, g);
        } else if (at(splitkernel_gate_exit)..=at(splitkernel_gate_exit_end)).contains(&rip) {
            g[reg::RSP] = gate.user_rsp.get();
            g[reg::EFLAGS] = g[reg::R11];
            g[reg::RIP] = g[reg::RCX];
        } else if signo == libc::SIGSYS && rip == at(splitkernel_gate_called) {
            g[reg::RAX] = gate.result.get();
            g[reg::RCX] = gate.target.get();
            g[reg::R11] = gate.flags.get();
            g[reg::EFLAGS] = gate.flags.get();
            g[reg::RIP] = gate.target.get();
            return take_pending(self);
        }
        None
    }
}

#[repr(C)]
struct Answer {
    value: i64,
    answered: u64,
}

extern "C" fn answer(number: u64, args: &[u64; 6]) -> Answer {
    let value = FAST.get().and_then(|fast| fast(number, args));
    Answer {
        value: value.unwrap_or(0),
        answered: u64::from(value.is_some()),
    }
}

// SAFETY: labels of the assembly in this module; they are only looked up.
unsafe extern "C" {
    fn splitkernel_gate_flags();
    fn splitkernel_gate_open();
    fn splitkernel_gate_exit();
    fn splitkernel_gate_exit_end();
    fn splitkernel_gate_called();
    fn splitkernel_gate_short();
    fn splitkernel_gate_short_end();
}

/// Number in eax, in rcx the address behind the site's `syscall`.
///
/// XSAVEC writes the header's first 16 bytes and XRSTOR wants the others zero:
/// the room is mapped zeroed, and nothing else is ever written there.
// SAFETY: stubs alone jump here, on attached threads (GS points at their block).
#[unsafe(naked)]
unsafe extern "C" fn gate_raw() {
    naked_asm!(
        "mov gs:[40], rsp",
        "mov rsp, gs:[48]",
        "pushfq",
        "pop r11",
        ".globl splitkernel_gate_flags",
        "splitkernel_gate_flags:",
        "cmp eax, 39",
        "je 2f",
        "cmp eax, 110",
        "je 3f",
        "cmp eax, 186",
        "je 4f",
        ".globl splitkernel_gate_open",
        "splitkernel_gate_open:",
        "mov byte ptr gs:[8], 0",
        "push rax",
        "push rcx",
        "push r11",
        "push r9",
        "push r8",
        "push r10",
        "push rdx",
        "push rsi",
        "push rdi",
        "cld",
        "mov rdi, rax",
        "mov rsi, rsp",
        "rdfsbase rax",
        "mov gs:[24], rax",
        "mov rax, gs:[16]",
        "wrfsbase rax",
        "mov rcx, gs:[56]",
        "mov rax, gs:[96]",
        "xor edx, edx",
        "xsavec64 [rcx]",
        "push 0x1f80",
        "stmxcsr [rsp + 4]",
        "ldmxcsr [rsp]",
        "call {answer}",
        "mov r8, rax",
        "mov r9, rdx",
        "mov rcx, gs:[56]",
        "mov rax, gs:[96]",
        "xor edx, edx",
        "xrstor64 [rcx]",
        "ldmxcsr [rsp + 4]",
        "mov rax, gs:[24]",
        "wrfsbase rax",
        "mov rax, r8",
        "test r9d, r9d",
        "lea rsp, [rsp + 8]",
        "pop rdi",
        "pop rsi",
        "pop rdx",
        "pop r10",
        "pop r8",
        "pop r9",
        "pop r11",
        "pop rcx",
        "jnz 5f",
        // Not answered: to the site's own `syscall`.
        "pop rax",
        "lea rcx, [rcx - 2]",
        // rax, rcx (where to), r11 (flags) and all others are final.
        "5:",
        ".globl splitkernel_gate_exit",
        "splitkernel_gate_exit:",
        "cmp byte ptr gs:[9], 0",
        "jne 6f",
        "mov byte ptr gs:[8], 1",
        "push r11",
        "popfq",
        "mov rsp, gs:[40]",
        ".globl splitkernel_gate_exit_end",
        "splitkernel_gate_exit_end:",
        "jmp rcx",
        // A signal came meanwhile, and all others are blocked since: trap.
        "6:",
        "mov gs:[80], rax",
        "mov gs:[64], rcx",
        "mov gs:[72], r11",
        "mov rsp, gs:[40]",
        "mov byte ptr gs:[8], 1",
        "syscall",
        ".globl splitkernel_gate_called",
        "splitkernel_gate_called:",
        "ud2",
        // A signal here has the call made, and counted, once more.
        ".globl splitkernel_gate_short",
        "splitkernel_gate_short:",
        "2:",
        "mov rax, gs:[88]",
        "add qword ptr [rax + 8 * 39], 1",
        "mov rax, gs:[104]",
        "jmp 7f",
        "3:",
        "mov rax, gs:[88]",
        "add qword ptr [rax + 8 * 110], 1",
        "mov rax, gs:[120]",
        "jmp 7f",
        "4:",
        "mov rax, gs:[88]",
        "add qword ptr [rax + 8 * 186], 1",
        "mov rax, gs:[112]",
        "7:",
        "push r11",
        "popfq",
        "mov rsp, gs:[40]",
        ".globl splitkernel_gate_short_end",
        "splitkernel_gate_short_end:",
        "jmp rcx",
        answer = sym answer,
    )
}
