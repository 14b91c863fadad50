//! Moves, exchanges, arithmetic on operands, and changes of flags.

use crate::alu::{AluOp, STATUS, alu, is_true, logic, step, subtract};
use crate::bits::{BitOp, ScanOp, bit, scan, swap_bytes};
use crate::context::Context;
use crate::decode::{Decoded, Op, Operand};
use crate::environment::Environment;
use crate::execute::{Abort, Exception, Flow, Step};
use crate::multiply::{Pair, divide, divide_signed, multiply, multiply_signed};
use crate::registers::{RAX, RBX, RCX, RDX, bits, sign_extend};
use crate::shift::{ShiftOp, shift, shift_double_left, shift_double_right};
use addr::Gpa;
use api::cpu::{rflags, vector};
use api::device::Width;

impl<E: Environment> Context<'_, E> {
    #[inline]
    pub(crate) fn mov(&mut self) -> Step<Flow> {
        let width = self.width()?;
        if let Some((gpa, may_write)) = self.hint
            && self.is_hinted(gpa, width.bytes())
        {
            return self.mov_hinted(gpa, may_write, width);
        }
        self.mov_any(width)
    }

    /// Moves between a register or an immediate and memory at `gpa`: what nearly all accesses to devices are.
    #[inline]
    fn mov_hinted(&mut self, gpa: Gpa, may_write: bool, width: Width) -> Step<Flow> {
        let len = width.bytes() as usize;
        let Decoded {
            destination,
            source,
            immediate,
            ..
        } = *self.decoded;
        match (destination, source) {
            (Operand::Gpr(register), Operand::Memory) => {
                let mut bytes = [0; 8];
                self.env
                    .read_phys(gpa, bytes.get_mut(..len).unwrap_or_default())?;
                self.registers
                    .write_gpr(register, width, u64::from_le_bytes(bytes));
            }
            (Operand::Memory, Operand::Gpr(_) | Operand::Immediate) if may_write => {
                let value = match source {
                    Operand::Gpr(register) => self.registers.read_gpr(register),
                    _ => immediate,
                };
                let bytes = value.to_le_bytes();
                self.env
                    .write_phys(gpa, bytes.get(..len).unwrap_or_default())?;
            }
            _ => return self.mov_any(width),
        }
        Ok(Flow::Next)
    }

    #[inline(never)]
    fn mov_any(&mut self, width: Width) -> Step<Flow> {
        let value = self.read_operand(self.decoded.source, width)?;
        self.write_operand(self.decoded.destination, width, value)?;
        Ok(Flow::Next)
    }

    pub(crate) fn extend(&mut self, is_signed: bool) -> Step<Flow> {
        let width = self.width()?;
        let source_width = self.decoded.source_width.ok_or(Abort::Unhandled)?;
        let value = self.read_operand(self.decoded.source, source_width)?;
        let value = if is_signed {
            sign_extend(source_width, value)
        } else {
            value
        };
        self.write_operand(self.decoded.destination, width, value)?;
        Ok(Flow::Next)
    }

    pub(crate) fn movbe(&mut self) -> Step<Flow> {
        let width = self.width()?;
        let value = self.read_operand(self.decoded.source, width)?;
        self.write_operand(self.decoded.destination, width, swap_bytes(width, value))?;
        Ok(Flow::Next)
    }

    pub(crate) fn swap_bytes(&mut self) -> Step<Flow> {
        let width = self.width()?;
        self.modify(self.decoded.destination, width, false, |value| {
            (swap_bytes(width, value), ())
        })?;
        Ok(Flow::Next)
    }

    pub(crate) fn lea(&mut self) -> Step<Flow> {
        let width = self.width()?;
        let address = self.effective_address();
        self.write_operand(self.decoded.destination, width, address)?;
        Ok(Flow::Next)
    }

    pub(crate) fn exchange(&mut self) -> Step<Flow> {
        let width = self.width()?;
        // Encodings put the memory operand on either side.
        let (first, second) = match self.decoded.source {
            Operand::Memory => (self.decoded.source, self.decoded.destination),
            _ => (self.decoded.destination, self.decoded.source),
        };
        let new = self.read_operand(second, width)?;
        // With memory, XCHG is always locked.
        let old = self.modify(first, width, true, |old| (new, old))?;
        self.write_operand(second, width, old)?;
        Ok(Flow::Next)
    }

    pub(crate) fn exchange_add(&mut self) -> Step<Flow> {
        let width = self.width()?;
        let (destination, source) = (self.decoded.destination, self.decoded.source);
        let addend = self.read_operand(source, width)?;
        let sum = |old| alu(AluOp::Add, width, old, addend, 0);
        if destination != Operand::Memory {
            // The sum is written last: it stays when both are the same register.
            let old = self.read_operand(destination, width)?;
            self.write_operand(source, width, old)?;
            self.write_operand(destination, width, sum(old).value)?;
            self.registers.set_flags(STATUS, sum(old).flags);
            return Ok(Flow::Next);
        }
        let (old, flags) = self.modify(destination, width, self.decoded.has_lock, |old| {
            let result = sum(old);
            (result.value, (old, result.flags))
        })?;
        self.write_operand(source, width, old)?;
        self.registers.set_flags(STATUS, flags);
        Ok(Flow::Next)
    }

    pub(crate) fn compare_exchange(&mut self) -> Step<Flow> {
        let width = self.width()?;
        let new = self.read_operand(self.decoded.source, width)?;
        let expected = self.registers.read_gpr(RAX) & width.all_ones();
        let destination = self.decoded.destination;
        let old = if destination == Operand::Memory {
            // A failed comparison writes the old value back, as the processor does.
            self.modify(destination, width, self.decoded.has_lock, |old| {
                (if old == expected { new } else { old }, old)
            })?
        } else {
            let old = self.read_operand(destination, width)?;
            if old == expected {
                self.write_operand(destination, width, new)?;
            }
            old
        };
        let compared = subtract(width, expected, old, 0);
        self.registers.set_flags(STATUS, compared.flags);
        if old != expected {
            self.registers.write_gpr(RAX, width, old);
        }
        Ok(Flow::Next)
    }

    /// CMPXCHG8B and CMPXCHG16B.
    pub(crate) fn compare_exchange_pair(&mut self) -> Step<Flow> {
        let half = self.width()?;
        let half_len = half.bytes() as usize;
        let len = half.bytes().saturating_mul(2);
        let offset = self.effective_address();
        let linear = self.linear(self.decoded.memory.segment, offset, len, true)?;
        if half == Width::Qword && linear & 15 != 0 {
            return Err(Exception::general_protection(0).into());
        }
        let place = self.operand_place(len, true)?;
        let mut old = [0; 16];
        let old = old.get_mut(..len as usize).ok_or(Abort::Unhandled)?;
        self.read_bytes(&place, old)?;
        let (low, high) = old.split_at(half_len);
        let (low, high) = (number(low), number(high));
        let mask = half.all_ones();
        let is_equal = low == self.registers.read_gpr(RAX) & mask
            && high == self.registers.read_gpr(RDX) & mask;
        if is_equal {
            let mut new = [0; 16];
            let halves = [RBX, RCX].map(|index| self.registers.read_gpr(index).to_le_bytes());
            let from = halves.iter().flat_map(|value| value.iter().take(half_len));
            for (to, from) in new.iter_mut().zip(from) {
                *to = *from;
            }
            let new = new.get(..len as usize).ok_or(Abort::Unhandled)?;
            if !self.exchange_bytes(&place, old, new)? {
                return Err(Abort::Contended);
            }
        } else {
            self.registers.write_gpr(RAX, half, low);
            self.registers.write_gpr(RDX, half, high);
        }
        let zero = if is_equal { rflags::ZF } else { 0 };
        self.registers.set_flags(rflags::ZF, zero);
        Ok(Flow::Next)
    }

    pub(crate) fn conditional_move(&mut self, condition: u8) -> Step<Flow> {
        let width = self.width()?;
        // The source is read in any case, and 32 bits clear the upper half in any case.
        let source = self.read_operand(self.decoded.source, width)?;
        let destination = self.decoded.destination;
        let value = if is_true(condition, self.registers.rflags) {
            source
        } else {
            self.read_operand(destination, width)?
        };
        self.write_operand(destination, width, value)?;
        Ok(Flow::Next)
    }

    pub(crate) fn set_if(&mut self, condition: u8) -> Step<Flow> {
        let value = u64::from(is_true(condition, self.registers.rflags));
        self.write_operand(self.decoded.destination, Width::Byte, value)?;
        Ok(Flow::Next)
    }

    /// XLAT: AL indexes a table at RBX.
    pub(crate) fn translate_byte(&mut self) -> Step<Flow> {
        let base = self.registers.read_gpr(RBX);
        let index = self.registers.read_gpr(RAX) & 0xff;
        let offset = base.wrapping_add(index) & self.decoded.memory.mask;
        let place = self.operand_place_at(offset, 1, false)?;
        let value = self.read_place(&place, Width::Byte)?;
        self.registers.write_gpr(RAX, Width::Byte, value);
        Ok(Flow::Next)
    }

    /// CBW and CWD with their larger forms.
    pub(crate) fn convert(&mut self) -> Step<Flow> {
        let width = self.width()?;
        let rax = self.registers.read_gpr(RAX);
        if self.decoded.op == Op::ExtendAccumulator {
            let half = match width {
                Width::Qword => Width::Dword,
                Width::Dword => Width::Word,
                _ => Width::Byte,
            };
            self.registers.write_gpr(RAX, width, sign_extend(half, rax));
        } else {
            let sign = sign_extend(width, rax).cast_signed() >> 63;
            self.registers.write_gpr(RDX, width, sign.cast_unsigned());
        }
        Ok(Flow::Next)
    }

    pub(crate) fn alu(&mut self, op: AluOp) -> Step<Flow> {
        let width = self.width()?;
        let destination = self.decoded.destination;
        let operand = self.read_operand(self.decoded.source, width)?;
        let carry = self.registers.flag(rflags::CF);
        let flags = if op == AluOp::Cmp {
            let value = self.read_operand(destination, width)?;
            alu(op, width, value, operand, carry).flags
        } else {
            self.modify(destination, width, self.decoded.has_lock, |value| {
                let result = alu(op, width, value, operand, carry);
                (result.value, result.flags)
            })?
        };
        self.registers.set_flags(STATUS, flags);
        Ok(Flow::Next)
    }

    pub(crate) fn test(&mut self) -> Step<Flow> {
        let width = self.width()?;
        let operand = self.read_operand(self.decoded.source, width)?;
        let value = self.read_operand(self.decoded.destination, width)?;
        let result = logic(width, value & operand);
        self.registers.set_flags(STATUS, result.flags);
        Ok(Flow::Next)
    }

    pub(crate) fn unary(&mut self, op: Op) -> Step<Flow> {
        let width = self.width()?;
        let (mask, flags) = {
            let has_lock = self.decoded.has_lock;
            let (mask, change): (u64, fn(Width, u64) -> crate::alu::Flagged) = match op {
                Op::Inc => (STATUS & !rflags::CF, |width, value| {
                    step(width, value, true)
                }),
                Op::Dec => (STATUS & !rflags::CF, |width, value| {
                    step(width, value, false)
                }),
                Op::Neg => (STATUS, |width, value| subtract(width, 0, value, 0)),
                _ => (0, |width, value| logic(width, !value)),
            };
            let flags = self.modify(self.decoded.destination, width, has_lock, |value| {
                let result = change(width, value);
                (result.value, result.flags)
            })?;
            (mask, flags)
        };
        self.registers.set_flags(mask, flags);
        Ok(Flow::Next)
    }

    /// BT and its kin. A bit number in a register reaches beyond a memory operand.
    pub(crate) fn bit(&mut self, op: BitOp) -> Step<Flow> {
        let width = self.width()?;
        let number = self.read_operand(self.decoded.source, width)?;
        let is_write = op != BitOp::Test;
        let change = |value| {
            let result = bit(op, width, value, number);
            (result.value, result.flags)
        };
        let flags = if self.decoded.destination == Operand::Memory {
            let mut offset = self.effective_address();
            if self.decoded.source != Operand::Immediate {
                let shift = bits(width).trailing_zeros();
                let words = sign_extend(width, number).cast_signed() >> shift;
                let bytes = words.cast_unsigned().wrapping_mul(u64::from(width.bytes()));
                offset = offset.wrapping_add(bytes) & self.decoded.memory.mask;
            }
            let place = self.operand_place_at(offset, width.bytes(), is_write)?;
            if is_write {
                self.modify_place(&place, width, self.decoded.has_lock, change)?
            } else {
                change(self.read_place(&place, width)?).1
            }
        } else if is_write {
            self.modify(self.decoded.destination, width, false, change)?
        } else {
            // A write would clear the upper half.
            change(self.read_operand(self.decoded.destination, width)?).1
        };
        self.registers.set_flags(rflags::CF, flags);
        Ok(Flow::Next)
    }

    pub(crate) fn scan(&mut self, op: ScanOp) -> Step<Flow> {
        let width = self.width()?;
        let source = self.read_operand(self.decoded.source, width)?;
        let (value, result) = scan(op, width, source);
        if let Some(value) = value {
            self.write_operand(self.decoded.destination, width, value)?;
        }
        let mask = match op {
            ScanOp::Forward | ScanOp::Reverse => rflags::ZF,
            ScanOp::TrailingZeros | ScanOp::LeadingZeros => rflags::ZF | rflags::CF,
            ScanOp::Population => STATUS,
        };
        self.registers.set_flags(mask, result.flags);
        Ok(Flow::Next)
    }

    pub(crate) fn shift(&mut self, op: ShiftOp) -> Step<Flow> {
        let width = self.width()?;
        let count = self.read_operand(self.decoded.source, Width::Byte)?;
        let carry = self.registers.flag(rflags::CF);
        let (mask, flags) = self.modify(self.decoded.destination, width, false, |value| {
            let shifted = shift(op, width, value, count, carry);
            (shifted.result.value, (shifted.mask, shifted.result.flags))
        })?;
        self.registers.set_flags(mask, flags);
        Ok(Flow::Next)
    }

    pub(crate) fn shift_double(&mut self) -> Step<Flow> {
        let width = self.width()?;
        let fill = self.read_operand(self.decoded.source, width)?;
        let count = self.read_operand(self.decoded.third, Width::Byte)?;
        let is_left = self.decoded.op == Op::Shld;
        let (mask, flags) = self.modify(self.decoded.destination, width, false, |value| {
            let shifted = if is_left {
                shift_double_left(width, value, fill, count)
            } else {
                shift_double_right(width, value, fill, count)
            };
            (shifted.result.value, (shifted.mask, shifted.result.flags))
        })?;
        self.registers.set_flags(mask, flags);
        Ok(Flow::Next)
    }

    /// MUL, and IMUL with one operand: the product goes to RDX:RAX, or to AX.
    pub(crate) fn multiply_wide(&mut self) -> Step<Flow> {
        let width = self.width()?;
        let operand = self.read_operand(self.decoded.destination, width)?;
        let rax = self.registers.read_gpr(RAX);
        let product = if self.decoded.op == Op::Mul {
            multiply(width, rax, operand)
        } else {
            multiply_signed(width, rax, operand)
        };
        self.set_pair(width, product.pair);
        self.registers
            .set_flags(STATUS & !rflags::AF, product.flags);
        Ok(Flow::Next)
    }

    /// IMUL with two or three operands.
    pub(crate) fn multiply(&mut self) -> Step<Flow> {
        let width = self.width()?;
        let (a, b) = match self.decoded.third {
            Operand::None => (self.decoded.destination, self.decoded.source),
            third => (self.decoded.source, third),
        };
        let a = self.read_operand(a, width)?;
        let b = self.read_operand(b, width)?;
        let product = multiply_signed(width, a, b);
        self.write_operand(self.decoded.destination, width, product.pair.low)?;
        self.registers
            .set_flags(STATUS & !rflags::AF, product.flags);
        Ok(Flow::Next)
    }

    pub(crate) fn divide(&mut self) -> Step<Flow> {
        let width = self.width()?;
        let divisor = self.read_operand(self.decoded.destination, width)?;
        let rax = self.registers.read_gpr(RAX);
        let high = match width {
            Width::Byte => rax >> 8,
            _ => self.registers.read_gpr(RDX),
        };
        let dividend = Pair { low: rax, high };
        let result = if self.decoded.op == Op::Div {
            divide(width, dividend, divisor)
        } else {
            divide_signed(width, dividend, divisor)
        };
        let result = result.ok_or(Exception::plain(vector::DE))?;
        self.set_pair(width, result);
        Ok(Flow::Next)
    }

    fn set_pair(&mut self, width: Width, pair: Pair) {
        if width == Width::Byte {
            let value = pair.high << 8 | pair.low;
            self.registers.write_gpr(RAX, Width::Word, value);
        } else {
            self.registers.write_gpr(RAX, width, pair.low);
            self.registers.write_gpr(RDX, width, pair.high);
        }
    }
}

/// Reads a little-endian number of up to 8 bytes.
fn number(bytes: &[u8]) -> u64 {
    let mut wide = [0; 8];
    for (to, from) in wide.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_le_bytes(wide)
}
