//! Instructions as the run ahead sees them. Each becomes a few simple operations:
//! loads to and stores from registers, and what is done between registers.
//! Integer instructions are taken apart exactly; of all others it is known what
//! they touch and which registers they leave unknown.

use super::op::{
    Address, DROPPED, FLAGS, FS, Kind, LOADED, Op, RAX, RBP, RCX, RDX, RSP, Reg, ZERO, bit,
};
use iced_x86::{
    Code, ConditionCode, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory,
    Mnemonic, OpAccess, OpKind, Register,
};

/// Longest instruction (Intel SDM, volume 2, 2.3.11).
pub(super) const LONGEST: usize = 15;

/// How it goes on behind an instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Then {
    /// Where the next one begins.
    pub(super) next: u64,
    /// Whether it may go on elsewhere.
    pub(super) branches: bool,
}

/// Adds what the instruction does to `ops`. `None`: it ends the run ahead, and what
/// was added is to be left out.
pub(super) fn decode(
    at: u64,
    bytes: &[u8],
    info: &mut InstructionInfoFactory,
    ops: &mut Vec<Op>,
) -> Option<Then> {
    let instruction = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
    if instruction.code() == Code::INVALID {
        return None;
    }
    let had = ops.len();
    let mut parts = Parts {
        i: &instruction,
        address: address_of(&instruction),
        ops,
    };
    if parts.exact().is_none() {
        parts.ops.truncate(had);
        parts.other(info)?;
    }
    Some(Then {
        next: instruction.next_ip(),
        branches: instruction.flow_control() != FlowControl::Next,
    })
}

/// An instruction that is taken apart.
struct Parts<'a> {
    i: &'a Instruction,
    address: Option<Address>,
    ops: &'a mut Vec<Op>,
}

impl Parts<'_> {
    /// One of integers; its operands are general registers (but no second bytes of
    /// them), memory or immediate.
    fn exact(&mut self) -> Option<()> {
        let i = self.i;
        let branches = i.flow_control() != FlowControl::Next;
        // On branches and returns they mean nothing.
        if (i.has_rep_prefix() || i.has_repne_prefix()) && !i.has_lock_prefix() && !branches {
            return self.nothing();
        }
        match i.mnemonic() {
            Mnemonic::Mov | Mnemonic::Movzx => self.copy()?,
            Mnemonic::Movsx | Mnemonic::Movsxd => {
                let (from, (b, immediate)) = (self.size(1)?, self.source(1)?);
                let op = self.op(Kind::SignExtend, self.size(0)?, ZERO, (b, immediate));
                self.keep(Op { from, ..op })?;
            }
            Mnemonic::Cbw | Mnemonic::Cwde | Mnemonic::Cdqe => {
                let size = sign_size(i.mnemonic());
                let op = self.op(Kind::SignExtend, size, ZERO, (RAX, 0));
                let (d, from) = (RAX, size / 2);
                self.push(Op { d, from, ..op });
            }
            Mnemonic::Cwd | Mnemonic::Cdq | Mnemonic::Cqo => {
                let size = sign_size(i.mnemonic());
                let op = self.op(Kind::SignOf, size, RAX, (ZERO, 0));
                self.push(Op { d: RDX, ..op });
            }
            Mnemonic::Lea => {
                let mut op = self.op(Kind::Lea, self.size(0)?, ZERO, (ZERO, 0));
                op.address = self.address?;
                op.address.segment = ZERO;
                self.keep(op)?;
            }
            Mnemonic::Add => self.binary(Kind::Add)?,
            Mnemonic::Adc => self.binary(Kind::Adc)?,
            Mnemonic::Sub => self.binary(Kind::Sub)?,
            Mnemonic::Sbb => self.binary(Kind::Sbb)?,
            Mnemonic::And => self.binary(Kind::And)?,
            Mnemonic::Or => self.binary(Kind::Or)?,
            Mnemonic::Xor => self.binary(Kind::Xor)?,
            Mnemonic::Cmp => self.compare(Kind::Sub)?,
            Mnemonic::Test => self.compare(Kind::And)?,
            // With a register for the bit, memory is addressed beyond the operand.
            Mnemonic::Bt if i.op0_kind() == OpKind::Register => self.compare(Kind::BitTest)?,
            Mnemonic::Inc => self.unary(Kind::Inc)?,
            Mnemonic::Dec => self.unary(Kind::Dec)?,
            Mnemonic::Neg => self.unary(Kind::Neg)?,
            Mnemonic::Not => self.unary(Kind::Not)?,
            // Of 16 bits it is undefined.
            Mnemonic::Bswap if self.size(0)? >= 4 => self.unary(Kind::Swap)?,
            Mnemonic::Shl | Mnemonic::Sal => self.shift(Kind::Shl)?,
            Mnemonic::Shr => self.shift(Kind::Shr)?,
            Mnemonic::Sar => self.shift(Kind::Sar)?,
            Mnemonic::Rol => self.shift(Kind::Rol)?,
            Mnemonic::Ror => self.shift(Kind::Ror)?,
            Mnemonic::Imul if i.op_count() > 1 => {
                let last = i.op_count() - 1;
                let (a, _) = self.source(last - 1)?;
                let b = self.source(last)?;
                let op = self.op(Kind::Multiply, self.size(0)?, a, b);
                self.keep(op)?;
            }
            Mnemonic::Imul => self.wide(Kind::MultiplyWide { signed: true })?,
            Mnemonic::Mul => self.wide(Kind::MultiplyWide { signed: false })?,
            Mnemonic::Idiv => self.wide(Kind::Divide { signed: true })?,
            Mnemonic::Div => self.wide(Kind::Divide { signed: false })?,
            Mnemonic::Bsf => self.count(Kind::BitForward)?,
            Mnemonic::Bsr => self.count(Kind::BitReverse)?,
            Mnemonic::Tzcnt => self.count(Kind::TrailingZeros)?,
            Mnemonic::Lzcnt => self.count(Kind::LeadingZeros)?,
            Mnemonic::Popcnt => self.count(Kind::Population)?,
            Mnemonic::Xchg => {
                let (size, d) = (self.size(0)?, self.register(1)?);
                match self.modified(0)? {
                    LOADED => {}
                    a => self.push(Op {
                        d: LOADED,
                        ..self.op(Kind::Copy, size, ZERO, (a, 0))
                    }),
                }
                let op = self.op(Kind::Copy, size, ZERO, (d, 0));
                self.put_back(op)?;
                let op = self.op(Kind::Copy, size, ZERO, (LOADED, 0));
                self.push(Op { d, ..op });
            }
            Mnemonic::Push if i.stack_pointer_increment() == -8 => {
                let value = self.word(0)?;
                self.push_word(value);
            }
            Mnemonic::Pop => {
                // `pop [rsp]` is of the stack as it is after.
                self.pop_word(0);
                match self.register(0) {
                    Some(d) if self.size(0)? == 8 => {
                        let op = self.op(Kind::Copy, 8, ZERO, (LOADED, 0));
                        self.push(Op { d, ..op });
                    }
                    None if i.op0_kind() == OpKind::Memory && self.size(0)? == 8 => {
                        self.store(8, (LOADED, 0))?;
                    }
                    _ => return None,
                }
            }
            Mnemonic::Leave => {
                let op = self.op(Kind::Copy, 8, ZERO, (RBP, 0));
                self.push(Op { d: RSP, ..op });
                self.pop_word(0);
                let op = self.op(Kind::Copy, 8, ZERO, (LOADED, 0));
                self.push(Op { d: RBP, ..op });
            }
            Mnemonic::Jmp => {
                let to = self.target()?;
                self.push(self.op(Kind::Jump, 8, ZERO, to));
            }
            Mnemonic::Call => {
                // It moves by the push.
                let to = self.target().filter(|to| to.0 != RSP)?;
                self.push_word((ZERO, i.next_ip()));
                self.push(self.op(Kind::Jump, 8, ZERO, to));
            }
            Mnemonic::Ret => {
                let more = if i.op_count() > 0 { i.immediate(0) } else { 0 };
                self.pop_word(more);
                self.push(self.op(Kind::Jump, 8, ZERO, (LOADED, 0)));
            }
            Mnemonic::Rdtsc | Mnemonic::Rdtscp => {
                let mut op = self.op(Kind::Clock, 8, ZERO, (ZERO, 0));
                // Which processor it is.
                if i.mnemonic() == Mnemonic::Rdtscp {
                    op.spoils = bit(RCX);
                }
                self.push(op);
            }
            _ if i.is_jcc_short_or_near() => {
                let to = self.target()?;
                let op = self.op(Kind::JumpIf, 8, ZERO, to);
                let back = op.immediate <= i.ip();
                self.push(Op { back, ..op });
            }
            // SETcc has one operand, CMOVcc two.
            _ if i.condition_code() != ConditionCode::None && !branches => match i.op_count() {
                1 => {
                    let op = self.op(Kind::Set, 1, ZERO, (ZERO, 0));
                    self.put_back(op)?;
                }
                2 => {
                    let (a, b) = (self.register(0)?, self.source(1)?);
                    let op = self.op(Kind::MoveIf, self.size(0)?, a, b);
                    self.keep(op)?;
                }
                _ => return None,
            },
            _ => return self.nothing(),
        }
        Some(())
    }

    /// One that does nothing.
    fn nothing(&self) -> Option<()> {
        let nothing = matches!(
            self.i.mnemonic(),
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
                | Mnemonic::Prefetchw
        );
        nothing.then_some(())
    }

    fn copy(&mut self) -> Option<()> {
        let size = self.size(0)?;
        if self.i.op_kind(1) == OpKind::Memory {
            // At once.
            let (d, from) = (self.register(0)?, self.size(1)?);
            self.load(d, size, from, false)
        } else {
            let (from, b) = (self.size(1)?, self.source(1)?);
            let op = self.op(Kind::Copy, size, ZERO, b);
            self.put_back(Op { from, ..op })
        }
    }

    /// `a = a ... b`.
    fn binary(&mut self, kind: Kind) -> Option<()> {
        let size = self.size(0)?;
        let same = self.register(0).is_some() && self.register(0) == self.register(1);
        if same && matches!(kind, Kind::Xor | Kind::Sub) {
            // Whatever it was, it is zero now.
            let op = self.op(Kind::And, size, ZERO, (ZERO, 0));
            return self.keep(op);
        }
        let (a, b) = (self.modified(0)?, self.source(1)?);
        let op = self.op(kind, size, a, b);
        self.put_back(op)
    }

    fn unary(&mut self, kind: Kind) -> Option<()> {
        let (size, a) = (self.size(0)?, self.modified(0)?);
        let op = self.op(kind, size, a, (ZERO, 0));
        self.put_back(op)
    }

    fn shift(&mut self, kind: Kind) -> Option<()> {
        let (size, a) = (self.size(0)?, self.modified(0)?);
        // By one, where no count is given.
        let b = match self.i.op_count() {
            1 => (ZERO, 1),
            2 => self.source(1)?,
            _ => return None,
        };
        let op = self.op(kind, size, a, b);
        self.put_back(op)
    }

    /// Flags alone come of it.
    fn compare(&mut self, kind: Kind) -> Option<()> {
        let size = self.size(0)?;
        let ((a, _), b) = (self.source(0)?, self.source(1)?);
        let op = self.op(kind, size, a, b);
        self.push(Op { d: DROPPED, ..op });
        Some(())
    }

    fn wide(&mut self, kind: Kind) -> Option<()> {
        let (size, (a, _)) = (self.size(0)?, self.source(0)?);
        self.push(self.op(kind, size, a, (ZERO, 0)));
        Some(())
    }

    fn count(&mut self, kind: Kind) -> Option<()> {
        let b = self.source(1)?;
        let op = self.op(kind, self.size(0)?, ZERO, b);
        self.keep(op)
    }

    /// Where a branch leads.
    fn target(&mut self) -> Option<(Reg, u64)> {
        match self.i.op0_kind() {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                Some((ZERO, self.i.near_branch_target()))
            }
            _ => self.word(0),
        }
    }

    /// An operand of 8 bytes. Segment registers, or 16 bits: nobody does.
    fn word(&mut self, n: u32) -> Option<(Reg, u64)> {
        if self.i.op_kind(n) != OpKind::Register && self.i.op_kind(n) != OpKind::Memory {
            return self.source(n);
        }
        (self.size(n)? == 8).then(|| self.source(n))?
    }

    fn push_word(&mut self, value: (Reg, u64)) {
        let below = Address {
            base: RSP,
            displacement: 8u64.wrapping_neg(),
            ..Address::NONE
        };
        let op = self.op(Kind::Store, 8, ZERO, value);
        let address = below;
        self.push(Op { address, ..op });
        self.move_stack(below);
    }

    /// To [`LOADED`], and so many bytes more.
    fn pop_word(&mut self, more: u64) {
        let mut address = Address {
            base: RSP,
            ..Address::NONE
        };
        let op = self.op(Kind::Load, 8, ZERO, (ZERO, 0));
        self.push(Op {
            address,
            d: LOADED,
            ..op
        });
        address.displacement = more.wrapping_add(8);
        self.move_stack(address);
    }

    fn move_stack(&mut self, address: Address) {
        let op = self.op(Kind::Lea, 8, ZERO, (ZERO, 0));
        let d = RSP;
        self.push(Op { address, d, ..op });
    }

    /// Bytes of an operand; an immediate one has the first one's.
    fn size(&self, n: u32) -> Option<u8> {
        let size = match self.i.op_kind(n) {
            OpKind::Register => self.i.op_register(n).size(),
            OpKind::Memory => self.i.memory_size().size(),
            _ if n > 0 => return self.size(0),
            _ => 8,
        };
        let size = u8::try_from(size).ok()?;
        matches!(size, 1 | 2 | 4 | 8).then_some(size)
    }

    fn register(&self, n: u32) -> Option<Reg> {
        if n >= self.i.op_count() || self.i.op_kind(n) != OpKind::Register {
            return None;
        }
        general(self.i.op_register(n))
    }

    /// An operand as register and immediate; memory is loaded.
    fn source(&mut self, n: u32) -> Option<(Reg, u64)> {
        match self.i.op_kind(n) {
            OpKind::Register => Some((self.register(n)?, 0)),
            OpKind::Memory => {
                let size = self.size(n)?;
                self.load(LOADED, 8, size, false)?;
                Some((LOADED, 0))
            }
            OpKind::Immediate8
            | OpKind::Immediate8_2nd
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => Some((ZERO, self.i.immediate(n))),
            _ => None,
        }
    }

    /// The same of one that is written to after.
    fn modified(&mut self, n: u32) -> Option<Reg> {
        if self.i.op_kind(n) != OpKind::Memory {
            return self.register(n);
        }
        let size = self.size(n)?;
        self.load(LOADED, 8, size, true)?;
        Some(LOADED)
    }

    fn load(&mut self, d: Reg, size: u8, from: u8, stores: bool) -> Option<()> {
        let address = self.address?;
        let op = self.op(Kind::Load, size, ZERO, (ZERO, 0));
        self.push(Op {
            address,
            from,
            d,
            stores,
            ..op
        });
        Some(())
    }

    fn store(&mut self, size: u8, value: (Reg, u64)) -> Option<()> {
        let address = self.address?;
        let op = self.op(Kind::Store, size, ZERO, value);
        self.push(Op { address, ..op });
        Some(())
    }

    /// With the first operand, a register, as its destination.
    fn keep(&mut self, op: Op) -> Option<()> {
        let d = self.register(0)?;
        self.push(Op { d, ..op });
        Some(())
    }

    /// With the first operand as its destination, a register or memory.
    fn put_back(&mut self, mut op: Op) -> Option<()> {
        if self.i.op_kind(0) != OpKind::Memory {
            return self.keep(op);
        }
        let size = op.size;
        if op.kind == Kind::Copy {
            return self.store(size, (op.b, op.immediate));
        }
        op.d = LOADED;
        self.push(op);
        self.store(size, (LOADED, 0))
    }

    fn op(&self, kind: Kind, size: u8, a: Reg, b: (Reg, u64)) -> Op {
        Op {
            condition: self.i.condition_code() as u8,
            ..Op::new(kind, size, a, b)
        }
    }

    fn push(&mut self, mut op: Op) {
        op.depend();
        self.ops.push(op);
    }

    /// By what it touches. It must go on with the next instruction.
    fn other(&mut self, factory: &mut InstructionInfoFactory) -> Option<()> {
        let i = self.i;
        if i.flow_control() != FlowControl::Next
            || i.is_privileged()
            || i.mnemonic() == Mnemonic::Wrfsbase
            || i.op_register(0) == Register::FS
            || i.has_rep_prefix() && i.is_string_instruction()
        {
            return None;
        }
        let mut op = self.op(Kind::Other, 8, ZERO, (ZERO, 0));
        let info = factory.info(i);
        match info.used_memory() {
            [] => {}
            [one] => {
                op.address = self.address?;
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
                op.spoils |= bit(register.full_register().number() as u8);
            }
        }
        // One that moves the stack is not understood.
        if op.spoils & bit(RSP) != 0 {
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
        if i.rflags_modified() != 0 {
            op.spoils |= FLAGS;
        }
        self.push(op);
        Some(())
    }
}

fn sign_size(mnemonic: Mnemonic) -> u8 {
    match mnemonic {
        Mnemonic::Cbw | Mnemonic::Cwd => 2,
        Mnemonic::Cwde | Mnemonic::Cdq => 4,
        _ => 8,
    }
}

/// The number of a general register; none for the second bytes (AH and so on).
fn general(register: Register) -> Option<Reg> {
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
        shift: i.memory_index_scale().trailing_zeros() as u8,
        segment,
        ..Address::NONE
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
            // xlatb's index is of one byte.
            *slot = general(register).filter(|_| register.size() >= 4)?;
            address.narrow |= register.size() == 4;
        }
    }
    Some(address)
}

fn reads(access: OpAccess) -> bool {
    use OpAccess::{CondRead, Read, ReadCondWrite, ReadWrite};
    matches!(access, Read | CondRead | ReadWrite | ReadCondWrite)
}

fn writes(access: OpAccess) -> bool {
    use OpAccess::{CondWrite, ReadCondWrite, ReadWrite, Write};
    matches!(access, Write | CondWrite | ReadWrite | ReadCondWrite)
}
