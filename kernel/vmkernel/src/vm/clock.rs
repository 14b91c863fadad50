//! A VM's virtual time: the host's TSC less what it was when the VM started, standing still while the VM is paused.

use crate::memory::ranks;
use crate::timer;
use api::time::VmInstant;
use arch::cpu::rdtsc;
use arch::sync::SpinLock;
use core::sync::atomic::{AtomicU64, Ordering};
use machine::{Pause, PauseNumber};

/// The clock of one VM. Reading it takes no lock while it runs.
#[derive(Debug)]
pub struct VmClock {
    /// Host TSC at virtual time 0; moves forward by the length of each pause. [written under `pause`]
    base: AtomicU64,
    /// Host TSC when the clock stopped; 0 while it runs. [written under `pause`]
    stopped_at: AtomicU64,
    pause: SpinLock<Pause>,
}

impl VmClock {
    /// Makes the clock of a VM with `vcpus` vCPUs, none of which runs; it stands at 0 until [`Self::resume`].
    #[must_use]
    pub fn new_stopped(vcpus: u32) -> Self {
        let now = rdtsc();
        Self {
            base: AtomicU64::new(now),
            stopped_at: AtomicU64::new(now),
            pause: SpinLock::new(ranks::CLOCK, Pause::before_start(vcpus, now)),
        }
    }

    /// Lets the clock stop as soon as all vCPUs have parked.
    pub fn pause(&self) {
        self.pause.lock().begin();
    }

    /// Notes that a vCPU stands still until the VM goes on; `last` is the pause in which it did so last.
    pub fn park(&self, last: &mut PauseNumber) {
        let mut pause = self.pause.lock();
        pause.park(last, rdtsc());
        self.publish(&pause);
    }

    /// Lets the clock go on where it stopped.
    pub fn resume(&self) {
        let mut pause = self.pause.lock();
        self.base.fetch_add(pause.end(rdtsc()), Ordering::AcqRel);
        self.publish(&pause);
    }

    fn publish(&self, pause: &Pause) {
        let stopped_at = pause.stopped_at().unwrap_or(0);
        self.stopped_at.store(stopped_at, Ordering::Release);
    }

    /// Tells whether the VM is paused and all its vCPUs have parked.
    #[must_use]
    pub fn stands_still(&self) -> bool {
        self.stopped_at.load(Ordering::Acquire) != 0
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
        if self.stopped_at.load(Ordering::Acquire) == 0 {
            rdtsc().saturating_sub(self.base())
        } else {
            self.ticks_in_pause()
        }
    }

    /// As [`Self::ticks`], by a look at both numbers that no end of the pause comes between.
    #[cold]
    fn ticks_in_pause(&self) -> u64 {
        let pause = self.pause.lock();
        let end = pause.stopped_at().unwrap_or_else(rdtsc);
        end.saturating_sub(self.base())
    }

    /// Returns virtual time.
    #[must_use]
    #[inline]
    pub fn now(&self) -> VmInstant {
        VmInstant::from_nanos(timer::clock().nanos(self.ticks()))
    }

    /// Returns the host TSC at which virtual time reaches `instant`, if no pause comes between.
    #[must_use]
    pub fn host_tsc_at(&self, instant: VmInstant) -> u64 {
        self.base()
            .saturating_add(timer::clock().ticks(instant.as_nanos()))
    }
}
