//! Requests of block drivers, as a state machine between a device's queue and the futures that wait.
//!
//! [`Requests`] has a slot for each request that a device may have at a time. A slot keeps the request's buffer until the
//! device has answered or was reset, whether somebody still waits or not. Who calls it, under which lock and with which
//! clock, is the kernel's; how a device is told and reset is the driver's ([`Queue`]).
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used)]
#![cfg_attr(
    not(test),
    deny(clippy::arithmetic_side_effects, clippy::indexing_slicing)
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use api::block::{BlockError, Buffer};
use api::time::HostInstant;
use core::task::{Poll, Waker};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads blocks.
    Read,
    /// Writes blocks; durable when it completes if `fua` is set.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Makes all completed writes durable.
    Flush,
    /// Makes blocks read as zeros.
    WriteZeroes,
    /// Tells that blocks hold nothing of value.
    Discard,
}

/// A request for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub operation: Operation,
    /// First block.
    pub lba: u64,
    /// Blocks, 1 to 65,536; 0 for a flush.
    pub blocks: u32,
}

impl Request {
    /// Tells whether doing it twice is as good as once, whatever others do meanwhile.
    const fn is_repeatable(&self) -> bool {
        matches!(self.operation, Operation::Read | Operation::Flush)
    }
}

/// Why a queue did not take a request: it is longer than the device takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// How a request ended.
pub type Answer = Result<(), BlockError>;

/// A queue of a device.
pub trait Queue {
    /// Returns how many requests it can have at a time, at least 1.
    fn slots(&self) -> u16;

    /// Hands a request to the device in `slot`, which is free. `pages` are the bus addresses of its data, a page each.
    ///
    /// # Errors
    /// [`TooLong`]; nothing was sent.
    fn submit(&mut self, slot: u16, request: &Request, pages: &[u64]) -> Result<(), TooLong>;

    /// Returns a slot whose request the device says it has completed, if any, and how. Devices may say anything.
    fn complete(&mut self) -> Option<(u16, Answer)>;

    /// Tells whether the device is not there any more.
    fn is_gone(&self) -> bool;
}

/// What became of a slot.
#[derive(Debug)]
enum Slot {
    Free,
    /// The device has it; the buffer with it.
    Sent {
        request: Request,
        pages: Vec<u64>,
        buffer: Buffer,
        waker: Option<Waker>,
        /// Nobody waits any more.
        abandoned: bool,
        deadline: HostInstant,
        /// It was sent again after a reset.
        again: bool,
    },
    Done {
        buffer: Buffer,
        answer: Answer,
    },
    /// The device is beyond help, and may still use the buffer.
    Lost {
        _buffer: Buffer,
        told: bool,
    },
}

/// How things stand with the device.
#[derive(Debug)]
enum Device<Q> {
    Running(Q),
    /// Somebody resets it.
    Resetting,
    Dead,
}

/// The requests of one queue. Wakers that a call returns are to be woken after it, without the lock.
#[derive(Debug)]
pub struct Requests<Q> {
    device: Device<Q>,
    slots: Vec<Slot>,
    /// Who waits for a slot to become free, or for abandoned ones to end.
    waiting: Vec<Waker>,
    /// Nanoseconds that a request may take.
    patience: u64,
    /// Who looks for overdue requests, while there are none to look at.
    watcher: Option<Waker>,
}

/// What a look at the time says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Nothing is under way: the next request wakes the watcher.
    Idle,
    /// Requests are under way, none too long.
    Busy,
    /// A request is overdue: the device must be reset.
    Overdue,
    /// The device is not there any more.
    Gone,
}

impl<Q: Queue> Requests<Q> {
    /// Makes the requests of a queue, each of which may take `patience` nanoseconds.
    #[must_use]
    pub fn new(queue: Q, patience: u64) -> Self {
        let slots = (0..queue.slots()).map(|_| Slot::Free).collect();
        Self {
            device: Device::Running(queue),
            slots,
            waiting: Vec::new(),
            patience,
            watcher: None,
        }
    }

    /// Sends a request as soon as a slot is free; `parts` are its pages and its buffer, which are taken. Returns its slot,
    /// which is the caller's until [`Self::poll`] or [`Self::abandon`], and whether the watcher is to be woken.
    ///
    /// # Errors
    /// [`BlockError::Invalid`] for one that is too long, [`BlockError::Gone`] if the device is.
    pub fn send(
        &mut self,
        now: HostInstant,
        request: &Request,
        parts: &mut Option<(Vec<u64>, Buffer)>,
        waker: &Waker,
    ) -> Poll<Result<(u16, Option<Waker>), BlockError>> {
        let queue = match &mut self.device {
            Device::Dead => return Poll::Ready(Err(BlockError::Gone)),
            Device::Resetting => {
                self.waiting.push(waker.clone());
                return Poll::Pending;
            }
            Device::Running(queue) => queue,
        };
        let free = |slot: &&mut Slot| matches!(slot, Slot::Free);
        let mut numbered = (0_u16..).zip(self.slots.iter_mut());
        let Some((number, slot)) = numbered.find(|(_, slot)| free(slot)) else {
            self.waiting.push(waker.clone());
            return Poll::Pending;
        };
        let Some((pages, buffer)) = parts.take() else {
            return Poll::Ready(Err(BlockError::Invalid));
        };
        if queue.submit(number, request, &pages).is_err() {
            *parts = Some((pages, buffer));
            return Poll::Ready(Err(BlockError::Invalid));
        }
        *slot = Slot::Sent {
            request: *request,
            pages,
            buffer,
            waker: None,
            abandoned: false,
            deadline: now.saturating_add(self.patience),
            again: false,
        };
        Poll::Ready(Ok((number, self.watcher.take())))
    }

    /// Takes what the device has completed. Answers to what it was not asked, or has answered, are nobody's; of those a
    /// call bears as many as there are slots, and leaves what is behind them to the next.
    pub fn take_completions(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        // Nobody sends meanwhile, so a device that tells the truth has no more answers than slots.
        for _ in 0..self.slots.len().saturating_mul(2) {
            let Device::Running(queue) = &mut self.device else {
                break;
            };
            let Some((number, answer)) = queue.complete() else {
                break;
            };
            self.end(number, answer, &mut woken);
        }
        woken
    }

    /// Ends a request that the device has done with.
    fn end(&mut self, number: u16, answer: Answer, woken: &mut Vec<Waker>) {
        let Some(slot) = self.slots.get_mut(usize::from(number)) else {
            return;
        };
        match core::mem::replace(slot, Slot::Free) {
            Slot::Sent {
                buffer,
                waker,
                abandoned: false,
                ..
            } => {
                *slot = Slot::Done { buffer, answer };
                woken.extend(waker);
            }
            Slot::Sent { .. } => woken.append(&mut self.waiting),
            other => *slot = other,
        }
    }

    /// Returns the answer to the request in a slot, once; the slot is free then. A buffer that the device may still use
    /// does not come back: an empty one comes.
    pub fn poll(&mut self, number: u16, waker: &Waker) -> Poll<(Buffer, Answer, Vec<Waker>)> {
        let Some(slot) = self.slots.get_mut(usize::from(number)) else {
            return Poll::Pending;
        };
        match core::mem::replace(slot, Slot::Free) {
            Slot::Done { buffer, answer } => {
                Poll::Ready((buffer, answer, core::mem::take(&mut self.waiting)))
            }
            Slot::Lost { _buffer, .. } => {
                *slot = Slot::Lost {
                    _buffer,
                    told: true,
                };
                Poll::Ready((Buffer::zeroed(0), Err(BlockError::Gone), Vec::new()))
            }
            mut other => {
                if let Slot::Sent { waker: place, .. } = &mut other {
                    *place = Some(waker.clone());
                }
                *slot = other;
                Poll::Pending
            }
        }
    }

    /// Nobody waits for the request in this slot any more.
    pub fn abandon(&mut self, number: u16) -> Vec<Waker> {
        let Some(slot) = self.slots.get_mut(usize::from(number)) else {
            return Vec::new();
        };
        match slot {
            Slot::Sent { abandoned, .. } => {
                *abandoned = true;
                Vec::new()
            }
            Slot::Done { .. } => {
                *slot = Slot::Free;
                core::mem::take(&mut self.waiting)
            }
            Slot::Lost { told, .. } => {
                *told = true;
                Vec::new()
            }
            Slot::Free => Vec::new(),
        }
    }

    /// Completes when the device has no request for which nobody waits.
    pub fn drained(&mut self, waker: &Waker) -> Poll<()> {
        let abandoned = |slot: &Slot| {
            matches!(
                slot,
                Slot::Sent {
                    abandoned: true,
                    ..
                }
            )
        };
        if !self.slots.iter().any(abandoned) {
            return Poll::Ready(());
        }
        self.waiting.push(waker.clone());
        Poll::Pending
    }

    /// Looks at the time, after completions were taken; `waker` is woken by the next request if nothing is under way.
    pub fn watch(&mut self, now: HostInstant, waker: &Waker) -> Watch {
        if let Device::Running(queue) = &self.device
            && queue.is_gone()
        {
            return Watch::Gone;
        }
        let mut deadlines = self.slots.iter().filter_map(|slot| match slot {
            Slot::Sent { deadline, .. } => Some(*deadline),
            _ => None,
        });
        match deadlines.next() {
            None => {
                self.watcher = Some(waker.clone());
                Watch::Idle
            }
            Some(first) if deadlines.fold(first, HostInstant::min) <= now => Watch::Overdue,
            Some(_) => Watch::Busy,
        }
    }

    /// Takes the queue for a reset of its device; new requests wait. `None` if it is being reset already, or dead.
    pub fn stop(&mut self) -> Option<Q> {
        match core::mem::replace(&mut self.device, Device::Resetting) {
            Device::Running(queue) => Some(queue),
            other => {
                self.device = other;
                None
            }
        }
    }

    /// Goes on with a queue of the device after its reset: nothing that was sent before can take effect any more. What
    /// may be done twice is sent again, once; the rest ends with [`BlockError::TimedOut`].
    pub fn restart(&mut self, now: HostInstant, mut queue: Q) -> Vec<Waker> {
        let mut woken = Vec::new();
        let deadline_now = now.saturating_add(self.patience);
        for number in 0..u16::try_from(self.slots.len()).unwrap_or(u16::MAX) {
            let resent = match self.slots.get_mut(usize::from(number)) {
                Some(Slot::Sent {
                    request,
                    pages,
                    abandoned: false,
                    deadline,
                    again,
                    ..
                }) if request.is_repeatable() && !*again => {
                    *deadline = deadline_now;
                    *again = true;
                    queue.submit(number, request, pages).is_ok()
                }
                _ => false,
            };
            if !resent {
                self.end(number, Err(BlockError::TimedOut), &mut woken);
            }
        }
        self.device = Device::Running(queue);
        woken.append(&mut self.waiting);
        woken
    }

    /// Gives the device up: everything ends with [`BlockError::Gone`], now and from now on. The device may still use the
    /// buffers of what it had, so they stay where they are.
    pub fn give_up(&mut self) -> Vec<Waker> {
        let mut woken = core::mem::take(&mut self.waiting);
        self.device = Device::Dead;
        for slot in &mut self.slots {
            match core::mem::replace(slot, Slot::Free) {
                Slot::Sent {
                    buffer,
                    waker,
                    abandoned,
                    ..
                } => {
                    woken.extend(waker);
                    *slot = Slot::Lost {
                        _buffer: buffer,
                        told: abandoned,
                    };
                }
                other => *slot = other,
            }
        }
        woken
    }
}
