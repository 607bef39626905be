//! The interpreter's stores against a map of bytes, and small programs.

use super::cpu_tests::{flags, instruction, number};
use super::decode::LONGEST;
use super::stores::Stores;
use super::{Registers, RunAhead, Touch, World};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Memory at an address, and code at another.
pub(super) struct Bytes {
    base: u64,
    pub(super) bytes: Vec<u8>,
    code: (u64, Vec<u8>),
    /// Lines of 4 KiB that are not here, what becomes of the bytes of one that is
    /// found, and how many may be.
    away: Vec<u64>,
    arrive: bool,
    most: u32,
    found: Vec<u64>,
}

impl Bytes {
    pub(super) fn new(base: u64, bytes: &[u8]) -> Bytes {
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
    general[4] = DATA + 0x8000;
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
    // mov rax, -1; jmp rax
    let nowhere = [0x48, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xe0];
    RunAhead::new(16).run(&registers(CODE), 10_000, &mut world(&nowhere, &[]));
    assert!(nothing.found.is_empty());
    // Many that do nothing: patience ends there as well.
    let mut idle = world(&[0x90; 1 << 20], &[]);
    let steps = RunAhead::new(16).run(&registers(CODE), 10_000, &mut idle);
    assert!(steps < 5000, "{steps}");
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
