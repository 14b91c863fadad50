//! What an instruction reaches outside the register file. The monitor implements it; tests implement it with a vector.

use crate::execute::Exception;
use crate::registers::Registers;
use addr::Gpa;
use api::cpu::{DescriptorTable, Segment};
use api::device::Width;

/// An access cannot be made now, for reasons of the host: the instruction is given up without effect and may be tried
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable;

/// Descriptor-table and system-segment registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SystemTables {
    /// GDTR.
    pub gdtr: DescriptorTable,
    /// IDTR.
    pub idtr: DescriptorTable,
    /// LDTR.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
}

/// Guest-physical memory with devices in it, ports, and rarely used registers of the vCPU.
///
/// Accesses to memory have 1 to 32 bytes and never cross a 4 KiB boundary. Where neither RAM nor a device answers,
/// reads yield all ones and writes vanish.
pub trait Environment {
    /// Reads RAM or a device.
    ///
    /// # Errors
    /// [`Unavailable`] when the host cannot make the access now.
    fn read_phys(&mut self, gpa: Gpa, buf: &mut [u8]) -> Result<(), Unavailable>;

    /// Writes RAM or a device.
    ///
    /// # Errors
    /// [`Unavailable`] when the host cannot make the access now.
    fn write_phys(&mut self, gpa: Gpa, data: &[u8]) -> Result<(), Unavailable>;

    /// Replaces `expected` by `new` (1, 2, 4, 8 or 16 bytes, naturally aligned) as one atomic step against the other
    /// vCPUs and tells whether it did. A device just takes `new`.
    ///
    /// # Errors
    /// [`Unavailable`] when the host cannot make the access now.
    fn compare_exchange(
        &mut self,
        gpa: Gpa,
        expected: &[u8],
        new: &[u8],
    ) -> Result<bool, Unavailable>;

    /// Reads an aligned little-endian word of a page table. Worth overriding: page walks consist of these.
    ///
    /// # Errors
    /// [`Unavailable`] when the host cannot make the access now.
    fn read_entry(&mut self, gpa: Gpa) -> Result<u64, Unavailable> {
        let mut bytes = [0; 8];
        self.read_phys(gpa, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads `len` bytes (at most 16) of code that do not cross a 4 KiB boundary, the first lowest. What lies above them
    /// in the result is arbitrary. Worth overriding: every emulated instruction needs one.
    ///
    /// # Errors
    /// [`Unavailable`] when the host cannot make the access now.
    fn read_code(&mut self, gpa: Gpa, len: usize) -> Result<u128, Unavailable> {
        let mut bytes = [0; 16];
        self.read_phys(gpa, bytes.get_mut(..len).unwrap_or_default())?;
        Ok(u128::from_le_bytes(bytes))
    }

    /// Reads a port (byte, word or double word).
    ///
    /// # Errors
    /// [`Unavailable`] when the host cannot make the access now.
    fn port_in(&mut self, port: u16, width: Width) -> Result<u32, Unavailable>;

    /// Writes a port (byte, word or double word).
    ///
    /// # Errors
    /// [`Unavailable`] when the host cannot make the access now.
    fn port_out(&mut self, port: u16, width: Width, value: u32) -> Result<(), Unavailable>;

    /// Returns XMM register `index`, 0 to 15.
    fn xmm(&mut self, index: u8) -> u128;

    /// Sets XMM register `index`; the upper part of the YMM register keeps its value.
    fn set_xmm(&mut self, index: u8, value: u128);

    /// Returns the upper half of YMM register `index`, or nothing if it cannot be reached.
    fn ymm_high(&mut self, index: u8) -> Option<u128>;

    /// Sets the upper part of YMM register `index`, all above it included, to `value` extended by zeros.
    ///
    /// Returns whether it could.
    fn set_ymm_high(&mut self, index: u8, value: u128) -> bool;

    /// Returns MMX register `index`, 0 to 7.
    fn mmx(&mut self, index: u8) -> u64;

    /// Sets MMX register `index`; the x87 state becomes that of an MMX instruction.
    fn set_mmx(&mut self, index: u8, value: u64);

    /// Returns the descriptor-table registers.
    fn tables(&mut self) -> SystemTables;

    /// Replaces the descriptor-table registers.
    fn set_tables(&mut self, tables: &SystemTables);

    /// Reads CR8 (the task priority).
    fn cr8(&mut self) -> u64;

    /// Writes control register 0, 3, 4 or 8 by the rules of the vCPU, in `registers` too.
    ///
    /// # Errors
    /// The exception that the write raises.
    fn write_control(
        &mut self,
        registers: &mut Registers,
        number: u8,
        value: u64,
    ) -> Result<(), Exception>;

    /// Reads debug register 0 to 3, 6 or 7.
    fn debug(&mut self, number: u8) -> u64;

    /// Writes debug register 0 to 3, 6 or 7.
    fn set_debug(&mut self, number: u8, value: u64);
}
