//! Pushes, pops and stack frames. Nothing is committed before the last access succeeded.

use crate::context::Context;
use crate::decode::{Op, Operand};
use crate::environment::Environment;
use crate::execute::{Abort, Exception, Flow, Step};
use crate::registers::{RBP, RSP, merge};
use api::cpu::{rflags, segment};
use api::device::Width;

/// Flags that PUSHF stores: all but RF and VM.
const PUSHED: u64 = 0x00fc_ffff;
/// Flags that POPF changes at any privilege level.
const POPPED: u64 = rflags::CF
    | rflags::PF
    | rflags::AF
    | rflags::ZF
    | rflags::SF
    | rflags::TF
    | rflags::DF
    | rflags::OF
    | rflags::NT
    | rflags::AC
    | rflags::ID;
/// ENTER copies at most this many frame pointers less one.
const NESTING_MASK: u8 = 31;

impl<E: Environment> Context<'_, E> {
    pub(crate) fn stack(&mut self) -> Step<Flow> {
        let width = self.width()?;
        match self.decoded.op {
            Op::Push => {
                let value = self.read_operand(self.decoded.destination, width)?;
                self.push(width, value)?;
            }
            Op::PushSegment => {
                let value = self.selector(self.decoded.destination)?;
                self.push(width, value)?;
            }
            Op::Pop => self.pop_operand(width)?,
            Op::PopSegment => self.pop_segment(width)?,
            Op::PushFlags => {
                self.check_flags_access()?;
                self.push(width, self.registers.rflags & PUSHED)?;
            }
            Op::PopFlags => self.pop_flags(width)?,
            Op::PushAll => self.push_all(width)?,
            Op::PopAll => self.pop_all(width)?,
            Op::Enter => self.enter(width)?,
            _ => self.leave(width)?,
        }
        Ok(Flow::Next)
    }

    /// Returns `pointer` moved by `delta` within the stack's size.
    fn moved(&self, pointer: u64, delta: u64) -> u64 {
        pointer.wrapping_add(delta) & self.registers.stack_mask()
    }

    /// Writes `value` below `pointer` and returns the new pointer.
    fn push_at(&mut self, pointer: u64, width: Width, value: u64) -> Step<u64> {
        let len = width.bytes();
        let pointer = self.moved(pointer, 0u64.wrapping_sub(u64::from(len)));
        let linear = self.linear(segment::SS, pointer, len, true)?;
        let place = self.place(linear, len, true)?;
        self.write_place(&place, width, value)?;
        Ok(pointer)
    }

    /// Reads the value at `pointer` and returns the pointer behind it.
    fn pop_at(&mut self, pointer: u64, width: Width) -> Step<(u64, u64)> {
        let len = width.bytes();
        let linear = self.linear(segment::SS, pointer, len, false)?;
        let place = self.place(linear, len, false)?;
        let value = self.read_place(&place, width)?;
        Ok((value, self.moved(pointer, u64::from(len))))
    }

    /// Pushes a value.
    pub(crate) fn push(&mut self, width: Width, value: u64) -> Step<()> {
        let pointer = self.push_at(self.registers.stack_pointer(), width, value)?;
        self.registers.set_stack_pointer(pointer);
        Ok(())
    }

    /// Returns the value on top of the stack, and the pointer behind it and `extra` more bytes.
    pub(crate) fn peek(&mut self, width: Width, extra: u64) -> Step<(u64, u64)> {
        let (value, pointer) = self.pop_at(self.registers.stack_pointer(), width)?;
        Ok((value, self.moved(pointer, extra)))
    }

    fn pop_operand(&mut self, width: Width) -> Step<()> {
        let (value, pointer) = self.peek(width, 0)?;
        // An address based on RSP sees the incremented pointer.
        let rsp = self.registers.read_gpr(RSP);
        self.registers.set_stack_pointer(pointer);
        let result = self.write_operand(self.decoded.destination, width, value);
        if result.is_err() {
            self.registers.write_gpr(RSP, Width::Qword, rsp);
        }
        result
    }

    fn pop_segment(&mut self, width: Width) -> Step<()> {
        let Operand::Segment(number) = self.decoded.destination else {
            return Err(Abort::Unhandled);
        };
        let (value, pointer) = self.peek(width, 0)?;
        let [low, high, ..] = value.to_le_bytes();
        self.load_segment(usize::from(number), u16::from_le_bytes([low, high]))?;
        self.registers.set_stack_pointer(pointer);
        self.shadow = usize::from(number) == segment::SS;
        Ok(())
    }

    /// Virtual-8086 mode may touch the flags only at I/O privilege level 3.
    fn check_flags_access(&self) -> Step<()> {
        let flags = self.registers.rflags;
        if flags & rflags::VM != 0 && flags & rflags::IOPL != rflags::IOPL {
            return Err(Exception::general_protection(0).into());
        }
        Ok(())
    }

    fn pop_flags(&mut self, width: Width) -> Step<()> {
        self.check_flags_access()?;
        let (value, pointer) = self.peek(width, 0)?;
        let iopl = (self.registers.rflags & rflags::IOPL) >> 12;
        let cpl = u64::from(self.registers.cpl);
        let mut mask = POPPED;
        if cpl <= iopl {
            mask |= rflags::IF;
        }
        if cpl == 0 {
            mask |= rflags::IOPL;
        }
        if width == Width::Word {
            mask &= 0xffff;
        }
        self.registers.set_flags(mask, value);
        self.registers.set_stack_pointer(pointer);
        Ok(())
    }

    fn push_all(&mut self, width: Width) -> Step<()> {
        let mut pointer = self.registers.stack_pointer();
        for index in 0..8 {
            // The stack pointer is pushed as it was.
            let value = self.registers.read_gpr(index);
            pointer = self.push_at(pointer, width, value)?;
        }
        self.registers.set_stack_pointer(pointer);
        Ok(())
    }

    fn pop_all(&mut self, width: Width) -> Step<()> {
        let mut pointer = self.registers.stack_pointer();
        let mut values = [0; 8];
        for value in values.iter_mut().rev() {
            (*value, pointer) = self.pop_at(pointer, width)?;
        }
        for (index, value) in (0u8..).zip(values) {
            if index != RSP {
                self.registers.write_gpr(index, width, value);
            }
        }
        self.registers.set_stack_pointer(pointer);
        Ok(())
    }

    fn enter(&mut self, width: Width) -> Step<()> {
        let len = u64::from(width.bytes());
        let size = self.decoded.immediate & 0xffff;
        let nesting = self.decoded.extra & NESTING_MASK;
        let rbp = self.registers.read_gpr(RBP);
        let mut pointer = self.push_at(self.registers.stack_pointer(), width, rbp)?;
        let frame = pointer;
        let mut outer = rbp & self.registers.stack_mask();
        for _ in 1..nesting {
            outer = self.moved(outer, 0u64.wrapping_sub(len));
            let (value, _) = self.pop_at(outer, width)?;
            pointer = self.push_at(pointer, width, value)?;
        }
        if nesting != 0 {
            pointer = self.push_at(pointer, width, frame)?;
        }
        pointer = self.moved(pointer, 0u64.wrapping_sub(size));
        self.registers
            .write_gpr(RBP, Width::Qword, merge(rbp, width, frame));
        self.registers.set_stack_pointer(pointer);
        Ok(())
    }

    fn leave(&mut self, width: Width) -> Step<()> {
        let frame = self.registers.read_gpr(RBP) & self.registers.stack_mask();
        let (value, pointer) = self.pop_at(frame, width)?;
        self.registers.set_stack_pointer(pointer);
        self.registers.write_gpr(RBP, width, value);
        Ok(())
    }
}
