//! Host driver for NVM Express controllers (NVM Express Base Specification 1.4), as a state machine over ports.
//!
//! [`Controller::start`] brings the controller up and reads what its first namespace is; from then on
//! [`Controller::submit`] and [`Controller::complete`] move requests through one queue pair. Who waits for whom, and who
//! owns the data meanwhile, is the caller's.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod command;
mod identity;
mod queue;
mod start;
#[cfg(test)]
mod tests;

pub use command::{Operation, Request, Status};
pub use identity::Identity;
pub use start::StartError;

use api::port::{Registers, SharedMemory};
use command::Command;
use queue::{Pair, Place};

/// Bytes of a page as the controller counts them here.
pub const PAGE: usize = 4096;
/// Requests that can be in flight.
pub const SLOTS: u16 = 32;
/// Most pages of one request: what fits into a slot's list, and the first one.
pub const PAGES_MAX: usize = LIST_BYTES / 8 + 1;

/// Bytes of a slot's list of pages.
const LIST_BYTES: usize = 512;
/// Where everything is in the shared memory.
const ADMIN: Place = Place {
    submissions: 0,
    completions: PAGE,
};
const IO: Place = Place {
    submissions: 2 * PAGE,
    completions: 3 * PAGE,
};
const IDENTIFY: usize = 4 * PAGE;
const LISTS: usize = 5 * PAGE;
/// Bytes of shared memory that a controller needs, zeroed and page-aligned.
pub const SHARED_BYTES: usize = LISTS + SLOTS as usize * LIST_BYTES;

/// A controller that runs, and its first namespace.
#[derive(Debug)]
pub struct Controller<R, M> {
    registers: R,
    memory: M,
    io: Pair,
    /// A bit for each slot that was given out and not released.
    taken: u32,
    /// A bit for each slot whose command has no answer yet.
    sent: u32,
    identity: Identity,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// All slots are taken; try again after a release.
    Full,
    /// More pages than a request can have, or blocks than a command can name.
    TooLong,
}

impl<R: Registers, M: SharedMemory> Controller<R, M> {
    /// Returns what the controller said of itself and its namespace.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Hands a request over; `pages` are the bus addresses of its data, a page each, and stay the device's until the slot
    /// that is returned completes. The slot is the caller's until [`Self::release`].
    ///
    /// # Errors
    /// [`Refused`]; nothing was sent.
    pub fn submit(&mut self, request: &Request, pages: &[u64]) -> Result<u16, Refused> {
        if pages.len() > PAGES_MAX || request.blocks > 1 << 16 {
            return Err(Refused::TooLong);
        }
        let slot = (!self.taken).trailing_zeros() as u16;
        if slot >= SLOTS {
            return Err(Refused::Full);
        }
        let mut command = Command::new(request, slot);
        self.set_data(&mut command, request, slot, pages);
        self.taken |= 1 << slot;
        self.sent |= 1 << slot;
        self.io.push(&self.registers, &self.memory, &command);
        Ok(slot)
    }

    /// Returns a slot that completed since, if any, and how.
    pub fn complete(&mut self) -> Option<(u16, Status)> {
        loop {
            let done = self.io.pop(&self.registers, &self.memory)?;
            // What was never sent, or was answered already, is the device's mistake and nobody's answer.
            let is_ours = done.id < SLOTS && self.sent >> done.id & 1 != 0;
            if is_ours {
                self.sent &= !(1 << done.id);
                return Some((done.id, done.status));
            }
        }
    }

    /// Takes a slot back whose answer has been dealt with. One that the device still has stays taken.
    pub fn release(&mut self, slot: u16) {
        let bit = 1_u32.checked_shl(u32::from(slot)).unwrap_or(0);
        self.taken &= !bit | self.sent;
    }

    /// Tells the device where the data is (1.4, 4.3): one page, two, or a list in the slot's part of the shared memory.
    fn set_data(&self, command: &mut Command, request: &Request, slot: u16, pages: &[u64]) {
        let list = LISTS + usize::from(slot) * LIST_BYTES;
        let list_address = self.memory.bus_address() + list as u64;
        if request.operation == Operation::Discard {
            self.write_range(list, request);
            command.set_pages(list_address, 0);
            return;
        }
        match pages {
            [] => {}
            [only] => command.set_pages(*only, 0),
            [first, second] => command.set_pages(*first, *second),
            [first, rest @ ..] => {
                for (at, page) in (list..).step_by(8).zip(rest) {
                    self.memory.write32(at, *page as u32);
                    self.memory.write32(at + 4, (*page >> 32) as u32);
                }
                command.set_pages(*first, list_address);
            }
        }
    }

    /// Writes the one range of a dataset-management command (1.4, 6.7.1.1).
    fn write_range(&self, at: usize, request: &Request) {
        let words = [
            0,
            request.blocks,
            request.lba as u32,
            (request.lba >> 32) as u32,
        ];
        for (at, word) in (at..).step_by(4).zip(words) {
            self.memory.write32(at, word);
        }
    }
}
