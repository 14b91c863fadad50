//! National Semiconductor 16550A serial port, as Linux's 8250 driver and every PC firmware know it.
//!
//! Characters leave at once: the transmitter is always empty and the divisor changes nothing. Line errors and
//! breaks do not happen, because the wire is a character channel; only the overrun of the loopback path is real.

use api::device::{Cx, Effects, Gsi, PortIo};
use bitflags::bitflags;

pub mod saved;
#[cfg(test)]
mod tests;

/// Characters that the receive FIFO holds (data sheet, 8.4).
pub const FIFO_LEN: usize = 16;

bitflags! {
    /// Interrupt enable register (offset 1, DLAB clear).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Ier: u8 {
        const RECEIVED = 1 << 0;
        const TRANSMIT_EMPTY = 1 << 1;
        const LINE_STATUS = 1 << 2;
        const MODEM_STATUS = 1 << 3;
    }
}

bitflags! {
    /// FIFO control register (offset 2, write-only).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Fcr: u8 {
        const ENABLE = 1 << 0;
        const CLEAR_RECEIVE = 1 << 1;
        const CLEAR_TRANSMIT = 1 << 2;
        const DMA_MODE = 1 << 3;
        const TRIGGER_LOW = 1 << 6;
        const TRIGGER_HIGH = 1 << 7;
    }
}

bitflags! {
    /// Modem control register (offset 4).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Mcr: u8 {
        const DTR = 1 << 0;
        const RTS = 1 << 1;
        const OUT1 = 1 << 2;
        /// On a PC this output also gates the interrupt line.
        const OUT2 = 1 << 3;
        const LOOPBACK = 1 << 4;
    }
}

bitflags! {
    /// Line status register (offset 5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Lsr: u8 {
        const DATA_READY = 1 << 0;
        const OVERRUN = 1 << 1;
        const THR_EMPTY = 1 << 5;
        const TRANSMITTER_EMPTY = 1 << 6;
    }
}

bitflags! {
    /// Modem status register (offset 6): levels above, changes since the last read below.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Msr: u8 {
        const DELTA_CTS = 1 << 0;
        const DELTA_DSR = 1 << 1;
        const TRAILING_RI = 1 << 2;
        const DELTA_DCD = 1 << 3;
        const CTS = 1 << 4;
        const DSR = 1 << 5;
        const RI = 1 << 6;
        const DCD = 1 << 7;
    }
}

/// Divisor latch access bit of the line control register.
const LCR_DLAB: u8 = 1 << 7;

/// Interrupt identification (offset 2, read), in falling priority; FIFO bits are added when it is read.
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_RECEIVED: u8 = 0x04;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_TRANSMIT_EMPTY: u8 = 0x02;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_NONE: u8 = 0x01;
const IIR_FIFOS: u8 = 0xc0;

/// Received characters, oldest first: at most one without the FIFO, [`FIFO_LEN`] with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct ReceiveFifo {
    bytes: [u8; FIFO_LEN],
    head: usize,
    len: usize,
}

impl ReceiveFifo {
    fn push(&mut self, byte: u8) {
        let tail = self.head.wrapping_add(self.len) % FIFO_LEN;
        if let Some(slot) = self.bytes.get_mut(tail) {
            *slot = byte;
            self.len = self.len.wrapping_add(1);
        }
    }

    fn pop(&mut self) -> Option<u8> {
        let remaining = self.len.checked_sub(1)?;
        let byte = self.bytes.get(self.head).copied();
        self.head = self.head.wrapping_add(1) % FIFO_LEN;
        self.len = remaining;
        byte
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// One 16550A behind eight ports.
#[derive(Debug)]
pub struct Uart {
    // Configuration.
    channel: u8,
    // Wiring.
    line: Gsi,
    // Volatile state.
    ier: Ier,
    fcr: Fcr,
    lcr: u8,
    mcr: Mcr,
    msr_delta: Msr,
    scratch: u8,
    divisor: u16,
    received: ReceiveFifo,
    overrun: bool,
    /// The "transmitter holding register empty" interrupt is pending: set by the emptying, reset by reading IIR
    /// while it is the source, or by writing THR (data sheet, table II).
    thr_interrupt: bool,
    line_level: bool,
}

impl Uart {
    /// Makes the chip that emits on character channel `channel` and interrupts on `line`.
    #[must_use]
    pub const fn new(channel: u8, line: Gsi) -> Self {
        Self {
            channel,
            line,
            ier: Ier::empty(),
            fcr: Fcr::empty(),
            lcr: 0,
            mcr: Mcr::empty(),
            msr_delta: Msr::empty(),
            scratch: 0,
            divisor: 12,
            received: ReceiveFifo {
                bytes: [0; FIFO_LEN],
                head: 0,
                len: 0,
            },
            overrun: false,
            thr_interrupt: false,
            line_level: false,
        }
    }

    /// Feeds characters from the wire and returns how many were accepted, from the front of `bytes`.
    ///
    /// What does not fit is the caller's to offer again: the channel has flow control, so nothing is overrun. In
    /// loopback mode the receiver is cut off the wire and accepts nothing.
    pub fn receive(&mut self, bytes: &[u8], effects: &mut dyn Effects) -> usize {
        let room = self.receive_room();
        for &byte in bytes.iter().take(room) {
            self.received.push(byte);
        }
        self.update_line(effects);
        room.min(bytes.len())
    }

    /// Returns how many characters [`Uart::receive`] would accept now, 0 to [`FIFO_LEN`].
    #[must_use]
    pub fn receive_room(&self) -> usize {
        if self.mcr.contains(Mcr::LOOPBACK) {
            0
        } else {
            self.receive_capacity().saturating_sub(self.received.len)
        }
    }

    fn receive_capacity(&self) -> usize {
        if self.fcr.contains(Fcr::ENABLE) {
            FIFO_LEN
        } else {
            1
        }
    }

    /// Characters at which the "received data available" interrupt is raised.
    fn trigger_level(&self) -> usize {
        if !self.fcr.contains(Fcr::ENABLE) {
            return 1;
        }
        match (
            self.fcr.contains(Fcr::TRIGGER_HIGH),
            self.fcr.contains(Fcr::TRIGGER_LOW),
        ) {
            (false, false) => 1,
            (false, true) => 4,
            (true, false) => 8,
            (true, true) => 14,
        }
    }

    /// The pending source of highest priority. Below the trigger level the character timeout has always elapsed:
    /// characters arrive in bursts and the burst is over when the guest looks.
    fn interrupt_id(&self) -> u8 {
        if self.ier.contains(Ier::LINE_STATUS) && self.overrun {
            IIR_LINE_STATUS
        } else if self.ier.contains(Ier::RECEIVED) && self.received.len > 0 {
            if self.received.len >= self.trigger_level() {
                IIR_RECEIVED
            } else {
                IIR_TIMEOUT
            }
        } else if self.ier.contains(Ier::TRANSMIT_EMPTY) && self.thr_interrupt {
            IIR_TRANSMIT_EMPTY
        } else if self.ier.contains(Ier::MODEM_STATUS) && !self.msr_delta.is_empty() {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    /// OUT2 gates the interrupt on a PC, and loopback disconnects it from its pin (data sheet, 8.8).
    fn update_line(&mut self, effects: &mut dyn Effects) {
        let gate = self.mcr & (Mcr::OUT2 | Mcr::LOOPBACK) == Mcr::OUT2;
        let level = gate && self.interrupt_id() != IIR_NONE;
        if level != self.line_level {
            self.line_level = level;
            effects.set_irq(self.line, level);
        }
    }

    fn line_status(&self) -> Lsr {
        let mut status = Lsr::THR_EMPTY | Lsr::TRANSMITTER_EMPTY;
        status.set(Lsr::DATA_READY, self.received.len > 0);
        status.set(Lsr::OVERRUN, self.overrun);
        status
    }

    /// A terminal is always there (CTS, DSR, DCD); in loopback the four outputs drive the four inputs.
    fn modem_inputs(mcr: Mcr) -> Msr {
        if !mcr.contains(Mcr::LOOPBACK) {
            return Msr::CTS | Msr::DSR | Msr::DCD;
        }
        let mut inputs = Msr::empty();
        inputs.set(Msr::CTS, mcr.contains(Mcr::RTS));
        inputs.set(Msr::DSR, mcr.contains(Mcr::DTR));
        inputs.set(Msr::RI, mcr.contains(Mcr::OUT1));
        inputs.set(Msr::DCD, mcr.contains(Mcr::OUT2));
        inputs
    }

    fn write_mcr(&mut self, value: u8) {
        let old = Self::modem_inputs(self.mcr);
        self.mcr = Mcr::from_bits_truncate(value);
        let new = Self::modem_inputs(self.mcr);
        let changed = old.symmetric_difference(new);
        for (input, delta) in [
            (Msr::CTS, Msr::DELTA_CTS),
            (Msr::DSR, Msr::DELTA_DSR),
            (Msr::DCD, Msr::DELTA_DCD),
        ] {
            if changed.contains(input) {
                self.msr_delta |= delta;
            }
        }
        if old.contains(Msr::RI) && !new.contains(Msr::RI) {
            self.msr_delta |= Msr::TRAILING_RI;
        }
    }

    /// The holding register empties into the wire at once, so the interrupt falls and rises within one write. A guest
    /// that acknowledges by writing and never reads IIR needs that edge.
    fn transmit(&mut self, byte: u8, effects: &mut dyn Effects) {
        self.thr_interrupt = false;
        self.update_line(effects);
        if !self.mcr.contains(Mcr::LOOPBACK) {
            effects.emit(self.channel, byte);
        } else if self.received.len < self.receive_capacity() {
            self.received.push(byte);
        } else {
            self.overrun = true;
        }
        self.thr_interrupt = true;
    }

    fn write_ier(&mut self, value: u8) {
        let new = Ier::from_bits_truncate(value);
        // Enabling the source while THR is empty raises it (data sheet, 8.5); drivers probe for that.
        if new.difference(self.ier).contains(Ier::TRANSMIT_EMPTY) {
            self.thr_interrupt = true;
        }
        self.ier = new;
    }

    fn write_fcr(&mut self, value: u8) {
        let new = Fcr::from_bits_truncate(value);
        let toggled = new.symmetric_difference(self.fcr).contains(Fcr::ENABLE);
        if toggled || new.contains(Fcr::CLEAR_RECEIVE) {
            self.received.clear();
        }
        // The other bits are programmed only together with the enable bit.
        self.fcr = if new.contains(Fcr::ENABLE) {
            new.difference(Fcr::CLEAR_RECEIVE | Fcr::CLEAR_TRANSMIT)
        } else {
            Fcr::empty()
        };
    }

    fn read_iir(&mut self) -> u8 {
        let id = self.interrupt_id();
        if id == IIR_TRANSMIT_EMPTY {
            self.thr_interrupt = false;
        }
        let fifos = if self.fcr.contains(Fcr::ENABLE) {
            IIR_FIFOS
        } else {
            0
        };
        id | fifos
    }

    fn divisor_selected(&self) -> bool {
        self.lcr & LCR_DLAB != 0
    }
}

impl PortIo for Uart {
    fn read_u8(&mut self, offset: u16, cx: &mut Cx<'_>) -> u8 {
        let [divisor_low, divisor_high] = self.divisor.to_le_bytes();
        let value = match offset & 7 {
            0 if self.divisor_selected() => return divisor_low,
            0 => self.received.pop().unwrap_or(0),
            1 if self.divisor_selected() => return divisor_high,
            1 => return self.ier.bits(),
            2 => self.read_iir(),
            3 => return self.lcr,
            4 => return self.mcr.bits(),
            5 => {
                let status = self.line_status();
                if !self.overrun {
                    // Drivers poll this register: nothing changes, so nothing is to be updated.
                    return status.bits();
                }
                self.overrun = false;
                status.bits()
            }
            6 => {
                let status = Self::modem_inputs(self.mcr) | self.msr_delta;
                self.msr_delta = Msr::empty();
                status.bits()
            }
            _ => return self.scratch,
        };
        self.update_line(cx.effects);
        value
    }

    fn write_u8(&mut self, offset: u16, value: u8, cx: &mut Cx<'_>) {
        let [divisor_low, divisor_high] = self.divisor.to_le_bytes();
        match offset & 7 {
            0 if self.divisor_selected() => {
                self.divisor = u16::from_le_bytes([value, divisor_high]);
            }
            0 => self.transmit(value, cx.effects),
            1 if self.divisor_selected() => {
                self.divisor = u16::from_le_bytes([divisor_low, value]);
            }
            1 => self.write_ier(value),
            2 => self.write_fcr(value),
            3 => self.lcr = value,
            4 => self.write_mcr(value),
            // The line and modem status registers are read-only here: the chip's factory test writes are not offered.
            5 | 6 => {}
            _ => self.scratch = value,
        }
        self.update_line(cx.effects);
    }
}
