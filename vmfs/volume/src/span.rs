//! A volume over several LUNs, as one device.
//!
//! Member 0 holds the volume's own superblock and all regions of hosts. Every further member holds a superblock that
//! only names it, and from its block 16 on blocks of the volume. Nothing is striped or copied: a volume with a missing
//! member is not opened.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use api::block::{BlockDevice, BlockError, Buffer, Compared, Completion, Durability, Geometry};
use spin::Mutex;
use zerocopy::byteorder::little_endian::{U32, U64};

use crate::disk::read_unit;
use crate::error::Error;
use crate::format::{
    self, BLOCK_BYTES, Bytes, Header, MAGIC_SUPERBLOCK, MEMBERS_MAX, Member, SUPERBLOCK_A,
    SUPERBLOCK_B, Superblock, UNIT_BYTES,
};
use crate::layout::{Layout, tag_of};

/// Blocks before the first block of the volume, on members other than 0.
pub const MEMBER_START: u64 = 16;

/// A LUN of a volume.
#[derive(Debug)]
struct Part<D> {
    device: D,
    uuid: [u8; 16],
    /// First byte of the volume that lies on it.
    start: u64,
    /// Where that byte is on the LUN. It reaches to the next member's first byte, the last one to its device's end.
    skip: u64,
}

/// The members of a volume, joined.
#[derive(Debug)]
pub struct Span<D> {
    /// By rising start. Held for a look only, never over a request.
    parts: Mutex<Vec<Arc<Part<D>>>>,
    /// Bytes of a logical block, of all members.
    sector: u32,
}

impl<D: BlockDevice> Span<D> {
    /// Joins the members of a volume, given in any order.
    ///
    /// # Errors
    /// [`Error::NotAVolume`] if a member is missing, there twice, or another volume's; the devices'.
    pub async fn open(devices: Vec<D>) -> Result<Self, Error> {
        let mut found: Vec<(Box<Bytes>, D)> = Vec::new();
        for device in devices {
            found.push((read_superblock(&device).await?, device));
        }
        found.sort_by_key(|(bytes, _)| Superblock::of(bytes).member.get());
        let first = found.first().ok_or(Error::NotAVolume)?.0.clone();
        let table = Superblock::of(&first);
        let count = usize::try_from(table.member_count.get()).map_err(|_| Error::NotAVolume)?;
        if count != found.len() || count > MEMBERS_MAX {
            return Err(Error::NotAVolume);
        }
        let mut parts = Vec::new();
        for ((bytes, device), (index, member)) in
            found.into_iter().zip(table.members.iter().enumerate())
        {
            let superblock = Superblock::of(&bytes);
            let own = superblock.members.get(index).map(|own| own.uuid);
            let good = usize::try_from(superblock.member.get()) == Ok(index)
                && superblock.uuid == table.uuid
                && own == Some(member.uuid)
                && device.geometry().logical_block == table.logical_block.get();
            if !good {
                return Err(Error::NotAVolume);
            }
            parts.push(Arc::new(part(device, index, member)));
        }
        let rising = parts
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a.start < b.start));
        if !rising || parts.first().is_none_or(|part| part.start != 0) {
            return Err(Error::NotAVolume);
        }
        Ok(Self {
            parts: Mutex::new(parts),
            sector: table.logical_block.get(),
        })
    }

    /// Adds a LUN behind the others and names it as a member; it counts from the next [`crate::Volume::grow`] on. The
    /// volume's layout tells where its blocks end now.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if its logical block differs or there are 32 members; the devices'.
    pub async fn add(&self, device: D, uuid: [u8; 16], layout: &Layout) -> Result<(), Error> {
        let index = self.parts.lock().len();
        let first = self
            .parts
            .lock()
            .first()
            .cloned()
            .ok_or(Error::NotAVolume)?;
        if device.geometry().logical_block != layout.logical_block || index >= MEMBERS_MAX {
            return Err(Error::Unsupported);
        }
        let mut bytes = read_superblock(&first.device).await?;
        let superblock = Superblock::of_mut(&mut bytes);
        let member = Member {
            uuid,
            first_block: U64::new(layout.end_block()),
            blocks: U64::new(0),
        };
        superblock.member = U32::new(u32::try_from(index).unwrap_or(u32::MAX));
        if let Some(slot) = superblock.members.get_mut(index) {
            *slot = member.clone();
        }
        format::seal(&mut bytes);
        for at in [SUPERBLOCK_A, SUPERBLOCK_B] {
            let sector = u64::from(layout.logical_block);
            let lba = at.checked_div(sector).unwrap_or(0);
            let (_, result) = device
                .write(lba, Buffer::copied_from(&*bytes), Durability::Cached)
                .await;
            result?;
        }
        device.flush().await?;
        self.parts
            .lock()
            .push(Arc::new(part(device, index, &member)));
        Ok(())
    }

    /// Returns the table of members for a volume that ends at block `end`.
    #[must_use]
    pub fn members(&self, end: u64) -> Vec<Member> {
        let parts = self.parts.lock();
        let ends = parts.iter().skip(1).map(|part| part.start / BLOCK_BYTES);
        parts
            .iter()
            .zip(ends.chain([end]))
            .map(|(part, end)| Member {
                uuid: part.uuid,
                first_block: U64::new(part.start / BLOCK_BYTES),
                blocks: U64::new(end.saturating_sub(part.start / BLOCK_BYTES)),
            })
            .collect()
    }
}

fn part<D>(device: D, index: usize, member: &Member) -> Part<D> {
    Part {
        device,
        uuid: member.uuid,
        start: member.first_block.get().saturating_mul(BLOCK_BYTES),
        skip: if index == 0 {
            0
        } else {
            MEMBER_START.saturating_mul(BLOCK_BYTES)
        },
    }
}

/// Reads a LUN's superblock, the second copy if the first is damaged.
async fn read_superblock<D: BlockDevice>(device: &D) -> Result<Box<Bytes>, Error> {
    for at in [SUPERBLOCK_A, SUPERBLOCK_B] {
        let bytes = read_unit(device, at).await?;
        let tag = tag_of(&Superblock::of(&bytes).uuid);
        let address = SUPERBLOCK_A / UNIT_BYTES;
        if Header::of(&bytes).magic == MAGIC_SUPERBLOCK
            && format::check(&bytes, Some(MAGIC_SUPERBLOCK), address, tag).is_ok()
        {
            return Ok(bytes);
        }
    }
    Err(Error::NotAVolume)
}

impl<D: BlockDevice> Span<D> {
    /// Returns the member that a request lies on, and its first block there.
    fn route(&self, lba: u64, bytes: u64) -> Result<(Arc<Part<D>>, u64), BlockError> {
        let parts = self.parts.lock();
        let sector = u64::from(self.sector);
        let at = lba.checked_mul(sector).ok_or(BlockError::Invalid)?;
        let end = at.checked_add(bytes).ok_or(BlockError::Invalid)?;
        let after = parts.partition_point(|part| part.start <= at);
        let part = after
            .checked_sub(1)
            .and_then(|index| parts.get(index))
            .ok_or(BlockError::Invalid)?;
        // Clusters lie on one member each, and so does every request for one.
        if parts.get(after).is_some_and(|next| end > next.start) {
            return Err(BlockError::Invalid);
        }
        let there = at.saturating_sub(part.start).saturating_add(part.skip);
        Ok((Arc::clone(part), there.checked_div(sector).unwrap_or(0)))
    }

    fn blocks_bytes(&self, blocks: u64) -> u64 {
        blocks.saturating_mul(u64::from(self.sector))
    }

    fn all(&self) -> Vec<Arc<Part<D>>> {
        self.parts.lock().clone()
    }
}

impl<D: BlockDevice> BlockDevice for Span<D> {
    fn geometry(&self) -> Geometry {
        let parts = self.parts.lock();
        let sector = u64::from(self.sector);
        let mut all = Geometry {
            logical_block: self.sector,
            physical_block: 0,
            blocks: 0,
            max_blocks: u32::MAX,
            volatile_cache: false,
            fua: true,
            discard: false,
            compare_and_write_blocks: 0,
        };
        for part in parts.iter() {
            let one = part.device.geometry();
            let bytes = part
                .start
                .saturating_add(one.bytes().saturating_sub(part.skip));
            all.blocks = bytes.checked_div(sector).unwrap_or(0);
            all.physical_block = all.physical_block.max(one.physical_block);
            all.max_blocks = all.max_blocks.min(one.max_blocks);
            all.volatile_cache |= one.volatile_cache;
            all.fua &= one.fua;
            all.discard |= one.discard;
        }
        // Slots lie on member 0, locks on every one.
        let compares = parts
            .iter()
            .map(|part| part.device.geometry().compare_and_write_blocks);
        all.compare_and_write_blocks = compares.min().unwrap_or(0);
        all
    }

    async fn read(&self, lba: u64, buffer: Buffer) -> Completion {
        match self.route(lba, buffer.len() as u64) {
            Ok((part, there)) => part.device.read(there, buffer).await,
            Err(error) => (buffer, Err(error)),
        }
    }

    async fn write(&self, lba: u64, buffer: Buffer, durability: Durability) -> Completion {
        match self.route(lba, buffer.len() as u64) {
            Ok((part, there)) => part.device.write(there, buffer, durability).await,
            Err(error) => (buffer, Err(error)),
        }
    }

    async fn flush(&self) -> Result<(), BlockError> {
        for part in self.all() {
            part.device.flush().await?;
        }
        Ok(())
    }

    async fn discard(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        let (part, there) = self.route(lba, self.blocks_bytes(blocks))?;
        if part.device.geometry().discard {
            part.device.discard(there, blocks).await?;
        }
        Ok(())
    }

    async fn write_zeroes(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        let (part, there) = self.route(lba, self.blocks_bytes(blocks))?;
        part.device.write_zeroes(there, blocks).await
    }

    async fn compare_and_write(
        &self,
        lba: u64,
        expected: Buffer,
        new: Buffer,
    ) -> Result<Compared, BlockError> {
        let (part, there) = self.route(lba, new.len() as u64)?;
        part.device.compare_and_write(there, expected, new).await
    }

    async fn drain(&self) {
        for part in self.all() {
            part.device.drain().await;
        }
    }
}
