//! The atomic step: replace the image of a cell if it still is what it was; and the three ways to do it.
//!
//! What images mean is not known here. A step is safe to repeat and safe to leave in the middle, given that every image
//! is written under a token of its own.

mod compare;
mod local;

use alloc::sync::Arc;
use alloc::vec::Vec;

use api::block::{BlockDevice, BlockError, Buffer};
use api::time::Clock;

use crate::area::{Area, Backend, Cell};
use crate::error::LockError;
use crate::image::Image;
use crate::lease::Lease;

/// How often a request that the device does not answer is made again.
const TRIES: u32 = 4;

/// How a swap ended.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a return value, never stored")]
pub(crate) enum Swap {
    /// The cell got the new image.
    Done,
    /// The cell holds this. Whether it held the new image in between must be judged by what this says.
    Found(Image),
}

/// What a load found.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The image.
    pub(crate) image: Image,
    /// No other image can turn out to have been there instead.
    pub(crate) settled: bool,
}

/// Whether a step needs the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    /// No write of it is sent after the deadline.
    Lease,
    /// Its writes harm nobody at any time, because they compare.
    None,
}

/// A way to change cells atomically.
pub(crate) trait AtomicStep {
    /// Reads the images of `count` cells, the first at `first`, `stride` blocks apart.
    async fn load_all(&self, first: Cell, stride: u32, count: u16) -> Result<Vec<Seen>, LockError>;

    /// Replaces the image `expected` of `cell` by `new`. After an error the fate of `new` is unknown, until another
    /// swap on the cell has ended otherwise.
    async fn swap(
        &self,
        cell: Cell,
        expected: &Image,
        new: &Image,
        fence: Fence,
    ) -> Result<Swap, LockError>;

    /// Reads the image of one cell.
    async fn load(&self, cell: Cell) -> Result<Seen, LockError> {
        let mut all = self.load_all(cell, 1, 1).await?;
        all.pop().ok_or(LockError::Corrupt { lba: cell.0 })
    }
}

/// The step of a volume's back-end.
#[derive(Debug)]
pub(crate) enum Step<D, C> {
    /// See [`Backend::CompareAndWrite`].
    CompareAndWrite(compare::CompareAndWrite<D, C>),
    /// See [`Backend::Local`].
    Local(local::Local<D, C>),
}

impl<D: BlockDevice, C: Clock> Step<D, C> {
    pub(crate) fn new(
        device: D,
        clock: C,
        lease: Arc<Lease>,
        area: &Area,
    ) -> Result<Self, LockError> {
        let fenced = Fenced {
            device,
            clock,
            lease,
        };
        match area.backend {
            Backend::CompareAndWrite => {
                Ok(Self::CompareAndWrite(compare::CompareAndWrite::new(fenced)))
            }
            Backend::Local => Ok(Self::Local(local::Local::new(fenced))),
            Backend::Paxos => Err(LockError::Unsupported),
        }
    }
}

impl<D: BlockDevice, C: Clock> AtomicStep for Step<D, C> {
    async fn load_all(&self, first: Cell, stride: u32, count: u16) -> Result<Vec<Seen>, LockError> {
        match self {
            Self::CompareAndWrite(step) => step.load_all(first, stride, count).await,
            Self::Local(step) => step.load_all(first, stride, count).await,
        }
    }

    async fn swap(
        &self,
        cell: Cell,
        expected: &Image,
        new: &Image,
        fence: Fence,
    ) -> Result<Swap, LockError> {
        match self {
            Self::CompareAndWrite(step) => step.swap(cell, expected, new, fence).await,
            Self::Local(step) => step.swap(cell, expected, new, fence).await,
        }
    }
}

/// A device and the lease that its writes may need.
#[derive(Debug)]
pub(crate) struct Fenced<D, C> {
    device: D,
    clock: C,
    lease: Arc<Lease>,
}

impl<D: BlockDevice, C: Clock> Fenced<D, C> {
    fn block_len(&self) -> usize {
        self.device.geometry().logical_block as usize
    }

    /// Fails if a write under `fence` may not be sent now.
    fn check(&self, fence: Fence) -> Result<(), BlockError> {
        let open = fence == Fence::None || self.lease.is_open(self.clock.now());
        open.then_some(()).ok_or(BlockError::Fenced)
    }

    /// Reads `count` blocks; asks again if the device does not answer.
    async fn read(&self, lba: u64, count: u32) -> Result<Buffer, BlockError> {
        let len = self.block_len().saturating_mul(count as usize);
        for _ in 0..TRIES {
            let (buffer, result) = self.device.read(lba, Buffer::zeroed(len)).await;
            match result {
                Ok(()) => return Ok(buffer),
                Err(BlockError::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
        Err(BlockError::TimedOut)
    }

    /// Reads the images that begin `count` cells of one block.
    async fn read_images(
        &self,
        first: Cell,
        stride: u32,
        count: u16,
    ) -> Result<Vec<Seen>, LockError> {
        let stride = stride.max(1);
        let max_blocks = self.device.geometry().max_blocks;
        let per_request = max_blocks.checked_div(stride).unwrap_or(1).max(1);
        let stride_len = self.block_len().saturating_mul(stride as usize);
        let mut seen = Vec::new();
        for done in (0..u32::from(count)).step_by(per_request as usize) {
            let cells = u32::from(count).saturating_sub(done).min(per_request);
            // The last cell's tail is not read: it may lie beyond the end of the device.
            let blocks = cells
                .saturating_sub(1)
                .saturating_mul(stride)
                .saturating_add(1);
            let offset = u64::from(done).saturating_mul(u64::from(stride));
            let buffer = self.read(first.0.saturating_add(offset), blocks).await?;
            seen.extend(buffer.chunks(stride_len).map(|block| Seen {
                image: Image::from_block(block),
                settled: true,
            }));
        }
        Ok(seen)
    }

    /// Makes the block that holds `image`.
    fn block_of(&self, image: &Image) -> Buffer {
        let mut block = Buffer::zeroed(self.block_len());
        for (byte, &imaged) in block.iter_mut().zip(image.as_bytes()) {
            *byte = imaged;
        }
        block
    }
}
