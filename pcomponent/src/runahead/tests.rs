//! The interpreter against the CPU it runs on, its stores against a map of bytes,
//! and small programs.

use super::decode::{LONGEST, decode};
use super::execute::Run;
use super::op::{FLAGS, FS, Kind, Op, bit};
use super::stores::Stores;
use super::{Registers, RunAhead, Touch, World};
use core::arch::naked_asm;
use iced_x86::InstructionInfoFactory;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};

const CF: u64 = 1;
const PF: u64 = 1 << 2;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
const ALL: u64 = CF | PF | ZF | SF | OF;
const RSP: usize = 4;

/// Memory at an address, and code at another.
struct Bytes {
    base: u64,
    bytes: Vec<u8>,
    code: (u64, Vec<u8>),
    /// Lines of 4 KiB that are not here, what becomes of the bytes of one that is
    /// found, and how many may be.
    away: Vec<u64>,
    arrive: bool,
    most: u32,
    found: Vec<u64>,
}

impl Bytes {
    fn new(base: u64, bytes: &[u8]) -> Bytes {
        Bytes {
            base,
            bytes: bytes.to_vec(),
            code: (0, Vec::new()),
            away: Vec::new(),
            arrive: true,
            most: u32::MAX,
            found: Vec::new(),
        }
    }
}

impl World for Bytes {
    fn code(&mut self, at: u64, bytes: &mut [u8; LONGEST]) -> usize {
        let from = at.wrapping_sub(self.code.0) as usize;
        let here = self.code.1.get(from..).unwrap_or_default();
        let len = here.len().min(bytes.len());
        bytes[..len].copy_from_slice(&here[..len]);
        len
    }

    fn touch(&mut self, at: u64, _size: u64, _store: bool) -> Touch {
        let line = at >> 12;
        if self.found.contains(&line) && !self.arrive {
            return Touch::Away;
        }
        if !self.found.contains(&line) && self.away.contains(&line) {
            if self.found.len() as u32 == self.most {
                return Touch::Stop;
            }
            self.found.push(line);
            return if self.arrive {
                Touch::Here
            } else {
                Touch::Away
            };
        }
        Touch::Here
    }

    fn load(&mut self, at: u64, size: u64) -> Option<u64> {
        let from = at.checked_sub(self.base)? as usize;
        let here = self.bytes.get(from..from + size as usize)?;
        let mut word = [0; 8];
        word[..here.len()].copy_from_slice(here);
        Some(u64::from_le_bytes(word))
    }

    fn is_code(&self, rip: u64) -> bool {
        rip < 1 << 40
    }

    fn found(&self) -> u32 {
        self.found.len() as u32
    }
}

// --- Against the CPU.

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

    /// The instruction, and a return.
    fn set(&self, instruction: &[u8]) {
        let code = [instruction, &[0xc3]].concat();
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
fn instruction(random: &mut fastrand::Rng) -> Vec<u8> {
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

fn number(random: &mut fastrand::Rng) -> u64 {
    match random.u8(..5) {
        0 => random.u64(..4),
        1 => u64::MAX - random.u64(..4),
        2 => 1 << random.u8(..64),
        3 => random.u64(..) >> random.u8(..64),
        _ => random.u64(..),
    }
}

fn flags(random: &mut fastrand::Rng) -> u64 {
    let any = random.u64(..) & (CF | OF);
    // As results leave them: zero is even, and not negative.
    any | match random.u8(..4) {
        0 => ZF | PF,
        1 => SF,
        2 => SF | PF,
        _ => random.u64(..) & PF,
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
        let mut memory: [u8; 64] = std::array::from_fn(|_| random.u8(..));
        let base = memory.as_ptr() as u64;
        let mut native = Native {
            general: std::array::from_fn(|_| number(&mut random)),
            flags: 0x202 | flags(&mut random),
        };
        native.general[3] = base + 16;
        native.general[RSP] = 0;
        let registers = Registers {
            general: native.general,
            rip: 0x1000,
            flags: native.flags,
            fs: 0,
        };
        let mut world = Bytes::new(base, &memory);
        let mut stores = Stores::new();
        let mut run = Run::new(&registers, &mut stores, &mut world);
        let touches = |op: &&Op| matches!(op.kind, Kind::Load | Kind::Store);
        if let Some(op) = ops.iter().find(touches) {
            let at = run.state.address(&op.address);
            if !(base..base + 57).contains(&at) {
                continue;
            }
            in_memory += 1;
        }
        let count = run.state.b(op) & 0xff;
        for op in &ops {
            run.step(op);
        }
        if run.over {
            // A division that the CPU would refuse.
            assert!(matches!(op.kind, Kind::Divide { .. }), "{op:?}");
            continue;
        }
        let before = native;
        let len = (then.next - 0x1000) as usize;
        page.set(&bytes[..len]);
        // SAFETY: an instruction of general registers, and of `memory` at most.
        unsafe { on_the_cpu(&raw mut native, page.0) };
        let what = format!(
            "{op:x?}\n{:x?}\nbefore {:x?}",
            &bytes[..len],
            before.general
        );
        for n in (0..16).filter(|n| *n != RSP) {
            let known = run.state.known & bit(n as u8) != 0;
            let value = known.then(|| run.state.get(n as u8));
            assert_eq!(value, Some(native.general[n]), "register {n} of {what}");
        }
        let mask = defined(op, count);
        if mask != 0 {
            assert!(run.state.known & FLAGS != 0, "{what}");
            let ours = run.state.flags.rflags();
            assert_eq!(ours & mask, native.flags & mask, "flags of {what}");
        }
        let was = world.bytes.clone();
        for (n, byte) in memory.iter_mut().enumerate() {
            let ours = stores.get(base + n as u64, 1, Some(was[n].into()));
            assert_eq!(ours, Some((*byte).into()), "byte {n} of {what}");
        }
        *seen.entry(format!("{:?}", op.kind)).or_default() += 1;
        compared += 1;
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

// --- The stores.

proptest! {
    #[test]
    fn stores_are_what_a_map_of_bytes_is(
        accesses in prop::collection::vec((0u64..96, 1u64..=8, any::<u64>(), 0u8..4), 1..80)
    ) {
        let mut stores = Stores::new();
        let mut model: BTreeMap<u64, Option<u8>> = BTreeMap::new();
        let memory = |at: u64| (at * 37) as u8;
        for (at, size, value, what) in accesses {
            let at = 0x7000 + at;
            if what == 0 {
                let bytes: Option<Vec<u8>> = (at..at + size)
                    .map(|b| model.get(&b).copied().unwrap_or(Some(memory(b))))
                    .collect();
                let mut word = [0; 8];
                for (n, byte) in word.iter_mut().enumerate().take(size as usize) {
                    *byte = memory(at + n as u64);
                }
                let expected = bytes.map(|bytes| {
                    let mut word = [0; 8];
                    word[..bytes.len()].copy_from_slice(&bytes);
                    u64::from_le_bytes(word)
                });
                let whole = Some(u64::from_le_bytes(word));
                prop_assert_eq!(stores.get(at, size, whole), expected);
                let lacks = (at..at + size).all(|b| !model.contains_key(&b));
                prop_assert!(lacks || !stores.lacks(at, size));
            } else {
                let known = what != 1;
                prop_assert!(stores.put(at, size, known.then_some(value)));
                for n in 0..size {
                    let byte = value.to_le_bytes()[n as usize];
                    model.insert(at + n, known.then_some(byte));
                }
            }
        }
    }
}

#[test]
fn there_is_an_end_to_stores() {
    let mut stores = Stores::new();
    let room = (0..1000)
        .take_while(|n| stores.put(n * 8, 8, Some(*n)))
        .count();
    assert_eq!(room, 63);
    stores.clear();
    assert_eq!(stores.get(8, 8, Some(5)), Some(5));
    assert!(stores.put(8, 8, None) && !stores.lacks(8, 1));
    assert_eq!(stores.get(8, 8, Some(5)), None);
}

// --- Small programs. Data at 1 MiB, code at 64 KiB.

const DATA: u64 = 1 << 20;
const CODE: u64 = 1 << 16;

fn registers(rip: u64) -> Registers {
    let mut general = [0; 16];
    general[7] = DATA;
    general[RSP] = DATA + 0x8000;
    Registers {
        general,
        rip,
        flags: 0x202,
        fs: 0,
    }
}

fn world(code: &[u8], away: &[u64]) -> Bytes {
    let mut world = Bytes::new(DATA, &vec![0; 0x10_000]);
    world.code = (CODE, code.to_vec());
    world.away = away.iter().map(|page| (DATA >> 12) + page).collect();
    world
}

fn found(world: &Bytes) -> Vec<u64> {
    world.found.iter().map(|line| line - (DATA >> 12)).collect()
}

#[test]
fn a_loop_is_followed_to_the_lines_that_it_comes_to() {
    // add rax, [rdi]; add rdi, 4096; jmp back
    let code = [
        0x48, 0x03, 0x07, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0xeb, 0xf4,
    ];
    let mut world = world(&code, &[1, 3, 4, 5]);
    world.most = 3;
    RunAhead::new(16).run(&registers(CODE), 10_000, &mut world);
    assert_eq!(found(&world), [1, 3, 4]);
}

#[test]
fn what_finds_nothing_ends() {
    // jmp to itself
    let mut nothing = world(&[0xeb, 0xfe], &[]);
    RunAhead::new(16).run(&registers(CODE), 10_000, &mut nothing);
    // No code, and an instruction that does not exist.
    RunAhead::new(16).run(&registers(0), 10_000, &mut nothing);
    RunAhead::new(16).run(&registers(CODE), 10_000, &mut world(&[0x06], &[]));
    assert!(nothing.found.is_empty());
}

#[test]
fn calls_and_the_stack_go_by_stores_that_nobody_sees() {
    // call +3; mov rax,[rdi]; hlt || push rdi; lea rdi,[rdi+8192]; pop rdi;
    // lea rdi,[rdi+4096]; ret
    let code = [
        0xe8, 4, 0, 0, 0, // call
        0x48, 0x8b, 0x07, // mov rax, [rdi]
        0xf4, // hlt
        0x57, // push rdi
        0x48, 0x8d, 0xbf, 0, 0x20, 0, 0,    // lea rdi, [rdi + 8192]
        0x5f, // pop rdi
        0x48, 0x8d, 0xbf, 0, 0x10, 0, 0,    // lea rdi, [rdi + 4096]
        0xc3, // ret
    ];
    let mut world = world(&code, &[0, 1, 2, 3]);
    RunAhead::new(16).run(&registers(CODE), 10_000, &mut world);
    assert_eq!(found(&world), [1]);
    assert!(world.bytes.iter().all(|byte| *byte == 0));
}

#[test]
fn what_has_not_come_is_not_known() {
    // mov rdi, [rdi]; jmp back: each load's address is what the last one brought.
    let code = [0x48, 0x8b, 0x3f, 0xeb, 0xfb];
    let chain = |arrive: bool| {
        let mut world = world(&code, &[1, 2, 3]);
        for page in 0..3u64 {
            let next = DATA + (page + 1) * 4096;
            let at = (page * 4096) as usize;
            world.bytes[at..at + 8].copy_from_slice(&next.to_le_bytes());
        }
        world.arrive = arrive;
        RunAhead::new(16).run(&registers(CODE), 10_000, &mut world);
        found(&world)
    };
    assert_eq!((chain(true), chain(false)), (vec![1, 2, 3], vec![1]));
}

#[test]
fn a_branch_on_what_is_not_known_goes_as_it_went() {
    // mov rax,[rdi]; lea rdi,[rdi+4096]; test rax,rax; jne -> +9: lea rdi,[rdi+8192],
    // jmp start; else jmp start.
    let code = [
        0x48, 0x8b, 0x07, // mov rax, [rdi]
        0x48, 0x8d, 0xbf, 0, 0x10, 0, 0, // lea rdi, [rdi + 4096]
        0x48, 0x85, 0xc0, // test rax, rax
        0x75, 0x02, // jne +2
        0xeb, 0xef, // jmp start
        0x48, 0x8d, 0xbf, 0, 0x20, 0, 0, // lea rdi, [rdi + 8192]
        0xeb, 0xe6, // jmp start
    ];
    for (first, expected) in [(0, [1, 2, 3]), (1, [3, 6, 9])] {
        let mut world = world(&code, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        world.bytes[0] = first;
        (world.arrive, world.most) = (false, 3);
        RunAhead::new(16).run(&registers(CODE), 10_000, &mut world);
        assert_eq!(found(&world), expected, "{first}");
    }
}

#[test]
fn functions_that_are_not_the_programs_are_passed_over() {
    // mov eax, -1 (a page that is no code); shl rax, 16; call rax; mov rax, [rdi + 4096]
    let code = [
        0xb8, 0xff, 0xff, 0xff, 0xff, // mov eax, -1
        0x48, 0xc1, 0xe0, 0x10, // shl rax, 16
        0xff, 0xd0, // call rax
        0x48, 0x8b, 0x83, 0, 0x10, 0, 0, // mov rax, [rbx + 4096]
    ];
    let mut world = world(&code, &[1]);
    let mut registers = registers(CODE);
    registers.general[3] = DATA;
    RunAhead::new(16).run(&registers, 10_000, &mut world);
    assert_eq!(found(&world), [1]);
}

/// Whatever is there, it comes to an end.
#[test]
fn any_bytes_can_be_followed() {
    let mut random = fastrand::Rng::with_seed(11);
    let mut steps = 0;
    for _ in 0..20_000 {
        let mut code = Vec::new();
        while code.len() < 200 {
            let bytes = instruction(&mut random);
            let len = random.usize(1..=bytes.len());
            code.extend(&bytes[..len]);
        }
        let mut world = world(&code, &[1, 2, 3, 5, 8]);
        world.arrive = random.bool();
        world.most = random.u32(..4);
        let mut registers = registers(CODE + random.u64(..100));
        for register in &mut registers.general {
            *register = match random.u8(..3) {
                0 => DATA + random.u64(..0x10_000),
                1 => CODE + random.u64(..200),
                _ => number(&mut random),
            };
        }
        (registers.flags, registers.fs) = (flags(&mut random), number(&mut random));
        let saves = random.u64(..200_000);
        steps += RunAhead::new(16).run(&registers, saves, &mut world);
    }
    assert!(steps > 20_000, "{steps}");
}
