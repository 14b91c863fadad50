//! Instructions on control, debug and descriptor-table registers.

use crate::context::Context;
use crate::decode::{Op, Operand};
use crate::environment::{Environment, SystemTables};
use crate::execute::{Abort, Exception, Flow, Step};
use crate::registers::CodeSize;
use crate::segments::{Descriptor, selector_fault};
use api::cpu::{DescriptorTable, Segment, SegmentAttributes as Attr, cr0, cr4, rflags, vector};
use api::device::Width;

/// System descriptor types.
const TYPE_LDT: u16 = 2;
const TYPE_TSS16: u16 = 1;
const TYPE_TSS: u16 = 9;
/// Bit 41 of a task-state descriptor: busy.
const BUSY: u64 = 1 << 41;
/// Bits of CR0 that LMSW writes.
const MACHINE_STATUS: u64 = cr0::PE | cr0::MP | cr0::EM | cr0::TS;

impl<E: Environment> Context<'_, E> {
    pub(crate) fn system(&mut self, op: Op) -> Step<Flow> {
        match op {
            Op::Smsw | Op::Sgdt | Op::Sidt | Op::Sldt | Op::Str => {
                self.check_user_mode_prevention()?;
                self.store_system_register(op)?;
            }
            Op::FromControl | Op::ToControl | Op::FromDebug | Op::ToDebug => {
                self.require_privilege()?;
                self.special_move(op)?;
            }
            Op::Lmsw => {
                self.require_privilege()?;
                let value = self.read_operand(self.decoded.destination, Width::Word)?;
                // Protection can be switched on, not off.
                let kept = self.registers.cr0 & !(MACHINE_STATUS & !cr0::PE);
                let value = kept | value & MACHINE_STATUS;
                self.env.write_control(self.registers, 0, value)?;
            }
            Op::Clts => {
                self.require_privilege()?;
                let value = self.registers.cr0 & !cr0::TS;
                self.env.write_control(self.registers, 0, value)?;
            }
            Op::Lgdt | Op::Lidt => {
                self.require_privilege()?;
                self.load_table_register(op == Op::Lgdt)?;
            }
            Op::Lldt => self.load_ldt()?,
            Op::Ltr => self.load_task()?,
            _ => return Err(Abort::Unhandled),
        }
        Ok(Flow::Next)
    }

    /// UMIP keeps user code from reading where system tables are.
    fn check_user_mode_prevention(&self) -> Step<()> {
        if self.registers.cr4 & cr4::UMIP != 0 && self.registers.cpl != 0 {
            return Err(Exception::general_protection(0).into());
        }
        Ok(())
    }

    fn store_system_register(&mut self, op: Op) -> Step<()> {
        let tables = self.env.tables();
        let value = match op {
            Op::Sgdt => return self.store_table_register(tables.gdtr),
            Op::Sidt => return self.store_table_register(tables.idtr),
            Op::Sldt => u64::from(tables.ldtr.selector),
            Op::Str => u64::from(tables.tr.selector),
            _ => self.registers.cr0,
        };
        let destination = self.decoded.destination;
        // Memory takes 16 bits, whatever the operand size.
        let width = match destination {
            Operand::Memory => Width::Word,
            _ => self.width()?,
        };
        self.write_operand(destination, width, value)
    }

    /// Bytes of the base in a stored table register.
    fn base_len(&self) -> u32 {
        match self.size {
            CodeSize::Bits64 => 8,
            _ => 4,
        }
    }

    fn store_table_register(&mut self, table: DescriptorTable) -> Step<()> {
        let base_len = self.base_len();
        let mut bytes = [0; 10];
        let fields = table.limit.to_le_bytes().into_iter();
        let fields = fields.chain(table.base.to_le_bytes());
        for (to, from) in bytes.iter_mut().zip(fields) {
            *to = from;
        }
        let len = base_len.saturating_add(2);
        let data = bytes.get(..len as usize).ok_or(Abort::Unhandled)?;
        let place = self.operand_place(len, true)?;
        self.write_bytes(&place, data)
    }

    fn load_table_register(&mut self, is_gdt: bool) -> Step<()> {
        let len = self.base_len().saturating_add(2);
        let mut bytes = [0; 10];
        let buf = bytes.get_mut(..len as usize).ok_or(Abort::Unhandled)?;
        let place = self.operand_place(len, false)?;
        self.read_bytes(&place, buf)?;
        let [l0, l1, base @ ..] = bytes;
        let mut base = u64::from_le_bytes(base);
        if self.decoded.extra == 24 {
            base &= 0xff_ffff;
        }
        if self.size == CodeSize::Bits64 && !self.is_canonical(base) {
            return Err(Exception::general_protection(0).into());
        }
        let register = DescriptorTable {
            base,
            limit: u16::from_le_bytes([l0, l1]),
        };
        let mut tables = self.env.tables();
        if is_gdt {
            tables.gdtr = register;
        } else {
            tables.idtr = register;
        }
        self.env.set_tables(&tables);
        Ok(())
    }

    /// LLDT and LTR exist only in protected mode, at level 0.
    fn system_selector(&mut self) -> Step<u16> {
        if !self.registers.is_protected() || self.registers.rflags & rflags::VM != 0 {
            return Err(Exception::plain(vector::UD).into());
        }
        self.require_privilege()?;
        let value = self.read_operand(self.decoded.destination, Width::Word)?;
        let [low, high, ..] = value.to_le_bytes();
        Ok(u16::from_le_bytes([low, high]))
    }

    /// Reads a system descriptor of one of two types from the GDT.
    fn system_descriptor(&mut self, selector: u16, types: [u16; 2]) -> Step<(Descriptor, Segment)> {
        const TABLE_LDT: u16 = 1 << 2;
        if selector & TABLE_LDT != 0 {
            return Err(selector_fault(vector::GP, selector));
        }
        let descriptor = self.read_descriptor(selector)?;
        let mut loaded = descriptor.segment(selector);
        let attributes = loaded.attributes;
        let kind = attributes.0 & Attr::TYPE;
        if attributes.has(Attr::CODE_DATA) || !types.contains(&kind) {
            return Err(selector_fault(vector::GP, selector));
        }
        if !attributes.has(Attr::PRESENT) {
            return Err(selector_fault(vector::NP, selector));
        }
        if self.registers.is_long() {
            // System descriptors of long mode have 16 bytes; the rest of the base is in the second half.
            let second = self.read_table(descriptor.linear.wrapping_add(8))?;
            loaded.base |= second << 32;
            if !self.is_canonical(loaded.base) {
                return Err(selector_fault(vector::GP, selector));
            }
        }
        Ok((descriptor, loaded))
    }

    fn load_ldt(&mut self) -> Step<()> {
        let selector = self.system_selector()?;
        let mut ldtr = Segment {
            selector,
            ..Segment::default()
        };
        if selector & !3 != 0 {
            (_, ldtr) = self.system_descriptor(selector, [TYPE_LDT; 2])?;
        }
        let tables = self.env.tables();
        self.env.set_tables(&SystemTables { ldtr, ..tables });
        Ok(())
    }

    fn load_task(&mut self) -> Step<()> {
        let selector = self.system_selector()?;
        if selector & !3 == 0 {
            return Err(Exception::general_protection(0).into());
        }
        let types = if self.registers.is_long() {
            [TYPE_TSS; 2]
        } else {
            [TYPE_TSS, TYPE_TSS16]
        };
        let (descriptor, mut tr) = self.system_descriptor(selector, types)?;
        self.write_table(&descriptor, descriptor.raw | BUSY)?;
        // The type in the register is the busy one as well.
        tr.attributes = Attr(tr.attributes.0 | 1 << 1);
        let tables = self.env.tables();
        self.env.set_tables(&SystemTables { tr, ..tables });
        Ok(())
    }

    /// MOV to and from control and debug registers: always the full width of the mode.
    fn special_move(&mut self, op: Op) -> Step<()> {
        let width = match self.size {
            CodeSize::Bits64 => Width::Qword,
            _ => Width::Dword,
        };
        let (destination, source) = (self.decoded.destination, self.decoded.source);
        match (destination, source) {
            (Operand::Gpr(register), Operand::Control(number)) if op == Op::FromControl => {
                let value = self.control(number)?;
                self.registers.write_gpr(register, width, value);
            }
            (Operand::Control(number), Operand::Gpr(register)) => {
                let value = self.registers.read_gpr(register) & width.all_ones();
                self.set_control(number, value)?;
            }
            (Operand::Gpr(register), Operand::Debug(number)) => {
                let value = self.env.debug(self.debug_number(number)?);
                self.registers.write_gpr(register, width, value);
            }
            (Operand::Debug(number), Operand::Gpr(register)) => {
                let number = self.debug_number(number)?;
                let value = self.registers.read_gpr(register) & width.all_ones();
                if number >= 6 && value >> 32 != 0 {
                    return Err(Exception::general_protection(0).into());
                }
                self.env.set_debug(number, value);
            }
            _ => return Err(Abort::Unhandled),
        }
        Ok(())
    }

    fn control(&mut self, number: u8) -> Step<u64> {
        Ok(match number {
            0 => self.registers.cr0,
            2 => self.registers.cr2,
            3 => self.registers.cr3,
            4 => self.registers.cr4,
            8 => self.env.cr8(),
            _ => return Err(Exception::plain(vector::UD).into()),
        })
    }

    fn set_control(&mut self, number: u8, value: u64) -> Step<()> {
        match number {
            2 => self.registers.cr2 = value,
            0 | 3 | 4 | 8 => self.env.write_control(self.registers, number, value)?,
            _ => return Err(Exception::plain(vector::UD).into()),
        }
        Ok(())
    }

    /// DR4 and DR5 stand for DR6 and DR7 unless debugging extensions are on.
    fn debug_number(&self, number: u8) -> Step<u8> {
        match number {
            0..=3 | 6 | 7 => Ok(number),
            4 | 5 if self.registers.cr4 & cr4::DE == 0 => Ok(number.saturating_add(2)),
            _ => Err(Exception::plain(vector::UD).into()),
        }
    }
}
