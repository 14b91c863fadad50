//! I/O ports and memory windows of the host, as drivers see them.

/// Byte-wide I/O ports at fixed offsets from a device's first one.
pub trait BytePorts {
    /// Reads the port at `offset`.
    fn read(&self, offset: u16) -> u8;
    /// Writes the port at `offset`.
    fn write(&self, offset: u16, value: u8);
}

/// A window of 16-bit cells, such as a text screen's memory. Cells outside it read 0 and swallow writes.
pub trait Cells {
    /// Reads cell `index`.
    fn get(&self, index: usize) -> u16;
    /// Writes cell `index`.
    fn set(&mut self, index: usize, value: u16);
}
