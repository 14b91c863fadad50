//! IN and OUT. The processor checked the right to use the port before it exited.

use crate::context::Context;
use crate::decode::Operand;
use crate::environment::Environment;
use crate::execute::{Flow, Step};
use crate::registers::RAX;
use api::device::Width;

impl<E: Environment> Context<'_, E> {
    pub(crate) fn port_in(&mut self) -> Step<Flow> {
        let width = self.width()?;
        let port = self.port(self.decoded.source)?;
        let value = self.env.port_in(port, width)?;
        self.registers.write_gpr(RAX, width, u64::from(value));
        Ok(Flow::Next)
    }

    pub(crate) fn port_out(&mut self) -> Step<Flow> {
        let width = self.width()?;
        let port = self.port(self.decoded.destination)?;
        let value = self.registers.read_gpr(RAX) & width.all_ones();
        let [a, b, c, d, ..] = value.to_le_bytes();
        self.env
            .port_out(port, width, u32::from_le_bytes([a, b, c, d]))?;
        Ok(Flow::Next)
    }

    fn port(&mut self, operand: Operand) -> Step<u16> {
        let width = match operand {
            Operand::Immediate => Width::Byte,
            _ => Width::Word,
        };
        let [low, high, ..] = self.read_operand(operand, width)?.to_le_bytes();
        Ok(u16::from_le_bytes([low, high]))
    }
}
