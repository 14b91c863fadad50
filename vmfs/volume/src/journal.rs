//! This host's journal: committing the running transaction, and writing committed images in place.
//!
//! A commit makes file data durable first, then the transaction; a checkpoint writes both copies of every committed
//! unit, makes them durable and then moves the tail. In memory nothing changes before the device has answered, so a
//! dropped future leaves the volume as it was.

use alloc::sync::Arc;
use alloc::vec::Vec;

use api::block::{BlockDevice, Buffer, Durability};
use zerocopy::byteorder::little_endian::U32;

use crate::disk::Disk;
use crate::error::Error;
use crate::format::{
    Bytes, Header, JournalHeader, TRANSACTION_BYTES_MAX, TransactionHead, UNIT, UNIT_BYTES,
    unit_crc,
};
use crate::layout::Layout;
use crate::record::{Draft, RECORD_BYTES_MAX};
use crate::together;
use crate::volume::{Host, Volume};

/// Most units that one write to their place covers.
const RUN_UNITS_MAX: usize = 256;
/// Such writes that are under way at a time, each to both copies.
const RUNS_AT_A_TIME: usize = 16;

/// Where this host's journal stands.
#[derive(Debug)]
pub(crate) struct Journal {
    slot: u16,
    tag: u64,
    /// Byte address of the header's unit.
    start: u64,
    ring: u64,
    /// Unit of the ring where the next transaction begins.
    position: u64,
    sequence: u64,
    /// Units between tail and position.
    used: u64,
    /// Most units that the transactions between may name.
    units_most: usize,
}

impl Journal {
    pub(crate) fn new(layout: &Layout, slot: u16, position: u64, sequence: u64) -> Self {
        Self {
            slot,
            tag: layout.tag,
            start: layout.journal(slot),
            ring: layout.ring_units(),
            position,
            sequence,
            used: 0,
            units_most: usize::try_from(layout.journal_units_max()).unwrap_or(usize::MAX),
        }
    }

    /// Keeps fewer units waiting for their places than the format allows.
    pub(crate) fn limit_units(&mut self, most: usize) {
        let least = self.units_max();
        self.units_most = self.units_most.min(most.max(least));
    }

    /// Returns the most units of one transaction: two of that size fit the ring, however much of them changed.
    pub(crate) fn units_max(&self) -> usize {
        let half = (self.ring / 2).saturating_mul(UNIT_BYTES);
        let bytes = half.min(u64::from(TRANSACTION_BYTES_MAX));
        let records = bytes.saturating_sub(size_of::<TransactionHead>() as u64);
        let most = records.checked_div(RECORD_BYTES_MAX as u64).unwrap_or(0);
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    const fn has_room(&self, units: u64) -> bool {
        self.used.saturating_add(units) <= self.ring
    }

    /// Returns the byte address of a unit of the ring.
    const fn at(&self, unit: u64) -> u64 {
        self.start
            .saturating_add(unit.saturating_add(1).saturating_mul(UNIT_BYTES))
    }

    const fn advance(&mut self, units: u64) {
        let end = self.position.saturating_add(units);
        self.position = if end >= self.ring {
            end.saturating_sub(self.ring)
        } else {
            end
        };
        self.used = self.used.saturating_add(units);
        self.sequence = self.sequence.saturating_add(1);
    }

    /// Writes a transaction and makes it durable.
    async fn write<D: BlockDevice>(&self, disk: &Disk<D>, bytes: Buffer) -> Result<(), Error> {
        let room = self
            .ring
            .saturating_sub(self.position)
            .saturating_mul(UNIT_BYTES);
        let split = usize::try_from(room).unwrap_or(usize::MAX);
        match bytes.split_at_checked(split) {
            Some((first, second)) if !second.is_empty() => {
                for (unit, part) in [(self.position, first), (0, second)] {
                    let buffer = Buffer::copied_from(part);
                    let (_, result) = disk.write(self.at(unit), buffer, Durability::Cached).await;
                    result?;
                }
                disk.flush().await?;
            }
            _ => {
                disk.write_durably(self.at(self.position), bytes).await?;
            }
        }
        Ok(())
    }

    /// Makes the header that says that the journal is empty.
    fn empty_header(&self) -> Buffer {
        let tail = u32::try_from(self.position).unwrap_or(0);
        let header = JournalHeader::new(self.tag, self.slot, tail, self.sequence);
        header_buffer(&header)
    }
}

/// Returns how many units of the ring some bytes take.
fn units_of(bytes: &Buffer) -> u64 {
    (bytes.len() as u64).div_ceil(UNIT_BYTES)
}

/// Puts a header into the unit that is written.
pub(crate) fn header_buffer(header: &JournalHeader) -> Buffer {
    let mut buffer = Buffer::zeroed(UNIT);
    let bytes = zerocopy::IntoBytes::as_bytes(header);
    if let Some(target) = buffer.get_mut(..bytes.len()) {
        target.copy_from_slice(bytes);
    }
    buffer
}

impl<H: Host> Volume<H> {
    /// Makes everything durable that was done so far, data and metadata.
    ///
    /// # Errors
    /// [`Error::Block`] if data could not be made durable; [`Error::Failed`] if metadata could not.
    pub async fn sync(&mut self) -> Result<(), Error> {
        self.begin().await?;
        self.commit().await
    }

    /// Commits the running transaction; without one, makes data durable.
    pub(crate) async fn commit(&mut self) -> Result<(), Error> {
        // Metadata must not say that blocks are written before they are. A flush that failed once tells nothing about
        // those writes when it succeeds the next time.
        let flushed = self.disk.flush().await;
        self.or_fail(flushed.map_err(Error::Block))?;
        if !self.cache.has_running() {
            return Ok(());
        }
        // The journal names no more units than whoever replays it keeps in memory.
        if self.cache.in_journal_with_running() > self.journal.units_most {
            self.write_in_place().await?;
        }
        let images = self.cache.running();
        let mut bytes = self.transaction(&images);
        if !self.journal.has_room(units_of(&bytes)) {
            self.write_in_place().await?;
            bytes = self.transaction(&images);
        }
        let units = units_of(&bytes);
        let written = self.journal.write(&self.disk, bytes).await;
        self.or_fail(written)?;
        self.journal.advance(units);
        self.cache.committed(images);
        self.allocator.committed();
        self.running_since = None;
        Ok(())
    }

    /// Lays the running transaction out as it is written: of units that the journal names already what changed since.
    fn transaction(&self, images: &[(u64, Arc<Bytes>)]) -> Buffer {
        let mut draft = Draft::new();
        for (address, image) in images {
            draft.add(*address, self.cache.in_journal(*address), image);
        }
        let journal = &self.journal;
        let mut bytes = draft.finish(journal.tag, journal.slot, journal.sequence);
        bytes.resize(bytes.len().next_multiple_of(UNIT), 0);
        Buffer::copied_from(&bytes)
    }

    /// Commits, writes everything in place and empties the journal.
    pub(crate) async fn checkpoint(&mut self) -> Result<(), Error> {
        self.commit().await?;
        self.write_in_place().await?;
        self.discard_freed().await
    }

    /// Writes committed images in place and moves the journal's tail behind them.
    async fn write_in_place(&mut self) -> Result<(), Error> {
        if !self.cache.has_committed() {
            return Ok(());
        }
        let written = self.write_images().await;
        self.or_fail(written)?;
        let header = self.journal.empty_header();
        let moved = self.disk.write_durably(self.journal.start, header).await;
        self.or_fail(moved.map_err(Error::Block))?;
        self.journal.used = 0;
        self.cache.written();
        Ok(())
    }

    async fn write_images(&self) -> Result<(), Error> {
        let images = self.cache.to_write();
        let runs: Vec<&[(u64, Arc<Bytes>)]> = images
            .chunk_by(|(one, _), (next, _)| one.saturating_add(1) == *next)
            .flat_map(|run| run.chunks(RUN_UNITS_MAX))
            .collect();
        // Their order does not matter: until the tail moves, the journal has all of them.
        for some in runs.chunks(RUNS_AT_A_TIME) {
            together::all(some.iter().map(|run| self.write_run(run))).await?;
        }
        self.disk.flush().await?;
        Ok(())
    }

    /// Writes both copies of units that follow each other.
    async fn write_run(&self, run: &[(u64, Arc<Bytes>)]) -> Result<(), Error> {
        let Some((address, _)) = run.first() else {
            return Ok(());
        };
        let mirror = self
            .layout
            .mirror(*address)
            .ok_or(Error::Damaged { address: *address })?;
        let mut buffer = Buffer::zeroed(run.len().saturating_mul(UNIT));
        for (target, (_, image)) in buffer.chunks_exact_mut(UNIT).zip(run) {
            target.copy_from_slice(&**image);
            let crc = U32::new(unit_crc(image));
            if let Some(target) = target.first_chunk_mut::<UNIT>() {
                Header::of_mut(target).crc = crc;
            }
        }
        for copy in [*address, mirror] {
            let at = copy.saturating_mul(UNIT_BYTES);
            let (back, result) = self.disk.write(at, buffer, Durability::Cached).await;
            result?;
            buffer = back;
        }
        Ok(())
    }

    /// Ends this mount if a write of metadata failed: what is in memory and what is on the disk may differ from now on.
    fn or_fail(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        if result.is_err() {
            self.failed = true;
            return Err(Error::Failed);
        }
        Ok(())
    }

    /// Tells the device what was freed, and makes it free for this host again.
    async fn discard_freed(&mut self) -> Result<(), Error> {
        while let Some((block, blocks)) = self.allocator.to_discard() {
            if self.settings.discard {
                let bytes = crate::format::BLOCK_BYTES;
                let at = block.saturating_mul(bytes);
                // A discard is a hint: a device that fails it keeps the old content, which nobody reads.
                let _hint = self.disk.discard(at, blocks.saturating_mul(bytes)).await;
            }
            self.allocator.discarded();
        }
        Ok(())
    }
}
