//! The return from a miss without the kernel: what rt_sigreturn(2) would load is
//! loaded here. It saves a system call and the kernel's checks of the frame, about
//! a fifth of what a trap costs.
//!
//! It is right because nothing else is to be put back. The mask: the action for
//! SIGBUS blocks nothing, and where a signal was noted (and everything blocked
//! since) the look at the note leads to the return by the kernel. The alternate
//! stack: without SS_AUTODISARM the kernel tells by the stack pointer whether it
//! is in use. The FPU: XRSTOR from the kernel's own frame, with the components
//! that it names; where it has none, the kernel does it. What is left out here
//! is what [`Exit::prepare`] refuses.
//!
//! All general registers are final when the note is looked at. From then on a
//! signal counts as the program's: stack pointer, flags and target are in the
//! block, [`Exit::settle`] moves the context on to them, and the values here
//! are not needed any more. Nothing below the program's stack pointer is
//! touched.

use super::at;
use crate::signal::{UContext, reg};
use crate::sys;
use core::arch::{asm, naked_asm};
use std::cell::Cell;

const ARCH_SHSTK_STATUS: usize = 0x5005;
/// Arithmetic flags and direction, interrupts and the bit that is always 1;
/// and RF, which every fault has set. RF is lost: it keeps a breakpoint in a
/// debug register from firing twice. Single steps (TF), alignment checks and
/// the rest are the kernel's.
const FLAGS: u64 = 0x0001_0ed7;
const USER_CODE: u64 = 0x33;
const USER_DATA: u64 = 0x2b;
/// Offsets in the frame's FPU state: the kernel's words, and the XSAVE header.
const SW_RESERVED: u64 = 464;
const XSTATE_BV: u64 = 512;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const PKRU: u64 = 1 << 9;

/// The exit's part of a block. The assembly knows the offsets.
#[repr(C)]
pub(super) struct Exit {
    rip: Cell<u64>,   // 128
    rsp: Cell<u64>,   // 136
    flags: Cell<u64>, // 144
    mask: Cell<u64>,  // 152: the components of the FPU state to load
    able: Cell<bool>,
    /// Where the protection keys' register is in a frame's FPU state.
    pkru: Cell<u64>,
}

impl Exit {
    pub(super) fn new() -> Exit {
        Exit {
            rip: Cell::new(0),
            rsp: Cell::new(0),
            flags: Cell::new(0),
            mask: Cell::new(0),
            able: Cell::new(false),
            pkru: Cell::new(0),
        }
    }

    /// Finds out whether the calling thread can leave so at all (not with a
    /// shadow stack, which the kernel has pushed to as well), and what of this CPU
    /// the exit must know.
    pub(super) fn probe(&self) {
        let mut features = 0u64;
        let args = [
            ARCH_SHSTK_STATUS,
            std::ptr::from_mut(&mut features) as usize,
            0,
            0,
            0,
            0,
        ];
        // SAFETY: the word lives. Kernels without shadow stacks answer EINVAL.
        let known = unsafe { sys::plain(linux_raw_sys::general::__NR_arch_prctl, args) };
        self.able.set(known.is_err() || features == 0);
        // Here, not at each miss: a hypervisor answers CPUID by leaving the guest.
        let offset = core::arch::x86_64::__cpuid_count(0xd, 9).ebx;
        self.pkru.set(offset.into());
    }

    /// Notes what the exit needs to go on with `context`, a frame that the
    /// kernel has pushed on this thread; false where the kernel must do it.
    pub(super) fn prepare(&self, context: &UContext) -> bool {
        let g = &context.gregs;
        let segments = g[reg::SEGMENTS];
        let is_plain = g[reg::EFLAGS] & !FLAGS == 0
            && segments & 0xffff == USER_CODE
            && segments >> 48 == USER_DATA;
        if !is_plain || !self.able.get() {
            return false;
        }
        // SAFETY: the kernel has made this frame, on this thread.
        let Some(mask) = (unsafe { components(context.fpstate, self.pkru.get()) }) else {
            return false;
        };
        self.mask.set(mask);
        self.rip.set(g[reg::RIP]);
        self.rsp.set(g[reg::RSP]);
        self.flags.set(g[reg::EFLAGS]);
        true
    }

    /// Puts right a context that was interrupted in the exit, from its look on.
    /// True if it was.
    pub(super) fn settle(&self, context: &mut UContext) -> bool {
        let exit = at(splitkernel_fault_exit)..=at(splitkernel_fault_exit_end);
        let g = &mut context.gregs;
        let is_here = exit.contains(&g[reg::RIP]);
        if is_here {
            g[reg::RIP] = self.rip.get();
            g[reg::RSP] = self.rsp.get();
            g[reg::EFLAGS] = self.flags.get();
        }
        is_here
    }
}

/// The components to load from a frame's FPU state: those that the kernel would.
/// The protection keys' register is not loaded, as our own memory is read after
/// it would be: the kernel has set it to what it starts programs with, and where
/// the program has another value there is no answer.
///
/// # Safety
/// `fpstate` must be that of a frame which the kernel pushed on this thread, and
/// `pkru` the offset of that register in it, where the CPU has one.
unsafe fn components(fpstate: u64, pkru: u64) -> Option<u64> {
    if fpstate == 0 {
        return None;
    }
    // SAFETY: an FXSAVE area at least, with the kernel's words in it.
    let (magic, mask) = unsafe {
        let words = fpstate + SW_RESERVED;
        (*(words as *const u32), *((words + 8) as *const u64))
    };
    if magic != FP_XSTATE_MAGIC1 {
        return None;
    }
    if mask & PKRU == 0 {
        return Some(mask);
    }
    // SAFETY: the component is on, so its instruction is too.
    let now = unsafe {
        let now: u32;
        asm!("rdpkru", in("ecx") 0, out("eax") now, out("edx") _, options(nomem, nostack));
        now
    };
    // SAFETY: as above; the component is part of the area.
    let saved = unsafe {
        match *((fpstate + XSTATE_BV) as *const u64) & PKRU {
            0 => 0,
            _ => *((fpstate + pkru) as *const u32),
        }
    };
    (saved == now).then_some(mask & !PKRU)
}

// SAFETY: labels of the assembly in this module; they are only looked up.
unsafe extern "C" {
    fn splitkernel_fault_exit();
    fn splitkernel_fault_exit_end();
}

/// The context in rbx, and behind rsp as `entry` has it.
// SAFETY: `entry` alone jumps here, after `Exit::prepare` said yes.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn fast() {
    naked_asm!(
        "mov rdi, [rbx + 224]",
        "mov eax, gs:[152]",
        "mov edx, gs:[156]",
        "xrstor64 [rdi]",
        "mov rax, gs:[24]",
        "wrfsbase rax",
        "mov r8, [rbx + 40]",
        "mov r9, [rbx + 48]",
        "mov r10, [rbx + 56]",
        "mov r11, [rbx + 64]",
        "mov r12, [rbx + 72]",
        "mov r13, [rbx + 80]",
        "mov r14, [rbx + 88]",
        "mov r15, [rbx + 96]",
        "mov rdi, [rbx + 104]",
        "mov rsi, [rbx + 112]",
        "mov rbp, [rbx + 120]",
        "mov rdx, [rbx + 136]",
        "mov rax, [rbx + 144]",
        "mov rcx, [rbx + 152]",
        "mov rbx, [rbx + 128]",
        ".globl splitkernel_fault_exit",
        "splitkernel_fault_exit:",
        "cmp byte ptr gs:[9], 0",
        "jne 2f",
        "mov byte ptr gs:[8], 1",
        "push qword ptr gs:[144]",
        "popfq",
        "mov rsp, gs:[136]",
        ".globl splitkernel_fault_exit_end",
        "splitkernel_fault_exit_end:",
        "jmp qword ptr gs:[128]",
        // `entry` left rsp 16 below the context.
        "2:",
        "lea rbx, [rsp + 16]",
        "jmp splitkernel_again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trap::fresh_context;

    #[repr(align(64))]
    struct Area([u8; 4096]);

    fn area(magic: u32, mask: u64) -> Box<Area> {
        let mut area = Box::new(Area([0; 4096]));
        let at = SW_RESERVED as usize;
        area.0[at..at + 4].copy_from_slice(&magic.to_le_bytes());
        area.0[at + 8..at + 16].copy_from_slice(&mask.to_le_bytes());
        area
    }

    fn ready(area: &Area) -> (Exit, UContext) {
        let exit = Exit::new();
        exit.able.set(true);
        let mut context = fresh_context(0x40_1000, 0x7000_0000);
        context.gregs[reg::EFLAGS] = 0x1_0ed7; // all that the exit restores, and RF
        context.fpstate = std::ptr::from_ref(area) as u64;
        (exit, context)
    }

    #[test]
    fn what_the_exit_needs_is_noted() {
        let area = area(FP_XSTATE_MAGIC1, 0xe7);
        let (exit, context) = ready(&area);
        assert!(exit.prepare(&context));
        let noted = (exit.rip.get(), exit.rsp.get(), exit.mask.get());
        assert_eq!(noted, (0x40_1000, 0x7000_0000, 0xe7));
    }

    #[test]
    fn what_it_cannot_restore_is_the_kernels() {
        let with = area(FP_XSTATE_MAGIC1, 7);
        let refused = |change: fn(&mut UContext)| {
            let (exit, mut context) = ready(&with);
            change(&mut context);
            !exit.prepare(&context)
        };
        assert!(refused(|c| c.gregs[reg::EFLAGS] |= 1 << 8), "single steps");
        assert!(refused(|c| c.gregs[reg::EFLAGS] |= 1 << 18), "alignment");
        assert!(
            refused(|c| c.gregs[reg::SEGMENTS] = 0x002b_0000_0000_0023),
            "32-bit code"
        );
        assert!(refused(|c| c.fpstate = 0), "no FPU state");
        let without = area(0, 7);
        let (exit, context) = ready(&without);
        assert!(!exit.prepare(&context), "no XSAVE area");
        let (exit, context) = ready(&with);
        exit.able.set(false);
        assert!(!exit.prepare(&context), "a shadow stack");
    }
}
