//! The interpreter. See the Intel SDM, volume 2, for what instructions do.

use super::blocks::Decoded;
use super::decode::{
    Address, CALLER_SAVED, FS, IMMEDIATE, Kind, MEMORY, Op, RAX, RBP, RDX, RSP, ZERO,
};
use super::flags::{Flags, extended, mask, sign};
use super::stores::Stores;
use super::{Registers, Touch, World};

/// Branches on what is not known that are guessed in one run.
const GUESSES: u32 = 32;
/// Accesses of which it is not known where they go, since a line was found: more,
/// and what comes next depends on bytes that are not here.
const BLIND: u32 = 4;

/// To decode an instruction takes as long as so many that are decoded.
const DECODING: u64 = 8;
/// From one reading of the time-stamp counter to the next.
const CLOCK_STEP: u64 = 100;

/// A value, and whether it is known.
pub(super) type Value = (u64, bool);
pub(super) const UNKNOWN: Value = (0, false);

/// The bit of [`State::known`] for the flags.
const FLAGS: u32 = 31;

/// A thread as it would be.
pub(super) struct State {
    /// The general registers and what `decode` has behind them.
    general: [u64; 32],
    /// A bit for each of those that is known, and one for the flags.
    pub(super) known: u32,
    pub(super) flags: Flags,
    rip: u64,
}

impl State {
    pub(super) fn of(registers: &Registers) -> State {
        let mut general = [0; 32];
        general[..16].copy_from_slice(&registers.general);
        general[usize::from(FS)] = registers.fs;
        State {
            general,
            known: 0xffff | 1 << ZERO | 1 << IMMEDIATE | 1 << FS | 1 << FLAGS,
            flags: Flags::of(registers.flags),
            rip: registers.rip,
        }
    }

    #[inline]
    pub(super) fn register(&self, n: u8) -> Value {
        let known = self.known >> (n & 31) & 1 != 0;
        (self.general[usize::from(n & 31)], known)
    }

    /// Sets the low bytes of a register as instructions do.
    #[inline]
    pub(super) fn set(&mut self, n: u8, size: u8, (value, known): Value) {
        let slot = &mut self.general[usize::from(n & 31)];
        *slot = if size >= 4 {
            value & mask(size)
        } else {
            // What the rest was, if it is not known, is hardly looked at.
            *slot & !mask(size) | value & mask(size)
        };
        self.know(n, known);
    }

    #[inline]
    fn know(&mut self, n: u8, known: bool) {
        self.known = self.known & !(1 << (n & 31)) | u32::from(known) << (n & 31);
    }

    fn lose(&mut self, registers: u16) {
        self.known &= !u32::from(registers);
    }

    #[inline]
    pub(super) fn know_flags(&mut self, known: bool) {
        self.know(FLAGS as u8, known);
    }

    #[inline]
    pub(super) fn set_flags(&mut self, flags: Flags, known: bool) {
        self.flags = flags;
        self.know_flags(known);
    }

    #[inline]
    pub(super) fn flags_known(&self) -> bool {
        self.known >> FLAGS != 0
    }

    #[inline]
    fn address(&self, a: &Address) -> Value {
        let (base, known) = self.register(a.base);
        let (index, also) = self.register(a.index);
        let at = a
            .displacement
            .wrapping_add(base)
            .wrapping_add(index << (a.shift & 3));
        let at = if a.narrow { at & 0xffff_ffff } else { at };
        let (segment, _) = self.register(a.segment);
        (at.wrapping_add(segment), known && also)
    }
}

/// Follows the program until the world stops it, it can't be followed, or
/// `patience` instructions have found nothing. How many there were.
pub(super) fn run(
    decoded: &mut Decoded,
    stores: &mut Stores,
    registers: &Registers,
    patience: u64,
    world: &mut impl World,
) -> u64 {
    let mut run = Run::new(registers, stores, world);
    let (mut steps, mut end, mut found) = (0, patience, 0);
    while steps < end {
        let rip = run.state.rip;
        let block = decoded.block(rip, |at, bytes| {
            steps += DECODING;
            run.world.code(at, bytes)
        });
        let Some(last) = block.last() else {
            if run.world.is_code(rip) || !run.leave_function() {
                break;
            }
            steps += 1;
            continue;
        };
        run.state.rip = last.next();
        for op in block {
            run.step(op);
            steps += 1;
            if run.over {
                return steps;
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

    #[cfg(test)]
    pub(super) fn address_of(&self, op: &Op) -> Value {
        self.state.address(&op.address)
    }

    /// Code that is not the program's was called (the vDSO's): as if it had
    /// returned, with what functions may change unknown.
    fn leave_function(&mut self) -> bool {
        let (back, known) = self.pop();
        self.state.lose(CALLER_SAVED);
        self.state.know_flags(false);
        self.state.rip = back;
        known && !self.over && self.world.is_code(back)
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

    /// Loads the low `size` bytes, zero-extended; `store`: and stores to them
    /// after.
    #[inline]
    fn load(&mut self, (at, known): Value, size: u8, store: bool) -> Value {
        if !known {
            self.miss_sight();
            return UNKNOWN;
        }
        let len = u64::from(size);
        let here = self.touch(at, len, store);
        let memory = if here { self.world.load(at, len) } else { None };
        if here && memory.is_none() {
            // It went meanwhile, or may not be read.
            self.over = true;
        }
        let value = if self.stores.lacks(at, len) {
            memory.map(|value| value & mask(size))
        } else {
            self.stores.get(at, len, memory)
        };
        (value.unwrap_or(0), value.is_some())
    }

    #[inline]
    fn store(&mut self, (at, known): Value, size: u8, (value, is): Value) {
        if !known {
            self.miss_sight();
            return;
        }
        self.touch(at, u64::from(size), true);
        if !self.stores.put(at, u64::from(size), is.then_some(value)) {
            self.over = true;
        }
    }

    #[inline]
    pub(super) fn get(&mut self, op: &Op, n: usize, size: u8) -> Value {
        match op.args[n] {
            MEMORY => self.load(self.state.address(&op.address), size, n == 0 && op.stores),
            register => {
                let (value, known) = self.state.register(register);
                (value & mask(size), known)
            }
        }
    }

    #[inline]
    pub(super) fn put(&mut self, op: &Op, n: usize, size: u8, value: Value) {
        match op.args[n] {
            MEMORY => self.store(self.state.address(&op.address), size, value),
            register => self.state.set(register, size, value),
        }
    }

    fn push(&mut self, value: Value) {
        let (sp, known) = self.state.register(RSP);
        let sp = (sp.wrapping_sub(8), known);
        self.state.set(RSP, 8, sp);
        self.store(sp, 8, value);
    }

    fn pop(&mut self) -> Value {
        let (sp, known) = self.state.register(RSP);
        let value = self.load((sp, known), 8, false);
        self.state.set(RSP, 8, (sp.wrapping_add(8), known));
        value
    }

    fn jump(&mut self, (to, known): Value) {
        self.state.rip = to;
        if !known {
            self.over = true;
        }
    }

    /// Whether it is met, and whether that is known.
    #[inline]
    fn condition(&self, op: &Op) -> (bool, bool) {
        (
            self.state.flags.meets(op.condition),
            self.state.flags_known(),
        )
    }

    #[inline]
    pub(super) fn step(&mut self, op: &Op) {
        let size = op.size;
        self.state.general[usize::from(IMMEDIATE)] = op.immediate;
        match op.kind {
            Kind::Nothing => {}
            Kind::Copy | Kind::Store => {
                // Zero-extended where the source is smaller.
                let value = self.get(op, 1, op.from);
                self.put(op, 0, size, value);
            }
            Kind::Load => {
                let value = self.load(self.state.address(&op.address), op.from, false);
                self.state.set(op.args[0], size, value);
            }
            Kind::SignExtend => {
                let (value, known) = self.get(op, 1, op.from);
                let value = extended(value, op.from).cast_unsigned();
                self.put(op, 0, size, (value, known));
            }
            Kind::Lea => {
                let value = self.state.address(&op.address);
                self.put(op, 0, size, value);
            }
            Kind::Clear => {
                self.state
                    .set_flags(Flags::result(0, size, false, false), true);
                self.state.set(op.args[0], size, (0, true));
            }
            Kind::Add => {
                let (a, b, known) = self.operands(op);
                let (sum, over) = a.overflowing_add(b);
                self.sum(op, (a, b), sum, over, known);
            }
            Kind::Adc => {
                let (a, b, known) = self.operands(op);
                let known = known && self.state.flags_known();
                let (sum, over) = a.overflowing_add(b);
                let (sum, more) = sum.overflowing_add(self.state.flags.carry);
                self.sum(op, (a, b), sum, over || more, known);
            }
            Kind::Sub => {
                let (a, b, known) = self.operands(op);
                let rest = self.difference(op, (a, b), 0, known);
                self.put(op, 0, size, (rest, known));
            }
            Kind::Sbb => {
                let (a, b, known) = self.operands(op);
                let known = known && self.state.flags_known();
                let rest = self.difference(op, (a, b), self.state.flags.carry, known);
                self.put(op, 0, size, (rest, known));
            }
            Kind::Cmp => {
                let (a, b, known) = self.operands(op);
                self.difference(op, (a, b), 0, known);
            }
            Kind::And => {
                let (a, b, known) = self.operands(op);
                self.logic(op, a & b, known);
            }
            Kind::Or => {
                let (a, b, known) = self.operands(op);
                self.logic(op, a | b, known);
            }
            Kind::Xor => {
                let (a, b, known) = self.operands(op);
                self.logic(op, a ^ b, known);
            }
            Kind::Test => {
                let (a, b, known) = self.operands(op);
                let flags = Flags::result(a & b, size, false, false);
                self.state.set_flags(flags, known);
            }
            Kind::Inc | Kind::Dec | Kind::Neg | Kind::Not => self.unary(op),
            Kind::Shl | Kind::Shr | Kind::Sar | Kind::Rol | Kind::Ror => self.shift(op),
            Kind::Multiply => {
                let ((b, known), (c, also)) = (self.get(op, 1, size), self.get(op, 2, size));
                let wide = i128::from(extended(b, size)) * i128::from(extended(c, size));
                let (value, known) = (wide as u64, known && also);
                let over = wide != i128::from(extended(value, size));
                self.state
                    .set_flags(Flags::result(value, size, over, over), known);
                self.put(op, 0, size, (value, known));
            }
            Kind::MultiplyWide { signed } => self.multiply_wide(op, signed),
            Kind::Divide { signed } => self.divide(op, signed),
            Kind::SignOf => {
                let (value, known) = self.state.register(RAX);
                let fill = if sign(value, size) { u64::MAX } else { 0 };
                self.state.set(RDX, size, (fill, known));
            }
            Kind::Exchange => {
                let (a, b) = (self.get(op, 0, size), self.get(op, 1, size));
                self.put(op, 0, size, b);
                self.put(op, 1, size, a);
            }
            Kind::Swap => {
                let (value, known) = self.get(op, 0, size);
                let swapped = value.swap_bytes() >> ((64 - 8 * u32::from(size)) & 63);
                self.put(op, 0, size, (swapped, known));
            }
            Kind::BitForward
            | Kind::BitReverse
            | Kind::TrailingZeros
            | Kind::LeadingZeros
            | Kind::Population => self.count(op),
            Kind::BitTest => {
                let ((value, known), (bit, also)) = (self.get(op, 0, size), self.get(op, 1, size));
                self.state.flags.carry = value >> (bit % (8 * u64::from(size))) & 1;
                let had = self.state.flags_known();
                self.state.know_flags(had && known && also);
            }
            Kind::Push => {
                let value = self.get(op, 0, 8);
                self.push(value);
            }
            Kind::Pop => {
                let value = self.pop();
                self.put(op, 0, 8, value);
            }
            Kind::Leave => {
                let frame = self.state.register(RBP);
                self.state.set(RSP, 8, frame);
                let value = self.pop();
                self.state.set(RBP, 8, value);
            }
            Kind::Set => {
                let (meets, known) = self.condition(op);
                self.put(op, 0, 1, (u64::from(meets), known));
            }
            Kind::MoveIf => {
                let (old, new) = (self.get(op, 0, size), self.get(op, 1, size));
                let (meets, known) = self.condition(op);
                let (value, is) = if meets { new } else { old };
                self.put(op, 0, size, (value, known && is));
            }
            Kind::Jump => {
                let to = self.get(op, 0, 8);
                self.jump(to);
            }
            Kind::JumpIf => {
                let (mut taken, known) = self.condition(op);
                if known {
                    op.taken.set(Some(taken));
                } else {
                    // As it was the last time, or as loops do.
                    taken = op.taken.get().unwrap_or(op.immediate <= op.at);
                    self.guesses += 1;
                    if self.guesses > GUESSES {
                        self.over = true;
                    }
                }
                if taken {
                    self.state.rip = op.immediate;
                }
            }
            Kind::Call => {
                let to = self.get(op, 0, 8);
                self.push((op.next(), true));
                self.jump(to);
            }
            Kind::Return => {
                let to = self.pop();
                // `ret n`; n is 0 where there is none.
                let (sp, known) = self.state.register(RSP);
                self.state
                    .set(RSP, 8, (sp.wrapping_add(op.immediate), known));
                self.jump(to);
            }
            Kind::Clock => {
                self.clock += CLOCK_STEP;
                self.state.set(RAX, 4, (self.clock, true));
                self.state.set(RDX, 4, (self.clock >> 32, true));
                self.state.lose(op.lost);
            }
            Kind::Other => self.other(op),
        }
    }

    fn other(&mut self, op: &Op) {
        let (at, known) = self.state.address(&op.address);
        let len = u64::from(op.from);
        if !known && (op.loads || op.stores) {
            self.miss_sight();
        } else if op.stores {
            self.touch(at, len, true);
            // Where there is no room: what was there before will do.
            let mut parts = (0..len).step_by(8);
            parts.all(|n| (self.stores).put(at.wrapping_add(n), (len - n).min(8), None));
        } else if op.loads {
            self.touch(at, len, false);
        }
        self.state.lose(op.lost);
        if op.flags {
            self.state.know_flags(false);
        }
    }
}
