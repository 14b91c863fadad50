//! Instructions that the CPU does not finish for us: memory-mapped devices, string port I/O, CR8 writes.

use crate::vm::vcpu::{Flow, VcpuWorld};
use addr::Gpa;
use alloc::format;

/// What the emulator keeps between exits.
#[derive(Debug, Default)]
pub(super) struct Emulation {}

impl VcpuWorld {
    /// Emulates the instruction at RIP; `hint` is the guest-physical address that an exit reported.
    pub(super) fn emulate(&mut self, hint: Option<Gpa>) -> Flow {
        self.stop(&format!("no emulator yet ({hint:?})"))
    }

    pub(super) fn write_cr8(&mut self) -> Flow {
        self.stop("cr8 write")
    }

    /// Returns the RIP behind the intercepted instruction, if it can be read.
    pub(super) fn next_rip(&mut self) -> Option<u64> {
        None
    }
}
