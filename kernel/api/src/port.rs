//! I/O ports, memory windows and shared memory of the host, as drivers see them.

/// Byte-wide I/O ports at fixed offsets from a device's first one.
pub trait BytePorts {
    /// Reads the port at `offset`.
    fn read(&self, offset: u16) -> u8;
    /// Writes the port at `offset`.
    fn write(&self, offset: u16, value: u8);
}

/// I/O ports of any width, by their numbers.
pub trait Ports {
    /// Reads a byte.
    fn read8(&self, port: u16) -> u8;
    /// Writes a byte.
    fn write8(&self, port: u16, value: u8);
    /// Reads a word.
    fn read16(&self, port: u16) -> u16;
    /// Writes a double word.
    fn write32(&self, port: u16, value: u32);
}

/// A window of 16-bit cells, such as a text screen's memory. Cells outside it read 0 and swallow writes.
pub trait Cells {
    /// Reads cell `index`.
    fn get(&self, index: usize) -> u16;
    /// Writes cell `index`.
    fn set(&mut self, index: usize, value: u16);
}

/// The registers of a device in memory, by their offset. Accesses happen in program order, and after all earlier ones to
/// [`SharedMemory`].
pub trait Registers {
    /// Reads the 32-bit register at `offset`.
    fn read32(&self, offset: u32) -> u32;
    /// Writes the 32-bit register at `offset`.
    fn write32(&self, offset: u32, value: u32);
}

/// Registers of which some are narrower: such are reached by their own width only.
pub trait NarrowRegisters: Registers {
    /// Reads the byte at `offset`.
    fn read8(&self, offset: u32) -> u8;
    /// Writes the byte at `offset`.
    fn write8(&self, offset: u32, value: u8);
    /// Reads the word at `offset`, a multiple of 2.
    fn read16(&self, offset: u32) -> u16;
    /// Writes the word at `offset`.
    fn write16(&self, offset: u32, value: u16);
}

/// Memory that the CPU and a device both read and write: rings, lists, tables. Offsets are multiples of 4; what lies
/// beyond the end reads as zeros and swallows writes.
pub trait SharedMemory {
    /// Returns where the device finds it.
    fn bus_address(&self) -> u64;
    /// Reads the double word at `offset`.
    fn read32(&self, offset: usize) -> u32;
    /// Writes the double word at `offset`.
    fn write32(&self, offset: usize, value: u32);
}
