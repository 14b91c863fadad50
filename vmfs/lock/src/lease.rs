//! The lease: until when this host may write, and whether writes of unknown fate may still take effect.
//!
//! Shared by the service that renews it and the gates that obey it. It holds a point in time and counts, and decides
//! nothing.

use core::sync::atomic::{AtomicU64, Ordering};

use api::time::HostInstant;

/// Until when this host may write.
#[derive(Debug)]
pub struct Lease {
    /// No write is sent at or after this time. Nanoseconds; 0 while there is no lease.
    deadline: AtomicU64,
    /// Writes whose end nobody saw, so far.
    unsettled: AtomicU64,
    /// How many of them had been seen to be over when the device was last drained.
    drained: AtomicU64,
}

impl Lease {
    /// Makes a lease that has not begun.
    pub(crate) const fn new() -> Self {
        Self {
            deadline: AtomicU64::new(0),
            unsettled: AtomicU64::new(0),
            drained: AtomicU64::new(0),
        }
    }

    /// Tells whether a write may be sent at `now`.
    #[must_use]
    pub fn is_open(&self, now: HostInstant) -> bool {
        now.as_nanos() < self.deadline.load(Ordering::Acquire)
    }

    /// Returns the time at which writing ends unless the lease is renewed.
    #[must_use]
    pub fn deadline(&self) -> HostInstant {
        HostInstant::from_nanos(self.deadline.load(Ordering::Acquire))
    }

    /// Returns how many writes whose end nobody saw there were, if some were not over when the device was last drained.
    pub(crate) fn undrained(&self) -> Option<u64> {
        let unsettled = self.unsettled.load(Ordering::Acquire);
        (unsettled != self.drained.load(Ordering::Acquire)).then_some(unsettled)
    }

    /// The device was drained after so many writes whose end nobody saw.
    pub(crate) fn note_drained(&self, unsettled: u64) {
        self.drained.fetch_max(unsettled, Ordering::AcqRel);
    }

    pub(crate) fn extend(&self, deadline: HostInstant) {
        self.deadline
            .fetch_max(deadline.as_nanos(), Ordering::AcqRel);
    }

    pub(crate) fn end(&self) {
        self.deadline.store(0, Ordering::Release);
    }

    /// Notes that the fate of a write is unknown.
    pub(crate) fn note_unsettled(&self) {
        self.unsettled.fetch_add(1, Ordering::AcqRel);
    }
}
