//! The atomic step by the device's own compare-and-write: one request, and a read when it says no.
//!
//! The trap: a compare-and-write that was not answered may have taken effect, and the same one made again then differs
//! from its own image. The image's token tells: what is found is compared with what was to be written.

use alloc::vec::Vec;

use api::block::{BlockDevice, BlockError, Compared};
use api::time::Clock;

use super::{AtomicStep, Fence, Fenced, Seen, Swap, TRIES};
use crate::area::Cell;
use crate::error::LockError;
use crate::image::Image;

/// The step on a device that compares and writes.
#[derive(Debug)]
pub(crate) struct CompareAndWrite<D, C>(Fenced<D, C>);

impl<D: BlockDevice, C: Clock> CompareAndWrite<D, C> {
    pub(super) const fn new(fenced: Fenced<D, C>) -> Self {
        Self(fenced)
    }
}

impl<D: BlockDevice, C: Clock> AtomicStep for CompareAndWrite<D, C> {
    async fn load_all(&self, first: Cell, stride: u32, count: u16) -> Result<Vec<Seen>, LockError> {
        self.0.read_images(first, stride, count).await
    }

    async fn swap(
        &self,
        cell: Cell,
        expected: &Image,
        new: &Image,
        fence: Fence,
    ) -> Result<Swap, LockError> {
        for _ in 0..TRIES {
            self.0.check(fence)?;
            let old = self.0.block_of(expected);
            let request = self
                .0
                .device
                .compare_and_write(cell.0, old, self.0.block_of(new));
            match request.await {
                Ok(Compared::Written) => return Ok(Swap::Done),
                Ok(Compared::Differed) => {
                    let found = Image::from_block(&self.0.read(cell.0, 1).await?);
                    return Ok(if found == *new {
                        Swap::Done
                    } else {
                        Swap::Found(found)
                    });
                }
                // The same image again: if the first request comes late it finds the cell changed, by this one.
                Err(BlockError::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(BlockError::TimedOut.into())
    }
}
