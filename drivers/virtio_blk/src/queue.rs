//! A queue: a split ring (2.7) whose descriptors are slots, each with an indirect table, a header and a status.

use crate::{PAGE, SECTOR, Windows};
use alloc::sync::Arc;
use api::block::BlockError;
use api::port::{NarrowRegisters, SharedMemory};
use requests::{Answer, Operation, Queue, Request, TooLong};

/// Slots of a queue at most; a power of two.
pub(crate) const SLOTS_MAX: u16 = 32;
/// Most pages of one request.
pub const PAGES_MAX: usize = 64;
/// Where everything is in a queue's memory: descriptors, what is available, what is used, and the slots.
pub(crate) const DESCRIPTORS: usize = 0;
pub(crate) const AVAILABLE: usize = 512;
pub(crate) const USED: usize = 1024;
const SLOTS: usize = 2048;
/// In a slot: the indirect table, the header, the range of a discard, the status, an identifier.
const SLOT_BYTES: usize = 2048;
const TABLE_ENTRIES: usize = PAGES_MAX + 2;
const HEADER: usize = 16 * TABLE_ENTRIES;
const RANGE: usize = HEADER + 16;
const STATUS: usize = RANGE + 16;
const ANSWER: usize = STATUS + 4;
/// Bytes of shared memory that a queue needs, zeroed and page-aligned.
pub const QUEUE_BYTES: usize = SLOTS + SLOTS_MAX as usize * SLOT_BYTES;
const _: () =
    assert!(ANSWER + ID_BYTES <= SLOT_BYTES && USED + 4 + 8 * SLOTS_MAX as usize <= SLOTS);

/// Flags of descriptors (2.7.5).
const NEXT: u16 = 1;
const WRITTEN_BY_DEVICE: u16 = 2;
const INDIRECT: u16 = 4;
/// Kinds of requests (5.2.6).
const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
/// Statuses; the last is what a slot holds before the device has written one.
const OK: u8 = 0;
const UNSUPPORTED: u8 = 2;
const NO_STATUS: u8 = 0xff;
/// Bytes of a device's identifier.
pub(crate) const ID_BYTES: usize = 20;

/// A queue of a device that runs.
#[derive(Debug)]
pub struct BlkQueue<R, M> {
    windows: Arc<Windows<R>>,
    memory: Arc<M>,
    number: u16,
    /// Where it is notified.
    notify: u32,
    size: u16,
    /// Sectors of a block.
    sectors: u32,
    /// How many were made available, and how many answers were taken.
    available: u16,
    used: u16,
    /// The ring of available slots, as it was written.
    ring: [u16; SLOTS_MAX as usize],
    lbas: [u64; SLOTS_MAX as usize],
}

/// A part of a request's data: where, how long, and whether the device writes it.
type Part = (u64, u32, bool);

impl<R: NarrowRegisters, M: SharedMemory> BlkQueue<R, M> {
    pub(crate) const fn new(
        windows: Arc<Windows<R>>,
        memory: Arc<M>,
        number: u16,
        notify: u32,
        size: u16,
        block_bytes: u32,
    ) -> Self {
        Self {
            windows,
            memory,
            number,
            notify,
            size,
            sectors: block_bytes / SECTOR,
            available: 0,
            used: 0,
            ring: [0; SLOTS_MAX as usize],
            lbas: [0; SLOTS_MAX as usize],
        }
    }

    const fn slot(slot: u16) -> usize {
        SLOTS + slot as usize * SLOT_BYTES
    }

    fn bus(&self, offset: usize) -> u64 {
        self.memory.bus_address() + offset as u64
    }

    fn write_descriptor(&self, at: usize, part: Part, flags: u16, next: u16) {
        let (address, len, written) = part;
        let flags = flags | if written { WRITTEN_BY_DEVICE } else { 0 };
        let words = [
            address as u32,
            (address >> 32) as u32,
            len,
            u32::from(flags) | u32::from(next) << 16,
        ];
        for (at, word) in (at..).step_by(4).zip(words) {
            self.memory.write32(at, word);
        }
    }

    /// Gives the device the request in a slot: its kind, its sector and its data.
    fn give(&mut self, slot: u16, kind: u32, sector: u64, data: impl Iterator<Item = Part>) {
        let place = Self::slot(slot);
        let header = [kind, 0, sector as u32, (sector >> 32) as u32];
        for (at, word) in (place + HEADER..).step_by(4).zip(header) {
            self.memory.write32(at, word);
        }
        self.memory.write32(place + STATUS, u32::from(NO_STATUS));
        let header = (self.bus(place + HEADER), 16, false);
        let status = (self.bus(place + STATUS), 1, true);
        let mut entries = 0_u16;
        for part in [header].into_iter().chain(data) {
            let at = place + 16 * usize::from(entries);
            entries += 1;
            self.write_descriptor(at, part, NEXT, entries);
        }
        self.write_descriptor(place + 16 * usize::from(entries), status, 0, 0);
        let len = 16 * (u32::from(entries) + 1);
        let table = (self.bus(place), len, false);
        let at = DESCRIPTORS + 16 * usize::from(slot);
        self.write_descriptor(at, table, INDIRECT, 0);
        self.make_available(slot);
    }

    /// Puts a slot into the ring of available ones, two of which lie in a word, and tells the device.
    fn make_available(&mut self, slot: u16) {
        let place = usize::from(self.available % self.size);
        self.ring[place] = slot;
        let pair = place & !1;
        let word = u32::from(self.ring[pair]) | u32::from(self.ring[pair + 1]) << 16;
        self.memory.write32(AVAILABLE + 4 + pair * 2, word);
        self.available = self.available.wrapping_add(1);
        self.memory
            .write32(AVAILABLE, u32::from(self.available) << 16);
        self.windows.notify.0.write16(self.notify, self.number);
    }

    /// Takes the number of a slot out of the ring of used ones.
    fn take_used(&mut self) -> Option<u16> {
        let index = (self.memory.read32(USED) >> 16) as u16;
        if index == self.used {
            return None;
        }
        let place = usize::from(self.used % self.size);
        self.used = self.used.wrapping_add(1);
        let id = self.memory.read32(USED + 4 + 8 * place);
        // What is no slot is one that nobody has.
        Some(u16::try_from(id).unwrap_or(u16::MAX))
    }

    /// Asks for the device's identifier.
    pub(crate) fn ask_id(&mut self) {
        let at = self.bus(Self::slot(0) + ANSWER);
        self.give(0, GET_ID, 0, [(at, ID_BYTES as u32, true)].into_iter());
    }

    /// Returns the device's identifier if it has answered; `None` inside if it gives none.
    pub(crate) fn take_id(&mut self) -> Option<Option<[u8; ID_BYTES]>> {
        self.take_used()?;
        let place = Self::slot(0);
        if self.memory.read32(place + STATUS) as u8 != OK {
            return Some(None);
        }
        let mut id = [0; ID_BYTES];
        let from = place + ANSWER;
        for (at, chunk) in (from..).step_by(4).zip(id.chunks_exact_mut(4)) {
            chunk.copy_from_slice(&self.memory.read32(at).to_le_bytes());
        }
        Some(Some(id))
    }
}

impl<R: NarrowRegisters, M: SharedMemory> Queue for BlkQueue<R, M> {
    fn slots(&self) -> u16 {
        self.size
    }

    fn submit(&mut self, slot: u16, request: &Request, pages: &[u64]) -> Result<(), TooLong> {
        let bytes = u64::from(request.blocks) * u64::from(self.sectors * SECTOR);
        let has_data = matches!(request.operation, Operation::Read | Operation::Write { .. });
        if pages.len() > PAGES_MAX || has_data && bytes > (pages.len() * PAGE) as u64 {
            return Err(TooLong);
        }
        if let Some(lba) = self.lbas.get_mut(usize::from(slot)) {
            *lba = request.lba;
        }
        let sector = request.lba.wrapping_mul(u64::from(self.sectors));
        let reads = request.operation == Operation::Read;
        let lens = (0..pages.len() as u64).map(|n| {
            let left = bytes.saturating_sub(n * PAGE as u64);
            left.min(PAGE as u64) as u32
        });
        let data = pages
            .iter()
            .zip(lens)
            .map(|(page, len)| (*page, len, reads));
        match request.operation {
            Operation::Read => self.give(slot, READ, sector, data),
            Operation::Write { .. } => self.give(slot, WRITE, sector, data),
            Operation::Flush => self.give(slot, FLUSH, 0, core::iter::empty()),
            Operation::Discard | Operation::WriteZeroes => {
                let place = Self::slot(slot) + RANGE;
                let count = request.blocks.wrapping_mul(self.sectors);
                let words = [sector as u32, (sector >> 32) as u32, count, 0];
                for (at, word) in (place..).step_by(4).zip(words) {
                    self.memory.write32(at, word);
                }
                let range = (self.bus(place), 16, false);
                let kind = match request.operation {
                    Operation::Discard => DISCARD,
                    _ => WRITE_ZEROES,
                };
                self.give(slot, kind, 0, [range].into_iter());
            }
        }
        Ok(())
    }

    fn complete(&mut self) -> Option<(u16, Answer)> {
        let slot = self.take_used()?;
        let Some(lba) = self.lbas.get(usize::from(slot)) else {
            return Some((slot, Ok(())));
        };
        let answer = match self.memory.read32(Self::slot(slot) + STATUS) as u8 {
            OK => Ok(()),
            UNSUPPORTED => Err(BlockError::Unsupported),
            _ => Err(BlockError::Medium { lba: *lba }),
        };
        Some((slot, answer))
    }

    fn is_gone(&self) -> bool {
        crate::start::is_gone(&self.windows.common)
    }
}
