//! The interpreter. See the Intel SDM, volume 2, for what instructions do.

use super::blocks::Decoded;
use super::flags::{Flags, mask};
use super::op::{
    Address, CALLER_SAVED, FLAGS, FS, Kind, Op, RAX, RDX, REGISTERS, RSP, Reg, ZERO, bit,
};
use super::stores::Stores;
use super::{Registers, Touch, World};

/// Branches on what is not known that are guessed in one run.
const GUESSES: u32 = 32;
/// Accesses of which it is not known where they go, since a line was found: more,
/// and what comes next depends on bytes that are not here.
const BLIND: u32 = 4;

/// To decode an instruction takes as long as so many operations.
const DECODING: u64 = 16;
/// From one reading of the time-stamp counter to the next.
const CLOCK_STEP: u64 = 100;

/// A thread as it would be.
pub(super) struct State {
    /// The general registers and what `decode` has behind them.
    general: [u64; REGISTERS],
    /// A bit for each of those that is known, and one for the flags.
    pub(super) known: u32,
    pub(super) flags: Flags,
    rip: u64,
}

impl State {
    pub(super) fn of(registers: &Registers) -> State {
        let mut general = [0; REGISTERS];
        general[..16].copy_from_slice(&registers.general);
        general[usize::from(FS)] = registers.fs;
        State {
            general,
            known: 0xffff | bit(ZERO) | bit(FS) | FLAGS,
            flags: Flags::of(registers.flags),
            rip: registers.rip,
        }
    }

    #[inline]
    pub(super) fn get(&self, register: Reg) -> u64 {
        self.general[usize::from(register) % REGISTERS]
    }

    #[inline]
    pub(super) fn set(&mut self, register: Reg, value: u64) {
        self.general[usize::from(register) % REGISTERS] = value;
    }

    /// Sets the destination as instructions do. What the rest of it was, if it is
    /// not known, is hardly looked at.
    #[inline]
    pub(super) fn put(&mut self, op: &Op, value: u64) {
        let slot = &mut self.general[usize::from(op.d) % REGISTERS];
        *slot = *slot & op.kept | value & op.mask;
    }

    /// The second operand.
    #[inline]
    pub(super) fn b(&self, op: &Op) -> u64 {
        self.get(op.b).wrapping_add(op.immediate)
    }

    #[inline]
    pub(super) fn address(&self, a: &Address) -> u64 {
        let at = (a.displacement)
            .wrapping_add(self.get(a.base))
            .wrapping_add(self.get(a.index) << (a.shift & 3));
        let at = if a.narrow { at & 0xffff_ffff } else { at };
        at.wrapping_add(self.get(a.segment))
    }
}

/// Follows the program until the world stops it, it can't be followed, or
/// `patience` operations have found nothing. How many there were.
pub(super) fn run(
    decoded: &mut Decoded,
    stores: &mut Stores,
    registers: &Registers,
    patience: u64,
    world: &mut impl World,
) -> u64 {
    let mut run = Run::new(registers, stores, world);
    let (mut steps, mut end, mut found) = (0, patience, 0);
    while steps < end && !run.over {
        let rip = run.state.rip;
        let block = decoded.block(rip, |at, bytes| {
            steps += DECODING;
            run.world.code(at, bytes)
        });
        steps += block.ops.len() as u64 + 1;
        if block.next == rip {
            if run.world.is_code(rip) || !run.leave_function() {
                break;
            }
            continue;
        }
        run.state.rip = block.next;
        for op in block.ops {
            run.step(op);
            if run.over {
                break;
            }
        }
        let now = run.world.found();
        if now != found {
            (found, end) = (now, steps + patience);
            run.blind = 0;
        }
    }
    steps
}

pub(super) struct Run<'a, W> {
    pub(super) state: State,
    stores: &'a mut Stores,
    world: &'a mut W,
    guesses: u32,
    blind: u32,
    /// What the program would read from the time-stamp counter.
    clock: u64,
    /// No further: the world has what it wanted, there is no room for more stores,
    /// or it can't be followed.
    pub(super) over: bool,
}

impl<'a, W: World> Run<'a, W> {
    pub(super) fn new(
        registers: &Registers,
        stores: &'a mut Stores,
        world: &'a mut W,
    ) -> Run<'a, W> {
        Run {
            state: State::of(registers),
            stores,
            world,
            guesses: 0,
            blind: 0,
            // SAFETY: reads a counter.
            clock: unsafe { core::arch::x86_64::_rdtsc() },
            over: false,
        }
    }

    /// Code that is not the program's was called (the vDSO's): as if it had
    /// returned, with what functions may change unknown.
    fn leave_function(&mut self) -> bool {
        let top = self.state.get(RSP);
        let back = if self.state.known & bit(RSP) != 0 {
            self.load(top, 8, false)
        } else {
            None
        };
        self.state.known &= !(CALLER_SAVED | FLAGS);
        self.state.set(RSP, top.wrapping_add(8));
        self.state.rip = back.unwrap_or(0);
        back.is_some() && !self.over && self.world.is_code(self.state.rip)
    }

    #[inline]
    fn touch(&mut self, at: u64, size: u64, store: bool) -> bool {
        match self.world.touch(at, size, store) {
            Touch::Here => true,
            Touch::Away => false,
            Touch::Stop => {
                self.over = true;
                false
            }
        }
    }

    fn miss_sight(&mut self) {
        self.blind += 1;
        if self.blind > BLIND {
            self.over = true;
        }
    }

    /// Loads the low `size` bytes, zero-extended, if they are known; `store`: and
    /// stores to them after.
    #[inline]
    fn load(&mut self, at: u64, size: u8, store: bool) -> Option<u64> {
        let len = u64::from(size);
        let memory = if self.touch(at, len, store) {
            let memory = self.world.load(at, len);
            // It went meanwhile, or may not be read.
            self.over |= memory.is_none();
            memory
        } else {
            None
        };
        if self.stores.lacks(at, len) {
            memory.map(|value| value & mask(size))
        } else {
            self.stores.get(at, len, memory)
        }
    }

    fn store(&mut self, at: u64, size: u8, value: Option<u64>) {
        self.touch(at, u64::from(size), true);
        if !self.stores.put(at, u64::from(size), value) {
            self.over = true;
        }
    }

    #[inline]
    pub(super) fn step(&mut self, op: &Op) {
        if op.needs & !self.state.known == 0 {
            self.state.known |= op.gives;
            self.execute(op);
        } else {
            self.pass(op);
        }
    }

    /// An operation of which not all that it needs is known.
    fn pass(&mut self, op: &Op) {
        match op.kind {
            Kind::Store if op.address.registers() & !self.state.known == 0 => {
                self.store(self.state.address(&op.address), op.size, None);
            }
            Kind::Load | Kind::Store => self.miss_sight(),
            Kind::Jump => self.over = true,
            Kind::JumpIf => {
                // As it was the last time, or as loops do.
                if op.taken.get().unwrap_or(op.back) {
                    self.state.rip = op.immediate;
                }
                self.guesses += 1;
                if self.guesses > GUESSES {
                    self.over = true;
                }
            }
            _ => {}
        }
        self.state.known &= !op.spoils;
    }

    #[inline]
    fn execute(&mut self, op: &Op) {
        let state = &mut self.state;
        match op.kind {
            Kind::Copy => {
                let value = state.b(op) & mask(op.from);
                state.put(op, value);
            }
            Kind::Load => {
                let at = state.address(&op.address);
                match self.load(at, op.from, op.stores) {
                    Some(value) => self.state.put(op, value),
                    None => self.state.known &= !op.spoils,
                }
            }
            Kind::Store => {
                let (at, value) = (state.address(&op.address), state.b(op));
                self.store(at, op.size, Some(value));
            }
            Kind::Lea => {
                let value = state.address(&op.address);
                state.put(op, value);
            }
            Kind::Add => state.sum(op, false),
            Kind::Sub => state.difference(op, false),
            Kind::And => state.logic(op, state.get(op.a) & state.b(op)),
            Kind::Or => state.logic(op, state.get(op.a) | state.b(op)),
            Kind::Xor => state.logic(op, state.get(op.a) ^ state.b(op)),
            Kind::Shl | Kind::Shr | Kind::Sar => state.shift(op),
            Kind::Set => {
                let meets = state.flags.meets(op.condition);
                state.put(op, meets.into());
            }
            Kind::MoveIf => {
                let value = if state.flags.meets(op.condition) {
                    state.b(op)
                } else {
                    state.get(op.a)
                };
                state.put(op, value);
            }
            Kind::Jump => state.rip = state.b(op),
            Kind::JumpIf => {
                let taken = state.flags.meets(op.condition);
                op.taken.set(Some(taken));
                if taken {
                    state.rip = op.immediate;
                }
            }
            Kind::Clock => {
                self.clock += CLOCK_STEP;
                state.set(RAX, self.clock & mask(4));
                state.set(RDX, self.clock >> 32);
                state.known &= !op.spoils;
            }
            Kind::Other => self.other(op),
            _ => {
                // The program would get SIGFPE.
                self.over |= !state.compute(op);
            }
        }
    }

    fn other(&mut self, op: &Op) {
        let len = u64::from(op.from);
        let at = self.state.address(&op.address);
        if op.loads || op.stores {
            if op.address.registers() & !self.state.known != 0 {
                self.miss_sight();
            } else {
                self.touch(at, len, op.stores);
                if op.stores {
                    // Where there is no room: what was there before will do.
                    let mut parts = (0..len).step_by(8);
                    parts.all(|n| (self.stores).put(at.wrapping_add(n), (len - n).min(8), None));
                }
            }
        }
        self.state.known &= !op.spoils;
    }
}
