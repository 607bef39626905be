//! The signal frame as the program sees it (x86-64 kernel ABI, rt_sigframe):
//! from the stack pointer up the return address, the ucontext, the siginfo,
//! and above them the FPU state.

use host::signal::{SigInfo, SigSet, StackT, UCONTEXT_SIZE, UContext, reg};
use proto::addr::UserAddr;

/// Offset of `sw_reserved` in the FXSAVE area: magic, then the whole size.
const SW_RESERVED: usize = 464;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FXSAVE: usize = 512;
/// More than any CPU's state.
const MOST_XSTATE: usize = 64 << 10;
/// The System V red zone below the stack pointer.
const RED_ZONE: u64 = 128;
const SIGINFO: usize = 128;

/// Bytes of the frame below the FPU state: return address, ucontext, siginfo.
const FIXED: usize = 8 + UCONTEXT_SIZE + SIGINFO;

/// Size of the FPU state at `image`, by its own header.
pub(super) fn xstate_size(image: &[u8; FXSAVE]) -> usize {
    let word =
        |at: usize| u32::from_le_bytes([image[at], image[at + 1], image[at + 2], image[at + 3]]);
    if word(SW_RESERVED) == FP_XSTATE_MAGIC1 {
        (word(SW_RESERVED + 4) as usize).clamp(FXSAVE, MOST_XSTATE)
    } else {
        FXSAVE
    }
}

/// The FPU state that the kernel saved for `context`, copied.
pub(super) fn xstate_of(context: &UContext) -> Vec<u8> {
    if context.fpstate == 0 {
        return Vec::new();
    }
    // SAFETY: `fpstate` of a frame that the kernel has just pushed points at
    // an FXSAVE area, followed by as many bytes as its header says.
    unsafe {
        let head = &*(context.fpstate as *const [u8; FXSAVE]);
        let size = xstate_size(head);
        std::slice::from_raw_parts(context.fpstate as *const u8, size).to_vec()
    }
}

/// Overwrites the FPU state that the kernel will restore with a program's
/// image of it. Ignored where the sizes differ: the image is not one of ours.
pub(super) fn restore_xstate(context: &UContext, image: &[u8]) {
    if context.fpstate == 0 || image.len() < FXSAVE {
        return;
    }
    // SAFETY: as in `xstate_of`; the kernel validates what it restores.
    unsafe {
        let head = &*(context.fpstate as *const [u8; FXSAVE]);
        if xstate_size(head) == image.len() {
            let to = context.fpstate as *mut u8;
            // The header that says how large the area is stays the kernel's.
            std::ptr::copy_nonoverlapping(image.as_ptr(), to, SW_RESERVED);
            let rest = &image[FXSAVE..];
            std::ptr::copy_nonoverlapping(rest.as_ptr(), to.add(FXSAVE), rest.len());
        }
    }
}

/// A frame ready to be copied to the program's stack.
pub(super) struct Frame {
    /// Where it goes: the handler's stack pointer.
    pub(super) sp: UserAddr,
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
}

/// What the handler is entered with beside the frame.
pub(super) struct Setup<'a> {
    /// The program's state when the signal came.
    pub(super) context: &'a UContext,
    /// The signal.
    pub(super) info: &'a SigInfo,
    /// The mask to restore afterwards.
    pub(super) mask: SigSet,
    /// The program's alternate stack, as it was.
    pub(super) altstack: StackT,
    /// Top of the stack to use: the alternate one's, or the current pointer.
    pub(super) top: u64,
    /// Whether `top` is the interrupted stack, with a red zone to spare.
    pub(super) on_interrupted: bool,
    /// `sa_restorer`.
    pub(super) restorer: u64,
}

/// Builds a frame. `None` where the stack pointer is so low that it wraps.
pub(super) fn build(setup: &Setup<'_>) -> Option<Frame> {
    let xstate = xstate_of(setup.context);
    let spared = if setup.on_interrupted { RED_ZONE } else { 0 };
    let fp = (setup
        .top
        .checked_sub(spared)?
        .checked_sub(xstate.len() as u64)?)
        & !63;
    // The handler is entered as by a call: sp + 8 is 16-byte aligned.
    let sp = (fp.checked_sub(FIXED as u64)? & !15).checked_sub(8)?;
    let mut saved = *setup.context;
    saved.stack = setup.altstack;
    saved.sigmask = setup.mask;
    saved.fpstate = if xstate.is_empty() { 0 } else { fp };
    let mut bytes = vec![0; (fp - sp) as usize + xstate.len()];
    bytes[..8].copy_from_slice(&setup.restorer.to_le_bytes());
    bytes[8..8 + UCONTEXT_SIZE].copy_from_slice(saved.as_bytes());
    bytes[8 + UCONTEXT_SIZE..FIXED].copy_from_slice(&setup.info.0);
    bytes[(fp - sp) as usize..].copy_from_slice(&xstate);
    Some(Frame {
        sp: UserAddr(sp),
        bytes,
    })
}

/// Addresses of ucontext and siginfo in a frame at `sp`.
pub(super) fn arguments(sp: UserAddr) -> (u64, u64) {
    (sp.0 + 8 + UCONTEXT_SIZE as u64, sp.0 + 8)
}

/// Flags that a program may set through sigreturn: arithmetic, direction,
/// trap, alignment check, resume.
const USER_FLAGS: u64 = 0x0005_0DD5;

/// Takes the registers of `saved` over into `context`, as the kernel would:
/// segments stay, privileged flags stay.
pub(super) fn restore_registers(context: &mut UContext, saved: &UContext) {
    let flags = context.gregs[reg::EFLAGS];
    context.gregs[..=reg::RIP].copy_from_slice(&saved.gregs[..=reg::RIP]);
    context.gregs[reg::EFLAGS] = (flags & !USER_FLAGS) | (saved.gregs[reg::EFLAGS] & USER_FLAGS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_laid_out_as_the_kernel_does() {
        let mut image = vec![0u8; 832];
        image[SW_RESERVED..SW_RESERVED + 4].copy_from_slice(&FP_XSTATE_MAGIC1.to_le_bytes());
        image[SW_RESERVED + 4..SW_RESERVED + 8].copy_from_slice(&832u32.to_le_bytes());
        image[600] = 42;
        let mut context = host::trap::fresh_context(0x40_1000, 0x7fff_0010);
        context.fpstate = image.as_ptr() as u64;
        let info = SigInfo::fault(11, 1, 0xdead);
        let setup = Setup {
            context: &context,
            info: &info,
            mask: SigSet::of(2),
            altstack: StackT::default(),
            top: 0x7fff_0010,
            on_interrupted: true,
            restorer: 0x40_2000,
        };
        let frame = build(&setup).unwrap();
        assert_eq!((frame.sp.0 + 8) % 16, 0);
        assert!(frame.sp.0 + frame.bytes.len() as u64 <= 0x7fff_0010 - RED_ZONE);
        assert_eq!(frame.bytes[..8], 0x40_2000u64.to_le_bytes());
        let raw = frame.bytes[8..8 + UCONTEXT_SIZE].try_into().unwrap();
        let saved = UContext::from_bytes(raw);
        assert_eq!(
            (saved.gregs[reg::RIP], saved.sigmask),
            (0x40_1000, SigSet::of(2))
        );
        assert_eq!(saved.fpstate % 64, 0);
        let fp = (saved.fpstate - frame.sp.0) as usize;
        assert_eq!(frame.bytes[fp + 600], 42);
        let (si, uc) = arguments(frame.sp);
        assert_eq!((uc, si), (frame.sp.0 + 8, frame.sp.0 + 8 + 304));
    }

    #[test]
    fn sigreturn_keeps_what_is_privileged() {
        let mut context = host::trap::fresh_context(1, 2);
        let mut saved = host::trap::fresh_context(3, 4);
        saved.gregs[reg::EFLAGS] = u64::MAX;
        saved.gregs[reg::SEGMENTS] = u64::MAX;
        let segments = context.gregs[reg::SEGMENTS];
        restore_registers(&mut context, &saved);
        assert_eq!((context.gregs[reg::RIP], context.gregs[reg::RSP]), (3, 4));
        assert_eq!(context.gregs[reg::SEGMENTS], segments);
        assert_eq!(context.gregs[reg::EFLAGS] & !0x202, USER_FLAGS & !0x202);
    }
}
