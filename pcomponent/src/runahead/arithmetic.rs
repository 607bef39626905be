//! What integer instructions compute (Intel SDM, volume 2).

use super::World;
use super::decode::{ABSENT, Kind, Op, RAX, RDX};
use super::execute::{Run, UNKNOWN, Value};
use super::flags::{Flags, extended, mask, sign};

impl<W: World> Run<'_, W> {
    #[inline]
    pub(super) fn operands(&mut self, op: &Op) -> (u64, u64, bool) {
        let (a, known) = self.get(op, 0, op.size);
        let (b, also) = self.get(op, 1, op.size);
        (a, b, known && also)
    }

    /// `over`: it did not fit 64 bits.
    #[inline]
    pub(super) fn sum(&mut self, op: &Op, (a, b): (u64, u64), sum: u64, over: bool, known: bool) {
        let size = op.size;
        let carry = over || sum & !mask(size) != 0;
        let overflow = sign((a ^ sum) & (b ^ sum), size);
        self.state
            .set_flags(Flags::result(sum, size, carry, overflow), known);
        self.put(op, 0, size, (sum, known));
    }

    #[inline]
    pub(super) fn difference(
        &mut self,
        op: &Op,
        (a, b): (u64, u64),
        borrow: u64,
        known: bool,
    ) -> u64 {
        let size = op.size;
        let (rest, under) = a.overflowing_sub(b);
        let (rest, more) = rest.overflowing_sub(borrow);
        let overflow = sign((a ^ b) & (a ^ rest), size);
        let flags = Flags::result(rest, size, under || more, overflow);
        self.state.set_flags(flags, known);
        rest
    }

    #[inline]
    pub(super) fn logic(&mut self, op: &Op, value: u64, known: bool) {
        let flags = Flags::result(value, op.size, false, false);
        self.state.set_flags(flags, known);
        self.put(op, 0, op.size, (value, known));
    }

    pub(super) fn unary(&mut self, op: &Op) {
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
    pub(super) fn shift(&mut self, op: &Op) {
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

    pub(super) fn multiply_wide(&mut self, op: &Op, signed: bool) {
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
    pub(super) fn set_pair(&mut self, size: u8, low: Value, high: Value) {
        if size == 1 {
            let both = (low.0 | high.0 << 8, low.1 && high.1);
            self.state.set(RAX, 2, both);
        } else {
            self.state.set(RAX, size, low);
            self.state.set(RDX, size, high);
        }
    }

    pub(super) fn divide(&mut self, op: &Op, signed: bool) {
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
            None => self.over = true,
        }
    }

    pub(super) fn count(&mut self, op: &Op) {
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
