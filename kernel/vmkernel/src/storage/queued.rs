//! Disks whose driver has queues of requests: the queues behind locks, requests as futures, a task for each queue that
//! takes completions when the interrupt has come, and one for the disk that looks for what is overdue and resets it.
//!
//! What a device is told is its driver's (`drivers/`), what becomes of a request is the crate `requests`'.

use crate::exec;
use crate::interrupts::DeviceVector;
use crate::memory::ranks;
use crate::timer::{self, HostClock};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use api::block::{
    BlockDevice, BlockError, Buffer, Compared, Completion, Durability, Geometry, PAGE,
};
use api::time::Clock;
use arch::mmio::bus_address;
use arch::percpu;
use arch::sync::SpinLock;
use core::fmt::Display;
use core::future::{Future, poll_fn};
use core::task::{Poll, Waker};
use requests::{Operation, Queue, Request, Requests, Watch};

/// Nanoseconds that a request may take: disks that spin up, and hosts under hosts, are slow and not broken.
const PATIENCE_NANOS: u64 = 30_000_000_000;
/// Nanoseconds between two looks at requests that are under way.
const LOOK_NANOS: u64 = 1_000_000_000;
/// Most bytes of zeros that are written at a time, where the device cannot make them itself.
const ZEROS: usize = 256 << 10;
/// Most blocks of a request without data.
const BLOCKS_WITHOUT_DATA: u64 = 1 << 16;

/// A device that has queues and can be reset.
pub(super) trait Device: Send + 'static {
    /// A queue.
    type Queue: Queue + Send + core::fmt::Debug + 'static;
    /// Why a reset failed.
    type Error: Display + Send;

    /// Resets the device and makes its queues anew, as many as before. Nothing that it was sent before takes effect after
    /// this, and it uses no memory of that.
    fn restart(&mut self) -> impl Future<Output = Result<Vec<Self::Queue>, Self::Error>> + Send;

    /// Keeps a device that is beyond help from memory, as far as that can be done.
    fn cut_off(&mut self);
}

/// What a disk is and can do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits {
    pub(super) geometry: Geometry,
    /// Blocks can be zeroed without data.
    pub(super) can_zero: bool,
}

#[derive(Debug)]
struct Shared<Q> {
    name: String,
    queues: Vec<SpinLock<Requests<Q>>>,
}

/// A disk with queues of kind `Q`.
#[derive(Debug)]
pub struct QueuedDisk<Q> {
    traits: Traits,
    shared: Arc<Shared<Q>>,
}

impl<Q: Queue + Send + core::fmt::Debug + 'static> QueuedDisk<Q> {
    /// Starts serving a device's queues, each with the vector by which it interrupts.
    pub(super) fn new<D: Device<Queue = Q>>(
        name: &str,
        traits: Traits,
        device: D,
        queues: Vec<(Q, DeviceVector)>,
    ) -> Self {
        let (queues, vectors): (Vec<Q>, Vec<DeviceVector>) = queues.into_iter().unzip();
        let locked = |queue| SpinLock::new(ranks::DISK, Requests::new(queue, PATIENCE_NANOS));
        let shared = Arc::new(Shared {
            name: String::from(name),
            queues: queues.into_iter().map(locked).collect(),
        });
        for (index, vector) in vectors.into_iter().enumerate() {
            let shared = Arc::clone(&shared);
            exec::spawn(vector.cpu(), serve(shared, index, vector)).detach();
        }
        exec::spawn(0, watch(Arc::clone(&shared), device)).detach();
        Self { traits, shared }
    }

    /// Returns how many queues it has.
    pub(super) fn queues(&self) -> usize {
        self.shared.queues.len()
    }

    /// Returns this CPU's queue.
    fn queue(&self) -> &SpinLock<Requests<Q>> {
        let cpu = percpu::current().index() as usize;
        &self.shared.queues[cpu % self.shared.queues.len()]
    }

    /// Sends a request as soon as a slot is free, and waits for its answer.
    async fn run(&self, request: Request, buffer: Buffer) -> Completion {
        let Some(pages) = pages_of(&buffer) else {
            return (buffer, Err(BlockError::Invalid));
        };
        let queue = self.queue();
        let mut parts = Some((pages, buffer));
        let sent = poll_fn(|cx| {
            let now = HostClock.now();
            let sent = queue.lock().send(now, &request, &mut parts, cx.waker());
            sent.map(|sent| {
                sent.map(|(slot, watcher)| {
                    watcher.into_iter().for_each(Waker::wake);
                    slot
                })
            })
        });
        let slot = match sent.await {
            Ok(slot) => slot,
            Err(error) => {
                let buffer = parts.map_or_else(|| Buffer::zeroed(0), |(_, buffer)| buffer);
                return (buffer, Err(error));
            }
        };
        let mut in_flight = InFlight {
            queue,
            slot: Some(slot),
        };
        poll_fn(|cx| in_flight.poll(cx.waker())).await
    }

    /// Checks that `blocks` from `lba` on are there.
    fn check(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        let end = lba.checked_add(blocks).ok_or(BlockError::Invalid)?;
        let fits = blocks != 0 && end <= self.traits.geometry.blocks;
        fits.then_some(()).ok_or(BlockError::Invalid)
    }

    async fn transfer(&self, operation: Operation, lba: u64, buffer: Buffer) -> Completion {
        let geometry = &self.traits.geometry;
        let block = geometry.logical_block as usize;
        let blocks = buffer.len() / block;
        let fits = buffer.len().is_multiple_of(block)
            && blocks <= geometry.max_blocks as usize
            && self.check(lba, blocks as u64).is_ok();
        if !fits {
            return (buffer, Err(BlockError::Invalid));
        }
        let request = Request {
            operation,
            lba,
            blocks: blocks as u32,
        };
        self.run(request, buffer).await
    }

    /// Runs an operation without data on any number of blocks.
    async fn without_data(
        &self,
        operation: Operation,
        lba: u64,
        blocks: u64,
    ) -> Result<(), BlockError> {
        self.check(lba, blocks)?;
        let mut done = 0;
        while done < blocks {
            let step = (blocks - done).min(BLOCKS_WITHOUT_DATA);
            let request = Request {
                operation,
                lba: lba + done,
                blocks: step as u32,
            };
            self.run(request, Buffer::zeroed(0)).await.1?;
            done += step;
        }
        Ok(())
    }

    /// Writes zeros, for a device that cannot make them itself.
    async fn write_zeros(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        self.check(lba, blocks)?;
        let geometry = &self.traits.geometry;
        let block = geometry.logical_block as usize;
        let most = (ZEROS / block).min(geometry.max_blocks as usize) as u64;
        let mut buffer = Buffer::zeroed(blocks.min(most) as usize * block);
        let mut done = 0;
        while done < blocks {
            let step = (blocks - done).min(most);
            if buffer.len() != step as usize * block {
                buffer = Buffer::zeroed(step as usize * block);
            }
            let write = Operation::Write { fua: false };
            let result;
            (buffer, result) = self.transfer(write, lba + done, buffer).await;
            result?;
            done += step;
        }
        Ok(())
    }
}

/// Returns the bus addresses of a buffer's pages.
fn pages_of(buffer: &Buffer) -> Option<Vec<u64>> {
    let pages = buffer.chunks(PAGE);
    pages.map(|page| bus_address(page.as_ptr())).collect()
}

/// A request that the device has; dropping it leaves the buffer with the slot until the answer.
struct InFlight<'a, Q: Queue> {
    queue: &'a SpinLock<Requests<Q>>,
    /// `None` once the answer was taken: then it may be somebody else's.
    slot: Option<u16>,
}

impl<Q: Queue> InFlight<'_, Q> {
    fn poll(&mut self, waker: &Waker) -> Poll<Completion> {
        let Some(slot) = self.slot else {
            return Poll::Pending;
        };
        let answer = self.queue.lock().poll(slot, waker);
        answer.map(|(buffer, answer, woken)| {
            self.slot = None;
            woken.into_iter().for_each(Waker::wake);
            (buffer, answer)
        })
    }
}

impl<Q: Queue> Drop for InFlight<'_, Q> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            let woken = self.queue.lock().abandon(slot);
            woken.into_iter().for_each(Waker::wake);
        }
    }
}

/// Takes a queue's completions for ever.
async fn serve<Q: Queue>(shared: Arc<Shared<Q>>, index: usize, vector: DeviceVector) {
    loop {
        let look = || {
            let woken = shared.queues[index].lock().take_completions();
            (!woken.is_empty()).then_some(woken)
        };
        let woken = vector.wait_until(look).await;
        woken.into_iter().for_each(Waker::wake);
    }
}

/// Looks for requests that are overdue, and resets the device then. Ends when the device is beyond help.
async fn watch<D: Device>(shared: Arc<Shared<D::Queue>>, mut device: D) {
    loop {
        let name = &shared.name;
        match poll_fn(|cx| look(&shared, cx.waker())).await {
            Watch::Idle | Watch::Busy => timer::sleep(LOOK_NANOS).await,
            Watch::Overdue => {
                let seconds = PATIENCE_NANOS / 1_000_000_000;
                crate::warn!("{name}: no answer for {seconds} s; it is reset");
                if let Err(error) = reset(&shared, &mut device).await {
                    crate::error!("{name} cannot be reset: {error}; it is not used any more");
                    break;
                }
            }
            Watch::Gone => {
                crate::error!("{name} is gone");
                break;
            }
        }
    }
    device.cut_off();
    for queue in &shared.queues {
        let woken = queue.lock().give_up();
        woken.into_iter().for_each(Waker::wake);
    }
}

/// Looks at all queues; pending while nothing is under way. Completions are taken first, whose interrupt may be lost.
fn look<Q: Queue>(shared: &Shared<Q>, waker: &Waker) -> Poll<Watch> {
    let mut worst = Watch::Idle;
    for queue in &shared.queues {
        let mut queue = queue.lock();
        let woken = queue.take_completions();
        let now = queue.watch(HostClock.now(), waker);
        drop(queue);
        woken.into_iter().for_each(Waker::wake);
        match now {
            Watch::Gone => return Poll::Ready(Watch::Gone),
            Watch::Overdue => worst = Watch::Overdue,
            Watch::Busy if worst == Watch::Idle => worst = Watch::Busy,
            _ => {}
        }
    }
    if worst == Watch::Idle {
        Poll::Pending
    } else {
        Poll::Ready(worst)
    }
}

async fn reset<D: Device>(shared: &Shared<D::Queue>, device: &mut D) -> Result<(), D::Error> {
    for queue in &shared.queues {
        drop(queue.lock().stop());
    }
    let fresh = device.restart().await?;
    for (queue, fresh) in shared.queues.iter().zip(fresh) {
        let woken = queue.lock().restart(HostClock.now(), fresh);
        woken.into_iter().for_each(Waker::wake);
    }
    Ok(())
}

impl<Q: Queue + Send + core::fmt::Debug + 'static> BlockDevice for QueuedDisk<Q> {
    fn geometry(&self) -> Geometry {
        self.traits.geometry
    }

    async fn read(&self, lba: u64, buffer: Buffer) -> Completion {
        self.transfer(Operation::Read, lba, buffer).await
    }

    async fn write(&self, lba: u64, buffer: Buffer, durability: Durability) -> Completion {
        let wants_fua = durability == Durability::Fua;
        let fua = wants_fua && self.traits.geometry.fua;
        let (buffer, result) = self.transfer(Operation::Write { fua }, lba, buffer).await;
        let result = match result {
            Ok(()) if wants_fua && !fua => self.flush().await,
            other => other,
        };
        (buffer, result)
    }

    async fn flush(&self) -> Result<(), BlockError> {
        if !self.traits.geometry.volatile_cache {
            return Ok(());
        }
        let request = Request {
            operation: Operation::Flush,
            lba: 0,
            blocks: 0,
        };
        self.run(request, Buffer::zeroed(0)).await.1
    }

    async fn discard(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        if !self.traits.geometry.discard {
            return self.check(lba, blocks);
        }
        self.without_data(Operation::Discard, lba, blocks).await
    }

    async fn write_zeroes(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        if !self.traits.can_zero {
            return self.write_zeros(lba, blocks).await;
        }
        self.without_data(Operation::WriteZeroes, lba, blocks).await
    }

    async fn compare_and_write(
        &self,
        _lba: u64,
        _expected: Buffer,
        _new: Buffer,
    ) -> Result<Compared, BlockError> {
        Err(BlockError::Unsupported)
    }

    async fn drain(&self) {
        for queue in &self.shared.queues {
            poll_fn(|cx| queue.lock().drained(cx.waker())).await;
        }
    }
}
