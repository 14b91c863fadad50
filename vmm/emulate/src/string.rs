//! String instructions, with and without a repeat prefix.
//!
//! A call does a bounded number of iterations and leaves the registers as an interrupt between two would find them.

use crate::alu::{STATUS, subtract};
use crate::context::Context;
use crate::decode::Repeat;
use crate::environment::Environment;
use crate::execute::{Flow, Step};
use crate::memory::{Place, in_page};
use crate::registers::{RAX, RCX, RDI, RDX, RSI};
use addr::{Gpa, PAGE_SIZE};
use api::cpu::{rflags, segment};
use api::device::Width;

/// Iterations of one call: enough to spread the cost of the exit, few enough not to be felt as a delay.
const ITERATIONS_MAX: u32 = 512;

/// The seven string instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StringOp {
    Move,
    Store,
    Load,
    Compare,
    Scan,
    Input,
    Output,
}

/// The page that one of the two pointers was in last, and where that is.
#[derive(Default)]
struct Cursor {
    page: Option<(u64, Gpa)>,
}

/// What stays the same over all iterations.
struct Iteration {
    op: StringOp,
    width: Width,
    source: Cursor,
    destination: Cursor,
}

impl<E: Environment> Context<'_, E> {
    pub(crate) fn string(&mut self, op: StringOp) -> Step<Flow> {
        let mut iteration = Iteration {
            op,
            width: self.width()?,
            source: Cursor::default(),
            destination: Cursor::default(),
        };
        if self.decoded.repeat == Repeat::Once {
            self.iterate(&mut iteration)?;
            return Ok(Flow::Next);
        }
        for _ in 0..ITERATIONS_MAX {
            let count = self.address_register(RCX);
            if count == 0 {
                return Ok(Flow::Next);
            }
            self.iterate(&mut iteration)?;
            self.set_address_register(RCX, count.wrapping_sub(1));
            if count == 1 || !self.goes_on(op) {
                return Ok(Flow::Next);
            }
            // A trap comes after each iteration.
            if self.registers.rflags & rflags::TF != 0 {
                break;
            }
        }
        Ok(Flow::Repeat)
    }

    /// Tells whether a comparison lets the repetition go on.
    fn goes_on(&self, op: StringOp) -> bool {
        let is_equal = self.registers.rflags & rflags::ZF != 0;
        match op {
            StringOp::Compare | StringOp::Scan => {
                is_equal == (self.decoded.repeat == Repeat::WhileEqual)
            }
            _ => true,
        }
    }

    fn iterate(&mut self, iteration: &mut Iteration) -> Step<()> {
        let width = iteration.width;
        let rax = self.registers.read_gpr(RAX);
        match iteration.op {
            StringOp::Move => {
                let value = self.read_source(iteration)?;
                self.write_destination(iteration, value)?;
                self.advance(RSI, width);
                self.advance(RDI, width);
            }
            StringOp::Store => {
                self.write_destination(iteration, rax)?;
                self.advance(RDI, width);
            }
            StringOp::Load => {
                let value = self.read_source(iteration)?;
                self.registers.write_gpr(RAX, width, value);
                self.advance(RSI, width);
            }
            StringOp::Compare => {
                let left = self.read_source(iteration)?;
                let right = self.read_destination(iteration)?;
                self.registers
                    .set_flags(STATUS, subtract(width, left, right, 0).flags);
                self.advance(RSI, width);
                self.advance(RDI, width);
            }
            StringOp::Scan => {
                let right = self.read_destination(iteration)?;
                self.registers
                    .set_flags(STATUS, subtract(width, rax, right, 0).flags);
                self.advance(RDI, width);
            }
            StringOp::Input => {
                // The destination is checked before the port is read.
                let place = self.destination_place(iteration, true)?;
                let value = self.env.port_in(self.port_in_dx(), width)?;
                self.write_place(&place, width, u64::from(value))?;
                self.advance(RDI, width);
            }
            StringOp::Output => {
                let [a, b, c, d, ..] = self.read_source(iteration)?.to_le_bytes();
                let value = u32::from_le_bytes([a, b, c, d]);
                self.env.port_out(self.port_in_dx(), width, value)?;
                self.advance(RSI, width);
            }
        }
        Ok(())
    }

    fn read_source(&mut self, iteration: &mut Iteration) -> Step<u64> {
        let offset = self.address_register(RSI);
        let segment = self.decoded.memory.segment;
        let place = self.element(
            &mut iteration.source,
            segment,
            offset,
            iteration.width,
            false,
        )?;
        self.read_place(&place, iteration.width)
    }

    fn read_destination(&mut self, iteration: &mut Iteration) -> Step<u64> {
        let place = self.destination_place(iteration, false)?;
        self.read_place(&place, iteration.width)
    }

    fn write_destination(&mut self, iteration: &mut Iteration, value: u64) -> Step<()> {
        let place = self.destination_place(iteration, true)?;
        self.write_place(&place, iteration.width, value)
    }

    /// The destination is in ES, whatever the prefixes say.
    fn destination_place(&mut self, iteration: &mut Iteration, is_write: bool) -> Step<Place> {
        let offset = self.address_register(RDI);
        let width = iteration.width;
        self.element(
            &mut iteration.destination,
            segment::ES,
            offset,
            width,
            is_write,
        )
    }

    /// Finds an element, without a page walk while the pointer stays in its page.
    fn element(
        &mut self,
        cursor: &mut Cursor,
        segment: usize,
        offset: u64,
        width: Width,
        is_write: bool,
    ) -> Step<Place> {
        let len = width.bytes();
        let linear = self.linear(segment, offset, len, is_write)?;
        let page_offset = linear & (PAGE_SIZE - 1);
        let is_whole = in_page(linear) >= len as usize;
        if let Some((page, gpa)) = cursor.page
            && is_whole
            && page == linear & !(PAGE_SIZE - 1)
        {
            let gpa = Gpa::new_truncate(gpa.as_u64() | page_offset);
            return Ok(Place::in_one_page(gpa, len));
        }
        let place = self.place(linear, len, is_write)?;
        cursor.page = is_whole.then(|| {
            let start = place.start().as_u64() & !(PAGE_SIZE - 1);
            (linear & !(PAGE_SIZE - 1), Gpa::new_truncate(start))
        });
        Ok(place)
    }

    fn port_in_dx(&self) -> u16 {
        let [low, high, ..] = self.registers.read_gpr(RDX).to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// Reads RCX, RSI or RDI in the address size.
    fn address_register(&self, index: u8) -> u64 {
        self.registers.read_gpr(index) & self.decoded.memory.mask
    }

    /// Writes RCX, RSI or RDI in the address size.
    fn set_address_register(&mut self, index: u8, value: u64) {
        let width = match self.decoded.memory.mask {
            0xffff => Width::Word,
            0xffff_ffff => Width::Dword,
            _ => Width::Qword,
        };
        self.registers.write_gpr(index, width, value);
    }

    /// Moves a pointer on by one element.
    fn advance(&mut self, index: u8, width: Width) {
        let len = u64::from(width.bytes());
        let delta = if self.registers.rflags & rflags::DF != 0 {
            0u64.wrapping_sub(len)
        } else {
            len
        };
        let value = self.address_register(index).wrapping_add(delta);
        self.set_address_register(index, value);
    }
}
