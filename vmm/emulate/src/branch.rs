//! Jumps, calls and returns within a segment, and far jumps through memory.

use crate::alu::is_true;
use crate::context::Context;
use crate::decode::Op;
use crate::environment::Environment;
use crate::execute::{Abort, Exception, Flow, Step};
use crate::registers::CodeSize;
use api::cpu::segment;
use api::device::Width;

impl<E: Environment> Context<'_, E> {
    pub(crate) fn branch(&mut self) -> Step<Flow> {
        let width = self.width()?;
        match self.decoded.op {
            Op::JumpIf(condition) if !is_true(condition, self.registers.rflags) => Ok(Flow::Next),
            Op::JumpIf(_) | Op::JumpRelative => {
                let target = self.checked_target(self.relative_target(width))?;
                Ok(Flow::Jump(target))
            }
            Op::JumpAbsolute => {
                let target = self.read_operand(self.decoded.destination, width)?;
                Ok(Flow::Jump(self.checked_target(target)?))
            }
            Op::CallRelative => self.call(width, self.relative_target(width)),
            Op::CallAbsolute => {
                let target = self.read_operand(self.decoded.destination, width)?;
                self.call(width, target)
            }
            Op::Return => {
                let (target, pointer) = self.peek(width, self.decoded.immediate & 0xffff)?;
                let target = self.checked_target(target)?;
                self.registers.set_stack_pointer(pointer);
                Ok(Flow::Jump(target))
            }
            Op::JumpFar => self.jump_far(width),
            _ => Err(Abort::Unhandled),
        }
    }

    fn call(&mut self, width: Width, target: u64) -> Step<Flow> {
        let target = self.checked_target(target)?;
        let len = u64::from(self.decoded.len);
        let next = self.registers.rip.wrapping_add(len) & self.size.ip_mask();
        self.push(width, next)?;
        Ok(Flow::Jump(target))
    }

    /// The displacement counts from the instruction's first byte: decoding put it at address 0.
    fn relative_target(&self, width: Width) -> u64 {
        self.registers.rip.wrapping_add(self.decoded.immediate) & width.all_ones()
    }

    /// Fails when a target is not canonical or outside the code segment.
    fn checked_target(&self, target: u64) -> Step<u64> {
        let is_valid = if self.size == CodeSize::Bits64 {
            self.is_canonical(target)
        } else {
            target <= u64::from(self.registers.segment(segment::CS).limit)
        };
        if is_valid {
            Ok(target)
        } else {
            Err(Exception::general_protection(0).into())
        }
    }

    /// Reads offset and selector from memory.
    fn jump_far(&mut self, width: Width) -> Step<Flow> {
        let (target, selector) = self.read_far_pointer(width)?;
        let code = self.code_segment(selector)?;
        let is_64_bit =
            self.registers.is_long() && code.attributes.has(api::cpu::SegmentAttributes::LONG);
        let is_valid = if is_64_bit {
            self.is_canonical(target)
        } else {
            target <= u64::from(code.limit)
        };
        if !is_valid {
            return Err(Exception::general_protection(0).into());
        }
        if let Some(cs) = self.registers.segments.get_mut(segment::CS) {
            *cs = code;
        }
        Ok(Flow::Jump(target))
    }

    /// Reads an offset of `width` and the selector behind it.
    pub(crate) fn read_far_pointer(&mut self, width: Width) -> Step<(u64, u16)> {
        let offset = self.effective_address();
        let place = self.operand_place_at(offset, width.bytes(), false)?;
        let target = self.read_place(&place, width)?;
        let behind = offset.wrapping_add(u64::from(width.bytes())) & self.decoded.memory.mask;
        let place = self.operand_place_at(behind, 2, false)?;
        let [low, high, ..] = self.read_place(&place, Width::Word)?.to_le_bytes();
        Ok((target, u16::from_le_bytes([low, high])))
    }
}
