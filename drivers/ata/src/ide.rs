//! IDE channels with bus-master DMA (ACS-3 and ATA8-APT for the registers; Programming Interface for Bus Master IDE
//! Controller 1.0; PIIX3 data sheet, 290550). A channel with a disk as its first device is a queue with one slot.

mod channel;
mod start;
#[cfg(test)]
mod tests;

pub use channel::{CHANNEL_BYTES, Channel, PAGES_MAX};
pub use start::ChannelDisk;

/// Where a channel's ports are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First of the eight command ports: 1F0h or 170h.
    pub command: u16,
    /// The control port: 3F6h or 376h.
    pub control: u16,
    /// First of the channel's eight bus-master ports.
    pub bus_master: u16,
}

/// Command ports, by their distance from the first one.
mod register {
    pub(super) const DATA: u16 = 0;
    pub(super) const FEATURES: u16 = 1;
    pub(super) const COUNT: u16 = 2;
    pub(super) const LBA_LOW: u16 = 3;
    pub(super) const LBA_MID: u16 = 4;
    pub(super) const LBA_HIGH: u16 = 5;
    pub(super) const DEVICE: u16 = 6;
    /// Read: the status, which ends the interrupt. Written: a command.
    pub(super) const STATUS: u16 = 7;
}

/// Bus-master ports, likewise.
mod master {
    pub(super) const COMMAND: u16 = 0;
    pub(super) const STATUS: u16 = 2;
    pub(super) const TABLE: u16 = 4;
}

/// Bits of the registers.
mod bits {
    /// Status.
    pub(super) const BUSY: u8 = 0x80;
    pub(super) const FAULT: u8 = 0x20;
    pub(super) const DATA: u8 = 0x08;
    pub(super) const ERROR: u8 = 0x01;
    /// Nothing drives the bus.
    pub(super) const NOBODY: u8 = 0xff;
    /// Device: addresses are block numbers; the rest was once fixed.
    pub(super) const FIRST_DEVICE: u8 = 0xe0;
    /// Control: no interrupts; reset.
    pub(super) const QUIET: u8 = 0x02;
    pub(super) const RESET: u8 = 0x04;
    /// Bus-master command: go; to memory.
    pub(super) const START: u8 = 0x01;
    pub(super) const TO_MEMORY: u8 = 0x08;
    /// Bus-master status: under way; error; the device has interrupted. The last two go when they are written.
    pub(super) const ACTIVE: u8 = 0x01;
    pub(super) const MASTER_ERROR: u8 = 0x02;
    pub(super) const INTERRUPT: u8 = 0x04;
}
