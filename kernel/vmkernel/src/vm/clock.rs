//! A VM's virtual time: the host's TSC less what it was when the VM started, standing still while the VM is paused.

use crate::timer;
use api::time::VmInstant;
use arch::cpu::rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};

/// The clock of one VM. Reading it takes no lock.
#[derive(Debug)]
pub struct VmClock {
    /// Host TSC at virtual time 0; moves forward by the length of each pause.
    base: AtomicU64,
    /// Host TSC when the running pause began; 0 while the VM runs. [changed by control tasks only]
    paused_at: AtomicU64,
}

impl VmClock {
    /// Makes a clock that stands at 0 until [`Self::resume`].
    #[must_use]
    pub fn new_paused() -> Self {
        let now = rdtsc();
        Self {
            base: AtomicU64::new(now),
            paused_at: AtomicU64::new(now),
        }
    }

    /// Stops the clock.
    pub fn pause(&self) {
        self.paused_at.store(rdtsc(), Ordering::Release);
    }

    /// Lets the clock go on where it stopped.
    pub fn resume(&self) {
        let paused_at = self.paused_at.swap(0, Ordering::AcqRel);
        if paused_at != 0 {
            self.base
                .fetch_add(rdtsc().saturating_sub(paused_at), Ordering::AcqRel);
        }
    }

    /// Returns the host TSC at virtual time 0.
    #[must_use]
    #[inline]
    pub fn base(&self) -> u64 {
        self.base.load(Ordering::Acquire)
    }

    /// Returns virtual time in ticks.
    #[must_use]
    #[inline]
    pub fn ticks(&self) -> u64 {
        let end = match self.paused_at.load(Ordering::Acquire) {
            0 => rdtsc(),
            paused_at => paused_at,
        };
        end.saturating_sub(self.base())
    }

    /// Returns virtual time.
    #[must_use]
    #[inline]
    pub fn now(&self) -> VmInstant {
        VmInstant::from_nanos(timer::clock().nanos(self.ticks()))
    }

    /// Returns the host TSC at which virtual time reaches `instant`.
    #[must_use]
    pub fn host_tsc_at(&self, instant: VmInstant) -> u64 {
        // One tick more, so that a timer for the result never fires a rounding error early.
        self.base()
            .saturating_add(timer::clock().ticks(instant.as_nanos()))
            .saturating_add(1)
    }
}
