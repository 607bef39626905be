//! Instructions as the run ahead sees them: integer ones by what they do, all
//! others by what they touch and which registers they leave unknown.

use iced_x86::{
    Code, ConditionCode, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory,
    Mnemonic, OpAccess, OpKind, Register,
};
use std::cell::Cell;

/// Longest instruction (Intel SDM, volume 2, 2.3.11).
pub(super) const LONGEST: usize = 15;
/// Registers that a function may leave changed (System V ABI, x86-64).
pub(super) const CALLER_SAVED: u16 = 0b0000_1111_1100_0111;

pub(super) const RAX: u8 = 0;
pub(super) const RCX: u8 = 1;
pub(super) const RDX: u8 = 2;
pub(super) const RSP: u8 = 4;
pub(super) const RBP: u8 = 5;
/// Behind the sixteen: one that is always zero, where an [`Address`] has none;
/// the immediate operand; the base of FS.
pub(super) const ZERO: u8 = 16;
pub(super) const IMMEDIATE: u8 = 17;
pub(super) const FS: u8 = 18;

/// What an instruction does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Nothing,
    /// To a register, from one or an immediate.
    Copy,
    /// To a register, from memory, zero-extended.
    Load,
    /// To memory.
    Store,
    SignExtend,
    Lea,
    /// To zero.
    Clear,
    Add,
    Adc,
    Sub,
    Sbb,
    Cmp,
    And,
    Or,
    Xor,
    Test,
    Inc,
    Dec,
    Neg,
    Not,
    Shl,
    Shr,
    Sar,
    Rol,
    Ror,
    /// `a = b * c`, truncated.
    Multiply,
    /// rdx:rax = rax * a.
    MultiplyWide {
        signed: bool,
    },
    Divide {
        signed: bool,
    },
    /// rax extended into rdx (cwd, cdq, cqo).
    SignOf,
    Exchange,
    Swap,
    BitForward,
    BitReverse,
    TrailingZeros,
    LeadingZeros,
    Population,
    BitTest,
    Push,
    Pop,
    Leave,
    Set,
    MoveIf,
    Jump,
    JumpIf,
    Call,
    Return,
    Clock,
    /// Touches memory and loses registers, no more is known.
    Other,
}

impl Kind {
    /// Whether the first operand is loaded and stored.
    fn modifies(self) -> bool {
        use Kind::*;
        matches!(
            self,
            Add | Adc
                | Sub
                | Sbb
                | And
                | Or
                | Xor
                | Inc
                | Dec
                | Neg
                | Not
                | Shl
                | Shr
                | Sar
                | Rol
                | Ror
                | Exchange
        )
    }

    /// Whether another may follow than the one behind it.
    pub(super) fn branches(self) -> bool {
        matches!(self, Kind::Jump | Kind::JumpIf | Kind::Call | Kind::Return)
    }
}

/// An operand: a register below [`MEMORY`], or one of these.
pub(super) type Arg = u8;
pub(super) const MEMORY: Arg = 32;
pub(super) const ABSENT: Arg = 33;

/// The memory operand: base + index << shift + displacement + segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    pub(super) displacement: u64,
    pub(super) base: Arg,
    pub(super) index: Arg,
    pub(super) shift: u8,
    pub(super) segment: Arg,
    /// Of 32 bits.
    pub(super) narrow: bool,
}

/// A decoded instruction.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) at: u64,
    /// The immediate operand, or where a branch leads.
    pub(super) immediate: u64,
    pub(super) address: Address,
    /// Registers that an `Other` leaves unknown.
    pub(super) lost: u16,
    /// Bytes of it.
    len: u8,
    pub(super) kind: Kind,
    /// Bytes of the operation, and of its last operand or of what it touches.
    pub(super) size: u8,
    pub(super) from: u8,
    pub(super) args: [Arg; 3],
    /// As iced numbers conditions.
    pub(super) condition: u8,
    /// Whether an `Other` changes flags, loads.
    pub(super) flags: bool,
    pub(super) loads: bool,
    /// Whether an `Other` stores, or another to what it loads.
    pub(super) stores: bool,
    /// Whether a branch was taken the last time that its condition was known.
    pub(super) taken: Cell<Option<bool>>,
}

impl Op {
    /// Where the next one begins.
    #[inline]
    pub(super) fn next(&self) -> u64 {
        self.at.wrapping_add(self.len.into())
    }
}

/// `None`: an instruction that ends the run ahead.
pub(super) fn decode(at: u64, bytes: &[u8], info: &mut InstructionInfoFactory) -> Option<Op> {
    let instruction = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
    if instruction.code() == Code::INVALID {
        return None;
    }
    exact(at, &instruction).or_else(|| other(at, &instruction, info))
}

fn blank(at: u64, instruction: &Instruction, kind: Kind) -> Op {
    Op {
        at,
        len: instruction.len() as u8,
        immediate: 0,
        address: Address {
            displacement: 0,
            base: ZERO,
            index: ZERO,
            shift: 0,
            segment: ZERO,
            narrow: false,
        },
        lost: 0,
        kind,
        size: 8,
        from: 8,
        args: [ABSENT; 3],
        condition: 0,
        flags: false,
        loads: false,
        stores: false,
        taken: Cell::new(None),
    }
}

/// An instruction whose effect is known; all of its operands are general
/// registers (but no second bytes of them), memory or immediate.
fn exact(at: u64, i: &Instruction) -> Option<Op> {
    let kind = kind_of(i)?;
    let mut op = blank(at, i, kind);
    if i.has_lock_prefix() && kind != Kind::Nothing {
        // Alone, what it does is the same.
    } else if i.has_rep_prefix() || i.has_repne_prefix() {
        // On branches and returns they mean nothing.
        if !matches!(
            kind,
            Kind::Return | Kind::Jump | Kind::JumpIf | Kind::Call | Kind::Nothing
        ) {
            return None;
        }
    }
    if kind == Kind::Nothing {
        return Some(op);
    }
    op.condition = i.condition_code() as u8;
    let mut sizes = [0; 3];
    for n in 0..i.op_count() {
        let slot = op.args.get_mut(n as usize)?;
        let size;
        (*slot, size) = match i.op_kind(n) {
            OpKind::Register => {
                let register = i.op_register(n);
                (general(register)?, register.size())
            }
            OpKind::Memory => {
                op.address = address_of(i)?;
                (MEMORY, i.memory_size().size())
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                op.immediate = i.near_branch_target();
                (IMMEDIATE, 8)
            }
            OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => {
                op.immediate = i.immediate(n);
                (IMMEDIATE, 0)
            }
            _ => return None,
        };
        sizes[n as usize] = size;
    }
    (op.size, op.from) = (sizes[0] as u8, sizes[1] as u8);
    if op.from == 0 {
        op.from = op.size;
    }
    if kind == Kind::Lea {
        op.address.segment = ZERO;
    }
    match kind {
        Kind::Multiply => {
            op.from = op.size;
            if op.args[2] == ABSENT {
                op.args = [op.args[0], op.args[0], op.args[1]];
            }
        }
        // Two operands each: the double shifts have three.
        Kind::Shl | Kind::Shr | Kind::Sar | Kind::Rol | Kind::Ror if op.args[2] != ABSENT => {
            return None;
        }
        // Of 16 bits it is undefined.
        Kind::Swap if op.size < 4 => return None,
        // Which processor it is.
        Kind::Clock if i.mnemonic() == Mnemonic::Rdtscp => op.lost = 1 << RCX,
        Kind::SignOf => {
            op.size = sign_size(i.mnemonic());
            op.from = op.size;
        }
        Kind::SignExtend if op.args[0] == ABSENT => {
            // cbw, cwde, cdqe.
            op.size = sign_size(i.mnemonic());
            op.from = op.size / 2;
            op.args = [RAX, RAX, ABSENT];
        }
        Kind::Push | Kind::Pop => {
            // Of a segment register, or of 16 bits: nobody does.
            if i.op_kind(0) == OpKind::Register && op.size != 8 {
                return None;
            }
            (op.size, op.from) = (8, 8);
        }
        Kind::Call | Kind::Return | Kind::Jump if op.args[0] == MEMORY && op.size != 8 => {
            return None;
        }
        _ => {}
    }
    // Whatever it was, it is zero now.
    if matches!(kind, Kind::Xor | Kind::Sub) && op.args[0] < MEMORY && op.args[0] == op.args[1] {
        op.kind = Kind::Clear;
    }
    if kind == Kind::Copy {
        op.kind = match (op.args[0], op.args[1]) {
            (MEMORY, _) => Kind::Store,
            (_, MEMORY) => Kind::Load,
            _ => kind,
        };
    }
    op.stores = op.args[0] == MEMORY && kind.modifies();
    let sized = |size| matches!(size, 1 | 2 | 4 | 8);
    let bare = matches!(kind, Kind::Clock | Kind::Leave | Kind::Return);
    (bare || sized(op.size) && sized(op.from)).then_some(op)
}

fn sign_size(mnemonic: Mnemonic) -> u8 {
    match mnemonic {
        Mnemonic::Cbw | Mnemonic::Cwd => 2,
        Mnemonic::Cwde | Mnemonic::Cdq => 4,
        _ => 8,
    }
}

fn kind_of(i: &Instruction) -> Option<Kind> {
    Some(match i.mnemonic() {
        Mnemonic::Nop
        | Mnemonic::Endbr64
        | Mnemonic::Lfence
        | Mnemonic::Mfence
        | Mnemonic::Sfence
        | Mnemonic::Pause
        | Mnemonic::Cld
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetchw => Kind::Nothing,
        Mnemonic::Mov | Mnemonic::Movzx => Kind::Copy,
        Mnemonic::Movsx | Mnemonic::Movsxd | Mnemonic::Cbw | Mnemonic::Cwde | Mnemonic::Cdqe => {
            Kind::SignExtend
        }
        Mnemonic::Lea => Kind::Lea,
        Mnemonic::Add => Kind::Add,
        Mnemonic::Adc => Kind::Adc,
        Mnemonic::Sub => Kind::Sub,
        Mnemonic::Sbb => Kind::Sbb,
        Mnemonic::Cmp => Kind::Cmp,
        Mnemonic::And => Kind::And,
        Mnemonic::Or => Kind::Or,
        Mnemonic::Xor => Kind::Xor,
        Mnemonic::Test => Kind::Test,
        Mnemonic::Inc => Kind::Inc,
        Mnemonic::Dec => Kind::Dec,
        Mnemonic::Neg => Kind::Neg,
        Mnemonic::Not => Kind::Not,
        Mnemonic::Shl | Mnemonic::Sal => Kind::Shl,
        Mnemonic::Shr => Kind::Shr,
        Mnemonic::Sar => Kind::Sar,
        Mnemonic::Rol => Kind::Rol,
        Mnemonic::Ror => Kind::Ror,
        Mnemonic::Imul if i.op_count() > 1 => Kind::Multiply,
        Mnemonic::Imul => Kind::MultiplyWide { signed: true },
        Mnemonic::Mul => Kind::MultiplyWide { signed: false },
        Mnemonic::Idiv => Kind::Divide { signed: true },
        Mnemonic::Div => Kind::Divide { signed: false },
        Mnemonic::Cwd | Mnemonic::Cdq | Mnemonic::Cqo => Kind::SignOf,
        Mnemonic::Xchg => Kind::Exchange,
        Mnemonic::Bswap => Kind::Swap,
        Mnemonic::Bsf => Kind::BitForward,
        Mnemonic::Bsr => Kind::BitReverse,
        Mnemonic::Tzcnt => Kind::TrailingZeros,
        Mnemonic::Lzcnt => Kind::LeadingZeros,
        Mnemonic::Popcnt => Kind::Population,
        // With a register for the bit, memory is addressed beyond the operand.
        Mnemonic::Bt if i.op0_kind() == OpKind::Register => Kind::BitTest,
        Mnemonic::Push => Kind::Push,
        Mnemonic::Pop => Kind::Pop,
        Mnemonic::Leave => Kind::Leave,
        Mnemonic::Jmp => Kind::Jump,
        Mnemonic::Call => Kind::Call,
        Mnemonic::Ret => Kind::Return,
        Mnemonic::Rdtsc | Mnemonic::Rdtscp => Kind::Clock,
        _ if i.is_jcc_short_or_near() => Kind::JumpIf,
        // SETcc has one operand, CMOVcc two.
        _ if i.condition_code() != ConditionCode::None && i.flow_control() == FlowControl::Next => {
            match i.op_count() {
                1 => Kind::Set,
                2 => Kind::MoveIf,
                _ => return None,
            }
        }
        _ => return None,
    })
}

/// The number of a general register; none for the second bytes (AH and so on).
fn general(register: Register) -> Option<u8> {
    use Register::{AH, BH, CH, DH};
    let plain = register.is_gpr() && !matches!(register, AH | BH | CH | DH);
    plain.then(|| register.full_register().number() as u8)
}

fn address_of(i: &Instruction) -> Option<Address> {
    let segment = match i.memory_segment() {
        Register::FS => FS,
        Register::GS => return None,
        _ => ZERO,
    };
    let mut address = Address {
        displacement: i.memory_displacement64(),
        base: ZERO,
        index: ZERO,
        shift: i.memory_index_scale().trailing_zeros() as u8,
        segment,
        narrow: false,
    };
    if i.is_ip_rel_memory_operand() {
        // iced gives what it points at.
        return Some(address);
    }
    for (register, slot) in [
        (i.memory_base(), &mut address.base),
        (i.memory_index(), &mut address.index),
    ] {
        if register != Register::None {
            *slot = general(register)?;
            address.narrow |= register.size() == 4;
        }
    }
    Some(address)
}

/// By what it touches. It must go on with the next instruction.
fn other(at: u64, i: &Instruction, factory: &mut InstructionInfoFactory) -> Option<Op> {
    if i.flow_control() != FlowControl::Next
        || i.is_privileged()
        || i.has_rep_prefix() && i.is_string_instruction()
    {
        return None;
    }
    let mut op = blank(at, i, Kind::Other);
    let info = factory.info(i);
    match info.used_memory() {
        [] => {}
        [one] => {
            op.address = address_of(i)?;
            let size = one.memory_size().size();
            op.from = u8::try_from(size).ok()?;
            op.loads = reads(one.access());
            op.stores = writes(one.access());
            // String instructions and the like have none of their own.
            if !(0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory) {
                return None;
            }
        }
        _ => return None,
    }
    for used in info.used_registers() {
        let register = used.register();
        if writes(used.access()) && register.is_gpr() {
            op.lost |= 1 << register.full_register().number();
        }
    }
    // One that moves the stack is not understood.
    if op.lost & (1 << RSP) != 0 {
        return None;
    }
    // A bit's number in a register counts from there on.
    let bits = matches!(
        i.mnemonic(),
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
    );
    if bits && i.op1_kind() == OpKind::Register {
        (op.loads, op.stores) = (false, false);
    }
    op.flags = i.rflags_modified() != 0;
    Some(op)
}

fn reads(access: OpAccess) -> bool {
    use OpAccess::{CondRead, Read, ReadCondWrite, ReadWrite};
    matches!(access, Read | CondRead | ReadWrite | ReadCondWrite)
}

fn writes(access: OpAccess) -> bool {
    use OpAccess::{CondWrite, ReadCondWrite, ReadWrite, Write};
    matches!(access, Write | CondWrite | ReadWrite | ReadCondWrite)
}
