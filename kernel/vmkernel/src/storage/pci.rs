//! PCI configuration space by mechanism #1, one access at a time.
#![expect(unsafe_code, reason = "uses the ports of the host bridge")]

use crate::memory::ranks;
use arch::mmio::{pci_config_read, pci_config_write};
use arch::sync::SpinLock;
use bus::pci::{Address, ConfigSpace};

static PORTS: SpinLock<()> = SpinLock::new(ranks::PCI, ());

/// The first 256 bytes of each function's configuration space.
#[derive(Clone, Copy, Debug)]
pub struct ConfigPorts;

fn select(at: Address, offset: u8) -> u32 {
    u32::from(at.bus) << 16
        | u32::from(at.device & 31) << 11
        | u32::from(at.function & 7) << 8
        | u32::from(offset & !3)
}

impl ConfigSpace for ConfigPorts {
    fn read(&self, at: Address, offset: u8) -> u32 {
        let _guard = PORTS.lock();
        // SAFETY: the lock keeps everybody else off the two ports.
        unsafe { pci_config_read(select(at, offset)) }
    }

    fn write(&self, at: Address, offset: u8, value: u32) {
        let _guard = PORTS.lock();
        // SAFETY: as above; bus mastering is turned on for devices whose driver lends them their memory only.
        unsafe { pci_config_write(select(at, offset), value) }
    }
}
