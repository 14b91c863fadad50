//! The table from mnemonics to operations: what is listed here is what can be emulated.

use crate::alu::AluOp;
use crate::bits::{BitOp, ScanOp};
use crate::decode::{Op, Part, VectorMove};
use crate::shift::ShiftOp;
use crate::string::StringOp;
use api::cpu::rflags;
use iced_x86::{Code, ConditionCode, EncodingKind, Instruction, Mnemonic, OpKind};

/// Segment registers by encoding.
const ES: u8 = 0;
const SS: u8 = 2;
const DS: u8 = 3;
const FS: u8 = 4;
const GS: u8 = 5;

/// Returns what `instruction` does, or [`Op::Unhandled`].
pub(crate) fn operation(instruction: &Instruction) -> Op {
    if let Some(code) = condition(instruction.condition_code()) {
        return conditional(instruction, code);
    }
    let mnemonic = instruction.mnemonic();
    arithmetic(mnemonic)
        .or_else(|| string(instruction.code()))
        .or_else(|| data(instruction))
        .or_else(|| control(instruction))
        .or_else(|| system(mnemonic))
        .or_else(|| vector(instruction))
        .unwrap_or(Op::Unhandled)
}

/// Returns the number of a condition as instructions encode it.
fn condition(code: ConditionCode) -> Option<u8> {
    Some(match code {
        ConditionCode::o => 0,
        ConditionCode::no => 1,
        ConditionCode::b => 2,
        ConditionCode::ae => 3,
        ConditionCode::e => 4,
        ConditionCode::ne => 5,
        ConditionCode::be => 6,
        ConditionCode::a => 7,
        ConditionCode::s => 8,
        ConditionCode::ns => 9,
        ConditionCode::p => 10,
        ConditionCode::np => 11,
        ConditionCode::l => 12,
        ConditionCode::ge => 13,
        ConditionCode::le => 14,
        ConditionCode::g => 15,
        _ => return None,
    })
}

fn conditional(instruction: &Instruction, code: u8) -> Op {
    if instruction.is_jcc_short_or_near() {
        Op::JumpIf(code)
    } else if instruction.op_count() == 1 {
        Op::Set(code)
    } else if instruction.op_count() == 2 && !is_compare_and_add(instruction.mnemonic()) {
        Op::Cmov(code)
    } else {
        Op::Unhandled
    }
}

/// LOOPE and LOOPNE and CMPccXADD have conditions as well.
fn is_compare_and_add(mnemonic: Mnemonic) -> bool {
    matches!(mnemonic, Mnemonic::Loope | Mnemonic::Loopne)
}

fn arithmetic(mnemonic: Mnemonic) -> Option<Op> {
    Some(match mnemonic {
        Mnemonic::Add => Op::Alu(AluOp::Add),
        Mnemonic::Or => Op::Alu(AluOp::Or),
        Mnemonic::Adc => Op::Alu(AluOp::Adc),
        Mnemonic::Sbb => Op::Alu(AluOp::Sbb),
        Mnemonic::And => Op::Alu(AluOp::And),
        Mnemonic::Sub => Op::Alu(AluOp::Sub),
        Mnemonic::Xor => Op::Alu(AluOp::Xor),
        Mnemonic::Cmp => Op::Alu(AluOp::Cmp),
        Mnemonic::Test => Op::Test,
        Mnemonic::Inc => Op::Inc,
        Mnemonic::Dec => Op::Dec,
        Mnemonic::Neg => Op::Neg,
        Mnemonic::Not => Op::Not,
        Mnemonic::Bt => Op::Bit(BitOp::Test),
        Mnemonic::Bts => Op::Bit(BitOp::Set),
        Mnemonic::Btr => Op::Bit(BitOp::Reset),
        Mnemonic::Btc => Op::Bit(BitOp::Complement),
        Mnemonic::Bsf => Op::Scan(ScanOp::Forward),
        Mnemonic::Bsr => Op::Scan(ScanOp::Reverse),
        Mnemonic::Tzcnt => Op::Scan(ScanOp::TrailingZeros),
        Mnemonic::Lzcnt => Op::Scan(ScanOp::LeadingZeros),
        Mnemonic::Popcnt => Op::Scan(ScanOp::Population),
        Mnemonic::Bswap => Op::Bswap,
        Mnemonic::Rol => Op::Shift(ShiftOp::RotateLeft),
        Mnemonic::Ror => Op::Shift(ShiftOp::RotateRight),
        Mnemonic::Rcl => Op::Shift(ShiftOp::RotateCarryLeft),
        Mnemonic::Rcr => Op::Shift(ShiftOp::RotateCarryRight),
        Mnemonic::Shl | Mnemonic::Sal => Op::Shift(ShiftOp::Left),
        Mnemonic::Shr => Op::Shift(ShiftOp::Right),
        Mnemonic::Sar => Op::Shift(ShiftOp::ArithmeticRight),
        Mnemonic::Shld => Op::Shld,
        Mnemonic::Shrd => Op::Shrd,
        Mnemonic::Mul => Op::Mul,
        Mnemonic::Div => Op::Div,
        Mnemonic::Idiv => Op::Idiv,
        Mnemonic::Cbw | Mnemonic::Cwde | Mnemonic::Cdqe => Op::ExtendAccumulator,
        Mnemonic::Cwd | Mnemonic::Cdq | Mnemonic::Cqo => Op::SignIntoData,
        _ => return None,
    })
}

fn string(code: Code) -> Option<Op> {
    Some(Op::String(match code {
        Code::Movsb_m8_m8 | Code::Movsw_m16_m16 | Code::Movsd_m32_m32 | Code::Movsq_m64_m64 => {
            StringOp::Move
        }
        Code::Stosb_m8_AL | Code::Stosw_m16_AX | Code::Stosd_m32_EAX | Code::Stosq_m64_RAX => {
            StringOp::Store
        }
        Code::Lodsb_AL_m8 | Code::Lodsw_AX_m16 | Code::Lodsd_EAX_m32 | Code::Lodsq_RAX_m64 => {
            StringOp::Load
        }
        Code::Cmpsb_m8_m8 | Code::Cmpsw_m16_m16 | Code::Cmpsd_m32_m32 | Code::Cmpsq_m64_m64 => {
            StringOp::Compare
        }
        Code::Scasb_AL_m8 | Code::Scasw_AX_m16 | Code::Scasd_EAX_m32 | Code::Scasq_RAX_m64 => {
            StringOp::Scan
        }
        Code::Insb_m8_DX | Code::Insw_m16_DX | Code::Insd_m32_DX => StringOp::Input,
        Code::Outsb_DX_m8 | Code::Outsw_DX_m16 | Code::Outsd_DX_m32 => StringOp::Output,
        _ => return None,
    }))
}

fn data(instruction: &Instruction) -> Option<Op> {
    Some(match instruction.mnemonic() {
        Mnemonic::Mov => return Some(mov(instruction)),
        Mnemonic::Movnti => Op::Mov,
        Mnemonic::Movzx => Op::ZeroExtend,
        Mnemonic::Movsx | Mnemonic::Movsxd => Op::SignExtend,
        Mnemonic::Movbe => Op::Movbe,
        Mnemonic::Lea => Op::Lea,
        Mnemonic::Xchg => Op::Xchg,
        Mnemonic::Xadd => Op::Xadd,
        Mnemonic::Cmpxchg => Op::CmpXchg,
        Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b => Op::CmpXchgPair,
        Mnemonic::Xlatb => Op::Xlat,
        Mnemonic::Imul if instruction.op_count() == 1 => Op::ImulWide,
        Mnemonic::Imul => Op::Imul,
        Mnemonic::Nop | Mnemonic::Pause | Mnemonic::Prefetchw | Mnemonic::Prefetchnta => Op::Nop,
        Mnemonic::Prefetch | Mnemonic::Prefetcht0 | Mnemonic::Prefetcht1 | Mnemonic::Prefetcht2 => {
            Op::Nop
        }
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => Op::Nop,
        Mnemonic::Lds => Op::LoadFarPointer(DS),
        Mnemonic::Les => Op::LoadFarPointer(ES),
        Mnemonic::Lfs => Op::LoadFarPointer(FS),
        Mnemonic::Lgs => Op::LoadFarPointer(GS),
        Mnemonic::Lss => Op::LoadFarPointer(SS),
        _ => return None,
    })
}

/// MOV has forms for segment, control and debug registers.
fn mov(instruction: &Instruction) -> Op {
    let (to, from) = (instruction.op0_register(), instruction.op1_register());
    let is_register = |kind| kind == OpKind::Register;
    if is_register(instruction.op0_kind()) {
        if to.is_segment_register() {
            return Op::LoadSegment;
        }
        if to.is_cr() {
            return Op::ToControl;
        }
        if to.is_dr() {
            return Op::ToDebug;
        }
        if to.is_tr() {
            return Op::Unhandled;
        }
    }
    if is_register(instruction.op1_kind()) {
        if from.is_segment_register() {
            return Op::StoreSegment;
        }
        if from.is_cr() {
            return Op::FromControl;
        }
        if from.is_dr() {
            return Op::FromDebug;
        }
        if from.is_tr() {
            return Op::Unhandled;
        }
    }
    Op::Mov
}

fn control(instruction: &Instruction) -> Option<Op> {
    Some(match instruction.mnemonic() {
        Mnemonic::Push if is_segment_operand(instruction) => Op::PushSegment,
        Mnemonic::Pop if is_segment_operand(instruction) => Op::PopSegment,
        Mnemonic::Push => Op::Push,
        Mnemonic::Pop => Op::Pop,
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => Op::PushFlags,
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => Op::PopFlags,
        Mnemonic::Pusha | Mnemonic::Pushad => Op::PushAll,
        Mnemonic::Popa | Mnemonic::Popad => Op::PopAll,
        Mnemonic::Enter => Op::Enter,
        Mnemonic::Leave => Op::Leave,
        Mnemonic::Call if instruction.is_call_near() => Op::CallRelative,
        Mnemonic::Call if instruction.is_call_near_indirect() => Op::CallAbsolute,
        Mnemonic::Jmp if instruction.is_jmp_short_or_near() => Op::JumpRelative,
        Mnemonic::Jmp if instruction.is_jmp_near_indirect() => Op::JumpAbsolute,
        Mnemonic::Jmp if instruction.is_jmp_far_indirect() => Op::JumpFar,
        Mnemonic::Ret => Op::Return,
        Mnemonic::Clc => Op::ClearFlag(rflags::CF),
        Mnemonic::Stc => Op::SetFlag(rflags::CF),
        Mnemonic::Cld => Op::ClearFlag(rflags::DF),
        Mnemonic::Std => Op::SetFlag(rflags::DF),
        Mnemonic::Cmc => Op::ComplementCarry,
        Mnemonic::Cli => Op::ClearInterrupt,
        Mnemonic::Sti => Op::SetInterrupt,
        Mnemonic::Lahf => Op::LoadFlags,
        Mnemonic::Sahf => Op::StoreFlags,
        Mnemonic::In => Op::In,
        Mnemonic::Out => Op::Out,
        _ => return None,
    })
}

fn is_segment_operand(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Register && instruction.op0_register().is_segment_register()
}

fn system(mnemonic: Mnemonic) -> Option<Op> {
    Some(match mnemonic {
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 => Op::Undefined,
        Mnemonic::Smsw => Op::Smsw,
        Mnemonic::Lmsw => Op::Lmsw,
        Mnemonic::Clts => Op::Clts,
        Mnemonic::Sgdt => Op::Sgdt,
        Mnemonic::Sidt => Op::Sidt,
        Mnemonic::Lgdt => Op::Lgdt,
        Mnemonic::Lidt => Op::Lidt,
        Mnemonic::Sldt => Op::Sldt,
        Mnemonic::Str => Op::Str,
        Mnemonic::Lldt => Op::Lldt,
        Mnemonic::Ltr => Op::Ltr,
        _ => return None,
    })
}

/// Moves between vector registers and memory; anything between two registers touches no device.
fn vector(instruction: &Instruction) -> Option<Op> {
    let is_store = instruction.op0_kind() == OpKind::Memory;
    let is_load = instruction.op1_kind() == OpKind::Memory && instruction.op_count() == 2;
    if is_store == is_load || (is_store && instruction.op_count() != 2) {
        return None;
    }
    let register = if is_store {
        instruction.op1_register()
    } else {
        instruction.op0_register()
    };
    if register.is_mm() {
        return match instruction.mnemonic() {
            Mnemonic::Movd | Mnemonic::Movq | Mnemonic::Movntq if is_store => Some(Op::MmxStore),
            Mnemonic::Movd | Mnemonic::Movq => Some(Op::MmxLoad),
            _ => None,
        };
    }
    let is_vex = match instruction.encoding() {
        EncodingKind::Legacy => false,
        EncodingKind::VEX => true,
        _ => return None,
    };
    if !register.is_xmm() && !register.is_ymm() {
        return None;
    }
    let (is_aligned, part) = vector_kind(instruction.mnemonic())?;
    let vector_move = VectorMove {
        bytes: u8::try_from(instruction.memory_size().size()).ok()?,
        is_aligned,
        part,
        is_vex,
    };
    Some(if is_store {
        Op::VectorStore(vector_move)
    } else {
        Op::VectorLoad(vector_move)
    })
}

/// Returns whether the move insists on alignment, and what part of the register it moves.
fn vector_kind(mnemonic: Mnemonic) -> Option<(bool, Part)> {
    Some(match mnemonic {
        Mnemonic::Movaps
        | Mnemonic::Movapd
        | Mnemonic::Movdqa
        | Mnemonic::Movntps
        | Mnemonic::Movntpd
        | Mnemonic::Movntdq
        | Mnemonic::Movntdqa
        | Mnemonic::Vmovaps
        | Mnemonic::Vmovapd
        | Mnemonic::Vmovdqa
        | Mnemonic::Vmovntps
        | Mnemonic::Vmovntpd
        | Mnemonic::Vmovntdq
        | Mnemonic::Vmovntdqa => (true, Part::Whole),
        Mnemonic::Movups
        | Mnemonic::Movupd
        | Mnemonic::Movdqu
        | Mnemonic::Lddqu
        | Mnemonic::Movss
        | Mnemonic::Movsd
        | Mnemonic::Movd
        | Mnemonic::Movq
        | Mnemonic::Vmovups
        | Mnemonic::Vmovupd
        | Mnemonic::Vmovdqu
        | Mnemonic::Vlddqu
        | Mnemonic::Vmovss
        | Mnemonic::Vmovsd
        | Mnemonic::Vmovd
        | Mnemonic::Vmovq => (false, Part::Whole),
        Mnemonic::Movlps | Mnemonic::Movlpd | Mnemonic::Vmovlps | Mnemonic::Vmovlpd => {
            (false, Part::Low)
        }
        Mnemonic::Movhps | Mnemonic::Movhpd | Mnemonic::Vmovhps | Mnemonic::Vmovhpd => {
            (false, Part::High)
        }
        _ => return None,
    })
}
