//! PCI configuration mechanism #1 and the functions of an i440FX/PIIX board.
//!
//! The bus knows its functions by number, one match arm each; a further function is a type with [`PciFunction`] and an
//! arm. Configuration registers are bytes here: wider accesses are split, low byte first, which no register of these
//! chips can tell. Left out: buses behind bridges, memory attributes (PAM) and SMRAM, whose registers only read back.

use crate::layout::{PCI_DATA, PM_BASE};
use crate::pci::config_space::ConfigSpace;
use api::device::Width;

mod config_space;
pub mod saved;
#[cfg(test)]
mod tests;

/// Configuration address: the enable bit.
const ADDRESS_ENABLE: u32 = 1 << 31;
/// Configuration address: bits that hold what is written.
const ADDRESS_WRITABLE: u32 = 0x80ff_fffc;

/// Device and function numbers on bus 0, device in bits 7:3.
const HOST_BRIDGE: u8 = 0;
const ISA_BRIDGE: u8 = 1 << 3;
const POWER_MANAGEMENT: u8 = 1 << 3 | 3;

/// First of the four PIRQ route registers of the ISA bridge.
const PIRQ_ROUTE: u8 = 0x60;
/// PIRQ route register: not routed.
const PIRQ_OFF: u8 = 1 << 7;
/// Low byte of PMBASE in the power-management function; bit 0 is fixed: the base is in I/O space.
const PM_BASE_LOW: u8 = 0x40;
const PM_BASE_HIGH: u8 = 0x41;
/// PMREGMISC: bit 0 decodes the power-management ports.
const PM_ENABLE: u8 = 0x80;

/// A PCI function as its configuration space.
pub trait PciFunction {
    /// Reads the byte at `register`.
    fn config_read(&self, register: u8) -> u8;
    /// Writes the byte at `register`; read-only bits stay.
    fn config_write(&mut self, register: u8, value: u8);
}

/// Bus 0 with its configuration ports.
#[derive(Debug)]
pub struct PciBus {
    address: u32,
    host_bridge: ConfigSpace,
    isa_bridge: ConfigSpace,
    power_management: ConfigSpace,
}

impl PciBus {
    /// Makes the bus in its power-on state.
    ///
    /// The power-management ports are already decoded at [`PM_BASE`], where chips leave that to firmware: guests that
    /// start without firmware find them where the ACPI tables say.
    #[must_use]
    pub const fn new() -> Self {
        let [pm_low, pm_high] = PM_BASE.to_le_bytes();
        Self {
            address: 0,
            // 82441FX host bridge: header, and chip registers that only read back.
            host_bridge: ConfigSpace::new(
                &[
                    (0x00, &[0x86, 0x80, 0x37, 0x12, 0x06, 0x00, 0x80, 0x02]),
                    (0x08, &[0x02, 0x00, 0x00, 0x06]),
                ],
                &[(0x0d, 0x0d, 0xf8), (0x50, 0xff, 0xff)],
            ),
            // PIIX3 ISA bridge, a device of several functions. Bit 7 of a route is "not routed".
            isa_bridge: ConfigSpace::new(
                &[
                    (0x00, &[0x86, 0x80, 0x00, 0x70, 0x07, 0x00, 0x00, 0x02]),
                    (0x08, &[0x00, 0x00, 0x01, 0x06, 0x00, 0x00, 0x80]),
                    (0x4c, &[0x4d, 0x00, 0x03]),
                    (PIRQ_ROUTE, &[PIRQ_OFF; 4]),
                    (0x69, &[0x02]),
                    (0xa0, &[0x08]),
                ],
                &[(0x40, 0x5f, 0xff), (0x60, 0x63, 0x8f), (0x64, 0xff, 0xff)],
            ),
            // PIIX4 power management. APMC_EN in 5Bh tells firmware that SMM needs no set-up.
            power_management: ConfigSpace::new(
                &[
                    (0x00, &[0x86, 0x80, 0x13, 0x71, 0x01, 0x00, 0x80, 0x02]),
                    (0x08, &[0x03, 0x00, 0x80, 0x06]),
                    (0x3c, &[0x09, 0x01]),
                    (PM_BASE_LOW, &[pm_low | 1, pm_high]),
                    (0x5b, &[0x02]),
                    (PM_ENABLE, &[0x01]),
                    (0x90, &[0x01]),
                ],
                &[
                    (0x04, 0x04, 0x01),
                    (0x3c, 0x3c, 0xff),
                    (PM_BASE_LOW, PM_BASE_LOW, 0xc0),
                    (PM_BASE_HIGH, PM_BASE_HIGH, 0xff),
                    (0x44, 0x7f, 0xff),
                    (PM_ENABLE, PM_ENABLE, 0x01),
                    (0x90, 0x90, 0xf0),
                    (0x91, 0x91, 0xff),
                    (0xd2, 0xd6, 0xff),
                ],
            ),
        }
    }

    /// Reads the address port as a double word. Narrower accesses are not for this port.
    #[must_use]
    pub const fn read_address(&self) -> u32 {
        self.address
    }

    /// Writes the address port as a double word.
    pub fn write_address(&mut self, value: u32) {
        self.address = value & ADDRESS_WRITABLE;
    }

    /// Reads `width` bytes at data port `port`. Where no function answers it is all ones.
    pub fn read_data(&mut self, port: u16, width: Width) -> u32 {
        let mut bytes = [0; 4];
        for (port, byte) in (port..).zip(bytes.iter_mut().take(width_bytes(width))) {
            *byte = self
                .selected(port)
                .map_or(0xff, |(function, register)| function.config_read(register));
        }
        u32::from_le_bytes(bytes)
    }

    /// Writes `width` bytes at data port `port`.
    pub fn write_data(&mut self, port: u16, width: Width, value: u32) {
        let bytes = value.to_le_bytes();
        for (port, byte) in (port..).zip(bytes.iter().take(width_bytes(width))) {
            if let Some((function, register)) = self.selected(port) {
                function.config_write(register, *byte);
            }
        }
    }

    /// Returns the first of the power-management ports, or `None` while they are not decoded.
    #[must_use]
    pub fn pm_base(&self) -> Option<u16> {
        let function = &self.power_management;
        let low = function.config_read(PM_BASE_LOW) & 0xc0;
        let high = function.config_read(PM_BASE_HIGH);
        (function.config_read(PM_ENABLE) & 1 != 0).then(|| u16::from_le_bytes([low, high]))
    }

    /// Returns the ISA interrupt to which PIRQ `line` (0 is A, 3 is D) is routed, if it is.
    #[must_use]
    pub fn pirq_route(&self, line: u8) -> Option<u8> {
        let route = self.isa_bridge.config_read(PIRQ_ROUTE | line & 3);
        (route & PIRQ_OFF == 0).then_some(route & 0xf)
    }

    /// The function and register that the address port selects for a byte at data port `port`.
    fn selected(&mut self, port: u16) -> Option<(&mut dyn PciFunction, u8)> {
        let [register, devfn, bus, _] = self.address.to_le_bytes();
        if self.address & ADDRESS_ENABLE == 0 || bus != 0 {
            return None;
        }
        let [lane, _] = port.wrapping_sub(PCI_DATA).to_le_bytes();
        let register = register & 0xfc | lane & 3;
        Some((self.function(devfn)?, register))
    }

    fn function(&mut self, devfn: u8) -> Option<&mut dyn PciFunction> {
        match devfn {
            HOST_BRIDGE => Some(&mut self.host_bridge),
            ISA_BRIDGE => Some(&mut self.isa_bridge),
            POWER_MANAGEMENT => Some(&mut self.power_management),
            _ => None,
        }
    }
}

impl Default for PciBus {
    fn default() -> Self {
        Self::new()
    }
}

fn width_bytes(width: Width) -> usize {
    match width {
        Width::Byte => 1,
        Width::Word => 2,
        Width::Dword | Width::Qword => 4,
    }
}
