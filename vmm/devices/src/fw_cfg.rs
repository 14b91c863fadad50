//! QEMU's firmware configuration device: selector and data ports, and the DMA interface.
//!
//! Contents are given when the machine is built and are read-only. Left out: writing items (DMA write and the old
//! data-port writes), which firmware needs for nothing that exists here.

use alloc::borrow::Cow;
use alloc::vec;
use alloc::vec::Vec;
use api::device::Cx;

mod dma;
pub mod saved;
#[cfg(test)]
mod tests;

/// Selector keys (QEMU, `docs/specs/fw_cfg`).
pub mod key {
    /// The bytes "QEMU".
    pub const SIGNATURE: u16 = 0x00;
    /// Interface revision: bit 0 traditional, bit 1 DMA.
    pub const ID: u16 = 0x01;
    /// Bytes of RAM below 4 GiB, 8 bytes.
    pub const RAM_SIZE: u16 = 0x03;
    /// CPUs at start, 2 bytes.
    pub const NB_CPUS: u16 = 0x05;
    /// Address to load the kernel's protected-mode part at, 4 bytes.
    pub const KERNEL_ADDR: u16 = 0x07;
    /// Bytes of the kernel's protected-mode part, 4 bytes.
    pub const KERNEL_SIZE: u16 = 0x08;
    /// Address to load the initial RAM disk at, 4 bytes.
    pub const INITRD_ADDR: u16 = 0x0a;
    /// Bytes of the initial RAM disk, 4 bytes.
    pub const INITRD_SIZE: u16 = 0x0b;
    /// NUMA topology, 8-byte numbers: nodes, node of each CPU, bytes of each node.
    pub const NUMA: u16 = 0x0d;
    /// Highest possible number of CPUs, 2 bytes.
    pub const MAX_CPUS: u16 = 0x0f;
    /// The kernel's protected-mode part.
    pub const KERNEL_DATA: u16 = 0x11;
    /// The initial RAM disk.
    pub const INITRD_DATA: u16 = 0x12;
    /// Address of the command line, 4 bytes.
    pub const CMDLINE_ADDR: u16 = 0x13;
    /// Bytes of the command line with its zero, 4 bytes.
    pub const CMDLINE_SIZE: u16 = 0x14;
    /// The command line with its zero.
    pub const CMDLINE_DATA: u16 = 0x15;
    /// Address of the kernel's setup part, 4 bytes.
    pub const SETUP_ADDR: u16 = 0x16;
    /// Bytes of the kernel's setup part, 4 bytes.
    pub const SETUP_SIZE: u16 = 0x17;
    /// The kernel's setup part.
    pub const SETUP_DATA: u16 = 0x18;
    /// Directory of the named files.
    pub const FILE_DIR: u16 = 0x19;
    /// First key of a named file.
    pub const FILE_FIRST: u16 = 0x20;
    /// x86: interrupt 0 arrives at pin 2 of the I/O APIC, 1 byte.
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
}

/// Named files that a device holds at most.
pub const FILES_MAX: usize = 64;
/// Bytes of a file's name with its zero.
const NAME_LEN: usize = 56;
/// What the DMA address port reads: "QEMU CFG", big-endian.
const DMA_SIGNATURE: u64 = 0x5145_4d55_2043_4647;
/// Keys repeat beyond this mask: bit 14 once meant writing, bit 15 is the architecture's own set.
const KEY_MASK: u16 = 0xbfff;

/// Why an item was not taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FwCfgError {
    /// The name is empty, longer than 55 bytes, or taken.
    #[error("file name is empty, too long or already in use")]
    Name,
    /// There are [`FILES_MAX`] files already.
    #[error("more than {FILES_MAX} files")]
    Full,
    /// An item may have 4 GiB - 1 bytes.
    #[error("item is larger than 4 GiB")]
    Size,
}

/// One readable item.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    key: u16,
    data: Cow<'static, [u8]>,
}

/// The device.
#[derive(Debug)]
pub struct FwCfg {
    // Configuration.
    items: Vec<Item>,
    names: Vec<[u8; NAME_LEN]>,
    // Volatile state.
    selected: u16,
    offset: u32,
    /// High half of the DMA address.
    dma_high: u32,
}

impl FwCfg {
    /// Makes a device that holds signature and revision.
    #[must_use]
    pub fn new() -> Self {
        let mut device = Self {
            items: Vec::new(),
            names: Vec::new(),
            selected: key::SIGNATURE,
            offset: 0,
            dma_high: 0,
        };
        device.store(key::SIGNATURE, Cow::Borrowed(b"QEMU"));
        device.store(key::ID, Cow::Borrowed(&[3, 0, 0, 0]));
        device.store(key::IRQ0_OVERRIDE, Cow::Borrowed(&[1]));
        device.store(key::FILE_DIR, Cow::Borrowed(&[0; 4]));
        device
    }

    /// Sets the item of a numbered key, replacing what it held.
    ///
    /// # Errors
    /// [`FwCfgError::Size`] when `data` has 4 GiB or more.
    pub fn set(&mut self, key: u16, data: Cow<'static, [u8]>) -> Result<(), FwCfgError> {
        u32::try_from(data.len()).map_err(|_| FwCfgError::Size)?;
        self.store(key & KEY_MASK, data);
        Ok(())
    }

    /// Sets a 16-bit number, little-endian.
    pub fn set_u16(&mut self, key: u16, value: u16) {
        self.store(key & KEY_MASK, Cow::Owned(value.to_le_bytes().to_vec()));
    }

    /// Sets a 32-bit number, little-endian.
    pub fn set_u32(&mut self, key: u16, value: u32) {
        self.store(key & KEY_MASK, Cow::Owned(value.to_le_bytes().to_vec()));
    }

    /// Sets a 64-bit number, little-endian.
    pub fn set_u64(&mut self, key: u16, value: u64) {
        self.store(key & KEY_MASK, Cow::Owned(value.to_le_bytes().to_vec()));
    }

    /// Adds a named file and returns its key.
    ///
    /// # Errors
    /// [`FwCfgError`] when the name cannot be used, the directory is full or the file too large.
    pub fn add_file(&mut self, name: &str, data: Cow<'static, [u8]>) -> Result<u16, FwCfgError> {
        let mut padded = [0; NAME_LEN];
        let target = padded
            .get_mut(..name.len())
            .filter(|target| !target.is_empty() && target.len() < NAME_LEN);
        target
            .ok_or(FwCfgError::Name)?
            .copy_from_slice(name.as_bytes());
        if self.names.contains(&padded) {
            return Err(FwCfgError::Name);
        }
        let index = self.names.len();
        if index >= FILES_MAX {
            return Err(FwCfgError::Full);
        }
        let key = u16::try_from(index)
            .map_err(|_| FwCfgError::Full)?
            .saturating_add(key::FILE_FIRST);
        self.set(key, data)?;
        self.names.push(padded);
        self.rebuild_directory();
        Ok(key)
    }

    fn store(&mut self, key: u16, data: Cow<'static, [u8]>) {
        match self.items.iter_mut().find(|item| item.key == key) {
            Some(item) => item.data = data,
            None => self.items.push(Item { key, data }),
        }
    }

    /// The directory is big-endian: count, then size, key, two zero bytes and name of each file.
    fn rebuild_directory(&mut self) {
        let count = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        let mut directory = Vec::new();
        directory.extend_from_slice(&count.to_be_bytes());
        for (name, key) in self.names.iter().zip(key::FILE_FIRST..) {
            directory.extend_from_slice(&self.len_of(key).to_be_bytes());
            directory.extend_from_slice(&key.to_be_bytes());
            directory.extend_from_slice(&[0; 2]);
            directory.extend_from_slice(name);
        }
        self.store(key::FILE_DIR, Cow::Owned(directory));
    }

    fn item(&self, key: u16) -> Option<&[u8]> {
        let item = self.items.iter().find(|item| item.key == key)?;
        Some(&item.data)
    }

    fn len_of(&self, key: u16) -> u32 {
        let len = self.item(key).map_or(0, <[u8]>::len);
        u32::try_from(len).unwrap_or(u32::MAX)
    }

    /// Writes the selector port as a word.
    pub fn select(&mut self, key: u16) {
        self.selected = key & KEY_MASK;
        self.offset = 0;
    }

    /// Reads the next byte of the selected item; past its end, or where there is none, it is 0.
    pub fn read_data(&mut self) -> u8 {
        let offset = usize::try_from(self.offset).unwrap_or(usize::MAX);
        let byte = self
            .item(self.selected)
            .and_then(|data| data.get(offset).copied());
        self.offset = self.offset.saturating_add(1);
        byte.unwrap_or(0)
    }

    /// Reads a double word of the DMA address port: half of the signature, as it lies in memory.
    #[must_use]
    pub fn read_dma(&self, high: bool) -> u32 {
        let [h0, h1, h2, h3, low @ ..] = DMA_SIGNATURE.to_be_bytes();
        u32::from_le_bytes(if high { [h0, h1, h2, h3] } else { low })
    }

    /// Writes a double word of the DMA address port, big-endian; the low half starts the transfer.
    pub fn write_dma(&mut self, high: bool, value: u32, cx: &mut Cx<'_>) {
        let half = value.swap_bytes();
        if high {
            self.dma_high = half;
            return;
        }
        let address = u64::from(core::mem::take(&mut self.dma_high)) << 32 | u64::from(half);
        self.transfer(address, cx);
    }
}

impl Default for FwCfg {
    fn default() -> Self {
        Self::new()
    }
}

/// A block of zeroes to fill guest memory from.
fn zeroes(len: usize) -> Vec<u8> {
    vec![0; len]
}
