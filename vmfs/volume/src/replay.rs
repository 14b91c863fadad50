//! Replaying a host's journal, by that host at its next mount or by any other once the host is dead.
//!
//! A replay writes the images of all whole transactions, oldest first, then moves the tail behind them. It can be
//! interrupted at any point and begun again by anyone: images are absolute, and no image replaces a newer one.

use alloc::boxed::Box;
use alloc::vec::Vec;

use api::block::{BlockDevice, Buffer, Durability};

use crate::disk::Disk;
use crate::error::Error;
use crate::format::{Bytes, Header, ImageRef, JournalHeader, TransactionUnit, UNIT_BYTES, check};
use crate::journal::header_buffer;
use crate::layout::Layout;
use crate::volume::read_copy;

/// What a replay found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Whole transactions.
    pub transactions: u64,
    /// Images that were written.
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

/// A transaction of a journal.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) images: Vec<(ImageRef, Box<Bytes>)>,
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
        let head = self.read_unit(self.position).await?;
        let Some(references) =
            TransactionUnit::images(&head, self.layout.tag, self.slot, self.sequence)
        else {
            return Ok(None);
        };
        let units = (references.len() as u64).saturating_add(1);
        if units > self.left {
            return Ok(None);
        }
        let mut images = Vec::with_capacity(references.len());
        let mut position = self.after(self.position);
        for reference in references {
            let image = self.read_unit(position).await?;
            if !TransactionUnit::is_image(&image, reference) {
                return Ok(None);
            }
            images.push((reference.clone(), image));
            position = self.after(position);
        }
        self.position = position;
        self.left = self.left.saturating_sub(units);
        self.sequence = self.sequence.saturating_add(1);
        Ok(Some(Transaction { images }))
    }

    const fn after(&self, position: u64) -> u64 {
        let next = position.saturating_add(1);
        if next >= self.layout.ring_units() {
            0
        } else {
            next
        }
    }

    async fn read_unit(&self, position: u64) -> Result<Box<Bytes>, Error> {
        let unit = position
            .saturating_add(1)
            .saturating_add(self.layout.journal(self.slot) / UNIT_BYTES);
        Ok(read_copy(self.disk, unit).await?)
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
    while let Some(transaction) = reader.next().await? {
        replayed.transactions = replayed.transactions.saturating_add(1);
        for (reference, image) in &transaction.images {
            if put(disk, layout, reference.address.get(), image).await? {
                replayed.images = replayed.images.saturating_add(1);
            }
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
            Err(api::block::BlockError::Medium { .. }) => false,
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
