//! AHCI controllers (Serial ATA AHCI 1.3.1): each port with a disk is a queue.
//!
//! Commands lie in slots; the port does them one after the other. An error stops the port; it is started again at once with
//! what was left. Section numbers are those of the AHCI specification.

mod port;
mod start;
#[cfg(test)]
mod tests;

pub use port::{PAGES_MAX, PORT_BYTES, Port};
pub use start::{Host, PortDisk};

/// Registers of the controller (3.1).
mod host {
    pub(super) const CAPABILITIES: u32 = 0x00;
    pub(super) const CONTROL: u32 = 0x04;
    pub(super) const INTERRUPTS: u32 = 0x08;
    pub(super) const PORTS: u32 = 0x0c;
    /// Capabilities: 64-bit addresses.
    pub(super) const HAS_64_BITS: u32 = 1 << 31;
    /// Control: AHCI is on; interrupts; reset.
    pub(super) const ENABLE: u32 = 1 << 31;
    pub(super) const INTERRUPT_ENABLE: u32 = 1 << 1;
    pub(super) const RESET: u32 = 1;
}

/// Registers of a port, by their distance from its first one (3.3).
mod register {
    pub(super) const FIRST_PORT: u32 = 0x100;
    pub(super) const PORT_BYTES: u32 = 0x80;
    pub(super) const COMMANDS: u32 = 0x00;
    pub(super) const RECEIVED: u32 = 0x08;
    pub(super) const INTERRUPTS: u32 = 0x10;
    pub(super) const INTERRUPT_ENABLE: u32 = 0x14;
    pub(super) const CONTROL: u32 = 0x18;
    pub(super) const TASK_FILE: u32 = 0x20;
    pub(super) const SIGNATURE: u32 = 0x24;
    pub(super) const LINK_STATUS: u32 = 0x28;
    pub(super) const LINK_CONTROL: u32 = 0x2c;
    pub(super) const LINK_ERRORS: u32 = 0x30;
    pub(super) const ISSUE: u32 = 0x38;
}

/// Bits of a port's registers.
mod bits {
    /// Control: process commands; spin up; power; receive; receiving; processing.
    pub(super) const START: u32 = 1;
    pub(super) const SPIN_UP: u32 = 1 << 1;
    pub(super) const POWER: u32 = 1 << 2;
    pub(super) const RECEIVE: u32 = 1 << 4;
    pub(super) const RECEIVING: u32 = 1 << 14;
    pub(super) const RUNNING: u32 = 1 << 15;
    /// Interrupts: errors of the device, of memory, of the link.
    pub(super) const ERRORS: u32 = 1 << 30 | 1 << 29 | 1 << 28 | 1 << 27;
    /// Interrupts: answers of the device.
    pub(super) const ANSWERS: u32 = 0xf;
    /// Task file: busy; data wanted; error.
    pub(super) const BUSY: u32 = 0x80;
    pub(super) const DATA: u32 = 0x08;
    /// Link status: a device is there and talks.
    pub(super) const PRESENT: u32 = 3;
    /// Link control: reset.
    pub(super) const LINK_RESET: u32 = 1;
    /// Signature of a disk.
    pub(super) const DISK: u32 = 0x0000_0101;
}
