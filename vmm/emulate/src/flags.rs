//! Instructions on the flags themselves.

use crate::context::Context;
use crate::decode::Op;
use crate::environment::Environment;
use crate::execute::{Exception, Flow, Step};
use crate::registers::RAX;
use api::cpu::rflags;
use api::device::Width;

impl<E: Environment> Context<'_, E> {
    pub(crate) fn change_flags(&mut self, op: Op) -> Step<Flow> {
        /// What LAHF stores and SAHF loads.
        const LOW: u64 = rflags::SF | rflags::ZF | rflags::AF | rflags::PF | rflags::CF;
        match op {
            Op::SetFlag(flag) => self.registers.rflags |= flag,
            Op::ClearFlag(flag) => self.registers.rflags &= !flag,
            Op::ComplementCarry => self.registers.rflags ^= rflags::CF,
            Op::SetInterrupt | Op::ClearInterrupt => return self.change_interrupt_flag(op),
            Op::LoadFlags => {
                let flags = self.registers.rflags & LOW | rflags::FIXED;
                let rest = self.registers.read_gpr(RAX) & !0xff00;
                self.registers
                    .write_gpr(RAX, Width::Qword, rest | flags << 8);
            }
            _ => {
                let flags = self.registers.read_gpr(RAX) >> 8;
                self.registers.set_flags(LOW, flags);
            }
        }
        Ok(Flow::Next)
    }

    fn change_interrupt_flag(&mut self, op: Op) -> Step<Flow> {
        let iopl = (self.registers.rflags & rflags::IOPL) >> 12;
        let is_real = !self.registers.is_protected() && self.registers.rflags & rflags::VM == 0;
        if !is_real && u64::from(self.registers.cpl) > iopl {
            // The virtual interrupt flag of VME and PVI is the processor's business.
            return Err(Exception::general_protection(0).into());
        }
        let was_set = self.registers.rflags & rflags::IF != 0;
        if op == Op::SetInterrupt {
            self.registers.rflags |= rflags::IF;
            self.shadow = !was_set;
        } else {
            self.registers.rflags &= !rflags::IF;
        }
        Ok(Flow::Next)
    }
}
