//! Replaying a host's journal, by that host at its next mount or by any other once the host is dead.
//!
//! A replay puts together what all whole transactions say of units, writes the units, then moves the tail behind the
//! transactions. It can be interrupted at any point and begun again by anyone: units come out of the journal alone, and
//! none replaces a newer one.

use alloc::vec::Vec;

use api::block::{BlockDevice, BlockError, Buffer, Durability};

use crate::disk::Disk;
use crate::error::Error;
use crate::format::{self, Bytes, Header, JournalHeader, TransactionHead, UNIT_BYTES, check};
use crate::journal::header_buffer;
use crate::layout::Layout;
use crate::record::{Images, Record, records};
use crate::volume::read_copy;

/// What a replay found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Whole transactions.
    pub transactions: u64,
    /// Units that were written.
    pub images: u64,
    /// Unit of the ring where the next transaction begins.
    pub position: u64,
    /// Its sequence number.
    pub sequence: u64,
}

/// Replays the journal of a slot whose host is dead or is this one before it mounts; `layout` is of [`crate::probe`].
///
/// # Errors
/// The device's; [`Error::Damaged`] if the journal's header is unreadable, which only fsck may overrule.
pub async fn replay<D: BlockDevice>(
    device: D,
    layout: &Layout,
    slot: u16,
) -> Result<Replayed, Error> {
    replay_on(&Disk::new(device), layout, slot).await
}

/// A transaction of a journal, whole by its checksum.
#[derive(Debug)]
pub(crate) struct Transaction {
    head: TransactionHead,
    bytes: Buffer,
}

impl Transaction {
    /// Returns what it says of units; `None` if that makes no sense.
    pub(crate) fn records(&self) -> Option<Vec<Record<'_>>> {
        let len = usize::try_from(self.head.bytes.get()).ok()?;
        records(&self.head, self.bytes.get(..len)?)
    }
}

/// Reads the transactions of a journal, one by one.
#[derive(Debug)]
pub(crate) struct JournalReader<'a, D> {
    disk: &'a Disk<D>,
    layout: &'a Layout,
    slot: u16,
    pub(crate) position: u64,
    pub(crate) sequence: u64,
    /// Units of the ring not looked at yet.
    left: u64,
}

impl<'a, D: BlockDevice> JournalReader<'a, D> {
    /// Opens a slot's journal.
    pub(crate) async fn open(
        disk: &'a Disk<D>,
        layout: &'a Layout,
        slot: u16,
    ) -> Result<Self, Error> {
        let at = layout.journal(slot);
        let damaged = Error::Damaged {
            address: at / UNIT_BYTES,
        };
        let bytes = read_copy(disk, at / UNIT_BYTES).await?;
        let header = JournalHeader::read(&*bytes, layout.tag, slot).ok_or(damaged)?;
        let position = u64::from(header.tail.get());
        if position >= layout.ring_units() {
            return Err(damaged);
        }
        Ok(Self {
            disk,
            layout,
            slot,
            position,
            sequence: header.sequence.get(),
            left: layout.ring_units(),
        })
    }

    /// Begins at a place of the ring where a transaction of that number stands.
    pub(crate) const fn at(
        disk: &'a Disk<D>,
        layout: &'a Layout,
        slot: u16,
        position: u64,
        sequence: u64,
    ) -> Self {
        Self {
            disk,
            layout,
            slot,
            position,
            sequence,
            left: layout.ring_units(),
        }
    }

    /// Returns the next whole transaction, `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Transaction>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        let first = self.read_units(self.position, 1).await?;
        let head = first.first_chunk().and_then(|unit| {
            TransactionHead::read(unit, self.layout.tag, self.slot, self.sequence)
        });
        let Some(head) = head.filter(|head| head.units() <= self.left) else {
            return Ok(None);
        };
        let units = head.units();
        let bytes = if units == 1 {
            first
        } else {
            self.read_units(self.position, units).await?
        };
        let len = usize::try_from(head.bytes.get()).unwrap_or(usize::MAX);
        if !bytes.get(..len).is_some_and(|bytes| head.is_whole(bytes)) {
            return Ok(None);
        }
        self.position = self.after(self.position, units);
        self.left = self.left.saturating_sub(units);
        self.sequence = self.sequence.saturating_add(1);
        Ok(Some(Transaction { head, bytes }))
    }

    const fn after(&self, position: u64, units: u64) -> u64 {
        let next = position.saturating_add(units);
        let ring = self.layout.ring_units();
        if next >= ring {
            next.saturating_sub(ring)
        } else {
            next
        }
    }

    /// Reads units of the ring, which wraps.
    async fn read_units(&self, position: u64, units: u64) -> Result<Buffer, Error> {
        let straight = self.layout.ring_units().saturating_sub(position).min(units);
        let first = self.read_straight(position, straight).await?;
        if straight == units {
            return Ok(first);
        }
        let second = self
            .read_straight(0, units.saturating_sub(straight))
            .await?;
        let mut both = Buffer::zeroed(first.len().saturating_add(second.len()));
        for (target, source) in both.iter_mut().zip(first.iter().chain(&*second)) {
            *target = *source;
        }
        Ok(both)
    }

    async fn read_straight(&self, position: u64, units: u64) -> Result<Buffer, Error> {
        let unit = position.saturating_add(1);
        let start = self.layout.journal(self.slot);
        let at = start.saturating_add(unit.saturating_mul(UNIT_BYTES));
        let len = usize::try_from(units.saturating_mul(UNIT_BYTES));
        let buffer = Buffer::zeroed(len.map_err(|_| BlockError::Invalid)?);
        let (buffer, result) = self.disk.read(at, buffer).await;
        result?;
        Ok(buffer)
    }
}

pub(crate) async fn replay_on<D: BlockDevice>(
    disk: &Disk<D>,
    layout: &Layout,
    slot: u16,
) -> Result<Replayed, Error> {
    let mut reader = JournalReader::open(disk, layout, slot).await?;
    let mut replayed = Replayed {
        transactions: 0,
        images: 0,
        position: 0,
        sequence: 0,
    };
    let mut images = Images::new(layout.journal_units_max());
    while let Some(transaction) = reader.next().await? {
        replayed.transactions = replayed.transactions.saturating_add(1);
        let at = layout.journal(slot) / UNIT_BYTES;
        for record in transaction
            .records()
            .ok_or(Error::Damaged { address: at })?
        {
            if !images.add(&record) {
                let address = record.address;
                return Err(Error::Damaged { address });
            }
        }
    }
    for (address, mut image) in images.take() {
        format::seal(&mut image);
        if put(disk, layout, address, &image).await? {
            replayed.images = replayed.images.saturating_add(1);
        }
    }
    replayed.position = reader.position;
    replayed.sequence = reader.sequence;
    if replayed.transactions > 0 {
        disk.flush().await?;
        let tail = u32::try_from(replayed.position).unwrap_or(0);
        let header = JournalHeader::new(layout.tag, slot, tail, replayed.sequence);
        disk.write_durably(layout.journal(slot), header_buffer(&header))
            .await?;
    }
    Ok(replayed)
}

/// Writes an image in place, each copy unless it is newer already.
async fn put<D: BlockDevice>(
    disk: &Disk<D>,
    layout: &Layout,
    address: u64,
    image: &Bytes,
) -> Result<bool, Error> {
    // A reference to no unit's place is damage; writing there could destroy data.
    let mirror = layout.mirror(address).ok_or(Error::Damaged { address })?;
    if check(image, None, address, layout.tag).is_err() {
        return Err(Error::Damaged { address });
    }
    let mut wrote = false;
    for copy in [address, mirror] {
        let newer = match read_copy(disk, copy).await {
            Ok(old) => {
                check(&old, None, address, layout.tag).is_ok()
                    && Header::of(&old).version.get() > Header::of(image).version.get()
            }
            Err(BlockError::Medium { .. }) => false,
            Err(error) => return Err(Error::Block(error)),
        };
        if newer {
            continue;
        }
        let at = copy.saturating_mul(UNIT_BYTES);
        let buffer = Buffer::copied_from(image);
        let (_, result) = disk.write(at, buffer, Durability::Cached).await;
        result?;
        wrote = true;
    }
    Ok(wrote)
}
