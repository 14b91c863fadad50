//! NVMe controllers in the running kernel: the driver's state machine behind a lock, requests as futures, one task that
//! takes completions when the interrupt has come.
//!
//! A request's buffer is the slot's until the device has answered, whether somebody still waits or not. Left out: time-outs
//! and resets, a queue for each CPU.
#![expect(unsafe_code, reason = "lends frames and registers to the driver")]

use crate::cpus;
use crate::exec;
use crate::interrupts::MessageVector;
use crate::memory::{self, ranks};
use crate::storage::ConfigPorts;
use crate::timer;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use api::block::{
    BlockDevice, BlockError, Buffer, Compared, Completion, Durability, Geometry, PAGE,
};
use api::port::Registers;
use arch::mmio::{SharedFrames, Window, bus_address};
use arch::sync::SpinLock;
use bus::pci::{Address, Bar, Function, Message, MessageInterrupts};
use core::future::poll_fn;
use core::task::{Poll, Waker};
use nvme::{Controller, Identity, Operation, Refused, Request, SHARED_BYTES, SLOTS, Status};

/// Registers that are mapped: the doorbells of two queue pairs at any distance that controllers have.
const REGISTER_BYTES: u64 = 0x4000;

/// What became of a slot.
#[derive(Debug)]
enum Slot {
    Free,
    /// The device has it; the buffer with it.
    Sent {
        buffer: Buffer,
        waker: Option<Waker>,
        /// Nobody waits any more.
        abandoned: bool,
    },
    Done {
        buffer: Buffer,
        status: Status,
    },
}

#[derive(Debug)]
struct State {
    controller: Controller<Window, SharedFrames>,
    slots: [Slot; SLOTS as usize],
    /// Who waits for a slot to become free: for a request, or because nobody waits for the one that has it.
    waiting: Vec<Waker>,
}

impl State {
    /// Makes a slot free whose answer has been dealt with; returns who is to be woken, without the lock.
    fn release(&mut self, number: u16) -> Vec<Waker> {
        self.slots[usize::from(number)] = Slot::Free;
        self.controller.release(number);
        core::mem::take(&mut self.waiting)
    }
}

/// One controller's first namespace.
#[derive(Debug)]
pub struct NvmeDisk {
    name: String,
    address: Address,
    identity: Identity,
    interrupts: &'static str,
    state: Arc<SpinLock<State>>,
}

/// Brings a controller up.
///
/// # Errors
/// A text that says what is wrong with it.
pub(super) async fn start(function: Function, name: &str) -> Result<NvmeDisk, String> {
    let space = &ConfigPorts;
    let Some(Bar::Memory { address, size }) = function.bar(space, 0) else {
        return Err(String::from("firmware gave its registers no address"));
    };
    let interrupts = MessageInterrupts::of(&function, space)
        .ok_or("it cannot interrupt by messages, which this driver needs")?;
    function.enable(space);
    let len = size.min(REGISTER_BYTES);
    let base = cpus::map_device(address, len);
    // SAFETY: the window was just mapped for good; the driver names memory to the device that is lent for it only.
    let registers = unsafe { Window::new(base, len) };
    let frames = SHARED_BYTES.div_ceil(PAGE) as u32;
    let first = memory::alloc_run(frames).map_err(|e| e.to_string())?;
    // SAFETY: the run was just taken and is never given back.
    let shared = unsafe { SharedFrames::new(first, frames as usize * PAGE) };
    let vector = MessageVector::take(0).ok_or("all interrupt vectors are taken")?;
    let message = vector
        .message()
        .ok_or("its interrupts cannot reach the CPU")?;
    connect(interrupts, &function, message);
    let controller = Controller::start(registers, shared, &timer::HostClock)
        .await
        .map_err(|e| e.to_string())?;
    let identity = controller.identity().clone();
    let state = Arc::new(SpinLock::new(
        ranks::DISK,
        State {
            controller,
            slots: [const { Slot::Free }; SLOTS as usize],
            waiting: Vec::new(),
        },
    ));
    exec::spawn(vector.cpu(), serve(Arc::clone(&state), vector)).detach();
    Ok(NvmeDisk {
        name: String::from(name),
        address: function.address,
        identity,
        interrupts: match interrupts {
            MessageInterrupts::Msi(_) => "MSI",
            MessageInterrupts::MsiX(..) => "MSI-X",
        },
        state,
    })
}

/// Lets the function interrupt by `message`.
fn connect(interrupts: MessageInterrupts, function: &Function, message: Message) {
    if let MessageInterrupts::MsiX(_, place) = interrupts {
        let base = cpus::map_device(place.address, 16);
        // SAFETY: the table was just mapped for good; its entries make the device write to local APICs only.
        let table = unsafe { Window::new(base, 16) };
        for (offset, word) in (0..).step_by(4).zip(message.table_entry()) {
            table.write32(offset, word);
        }
    }
    interrupts.enable(function, &ConfigPorts, message);
}

/// Takes completions for ever.
async fn serve(state: Arc<SpinLock<State>>, vector: MessageVector) {
    loop {
        let woken = vector.wait_until(|| take_completions(&state)).await;
        woken.into_iter().for_each(Waker::wake);
    }
}

/// Takes what has completed; `None` if nothing has. The wakers are woken without the lock.
fn take_completions(state: &SpinLock<State>) -> Option<Vec<Waker>> {
    let mut woken = Vec::new();
    let mut any = false;
    let mut state = state.lock();
    while let Some((number, status)) = state.controller.complete() {
        any = true;
        let slot = &mut state.slots[usize::from(number)];
        match core::mem::replace(slot, Slot::Free) {
            Slot::Sent {
                buffer,
                waker,
                abandoned: false,
            } => {
                *slot = Slot::Done { buffer, status };
                woken.extend(waker);
            }
            _ => woken.extend(state.release(number)),
        }
    }
    any.then_some(woken)
}

/// A request that the device has; dropping it leaves the buffer with the slot until the answer.
struct InFlight<'a> {
    state: &'a SpinLock<State>,
    /// `None` once the answer was taken: then it may be somebody else's.
    slot: Option<u16>,
}

impl InFlight<'_> {
    fn poll(&mut self, waker: &Waker) -> Poll<(Buffer, Status)> {
        let Some(number) = self.slot else {
            return Poll::Pending;
        };
        let mut state = self.state.lock();
        let slot = &mut state.slots[usize::from(number)];
        if let Slot::Sent { waker: place, .. } = slot {
            *place = Some(waker.clone());
            return Poll::Pending;
        }
        let Slot::Done { buffer, status } = core::mem::replace(slot, Slot::Free) else {
            return Poll::Pending;
        };
        self.slot = None;
        let woken = state.release(number);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        Poll::Ready((buffer, status))
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let Some(number) = self.slot else {
            return;
        };
        let mut state = self.state.lock();
        if let Slot::Sent { abandoned, .. } = &mut state.slots[usize::from(number)] {
            *abandoned = true;
            return;
        }
        let woken = state.release(number);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl NvmeDisk {
    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns where it is on PCI.
    #[must_use]
    pub fn address(&self) -> Address {
        self.address
    }

    /// Returns what it says of itself.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns how it interrupts.
    #[must_use]
    pub fn interrupts(&self) -> &'static str {
        self.interrupts
    }

    /// Sends a request as soon as a slot is free, and waits for its answer.
    async fn run(&self, request: Request, buffer: Buffer) -> Completion {
        let Some(pages) = pages_of(&buffer) else {
            return (buffer, Err(BlockError::Invalid));
        };
        let mut waiting = Some(buffer);
        let sent = poll_fn(|cx| self.send(&request, &pages, &mut waiting, cx.waker())).await;
        let slot = match sent {
            Ok(slot) => slot,
            Err(error) => return (waiting.unwrap_or_else(|| Buffer::zeroed(0)), Err(error)),
        };
        let mut in_flight = InFlight {
            state: &self.state,
            slot: Some(slot),
        };
        let (buffer, status) = poll_fn(|cx| in_flight.poll(cx.waker())).await;
        (buffer, status.result(request.lba))
    }

    fn send(
        &self,
        request: &Request,
        pages: &[u64],
        waiting: &mut Option<Buffer>,
        waker: &Waker,
    ) -> Poll<Result<u16, BlockError>> {
        let mut state = self.state.lock();
        let number = match state.controller.submit(request, pages) {
            Ok(number) => number,
            Err(Refused::TooLong) => return Poll::Ready(Err(BlockError::Invalid)),
            Err(Refused::Full) => {
                state.waiting.push(waker.clone());
                return Poll::Pending;
            }
        };
        let buffer = waiting.take().unwrap_or_else(|| Buffer::zeroed(0));
        state.slots[usize::from(number)] = Slot::Sent {
            buffer,
            waker: None,
            abandoned: false,
        };
        Poll::Ready(Ok(number))
    }

    /// Checks that `blocks` from `lba` on are there.
    fn check(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        let end = lba.checked_add(blocks).ok_or(BlockError::Invalid)?;
        let fits = blocks != 0 && end <= self.identity.blocks;
        fits.then_some(()).ok_or(BlockError::Invalid)
    }

    async fn transfer(&self, operation: Operation, lba: u64, buffer: Buffer) -> Completion {
        let block = self.identity.block_bytes as usize;
        let blocks = buffer.len() / block;
        let fits = buffer.len().is_multiple_of(block)
            && blocks <= self.geometry().max_blocks as usize
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
        const STEP: u64 = 1 << 16;
        self.check(lba, blocks)?;
        let mut done = 0;
        while done < blocks {
            let step = (blocks - done).min(STEP);
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
}

/// Returns the bus addresses of a buffer's pages.
fn pages_of(buffer: &Buffer) -> Option<Vec<u64>> {
    let pages = buffer.chunks(PAGE);
    pages.map(|page| bus_address(page.as_ptr())).collect()
}

impl BlockDevice for NvmeDisk {
    fn geometry(&self) -> Geometry {
        let identity = &self.identity;
        Geometry {
            logical_block: identity.block_bytes,
            physical_block: identity.block_bytes,
            blocks: identity.blocks,
            max_blocks: (identity.pages_max * PAGE) as u32 / identity.block_bytes,
            volatile_cache: identity.has_cache,
            fua: true,
            discard: identity.can_discard,
            compare_and_write_blocks: 0,
        }
    }

    async fn read(&self, lba: u64, buffer: Buffer) -> Completion {
        self.transfer(Operation::Read, lba, buffer).await
    }

    async fn write(&self, lba: u64, buffer: Buffer, durability: Durability) -> Completion {
        let fua = durability == Durability::Fua;
        self.transfer(Operation::Write { fua }, lba, buffer).await
    }

    async fn flush(&self) -> Result<(), BlockError> {
        let request = Request {
            operation: Operation::Flush,
            lba: 0,
            blocks: 0,
        };
        self.run(request, Buffer::zeroed(0)).await.1
    }

    async fn discard(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        if !self.identity.can_discard {
            return self.check(lba, blocks);
        }
        self.without_data(Operation::Discard, lba, blocks).await
    }

    async fn write_zeroes(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        if !self.identity.can_zero {
            return Err(BlockError::Unsupported);
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
        poll_fn(|cx| {
            let mut state = self.state.lock();
            let abandoned = |slot: &Slot| {
                matches!(
                    slot,
                    Slot::Sent {
                        abandoned: true,
                        ..
                    }
                )
            };
            if !state.slots.iter().any(abandoned) {
                return Poll::Ready(());
            }
            state.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
