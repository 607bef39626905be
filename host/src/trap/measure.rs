//! What a trap costs here, taken the way that a program's miss takes.

use super::current;
use crate::mapping;
use crate::signal::{UContext, reg};
use crate::sys::Errno;
use core::arch::naked_asm;
use std::time::{Duration, Instant};

const TIMES: usize = 31;

// SAFETY: labels of the assembly in this module; they are only looked up.
unsafe extern "C" {
    fn splitkernel_measure_fault();
    fn splitkernel_measure_done();
}

/// Loads a byte as a program would: with the selector set.
// SAFETY: called on an attached thread, with a page that userfaultfd answers for.
#[unsafe(naked)]
unsafe extern "C" fn load_raw(from: u64) {
    naked_asm!(
        "mov byte ptr gs:[8], 1",
        ".globl splitkernel_measure_fault",
        "splitkernel_measure_fault:",
        "mov al, [rdi]",
        ".globl splitkernel_measure_done",
        "splitkernel_measure_done:",
        "mov byte ptr gs:[8], 0",
        "ret",
    )
}

/// Whether the fault is the one that [`measure`] makes; its load is skipped then.
pub(super) fn is_answered(context: &mut UContext) -> bool {
    let rip = &mut context.gregs[reg::RIP];
    let is_ours = *rip == splitkernel_measure_fault as *const () as u64;
    if is_ours {
        *rip = splitkernel_measure_done as *const () as u64;
    }
    is_ours
}

/// What one trap costs here beyond what the handler does: the median time of a
/// fault that is answered at once. The calling thread must be attached, not yet
/// in the program, and the traps installed.
///
/// # Errors
/// What mmap(2) or userfaultfd(2) answered.
pub fn measure(uffd: &crate::uffd::Uffd) -> Result<Duration, Errno> {
    let page = mapping::map_anywhere(4096)? as u64;
    uffd.register(page, 4096, false)?;
    // SAFETY: the caller's thread is attached. While the load faults our FS base
    // is taken for the program's, so that is put back afterwards.
    let block = unsafe { &*current() };
    let user_fs = block.user_fs();
    let mut times: Vec<_> = (0..TIMES)
        .map(|_| {
            let begun = Instant::now();
            // SAFETY: the page is absent for good; the load is skipped.
            unsafe { load_raw(page) };
            begun.elapsed()
        })
        .collect();
    block.set_user_fs(user_fs);
    times.sort_unstable();
    // SAFETY: the page is ours and nobody else's.
    unsafe { mapping::unmap(page, 4096) }?;
    Ok(times[TIMES / 2])
}
