//! Saved state of a local APIC. What is fixed when the CPU is made (IDs, address width) is not part of it.

use api::device::SavedState;

/// State of one local APIC, registers by their names in the manual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LapicSaved {
    /// IA32_APIC_BASE: mode, address and BSP flag.
    pub apic_base: u64,
    /// Interrupt request register, vector 0 in bit 0 of the first word.
    pub irr: [u64; 4],
    /// In-service register.
    pub isr: [u64; 4],
    /// Trigger mode register.
    pub tmr: [u64; 4],
    /// Task priority; the processor priority follows from it.
    pub tpr: u8,
    /// Spurious-interrupt vector register.
    pub spurious: u32,
    /// Interrupt command register, low half.
    pub icr_low: u32,
    /// Interrupt command register, high half.
    pub icr_high: u32,
    /// Local vector table: timer, thermal, performance, LINT0, LINT1, error.
    pub lvt: [u32; 6],
    /// xAPIC ID.
    pub xapic_id: u8,
    /// Logical destination in xAPIC mode.
    pub ldr: u8,
    /// Destination format, bits 31:28.
    pub format: u8,
    /// Error status as of its last write.
    pub errors: u32,
    /// Errors since then.
    pub errors_pending: u32,
    /// Initial count of the timer.
    pub timer_initial: u32,
    /// Divide configuration of the timer.
    pub timer_divide: u32,
    /// Virtual time in nanoseconds at which the current count reaches 0.
    pub timer_expiry_nanos: Option<u64>,
    /// IA32_TSC_DEADLINE.
    pub tsc_deadline: u64,
}

impl SavedState for LapicSaved {
    const KIND: &'static str = "lapic";
    const VERSION: u16 = 1;
}
