//! Fakes for tests: guest memory in a vector, an effects recorder, a disk in memory and a clock that is set by hand.

mod disk;

pub use disk::{FakeClock, FakeDisk, Faults, block_on};

use crate::device::{Effects, Gsi, MachineAction};
use crate::memory::{GuestMemory, MemoryError};
use addr::Gpa;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

/// Guest RAM from address 0, for tests.
#[derive(Debug)]
pub struct FakeMemory {
    bytes: RefCell<Vec<u8>>,
}

impl FakeMemory {
    /// Makes `len` bytes of zeroed RAM at address 0.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self {
            bytes: RefCell::new(vec![0; len]),
        }
    }

    fn range(&self, gpa: Gpa, len: usize) -> Result<core::ops::Range<usize>, MemoryError> {
        let unbacked = MemoryError::Unbacked { gpa, len };
        let start = usize::try_from(gpa.as_u64()).map_err(|_| unbacked)?;
        let end = start.checked_add(len).ok_or(unbacked)?;
        if end > self.bytes.borrow().len() {
            Err(unbacked)
        } else {
            Ok(start..end)
        }
    }
}

impl GuestMemory for FakeMemory {
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), MemoryError> {
        let range = self.range(gpa, buf.len())?;
        buf.copy_from_slice(&self.bytes.borrow()[range]);
        Ok(())
    }

    fn write(&self, gpa: Gpa, data: &[u8]) -> Result<(), MemoryError> {
        let range = self.range(gpa, data.len())?;
        self.bytes.borrow_mut()[range].copy_from_slice(data);
        Ok(())
    }
}

/// One recorded effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A line was driven.
    Irq(Gsi, bool),
    /// A machine action was requested.
    Action(MachineAction),
    /// A byte was emitted on a channel.
    Emit(u8, u8),
}

/// Records effects in order.
#[derive(Debug, Default)]
pub struct Recorder {
    /// What was recorded, oldest first.
    pub effects: Vec<Effect>,
}

impl Effects for Recorder {
    fn set_irq(&mut self, gsi: Gsi, level: bool) {
        self.effects.push(Effect::Irq(gsi, level));
    }

    fn request(&mut self, action: MachineAction) {
        self.effects.push(Effect::Action(action));
    }

    fn emit(&mut self, channel: u8, byte: u8) {
        self.effects.push(Effect::Emit(channel, byte));
    }
}
