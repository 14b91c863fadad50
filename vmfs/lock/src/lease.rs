//! The lease: until when this host may write, and until when writes of unknown fate may still take effect.
//!
//! Shared by the service that renews it and the gates that obey it. It holds two points in time and decides nothing.

use core::sync::atomic::{AtomicU64, Ordering};

use api::time::HostInstant;

/// Until when this host may write.
#[derive(Debug)]
pub struct Lease {
    /// No write is sent at or after this time. Nanoseconds; 0 while there is no lease.
    deadline: AtomicU64,
    /// Until this time a write whose end nobody saw may still take effect. Nanoseconds.
    unsettled_until: AtomicU64,
    /// For how long a write that was sent may take effect. Nanoseconds.
    reclaim_nanos: u64,
}

impl Lease {
    /// Makes a lease that has not begun.
    pub(crate) const fn new(reclaim_nanos: u64) -> Self {
        Self {
            deadline: AtomicU64::new(0),
            unsettled_until: AtomicU64::new(0),
            reclaim_nanos,
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

    /// Returns the time from which on no write of unknown fate can take effect any more.
    #[must_use]
    pub fn unsettled_until(&self) -> HostInstant {
        HostInstant::from_nanos(self.unsettled_until.load(Ordering::Acquire))
    }

    pub(crate) fn extend(&self, deadline: HostInstant) {
        self.deadline
            .fetch_max(deadline.as_nanos(), Ordering::AcqRel);
    }

    pub(crate) fn end(&self) {
        self.deadline.store(0, Ordering::Release);
    }

    /// Notes that at `now` the fate of a write became unknown.
    pub(crate) fn note_unsettled(&self, now: HostInstant) {
        let until = now.saturating_add(self.reclaim_nanos);
        self.unsettled_until
            .fetch_max(until.as_nanos(), Ordering::AcqRel);
    }
}
