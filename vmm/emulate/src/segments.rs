//! Loading segment registers from descriptors (AMD APM vol. 2, 4.7 to 4.11; Intel SDM vol. 3, 5.6 to 5.8).

use crate::context::Context;
use crate::decode::{Op, Operand};
use crate::environment::Environment;
use crate::execute::{Abort, Exception, Flow, Step};
use crate::registers::CodeSize;
use crate::walk::{Access, Intent};
use api::cpu::{Segment, SegmentAttributes as Attr, rflags, segment, vector};
use api::device::Width;

/// Bits of a selector.
const RPL: u16 = 3;
const TABLE_LDT: u16 = 1 << 2;
/// Size of a descriptor.
const DESCRIPTOR: u32 = 8;
/// Bit 40 of a code or data descriptor: accessed.
const ACCESSED: u64 = 1 << 40;

/// A descriptor and where it was found.
#[derive(Clone, Copy)]
pub(crate) struct Descriptor {
    pub(crate) raw: u64,
    pub(crate) linear: u64,
}

impl Descriptor {
    /// Returns the segment register that a load of this descriptor by `selector` gives.
    pub(crate) fn segment(&self, selector: u16) -> Segment {
        let [limit0, limit1, base0, base1, base2, access, flags, base3] = self.raw.to_le_bytes();
        let attributes = Attr(u16::from(access) | u16::from(flags & 0xf0) << 4);
        let limit = u32::from_le_bytes([limit0, limit1, flags & 0xf, 0]);
        Segment {
            selector,
            attributes,
            limit: if attributes.has(Attr::GRANULAR) {
                limit << 12 | 0xfff
            } else {
                limit
            },
            base: u64::from(u32::from_le_bytes([base0, base1, base2, base3])),
        }
    }
}

/// Access of the processor to its own tables.
pub(crate) const fn table_access(intent: Intent) -> Access {
    Access {
        intent,
        is_user: false,
        is_implicit: true,
    }
}

/// An exception with a selector as its error code.
pub(crate) fn selector_fault(vector: u8, selector: u16) -> Abort {
    Exception::with_code(vector, u32::from(selector & !RPL)).into()
}

impl<E: Environment> Context<'_, E> {
    /// MOV to and from segment registers, and LDS with its kin.
    pub(crate) fn segment_move(&mut self) -> Step<Flow> {
        match self.decoded.op {
            Op::LoadSegment => {
                let Operand::Segment(number) = self.decoded.destination else {
                    return Err(Abort::Unhandled);
                };
                let value = self.read_operand(self.decoded.source, Width::Word)?;
                let [low, high, ..] = value.to_le_bytes();
                self.load_segment(usize::from(number), u16::from_le_bytes([low, high]))?;
                self.shadow = usize::from(number) == segment::SS;
            }
            Op::StoreSegment => {
                let selector = self.selector(self.decoded.source)?;
                // Memory takes 16 bits, whatever the operand size.
                let width = match self.decoded.destination {
                    Operand::Memory => Width::Word,
                    _ => self.width()?,
                };
                self.write_operand(self.decoded.destination, width, selector)?;
            }
            Op::LoadFarPointer(number) => {
                let width = self.width()?;
                let (offset, selector) = self.read_far_pointer(width)?;
                self.load_segment(usize::from(number), selector)?;
                self.write_operand(self.decoded.destination, width, offset)?;
            }
            _ => return Err(Abort::Unhandled),
        }
        Ok(Flow::Next)
    }

    /// Returns the selector in a segment register.
    pub(crate) fn selector(&self, operand: Operand) -> Step<u64> {
        match operand {
            Operand::Segment(number) => Ok(u64::from(
                self.registers.segment(usize::from(number)).selector,
            )),
            _ => Err(Abort::Unhandled),
        }
    }

    /// Loads ES, SS, DS, FS or GS.
    pub(crate) fn load_segment(&mut self, number: usize, selector: u16) -> Step<()> {
        let loaded = if !self.registers.is_protected() {
            self.real_mode_segment(number, selector)
        } else if number == segment::SS {
            self.stack_segment(selector)?
        } else {
            self.data_segment(selector)?
        };
        match self.registers.segments.get_mut(number) {
            Some(register) if number != segment::CS => *register = loaded,
            _ => return Err(Exception::plain(vector::UD).into()),
        }
        Ok(())
    }

    /// Real mode changes only base and selector; virtual-8086 mode gives a fixed limit and rights too.
    fn real_mode_segment(&self, number: usize, selector: u16) -> Segment {
        /// Writable data at privilege level 3.
        const VIRTUAL_8086: Attr = Attr(0x0f3);
        if self.registers.rflags & rflags::VM != 0 {
            return Segment::real_mode(selector, VIRTUAL_8086);
        }
        Segment {
            selector,
            base: u64::from(selector) << 4,
            ..*self.registers.segment(number)
        }
    }

    fn stack_segment(&mut self, selector: u16) -> Step<Segment> {
        let cpl = u16::from(self.registers.cpl);
        if selector & !RPL == 0 {
            // Only 64-bit mode has a null stack segment.
            let is_allowed = self.size == CodeSize::Bits64 && cpl < 3 && selector & RPL == cpl;
            if !is_allowed {
                return Err(Exception::general_protection(0).into());
            }
            return Ok(null_segment(selector, self.registers.cpl));
        }
        let descriptor = self.read_descriptor(selector)?;
        let loaded = descriptor.segment(selector);
        let attributes = loaded.attributes;
        let is_writable_data =
            attributes.has(Attr::CODE_DATA | Attr::READ_WRITE) && !attributes.has(Attr::EXECUTABLE);
        let is_own_level = selector & RPL == cpl && u16::from(attributes.dpl()) == cpl;
        if !is_writable_data || !is_own_level {
            return Err(selector_fault(vector::GP, selector));
        }
        if !attributes.has(Attr::PRESENT) {
            return Err(selector_fault(vector::SS, selector));
        }
        self.mark_accessed(&descriptor, loaded)
    }

    fn data_segment(&mut self, selector: u16) -> Step<Segment> {
        if selector & !RPL == 0 {
            return Ok(null_segment(selector, 0));
        }
        let descriptor = self.read_descriptor(selector)?;
        let loaded = descriptor.segment(selector);
        let attributes = loaded.attributes;
        let is_code = attributes.has(Attr::EXECUTABLE);
        let is_readable =
            attributes.has(Attr::CODE_DATA) && (!is_code || attributes.has(Attr::READ_WRITE));
        let is_conforming = is_code && attributes.has(Attr::CONFORMING_EXPAND_DOWN);
        let level = u16::from(self.registers.cpl).max(selector & RPL);
        if !is_readable || (!is_conforming && u16::from(attributes.dpl()) < level) {
            return Err(selector_fault(vector::GP, selector));
        }
        if !attributes.has(Attr::PRESENT) {
            return Err(selector_fault(vector::NP, selector));
        }
        self.mark_accessed(&descriptor, loaded)
    }

    /// Returns the code segment for a far jump at the same privilege level.
    pub(crate) fn code_segment(&mut self, selector: u16) -> Step<Segment> {
        let cpl = u16::from(self.registers.cpl);
        if !self.registers.is_protected() {
            return Ok(self.real_mode_segment(segment::CS, selector));
        }
        if selector & !RPL == 0 {
            return Err(Exception::general_protection(0).into());
        }
        let descriptor = self.read_descriptor(selector)?;
        let loaded = descriptor.segment(selector & !RPL | cpl);
        let attributes = loaded.attributes;
        if !attributes.has(Attr::CODE_DATA) {
            // A call gate, task gate or task state segment.
            return Err(Abort::Unhandled);
        }
        let dpl = u16::from(attributes.dpl());
        let is_right_level = if attributes.has(Attr::CONFORMING_EXPAND_DOWN) {
            dpl <= cpl
        } else {
            dpl == cpl && selector & RPL <= cpl
        };
        let is_contradictory = self.registers.is_long() && attributes.has(Attr::LONG | Attr::BIG);
        if !attributes.has(Attr::EXECUTABLE) || !is_right_level || is_contradictory {
            return Err(selector_fault(vector::GP, selector));
        }
        if !attributes.has(Attr::PRESENT) {
            return Err(selector_fault(vector::NP, selector));
        }
        self.mark_accessed(&descriptor, loaded)
    }

    /// Reads a descriptor from the GDT or LDT.
    pub(crate) fn read_descriptor(&mut self, selector: u16) -> Step<Descriptor> {
        let tables = self.env.tables();
        let (base, limit) = if selector & TABLE_LDT == 0 {
            (tables.gdtr.base, u32::from(tables.gdtr.limit))
        } else if tables.ldtr.attributes.has(Attr::PRESENT) {
            (tables.ldtr.base, tables.ldtr.limit)
        } else {
            return Err(selector_fault(vector::GP, selector));
        };
        let offset = selector & !(RPL | TABLE_LDT);
        if u32::from(offset).saturating_add(DESCRIPTOR - 1) > limit {
            return Err(selector_fault(vector::GP, selector));
        }
        let linear = base.wrapping_add(u64::from(offset));
        let raw = self.read_table(linear)?;
        Ok(Descriptor { raw, linear })
    }

    /// Reads 8 bytes of a descriptor table.
    pub(crate) fn read_table(&mut self, linear: u64) -> Step<u64> {
        let linear = self.table_address(linear);
        let place = self.place_for(linear, DESCRIPTOR, table_access(Intent::Read))?;
        self.read_place(&place, Width::Qword)
    }

    /// Replaces a descriptor.
    pub(crate) fn write_table(&mut self, descriptor: &Descriptor, raw: u64) -> Step<()> {
        let linear = self.table_address(descriptor.linear);
        let place = self.place_for(linear, DESCRIPTOR, table_access(Intent::Write))?;
        if self.exchange_place(&place, Width::Qword, descriptor.raw, raw)? {
            Ok(())
        } else {
            Err(Abort::Contended)
        }
    }

    fn table_address(&self, linear: u64) -> u64 {
        if self.registers.is_long() {
            linear
        } else {
            linear & 0xffff_ffff
        }
    }

    fn mark_accessed(&mut self, descriptor: &Descriptor, loaded: Segment) -> Step<Segment> {
        if descriptor.raw & ACCESSED == 0 {
            self.write_table(descriptor, descriptor.raw | ACCESSED)?;
        }
        Ok(Segment {
            attributes: Attr(loaded.attributes.0 | Attr::ACCESSED),
            ..loaded
        })
    }
}

/// A null segment; the stack's keeps its privilege level.
fn null_segment(selector: u16, dpl: u8) -> Segment {
    Segment {
        selector,
        attributes: Attr(u16::from(dpl) << 5),
        limit: 0,
        base: 0,
    }
}
