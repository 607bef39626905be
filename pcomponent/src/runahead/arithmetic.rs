//! What integer instructions compute (Intel SDM, volume 2).

use super::execute::State;
use super::flags::{Flags, above, extended, mask, sign};
use super::op::{FLAGS, Kind, Op, RAX, RDX, Reg, bit};

impl State {
    #[inline]
    fn show(&mut self, op: &Op, value: u64, carry: bool, overflow: bool) {
        if op.shows {
            self.flags = Flags {
                value: extended(value, op.size),
                carry,
                overflow,
            };
        }
    }

    #[inline]
    pub(super) fn logic(&mut self, op: &Op, value: u64) {
        self.show(op, value, false, false);
        self.put(op, value);
    }

    #[inline]
    pub(super) fn sum(&mut self, op: &Op, more: bool) {
        let (a, b, more) = (self.get(op.a), self.b(op), u64::from(more));
        let sum = a.wrapping_add(b).wrapping_add(more);
        if op.shows {
            // At the top of 64 bits carry and overflow come by themselves.
            let up = above(op.size);
            let (a, b) = (a << up, b << up);
            let (low, carry) = a.overflowing_add(b);
            let (top, again) = low.overflowing_add(more << up);
            let overflow = ((a ^ top) & (b ^ top)).cast_signed() < 0;
            self.show(op, sum, carry || again, overflow);
        }
        self.put(op, sum);
    }

    #[inline]
    pub(super) fn difference(&mut self, op: &Op, less: bool) {
        let (a, b, less) = (self.get(op.a), self.b(op), u64::from(less));
        let rest = a.wrapping_sub(b).wrapping_sub(less);
        if op.shows {
            let up = above(op.size);
            let (a, b) = (a << up, b << up);
            let (low, carry) = a.overflowing_sub(b);
            let (top, again) = low.overflowing_sub(less << up);
            let overflow = ((a ^ b) & (a ^ top)).cast_signed() < 0;
            self.show(op, rest, carry || again, overflow);
        }
        self.put(op, rest);
    }

    /// One of those that are not so frequent, with all known that it needs. False: it
    /// can't be done.
    #[inline(never)]
    pub(super) fn compute(&mut self, op: &Op) -> bool {
        let size = op.size;
        match op.kind {
            Kind::SignExtend => {
                let value = extended(self.b(op), op.from).cast_unsigned();
                self.put(op, value);
            }
            Kind::Adc => self.sum(op, self.flags.carry),
            Kind::Sbb => self.difference(op, self.flags.carry),
            Kind::Rol | Kind::Ror => self.rotate(op),
            Kind::Multiply => {
                let (a, b) = (extended(self.get(op.a), size), extended(self.b(op), size));
                let wide = i128::from(a) * i128::from(b);
                let over = wide != i128::from(extended(wide as u64, size));
                self.show(op, wide as u64, over, over);
                self.put(op, wide as u64);
            }
            Kind::Inc | Kind::Dec | Kind::Neg => self.unary(op),
            Kind::Not => self.put(op, !self.get(op.a)),
            Kind::Swap => {
                let value = self.get(op.a).swap_bytes() >> above(size);
                self.put(op, value);
            }
            Kind::MultiplyWide { signed } => self.multiply_wide(op, signed),
            Kind::Divide { signed } => return self.divide(op, signed),
            Kind::SignOf => {
                let fill = if sign(self.get(op.a), size) {
                    u64::MAX
                } else {
                    0
                };
                self.put(op, fill);
            }
            Kind::BitTest => {
                let bit = self.b(op) % (8 * u64::from(size));
                self.flags.carry = self.get(op.a) >> bit & 1 != 0;
            }
            _ => self.count(op),
        }
        true
    }

    fn unary(&mut self, op: &Op) {
        let (size, a) = (op.size, self.get(op.a) & mask(op.size));
        let top = mask(size) ^ (mask(size) >> 1);
        let carry = self.flags.carry;
        let (value, carry, overflow) = match op.kind {
            Kind::Inc => (a.wrapping_add(1), carry, a == top - 1),
            Kind::Dec => (a.wrapping_sub(1), carry, a == top),
            _ => (a.wrapping_neg(), a != 0, a == top),
        };
        self.show(op, value, carry, overflow);
        self.put(op, value);
    }

    /// By how much, of 32 bits or 64.
    fn shift_count(&self, op: &Op) -> u32 {
        self.b(op) as u32 & if op.size == 8 { 63 } else { 31 }
    }

    #[inline]
    pub(super) fn shift(&mut self, op: &Op) {
        let (a, count) = (self.get(op.a) & op.mask, self.shift_count(op));
        let value = match op.kind {
            Kind::Shl => a << count,
            Kind::Shr => a >> count,
            _ => (extended(a, op.size) >> count).cast_unsigned(),
        };
        if op.shows && count != 0 {
            let (size, bits) = (op.size, 8 * u32::from(op.size));
            // The last bit that went.
            let carry = match op.kind {
                Kind::Shl => count <= bits && a >> (bits - count) & 1 != 0,
                Kind::Shr => a >> (count - 1) & 1 != 0,
                _ => extended(a, size) >> (count - 1) & 1 != 0,
            };
            let overflow = match op.kind {
                Kind::Shl => sign(value, size) != carry,
                Kind::Shr => sign(a, size),
                _ => false,
            };
            self.show(op, value, carry, overflow);
            self.known |= FLAGS;
        }
        self.put(op, value);
    }

    /// Carry and overflow alone change.
    fn rotate(&mut self, op: &Op) {
        let (size, count) = (op.size, self.shift_count(op));
        let (a, bits) = (self.get(op.a) & mask(size), 8 * u32::from(size));
        let turned = |left: u32| match left % bits {
            0 => a,
            left => (a << left | a >> (bits - left)) & mask(size),
        };
        let left = op.kind == Kind::Rol;
        let value = turned(if left { count } else { bits - count % bits });
        if count != 0 {
            let top = sign(value, size);
            self.flags.carry = if left { value & 1 != 0 } else { top };
            let beside = if left {
                self.flags.carry
            } else {
                value >> (bits - 2) & 1 != 0
            };
            self.flags.overflow = top != beside;
        }
        self.put(op, value);
    }

    fn multiply_wide(&mut self, op: &Op, signed: bool) {
        let size = op.size;
        let (a, b) = (self.get(op.a), self.get(RAX));
        let product = if signed {
            (i128::from(extended(a, size)) * i128::from(extended(b, size))).cast_unsigned()
        } else {
            u128::from(a & mask(size)) * u128::from(b & mask(size))
        };
        let low = product as u64 & mask(size);
        let high = (product >> (8 * u32::from(size))) as u64 & mask(size);
        let fill = if signed && sign(low, size) {
            mask(size)
        } else {
            0
        };
        let over = high != fill;
        self.show(op, low, over, over);
        self.set_pair(size, low, high);
    }

    /// Sets the low bytes of a register as instructions do.
    fn merge(&mut self, register: Reg, size: u8, value: u64) {
        let kept = if size < 4 {
            self.get(register) & !mask(size)
        } else {
            0
        };
        self.set(register, kept | value & mask(size));
    }

    /// rdx:rax, or ax of bytes.
    fn set_pair(&mut self, size: u8, low: u64, high: u64) {
        if size == 1 {
            self.merge(RAX, 2, low & mask(1) | high << 8);
        } else {
            self.merge(RAX, size, low);
            self.merge(RDX, size, high);
        }
    }

    fn divide(&mut self, op: &Op, signed: bool) -> bool {
        let size = op.size;
        let bits = 8 * u32::from(size);
        let (b, rax, rdx) = (
            self.get(op.a) & mask(size),
            self.get(RAX),
            self.get(RDX) & mask(size),
        );
        self.known &= !FLAGS;
        let a = if size == 1 {
            u128::from(rax & 0xffff)
        } else {
            u128::from(rax & mask(size)) | u128::from(rdx) << bits
        };
        let halves = if signed {
            let shift = 128 - 2 * bits;
            let a = (a << shift).cast_signed() >> shift;
            let b = i128::from(extended(b, size));
            let halves = a.checked_div(b).zip(a.checked_rem(b));
            let halves = halves.filter(|(q, _)| *q == i128::from(extended(*q as u64, size)));
            halves.map(|(q, r)| (q as u64, r as u64))
        } else {
            let b = u128::from(b);
            let halves = a.checked_div(b).zip(a.checked_rem(b));
            let halves = halves.filter(|(q, _)| *q <= u128::from(mask(size)));
            halves.map(|(q, r)| (q as u64, r as u64))
        };
        if let Some((quotient, rest)) = halves {
            self.set_pair(size, quotient, rest);
        }
        halves.is_some()
    }

    fn count(&mut self, op: &Op) {
        let size = op.size;
        let bits = 8 * u64::from(size);
        let a = self.b(op) & mask(size);
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
        // ZF alone is defined, and of these the carry.
        let shown = if counts { value } else { a };
        self.flags = Flags {
            value: i64::from(shown != 0),
            carry: counts && zero,
            overflow: false,
        };
        // Of zero there is no first bit: the destination stays as it is (AMD64
        // says so; others do it).
        if !(zero && matches!(op.kind, Kind::BitForward | Kind::BitReverse)) {
            self.known |= bit(op.d);
            self.put(op, value);
        }
    }
}
