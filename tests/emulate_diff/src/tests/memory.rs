//! The memory that the emulator sees.

use super::CODE;
use addr::Gpa;
use api::device::Width;
use emulate::{Environment, Exception, Registers, SystemTables, Unavailable};

/// Memory of the emulator: the data, and the code page.
pub(super) struct Memory {
    pub(super) data: Vec<u8>,
    pub(super) base: u64,
    pub(super) code: [u8; 16],
}

impl Memory {
    pub(super) fn slice(&mut self, gpa: Gpa, len: usize) -> &mut [u8] {
        let at = usize::try_from(gpa.as_u64() - self.base).unwrap();
        &mut self.data[at..at + len]
    }
}

impl Environment for Memory {
    fn read_phys(&mut self, gpa: Gpa, buf: &mut [u8]) -> Result<(), Unavailable> {
        if (CODE..CODE + 16).contains(&gpa.as_u64()) {
            let at = usize::try_from(gpa.as_u64() - CODE).unwrap();
            buf.copy_from_slice(&self.code[at..at + buf.len()]);
        } else {
            let len = buf.len();
            buf.copy_from_slice(self.slice(gpa, len));
        }
        Ok(())
    }

    fn write_phys(&mut self, gpa: Gpa, data: &[u8]) -> Result<(), Unavailable> {
        self.slice(gpa, data.len()).copy_from_slice(data);
        Ok(())
    }

    fn compare_exchange(&mut self, gpa: Gpa, old: &[u8], new: &[u8]) -> Result<bool, Unavailable> {
        assert_eq!(self.slice(gpa, old.len()), old);
        self.write_phys(gpa, new).map(|()| true)
    }

    fn port_in(&mut self, _port: u16, _width: Width) -> Result<u32, Unavailable> {
        Err(Unavailable)
    }

    fn port_out(&mut self, _port: u16, _width: Width, _value: u32) -> Result<(), Unavailable> {
        Err(Unavailable)
    }

    fn xmm(&mut self, _index: u8) -> u128 {
        0
    }

    fn set_xmm(&mut self, _index: u8, _value: u128) {}

    fn ymm_high(&mut self, _index: u8) -> Option<u128> {
        None
    }

    fn set_ymm_high(&mut self, _index: u8, _value: u128) -> bool {
        false
    }

    fn mmx(&mut self, _index: u8) -> u64 {
        0
    }

    fn set_mmx(&mut self, _index: u8, _value: u64) {}

    fn tables(&mut self) -> SystemTables {
        SystemTables::default()
    }

    fn set_tables(&mut self, _tables: &SystemTables) {}

    fn cr8(&mut self) -> u64 {
        0
    }

    fn write_control(
        &mut self,
        _registers: &mut Registers,
        _number: u8,
        _value: u64,
    ) -> Result<(), Exception> {
        Err(Exception::general_protection(0))
    }

    fn debug(&mut self, _number: u8) -> u64 {
        0
    }

    fn set_debug(&mut self, _number: u8, _value: u64) {}
}
