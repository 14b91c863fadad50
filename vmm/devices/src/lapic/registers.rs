//! Register numbers and bit layouts of the local APIC (Intel SDM vol. 3, table 12-1 and figures beside it).
//!
//! A register is named by its offset in the xAPIC page; its x2APIC MSR is 800h plus that offset divided by 16.

pub(super) const ID: u16 = 0x020;
pub(super) const VERSION: u16 = 0x030;
pub(super) const TPR: u16 = 0x080;
pub(super) const APR: u16 = 0x090;
pub(super) const PPR: u16 = 0x0a0;
pub(super) const EOI: u16 = 0x0b0;
pub(super) const REMOTE_READ: u16 = 0x0c0;
pub(super) const LDR: u16 = 0x0d0;
pub(super) const DFR: u16 = 0x0e0;
pub(super) const SPURIOUS: u16 = 0x0f0;
pub(super) const ISR: u16 = 0x100;
pub(super) const ISR_LAST: u16 = 0x170;
pub(super) const TMR: u16 = 0x180;
pub(super) const TMR_LAST: u16 = 0x1f0;
pub(super) const IRR: u16 = 0x200;
pub(super) const IRR_LAST: u16 = 0x270;
pub(super) const ESR: u16 = 0x280;
pub(super) const ICR_LOW: u16 = 0x300;
pub(super) const ICR_HIGH: u16 = 0x310;
pub(super) const LVT_TIMER: u16 = 0x320;
pub(super) const LVT_THERMAL: u16 = 0x330;
pub(super) const LVT_PERFORMANCE: u16 = 0x340;
pub(super) const LVT_LINT0: u16 = 0x350;
pub(super) const LVT_LINT1: u16 = 0x360;
pub(super) const LVT_ERROR: u16 = 0x370;
pub(super) const INITIAL_COUNT: u16 = 0x380;
pub(super) const CURRENT_COUNT: u16 = 0x390;
pub(super) const DIVIDE: u16 = 0x3e0;
/// Exists in x2APIC mode only.
pub(super) const SELF_IPI: u16 = 0x3f0;

/// Version 14h, highest LVT entry 5, no suppression of EOI broadcasts (bit 24).
pub(super) const VERSION_VALUE: u32 = 0x0005_0014;

/// IA32_APIC_BASE: this is the bootstrap processor.
pub(super) const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
pub(super) const BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE: the APIC is on.
pub(super) const BASE_ENABLE: u64 = 1 << 11;
/// IA32_APIC_BASE: bits below the address that are neither of the three flags.
pub(super) const BASE_RESERVED_LOW: u64 = 0xfff & !(BASE_BSP | BASE_X2APIC | BASE_ENABLE);

/// Spurious-interrupt vector register: software enable.
pub(super) const SPURIOUS_ENABLE: u32 = 1 << 8;
/// Spurious-interrupt vector register: vector, enable and focus-checking bit.
pub(super) const SPURIOUS_MASK: u32 = 0x3ff;

/// Error status: an illegal vector was to be sent.
pub(super) const ERROR_SEND_ILLEGAL: u32 = 1 << 5;
/// Error status: an illegal vector was received.
pub(super) const ERROR_RECEIVE_ILLEGAL: u32 = 1 << 6;
/// Error status: a reserved register was accessed (xAPIC mode).
pub(super) const ERROR_REGISTER: u32 = 1 << 7;

/// Vectors below this are illegal for the modes that go through the IRR.
pub(super) const VECTOR_MIN: u8 = 16;

/// Interrupt command: logical destination.
pub(super) const ICR_LOGICAL: u32 = 1 << 11;
/// Interrupt command: level is assert.
pub(super) const ICR_ASSERT: u32 = 1 << 14;
/// Interrupt command: trigger mode is level.
pub(super) const ICR_LEVEL: u32 = 1 << 15;
/// Interrupt command, low half: bits that hold what was written (not the delivery status).
pub(super) const ICR_LOW_MASK: u32 = 0x000c_cfff;
/// Delivery status of ICR and LVT entries: read-only, always idle here.
pub(super) const DELIVERY_STATUS: u32 = 1 << 12;
/// Remote IRR of the LINT entries: read-only.
pub(super) const LVT_REMOTE_IRR: u32 = 1 << 14;

/// LVT entries: masked.
pub(super) const LVT_MASKED: u32 = 1 << 16;
/// LVT entries at reset.
pub(super) const LVT_RESET: u32 = LVT_MASKED;
/// Number of LVT entries.
pub(super) const LVT_COUNT: usize = 6;

/// One entry of the local vector table, in the order of their registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lvt {
    Timer,
    Thermal,
    Performance,
    Lint0,
    Lint1,
    Error,
}

impl Lvt {
    pub(super) const ALL: [Self; LVT_COUNT] = [
        Self::Timer,
        Self::Thermal,
        Self::Performance,
        Self::Lint0,
        Self::Lint1,
        Self::Error,
    ];

    pub(super) const fn of_register(register: u16) -> Option<Self> {
        match register {
            LVT_TIMER => Some(Self::Timer),
            LVT_THERMAL => Some(Self::Thermal),
            LVT_PERFORMANCE => Some(Self::Performance),
            LVT_LINT0 => Some(Self::Lint0),
            LVT_LINT1 => Some(Self::Lint1),
            LVT_ERROR => Some(Self::Error),
            _ => None,
        }
    }

    /// Bits that hold what is written.
    pub(super) const fn writable(self) -> u32 {
        match self {
            Self::Timer => 0x0007_00ff,
            Self::Thermal | Self::Performance => 0x0001_07ff,
            Self::Lint0 | Self::Lint1 => 0x0001_a7ff,
            Self::Error => 0x0001_00ff,
        }
    }

    /// Bits that are neither writable nor read-only status.
    pub(super) const fn reserved(self) -> u32 {
        let status = match self {
            Self::Lint0 | Self::Lint1 => DELIVERY_STATUS | LVT_REMOTE_IRR,
            _ => DELIVERY_STATUS,
        };
        !(self.writable() | status)
    }
}
