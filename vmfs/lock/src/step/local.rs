//! The atomic step on a device that no second host sees: read, compare, write.
//!
//! Not atomic by itself. The service lets one operation at a time change a cell, and nobody else writes there.

use alloc::vec::Vec;

use api::block::BlockDevice;
use api::time::Clock;

use super::{AtomicStep, Fence, Fenced, Seen, Swap};
use crate::area::Cell;
use crate::error::LockError;
use crate::image::Image;

/// The step on a device of one host.
#[derive(Debug)]
pub(crate) struct Local<D, C>(Fenced<D, C>);

impl<D: BlockDevice, C: Clock> Local<D, C> {
    pub(super) const fn new(fenced: Fenced<D, C>) -> Self {
        Self(fenced)
    }
}

impl<D: BlockDevice, C: Clock> AtomicStep for Local<D, C> {
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
        let found = Image::from_block(&self.0.read(cell.0, 1).await?);
        if found != *expected {
            return Ok(Swap::Found(found));
        }
        self.0.put(cell.0, new.as_bytes(), fence).await?;
        Ok(Swap::Done)
    }
}
