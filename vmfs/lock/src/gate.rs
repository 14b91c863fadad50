//! The gate: a block device that lets no write pass once the lease has run out.
//!
//! It looks at the clock in the very poll in which the device below gets the request, so neither a late scheduler nor a
//! request that waited for room in a queue can carry a write past the deadline. Reads and flushes pass always.

use alloc::sync::Arc;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;

use api::block::{BlockDevice, BlockError, Buffer, Compared, Completion, Durability, Geometry};
use api::time::Clock;

use crate::lease::Lease;

/// A block device whose writes end with the host's lease.
#[derive(Clone, Debug)]
pub struct Gate<D, C> {
    device: D,
    clock: C,
    lease: Arc<Lease>,
}

impl<D: BlockDevice, C: Clock> Gate<D, C> {
    pub(crate) const fn new(device: D, clock: C, lease: Arc<Lease>) -> Self {
        Self {
            device,
            clock,
            lease,
        }
    }

    /// Drives `request` as long as the lease lasts. `None` if it was not begun; what it is worth then is as if it
    /// had never been made.
    async fn guard<T>(&self, request: impl Future<Output = T>) -> Result<T, BlockError> {
        let mut request = pin!(request);
        let mut watched = Watched {
            gate: self,
            begun: false,
        };
        let result = poll_fn(|cx| {
            if !self.lease.is_open(self.clock.now()) {
                // What was begun may be on its way; what was not is not begun any more.
                return Poll::Ready(Err(if watched.begun {
                    BlockError::TimedOut
                } else {
                    BlockError::Fenced
                }));
            }
            watched.begun = true;
            request.as_mut().poll(cx).map(Ok)
        })
        .await;
        // A request that ended has no more to be watched for; one that was left in the middle has.
        if result.is_ok() {
            watched.begun = false;
        }
        result
    }

    fn note(&self, error: BlockError) {
        if error == BlockError::TimedOut {
            self.lease.note_unsettled();
        }
    }

    fn noted<T>(&self, result: Result<Result<T, BlockError>, BlockError>) -> Result<T, BlockError> {
        let result = result.and_then(|inner| inner);
        if let Err(error) = &result {
            self.note(*error);
        }
        result
    }
}

/// Notes a write that was begun and then left, by a closed gate or by a caller who lost interest: it may still take
/// effect.
struct Watched<'a, D: BlockDevice, C: Clock> {
    gate: &'a Gate<D, C>,
    begun: bool,
}

impl<D: BlockDevice, C: Clock> Drop for Watched<'_, D, C> {
    fn drop(&mut self) {
        if self.begun {
            self.gate.note(BlockError::TimedOut);
        }
    }
}

impl<D: BlockDevice, C: Clock> BlockDevice for Gate<D, C> {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn read(&self, lba: u64, buffer: Buffer) -> impl Future<Output = Completion> {
        self.device.read(lba, buffer)
    }

    async fn write(&self, lba: u64, buffer: Buffer, durability: Durability) -> Completion {
        if !self.lease.is_open(self.clock.now()) {
            return (buffer, Err(BlockError::Fenced));
        }
        match self.guard(self.device.write(lba, buffer, durability)).await {
            Ok((buffer, result)) => {
                let result = self.noted(Ok(result));
                (buffer, result)
            }
            Err(error) => (Buffer::zeroed(0), Err(error)),
        }
    }

    fn flush(&self) -> impl Future<Output = Result<(), BlockError>> {
        self.device.flush()
    }

    async fn discard(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        let result = self.guard(self.device.discard(lba, blocks)).await;
        self.noted(result)
    }

    async fn write_zeroes(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        let result = self.guard(self.device.write_zeroes(lba, blocks)).await;
        self.noted(result)
    }

    async fn compare_and_write(
        &self,
        lba: u64,
        expected: Buffer,
        new: Buffer,
    ) -> Result<Compared, BlockError> {
        let request = self.device.compare_and_write(lba, expected, new);
        let result = self.guard(request).await;
        self.noted(result)
    }

    fn drain(&self) -> impl Future<Output = ()> {
        self.device.drain()
    }
}
