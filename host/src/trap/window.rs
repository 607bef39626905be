//! The window: blocking calls that the program's signals may interrupt.

use super::{at, current, hold};
use crate::signal;
use crate::sys;
use core::arch::naked_asm;
use std::cell::Cell;

// SAFETY: labels of the assembly in this module; they are only looked up.
unsafe extern "C" {
    fn splitkernel_window_start();
    fn splitkernel_window_end();
    fn splitkernel_window_abort();
}

/// Where a call that `rip` is about to make is given up, if it is in the window.
pub(super) fn abort_of(rip: u64) -> Option<u64> {
    let window = at(splitkernel_window_start)..=at(splitkernel_window_end);
    window
        .contains(&rip)
        .then_some(at(splitkernel_window_abort))
}

// nr in edi, six arguments at rsi.
// SAFETY: called on attached threads (GS points at their block), by those who
// answer for the system call.
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
    if block.has_noted() {
        // Another that came while this one waits would be lost.
        return -(libc::EINTR as isize);
    }
    signal::set_mask(block.window_mask.get());
    // SAFETY: passed on.
    let raw = unsafe { window_raw(nr, args.as_ptr()) };
    hold();
    raw
}

thread_local! {
    static ATTACHED: Cell<bool> = const { Cell::new(false) };
}

/// Tells [`sys::interruptible`] that this thread is attached (or no longer).
pub fn mark_attached(on: bool) {
    ATTACHED.with(|a| a.set(on));
}
