//! Block devices: what the datastore, partitions and virtual disks ask of whatever stores their blocks.
//!
//! A buffer moves into the request and comes back with its completion, so dropping a future never frees memory that a
//! device may still write. Scatter lists of guest frames join with the first driver that can take them.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec;
use core::fmt;
use core::future::Future;
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of one page of a [`Buffer`].
pub const PAGE: usize = 4096;

/// One page, aligned as devices want it.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// Memory of a request: whole pages, page-aligned, of which the first [`Buffer::len`] bytes count.
#[derive(Clone)]
pub struct Buffer {
    pages: Box<[Page]>,
    len: usize,
}

impl Buffer {
    /// Makes a buffer of `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let pages = vec![Page([0; PAGE]); len.div_ceil(PAGE)].into_boxed_slice();
        Self { pages, len }
    }

    /// Makes a buffer that holds a copy of `bytes`.
    #[must_use]
    pub fn copied_from(bytes: &[u8]) -> Self {
        let mut buffer = Self::zeroed(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// Returns the length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Tells whether the buffer holds no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl core::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.pages.as_bytes().get(..self.len).unwrap_or(&[])
    }
}

impl core::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.pages
            .as_mut_bytes()
            .get_mut(..self.len)
            .unwrap_or(&mut [])
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

/// What a device is and can do. Lengths are in bytes, counts in logical blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a logical block, the unit of addresses: 512 or 4096.
    pub logical_block: u32,
    /// Bytes of a physical block: writes of this size and alignment are not torn, and cost no read in the device.
    pub physical_block: u32,
    /// Number of logical blocks.
    pub blocks: u64,
    /// Most blocks of one request.
    pub max_blocks: u32,
    /// Acknowledged writes may be lost with power until a flush; otherwise they are durable at once.
    pub volatile_cache: bool,
    /// A write can be made durable by itself ([`Durability::Fua`]); otherwise the device object flushes behind it.
    pub fua: bool,
    /// [`BlockDevice::discard`] frees blocks; otherwise it does nothing.
    pub discard: bool,
    /// [`BlockDevice::compare_and_write`] works on this many blocks at most; 0 where the device has none.
    pub compare_and_write_blocks: u32,
}

impl Geometry {
    /// Returns the capacity in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.logical_block as u64)
    }
}

/// When a write may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Until the next flush that begins after this write's completion.
    Cached,
    /// Never once it is acknowledged (force unit access).
    Fua,
}

/// Why a request failed. After a failed write the blocks may hold old data, new data or a mixture by blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BlockError {
    /// The device cannot read or write some block.
    #[error("the device reports a bad block in the request at block {lba}")]
    Medium {
        /// First block of the request.
        lba: u64,
    },
    /// No answer in time: the request may take effect later, even after this error.
    #[error("the device did not answer in time")]
    TimedOut,
    /// The device is gone or its path is cut.
    #[error("the device is gone")]
    Gone,
    /// A gate before the device refused the request: the lease of this host ran out. Nothing was sent.
    #[error("this host's lease has run out; nothing was written")]
    Fenced,
    /// The request does not fit the device: beyond its end, longer than it takes, not whole blocks.
    #[error("the request does not fit the device")]
    Invalid,
    /// The device has no such command.
    #[error("the device has no such command")]
    Unsupported,
    /// Thin storage below is full.
    #[error("the storage below is full")]
    NoSpace,
}

/// How a compare-and-write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// The blocks held what was expected and hold the new image now, durably.
    Written,
    /// The blocks held something else and were left alone.
    Differed,
}

/// A completed request that carries data. The buffer comes back, unless the device may still use it: then
/// ([`BlockError::TimedOut`]) an empty one comes.
pub type Completion = (Buffer, Result<(), BlockError>);

/// A block device. Requests in flight have no order among each other; whoever needs one waits for completions.
///
/// A request goes to the device in a poll of its own future and in no other's, so that one whose future is dropped or
/// no longer polled is never begun later. A write is done at most once, and never after its acknowledgement.
pub trait BlockDevice {
    /// Tells what the device is and can do; the size may grow between calls, nothing else changes.
    fn geometry(&self) -> Geometry;

    /// Fills `buffer`, whole blocks, from block `lba` on.
    fn read(&self, lba: u64, buffer: Buffer) -> impl Future<Output = Completion>;

    /// Writes `buffer`, whole blocks, at block `lba`.
    fn write(
        &self,
        lba: u64,
        buffer: Buffer,
        durability: Durability,
    ) -> impl Future<Output = Completion>;

    /// Makes every write that was acknowledged before this call durable.
    fn flush(&self) -> impl Future<Output = Result<(), BlockError>>;

    /// Tells the device that `blocks` blocks from `lba` on hold nothing of value; they read as anything afterwards.
    fn discard(&self, lba: u64, blocks: u64) -> impl Future<Output = Result<(), BlockError>>;

    /// Makes `blocks` blocks from `lba` on read as zeros.
    fn write_zeroes(&self, lba: u64, blocks: u64) -> impl Future<Output = Result<(), BlockError>>;

    /// Replaces the blocks at `lba` by `new` if they hold `expected`, as one step for all hosts on the device (SCSI
    /// COMPARE AND WRITE 89h, NVMe fused compare and write). A failure tells nothing about whether it took effect.
    fn compare_and_write(
        &self,
        lba: u64,
        expected: Buffer,
        new: Buffer,
    ) -> impl Future<Output = Result<Compared, BlockError>>;

    /// Completes when no request is under way whose future was dropped or that ended in [`BlockError::TimedOut`]: until
    /// then such a write may still take effect, and blocks that it names must not be used for anything else.
    fn drain(&self) -> impl Future<Output = ()>;
}

/// What points to a device is a device.
macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<D: BlockDevice + ?Sized> BlockDevice for $pointer {
            fn geometry(&self) -> Geometry {
                (**self).geometry()
            }

            fn read(&self, lba: u64, buffer: Buffer) -> impl Future<Output = Completion> {
                (**self).read(lba, buffer)
            }

            fn write(
                &self,
                lba: u64,
                buffer: Buffer,
                durability: Durability,
            ) -> impl Future<Output = Completion> {
                (**self).write(lba, buffer, durability)
            }

            fn flush(&self) -> impl Future<Output = Result<(), BlockError>> {
                (**self).flush()
            }

            fn discard(
                &self,
                lba: u64,
                blocks: u64,
            ) -> impl Future<Output = Result<(), BlockError>> {
                (**self).discard(lba, blocks)
            }

            fn write_zeroes(
                &self,
                lba: u64,
                blocks: u64,
            ) -> impl Future<Output = Result<(), BlockError>> {
                (**self).write_zeroes(lba, blocks)
            }

            fn compare_and_write(
                &self,
                lba: u64,
                expected: Buffer,
                new: Buffer,
            ) -> impl Future<Output = Result<Compared, BlockError>> {
                (**self).compare_and_write(lba, expected, new)
            }

            fn drain(&self) -> impl Future<Output = ()> {
                (**self).drain()
            }
        }
    )*};
}

forward!(&D, Rc<D>, Arc<D>);

#[cfg(test)]
mod tests {
    use super::{Buffer, PAGE};

    #[test]
    fn a_buffer_is_page_aligned_and_as_long_as_asked() {
        for len in [0, 1, 512, PAGE, PAGE + 1] {
            let mut buffer = Buffer::zeroed(len);
            assert_eq!(buffer.as_ptr() as usize % PAGE, 0);
            buffer.fill(7);
            assert_eq!(buffer.iter().filter(|&&byte| byte == 7).count(), len);
        }
        assert_eq!(&*Buffer::copied_from(b"abc"), b"abc");
    }
}
