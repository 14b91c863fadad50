//! Saved state of the 16550A. Configuration and wiring are not part of it.

use crate::uart::{FIFO_LEN, Fcr, Ier, Mcr, Msr, ReceiveFifo, Uart};
use alloc::vec::Vec;
use api::device::{Device, RestoreError, SavedState};

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

impl Device for Uart {
    type Saved = UartSaved;

    fn reset(&mut self) {
        *self = Self::new(self.channel, self.line);
    }

    fn save(&self) -> UartSaved {
        let Self {
            channel: _,
            line: _,
            ier,
            fcr,
            lcr,
            mcr,
            msr_delta,
            scratch,
            divisor,
            received: ReceiveFifo { bytes, head, len },
            overrun,
            thr_interrupt,
            line_level,
        } = self;
        let mut oldest_first = *bytes;
        oldest_first.rotate_left(*head % FIFO_LEN);
        UartSaved {
            ier: ier.bits(),
            fcr: fcr.bits(),
            lcr: *lcr,
            mcr: mcr.bits(),
            msr_delta: msr_delta.bits(),
            scratch: *scratch,
            divisor: *divisor,
            received: oldest_first.iter().copied().take(*len).collect(),
            overrun: *overrun,
            thr_interrupt: *thr_interrupt,
            line_level: *line_level,
        }
    }

    fn restore(&mut self, saved: UartSaved) -> Result<(), RestoreError> {
        let bad = |field| RestoreError::Field {
            kind: UartSaved::KIND,
            field,
        };
        let mut received = ReceiveFifo::default();
        let fcr = Fcr::from_bits(saved.fcr).ok_or(bad("fcr"))?;
        let capacity = if fcr.contains(Fcr::ENABLE) {
            FIFO_LEN
        } else {
            1
        };
        if saved.received.len() > capacity {
            return Err(bad("received"));
        }
        for &byte in &saved.received {
            received.push(byte);
        }
        *self = Self {
            channel: self.channel,
            line: self.line,
            ier: Ier::from_bits(saved.ier).ok_or(bad("ier"))?,
            fcr,
            lcr: saved.lcr,
            mcr: Mcr::from_bits(saved.mcr).ok_or(bad("mcr"))?,
            msr_delta: Msr::from_bits(saved.msr_delta).ok_or(bad("msr_delta"))?,
            scratch: saved.scratch,
            divisor: saved.divisor,
            received,
            overrun: saved.overrun,
            thr_interrupt: saved.thr_interrupt,
            line_level: saved.line_level,
        };
        Ok(())
    }
}
