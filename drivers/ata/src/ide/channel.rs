//! A channel that runs, as a queue.

use super::{Place, bits, master, register};
use crate::PAGE;
use crate::command::{Command, RANGES_BYTES, ranges};
use alloc::sync::Arc;
use api::block::BlockError;
use api::port::{Ports, SharedMemory};
use requests::{Answer, Operation, Queue, Request, TooLong};

/// Most pages of one request.
pub const PAGES_MAX: usize = 64;
/// Where everything is in a channel's memory: the list of pages, and the ranges of a discard.
const TABLE: usize = 0;
const RANGES: usize = 1024;
/// Bytes of shared memory that a channel needs, zeroed, page-aligned and below 4 GiB.
pub const CHANNEL_BYTES: usize = PAGE;
const _: () = assert!(8 * PAGES_MAX <= RANGES && RANGES + RANGES_BYTES <= CHANNEL_BYTES);

/// The last entry of a list of pages.
const LAST: u32 = 1 << 31;
/// Looks at a device that is to take a command: it is idle, so it is ready at once.
const READY_LOOKS: u32 = 1_000;

/// The request that the device has.
#[derive(Clone, Copy, Debug)]
struct Sent {
    lba: u64,
    has_data: bool,
}

/// A channel with a disk that runs.
#[derive(Debug)]
pub struct Channel<P, M> {
    ports: Arc<P>,
    memory: Arc<M>,
    place: Place,
    block_bytes: u32,
    sent: Option<Sent>,
    /// The request could not even be given to the device.
    refused: bool,
}

impl<P: Ports, M: SharedMemory> Channel<P, M> {
    pub(super) const fn new(ports: Arc<P>, memory: Arc<M>, place: Place, block_bytes: u32) -> Self {
        Self {
            ports,
            memory,
            place,
            block_bytes,
            sent: None,
            refused: false,
        }
    }

    /// Writes the list of pages that hold `bytes` bytes; false if one is beyond what the controller can address.
    fn write_pages(&self, pages: &[u64], bytes: usize) -> bool {
        let mut left = bytes;
        for (at, page) in (TABLE..).step_by(8).zip(pages) {
            let len = left.min(PAGE);
            left -= len;
            let Ok(address) = u32::try_from(*page) else {
                return false;
            };
            let last = if left == 0 { LAST } else { 0 };
            self.memory.write32(at, address);
            self.memory.write32(at + 4, len as u32 | last);
            if left == 0 {
                return true;
            }
        }
        left == 0
    }

    fn write_ranges(&self, request: &Request) {
        for offset in (0..RANGES_BYTES).step_by(4) {
            self.memory.write32(RANGES + offset, 0);
        }
        for (at, range) in (RANGES..).step_by(8).zip(ranges(request)) {
            self.memory.write32(at, range as u32);
            self.memory.write32(at + 4, (range >> 32) as u32);
        }
    }

    /// Prepares the transfer; it starts when the command has been given.
    fn prepare(&self, to_memory: bool) {
        let table = self.memory.bus_address() + TABLE as u64;
        let at = |offset| self.place.bus_master + offset;
        self.ports.write8(at(master::COMMAND), direction(to_memory));
        let done = bits::MASTER_ERROR | bits::INTERRUPT;
        self.ports.write8(at(master::STATUS), done);
        self.ports.write32(at(master::TABLE), table as u32);
    }

    /// Ends the transfer; returns what the device says of it.
    fn finish(&self, sent: Sent, master_status: u8) -> Answer {
        let at = |offset| self.place.bus_master + offset;
        self.ports.write8(at(master::COMMAND), 0);
        let status = self.ports.read8(self.place.command + register::STATUS);
        let done = bits::MASTER_ERROR | bits::INTERRUPT;
        self.ports.write8(at(master::STATUS), done);
        let failed = status & (bits::ERROR | bits::FAULT | bits::DATA) != 0;
        // Active still: the device moved less than it was asked to.
        let short = sent.has_data && master_status & (bits::ACTIVE | bits::MASTER_ERROR) != 0;
        if failed || short {
            return Err(BlockError::Medium { lba: sent.lba });
        }
        Ok(())
    }
}

/// The bus master's command for a direction, not started.
const fn direction(to_memory: bool) -> u8 {
    if to_memory { bits::TO_MEMORY } else { 0 }
}

/// Gives the first device a command with a 48-bit address, once it is ready; false if that takes too long.
pub(super) fn give(ports: &impl Ports, place: &Place, command: &Command) -> bool {
    let at = |register| place.command + register;
    let is_ready = || ports.read8(place.control) & (bits::BUSY | bits::DATA) == 0;
    ports.write8(at(register::DEVICE), bits::FIRST_DEVICE);
    if !(0..READY_LOOKS).any(|_| is_ready()) {
        return false;
    }
    let lba = command.lba.to_le_bytes();
    let count = command.count.to_le_bytes();
    // Each register holds two bytes: the higher ones are written first.
    for (count, low, mid, high, features) in [
        (count[1], lba[3], lba[4], lba[5], 0),
        (count[0], lba[0], lba[1], lba[2], command.features),
    ] {
        ports.write8(at(register::FEATURES), features);
        ports.write8(at(register::COUNT), count);
        ports.write8(at(register::LBA_LOW), low);
        ports.write8(at(register::LBA_MID), mid);
        ports.write8(at(register::LBA_HIGH), high);
    }
    ports.write8(at(register::STATUS), command.code);
    true
}

impl<P: Ports, M: SharedMemory> Queue for Channel<P, M> {
    fn slots(&self) -> u16 {
        1
    }

    fn submit(&mut self, _slot: u16, request: &Request, pages: &[u64]) -> Result<(), TooLong> {
        let Some(command) = Command::new(request).filter(|_| pages.len() <= PAGES_MAX) else {
            return Err(TooLong);
        };
        let has_data = request.operation != Operation::Flush;
        let fits = match request.operation {
            Operation::Flush => true,
            Operation::Discard => {
                self.write_ranges(request);
                let at = self.memory.bus_address() + RANGES as u64;
                self.write_pages(&[at], RANGES_BYTES)
            }
            _ => self.write_pages(pages, request.blocks as usize * self.block_bytes as usize),
        };
        if !fits {
            return Err(TooLong);
        }
        self.prepare(!command.writes);
        self.refused = !give(&*self.ports, &self.place, &command);
        if has_data && !self.refused {
            let go = direction(!command.writes) | bits::START;
            self.ports
                .write8(self.place.bus_master + master::COMMAND, go);
        }
        self.sent = Some(Sent {
            lba: request.lba,
            has_data,
        });
        Ok(())
    }

    fn complete(&mut self) -> Option<(u16, Answer)> {
        let sent = self.sent?;
        if self.refused {
            // It was not ready: whoever watches the time resets it.
            return None;
        }
        let status = self.ports.read8(self.place.bus_master + master::STATUS);
        let busy = self.ports.read8(self.place.control) & bits::BUSY != 0;
        if status & bits::INTERRUPT == 0 || busy {
            return None;
        }
        self.sent = None;
        Some((0, self.finish(sent, status)))
    }

    fn is_gone(&self) -> bool {
        self.ports.read8(self.place.control) == bits::NOBODY
    }
}
