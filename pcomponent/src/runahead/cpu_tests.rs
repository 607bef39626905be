//! The interpreter against the CPU it runs on.

use super::Registers;
use super::decode::decode;
use super::execute::Run;
use super::op::{Address, FLAGS, FS, Kind, Op, Reg, ZERO, bit, find_flags};
use super::stores::Stores;
use super::tests::Bytes;
use core::arch::naked_asm;
use iced_x86::InstructionInfoFactory;
use std::collections::HashMap;

const CF: u64 = 1;
const PF: u64 = 1 << 2;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
const ALL: u64 = CF | PF | ZF | SF | OF;
const RBX: Reg = 3;
const RSP: usize = 4;

#[repr(C)]
#[derive(Clone, Copy)]
struct Native {
    general: [u64; 16],
    flags: u64,
}

// Loads the registers (but rsp) and flags, calls `code`, and stores them again.
// SAFETY: `code` must return, and touch only what the test owns.
#[unsafe(naked)]
unsafe extern "C" fn on_the_cpu(state: *mut Native, code: *const u8) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "push rsi",
        "push qword ptr [rdi + 128]",
        "popfq",
        "mov rax, [rdi]",
        "mov rcx, [rdi + 8]",
        "mov rdx, [rdi + 16]",
        "mov rbx, [rdi + 24]",
        "mov rbp, [rdi + 40]",
        "mov rsi, [rdi + 48]",
        "mov r8, [rdi + 64]",
        "mov r9, [rdi + 72]",
        "mov r10, [rdi + 80]",
        "mov r11, [rdi + 88]",
        "mov r12, [rdi + 96]",
        "mov r13, [rdi + 104]",
        "mov r14, [rdi + 112]",
        "mov r15, [rdi + 120]",
        "mov rdi, [rdi + 56]",
        "call [rsp]",
        "pushfq",
        "push rdi",
        "mov rdi, [rsp + 24]",
        "mov [rdi], rax",
        "mov [rdi + 8], rcx",
        "mov [rdi + 16], rdx",
        "mov [rdi + 24], rbx",
        "mov [rdi + 40], rbp",
        "mov [rdi + 48], rsi",
        "mov [rdi + 64], r8",
        "mov [rdi + 72], r9",
        "mov [rdi + 80], r10",
        "mov [rdi + 88], r11",
        "mov [rdi + 96], r12",
        "mov [rdi + 104], r13",
        "mov [rdi + 112], r14",
        "mov [rdi + 120], r15",
        "pop rax",
        "mov [rdi + 56], rax",
        "pop rax",
        "mov [rdi + 128], rax",
        "add rsp, 16",
        "cld",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// A page that can be written and executed.
struct Page(*mut u8);

impl Page {
    fn new() -> Page {
        let prot = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0) };
        assert_ne!(page, libc::MAP_FAILED);
        Page(page.cast())
    }

    /// The instructions, and a return.
    fn set(&self, instructions: &[u8]) {
        let code = [instructions, &[0xc3]].concat();
        // SAFETY: the page is ours, and longer.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.0, code.len()) };
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and no longer used.
        unsafe { libc::munmap(self.0.cast(), 4096) };
    }
}

/// Which flags the operation defines (Intel SDM, volume 2).
fn defined(op: &Op, count: u64) -> u64 {
    let bits = 8 * u64::from(op.size);
    let count = count & if op.size == 8 { 63 } else { 31 };
    let once = if count == 1 { OF } else { 0 };
    match op.kind {
        Kind::Shl | Kind::Shr | Kind::Sar if count == 0 => ALL,
        Kind::Shl | Kind::Shr | Kind::Sar if count > bits => PF | ZF | SF,
        Kind::Shl | Kind::Shr | Kind::Sar => CF | PF | ZF | SF | once,
        Kind::Rol | Kind::Ror if count == 0 => ALL,
        Kind::Rol | Kind::Ror => CF | PF | ZF | SF | once,
        Kind::Multiply | Kind::MultiplyWide { .. } => CF | OF,
        Kind::Divide { .. } => 0,
        Kind::BitForward | Kind::BitReverse => ZF,
        Kind::TrailingZeros | Kind::LeadingZeros => CF | ZF,
        Kind::Population => CF | ZF | SF | OF,
        Kind::BitTest => CF | ZF,
        _ => ALL,
    }
}

fn is_testable(op: &Op) -> bool {
    let stays = !matches!(
        op.kind,
        Kind::Jump | Kind::JumpIf | Kind::Clock | Kind::Other
    );
    let known = match op.kind {
        Kind::TrailingZeros => std::arch::is_x86_feature_detected!("bmi1"),
        Kind::LeadingZeros => std::arch::is_x86_feature_detected!("lzcnt"),
        Kind::Population => std::arch::is_x86_feature_detected!("popcnt"),
        _ => true,
    };
    let registers = [op.a, op.b, op.d, op.address.base, op.address.index];
    stays && known && !registers.contains(&(RSP as u8)) && op.address.segment != FS
}

/// What most of it is about.
fn main_op(ops: &[Op]) -> Option<&Op> {
    let moves = |op: &&Op| matches!(op.kind, Kind::Load | Kind::Store);
    ops.iter().find(|op| !moves(op)).or(ops.first())
}

/// Bytes that are likely to be an integer instruction.
pub(super) fn instruction(random: &mut fastrand::Rng) -> Vec<u8> {
    const TWO_BYTES: [u8; 8] = [0xa3, 0xaf, 0xb6, 0xb7, 0xbc, 0xbd, 0xbe, 0xbf];
    let mut bytes = Vec::new();
    if random.u8(..5) == 0 {
        bytes.push(0x66);
    }
    if random.u8(..6) == 0 {
        bytes.push(0xf3);
    }
    if random.bool() {
        bytes.push(0x40 | random.u8(..16));
    }
    match random.u8(..4) {
        0 => bytes.extend([0x0f, 0x40 | random.u8(..16)]),
        1 => bytes.extend([0x0f, 0x90 | random.u8(..16)]),
        2 => bytes.extend([0x0f, TWO_BYTES[random.usize(..8)]]),
        _ => {}
    }
    bytes.push(random.u8(..));
    // Often [rbx], or with 8 bits of displacement, or a register.
    bytes.push(match random.u8(..3) {
        0 => 0x03 | random.u8(..8) << 3,
        1 => 0x43 | random.u8(..8) << 3,
        _ => 0xc0 | random.u8(..64),
    });
    bytes.push(random.u8(..32));
    bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(8));
    bytes
}

pub(super) fn number(random: &mut fastrand::Rng) -> u64 {
    match random.u8(..5) {
        0 => random.u64(..4),
        1 => u64::MAX - random.u64(..4),
        2 => 1 << random.u8(..64),
        3 => random.u64(..) >> random.u8(..64),
        _ => random.u64(..),
    }
}

pub(super) fn flags(random: &mut fastrand::Rng) -> u64 {
    let any = random.u64(..) & (CF | OF);
    // As results leave them: zero is even, and not negative.
    any | match random.u8(..4) {
        0 => ZF | PF,
        1 => SF,
        2 => SF | PF,
        _ => random.u64(..) & PF,
    }
}

/// What a thread has before, and 64 bytes of memory; rbx points into them.
struct Before {
    native: Native,
    memory: Box<[u8; 64]>,
}

impl Before {
    fn random(random: &mut fastrand::Rng) -> Before {
        let memory = Box::new(std::array::from_fn(|_| random.u8(..)));
        let mut native = Native {
            general: std::array::from_fn(|_| number(random)),
            flags: 0x202 | flags(random),
        };
        native.general[usize::from(RBX)] = memory.as_ptr() as u64 + 16;
        native.general[RSP] = 0;
        Before { native, memory }
    }

    /// Carries out `ops`, with the registers in `unknown` (and the flags' bit) not
    /// known, and then `code` on the CPU, which must come to the same as far as it is
    /// known then, but for flags that are not in `defined`. How often memory was
    /// touched; none where it can't be done.
    fn compare(
        mut self,
        ops: &[Op],
        unknown: u32,
        defined: u64,
        page: &Page,
        code: &[u8],
    ) -> Option<u32> {
        let base = self.memory.as_ptr() as u64;
        let registers = Registers {
            general: self.native.general,
            rip: 0x1000,
            flags: self.native.flags,
            fs: 0,
        };
        let mut world = Bytes::new(base, &self.memory[..]);
        let mut stores = Stores::new();
        let mut run = Run::new(&registers, &mut stores, &mut world);
        run.state.known &= !unknown;
        for n in (0..16).filter(|n| unknown & bit(*n) != 0) {
            run.state.set(n, 0x5a5a_5a5a_5a5a_5a5a);
        }
        let mut touched = 0;
        for op in ops {
            if matches!(op.kind, Kind::Load | Kind::Store) {
                let at = run.state.address(&op.address);
                if !(base..base + 57).contains(&at) {
                    return None;
                }
                touched += 1;
            }
            run.step(op);
            if run.over {
                // A division that the CPU would refuse.
                assert!(matches!(op.kind, Kind::Divide { .. }), "{op:?}");
                return None;
            }
        }
        let general = self.native.general;
        page.set(code);
        // SAFETY: instructions of general registers, and of `memory` at most.
        unsafe { on_the_cpu(&raw mut self.native, page.0) };
        let what = format!("{ops:x?}\n{code:x?}\nbefore {general:x?}");
        let is_known = |bits: u32| run.state.known & bits != 0;
        for n in (0..16).filter(|n| *n != RSP) {
            let known = is_known(bit(n as u8));
            assert!(known || unknown != 0, "register {n} of {what}");
            if known {
                let (ours, theirs) = (run.state.get(n as u8), self.native.general[n]);
                assert_eq!(ours, theirs, "register {n} of {what}");
            }
        }
        assert!(is_known(FLAGS) || unknown != 0 || defined == 0, "{what}");
        if is_known(FLAGS) {
            let (ours, theirs) = (run.state.flags.rflags(), self.native.flags);
            assert_eq!(ours & defined, theirs & defined, "flags of {what}");
        }
        for (n, byte) in self.memory.iter().enumerate() {
            let was = world.bytes[n].into();
            let ours = stores.get(base + n as u64, 1, Some(was));
            assert!(ours.is_some() || unknown != 0, "byte {n} of {what}");
            let theirs = u64::from(*byte);
            assert_eq!(ours.unwrap_or(theirs), theirs, "byte {n} of {what}");
        }
        Some(touched)
    }
}

#[test]
fn instructions_do_what_they_do_on_the_cpu() {
    let mut random = fastrand::Rng::with_seed(7);
    let page = Page::new();
    let mut info = InstructionInfoFactory::new();
    let mut seen: HashMap<String, u32> = HashMap::new();
    let (mut compared, mut in_memory) = (0, 0);
    for _ in 0..1_000_000 {
        let bytes = instruction(&mut random);
        let mut ops = Vec::new();
        let Some(then) = decode(0x1000, &bytes, &mut info, &mut ops) else {
            continue;
        };
        let Some(op) = main_op(&ops).filter(|_| ops.iter().all(is_testable)) else {
            continue;
        };
        let before = Before::random(&mut random);
        let registers = before.native.general;
        let count = registers.get(usize::from(op.b)).map_or(0, |b| b & 0xff);
        let defined = defined(op, count.wrapping_add(op.immediate) & 0xff);
        let code = &bytes[..(then.next - 0x1000) as usize];
        if let Some(touched) = before.compare(&ops, 0, defined, &page, code) {
            *seen.entry(format!("{:?}", op.kind)).or_default() += 1;
            compared += 1;
            in_memory += u32::from(touched > 0);
        }
    }
    assert!(
        compared > 20_000 && in_memory > 5_000,
        "{compared}, {in_memory}"
    );
    // Each of them, often enough.
    let few: Vec<_> = seen.iter().filter(|(_, n)| **n < 20).collect();
    assert!(
        seen.len() >= 35 && few.is_empty(),
        "{}: {few:?}",
        seen.len()
    );
}

/// One behind the other, as blocks have them, with flags left out that nobody looks
/// at; also where some registers are not known.
#[test]
fn so_do_several_of_them() {
    let mut random = fastrand::Rng::with_seed(8);
    let page = Page::new();
    let mut info = InstructionInfoFactory::new();
    let (mut compared, mut left_out) = ([0, 0], 0);
    let (mut code, mut ops) = (Vec::new(), Vec::new());
    for _ in 0..2_000_000 {
        let bytes = instruction(&mut random);
        let (had, at) = (ops.len(), 0x1000 + code.len() as u64);
        let then = decode(at, &bytes, &mut info, &mut ops);
        // What comes next may look at all flags; rbx stays.
        let near = |a: &Address| (a.base, a.index) == (RBX, ZERO) && a.displacement < 40;
        let reaches = |op: &Op| !matches!(op.kind, Kind::Load | Kind::Store) || near(&op.address);
        let fits = |op: &Op| is_testable(op) && op.d != RBX && reaches(op) && defined(op, 2) == ALL;
        match then.filter(|_| ops[had..].iter().all(fits)) {
            Some(then) => code.extend(&bytes[..(then.next - at) as usize]),
            None => ops.truncate(had),
        }
        if code.len() < 16 {
            continue;
        }
        find_flags(&mut ops);
        left_out += ops.iter().filter(|op| !op.shows).count();
        let before = Before::random(&mut random);
        // Of a register that is not known, what an operation of 8 or 16 bits leaves is
        // not known either, though it counts as such.
        let mut unknown = 0;
        if ops.iter().all(|op| op.kept == 0) && random.bool() {
            unknown = random.u32(..) & random.u32(..) & (0xffff | FLAGS) & !bit(RBX);
        }
        let compared_so = before.compare(&ops, unknown, ALL, &page, &code).is_some();
        compared[usize::from(unknown != 0)] += u32::from(compared_so);
        ops.clear();
        code.clear();
    }
    assert!(
        compared[0] > 10_000 && compared[1] > 1000 && left_out > 10_000,
        "{compared:?}, {left_out}"
    );
}
