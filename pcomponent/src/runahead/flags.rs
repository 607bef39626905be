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
    pub(super) carry: u64,
    pub(super) overflow: u64,
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
    pub(super) fn result(value: u64, size: u8, carry: bool, overflow: bool) -> Flags {
        Flags {
            value: extended(value, size),
            carry: carry.into(),
            overflow: overflow.into(),
        }
    }

    pub(super) fn parity(self) -> bool {
        (self.value as u8).count_ones().is_multiple_of(2)
    }

    /// Conditions as iced numbers them: each odd one's opposite follows it.
    #[inline]
    pub(super) fn meets(self, condition: u8) -> bool {
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
pub(super) fn sign(value: u64, size: u8) -> bool {
    value >> ((8 * u32::from(size) - 1) & 63) & 1 != 0
}

#[inline]
pub(super) fn extended(value: u64, from: u8) -> i64 {
    let shift = (64 - 8 * u32::from(from)) & 63;
    (value << shift).cast_signed() >> shift
}
