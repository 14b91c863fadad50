//! The made-up machine, and short ways to run code on it.

use crate::{
    Config, Emulator, Environment, Exception, Hint, Outcome, Registers, SystemTables, Unavailable,
};
use addr::Gpa;
use alloc::vec;
use alloc::vec::Vec;
use api::cpu::{Segment, SegmentAttributes as Attr, cr0, cr4, efer, rflags, segment};
use api::device::Width;

/// Size of RAM; addresses from here on are a device's.
pub(crate) const RAM: u64 = 1 << 20;
/// Where the device is.
pub(crate) const DEVICE: u64 = 0xfee0_0000;
/// Where code is put.
pub(crate) const CODE: u64 = 0x1_0000;
/// Where data is put.
pub(crate) const DATA: u64 = 0x2_0000;
/// Where the stack is.
pub(crate) const STACK: u64 = 0x3_0000;

pub(crate) const CONFIG: Config = Config {
    phys_bits: 40,
    has_page1gb: true,
};

/// One access to the device or a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    In(u16, Width),
    Out(u16, Width, u32),
}

pub(crate) struct Machine {
    pub(crate) ram: Vec<u8>,
    /// 4 KiB behind the device's address.
    pub(crate) device: Vec<u8>,
    pub(crate) touches: Vec<Touch>,
    pub(crate) xmm: [u128; 16],
    pub(crate) ymm_high: [u128; 16],
    pub(crate) mmx: [u64; 8],
    pub(crate) tables: SystemTables,
    pub(crate) cr8: u64,
    pub(crate) debug: [u64; 8],
    /// What ports return.
    pub(crate) port_value: u32,
    /// Reads of page-table entries.
    pub(crate) number_reads: u32,
    /// How many compare-exchanges are still to fail, as if another vCPU interfered.
    pub(crate) losses: u32,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self {
            ram: vec![0; usize::try_from(RAM).unwrap()],
            device: vec![0; 4096],
            touches: Vec::new(),
            xmm: [0; 16],
            ymm_high: [0; 16],
            mmx: [0; 8],
            tables: SystemTables::default(),
            cr8: 0,
            debug: [0; 8],
            port_value: 0,
            number_reads: 0,
            losses: 0,
        }
    }

    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).unwrap();
        self.ram[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn get(&self, at: u64) -> u64 {
        let at = usize::try_from(at).unwrap();
        u64::from_le_bytes(self.ram[at..at + 8].try_into().unwrap())
    }

    pub(crate) fn put64(&mut self, at: u64, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    fn slice(&mut self, gpa: u64, len: usize) -> Option<&mut [u8]> {
        let (memory, at) = if (DEVICE..DEVICE + 4096).contains(&gpa) {
            (&mut self.device, gpa - DEVICE)
        } else {
            (&mut self.ram, gpa)
        };
        let at = usize::try_from(at).unwrap();
        memory.get_mut(at..at.checked_add(len)?)
    }
}

impl Environment for Machine {
    fn read_phys(&mut self, gpa: Gpa, buf: &mut [u8]) -> Result<(), Unavailable> {
        assert!(!buf.is_empty() && gpa.page_offset() + buf.len() as u64 <= 4096);
        if gpa.as_u64() >= RAM {
            self.touches.push(Touch::Read(gpa.as_u64(), buf.len()));
        }
        match self.slice(gpa.as_u64(), buf.len()) {
            Some(from) => buf.copy_from_slice(from),
            None => buf.fill(0xff),
        }
        Ok(())
    }

    fn write_phys(&mut self, gpa: Gpa, data: &[u8]) -> Result<(), Unavailable> {
        assert!(!data.is_empty() && gpa.page_offset() + data.len() as u64 <= 4096);
        if gpa.as_u64() >= RAM {
            self.touches.push(Touch::Write(gpa.as_u64(), data.to_vec()));
        }
        if let Some(to) = self.slice(gpa.as_u64(), data.len()) {
            to.copy_from_slice(data);
        }
        Ok(())
    }

    fn compare_exchange(
        &mut self,
        gpa: Gpa,
        expected: &[u8],
        new: &[u8],
    ) -> Result<bool, Unavailable> {
        assert!(expected.len() == new.len() && gpa.is_aligned(new.len() as u64));
        if self.losses > 0 {
            self.losses -= 1;
            return Ok(false);
        }
        if gpa.as_u64() < RAM
            && self.slice(gpa.as_u64(), expected.len()).as_deref() != Some(expected)
        {
            return Ok(false);
        }
        self.write_phys(gpa, new).map(|()| true)
    }

    fn read_entry(&mut self, gpa: Gpa) -> Result<u64, Unavailable> {
        self.number_reads += 1;
        let mut bytes = [0; 8];
        self.read_phys(gpa, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn port_in(&mut self, port: u16, width: Width) -> Result<u32, Unavailable> {
        self.touches.push(Touch::In(port, width));
        Ok(self.port_value)
    }

    fn port_out(&mut self, port: u16, width: Width, value: u32) -> Result<(), Unavailable> {
        self.touches.push(Touch::Out(port, width, value));
        Ok(())
    }

    fn xmm(&mut self, index: u8) -> u128 {
        self.xmm[usize::from(index)]
    }

    fn set_xmm(&mut self, index: u8, value: u128) {
        self.xmm[usize::from(index)] = value;
    }

    fn ymm_high(&mut self, index: u8) -> Option<u128> {
        Some(self.ymm_high[usize::from(index)])
    }

    fn set_ymm_high(&mut self, index: u8, value: u128) -> bool {
        self.ymm_high[usize::from(index)] = value;
        true
    }

    fn mmx(&mut self, index: u8) -> u64 {
        self.mmx[usize::from(index)]
    }

    fn set_mmx(&mut self, index: u8, value: u64) {
        self.mmx[usize::from(index)] = value;
    }

    fn tables(&mut self) -> SystemTables {
        self.tables
    }

    fn set_tables(&mut self, tables: &SystemTables) {
        self.tables = *tables;
    }

    fn cr8(&mut self) -> u64 {
        self.cr8
    }

    fn write_control(
        &mut self,
        registers: &mut Registers,
        number: u8,
        value: u64,
    ) -> Result<(), Exception> {
        match number {
            0 => registers.cr0 = value,
            3 => registers.cr3 = value,
            4 if value >> 32 != 0 => return Err(Exception::general_protection(0)),
            4 => registers.cr4 = value,
            _ => self.cr8 = value,
        }
        Ok(())
    }

    fn debug(&mut self, number: u8) -> u64 {
        self.debug[usize::from(number)]
    }

    fn set_debug(&mut self, number: u8, value: u64) {
        self.debug[usize::from(number)] = value;
    }
}

/// 64-bit code at level 0 without paging: linear addresses below 4 GiB are physical ones.
pub(crate) fn long() -> Registers {
    let mut registers = Registers {
        rip: CODE,
        rflags: rflags::FIXED,
        segments: [Segment::flat(0x18, Attr::DATA32); 6],
        cr0: cr0::PE,
        cr4: cr4::PAE | cr4::OSFXSR | cr4::OSXSAVE,
        efer: efer::LME | efer::LMA,
        ..Registers::default()
    };
    registers.segments[segment::CS] = Segment::flat(0x10, Attr::CODE64);
    registers.gpr[4] = STACK;
    registers
}

/// Flat 32-bit protected mode without paging.
pub(crate) fn protected() -> Registers {
    let mut registers = long();
    registers.efer = 0;
    registers.segments[segment::CS] = Segment::flat(0x10, Attr::CODE32);
    registers
}

/// Real mode.
pub(crate) fn real() -> Registers {
    let mut registers = long();
    registers.efer = 0;
    registers.cr0 = 0;
    registers.segments = [Segment::real_mode(0x2000, Attr::DATA16); 6];
    registers.segments[segment::CS] = Segment::real_mode(0x1000, Attr::CODE16);
    registers.segments[segment::SS] = Segment::real_mode(0x3000, Attr::DATA16);
    registers.rip = 0;
    registers.gpr[4] = 0x100;
    registers
}

/// Runs one instruction without a hint.
pub(crate) fn step(machine: &mut Machine, registers: &mut Registers, code: &[u8]) -> Outcome {
    let at = registers.segments[segment::CS].base + registers.rip;
    let at = if registers.is_long() {
        registers.rip
    } else {
        at
    };
    machine.put(at, code);
    Emulator::new(CONFIG).run(machine, registers, &Hint::default())
}

/// Runs one instruction that must succeed.
pub(crate) fn run(machine: &mut Machine, registers: &mut Registers, code: &[u8]) {
    let outcome = step(machine, registers, code);
    assert_eq!(outcome, Outcome::Done { single_step: false }, "{code:02x?}");
}

/// Runs one instruction that must fault, and checks that it changed no register.
pub(crate) fn fault(machine: &mut Machine, registers: &Registers, code: &[u8]) -> Exception {
    let mut after = *registers;
    let outcome = step(machine, &mut after, code);
    let Outcome::Exception(exception) = outcome else {
        panic!("{code:02x?} gave {outcome:?}");
    };
    assert_eq!(after, *registers, "{code:02x?}");
    exception
}
