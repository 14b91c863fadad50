//! Turns instruction bytes into a [`Decoded`]: what to do with which operands, free of the address it was found at, so
//! that the same bytes need not be decoded again.

use crate::alu::AluOp;
use crate::bits::{BitOp, ScanOp};
use crate::operation::operation;
use crate::registers::CodeSize;
use crate::shift::ShiftOp;
use crate::string::StringOp;
use api::cpu::segment;
use api::device::Width;
use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic, OpKind, Register,
};

/// Longest instruction.
pub(crate) const LEN_MAX: usize = 15;

/// One operand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Operand {
    #[default]
    None,
    /// General-purpose register by encoding.
    Gpr(u8),
    /// AH, CH, DH, BH: 0 to 3.
    High(u8),
    /// The memory operand.
    Memory,
    /// The immediate, or a branch displacement.
    Immediate,
    /// Segment register by encoding.
    Segment(u8),
    /// XMM or YMM register.
    Vector(u8),
    /// MMX register.
    Mmx(u8),
    /// Control register.
    Control(u8),
    /// Debug register.
    Debug(u8),
}

/// How to compute the address of the memory operand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Segment register by encoding.
    pub(crate) segment: usize,
    pub(crate) base: Base,
    pub(crate) index: Option<u8>,
    pub(crate) scale_shift: u32,
    /// Added modulo 2^64; for an address relative to RIP it includes the instruction's length.
    pub(crate) displacement: u64,
    /// Address size as a mask.
    pub(crate) mask: u64,
}

impl Memory {
    /// Returns the offset of the operand in its segment, for an instruction at `rip`.
    #[inline]
    pub(crate) fn offset(&self, rip: u64, gpr: impl Fn(u8) -> u64) -> u64 {
        let base = match self.base {
            Base::None => 0,
            Base::Gpr(number) => gpr(number),
            Base::Rip => rip,
        };
        let index = self.index.map_or(0, gpr);
        base.wrapping_add(index.wrapping_shl(self.scale_shift))
            .wrapping_add(self.displacement)
            & self.mask
    }
}

/// Base of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Base {
    #[default]
    None,
    Gpr(u8),
    Rip,
}

/// What a vector load leaves of its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All bits above the loaded ones become zero.
    Whole,
    /// The low half of the XMM register is replaced.
    Low,
    /// The high half of the XMM register is replaced.
    High,
}

/// A move between a vector register and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VectorMove {
    /// Bytes moved: 4, 8, 16 or 32.
    pub(crate) bytes: u8,
    pub(crate) is_aligned: bool,
    pub(crate) part: Part,
    /// VEX-encoded: clears the register above the moved bytes.
    pub(crate) is_vex: bool,
}

/// What an instruction does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Op {
    #[default]
    Unhandled,
    /// UD2 and its kin.
    Undefined,
    Nop,
    Mov,
    ZeroExtend,
    SignExtend,
    Movbe,
    Lea,
    Xchg,
    Xadd,
    CmpXchg,
    /// 8 or 16 bytes.
    CmpXchgPair,
    Cmov(u8),
    Set(u8),
    Xlat,
    Alu(AluOp),
    Test,
    Inc,
    Dec,
    Neg,
    Not,
    Bit(BitOp),
    Scan(ScanOp),
    Bswap,
    Shift(ShiftOp),
    Shld,
    Shrd,
    Mul,
    ImulWide,
    Imul,
    Div,
    Idiv,
    Push,
    Pop,
    PushFlags,
    PopFlags,
    PushAll,
    PopAll,
    Enter,
    Leave,
    CallRelative,
    CallAbsolute,
    JumpRelative,
    JumpAbsolute,
    JumpIf(u8),
    JumpFar,
    Return,
    /// CBW, CWDE, CDQE.
    ExtendAccumulator,
    /// CWD, CDQ, CQO.
    SignIntoData,
    SetFlag(u64),
    ClearFlag(u64),
    ComplementCarry,
    SetInterrupt,
    ClearInterrupt,
    LoadFlags,
    StoreFlags,
    String(StringOp),
    In,
    Out,
    VectorLoad(VectorMove),
    VectorStore(VectorMove),
    MmxLoad,
    MmxStore,
    LoadSegment,
    StoreSegment,
    PushSegment,
    PopSegment,
    LoadFarPointer(u8),
    FromControl,
    ToControl,
    FromDebug,
    ToDebug,
    Smsw,
    Lmsw,
    Clts,
    Sgdt,
    Sidt,
    Lgdt,
    Lidt,
    Sldt,
    Str,
    Lldt,
    Ltr,
}

/// A repeat prefix of a string instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Repeat {
    #[default]
    Once,
    /// REP, or REPE where the instruction compares.
    WhileEqual,
    /// REPNE.
    WhileNotEqual,
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Decoded {
    pub(crate) op: Op,
    pub(crate) len: u8,
    /// Size of the operation.
    pub(crate) width: Option<Width>,
    /// Size of the source where it differs: extensions, far pointers.
    pub(crate) source_width: Option<Width>,
    pub(crate) destination: Operand,
    pub(crate) source: Operand,
    pub(crate) third: Operand,
    pub(crate) memory: Memory,
    pub(crate) immediate: u64,
    /// ENTER's nesting level; bits of the base that LGDT and LIDT load.
    pub(crate) extra: u8,
    pub(crate) has_lock: bool,
    pub(crate) repeat: Repeat,
    /// The memory operand is the only memory that the instruction touches, so that a fault can only be its.
    pub(crate) has_one_access: bool,
}

/// Why bytes are no instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// The instruction goes on behind the bytes.
    Incomplete,
    /// No processor knows it.
    Invalid,
}

/// Decodes the first instruction in `bytes`.
pub(crate) fn decode(size: CodeSize, bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let bitness = match size {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    };
    let mut decoder = Decoder::try_with_ip(bitness, bytes, 0, DecoderOptions::NONE)
        .map_err(|_| DecodeError::Invalid)?;
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return Err(match decoder.last_error() {
            DecoderError::NoMoreBytes => DecodeError::Incomplete,
            // Nothing but prefixes in the longest instruction there is: it would go on.
            _ if instruction.len() == LEN_MAX => DecodeError::Incomplete,
            _ => DecodeError::Invalid,
        });
    }
    let mut decoded = Decoded {
        op: operation(&instruction),
        len: u8::try_from(instruction.len()).unwrap_or(u8::MAX),
        has_lock: instruction.has_lock_prefix(),
        repeat: repeat(&instruction),
        memory: memory(&instruction, size),
        ..Decoded::default()
    };
    decoded.has_one_access = decoded.op.has_one_access();
    set_operands(&mut decoded, &instruction);
    set_widths(&mut decoded, &instruction, size);
    Ok(decoded)
}

fn repeat(instruction: &Instruction) -> Repeat {
    if instruction.has_repne_prefix() {
        Repeat::WhileNotEqual
    } else if instruction.has_rep_prefix() {
        Repeat::WhileEqual
    } else {
        Repeat::Once
    }
}

/// Returns the encoding of a general-purpose register of any size but the high bytes.
fn gpr_number(register: Register) -> Option<u8> {
    if !register.is_gpr()
        || matches!(
            register,
            Register::AH | Register::CH | Register::DH | Register::BH
        )
    {
        return None;
    }
    u8::try_from(register.full_register().number()).ok()
}

fn segment_number(register: Register) -> usize {
    match register {
        Register::ES => segment::ES,
        Register::CS => segment::CS,
        Register::SS => segment::SS,
        Register::FS => segment::FS,
        Register::GS => segment::GS,
        _ => segment::DS,
    }
}

fn memory(instruction: &Instruction, size: CodeSize) -> Memory {
    let base = instruction.memory_base();
    let index = instruction.memory_index();
    let is_long = size == CodeSize::Bits64;
    let mut segment = segment_number(instruction.memory_segment());
    // 64-bit mode ignores these overrides, and with them what they would say about the kind of fault.
    if is_long && !matches!(segment, segment::FS | segment::GS) {
        let stack_based = matches!(
            base,
            Register::RBP | Register::RSP | Register::EBP | Register::ESP
        );
        segment = if stack_based {
            segment::SS
        } else {
            segment::DS
        };
    }
    Memory {
        segment,
        base: match base {
            Register::RIP | Register::EIP => Base::Rip,
            _ => gpr_number(base).map_or(Base::None, Base::Gpr),
        },
        index: gpr_number(index),
        scale_shift: instruction.memory_index_scale().trailing_zeros(),
        displacement: instruction.memory_displacement64(),
        mask: address_mask(instruction, base, index, size),
    }
}

fn address_mask(instruction: &Instruction, base: Register, index: Register, size: CodeSize) -> u64 {
    const WORD: u64 = u16::MAX as u64;
    const DWORD: u64 = u32::MAX as u64;
    let by_bytes = |bytes: usize| match bytes {
        2 => Some(WORD),
        4 => Some(DWORD),
        8 => Some(u64::MAX),
        _ => None,
    };
    let by_kind = |kind: OpKind| match kind {
        OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(WORD),
        OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(DWORD),
        OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(u64::MAX),
        _ => None,
    };
    let displacement = instruction.memory_displ_size() as usize;
    by_kind(instruction.op0_kind())
        .or_else(|| by_kind(instruction.op1_kind()))
        .or_else(|| by_bytes(base.size()))
        .or_else(|| by_bytes(index.size()))
        .or_else(|| by_bytes(displacement))
        .unwrap_or(match size {
            CodeSize::Bits16 => WORD,
            CodeSize::Bits32 => DWORD,
            CodeSize::Bits64 => u64::MAX,
        })
}

fn set_operands(decoded: &mut Decoded, instruction: &Instruction) {
    let mut operands = [Operand::None; 3];
    for (place, number) in operands.iter_mut().zip(0..instruction.op_count()) {
        *place = operand(instruction, number);
    }
    [decoded.destination, decoded.source, decoded.third] = operands;
    let mut immediates = (0..instruction.op_count()).filter_map(|n| immediate(instruction, n));
    decoded.immediate = immediates.next().unwrap_or_default();
    decoded.extra = match instruction.code() {
        Code::Enterw_imm16_imm8 | Code::Enterd_imm16_imm8 | Code::Enterq_imm16_imm8 => {
            instruction.immediate8_2nd()
        }
        Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => 24,
        _ => 0,
    };
}

fn operand(instruction: &Instruction, number: u32) -> Operand {
    match instruction.try_op_kind(number) {
        Ok(OpKind::Register) => {
            let register = instruction.try_op_register(number);
            register.map_or(Operand::None, register_operand)
        }
        Ok(OpKind::Memory) => Operand::Memory,
        Ok(_) if immediate(instruction, number).is_some() => Operand::Immediate,
        _ => Operand::None,
    }
}

fn register_operand(register: Register) -> Operand {
    let number = u8::try_from(register.number()).unwrap_or_default();
    match register {
        Register::AH => Operand::High(0),
        Register::CH => Operand::High(1),
        Register::DH => Operand::High(2),
        Register::BH => Operand::High(3),
        r if r.is_gpr() => gpr_number(r).map_or(Operand::None, Operand::Gpr),
        r if r.is_segment_register() => {
            Operand::Segment(u8::try_from(segment_number(r)).unwrap_or_default())
        }
        r if r.is_xmm() || r.is_ymm() => Operand::Vector(number),
        r if r.is_mm() => Operand::Mmx(number),
        r if r.is_cr() => Operand::Control(number),
        r if r.is_dr() => Operand::Debug(number),
        _ => Operand::None,
    }
}

fn immediate(instruction: &Instruction, number: u32) -> Option<u64> {
    match instruction.try_op_kind(number).ok()? {
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
            Some(instruction.near_branch_target())
        }
        _ => instruction.try_immediate(number).ok(),
    }
}

fn set_widths(decoded: &mut Decoded, instruction: &Instruction, size: CodeSize) {
    let memory = instruction.memory_size().size();
    let operand_bytes = |number| match instruction.try_op_kind(number) {
        Ok(OpKind::Register) => instruction
            .try_op_register(number)
            .map_or(0, |register| register.size()),
        Ok(OpKind::Immediate8 | OpKind::NearBranch16 | OpKind::NearBranch32) => 0,
        Ok(_) => memory,
        Err(_) => 0,
    };
    let stack = instruction.stack_pointer_increment().unsigned_abs() as usize;
    let bytes = match decoded.op {
        Op::Push | Op::Pop | Op::PushFlags | Op::PopFlags | Op::PushSegment | Op::PopSegment => {
            stack
        }
        Op::PushAll | Op::PopAll => stack / 8,
        Op::CallRelative
        | Op::JumpRelative
        | Op::JumpIf(_)
        | Op::Return
        | Op::Enter
        | Op::Leave => near_bytes(instruction, size),
        // A selector follows the offset.
        Op::JumpFar => memory.saturating_sub(2),
        Op::Out => operand_bytes(1),
        Op::String(_) => memory,
        _ => operand_bytes(0),
    };
    decoded.width = Width::from_bytes(bytes);
    decoded.source_width = match decoded.op {
        Op::LoadFarPointer(_) => Width::from_bytes(memory.saturating_sub(2)),
        _ => Width::from_bytes(operand_bytes(1)),
    };
    match decoded.op {
        Op::CmpXchgPair => decoded.width = Width::from_bytes(memory / 2),
        Op::ExtendAccumulator | Op::SignIntoData => decoded.width = accumulator_width(instruction),
        _ => {}
    }
}

/// Bytes of the instruction pointer that a near branch, ENTER or LEAVE works with.
fn near_bytes(instruction: &Instruction, size: CodeSize) -> usize {
    let is_word = matches!(
        instruction.code(),
        Code::Retnw | Code::Retnw_imm16 | Code::Enterw_imm16_imm8 | Code::Leavew
    ) || instruction.op0_kind() == OpKind::NearBranch16;
    let is_dword = matches!(
        instruction.code(),
        Code::Retnd | Code::Retnd_imm16 | Code::Enterd_imm16_imm8 | Code::Leaved
    ) || instruction.op0_kind() == OpKind::NearBranch32;
    match size {
        _ if is_word => 2,
        _ if is_dword => 4,
        CodeSize::Bits64 => 8,
        CodeSize::Bits32 => 4,
        CodeSize::Bits16 => 2,
    }
}

fn accumulator_width(instruction: &Instruction) -> Option<Width> {
    match instruction.mnemonic() {
        Mnemonic::Cbw | Mnemonic::Cwd => Some(Width::Word),
        Mnemonic::Cwde | Mnemonic::Cdq => Some(Width::Dword),
        Mnemonic::Cdqe | Mnemonic::Cqo => Some(Width::Qword),
        _ => None,
    }
}

impl Op {
    /// Tells whether the instruction touches no memory besides its memory operand.
    const fn has_one_access(self) -> bool {
        !matches!(
            self,
            Self::String(_)
                | Self::Push
                | Self::Pop
                | Self::PushSegment
                | Self::PopSegment
                | Self::CallAbsolute
                | Self::JumpFar
                | Self::LoadSegment
                | Self::LoadFarPointer(_)
                | Self::Lldt
                | Self::Ltr
        )
    }
}
