//! Registers of devices in memory, and memory that a device shares with the CPU: the ports that drivers work over.

use crate::paging::{KERNEL_BASE, MMIO_BASE};
use crate::physmem::{DIRECT_MAP_BASE, direct};
use addr::Hfn;
use api::port::{Registers, SharedMemory};

/// The registers of one device.
#[derive(Debug)]
pub struct Window {
    base: u64,
    len: u64,
}

impl Window {
    /// Takes the `len` bytes of registers that are mapped, uncached, at `base`.
    ///
    /// # Safety
    /// The mapping stays for ever, and what is written there cannot make the device touch memory that is not lent to it.
    #[must_use]
    pub const unsafe fn new(base: u64, len: u64) -> Self {
        Self { base, len }
    }

    fn at(&self, offset: u32) -> Option<*mut u32> {
        let fits = u64::from(offset) + 4 <= self.len && offset.is_multiple_of(4);
        fits.then_some((self.base + u64::from(offset)) as *mut u32)
    }
}

impl Registers for Window {
    fn read32(&self, offset: u32) -> u32 {
        match self.at(offset) {
            // SAFETY: the register is inside the window, which `new`'s caller vouched for.
            Some(at) => unsafe { at.read_volatile() },
            None => u32::MAX,
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        if let Some(at) = self.at(offset) {
            // SAFETY: as in `read32`.
            unsafe { at.write_volatile(value) };
        }
    }
}

/// Frames that a device reads and writes as well.
#[derive(Debug)]
pub struct SharedFrames {
    first: Hfn,
    bytes: usize,
}

impl SharedFrames {
    /// Takes `bytes` of memory from frame `first` on, and zeroes them.
    ///
    /// # Safety
    /// The frames are in a row, and nobody else's for good.
    #[must_use]
    pub unsafe fn new(first: Hfn, bytes: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe { crate::physmem::zero(first.start(), bytes) };
        Self { first, bytes }
    }

    fn at(&self, offset: usize) -> Option<*mut u32> {
        let fits = offset.is_multiple_of(4) && offset.checked_add(4)? <= self.bytes;
        fits.then(|| direct(self.first.start()).wrapping_add(offset).cast())
    }
}

impl SharedMemory for SharedFrames {
    fn bus_address(&self) -> u64 {
        self.first.start().as_u64()
    }

    fn read32(&self, offset: usize) -> u32 {
        // SAFETY: the word is inside the frames that `new`'s caller gave away.
        self.at(offset)
            .map_or(0, |at| unsafe { at.read_volatile() })
    }

    fn write32(&self, offset: usize, value: u32) {
        if let Some(at) = self.at(offset) {
            // SAFETY: as in `read32`.
            unsafe { at.write_volatile(value) };
        }
    }
}

/// Returns the bus address of kernel memory, which the heap and the image have; `None` for other addresses. What lies in
/// one page there lies in one page for a device.
#[must_use]
pub fn bus_address(memory: *const u8) -> Option<u64> {
    let address = memory as u64;
    match address {
        KERNEL_BASE.. => Some(address - KERNEL_BASE),
        DIRECT_MAP_BASE..MMIO_BASE => Some(address - DIRECT_MAP_BASE),
        _ => None,
    }
}

/// Reads a double word of PCI configuration space by mechanism #1 (PCI Local Bus 3.0, 3.2.2.3.2).
///
/// # Safety
/// Nobody else uses ports CF8h and CFCh meanwhile.
#[must_use]
pub unsafe fn pci_config_read(address: u32) -> u32 {
    // SAFETY: the ports are those of the host bridge on every PC; selecting a register has no other effect.
    unsafe { crate::cpu::outl(0xcf8, address | 1 << 31) };
    // SAFETY: reads of configuration space have no side effect that touches memory.
    unsafe { crate::cpu::inl(0xcfc) }
}

/// Writes a double word of PCI configuration space.
///
/// # Safety
/// As for [`pci_config_read`], and the write does not make a device touch memory that is not lent to it.
pub unsafe fn pci_config_write(address: u32, value: u32) {
    // SAFETY: as in `pci_config_read`.
    unsafe { crate::cpu::outl(0xcf8, address | 1 << 31) };
    // SAFETY: the caller's promise.
    unsafe { crate::cpu::outl(0xcfc, value) };
}
