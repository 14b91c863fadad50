//! A disk in memory, a clock that jumps to whatever is waited for, and the loop that drives one future with them.
//!
//! Neither delays nor reorders anything: that is the simulator's work (tests/sim).

use crate::block::{BlockDevice, BlockError, Buffer, Compared, Completion, Durability, Geometry};
use crate::time::{Clock, HostInstant};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use core::cell::{Cell, RefCell};
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};

/// What goes wrong with the next writes and compare-and-writes, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// Nothing.
    None,
    /// The request is done, and reported as timed out.
    LostReply,
    /// The request is not done, and reported as timed out.
    LostRequest,
}

/// A sparse disk in memory; blocks that were never written read as zeros.
#[derive(Debug)]
pub struct FakeDisk {
    geometry: Geometry,
    blocks: RefCell<BTreeMap<u64, Box<[u8]>>>,
    faults: RefCell<VecDeque<Faults>>,
    requests: Cell<u64>,
}

impl FakeDisk {
    /// Makes a disk of `blocks` blocks of `logical_block` bytes that can compare and write one of them.
    #[must_use]
    pub fn new(logical_block: u32, blocks: u64) -> Self {
        Self {
            geometry: Geometry {
                logical_block,
                physical_block: logical_block,
                blocks,
                max_blocks: 2048,
                volatile_cache: false,
                fua: true,
                discard: true,
                compare_and_write_blocks: 1,
            },
            blocks: RefCell::new(BTreeMap::new()),
            faults: RefCell::new(VecDeque::new()),
            requests: Cell::new(0),
        }
    }

    /// Returns how many requests came since the last call.
    pub fn take_requests(&self) -> u64 {
        self.requests.take()
    }

    /// Lets the next writes and compare-and-writes go wrong so.
    pub fn inject(&self, faults: impl IntoIterator<Item = Faults>) {
        self.faults.borrow_mut().extend(faults);
    }

    /// Returns a copy of block `lba`.
    #[must_use]
    pub fn block(&self, lba: u64) -> Buffer {
        let mut buffer = Buffer::zeroed(self.geometry.logical_block as usize);
        if let Some(block) = self.blocks.borrow().get(&lba) {
            buffer.copy_from_slice(block);
        }
        buffer
    }

    /// Puts `bytes`, a whole block, at block `lba`.
    pub fn put(&self, lba: u64, bytes: &[u8]) {
        self.blocks.borrow_mut().insert(lba, Box::from(bytes));
    }

    fn count_request(&self) {
        self.requests.set(self.requests.get().saturating_add(1));
    }

    fn next_fault(&self) -> Faults {
        let fault = self.faults.borrow_mut().pop_front();
        fault.unwrap_or(Faults::None)
    }

    /// Checks that `len` bytes from `lba` on are whole blocks of this disk.
    fn check(&self, lba: u64, len: usize) -> Result<(), BlockError> {
        let block = self.geometry.logical_block as usize;
        let count = (len / block) as u64;
        let end = lba.checked_add(count).ok_or(BlockError::Invalid)?;
        let fits = len.is_multiple_of(block) && end <= self.geometry.blocks;
        fits.then_some(()).ok_or(BlockError::Invalid)
    }

    fn store(&self, lba: u64, bytes: &[u8]) {
        for (lba, block) in (lba..).zip(bytes.chunks(self.geometry.logical_block as usize)) {
            self.put(lba, block);
        }
    }
}

impl BlockDevice for FakeDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    async fn read(&self, lba: u64, mut buffer: Buffer) -> Completion {
        self.count_request();
        if let Err(error) = self.check(lba, buffer.len()) {
            return (buffer, Err(error));
        }
        for (lba, block) in (lba..).zip(buffer.chunks_mut(self.geometry.logical_block as usize)) {
            block.copy_from_slice(&self.block(lba));
        }
        (buffer, Ok(()))
    }

    async fn write(&self, lba: u64, buffer: Buffer, _durability: Durability) -> Completion {
        self.count_request();
        if let Err(error) = self.check(lba, buffer.len()) {
            return (buffer, Err(error));
        }
        let fault = self.next_fault();
        if fault != Faults::LostRequest {
            self.store(lba, &buffer);
        }
        if fault == Faults::None {
            (buffer, Ok(()))
        } else {
            (Buffer::zeroed(0), Err(BlockError::TimedOut))
        }
    }

    async fn flush(&self) -> Result<(), BlockError> {
        self.count_request();
        Ok(())
    }

    async fn discard(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        self.write_zeroes(lba, blocks).await
    }

    async fn write_zeroes(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        self.count_request();
        let end = lba.checked_add(blocks).ok_or(BlockError::Invalid)?;
        if end > self.geometry.blocks {
            return Err(BlockError::Invalid);
        }
        self.blocks
            .borrow_mut()
            .retain(|&at, _| at < lba || at >= end);
        Ok(())
    }

    async fn compare_and_write(
        &self,
        lba: u64,
        expected: Buffer,
        new: Buffer,
    ) -> Result<Compared, BlockError> {
        self.count_request();
        self.check(lba, new.len())?;
        if new.len() != self.geometry.logical_block as usize || expected.len() != new.len() {
            return Err(BlockError::Invalid);
        }
        let fault = self.next_fault();
        let equal = *self.block(lba) == *expected;
        if equal && fault != Faults::LostRequest {
            self.store(lba, &new);
        }
        match fault {
            Faults::None if equal => Ok(Compared::Written),
            Faults::None => Ok(Compared::Differed),
            Faults::LostReply | Faults::LostRequest => Err(BlockError::TimedOut),
        }
    }

    async fn drain(&self) {}
}

/// A clock that stands still until somebody waits: then it is as late as he waits for.
#[derive(Debug, Default)]
pub struct FakeClock(Cell<u64>);

impl FakeClock {
    /// Moves the clock on by `nanos`.
    pub fn advance(&self, nanos: u64) {
        self.0.set(self.0.get().saturating_add(nanos));
    }
}

impl Clock for FakeClock {
    fn now(&self) -> HostInstant {
        HostInstant::from_nanos(self.0.get())
    }

    async fn sleep_until(&self, deadline: HostInstant) {
        self.0.set(self.0.get().max(deadline.as_nanos()));
    }
}

/// Drives a future that waits for nothing but the fakes.
///
/// # Panics
///
/// Panics if the future waits for something else.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future waits for something that no fake does"),
    }
}
