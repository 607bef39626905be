//! The simple operations that instructions are taken apart into.

use super::flags::mask;
use std::cell::Cell;

/// Registers that a function may leave changed (System V ABI, x86-64).
pub(super) const CALLER_SAVED: u32 = 0b0000_1111_1100_0111;

/// A register.
pub(super) type Reg = u8;
pub(super) const RAX: Reg = 0;
pub(super) const RCX: Reg = 1;
pub(super) const RDX: Reg = 2;
pub(super) const RSP: Reg = 4;
pub(super) const RBP: Reg = 5;
/// Behind the sixteen: one that is always zero.
pub(super) const ZERO: Reg = 16;
/// The base of FS.
pub(super) const FS: Reg = 17;
/// What an instruction has loaded, and what it does not keep.
pub(super) const LOADED: Reg = 18;
pub(super) const DROPPED: Reg = 19;
/// How many there are, rounded up.
pub(super) const REGISTERS: usize = 32;

/// A bit for each register, and the last one for the flags.
pub(super) const fn bit(register: Reg) -> u32 {
    1 << (register & 31)
}
pub(super) const FLAGS: u32 = bit(31);

/// What an operation does. `b` is the register, plus the immediate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// `d` = so many bytes of `b`, zero-extended.
    Copy,
    /// `d` = so many bytes of memory, zero-extended.
    Load,
    /// Memory = `b`.
    Store,
    /// `d` = so many bytes of `b`, sign-extended.
    SignExtend,
    /// `d` = the address.
    Lea,
    /// `d` = `a` ... `b`.
    Add,
    Adc,
    Sub,
    Sbb,
    And,
    Or,
    Xor,
    Shl,
    Shr,
    Sar,
    Rol,
    Ror,
    /// Truncated.
    Multiply,
    /// `d` = ... `a`.
    Inc,
    Dec,
    Neg,
    Not,
    Swap,
    /// rdx:rax = rax * `a`.
    MultiplyWide {
        signed: bool,
    },
    /// rdx:rax / `a`.
    Divide {
        signed: bool,
    },
    /// rax extended into rdx (cwd, cdq, cqo).
    SignOf,
    /// `d` = ... `b`.
    BitForward,
    BitReverse,
    TrailingZeros,
    LeadingZeros,
    Population,
    /// The carry is bit `b` of `a`.
    BitTest,
    /// `d` = the condition.
    Set,
    /// `d` = `b` where the condition is met, `a` where not.
    MoveIf,
    /// To `b`.
    Jump,
    JumpIf,
    Clock,
    /// Touches memory and loses registers, no more is known.
    Other,
}

/// The memory operand: base + index << shift + displacement + segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    pub(super) displacement: u64,
    pub(super) base: Reg,
    pub(super) index: Reg,
    pub(super) shift: u8,
    pub(super) segment: Reg,
    /// Of 32 bits.
    pub(super) narrow: bool,
}

impl Address {
    pub(super) const NONE: Address = Address {
        displacement: 0,
        base: ZERO,
        index: ZERO,
        shift: 0,
        segment: ZERO,
        narrow: false,
    };

    pub(super) fn registers(&self) -> u32 {
        bit(self.base) | bit(self.index) | bit(self.segment)
    }
}

/// A decoded operation.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) immediate: u64,
    pub(super) address: Address,
    /// What must be known for it to be carried out; what is known then; what is not
    /// known any more if it can't be, or after one that is not understood.
    pub(super) needs: u32,
    pub(super) gives: u32,
    pub(super) spoils: u32,
    pub(super) kind: Kind,
    /// Bytes of the operation, and those that it loads or extends.
    pub(super) size: u8,
    pub(super) from: u8,
    /// Of a register: the bits of the operation, and those that it leaves.
    pub(super) mask: u64,
    pub(super) kept: u64,
    pub(super) a: Reg,
    pub(super) b: Reg,
    pub(super) d: Reg,
    /// As iced numbers conditions.
    pub(super) condition: u8,
    /// Whether anyone looks at the flags that it sets.
    pub(super) shows: bool,
    /// What an `Other` does; a load that also stores is of bytes that are stored to
    /// next.
    pub(super) loads: bool,
    pub(super) stores: bool,
    /// Whether a branch leads back.
    pub(super) back: bool,
    /// Whether it was taken the last time that its condition was known.
    pub(super) taken: Cell<Option<bool>>,
}

impl Op {
    /// What it needs and gives is not said yet.
    pub(super) fn new(kind: Kind, size: u8, a: Reg, (b, immediate): (Reg, u64)) -> Op {
        Op {
            immediate,
            address: Address::NONE,
            needs: 0,
            gives: 0,
            spoils: 0,
            kind,
            size,
            from: size,
            mask: mask(size),
            // The upper half goes with the lower one (Intel SDM, volume 1, 3.4.1.1).
            kept: if size < 4 { !mask(size) } else { 0 },
            a,
            b,
            d: DROPPED,
            condition: 0,
            shows: true,
            loads: false,
            stores: false,
            back: false,
            taken: Cell::new(None),
        }
    }

    /// Says what it needs and gives.
    pub(super) fn depend(&mut self) {
        use Kind::*;
        let op = self;
        let (a, b, d) = (bit(op.a), bit(op.b), bit(op.d));
        let pair = bit(RAX) | if op.size > 1 { bit(RDX) } else { 0 };
        // A count of zero changes nothing.
        let counted = op.b == ZERO && op.immediate & 31 != 0;
        (op.needs, op.gives, op.spoils) = match op.kind {
            Copy | SignExtend => (b, d, d),
            Load => (op.address.registers(), d, d),
            Store => (op.address.registers() | b, 0, 0),
            Lea => (op.address.registers(), d, d),
            Add | Sub | And | Or | Xor | Multiply => (a | b, d | FLAGS, d | FLAGS),
            Adc | Sbb => (a | b | FLAGS, d | FLAGS, d | FLAGS),
            Shl | Shr | Sar if counted => (a | b, d | FLAGS, d | FLAGS),
            Shl | Shr | Sar | Rol | Ror => (a | b, d, d | FLAGS),
            Inc | Dec => (a, d, d | FLAGS),
            Neg => (a, d | FLAGS, d | FLAGS),
            Not | Swap => (a, d, d),
            MultiplyWide { .. } => (a | bit(RAX), pair | FLAGS, pair | FLAGS),
            Divide { .. } => (a | pair, pair, pair | FLAGS),
            SignOf => (a, d, d),
            BitForward | BitReverse => (b, FLAGS, d | FLAGS),
            TrailingZeros | LeadingZeros | Population => (b, d | FLAGS, d | FLAGS),
            BitTest => (a | b, 0, FLAGS),
            Set => (FLAGS, d, d),
            MoveIf => (a | b | FLAGS, d, d),
            Jump => (b, 0, 0),
            JumpIf => (FLAGS, 0, 0),
            Clock => (0, pair, op.spoils),
            Other => (0, 0, op.spoils),
        };
    }
}

/// Of a whole block: says of each operation whether its flags are looked at.
pub(super) fn find_flags(ops: &mut [Op]) {
    let mut shows = true;
    for op in ops.iter_mut().rev() {
        op.shows = shows;
        // One that gives them leaves nothing of those before.
        shows = op.needs & FLAGS != 0 || shows && op.gives & FLAGS == 0;
    }
}
