//! The heartbeat: the future that keeps this host alive for the others, and cleans up behind operations that were left
//! in the middle.

use core::sync::atomic::{AtomicBool, Ordering};

use api::block::{BlockDevice, BlockError};
use api::time::Clock;

use crate::area::Backend;
use crate::error::LockError;
use crate::image::Image;
use crate::service::{Locks, Own, ROUNDS};
use crate::slot::{Slot, SlotState};
use crate::step::{AtomicStep, Fence, Swap};

/// Beats that the device refused are tried again this much more often than others, as a power of two.
const RETRY_SHIFT: u32 = 2;

/// How soon a future looks again whether another one has done with the own slot.
const TURN_NANOS: u64 = 10_000_000;

/// The right to change the own slot.
#[derive(Debug)]
pub(crate) struct OwnTurn<'a>(&'a AtomicBool);

impl Drop for OwnTurn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<D: BlockDevice, C: Clock> Locks<D, C> {
    /// Keeps this host's lease until it cannot be kept any more, and returns why. While the device fails it goes on
    /// trying: as long as nobody takes the slot over, nothing is lost but time.
    pub async fn keep_alive(&self) -> LockError {
        let beat_nanos = self.area.terms.beat_nanos();
        let mut next = self.after(beat_nanos);
        loop {
            self.clock.sleep_until(next).await;
            next = match self.beat().await {
                Ok(()) => next.max(self.clock.now()).saturating_add(beat_nanos),
                Err(error) if self.is_final(error) => {
                    self.lease.end();
                    return error;
                }
                Err(_) => self.after(beat_nanos >> RETRY_SHIFT),
            };
            self.mend().await;
        }
    }

    fn is_final(&self, error: LockError) -> bool {
        match error {
            LockError::Lost | LockError::Corrupt { .. } => true,
            // A plain write must not be sent after the deadline, so there is no way back.
            LockError::Device(BlockError::Fenced) => self.own_fence() == Fence::Lease,
            _ => false,
        }
    }

    /// Writes a beat into this host's slot and extends the lease.
    ///
    /// # Errors
    ///
    /// Returns [`LockError::Lost`] if the slot is not this host's any more.
    pub(crate) async fn beat(&self) -> Result<(), LockError> {
        let _turn = self.own_turn().await;
        let cell = self.area.slot_cell(self.me.slot);
        let mut expected = self.own.lock().image.clone();
        for _ in 0..ROUNDS {
            let slot = self.next_beat(self.own_slot(&expected)?);
            let image = slot.encode();
            // The others count from the moment at which they see the beat, which is later than this.
            let sent = self.clock.now();
            let swap = self.step.swap(cell, &expected, &image, self.own_fence());
            match swap.await? {
                Swap::Done => {
                    *self.own.lock() = Own { slot, image };
                    self.lease
                        .extend(sent.saturating_add(self.area.terms.working_nanos()));
                    return Ok(());
                }
                // A beat of this host whose end it did not see, if it is not lost.
                Swap::Found(found) => expected = found,
            }
        }
        Err(LockError::Contended { lba: cell.0 })
    }

    fn next_beat(&self, last: Slot) -> Slot {
        let (state, generation) = if self.inherits.load(Ordering::Acquire) {
            (last.state, last.generation)
        } else {
            (SlotState::Live, self.me.generation)
        };
        Slot {
            state,
            generation,
            counter: last.counter.wrapping_add(1),
            token: self.tokens.next(),
            wanted: self.wanted.load(Ordering::Relaxed),
            ..last
        }
    }

    /// Waits until no other future of this service changes the own slot, and keeps it so.
    pub(crate) async fn own_turn(&self) -> OwnTurn<'_> {
        while self.own_busy.swap(true, Ordering::Acquire) {
            self.clock.sleep_until(self.after(TURN_NANOS)).await;
        }
        OwnTurn(&self.own_busy)
    }

    /// Reads this host's slot from an image of it.
    ///
    /// # Errors
    ///
    /// Returns [`LockError::Lost`] if it is another's, or being replayed by another.
    pub(crate) fn own_slot(&self, image: &Image) -> Result<Slot, LockError> {
        let cell = self.area.slot_cell(self.me.slot);
        let slot = Slot::decode(image, self.me.slot, cell.0)?;
        let mine = match slot.state {
            SlotState::Live => slot.generation == self.me.generation,
            SlotState::Replaying(by) => by == self.me,
            SlotState::Free => false,
        };
        if mine && self.tokens.made(slot.token) {
            Ok(slot)
        } else {
            Err(LockError::Lost)
        }
    }

    /// Whether changes of the own slot need the lease: a compare-and-write harms nobody however late it is.
    pub(crate) const fn own_fence(&self) -> Fence {
        match self.area.backend {
            Backend::CompareAndWrite | Backend::Local => Fence::None,
            Backend::Paxos => Fence::Lease,
        }
    }

    /// Releases the locks that operations left in doubt, as far as the device lets it.
    pub(crate) async fn mend(&self) {
        self.quiesce().await;
        // Found and begun in one step: the lock may be acquired anew at any time.
        while let Some(change) = self.begin_doubtful() {
            // One failure is enough: the device is not well, and the next beat comes back here.
            if self.finish_release(change).await.is_err() {
                return;
            }
            self.quiesce().await;
        }
    }
}
