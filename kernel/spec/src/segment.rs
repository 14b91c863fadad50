//! Segment and descriptor-table registers as monitors, loaders and the emulator hold them.
//!
//! [`Segment`] has the memory layout of a VMCB segment (AMD APM vol. 2, appendix B), so that SVM code copies it
//! unchanged; VMX code spreads the attributes.

/// Attributes of a segment: bits 47:40 of its descriptor in bits 7:0, bits 55:52 in bits 11:8 (AMD APM vol. 2, 15.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct SegmentAttributes(pub u16);

impl SegmentAttributes {
    /// Bits 3:0: the type; for code and data bit 3 is "executable".
    pub const TYPE: u16 = 0xf;
    /// Type bit 0 of code and data: accessed.
    pub const ACCESSED: u16 = 1 << 0;
    /// Type bit 1: readable (code) or writable (data).
    pub const READ_WRITE: u16 = 1 << 1;
    /// Type bit 2: conforming (code) or expand-down (data).
    pub const CONFORMING_EXPAND_DOWN: u16 = 1 << 2;
    /// Type bit 3 of code and data: executable.
    pub const EXECUTABLE: u16 = 1 << 3;
    /// S: a code or data segment, not a system segment.
    pub const CODE_DATA: u16 = 1 << 4;
    /// P: present. A null selector leaves it clear.
    pub const PRESENT: u16 = 1 << 7;
    /// L: 64-bit code.
    pub const LONG: u16 = 1 << 9;
    /// D/B: 32-bit default operand size, or 32-bit stack.
    pub const BIG: u16 = 1 << 10;
    /// G: the limit was given in pages.
    pub const GRANULAR: u16 = 1 << 11;

    /// 64-bit code, DPL 0, accessed.
    pub const CODE64: Self = Self(0xa9b);
    /// Flat 32-bit code, DPL 0, accessed.
    pub const CODE32: Self = Self(0xc9b);
    /// Flat 32-bit writable data, DPL 0, accessed.
    pub const DATA32: Self = Self(0xc93);
    /// Real-mode code as after reset.
    pub const CODE16: Self = Self(0x09b);
    /// Real-mode data as after reset.
    pub const DATA16: Self = Self(0x093);
    /// Busy 32- or 64-bit TSS.
    pub const TSS_BUSY: Self = Self(0x08b);
    /// Busy 16-bit TSS as after reset.
    pub const TSS16_BUSY: Self = Self(0x083);
    /// Local descriptor table.
    pub const LDT: Self = Self(0x082);
    /// A null segment.
    pub const NULL: Self = Self(0);

    /// Returns the descriptor privilege level, 0 to 3.
    #[must_use]
    pub const fn dpl(self) -> u8 {
        ((self.0 >> 5) & 3) as u8
    }

    /// Tells whether all bits of `mask` are set.
    #[must_use]
    pub const fn has(self, mask: u16) -> bool {
        self.0 & mask == mask
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Segment {
    /// Visible part.
    pub selector: u16,
    /// Access rights.
    pub attributes: SegmentAttributes,
    /// Last valid offset, in bytes whatever the granularity.
    pub limit: u32,
    /// Linear address of offset 0.
    pub base: u64,
}

const _: () = assert!(size_of::<Segment>() == 16);

impl Segment {
    /// Returns a segment that spans 4 GiB from address 0.
    #[must_use]
    pub const fn flat(selector: u16, attributes: SegmentAttributes) -> Self {
        Self {
            selector,
            attributes,
            limit: u32::MAX,
            base: 0,
        }
    }

    /// Returns the segment that a real-mode load of `selector` gives: base 16 times the selector, limit 64 KiB.
    #[must_use]
    pub const fn real_mode(selector: u16, attributes: SegmentAttributes) -> Self {
        Self {
            selector,
            attributes,
            limit: 0xffff,
            base: (selector as u64) << 4,
        }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct DescriptorTable {
    /// Linear address of the first descriptor.
    pub base: u64,
    /// Size in bytes minus one.
    pub limit: u16,
}
