//! A part of a block device as a block device: addresses are moved, nothing outside is reached.

use crate::Partition;
use api::block::{BlockDevice, BlockError, Buffer, Compared, Completion, Durability, Geometry};

/// Blocks `first..first + blocks` of a device.
#[derive(Clone, Debug)]
pub struct Slice<D> {
    device: D,
    first: u64,
    blocks: u64,
}

impl<D: BlockDevice> Slice<D> {
    /// Makes the part that `partition` is.
    pub fn of(device: D, partition: &Partition) -> Self {
        Self {
            device,
            first: partition.first,
            blocks: partition.blocks,
        }
    }

    /// Makes a part that is all of the device, whatever size it has or gets.
    pub fn whole(device: D) -> Self {
        Self {
            device,
            first: 0,
            blocks: u64::MAX,
        }
    }

    /// Returns the device.
    pub const fn device(&self) -> &D {
        &self.device
    }

    /// Returns where `blocks` blocks from `lba` on lie on the device.
    fn place(&self, lba: u64, blocks: u64) -> Result<u64, BlockError> {
        let end = lba.checked_add(blocks).ok_or(BlockError::Invalid)?;
        if end > self.blocks {
            return Err(BlockError::Invalid);
        }
        self.first.checked_add(lba).ok_or(BlockError::Invalid)
    }

    /// As [`Self::place`] for a buffer.
    fn place_of(&self, lba: u64, buffer: &Buffer) -> Result<u64, BlockError> {
        let block = self.device.geometry().logical_block as usize;
        self.place(lba, buffer.len().div_ceil(block.max(1)) as u64)
    }

    /// Makes a block number of an error one of this part.
    fn moved<T>(&self, result: Result<T, BlockError>) -> Result<T, BlockError> {
        result.map_err(|error| match error {
            BlockError::Medium { lba } => BlockError::Medium {
                lba: lba.saturating_sub(self.first),
            },
            other => other,
        })
    }
}

impl<D: BlockDevice> BlockDevice for Slice<D> {
    fn geometry(&self) -> Geometry {
        let geometry = self.device.geometry();
        let left = geometry.blocks.saturating_sub(self.first);
        Geometry {
            blocks: self.blocks.min(left),
            ..geometry
        }
    }

    async fn read(&self, lba: u64, buffer: Buffer) -> Completion {
        let at = match self.place_of(lba, &buffer) {
            Ok(at) => at,
            Err(error) => return (buffer, Err(error)),
        };
        let (buffer, result) = self.device.read(at, buffer).await;
        (buffer, self.moved(result))
    }

    async fn write(&self, lba: u64, buffer: Buffer, durability: Durability) -> Completion {
        let at = match self.place_of(lba, &buffer) {
            Ok(at) => at,
            Err(error) => return (buffer, Err(error)),
        };
        let (buffer, result) = self.device.write(at, buffer, durability).await;
        (buffer, self.moved(result))
    }

    fn flush(&self) -> impl Future<Output = Result<(), BlockError>> {
        self.device.flush()
    }

    async fn discard(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        let at = self.place(lba, blocks)?;
        self.moved(self.device.discard(at, blocks).await)
    }

    async fn write_zeroes(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        let at = self.place(lba, blocks)?;
        self.moved(self.device.write_zeroes(at, blocks).await)
    }

    async fn compare_and_write(
        &self,
        lba: u64,
        expected: Buffer,
        new: Buffer,
    ) -> Result<Compared, BlockError> {
        let at = self.place_of(lba, &new)?;
        self.moved(self.device.compare_and_write(at, expected, new).await)
    }

    fn drain(&self) -> impl Future<Output = ()> {
        self.device.drain()
    }
}
