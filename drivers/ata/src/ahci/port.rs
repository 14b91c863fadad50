//! A port that runs, as a queue.

use super::{bits, host, register};
use crate::PAGE;
use crate::command::{Command, RANGES_BYTES, ranges};
use alloc::sync::Arc;
use api::block::BlockError;
use api::port::{Registers, SharedMemory};
use requests::{Answer, Operation, Queue, Request, TooLong};

/// Command slots of a port at most.
const SLOTS: usize = 32;
/// Most pages of one request.
pub const PAGES_MAX: usize = 64;
/// Where everything is in a port's memory: the list of commands, what is received, and a table for each command with its
/// list of pages and the ranges of a discard.
pub(super) const COMMANDS: usize = 0;
pub(super) const RECEIVED: usize = 1024;
const TABLES: usize = PAGE;
const TABLE_BYTES: usize = 2048;
const PAGES: usize = 0x80;
const RANGES: usize = PAGES + 16 * PAGES_MAX;
/// Where a table has room for an answer.
pub(super) const ANSWER: usize = RANGES;
/// Bytes of shared memory that a port needs, zeroed and page-aligned.
pub const PORT_BYTES: usize = TABLES + SLOTS * TABLE_BYTES;
const _: () = assert!(RANGES + RANGES_BYTES <= TABLE_BYTES);

/// Looks at a port that is to stop: it takes as long as the current transfer on the link.
const STOP_LOOKS: u32 = 10_000;

/// Words of a register FIS and of a command header's length field (10.3.1, 4.2.2).
const FIS_WORDS: u32 = 5;
const HEADER_WRITES: u32 = 1 << 6;

/// A port with a disk that runs.
#[derive(Debug)]
pub struct Port<R, M> {
    pub(super) registers: Arc<R>,
    pub(super) memory: Arc<M>,
    pub(super) number: u32,
    pub(super) slots: u16,
    block_bytes: u32,
    /// A bit for each slot that the port has.
    sent: u32,
    /// Slots that have ended, and those of them that failed.
    ended: u32,
    failed: u32,
    lbas: [u64; SLOTS],
    /// Bytes that each slot's command moves.
    bytes: [u32; SLOTS],
}

impl<R: Registers, M: SharedMemory> Port<R, M> {
    pub(super) const fn new(
        registers: Arc<R>,
        memory: Arc<M>,
        number: u32,
        slots: u16,
        block_bytes: u32,
    ) -> Self {
        Self {
            registers,
            memory,
            number,
            slots,
            block_bytes,
            sent: 0,
            ended: 0,
            failed: 0,
            lbas: [0; SLOTS],
            bytes: [0; SLOTS],
        }
    }

    fn read(&self, register: u32) -> u32 {
        read(&*self.registers, self.number, register)
    }

    fn write(&self, register: u32, value: u32) {
        write(&*self.registers, self.number, register, value);
    }

    /// Notes what the port has ended; after an error, starts it again with what is left.
    fn look(&mut self) {
        let interrupts = self.read(register::INTERRUPTS);
        if interrupts == u32::MAX {
            return;
        }
        self.write(register::INTERRUPTS, interrupts);
        self.registers.write32(host::INTERRUPTS, 1 << self.number);
        let left = self.read(register::ISSUE);
        let ended = self.sent & !left;
        self.sent &= left;
        self.ended |= ended;
        if interrupts & bits::ERRORS != 0 && self.sent != 0 {
            self.recover();
        }
    }

    /// Ends the command at which the port stopped (6.2.2.1), and sends the others again, which it has not begun.
    fn recover(&mut self) {
        let control = self.read(register::CONTROL);
        let current = control >> 8 & 0x1f;
        self.write(register::CONTROL, control & !bits::START);
        let stopped = |_: &u32| self.read(register::CONTROL) & bits::RUNNING == 0;
        if (0..STOP_LOOKS).find(stopped).is_none() {
            // Whoever watches the time will reset it.
            return;
        }
        self.write(register::LINK_ERRORS, u32::MAX);
        self.write(register::INTERRUPTS, u32::MAX);
        let failed = (1 << current) & self.sent;
        self.sent &= !failed;
        self.ended |= failed;
        self.failed |= failed;
        self.write(register::CONTROL, control | bits::START);
        if self.sent != 0 {
            self.write(register::ISSUE, self.sent);
        }
    }
}

impl<R: Registers, M: SharedMemory> Queue for Port<R, M> {
    fn slots(&self) -> u16 {
        self.slots
    }

    fn submit(&mut self, slot: u16, request: &Request, pages: &[u64]) -> Result<(), TooLong> {
        let Some(command) = Command::new(request).filter(|_| pages.len() <= PAGES_MAX) else {
            return Err(TooLong);
        };
        let place = TABLES + usize::from(slot) * TABLE_BYTES;
        let mut moved = request.blocks * self.block_bytes;
        let entries = if request.operation == Operation::Discard {
            moved = RANGES_BYTES as u32;
            write_ranges(&*self.memory, place + RANGES, request);
            let at = self.memory.bus_address() + (place + RANGES) as u64;
            write_pages(&*self.memory, place, &[at], RANGES_BYTES)
        } else {
            write_pages(&*self.memory, place, pages, moved as usize)
        };
        write_command(&*self.memory, slot, &command, entries);
        if let Some(lba) = self.lbas.get_mut(usize::from(slot)) {
            *lba = request.lba;
        }
        if let Some(bytes) = self.bytes.get_mut(usize::from(slot)) {
            *bytes = moved;
        }
        self.sent |= 1 << slot;
        self.write(register::ISSUE, 1 << slot);
        Ok(())
    }

    fn complete(&mut self) -> Option<(u16, Answer)> {
        if self.ended == 0 {
            self.look();
        }
        let slot = self.ended.trailing_zeros();
        let bit = 1_u32.checked_shl(slot)?;
        self.ended &= !bit;
        let failed = self.failed & bit != 0;
        self.failed &= !bit;
        let lba = self.lbas.get(slot as usize).copied().unwrap_or(0);
        let bytes = self.bytes.get(slot as usize).copied().unwrap_or(0);
        // What a device moved less than it was asked to is as bad as an error that it tells.
        let moved = self.memory.read32(COMMANDS + slot as usize * 32 + 4);
        let answer = if failed || moved != bytes {
            Err(BlockError::Medium { lba })
        } else {
            Ok(())
        };
        Some((slot as u16, answer))
    }

    fn is_gone(&self) -> bool {
        let status = self.read(register::LINK_STATUS);
        status == u32::MAX || status & 0xf == 0
    }
}

/// Reads a register of a port.
pub(super) fn read(registers: &impl Registers, port: u32, register: u32) -> u32 {
    registers.read32(register::FIRST_PORT + port * register::PORT_BYTES + register)
}

/// Writes a register of a port.
pub(super) fn write(registers: &impl Registers, port: u32, register: u32, value: u32) {
    registers.write32(
        register::FIRST_PORT + port * register::PORT_BYTES + register,
        value,
    );
}

/// Writes a slot's header and its register FIS (4.2.2; Serial ATA 3.1, 10.3.4).
pub(super) fn write_command(
    memory: &impl SharedMemory,
    slot: u16,
    command: &Command,
    entries: u32,
) {
    const REGISTERS_TO_DEVICE: u32 = 0x27;
    const IS_COMMAND: u32 = 1 << 15;
    const LBA_MODE: u32 = 0x40 << 24;
    let table = TABLES + usize::from(slot) * TABLE_BYTES;
    let (low, high) = (
        (command.lba & 0xff_ffff) as u32,
        (command.lba >> 24 & 0xff_ffff) as u32,
    );
    let fis = [
        REGISTERS_TO_DEVICE
            | IS_COMMAND
            | u32::from(command.code) << 16
            | u32::from(command.features) << 24,
        low | LBA_MODE,
        high,
        u32::from(command.count),
        0,
    ];
    for (at, word) in (table..).step_by(4).zip(fis) {
        memory.write32(at, word);
    }
    let address = memory.bus_address() + table as u64;
    let writes = if command.writes { HEADER_WRITES } else { 0 };
    let header = [
        FIS_WORDS | writes | entries << 16,
        0,
        address as u32,
        (address >> 32) as u32,
    ];
    let at = COMMANDS + usize::from(slot) * 32;
    for (at, word) in (at..).step_by(4).zip(header) {
        memory.write32(at, word);
    }
}

/// Writes the list of pages of a table, which hold `bytes` bytes; returns how many entries it has (4.2.3.3).
pub(super) fn write_pages(
    memory: &impl SharedMemory,
    table: usize,
    pages: &[u64],
    bytes: usize,
) -> u32 {
    let mut left = bytes;
    let mut entries = 0;
    for (at, page) in (table + PAGES..).step_by(16).zip(pages) {
        let len = left.min(PAGE);
        if len == 0 {
            break;
        }
        left -= len;
        entries += 1;
        let words = [*page as u32, (*page >> 32) as u32, 0, len as u32 - 1];
        for (at, word) in (at..).step_by(4).zip(words) {
            memory.write32(at, word);
        }
    }
    entries
}

/// Returns where the list of pages of slot 0's table begins to be written.
pub(super) const fn first_table() -> usize {
    TABLES
}

fn write_ranges(memory: &impl SharedMemory, at: usize, request: &Request) {
    for offset in (0..RANGES_BYTES).step_by(4) {
        memory.write32(at + offset, 0);
    }
    for (at, range) in (at..).step_by(8).zip(ranges(request)) {
        memory.write32(at, range as u32);
        memory.write32(at + 4, (range >> 32) as u32);
    }
}
