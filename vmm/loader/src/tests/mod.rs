//! Tests of the loader as a whole: synthetic kernels of every format, the tables, and mutated files.

mod files;
mod formats;
mod fuzz;
mod tables;

use crate::{LoadError, Loaded, MachineShape, RamMap, Request, load};
use addr::Gpa;
use alloc::vec::Vec;
use api::fake::FakeMemory;
use api::memory::GuestMemory;

pub(crate) const RAM: u64 = 32 << 20;

pub(crate) fn machine(vcpus: u32) -> MachineShape {
    MachineShape {
        ram: RamMap::new(RAM).unwrap(),
        vcpus,
        has_keyboard_controller: false,
        has_vga: false,
    }
}

pub(crate) fn request(kernel: &[u8]) -> Request<'_> {
    Request {
        kernel,
        kernel_name: "kernel",
        command_line: "console=ttyS0 quiet",
        initrd: None,
        modules: &[],
        machine: machine(2),
    }
}

pub(crate) struct Guest {
    pub(crate) memory: FakeMemory,
    pub(crate) loaded: Loaded,
}

pub(crate) fn start(request: &Request<'_>) -> Result<Guest, LoadError> {
    let memory = FakeMemory::new(usize::try_from(request.machine.ram.low_end()).unwrap());
    let loaded = load(request, &memory)?;
    Ok(Guest { memory, loaded })
}

impl Guest {
    pub(crate) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = alloc::vec![0; len];
        self.memory.read(Gpa::new(at).unwrap(), &mut bytes).unwrap();
        bytes
    }

    pub(crate) fn u32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.bytes(at, 4).try_into().unwrap())
    }

    pub(crate) fn u64(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.bytes(at, 8).try_into().unwrap())
    }

    pub(crate) fn string(&self, at: u64) -> alloc::string::String {
        let bytes = self.bytes(at, 256);
        let end = bytes.iter().position(|b| *b == 0).unwrap();
        core::str::from_utf8(&bytes[..end]).unwrap().into()
    }
}
