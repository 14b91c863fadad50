//! I/O APIC with 24 pins (Intel 82093AA, with the EOI register of version 20h).
//!
//! It is pulled, not pushed: a pin that has something to send waits until [`Ioapic::next_message`] takes it, so no
//! message is buffered or lost. Left out: the pin polarity, which only tells how a board is wired (a line here is
//! asserted or not), and remote read.

use crate::layout::IOAPIC_PINS;
use crate::message::{ApicMessage, Delivery, Destination};
use api::device::Width;

pub mod saved;
#[cfg(test)]
mod tests;

const PINS: usize = IOAPIC_PINS as usize;
const PIN_MASK: u32 = (1 << IOAPIC_PINS) - 1;

/// Register select, data window and EOI register, as offsets in the memory window.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

/// Indirect registers.
const INDEX_ID: u8 = 0x00;
const INDEX_VERSION: u8 = 0x01;
const INDEX_ARBITRATION: u8 = 0x02;
const INDEX_REDIRECTION: u8 = 0x10;

/// Version 20h (it has an EOI register), highest redirection entry 23.
const VERSION: u32 = 0x0017_0020;
const ID_MASK: u32 = 0x0f00_0000;

/// Redirection entry, low half.
const ENTRY_LOGICAL: u32 = 1 << 11;
const ENTRY_REMOTE_IRR: u32 = 1 << 14;
const ENTRY_LEVEL: u32 = 1 << 15;
const ENTRY_MASKED: u32 = 1 << 16;
/// Bits of the low half that hold what is written; delivery status and remote IRR are read-only.
const ENTRY_WRITABLE: u32 = 0x0001_afff;
/// The destination of the high half.
const ENTRY_DESTINATION: u32 = 0xff00_0000;

/// One redirection entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    low: u32,
    high: u32,
}

impl Entry {
    const RESET: Self = Self {
        low: ENTRY_MASKED,
        high: 0,
    };

    /// NMI, SMI, INIT and ExtINT are edges whatever the trigger bit says (data sheet, 3.2.4, delivery mode).
    const fn is_level(self) -> bool {
        let through_irr = self.low >> 8 & 7 <= 1;
        self.low & ENTRY_LEVEL != 0 && through_irr
    }

    const fn vector(self) -> u8 {
        let [vector, ..] = self.low.to_le_bytes();
        vector
    }

    /// The message that the entry describes, or `None` for a reserved delivery mode.
    fn message(self) -> Option<ApicMessage> {
        let [.., destination] = self.high.to_le_bytes();
        Some(ApicMessage {
            destination: Destination::narrow(destination, self.low & ENTRY_LOGICAL != 0),
            delivery: Delivery::from_bits(self.low >> 8)?,
            vector: self.vector(),
            level: self.is_level(),
        })
    }
}

/// The I/O APIC.
#[derive(Debug)]
pub struct Ioapic {
    id: u32,
    select: u8,
    entries: [Entry; PINS],
    /// Levels of the pins.
    lines: u32,
    /// Edges that are still to be sent.
    edges: u32,
    /// Pins that have a message to send now: derived from the rest.
    ready: u32,
}

impl Ioapic {
    /// Makes the chip in its power-on state: everything masked.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            id: 0,
            select: 0,
            entries: [Entry::RESET; PINS],
            lines: 0,
            edges: 0,
            ready: 0,
        }
    }

    /// Drives pin `pin`, 0 to 23. An edge on a masked pin is ignored (data sheet, 3.2.4, interrupt mask).
    pub fn set_line(&mut self, pin: u8, level: bool) {
        let bit = bit(pin);
        let Some(entry) = self.entries.get(usize::from(pin)) else {
            return;
        };
        let rises = level && self.lines & bit == 0;
        if rises && !entry.is_level() && entry.low & ENTRY_MASKED == 0 {
            self.edges |= bit;
        }
        if level {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        self.refresh(pin);
    }

    /// Tells whether pin `pin` is masked.
    #[must_use]
    pub fn is_masked(&self, pin: u8) -> bool {
        self.entries
            .get(usize::from(pin))
            .is_none_or(|entry| entry.low & ENTRY_MASKED != 0)
    }

    /// Tells whether [`Ioapic::next_message`] has something.
    #[inline]
    #[must_use]
    pub const fn has_message(&self) -> bool {
        self.ready != 0
    }

    /// Takes the next message to deliver, lowest pin first. A level-triggered pin then waits for its EOI.
    pub fn next_message(&mut self) -> Option<ApicMessage> {
        if self.ready == 0 {
            return None;
        }
        let [pin, ..] = self.ready.trailing_zeros().to_le_bytes();
        let entry = self.entries.get_mut(usize::from(pin))?;
        let message = entry.message();
        if entry.is_level() {
            entry.low |= ENTRY_REMOTE_IRR;
        }
        self.edges &= !bit(pin);
        self.ready &= !bit(pin);
        message
    }

    /// Hears the EOI of a level-triggered vector: every pin that waits for it is free, and sends again if it is still
    /// asserted.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for pin in 0..IOAPIC_PINS {
            let Some(entry) = self.entries.get_mut(usize::from(pin)) else {
                return;
            };
            if entry.is_level() && entry.vector() == vector && entry.low & ENTRY_REMOTE_IRR != 0 {
                entry.low &= !ENTRY_REMOTE_IRR;
                self.refresh(pin);
            }
        }
    }

    /// Recomputes whether pin `pin` has a message to send.
    fn refresh(&mut self, pin: u8) {
        let bit = bit(pin);
        let Some(entry) = self.entries.get(usize::from(pin)) else {
            return;
        };
        let wants = if entry.is_level() {
            self.lines & bit != 0 && entry.low & ENTRY_REMOTE_IRR == 0
        } else {
            self.edges & bit != 0
        };
        if wants && entry.low & ENTRY_MASKED == 0 && entry.message().is_some() {
            self.ready |= bit;
        } else {
            self.ready &= !bit;
        }
    }

    /// Reads `width` bytes at `offset` of the memory window. Bytes outside of the registers read 0.
    #[must_use]
    pub fn mmio_read(&self, offset: u64, width: Width) -> u64 {
        let register = match offset & !3 {
            SELECT => u32::from(self.select),
            WINDOW => self.read_register(self.select),
            _ => 0,
        };
        u64::from(register).wrapping_shr(skip_bits(offset)) & width.all_ones()
    }

    /// Writes `width` bytes at `offset` of the memory window. The data window takes aligned double words only; a
    /// wider write is its low half.
    pub fn mmio_write(&mut self, offset: u64, width: Width, value: u64) {
        let [b0, b1, b2, b3, ..] = value.to_le_bytes();
        let whole = matches!(width, Width::Dword | Width::Qword);
        match offset {
            SELECT => self.select = b0,
            WINDOW if whole => {
                self.write_register(self.select, u32::from_le_bytes([b0, b1, b2, b3]));
            }
            EOI => self.end_of_interrupt(b0),
            _ => {}
        }
    }

    fn read_register(&self, index: u8) -> u32 {
        match index {
            // The arbitration ID follows every write of the ID.
            INDEX_ID | INDEX_ARBITRATION => self.id,
            INDEX_VERSION => VERSION,
            _ => {
                let Some((pin, high)) = redirection(index) else {
                    return 0;
                };
                let entry = self.entries.get(usize::from(pin));
                entry.map_or(0, |entry| if high { entry.high } else { entry.low })
            }
        }
    }

    fn write_register(&mut self, index: u8, value: u32) {
        if index == INDEX_ID {
            self.id = value & ID_MASK;
            return;
        }
        let Some((pin, high)) = redirection(index) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(usize::from(pin)) else {
            return;
        };
        if high {
            entry.high = value & ENTRY_DESTINATION;
            return;
        }
        let waits = entry.low & ENTRY_REMOTE_IRR;
        entry.low = value & ENTRY_WRITABLE;
        if entry.is_level() {
            // A level that was sent goes on waiting for its EOI.
            entry.low |= waits;
        }
        // An edge that was not sent has no meaning for a level, and masked edges are ignored.
        if entry.is_level() || entry.low & ENTRY_MASKED != 0 {
            self.edges &= !bit(pin);
        }
        self.refresh(pin);
    }
}

impl Default for Ioapic {
    fn default() -> Self {
        Self::new()
    }
}

fn bit(pin: u8) -> u32 {
    1_u32.wrapping_shl(pin.into()) & PIN_MASK
}

/// Bits to skip for an access `bytes` into a register, 0 to 3.
fn skip_bits(bytes: u64) -> u32 {
    let [bytes, ..] = bytes.to_le_bytes();
    u32::from(bytes & 3) << 3
}

/// Splits the index of a redirection register into pin and half.
fn redirection(index: u8) -> Option<(u8, bool)> {
    let offset = index.checked_sub(INDEX_REDIRECTION)?;
    let pin = offset >> 1;
    (pin < IOAPIC_PINS).then_some((pin, offset & 1 != 0))
}
