//! The interpreter. See the Intel SDM, volume 2, for what instructions do.

use super::decode::{
    ABSENT, Address, CALLER_SAVED, Decoded, FS, IMMEDIATE, Kind, MEMORY, Op, RAX, RBP, RDX, RSP,
    ZERO,
};
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

const CF: u64 = 1;
const PF: u64 = 1 << 2;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;

/// A value, and whether it is known.
pub(super) type Value = (u64, bool);
const UNKNOWN: Value = (0, false);

/// The arithmetic flags, as what they come of. (In words of their own: what is
/// written as bytes and read as one word costs more than the arithmetic.)
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags {
    /// The result, sign-extended.
    value: i64,
    carry: u64,
    overflow: u64,
}

impl Flags {
    pub(super) fn of(rflags: u64) -> Flags {
        let odd = i64::from(rflags & PF == 0);
        Flags {
            value: match (rflags & ZF != 0, rflags & SF != 0) {
                (true, _) => 0,
                (_, true) => i64::MIN | odd,
                // Of even parity, or of odd.
                _ => 3 - odd,
            },
            carry: rflags & CF,
            overflow: u64::from(rflags & OF != 0),
        }
    }

    /// As RFLAGS has them.
    #[cfg(test)]
    pub(super) fn rflags(self) -> u64 {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        bit(self.value == 0, ZF)
            | bit(self.value < 0, SF)
            | bit(self.carry != 0, CF)
            | bit(self.overflow != 0, OF)
            | bit(self.parity(), PF)
    }

    #[inline]
    fn result(value: u64, size: u8, carry: bool, overflow: bool) -> Flags {
        Flags {
            value: extended(value, size),
            carry: carry.into(),
            overflow: overflow.into(),
        }
    }

    fn parity(self) -> bool {
        (self.value as u8).count_ones().is_multiple_of(2)
    }

    /// Conditions as iced numbers them: each odd one's opposite follows it.
    #[inline]
    fn meets(self, condition: u8) -> bool {
        let less = || (self.value < 0) != (self.overflow != 0);
        let is = match (condition.wrapping_sub(1)) / 2 {
            0 => self.overflow != 0,
            1 => self.carry != 0,
            2 => self.value == 0,
            3 => self.carry != 0 || self.value == 0,
            4 => self.value < 0,
            5 => self.parity(),
            6 => less(),
            _ => less() || self.value == 0,
        };
        is != condition.is_multiple_of(2)
    }
}

/// The bits of an operand of `size` bytes (1 to 8).
#[inline]
pub(super) fn mask(size: u8) -> u64 {
    u64::MAX >> ((64 - 8 * u32::from(size)) & 63)
}

#[inline]
fn sign(value: u64, size: u8) -> bool {
    value >> ((8 * u32::from(size) - 1) & 63) & 1 != 0
}

#[inline]
fn extended(value: u64, from: u8) -> i64 {
    let shift = (64 - 8 * u32::from(from)) & 63;
    (value << shift).cast_signed() >> shift
}

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
    fn set(&mut self, n: u8, size: u8, (value, known): Value) {
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
    fn set_flags(&mut self, flags: Flags, known: bool) {
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

/// Why a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// The world has what it wanted.
    Stopped,
    /// There is no room for more stores, or too much was guessed.
    Spent,
    /// A place, or a fault, beyond which it can't be followed.
    Lost,
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
            if run.end.is_some() {
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
    end: Option<End>,
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
            end: None,
        }
    }

    #[cfg(test)]
    pub(super) fn address_of(&self, op: &Op) -> Value {
        self.state.address(&op.address)
    }

    #[cfg(test)]
    pub(super) fn is_over(&self) -> bool {
        self.end.is_some()
    }

    /// Code that is not the program's was called (the vDSO's): as if it had
    /// returned, with what functions may change unknown.
    fn leave_function(&mut self) -> bool {
        let (back, known) = self.pop();
        self.state.lose(CALLER_SAVED);
        self.state.know_flags(false);
        self.state.rip = back;
        known && self.end.is_none() && self.world.is_code(back)
    }

    #[inline]
    fn touch(&mut self, at: u64, size: u64, store: bool) -> bool {
        match self.world.touch(at, size, store) {
            Touch::Here => true,
            Touch::Away => false,
            Touch::Stop => {
                self.end = Some(End::Stopped);
                false
            }
        }
    }

    fn miss_sight(&mut self) {
        self.blind += 1;
        if self.blind > BLIND {
            self.end = Some(End::Spent);
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
            self.end = Some(End::Lost);
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
            self.end = Some(End::Spent);
        }
    }

    #[inline]
    fn get(&mut self, op: &Op, n: usize, size: u8) -> Value {
        match op.args[n] {
            MEMORY => self.load(self.state.address(&op.address), size, n == 0 && op.stores),
            register => {
                let (value, known) = self.state.register(register);
                (value & mask(size), known)
            }
        }
    }

    #[inline]
    fn put(&mut self, op: &Op, n: usize, size: u8, value: Value) {
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
            self.end = Some(End::Lost);
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
            Kind::Copy | Kind::Store | Kind::Move => {
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
                        self.end = Some(End::Spent);
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

    #[inline]
    fn operands(&mut self, op: &Op) -> (u64, u64, bool) {
        let (a, known) = self.get(op, 0, op.size);
        let (b, also) = self.get(op, 1, op.size);
        (a, b, known && also)
    }

    /// `over`: it did not fit 64 bits.
    #[inline]
    fn sum(&mut self, op: &Op, (a, b): (u64, u64), sum: u64, over: bool, known: bool) {
        let size = op.size;
        let carry = over || sum & !mask(size) != 0;
        let overflow = sign((a ^ sum) & (b ^ sum), size);
        self.state
            .set_flags(Flags::result(sum, size, carry, overflow), known);
        self.put(op, 0, size, (sum, known));
    }

    #[inline]
    fn difference(&mut self, op: &Op, (a, b): (u64, u64), borrow: u64, known: bool) -> u64 {
        let size = op.size;
        let (rest, under) = a.overflowing_sub(b);
        let (rest, more) = rest.overflowing_sub(borrow);
        let overflow = sign((a ^ b) & (a ^ rest), size);
        let flags = Flags::result(rest, size, under || more, overflow);
        self.state.set_flags(flags, known);
        rest
    }

    #[inline]
    fn logic(&mut self, op: &Op, value: u64, known: bool) {
        let flags = Flags::result(value, op.size, false, false);
        self.state.set_flags(flags, known);
        self.put(op, 0, op.size, (value, known));
    }

    fn unary(&mut self, op: &Op) {
        let size = op.size;
        let (a, known) = self.get(op, 0, size);
        let kept = known && self.state.flags_known();
        let carry = self.state.flags.carry != 0;
        let top = mask(size) ^ (mask(size) >> 1);
        let value = match op.kind {
            Kind::Inc => a.wrapping_add(1),
            Kind::Dec => a.wrapping_sub(1),
            Kind::Neg => a.wrapping_neg(),
            _ => !a,
        } & mask(size);
        match op.kind {
            Kind::Inc => {
                let flags = Flags::result(value, size, carry, value == top);
                self.state.set_flags(flags, kept);
            }
            Kind::Dec => {
                let flags = Flags::result(value, size, carry, a == top);
                self.state.set_flags(flags, kept);
            }
            Kind::Neg => {
                let flags = Flags::result(value, size, a != 0, a == top);
                self.state.set_flags(flags, known);
            }
            _ => {}
        }
        self.put(op, 0, size, (value, known));
    }

    #[inline]
    fn shift(&mut self, op: &Op) {
        let size = op.size;
        let bits = 8 * u32::from(size);
        let (a, known) = self.get(op, 0, size);
        // By one, where no count is given.
        let (count, also) = match op.args[1] {
            ABSENT => (1, true),
            _ => self.get(op, 1, 1),
        };
        let known = known && also;
        let count = count as u32 & if size == 8 { 63 } else { 31 };
        if count == 0 {
            let kept = known && self.state.flags_known();
            self.state.know_flags(kept);
            return self.put(op, 0, size, (a, known));
        }
        let turn = count % bits;
        let rotated = |left: u32| match left {
            0 => a,
            _ => (a << left | a >> (bits - left)) & mask(size),
        };
        let (value, carry, overflow) = match op.kind {
            Kind::Shl => {
                let carry = count <= bits && a >> (bits - count) & 1 != 0;
                let value = (a << count) & mask(size);
                (value, carry, sign(value, size) != carry)
            }
            Kind::Shr => (a >> count, a >> (count - 1) & 1 != 0, sign(a, size)),
            Kind::Sar => {
                let wide = extended(a, size);
                let value = (wide >> count).cast_unsigned() & mask(size);
                (value, wide >> (count - 1) & 1 != 0, false)
            }
            Kind::Rol => {
                let value = rotated(turn);
                let carry = value & 1 != 0;
                (value, carry, sign(value, size) != carry)
            }
            _ => {
                let value = rotated((bits - turn) % bits);
                let carry = sign(value, size);
                (value, carry, carry != (value >> (bits - 2) & 1 != 0))
            }
        };
        let mut flags = Flags::result(value, size, carry, overflow);
        let mut flags_known = known;
        if matches!(op.kind, Kind::Rol | Kind::Ror) {
            // They leave the others as they are.
            flags.value = self.state.flags.value;
            flags_known &= self.state.flags_known();
        }
        self.state.set_flags(flags, flags_known);
        self.put(op, 0, size, (value, known));
    }

    fn multiply_wide(&mut self, op: &Op, signed: bool) {
        let size = op.size;
        let (a, known) = self.get(op, 0, size);
        let (b, also) = self.state.register(RAX);
        let (b, known) = (b & mask(size), known && also);
        let product = if signed {
            (i128::from(extended(a, size)) * i128::from(extended(b, size))).cast_unsigned()
        } else {
            u128::from(a) * u128::from(b)
        };
        let low = product as u64 & mask(size);
        let high = (product >> (8 * u32::from(size))) as u64 & mask(size);
        let fill = if signed && sign(low, size) {
            mask(size)
        } else {
            0
        };
        let over = high != fill;
        self.state
            .set_flags(Flags::result(low, size, over, over), known);
        self.set_pair(size, (low, known), (high, known));
    }

    /// rdx:rax, or ax of bytes.
    fn set_pair(&mut self, size: u8, low: Value, high: Value) {
        if size == 1 {
            let both = (low.0 | high.0 << 8, low.1 && high.1);
            self.state.set(RAX, 2, both);
        } else {
            self.state.set(RAX, size, low);
            self.state.set(RDX, size, high);
        }
    }

    fn divide(&mut self, op: &Op, signed: bool) {
        let size = op.size;
        let bits = 8 * u32::from(size);
        let (b, known) = self.get(op, 0, size);
        let (rax, low_known) = self.state.register(RAX);
        let (rdx, high_known) = self.state.register(RDX);
        self.state.know_flags(false);
        let (a, known) = if size == 1 {
            (u128::from(rax & 0xffff), known && low_known)
        } else {
            let both = u128::from(rax & mask(size)) | u128::from(rdx & mask(size)) << bits;
            (both, known && low_known && high_known)
        };
        if !known {
            return self.set_pair(size, UNKNOWN, UNKNOWN);
        }
        let halves = if signed {
            let shift = 128 - 2 * bits;
            let (a, b) = (
                (a << shift).cast_signed() >> shift,
                i128::from(extended(b, size)),
            );
            let halves = a.checked_div(b).zip(a.checked_rem(b));
            let halves = halves.filter(|(q, _)| *q == i128::from(extended(*q as u64, size)));
            halves.map(|(q, r)| (q as u64, r as u64))
        } else {
            let b = u128::from(b);
            let halves = a.checked_div(b).zip(a.checked_rem(b));
            let halves = halves.filter(|(q, _)| *q <= u128::from(mask(size)));
            halves.map(|(q, r)| (q as u64, r as u64))
        };
        match halves {
            Some((quotient, rest)) => self.set_pair(
                size,
                (quotient & mask(size), true),
                (rest & mask(size), true),
            ),
            // The program would get SIGFPE.
            None => self.end = Some(End::Lost),
        }
    }

    fn count(&mut self, op: &Op) {
        let size = op.size;
        let bits = 8 * u64::from(size);
        let (a, known) = self.get(op, 1, size);
        let zero = a == 0;
        let trailing = u64::from(a.trailing_zeros()).min(bits);
        let leading = u64::from(a.leading_zeros()) + bits - 64;
        let value = match op.kind {
            Kind::BitForward | Kind::TrailingZeros => trailing,
            Kind::BitReverse => (bits - 1).wrapping_sub(leading),
            Kind::LeadingZeros => leading,
            _ => u64::from(a.count_ones()),
        };
        let counts = matches!(op.kind, Kind::TrailingZeros | Kind::LeadingZeros);
        let shows = if counts { value } else { a };
        let mut flags = Flags::result(shows, size, counts && zero, false);
        // ZF alone is defined.
        flags.value = i64::from(shows != 0);
        self.state.set_flags(flags, known);
        // Of zero there is no first bit: the destination stays as it is (AMD64
        // says so; others do it).
        if !(zero && known && matches!(op.kind, Kind::BitForward | Kind::BitReverse)) {
            self.put(op, 0, size, (value, known));
        }
    }
}
