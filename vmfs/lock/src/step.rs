//! The atomic step: replace the image of a cell if it still is what it was; and the three ways to do it.
//!
//! What images mean is not known here. A step is safe to repeat and safe to leave in the middle, given that every image
//! is written under a token of its own.

mod ballot;
mod compare;
mod local;
mod paxos;
mod seat;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use api::block::{BlockDevice, BlockError, Buffer, Durability};
use api::time::{Clock, HostInstant};
use spin::Mutex;

use crate::area::{Area, Backend, Cell};
use crate::error::LockError;
use crate::image::Image;
use crate::lease::Lease;

pub(crate) use self::seat::Seat;

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
    /// See [`Backend::Paxos`].
    Paxos(paxos::Paxos<D, C>),
}

impl<D: BlockDevice, C: Clock> Step<D, C> {
    pub(crate) fn new(device: D, clock: C, lease: Arc<Lease>, area: &Area) -> Self {
        let fenced = Fenced {
            device,
            clock,
            lease,
            late: Mutex::new(BTreeMap::new()),
            noted: AtomicU64::new(0),
        };
        match area.backend {
            Backend::CompareAndWrite => {
                Self::CompareAndWrite(compare::CompareAndWrite::new(fenced))
            }
            Backend::Local => Self::Local(local::Local::new(fenced)),
            Backend::Paxos => Self::Paxos(paxos::Paxos::new(fenced, area.slots)),
        }
    }
}

impl<D: BlockDevice, C: Clock> Step<D, C> {
    /// Returns the image of `cell` that is there to stay until the next swap.
    pub(crate) async fn settle(&self, cell: Cell) -> Result<Image, LockError> {
        match self {
            Self::Paxos(step) => step.settle(cell).await,
            Self::CompareAndWrite(_) | Self::Local(_) => Ok(self.load(cell).await?.image),
        }
    }

    /// Spares others from finding out that `image`, which the last swap on `cell` put there, is there to stay. Without
    /// it they find out, so what comes of this does not matter.
    pub(crate) async fn publish(&self, cell: Cell, image: &Image) {
        if let Self::Paxos(step) = self {
            let _ = step.publish(cell, image).await;
        }
    }
}

impl<D: BlockDevice, C: Clock> AtomicStep for Step<D, C> {
    async fn load_all(&self, first: Cell, stride: u32, count: u16) -> Result<Vec<Seen>, LockError> {
        match self {
            Self::CompareAndWrite(step) => step.load_all(first, stride, count).await,
            Self::Local(step) => step.load_all(first, stride, count).await,
            Self::Paxos(step) => step.load_all(first, stride, count).await,
        }
    }

    async fn load(&self, cell: Cell) -> Result<Seen, LockError> {
        match self {
            Self::CompareAndWrite(step) => step.load(cell).await,
            Self::Local(step) => step.load(cell).await,
            Self::Paxos(step) => step.load(cell).await,
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
            Self::Paxos(step) => step.swap(cell, expected, new, fence).await,
        }
    }
}

/// A device and the lease that its writes may need.
#[derive(Debug)]
pub(crate) struct Fenced<D, C> {
    device: D,
    clock: C,
    lease: Arc<Lease>,
    /// Blocks to which a write may still come late, and what it holds.
    late: Mutex<BTreeMap<u64, Late>>,
    /// Writes that were noted as late so far.
    noted: AtomicU64,
}

/// A write that may still come.
#[derive(Clone, Debug)]
struct Late {
    number: u64,
    head: Vec<u8>,
}

impl<D: BlockDevice, C: Clock> Fenced<D, C> {
    fn now(&self) -> HostInstant {
        self.clock.now()
    }

    async fn sleep(&self, nanos: u64) {
        self.clock
            .sleep_until(self.now().saturating_add(nanos))
            .await;
    }

    /// Writes a block that begins with `head`, durably, and again if the device does not answer. What is written
    /// later to the same block waits until no such write can come late any more, unless it is the same.
    async fn put(&self, lba: u64, head: &[u8], fence: Fence) -> Result<(), BlockError> {
        let same = self
            .late
            .lock()
            .get(&lba)
            .is_some_and(|late| late.head == head);
        if !same {
            self.wait_late(lba).await;
        }
        for _ in 0..TRIES {
            self.check(fence)?;
            match self.put_once(lba, head).await {
                Err(BlockError::TimedOut) => {}
                result => return result,
            }
        }
        Err(BlockError::TimedOut)
    }

    async fn put_once(&self, lba: u64, head: &[u8]) -> Result<(), BlockError> {
        let mut block = Buffer::zeroed(self.block_len());
        for (byte, &given) in block.iter_mut().zip(head) {
            *byte = given;
        }
        // Dropped in the middle it is as late as one that is not answered.
        let mut sent = Sent {
            fenced: self,
            lba,
            head,
            fate_unknown: true,
        };
        let (_, result) = self.device.write(lba, block, Durability::Fua).await;
        sent.fate_unknown = result == Err(BlockError::TimedOut);
        drop(sent);
        result
    }

    /// Waits until no write to block `lba` can come late any more.
    async fn wait_late(&self, lba: u64) {
        while self.late.lock().contains_key(&lba) {
            self.drain().await;
        }
    }

    /// Waits until no write at all can come late any more.
    async fn wait_all_late(&self) {
        while !self.late.lock().is_empty() {
            self.drain().await;
        }
    }

    async fn drain(&self) {
        let noted = self.noted.load(Ordering::Acquire);
        self.device.drain().await;
        self.late.lock().retain(|_, late| late.number > noted);
    }

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

    /// Reads `count` cells that are `stride` blocks apart, in as few requests as the device takes: per request the
    /// first cell and all blocks from there on.
    async fn read_cells(
        &self,
        first: Cell,
        stride: u32,
        count: u16,
    ) -> Result<Vec<(Cell, Buffer)>, LockError> {
        let max_blocks = self.device.geometry().max_blocks;
        let per_request = max_blocks.checked_div(stride).unwrap_or(1).max(1);
        let mut all = Vec::new();
        for done in (0..u32::from(count)).step_by(per_request as usize) {
            let cells = u32::from(count).saturating_sub(done).min(per_request);
            let offset = u64::from(done).saturating_mul(u64::from(stride));
            let cell = Cell(first.0.saturating_add(offset));
            let blocks = self.read(cell.0, cells.saturating_mul(stride)).await?;
            all.push((cell, blocks));
        }
        Ok(all)
    }

    /// Reads the images that begin `count` cells of one block.
    async fn read_images(
        &self,
        first: Cell,
        stride: u32,
        count: u16,
    ) -> Result<Vec<Seen>, LockError> {
        let stride = stride.max(1);
        let stride_len = self.block_len().saturating_mul(stride as usize);
        let mut seen = Vec::new();
        for (_, blocks) in self.read_cells(first, stride, count).await? {
            seen.extend(blocks.chunks(stride_len).map(|block| Seen {
                image: Image::from_block(block),
                settled: true,
            }));
        }
        Ok(seen)
    }

    fn note_late(&self, lba: u64, head: &[u8]) {
        let head = Vec::from(head);
        let mut late = self.late.lock();
        // Counted under the lock, so that whoever sees the number finds the entry.
        let before = self.noted.fetch_add(1, Ordering::AcqRel);
        let number = before.saturating_add(1);
        late.insert(lba, Late { number, head });
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

/// A write whose answer is awaited.
struct Sent<'a, D: BlockDevice, C: Clock> {
    fenced: &'a Fenced<D, C>,
    lba: u64,
    head: &'a [u8],
    fate_unknown: bool,
}

impl<D: BlockDevice, C: Clock> Drop for Sent<'_, D, C> {
    fn drop(&mut self) {
        if self.fate_unknown {
            self.fenced.note_late(self.lba, self.head);
        }
    }
}

/// Bytes of ballots and seats, for the test that compares them with their document.
#[cfg(test)]
pub(crate) mod format_samples {
    use alloc::vec::Vec;

    use super::ballot::Ballot;
    use super::seat;
    use crate::area::Cell;
    use crate::image::Image;

    /// A ballot with instance 51h, promise 61h, acceptance 71h, flagged as chosen.
    pub(crate) fn ballot(seat: u16, cell: Cell, image: &Image) -> Vec<u8> {
        let ballot = Ballot {
            instance: 0x51,
            promised: 0x61,
            accepted: 0x71,
            chosen: true,
            image: Some(image.clone()),
        };
        ballot.encode(seat, cell).to_vec()
    }

    /// A seat that is taken.
    pub(crate) fn seat(nonce: u64) -> Vec<u8> {
        seat::encode(nonce).to_vec()
    }
}
