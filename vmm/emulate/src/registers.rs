//! The register file that an instruction runs on. Vector, debug and descriptor-table registers are reached through the
//! environment, since few instructions need them.

use api::cpu::{Segment, SegmentAttributes, cr0, efer, rflags, segment};
use api::device::Width;

/// Encodings of general-purpose registers that instructions use implicitly.
pub(crate) const RAX: u8 = 0;
pub(crate) const RCX: u8 = 1;
pub(crate) const RDX: u8 = 2;
pub(crate) const RBX: u8 = 3;
pub(crate) const RSP: u8 = 4;
pub(crate) const RBP: u8 = 5;
pub(crate) const RSI: u8 = 6;
pub(crate) const RDI: u8 = 7;

/// Registers of a vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// General-purpose registers by encoding.
    pub gpr: [u64; 16],
    /// Offset of the instruction in CS.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [Segment; 6],
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// Current privilege level, 0 to 3.
    pub cpl: u8,
    /// Interrupts are held off until after the next instruction (STI, MOV SS, POP SS).
    pub interrupt_shadow: bool,
}

/// Size of code: how instructions are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CodeSize {
    /// 16-bit: real mode, virtual-8086 mode, 16-bit segments.
    #[default]
    Bits16,
    /// 32-bit segments, and compatibility mode.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

impl CodeSize {
    /// Returns the mask of the instruction pointer.
    #[inline]
    pub(crate) const fn ip_mask(self) -> u64 {
        match self {
            Self::Bits16 => u16::MAX as u64,
            Self::Bits32 => u32::MAX as u64,
            Self::Bits64 => u64::MAX,
        }
    }
}

impl Registers {
    /// Tells whether long mode is active (64-bit or compatibility mode).
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// Returns the size of the running code.
    #[must_use]
    pub fn code_size(&self) -> CodeSize {
        let cs = self.segment(segment::CS).attributes;
        if self.is_long() && cs.has(SegmentAttributes::LONG) {
            CodeSize::Bits64
        } else if cs.has(SegmentAttributes::BIG) {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        }
    }

    /// Tells whether segments are checked against descriptors: protected mode, but not virtual-8086 mode.
    pub(crate) const fn is_protected(&self) -> bool {
        self.cr0 & cr0::PE != 0 && self.rflags & rflags::VM == 0
    }

    /// Returns a segment register; an unknown index is DS.
    #[inline]
    pub(crate) fn segment(&self, index: usize) -> &Segment {
        let [_, _, _, ds, _, _] = &self.segments;
        self.segments.get(index).unwrap_or(ds)
    }

    /// Returns all 64 bits of a general-purpose register.
    #[inline]
    pub(crate) fn read_gpr(&self, index: u8) -> u64 {
        self.gpr
            .get(usize::from(index & 15))
            .copied()
            .unwrap_or_default()
    }

    /// Writes a general-purpose register: 4 bytes clear the upper half, 1 and 2 leave the rest.
    #[inline]
    pub(crate) fn write_gpr(&mut self, index: u8, width: Width, value: u64) {
        if let Some(register) = self.gpr.get_mut(usize::from(index & 15)) {
            *register = merge(*register, width, value);
        }
    }

    /// Returns AH, CH, DH or BH.
    pub(crate) fn read_high(&self, index: u8) -> u64 {
        self.read_gpr(index & 3) >> 8 & 0xff
    }

    /// Writes AH, CH, DH or BH.
    pub(crate) fn write_high(&mut self, index: u8, value: u64) {
        let index = index & 3;
        let rest = self.read_gpr(index) & !0xff00;
        self.write_gpr(index, Width::Qword, rest | (value & 0xff) << 8);
    }

    /// Returns the mask of the stack pointer: 16, 32 or 64 bits.
    pub(crate) fn stack_mask(&self) -> u64 {
        if self.code_size() == CodeSize::Bits64 {
            u64::MAX
        } else if self
            .segment(segment::SS)
            .attributes
            .has(SegmentAttributes::BIG)
        {
            u64::from(u32::MAX)
        } else {
            u64::from(u16::MAX)
        }
    }

    /// Returns the stack pointer within its mask.
    pub(crate) fn stack_pointer(&self) -> u64 {
        let [_, _, _, _, rsp, ..] = self.gpr;
        rsp & self.stack_mask()
    }

    /// Sets the stack pointer within its mask.
    pub(crate) fn set_stack_pointer(&mut self, value: u64) {
        let width = match self.stack_mask() {
            0xffff => Width::Word,
            0xffff_ffff => Width::Dword,
            _ => Width::Qword,
        };
        self.write_gpr(RSP, width, value);
    }

    /// Returns a flag as 0 or 1.
    pub(crate) const fn flag(&self, mask: u64) -> u64 {
        if self.rflags & mask != 0 { 1 } else { 0 }
    }

    /// Replaces the flags in `mask`.
    pub(crate) const fn set_flags(&mut self, mask: u64, flags: u64) {
        self.rflags = self.rflags & !mask | flags & mask;
    }
}

/// Merges `value` into a register as the architecture does for writes of `width`.
#[inline]
pub(crate) const fn merge(register: u64, width: Width, value: u64) -> u64 {
    match width {
        Width::Qword => value,
        Width::Dword => value & 0xffff_ffff,
        Width::Word => register & !0xffff | value & 0xffff,
        Width::Byte => register & !0xff | value & 0xff,
    }
}

/// Sign-extends the low `width` of `value` to 64 bits.
#[inline]
pub(crate) const fn sign_extend(width: Width, value: u64) -> u64 {
    let spare = 64u32.wrapping_sub(bits(width));
    value
        .wrapping_shl(spare)
        .cast_signed()
        .wrapping_shr(spare)
        .cast_unsigned()
}

/// Returns the number of bits of a width.
#[inline]
pub(crate) const fn bits(width: Width) -> u32 {
    match width {
        Width::Byte => 8,
        Width::Word => 16,
        Width::Dword => 32,
        Width::Qword => 64,
    }
}
