//! An instruction in execution: dispatch by operation, and operands in registers and memory.

use crate::decode::{Decoded, Op, Operand};
use crate::environment::Environment;
use crate::execute::{Abort, Config, Exception, Flow, Step};
use crate::memory::Place;
use crate::registers::{CodeSize, Registers};
use addr::Gpa;
use api::cpu::vector;
use api::device::Width;

/// An instruction in execution.
pub(crate) struct Context<'a, E> {
    pub(crate) env: &'a mut E,
    pub(crate) registers: &'a mut Registers,
    pub(crate) config: &'a Config,
    pub(crate) decoded: &'a Decoded,
    /// Size of the code.
    pub(crate) size: CodeSize,
    /// Where the memory operand is, if the exit told, and whether it may be written.
    pub(crate) hint: Option<(Gpa, bool)>,
    /// Interrupts are to be held off for one more instruction.
    pub(crate) shadow: bool,
}

impl<E: Environment> Context<'_, E> {
    #[inline]
    pub(crate) fn dispatch(&mut self) -> Step<Flow> {
        // First what most exits are.
        if matches!(self.decoded.op, Op::Mov) {
            return self.mov();
        }
        self.dispatch_common()
    }

    #[inline(never)]
    fn dispatch_common(&mut self) -> Step<Flow> {
        match self.decoded.op {
            Op::Mov => self.mov(),
            Op::Unhandled => Err(Abort::Unhandled),
            Op::Undefined => Err(Exception::plain(vector::UD).into()),
            Op::Nop => Ok(Flow::Next),
            Op::ZeroExtend => self.extend(false),
            Op::SignExtend => self.extend(true),
            Op::Alu(op) => self.alu(op),
            Op::String(op) => self.string(op),
            Op::CallRelative
            | Op::CallAbsolute
            | Op::JumpRelative
            | Op::JumpAbsolute
            | Op::JumpIf(_)
            | Op::JumpFar
            | Op::Return => self.branch(),
            Op::Push
            | Op::Pop
            | Op::PushFlags
            | Op::PopFlags
            | Op::PushAll
            | Op::PopAll
            | Op::Enter
            | Op::Leave
            | Op::PushSegment
            | Op::PopSegment => self.stack(),
            op => self.dispatch_rare(op),
        }
    }

    fn dispatch_rare(&mut self, op: Op) -> Step<Flow> {
        match op {
            Op::Movbe => self.movbe(),
            Op::Lea => self.lea(),
            Op::Xchg => self.exchange(),
            Op::Xadd => self.exchange_add(),
            Op::CmpXchg => self.compare_exchange(),
            Op::CmpXchgPair => self.compare_exchange_pair(),
            Op::Cmov(condition) => self.conditional_move(condition),
            Op::Set(condition) => self.set_if(condition),
            Op::Xlat => self.translate_byte(),
            Op::ExtendAccumulator | Op::SignIntoData => self.convert(),
            Op::Test => self.test(),
            Op::Inc | Op::Dec | Op::Neg | Op::Not => self.unary(op),
            Op::Bit(bit_op) => self.bit(bit_op),
            Op::Scan(scan_op) => self.scan(scan_op),
            Op::Bswap => self.swap_bytes(),
            Op::Shift(shift_op) => self.shift(shift_op),
            Op::Shld | Op::Shrd => self.shift_double(),
            Op::Mul | Op::ImulWide => self.multiply_wide(),
            Op::Imul => self.multiply(),
            Op::Div | Op::Idiv => self.divide(),
            Op::SetFlag(_)
            | Op::ClearFlag(_)
            | Op::ComplementCarry
            | Op::SetInterrupt
            | Op::ClearInterrupt
            | Op::LoadFlags
            | Op::StoreFlags => self.change_flags(op),
            Op::In => self.port_in(),
            Op::Out => self.port_out(),
            Op::VectorLoad(vector_move) => self.vector_load(vector_move),
            Op::VectorStore(vector_move) => self.vector_store(vector_move),
            Op::MmxLoad => self.mmx_load(),
            Op::MmxStore => self.mmx_store(),
            Op::LoadSegment | Op::StoreSegment | Op::LoadFarPointer(_) => self.segment_move(),
            _ => self.system(op),
        }
    }

    /// Returns the size of the operation; instructions that have none are not emulated.
    pub(crate) fn width(&self) -> Step<Width> {
        self.decoded.width.ok_or(Abort::Unhandled)
    }

    /// Fails unless the code is at privilege level 0.
    pub(crate) fn require_privilege(&self) -> Step<()> {
        if self.registers.cpl == 0 {
            Ok(())
        } else {
            Err(Exception::general_protection(0).into())
        }
    }

    /// Reads an operand of `width`; segment and vector registers are read where they are used.
    pub(crate) fn read_operand(&mut self, operand: Operand, width: Width) -> Step<u64> {
        match operand {
            Operand::Gpr(index) => Ok(self.registers.read_gpr(index) & width.all_ones()),
            Operand::High(index) => Ok(self.registers.read_high(index)),
            Operand::Immediate => Ok(self.decoded.immediate & width.all_ones()),
            Operand::Memory => {
                let place = self.operand_place(width.bytes(), false)?;
                self.read_place(&place, width)
            }
            _ => Err(Abort::Unhandled),
        }
    }

    /// Writes a register or memory operand of `width`.
    pub(crate) fn write_operand(&mut self, operand: Operand, width: Width, value: u64) -> Step<()> {
        match operand {
            Operand::Gpr(index) => self.registers.write_gpr(index, width, value),
            Operand::High(index) => self.registers.write_high(index, value),
            Operand::Memory => {
                let place = self.operand_place(width.bytes(), true)?;
                self.write_place(&place, width, value)?;
            }
            _ => return Err(Abort::Unhandled),
        }
        Ok(())
    }

    /// Replaces an operand by what `change` makes of it, as one step if the instruction is locked, and returns the
    /// second part of the last result.
    pub(crate) fn modify<T>(
        &mut self,
        operand: Operand,
        width: Width,
        is_locked: bool,
        change: impl Fn(u64) -> (u64, T),
    ) -> Step<T> {
        if operand != Operand::Memory {
            let (value, result) = change(self.read_operand(operand, width)?);
            self.write_operand(operand, width, value)?;
            return Ok(result);
        }
        let place = self.operand_place(width.bytes(), true)?;
        self.modify_place(&place, width, is_locked, change)
    }

    /// As [`Self::modify`], for an operand already found.
    pub(crate) fn modify_place<T>(
        &mut self,
        place: &Place,
        width: Width,
        is_locked: bool,
        change: impl Fn(u64) -> (u64, T),
    ) -> Step<T> {
        /// A locked instruction that loses this often starts again, so that interrupts get in.
        const ATTEMPTS_MAX: u32 = 16;
        for _ in 0..ATTEMPTS_MAX {
            let old = self.read_place(place, width)?;
            let (new, result) = change(old);
            if !is_locked {
                self.write_place(place, width, new)?;
                return Ok(result);
            }
            if self.exchange_place(place, width, old, new)? {
                return Ok(result);
            }
        }
        Err(Abort::Contended)
    }
}
