//! PCI: which functions there are, what their registers ask for, and their capabilities (PCI Local Bus 3.0, chapter 6;
//! PCI Express Base 4.0, chapter 7).
//!
//! Configuration space is untrusted: lists are bounded, buses are visited once. Left out: assigning addresses, which
//! firmware has done; hot plug; power states.

mod msi;
#[cfg(test)]
mod tests;
mod virtio;

pub use msi::{Message, MessageInterrupts, TablePlace};
pub use virtio::{VirtioKind, VirtioWindow};

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::fmt;

/// Where a function is: bus, device (0 to 31) and function (0 to 7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Bus.
    pub bus: u8,
    /// Device on the bus.
    pub device: u8,
    /// Function of the device.
    pub function: u8,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus, self.device, self.function)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Access to configuration space, 32 bits at a time at offsets that are multiples of 4. What is not there reads as ones.
pub trait ConfigSpace {
    /// Reads the double word at `offset` (0 to FCh).
    fn read(&self, at: Address, offset: u8) -> u32;
    /// Writes the double word at `offset`.
    fn write(&self, at: Address, offset: u8, value: u32);
}

/// Offsets of the common header.
mod header {
    pub(super) const COMMAND: u8 = 0x04;
    pub(super) const CLASS: u8 = 0x08;
    pub(super) const KIND: u8 = 0x0c;
    pub(super) const FIRST_BAR: u8 = 0x10;
    pub(super) const BUSES: u8 = 0x18;
    pub(super) const CAPABILITIES: u8 = 0x34;
}

/// Command register: port accesses are answered.
const COMMAND_PORTS: u32 = 1;
/// Command register: memory accesses are answered.
const COMMAND_MEMORY: u32 = 1 << 1;
/// Command register: the function may access memory by itself.
const COMMAND_BUS_MASTER: u32 = 1 << 2;
/// Command register: no interrupts by pin.
const COMMAND_NO_PIN: u32 = 1 << 10;
/// Status register, in the upper half: there is a list of capabilities.
const STATUS_CAPABILITIES: u32 = 1 << 20;
/// Most capabilities that fit between the header and the end.
const CAPABILITIES_MAX: usize = 48;

/// A function that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where.
    pub address: Address,
    /// Maker.
    pub vendor: u16,
    /// The maker's number for it.
    pub device: u16,
    /// Class, subclass and programming interface: what it does.
    pub class: [u8; 3],
    /// A bridge to another bus.
    pub is_bridge: bool,
}

/// A window that a function answers in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// Memory.
    Memory {
        /// Where, as firmware has set it.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// I/O ports.
    Ports {
        /// The first one.
        first: u16,
        /// How many.
        count: u16,
    },
}

/// Returns all functions, in the order of their addresses. Bridges are followed as firmware numbered their buses.
pub fn enumerate(space: &impl ConfigSpace) -> Vec<Function> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut buses = Vec::from([0_u8]);
    while let Some(bus) = buses.pop() {
        if !seen.insert(bus) {
            continue;
        }
        for device in 0..32 {
            scan_device(space, bus, device, &mut |function| {
                if function.is_bridge {
                    let numbers = space.read(function.address, header::BUSES);
                    buses.push((numbers >> 8) as u8);
                }
                found.push(function);
            });
        }
    }
    found.sort_by_key(|f| f.address);
    found
}

fn scan_device(space: &impl ConfigSpace, bus: u8, device: u8, found: &mut dyn FnMut(Function)) {
    const MANY_FUNCTIONS: u32 = 1 << 23;
    let mut functions = 1;
    let mut function = 0;
    while function < functions {
        let address = Address {
            bus,
            device,
            function,
        };
        if let Some(there) = look(space, address) {
            if function == 0 && space.read(address, header::KIND) & MANY_FUNCTIONS != 0 {
                functions = 8;
            }
            found(there);
        } else if function == 0 {
            return;
        }
        function += 1;
    }
}

fn look(space: &impl ConfigSpace, address: Address) -> Option<Function> {
    let identity = space.read(address, 0);
    let vendor = identity as u16;
    if vendor == 0xffff || vendor == 0 {
        return None;
    }
    let [_, interface, subclass, class] = space.read(address, header::CLASS).to_le_bytes();
    let kind = (space.read(address, header::KIND) >> 16) as u8 & 0x7f;
    Some(Function {
        address,
        vendor,
        device: (identity >> 16) as u16,
        class: [class, subclass, interface],
        is_bridge: kind == 1,
    })
}

impl Function {
    /// Returns window `index` (0 to 5), with its size, which is found by asking which address bits can be set: the window
    /// is off meanwhile. `None` if there is none, or firmware gave it no address.
    pub fn bar(&self, space: &impl ConfigSpace, index: u8) -> Option<Bar> {
        const PORTS: u32 = 1;
        const IS_64BIT: u32 = 2 << 1;
        if index > 5 || self.is_bridge && index > 1 {
            return None;
        }
        let at = header::FIRST_BAR + 4 * index;
        let low = space.read(self.address, at);
        if low & PORTS != 0 {
            let size = !(self.size_bits(space, at) & 0xfffc) & 0xffff;
            return Some(Bar::Ports {
                first: (low & 0xfffc) as u16,
                count: size.wrapping_add(1) as u16,
            });
        }
        let is_64bit = low & 6 == IS_64BIT && index < 5;
        let high = if is_64bit {
            space.read(self.address, at + 4)
        } else {
            0
        };
        let address = u64::from(high) << 32 | u64::from(low & !0xf);
        let size_low = self.size_bits(space, at) & !0xf;
        let size_high = if is_64bit {
            self.size_bits(space, at + 4)
        } else {
            u32::MAX
        };
        let size = (u64::from(size_high) << 32 | u64::from(size_low)).wrapping_neg();
        (address != 0 && size_low | size_high != 0 && size != 0)
            .then_some(Bar::Memory { address, size })
    }

    /// Returns what an address register holds of all ones.
    fn size_bits(&self, space: &impl ConfigSpace, at: u8) -> u32 {
        let command = space.read(self.address, header::COMMAND) & 0xffff;
        space.write(self.address, header::COMMAND, command & !3);
        let old = space.read(self.address, at);
        space.write(self.address, at, u32::MAX);
        let bits = space.read(self.address, at);
        space.write(self.address, at, old);
        space.write(self.address, header::COMMAND, command);
        bits
    }

    /// Lets the function answer in memory and access memory by itself; it interrupts by messages only.
    pub fn enable(&self, space: &impl ConfigSpace) {
        let command = space.read(self.address, header::COMMAND) & 0xffff;
        let wanted = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_NO_PIN;
        space.write(self.address, header::COMMAND, command | wanted);
    }

    /// Lets the function answer at its ports and access memory by itself.
    pub fn enable_ports(&self, space: &impl ConfigSpace) {
        let command = space.read(self.address, header::COMMAND) & 0xffff;
        let wanted = COMMAND_PORTS | COMMAND_BUS_MASTER;
        space.write(self.address, header::COMMAND, command | wanted);
    }

    /// Keeps the function from memory: it accesses none by itself any more.
    pub fn disable(&self, space: &impl ConfigSpace) {
        let command = space.read(self.address, header::COMMAND) & 0xffff;
        space.write(self.address, header::COMMAND, command & !COMMAND_BUS_MASTER);
    }

    /// Returns the offset of the first capability with number `id`.
    pub fn capability(&self, space: &impl ConfigSpace, id: u8) -> Option<u8> {
        self.capabilities(space, id).first().copied()
    }

    /// Returns the offsets of all capabilities with number `id`.
    pub fn capabilities(&self, space: &impl ConfigSpace, id: u8) -> Vec<u8> {
        let mut found = Vec::new();
        if space.read(self.address, header::COMMAND) & STATUS_CAPABILITIES == 0 {
            return found;
        }
        let mut at = space.read(self.address, header::CAPABILITIES) as u8 & !3;
        for _ in 0..CAPABILITIES_MAX {
            if at < 0x40 {
                break;
            }
            let word = space.read(self.address, at);
            if word as u8 == id {
                found.push(at);
            }
            at = (word >> 8) as u8 & !3;
        }
        found
    }
}
