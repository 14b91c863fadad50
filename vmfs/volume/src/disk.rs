//! Byte addresses over a block device: splitting by what one request takes, edges of sectors, and what is under way.
//!
//! It knows when a request's future was dropped, so that the next change waits for the device to be done with it, and
//! whether data was written since the last flush. It knows nothing of units or files.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, Ordering};

use api::block::{BlockDevice, BlockError, Buffer, Completion, Durability, Geometry};

use crate::error::Error;
use crate::format::{Bytes, UNIT};

/// A block device, by byte addresses.
#[derive(Debug)]
pub struct Disk<D> {
    device: D,
    geometry: Geometry,
    /// A request's future was dropped, or its answer came too late: it may still be under way.
    abandoned: AtomicBool,
    /// Something was written and not flushed since.
    unflushed: AtomicBool,
}

/// Notes a request whose future is dropped before its end.
struct Underway<'a> {
    abandoned: &'a AtomicBool,
    done: bool,
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.abandoned.store(true, Ordering::Release);
        }
    }
}

/// Reads the unit at a byte address of a bare device.
///
/// # Errors
/// The device's.
pub(crate) async fn read_unit<D: BlockDevice>(device: &D, at: u64) -> Result<Box<Bytes>, Error> {
    let logical = u64::from(device.geometry().logical_block);
    let lba = at.checked_div(logical).ok_or(BlockError::Invalid)?;
    let (buffer, result) = device.read(lba, Buffer::zeroed(UNIT)).await;
    result?;
    unit_of(&buffer).ok_or(Error::Block(BlockError::Invalid))
}

/// Copies the first unit out of a buffer.
pub(crate) fn unit_of(buffer: &[u8]) -> Option<Box<Bytes>> {
    buffer.first_chunk::<UNIT>().map(|bytes| Box::new(*bytes))
}

impl<D: BlockDevice> Disk<D> {
    /// Wraps a device.
    pub fn new(device: D) -> Self {
        let geometry = device.geometry();
        Self {
            device,
            geometry,
            abandoned: AtomicBool::new(false),
            // What others wrote before is unknown.
            unflushed: AtomicBool::new(true),
        }
    }

    /// Makes durable what another host, which is dead, wrote and did not flush: what is read of it shall stay.
    ///
    /// # Errors
    /// The device's.
    pub async fn flush_all(&self) -> Result<(), BlockError> {
        self.unflushed.store(true, Ordering::Release);
        self.flush().await
    }

    /// Returns the device.
    pub const fn device(&self) -> &D {
        &self.device
    }

    /// Returns what the device was when it was wrapped.
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Waits until nothing is under way that nobody waits for.
    pub async fn settle(&self) {
        if self.abandoned.load(Ordering::Acquire) {
            self.device.drain().await;
            self.abandoned.store(false, Ordering::Release);
        }
    }

    /// Reads whole logical blocks.
    pub async fn read(&self, at: u64, buffer: Buffer) -> Completion {
        match self.single(at, buffer.len()) {
            Some(lba) => self.device.read(lba, buffer).await,
            None => self.read_in_parts(at, buffer).await,
        }
    }

    async fn read_in_parts(&self, at: u64, mut buffer: Buffer) -> Completion {
        let part = self.part_bytes();
        let mut at = at;
        for chunk in buffer.chunks_mut(part) {
            let Some(lba) = self.single(at, chunk.len()) else {
                return (buffer, Err(BlockError::Invalid));
            };
            let (read, result) = self.device.read(lba, Buffer::zeroed(chunk.len())).await;
            if result.is_err() {
                return (buffer, result);
            }
            chunk.copy_from_slice(&read);
            at = at.saturating_add(chunk.len() as u64);
        }
        (buffer, Ok(()))
    }

    /// Writes whole logical blocks.
    pub async fn write(&self, at: u64, buffer: Buffer, durability: Durability) -> Completion {
        match self.single(at, buffer.len()) {
            Some(lba) => self.write_one(lba, buffer, durability).await,
            None => {
                let result = self.write_in_parts(at, &buffer, durability).await;
                (buffer, result)
            }
        }
    }

    async fn write_in_parts(
        &self,
        at: u64,
        bytes: &[u8],
        durability: Durability,
    ) -> Result<(), BlockError> {
        let mut at = at;
        for chunk in bytes.chunks(self.part_bytes()) {
            let lba = self.single(at, chunk.len()).ok_or(BlockError::Invalid)?;
            let (_, result) = self
                .write_one(lba, Buffer::copied_from(chunk), durability)
                .await;
            result?;
            at = at.saturating_add(chunk.len() as u64);
        }
        Ok(())
    }

    async fn write_one(&self, lba: u64, buffer: Buffer, durability: Durability) -> Completion {
        if durability == Durability::Cached {
            self.unflushed.store(true, Ordering::Release);
        }
        let mut underway = self.begin();
        let (buffer, result) = self.device.write(lba, buffer, durability).await;
        underway.done = result != Err(BlockError::TimedOut);
        (buffer, result)
    }

    /// Writes bytes at any address; sectors at the edges are read first.
    ///
    /// # Errors
    /// The device's.
    pub async fn write_bytes(&self, at: u64, bytes: &[u8]) -> Result<(), BlockError> {
        let logical = u64::from(self.geometry.logical_block);
        let before = at.checked_rem(logical).unwrap_or(0);
        let start = at.saturating_sub(before);
        let skip = usize::try_from(before).map_err(|_| BlockError::Invalid)?;
        let end = at
            .saturating_add(bytes.len() as u64)
            .next_multiple_of(logical);
        let len = usize::try_from(end.saturating_sub(start)).map_err(|_| BlockError::Invalid)?;
        let mut buffer = Buffer::zeroed(len);
        if before != 0 || len != bytes.len() {
            let (read, result) = self.read(start, buffer).await;
            result?;
            buffer = read;
        }
        let target = buffer
            .get_mut(skip..)
            .and_then(|rest| rest.get_mut(..bytes.len()));
        target.ok_or(BlockError::Invalid)?.copy_from_slice(bytes);
        let (_, result) = self.write(start, buffer, Durability::Cached).await;
        result
    }

    /// Reads bytes at any address.
    ///
    /// # Errors
    /// The device's.
    pub async fn read_bytes(&self, at: u64, bytes: &mut [u8]) -> Result<(), BlockError> {
        let logical = u64::from(self.geometry.logical_block);
        let before = at.checked_rem(logical).unwrap_or(0);
        let start = at.saturating_sub(before);
        let skip = usize::try_from(before).map_err(|_| BlockError::Invalid)?;
        let end = at
            .saturating_add(bytes.len() as u64)
            .next_multiple_of(logical);
        let len = usize::try_from(end.saturating_sub(start)).map_err(|_| BlockError::Invalid)?;
        let (read, result) = self.read(start, Buffer::zeroed(len)).await;
        result?;
        let source = read.get(skip..).and_then(|rest| rest.get(..bytes.len()));
        bytes.copy_from_slice(source.ok_or(BlockError::Invalid)?);
        Ok(())
    }

    /// Makes bytes at any address read as zeros.
    ///
    /// # Errors
    /// The device's.
    pub async fn zero(&self, at: u64, len: u64) -> Result<(), BlockError> {
        let logical = u64::from(self.geometry.logical_block);
        let end = at.saturating_add(len);
        let first = at.next_multiple_of(logical).min(end);
        self.zero_edge(at, first).await?;
        let last = end
            .saturating_sub(end.checked_rem(logical).unwrap_or(0))
            .max(first);
        if last > first {
            self.unflushed.store(true, Ordering::Release);
            let mut underway = self.begin();
            let blocks = last.saturating_sub(first).checked_div(logical).unwrap_or(0);
            let lba = first.checked_div(logical).unwrap_or(0);
            let result = self.device.write_zeroes(lba, blocks).await;
            underway.done = result != Err(BlockError::TimedOut);
            result?;
        }
        self.zero_edge(last, end).await
    }

    async fn zero_edge(&self, from: u64, to: u64) -> Result<(), BlockError> {
        let zeros = [0; UNIT];
        let len = usize::try_from(to.saturating_sub(from)).map_err(|_| BlockError::Invalid)?;
        match zeros.get(..len) {
            Some([]) => Ok(()),
            Some(bytes) => self.write_bytes(from, bytes).await,
            None => Err(BlockError::Invalid),
        }
    }

    /// Tells the device that bytes, whole blocks of the volume, hold nothing of value.
    ///
    /// # Errors
    /// The device's.
    pub async fn discard(&self, at: u64, len: u64) -> Result<(), BlockError> {
        if !self.geometry.discard {
            return Ok(());
        }
        let logical = u64::from(self.geometry.logical_block);
        let lba = at.checked_div(logical).unwrap_or(0);
        let mut underway = self.begin();
        let result = self
            .device
            .discard(lba, len.checked_div(logical).unwrap_or(0))
            .await;
        underway.done = result != Err(BlockError::TimedOut);
        result
    }

    /// Makes what was written durable, if the device needs to be told and anything was written.
    ///
    /// # Errors
    /// The device's.
    pub async fn flush(&self) -> Result<(), BlockError> {
        if self.unflushed.load(Ordering::Acquire) && self.geometry.volatile_cache {
            // Cleared before the flush begins: what is written meanwhile is not covered by it.
            self.unflushed.store(false, Ordering::Release);
            let result = self.device.flush().await;
            if result.is_err() {
                self.unflushed.store(true, Ordering::Release);
            }
            return result;
        }
        Ok(())
    }

    /// Writes so that the bytes are durable when this returns: by force unit access where one request does it.
    ///
    /// # Errors
    /// The device's.
    pub async fn write_durably(&self, at: u64, buffer: Buffer) -> Result<(), BlockError> {
        let durability = if self.geometry.fua && self.single(at, buffer.len()).is_some() {
            Durability::Fua
        } else {
            Durability::Cached
        };
        let (_, result) = self.write(at, buffer, durability).await;
        result?;
        if durability == Durability::Cached {
            self.flush().await?;
        }
        Ok(())
    }

    const fn begin(&self) -> Underway<'_> {
        Underway {
            abandoned: &self.abandoned,
            done: false,
        }
    }

    /// Returns the first block of a request if one request can carry it.
    fn single(&self, at: u64, len: usize) -> Option<u64> {
        if len > self.part_bytes() {
            return None;
        }
        at.checked_div(u64::from(self.geometry.logical_block))
    }

    fn part_bytes(&self) -> usize {
        let blocks = u64::from(self.geometry.max_blocks.max(1));
        let bytes = blocks.saturating_mul(u64::from(self.geometry.logical_block));
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}
