//! The arithmetic flags.

const CF: u64 = 1;
const PF: u64 = 1 << 2;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;

/// The arithmetic flags, as what they come of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags {
    /// The result, sign-extended.
    pub(super) value: i64,
    pub(super) carry: bool,
    pub(super) overflow: bool,
}

/// Of each pair of conditions as iced numbers them (the second is the first one's
/// opposite), a bit for each combination of overflow, carry, zero, sign: whether
/// the first is met.
const CONDITIONS: [u16; 8] = {
    let mut table = [0; 8];
    let mut n = 0;
    while n < 16 {
        let (overflow, carry) = (n & 1 != 0, n & 2 != 0);
        let (zero, sign) = (n & 4 != 0, n & 8 != 0);
        let less = sign != overflow;
        let met = [
            overflow,
            carry,
            zero,
            carry || zero,
            sign,
            false,
            less,
            less || zero,
        ];
        let mut pair = 0;
        while pair < 8 {
            table[pair] |= (met[pair] as u16) << n;
            pair += 1;
        }
        n += 1;
    }
    table
};
/// Of [`CONDITIONS`]: that of parity, which is not among them.
const PARITY: usize = 5;

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
            carry: rflags & CF != 0,
            overflow: rflags & OF != 0,
        }
    }

    /// As RFLAGS has them.
    #[cfg(test)]
    pub(super) fn rflags(self) -> u64 {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        bit(self.value == 0, ZF)
            | bit(self.value < 0, SF)
            | bit(self.carry, CF)
            | bit(self.overflow, OF)
            | bit(self.parity(), PF)
    }

    fn parity(self) -> bool {
        (self.value as u8).count_ones().is_multiple_of(2)
    }

    /// Conditions as iced numbers them, from 1 on.
    #[inline]
    pub(super) fn meets(self, condition: u8) -> bool {
        let pair = usize::from(condition.wrapping_sub(1) / 2) % 8;
        let is = if pair == PARITY {
            self.parity()
        } else {
            let bits = u32::from(self.overflow)
                | u32::from(self.carry) << 1
                | u32::from(self.value == 0) << 2
                | u32::from(self.value < 0) << 3;
            CONDITIONS[pair] >> bits & 1 != 0
        };
        is != condition.is_multiple_of(2)
    }
}

/// The bits of an operand of `size` bytes (1 to 8).
#[inline]
pub(super) fn mask(size: u8) -> u64 {
    u64::MAX >> above(size)
}

/// How many bits of 64 are above an operand of `size` bytes (1 to 8).
#[inline]
pub(super) fn above(size: u8) -> u32 {
    (64 - 8 * u32::from(size)) & 63
}

#[inline]
pub(super) fn sign(value: u64, size: u8) -> bool {
    (value << above(size)).cast_signed() < 0
}

#[inline]
pub(super) fn extended(value: u64, from: u8) -> i64 {
    (value << above(from)).cast_signed() >> above(from)
}
