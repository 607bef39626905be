//! Copying to and from the program's memory. The one place where our own code may
//! fault: each access that can has a fixup, which ends the routine early.

use super::at;
use core::arch::naked_asm;

// A fault leaves rcx with the bytes still to go.
// SAFETY: callers answer for what is no program memory, as for `copy`.
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

// A 32-bit store, which is one access. 0 done, 1 fault.
// SAFETY: as for `copy_raw`.
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

/// What a load came to, in two registers.
#[repr(C)]
struct Loaded {
    fault: u64,
    value: u64,
}

// The word at `src`.
// SAFETY: as for `copy_raw`.
#[unsafe(naked)]
unsafe extern "C" fn load64_raw(src: u64) -> Loaded {
    naked_asm!(
        "mov eax, 1",
        ".globl splitkernel_load_fault",
        "splitkernel_load_fault:",
        "mov rdx, qword ptr [rdi]",
        "xor eax, eax",
        ".globl splitkernel_load_done",
        "splitkernel_load_done:",
        "ret",
    )
}

// SAFETY: labels of the assembly in this module; they are only looked up.
unsafe extern "C" {
    fn splitkernel_load_fault();
    fn splitkernel_load_done();
    fn splitkernel_copy_fault();
    fn splitkernel_copy_done();
    fn splitkernel_store_fault();
    fn splitkernel_store_done();
}

/// Where the code at `rip` goes on after a fault, if it may fault.
pub(super) fn fixup_of(rip: u64) -> Option<u64> {
    if rip == at(splitkernel_copy_fault) {
        Some(at(splitkernel_copy_done))
    } else if rip == at(splitkernel_store_fault) {
        Some(at(splitkernel_store_done))
    } else if rip == at(splitkernel_load_fault) {
        Some(at(splitkernel_load_done))
    } else {
        None
    }
}

/// Copies `len` bytes; returns how many were NOT copied, because an address
/// could not be accessed. One of the two may be the program's.
///
/// # Safety
/// Addresses outside the program's window must be valid for the access; the
/// program's may be anything. Installed traps are required ([`super::install`]).
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

/// The 64-bit word at `src`; `None` where it could not be loaded.
///
/// # Safety
/// As for [`copy`].
#[must_use]
pub unsafe fn load64(src: u64) -> Option<u64> {
    // SAFETY: passed on.
    let loaded = unsafe { load64_raw(src) };
    (loaded.fault == 0).then_some(loaded.value)
}
