//! A queue for requests: a pair of rings, and for each slot a place for its list of pages.

use crate::PAGE;
use crate::command::Command;
use crate::queue::{Pair, Place};
use crate::start;
use alloc::sync::Arc;
use api::port::{Registers, SharedMemory};
use requests::{Answer, Operation, Queue, Request, TooLong};

/// Requests that can be in flight in a queue.
pub const SLOTS: u16 = 32;
/// Most pages of one request: what fits into a slot's list, and the first one.
pub const PAGES_MAX: usize = LIST_BYTES / 8 + 1;

/// Bytes of a slot's list of pages.
const LIST_BYTES: usize = 512;
/// Where everything is in a queue's memory.
pub(crate) const RINGS: Place = Place {
    submissions: 0,
    completions: PAGE,
};
const LISTS: usize = 2 * PAGE;
/// Bytes of shared memory that a queue needs, zeroed and page-aligned.
pub const QUEUE_BYTES: usize = LISTS + SLOTS as usize * LIST_BYTES;

/// A queue of a controller that runs.
#[derive(Debug)]
pub struct IoQueue<R, M> {
    registers: Arc<R>,
    memory: Arc<M>,
    pair: Pair,
    /// First blocks of the requests in the slots, for their errors.
    lbas: [u64; SLOTS as usize],
}

impl<R: Registers, M: SharedMemory> IoQueue<R, M> {
    pub(crate) const fn new(registers: Arc<R>, memory: Arc<M>, pair: Pair) -> Self {
        Self {
            registers,
            memory,
            pair,
            lbas: [0; SLOTS as usize],
        }
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

impl<R: Registers, M: SharedMemory> Queue for IoQueue<R, M> {
    fn slots(&self) -> u16 {
        SLOTS
    }

    fn submit(&mut self, slot: u16, request: &Request, pages: &[u64]) -> Result<(), TooLong> {
        if pages.len() > PAGES_MAX || request.blocks > 1 << 16 {
            return Err(TooLong);
        }
        if let Some(place) = self.lbas.get_mut(usize::from(slot)) {
            *place = request.lba;
        }
        let mut command = Command::new(request, slot);
        self.set_data(&mut command, request, slot, pages);
        self.pair.push(&*self.registers, &*self.memory, &command);
        Ok(())
    }

    fn complete(&mut self) -> Option<(u16, Answer)> {
        let done = self.pair.pop(&*self.registers, &*self.memory)?;
        let lba = self.lbas.get(usize::from(done.id)).copied().unwrap_or(0);
        Some((done.id, done.status.result(lba)))
    }

    fn is_gone(&self) -> bool {
        start::is_gone(&*self.registers)
    }
}
