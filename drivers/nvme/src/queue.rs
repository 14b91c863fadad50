//! A pair of rings: commands to the controller, completions back (NVM Express 1.4, 4.1).

use crate::command::{COMMAND_BYTES, Command, Status};
use api::port::{Registers, SharedMemory};

/// Entries of each ring: a page of commands.
pub(crate) const ENTRIES: u16 = 64;
const COMPLETION_BYTES: usize = 16;
/// First doorbell register.
const DOORBELLS: u32 = 0x1000;

/// Where a pair's rings are in the shared memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) submissions: usize,
    pub(crate) completions: usize,
}

/// A completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) id: u16,
    pub(crate) status: Status,
    /// What the command returns.
    pub(crate) value: u32,
}

/// One pair. More commands than entries are never in flight: the callers' slots are fewer.
#[derive(Debug)]
pub(crate) struct Pair {
    place: Place,
    /// Doorbell of the commands; that of the completions follows.
    tail_doorbell: u32,
    head_doorbell: u32,
    tail: u16,
    head: u16,
    /// Phase bit of completions that are new.
    phase: bool,
}

impl Pair {
    /// Makes pair `number`; `stride` is the distance of two doorbells in bytes.
    pub(crate) const fn new(place: Place, number: u32, stride: u32) -> Self {
        Self {
            place,
            tail_doorbell: DOORBELLS + 2 * number * stride,
            head_doorbell: DOORBELLS + (2 * number + 1) * stride,
            tail: 0,
            head: 0,
            phase: true,
        }
    }

    /// Puts a command into the ring and tells the controller.
    pub(crate) fn push(
        &mut self,
        registers: &impl Registers,
        memory: &impl SharedMemory,
        command: &Command,
    ) {
        let at = self.place.submissions + usize::from(self.tail) * COMMAND_BYTES;
        for (at, word) in (at..).step_by(4).zip(command.0) {
            memory.write32(at, word);
        }
        self.tail = (self.tail + 1) % ENTRIES;
        registers.write32(self.tail_doorbell, u32::from(self.tail));
    }

    /// Takes the next completion out of the ring.
    pub(crate) fn pop(
        &mut self,
        registers: &impl Registers,
        memory: &impl SharedMemory,
    ) -> Option<Done> {
        let at = self.place.completions + usize::from(self.head) * COMPLETION_BYTES;
        let last = memory.read32(at + 12);
        if (last >> 16 & 1 != 0) != self.phase {
            return None;
        }
        self.head = (self.head + 1) % ENTRIES;
        if self.head == 0 {
            self.phase = !self.phase;
        }
        registers.write32(self.head_doorbell, u32::from(self.head));
        Some(Done {
            id: last as u16,
            status: Status((last >> 17) as u16),
            value: memory.read32(at),
        })
    }
}
