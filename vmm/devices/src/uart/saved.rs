//! Saved state of the 16550A. Configuration and wiring are not part of it.

use alloc::vec::Vec;
use api::device::SavedState;

/// State of one 16550A, registers by their data-sheet names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are the chip's registers and latches"
)]
pub struct UartSaved {
    pub ier: u8,
    pub fcr: u8,
    pub lcr: u8,
    pub mcr: u8,
    pub msr_delta: u8,
    pub scratch: u8,
    pub divisor: u16,
    /// Received characters, oldest first, at most 16.
    pub received: Vec<u8>,
    pub overrun: bool,
    /// The THR-empty interrupt is latched.
    pub thr_interrupt: bool,
    /// Level last driven on the interrupt line.
    pub line_level: bool,
}

impl SavedState for UartSaved {
    const KIND: &'static str = "uart16550a";
    const VERSION: u16 = 1;
}
