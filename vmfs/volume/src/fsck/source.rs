//! Where a check reads from: superblocks, journals, and both copies of units.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use api::block::{BlockDevice, BlockError};

use super::{Action, Checker, Finding};
use crate::error::Error;
use crate::format::{
    self, Bytes, Header, JournalHeader, MAGIC_SLOT, MAGIC_SUPERBLOCK, SUPERBLOCK_A, SUPERBLOCK_B,
    SlotUnit, TransactionHead, UNIT_BYTES,
};
use crate::mkfs;
use crate::record::Images;
use crate::replay::JournalReader;
use crate::volume::read_copy;

impl<D: BlockDevice> Checker<'_, D> {
    /// Checks both superblocks; a repair puts the good one in place of the other.
    pub(super) async fn check_superblocks(&mut self) -> Result<(), Error> {
        let mut good: [Option<Box<Bytes>>; 2] = [None, None];
        for (copy, (at, slot)) in [SUPERBLOCK_A, SUPERBLOCK_B]
            .into_iter()
            .zip(&mut good)
            .enumerate()
        {
            let bytes = self.read_raw(at / UNIT_BYTES).await?;
            let address = SUPERBLOCK_A / UNIT_BYTES;
            *slot = bytes.filter(|bytes| {
                format::check(bytes, Some(MAGIC_SUPERBLOCK), address, self.layout.tag).is_ok()
            });
            if slot.is_none() {
                let copy = u8::try_from(copy).unwrap_or(0);
                self.find(Finding::SuperblockCopy { copy });
            }
        }
        let [a, b] = good;
        let newest = match (a, b) {
            (Some(a), Some(b)) if a == b => return Ok(()),
            (Some(a), Some(b)) => {
                self.find(Finding::SuperblocksDiffer);
                // The layout in use is the first copy's.
                drop(b);
                Some(a)
            }
            (a, b) => a.or(b),
        };
        if let (Action::Repair, Some(newest)) = (self.action, newest) {
            for at in [SUPERBLOCK_A, SUPERBLOCK_B] {
                mkfs::write(self.disk, at, &newest).await?;
            }
        }
        Ok(())
    }

    /// Reads what stands in journals; a repair replays them.
    pub(super) async fn read_journals(&mut self) -> Result<(), Error> {
        for slot in 0..self.layout.slots {
            let slot = u16::try_from(slot).unwrap_or(u16::MAX);
            let sound = self.read_journal(slot).await?;
            if self.action == Action::Repair && sound {
                self.write_images().await?;
                self.reset_journal(slot).await?;
            }
        }
        Ok(())
    }

    /// Collects a journal's images; returns whether all of them can be.
    async fn read_journal(&mut self, slot: u16) -> Result<bool, Error> {
        let mut reader = match JournalReader::open(self.disk, self.layout, slot).await {
            Ok(reader) => reader,
            Err(Error::Damaged { .. } | Error::Block(BlockError::Medium { .. })) => {
                self.find(Finding::JournalHeader { slot });
                // Versions keep what is in place from being replaced by anything older, so all can be taken.
                return self.read_ring(slot).await.map(|()| true);
            }
            Err(error) => return Err(error),
        };
        let mut sound = true;
        let mut images = Images::new(self.layout.journal_units_max());
        while let Some(transaction) = reader.next().await? {
            self.report.transactions = self.report.transactions.saturating_add(1);
            let records = transaction.records();
            sound &= records.is_some();
            let address = self.layout.journal(slot) / UNIT_BYTES;
            if records.is_none() {
                self.find(Finding::JournalImage { slot, address });
            }
            for record in records.unwrap_or_default() {
                if !images.add(&record) {
                    sound = false;
                    let address = record.address;
                    self.find(Finding::JournalImage { slot, address });
                }
            }
        }
        for (address, mut image) in images.take() {
            format::seal(&mut image);
            if self.fits_its_place(address, &image) {
                self.take_image(address, image).await?;
            } else {
                sound = false;
                self.find(Finding::JournalImage { slot, address });
            }
        }
        Ok(sound)
    }

    /// Tells whether an image of a journal is one of the unit that it is said to be.
    fn fits_its_place(&self, address: u64, image: &Bytes) -> bool {
        self.layout.mirror(address).is_some()
            && format::check(image, None, address, self.layout.tag).is_ok()
    }

    /// Collects the images of every whole transaction in a ring whose header is lost.
    async fn read_ring(&mut self, slot: u16) -> Result<(), Error> {
        let mut found: BTreeMap<u64, u64> = BTreeMap::new();
        let start = self.layout.journal(slot) / UNIT_BYTES;
        for position in 0..self.layout.ring_units() {
            let at = start.saturating_add(1).saturating_add(position);
            if let Some(unit) = self.read_raw(at).await?
                && let Some(head) = TransactionHead::read_any(&unit, self.layout.tag, slot)
            {
                found.insert(head.sequence.get(), position);
            }
        }
        let mut images = Images::new(self.layout.journal_units_max());
        let mut before = None;
        for (sequence, position) in found {
            let mut reader = JournalReader::at(self.disk, self.layout, slot, position, sequence);
            let Some(transaction) = reader.next().await? else {
                continue;
            };
            // Behind a gap nothing can be built upon.
            if before.is_some_and(|before: u64| before.checked_add(1) != Some(sequence)) {
                self.take_images(&mut images).await?;
            }
            before = Some(sequence);
            for record in transaction.records().unwrap_or_default() {
                // What builds on a record that was overwritten is older than what is in place.
                let _known = images.add(&record);
            }
        }
        self.take_images(&mut images).await
    }

    async fn take_images(&mut self, images: &mut Images) -> Result<(), Error> {
        for (address, mut image) in images.take() {
            format::seal(&mut image);
            if self.fits_its_place(address, &image) {
                self.take_image(address, image).await?;
            }
        }
        Ok(())
    }

    /// Keeps an image if nothing newer is in place or was kept.
    async fn take_image(&mut self, address: u64, image: Box<Bytes>) -> Result<(), Error> {
        let version = |bytes: &Bytes| Header::of(bytes).version.get();
        let newest = match self.images.get(&address) {
            Some(kept) => version(kept),
            None => self.version_in_place(address).await?,
        };
        if version(&image) >= newest {
            self.images.insert(address, Arc::from(image));
        }
        Ok(())
    }

    async fn version_in_place(&self, address: u64) -> Result<u64, Error> {
        let mut newest = 0;
        for copy in [Some(address), self.layout.mirror(address)]
            .into_iter()
            .flatten()
        {
            if let Some(bytes) = self.read_raw(copy).await?
                && format::check(&bytes, None, address, self.layout.tag).is_ok()
            {
                newest = newest.max(Header::of(&bytes).version.get());
            }
        }
        Ok(newest)
    }

    async fn write_images(&mut self) -> Result<(), Error> {
        for (address, image) in core::mem::take(&mut self.images) {
            mkfs::write_unit(self.disk, self.layout, &image, address).await?;
        }
        self.disk.flush().await?;
        Ok(())
    }

    /// Empties a journal whose images are in place.
    async fn reset_journal(&mut self, slot: u16) -> Result<(), Error> {
        let mut sequence = 1;
        let start = self.layout.journal(slot) / UNIT_BYTES;
        for position in 0..=self.layout.ring_units() {
            let Some(unit) = self.read_raw(start.saturating_add(position)).await? else {
                continue;
            };
            let tag = self.layout.tag;
            let mut seen = JournalHeader::read(&*unit, tag, slot)
                .filter(|_| position == 0)
                .map(|header| header.sequence.get());
            if let (Some(head), Some(position)) = (
                TransactionHead::read_any(&unit, tag, slot),
                position.checked_sub(1),
            ) {
                let number = head.sequence.get();
                let mut reader = JournalReader::at(self.disk, self.layout, slot, position, number);
                if reader.next().await?.is_some() {
                    seen = number.checked_add(1);
                }
            }
            sequence = sequence.max(seen.unwrap_or(0));
        }
        let header = JournalHeader::new(self.layout.tag, slot, 0, sequence);
        let buffer = crate::journal::header_buffer(&header);
        self.disk
            .write_durably(self.layout.journal(slot), buffer)
            .await?;
        Ok(())
    }

    /// Reads what slots are to go on deleting.
    pub(super) async fn read_slot_units(&mut self) -> Result<(), Error> {
        for slot in 0..self.layout.slots {
            let slot = u16::try_from(slot).unwrap_or(u16::MAX);
            let address = self.layout.slot_unit(slot);
            let Some(bytes) = self.unit(address, Some(MAGIC_SLOT)).await? else {
                self.find(Finding::SlotUnit { slot });
                continue;
            };
            let unit = SlotUnit::of(&bytes);
            let count = usize::try_from(unit.count.get()).unwrap_or(usize::MAX);
            match unit.pending.get(..count) {
                Some(pending) if unit.slot.get() == u32::from(slot) => {
                    self.pending
                        .extend(pending.iter().map(|inode| (inode.get(), slot)));
                }
                _ => self.find(Finding::SlotUnit { slot }),
            }
        }
        Ok(())
    }

    /// Returns a unit if a copy of it can be believed.
    pub(super) async fn unit(
        &mut self,
        address: u64,
        magic: Option<[u8; 4]>,
    ) -> Result<Option<Arc<Bytes>>, Error> {
        let unit = self.newest_copy(address, magic).await?;
        if let Some(bytes) = &unit {
            self.newest = self.newest.max(Header::of(bytes).version.get());
        }
        Ok(unit)
    }

    /// Returns a unit if a copy of it can be believed. Findings about copies are reported here, and a repair makes both
    /// copies the newest one; that no copy is good is for the caller to report.
    async fn newest_copy(
        &mut self,
        address: u64,
        magic: Option<[u8; 4]>,
    ) -> Result<Option<Arc<Bytes>>, Error> {
        if let Some(image) = self.images.get(&address) {
            let fits = magic.is_none_or(|magic| Header::of(image).magic == magic);
            return Ok(fits.then(|| Arc::clone(image)));
        }
        let Some(mirror) = self.layout.mirror(address) else {
            return Ok(None);
        };
        let tag = self.layout.tag;
        let good = |bytes: &Bytes| format::check(bytes, magic, address, tag).is_ok();
        let a = self.read_raw(address).await?.filter(|bytes| good(bytes));
        let b = self.read_raw(mirror).await?.filter(|bytes| good(bytes));
        let (newest, finding) = match (a, b) {
            (None, None) => return Ok(None),
            (Some(a), Some(b)) if a == b => return Ok(Some(Arc::from(a))),
            (Some(a), Some(b)) => {
                let version = |bytes: &Bytes| Header::of(bytes).version.get();
                let newest = if version(&b) > version(&a) { b } else { a };
                (newest, Finding::UnitCopiesDiffer { address })
            }
            (Some(a), None) => (a, Finding::UnitCopy { address, copy: 1 }),
            (None, Some(b)) => (b, Finding::UnitCopy { address, copy: 0 }),
        };
        if !self.report.findings.contains(&finding) {
            self.find(finding);
        }
        if self.action == Action::Repair {
            mkfs::write_unit(self.disk, self.layout, &newest, address).await?;
        }
        Ok(Some(Arc::from(newest)))
    }

    /// Reads what stands at the address of a unit, `None` if the device cannot.
    pub(super) async fn read_raw(&self, address: u64) -> Result<Option<Box<Bytes>>, Error> {
        match read_copy(self.disk, address).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(BlockError::Medium { .. }) => Ok(None),
            Err(error) => Err(Error::Block(error)),
        }
    }
}
