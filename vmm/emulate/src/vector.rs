//! Moves between memory and MMX, XMM and YMM registers.

use crate::context::Context;
use crate::decode::{Operand, Part, VectorMove};
use crate::environment::Environment;
use crate::execute::{Abort, Exception, Flow, Step};
use crate::memory::ACCESS_MAX;
use api::cpu::{cr0, cr4, vector};

/// Low half of an XMM register.
const LOW_HALF: u128 = u64::MAX as u128;

impl<E: Environment> Context<'_, E> {
    pub(crate) fn vector_load(&mut self, vector_move: VectorMove) -> Step<Flow> {
        let register = self.vector_operand(self.decoded.destination)?;
        self.check_vector_unit(vector_move.is_vex)?;
        let mut bytes = [0; ACCESS_MAX];
        let len = usize::from(vector_move.bytes);
        let buf = bytes.get_mut(..len).ok_or(Abort::Unhandled)?;
        self.check_vector_alignment(vector_move, false)?;
        let place = self.operand_place(u32::from(vector_move.bytes), false)?;
        self.read_bytes(&place, buf)?;
        let (low, high) = (wide(&bytes, 0), wide(&bytes, 16));
        let old = self.env.xmm(register);
        let value = match vector_move.part {
            Part::Whole => low,
            Part::Low => old & !LOW_HALF | low & LOW_HALF,
            Part::High => old & LOW_HALF | low << 64,
        };
        // The upper half is set first: it is what can fail.
        if vector_move.is_vex && !self.env.set_ymm_high(register, high) {
            return Err(Abort::Unhandled);
        }
        self.env.set_xmm(register, value);
        Ok(Flow::Next)
    }

    pub(crate) fn vector_store(&mut self, vector_move: VectorMove) -> Step<Flow> {
        let register = self.vector_operand(self.decoded.source)?;
        self.check_vector_unit(vector_move.is_vex)?;
        self.check_vector_alignment(vector_move, true)?;
        let low = self.env.xmm(register);
        let low = match vector_move.part {
            Part::High => low >> 64,
            _ => low,
        };
        let high = if vector_move.bytes == 32 {
            self.env.ymm_high(register).ok_or(Abort::Unhandled)?
        } else {
            0
        };
        let halves = [low.to_le_bytes(), high.to_le_bytes()];
        let data = halves.as_flattened().get(..usize::from(vector_move.bytes));
        let data = data.ok_or(Abort::Unhandled)?;
        let place = self.operand_place(u32::from(vector_move.bytes), true)?;
        self.write_bytes(&place, data)?;
        Ok(Flow::Next)
    }

    pub(crate) fn mmx_load(&mut self) -> Step<Flow> {
        let Operand::Mmx(register) = self.decoded.destination else {
            return Err(Abort::Unhandled);
        };
        self.check_mmx_unit()?;
        let width = self.decoded.source_width.ok_or(Abort::Unhandled)?;
        let value = self.read_operand(Operand::Memory, width)?;
        self.env.set_mmx(register, value);
        Ok(Flow::Next)
    }

    pub(crate) fn mmx_store(&mut self) -> Step<Flow> {
        let Operand::Mmx(register) = self.decoded.source else {
            return Err(Abort::Unhandled);
        };
        self.check_mmx_unit()?;
        let width = self.width()?;
        let value = self.env.mmx(register);
        self.write_operand(Operand::Memory, width, value)?;
        Ok(Flow::Next)
    }

    fn vector_operand(&self, operand: Operand) -> Step<u8> {
        match operand {
            Operand::Vector(number) if number < 16 => Ok(number),
            _ => Err(Abort::Unhandled),
        }
    }

    /// Fails as the vector units do when the operating system switched them off.
    fn check_vector_unit(&self, is_vex: bool) -> Step<()> {
        let is_enabled = if is_vex {
            self.registers.cr4 & cr4::OSXSAVE != 0
        } else {
            self.registers.cr4 & cr4::OSFXSR != 0 && self.registers.cr0 & cr0::EM == 0
        };
        if !is_enabled {
            return Err(Exception::plain(vector::UD).into());
        }
        self.check_task_switched()
    }

    fn check_mmx_unit(&self) -> Step<()> {
        if self.registers.cr0 & cr0::EM != 0 {
            return Err(Exception::plain(vector::UD).into());
        }
        self.check_task_switched()
    }

    fn check_task_switched(&self) -> Step<()> {
        if self.registers.cr0 & cr0::TS != 0 {
            return Err(Exception::plain(vector::NM).into());
        }
        Ok(())
    }

    fn check_vector_alignment(&self, vector_move: VectorMove, is_write: bool) -> Step<()> {
        if !vector_move.is_aligned {
            return Ok(());
        }
        let len = u32::from(vector_move.bytes);
        let offset = self.effective_address();
        let linear = self.linear(self.decoded.memory.segment, offset, len, is_write)?;
        if linear & u64::from(len.saturating_sub(1)) != 0 {
            return Err(Exception::general_protection(0).into());
        }
        Ok(())
    }
}

/// Reads 16 bytes of a buffer as a number.
fn wide(bytes: &[u8; ACCESS_MAX], at: usize) -> u128 {
    let half = bytes.get(at..).and_then(|rest| rest.first_chunk::<16>());
    half.map_or(0, |half| u128::from_le_bytes(*half))
}
