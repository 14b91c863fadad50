//! What others may do to a vCPU while it runs or waits: post interrupts, ask it to stop, know its APIC's identity.
//!
//! Posting takes no lock but the waker's slot; the vCPU takes what was posted before its next entry.

use crate::exec;
use crate::memory::ranks;
use crate::vm::vcpu::EXIT_REASONS;
use arch::sync::SpinLock;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use core::task::Waker;
use devices::message::{ApicMessage, Delivery};

/// A non-maskable interrupt was posted.
pub const REQUEST_NMI: u32 = 1;
/// An INIT was posted.
pub const REQUEST_INIT: u32 = 1 << 1;
/// A startup IPI was posted; its vector is in [`VcpuLink::startup_vector`].
pub const REQUEST_STARTUP: u32 = 1 << 2;
/// Vectors were posted.
pub const REQUEST_VECTORS: u32 = 1 << 3;
/// The INTR line of the interrupt controllers changed.
pub const REQUEST_EXTINT: u32 = 1 << 4;
/// The vCPU shall end.
pub const REQUEST_END: u32 = 1 << 5;
/// The vCPU shall look at the VM's pause flag.
pub const REQUEST_PAUSE: u32 = 1 << 6;
/// The machine was suspended to RAM: stop until [`REQUEST_RESUME`].
pub const REQUEST_SUSPEND: u32 = 1 << 8;
/// The machine woke up: the first vCPU starts at the waking vector, the others wait for a startup IPI.
pub const REQUEST_RESUME: u32 = 1 << 9;
/// The nested tables lost mappings or rights: flush.
pub const REQUEST_FLUSH: u32 = 1 << 7;

/// The bit of a place that says that the vCPU is there now; the host CPU's number is above it.
const HERE: u32 = 1;

/// The shared side of one vCPU.
#[derive(Debug)]
pub struct VcpuLink {
    /// Host CPU that it is or was on, and [`HERE`] while it is there. [written by the vCPU]
    place: AtomicU32,
    requests: AtomicU32,
    vectors: [AtomicU64; 4],
    level: [AtomicU64; 4],
    startup_vector: AtomicU8,
    /// NMIs posted and not taken yet; beyond 2 they are one.
    nmis: AtomicU8,
    /// The 8259 pair drives INTR.
    extint: AtomicBool,
    waker: SpinLock<Option<Waker>>,
    /// Flushes that were asked for by [`Self::ask_flush`], and those that were done.
    flushes: AtomicU64,
    flushed: AtomicU64,
    /// Exits so far by [`EXIT_REASONS`]. [written by the vCPU]
    pub exits: [AtomicU64; EXIT_REASONS.len()],
    /// TSC ticks spent in the guest and on its behalf. [written by the vCPU]
    pub busy_ticks: AtomicU64,
    /// RIP at the last look. [written by the vCPU]
    pub rip: AtomicU64,
}

impl Default for VcpuLink {
    fn default() -> Self {
        Self::new()
    }
}

impl VcpuLink {
    /// Makes the link of a vCPU that is on no host CPU yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            place: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            vectors: [const { AtomicU64::new(0) }; 4],
            level: [const { AtomicU64::new(0) }; 4],
            startup_vector: AtomicU8::new(0),
            nmis: AtomicU8::new(0),
            extint: AtomicBool::new(false),
            waker: SpinLock::new(ranks::WAKER, None),
            flushes: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            exits: [const { AtomicU64::new(0) }; EXIT_REASONS.len()],
            busy_ticks: AtomicU64::new(0),
            rip: AtomicU64::new(0),
        }
    }

    /// Returns the host CPU that it is or was on.
    #[must_use]
    pub fn cpu(&self) -> u32 {
        self.place.load(Ordering::Relaxed) >> 1
    }

    /// Notes that the vCPU comes to host CPU `cpu`. What was requested before is seen after this; who requests something
    /// later sees where the vCPU is.
    pub(super) fn arrive(&self, cpu: u32) {
        self.place.swap(cpu << 1 | HERE, Ordering::SeqCst);
    }

    /// Notes that the vCPU leaves its host CPU.
    pub(super) fn leave(&self) {
        self.place.fetch_and(!HERE, Ordering::Release);
    }

    /// Tells whether anything was posted.
    #[must_use]
    #[inline]
    pub fn has_requests(&self) -> bool {
        self.requests.load(Ordering::Relaxed) != 0
    }

    /// Returns all exits so far.
    #[must_use]
    pub fn exits_total(&self) -> u64 {
        self.exits.iter().map(|c| c.load(Ordering::Relaxed)).sum()
    }

    /// Takes what was posted: an OR of the `REQUEST_` bits.
    pub fn take_requests(&self) -> u32 {
        self.requests.swap(0, Ordering::AcqRel)
    }

    /// Takes the posted vectors; `accept` gets each with its trigger mode.
    pub fn take_vectors(&self, mut accept: impl FnMut(u8, bool)) {
        for (index, word) in self.vectors.iter().enumerate() {
            let mut bits = word.swap(0, Ordering::AcqRel);
            let level = self.level[index].load(Ordering::Relaxed);
            while bits != 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                accept((index as u32 * 64 + bit) as u8, level >> bit & 1 != 0);
            }
        }
    }

    /// Takes the NMIs that were posted: how many, at most 2.
    pub fn take_nmis(&self) -> u8 {
        self.nmis.swap(0, Ordering::AcqRel)
    }

    /// Returns the vector of the last startup IPI.
    #[must_use]
    pub fn startup_vector(&self) -> u8 {
        self.startup_vector.load(Ordering::Acquire)
    }

    /// Tells whether the 8259 pair drives INTR.
    #[must_use]
    pub fn extint(&self) -> bool {
        self.extint.load(Ordering::Acquire)
    }

    /// Sets the INTR line.
    pub fn set_extint(&self, level: bool) {
        if self.extint.swap(level, Ordering::AcqRel) != level && level {
            self.request(REQUEST_EXTINT);
        }
    }

    /// Posts a request and makes the vCPU look at it soon.
    pub fn request(&self, bits: u32) {
        if self.requests.fetch_or(bits, Ordering::SeqCst) & bits != bits {
            self.wake();
        }
    }

    /// Asks for a flush; [`Self::has_flushed`] takes the number that this returns.
    pub fn ask_flush(&self) -> u64 {
        let number = self.flushes.fetch_add(1, Ordering::AcqRel) + 1;
        self.request(REQUEST_FLUSH);
        number
    }

    /// Tells whether the vCPU has dropped its translations since flush `number` was asked for.
    #[must_use]
    pub fn has_flushed(&self, number: u64) -> bool {
        self.flushed.load(Ordering::Acquire) >= number
    }

    /// Returns the flushes that were asked for, for [`Self::note_flushed`] after it was done.
    #[must_use]
    pub(super) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Acquire)
    }

    /// Notes that flushes up to `number` are done: the guest runs without old translations from here on.
    pub(super) fn note_flushed(&self, number: u64) {
        self.flushed.store(number, Ordering::Release);
    }

    /// Delivers a message that addresses this vCPU.
    pub fn deliver(&self, message: &ApicMessage) {
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                let (word, bit) = (
                    usize::from(message.vector) / 64,
                    1_u64 << (message.vector % 64),
                );
                if message.level {
                    self.level[word].fetch_or(bit, Ordering::Relaxed);
                } else {
                    self.level[word].fetch_and(!bit, Ordering::Relaxed);
                }
                self.vectors[word].fetch_or(bit, Ordering::Release);
                self.request(REQUEST_VECTORS);
            }
            Delivery::Nmi => {
                let more = |count: u8| (count < 2).then_some(count + 1);
                // A full count is no failure: the NMI is one with those that wait.
                let _ = self
                    .nmis
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
                self.request(REQUEST_NMI);
            }
            Delivery::Init => self.request(REQUEST_INIT),
            Delivery::Startup => {
                self.startup_vector.store(message.vector, Ordering::Release);
                self.request(REQUEST_STARTUP);
            }
            Delivery::ExtInt => self.request(REQUEST_EXTINT),
            // Guests see no system-management mode.
            Delivery::Smi => {}
        }
    }

    /// Registers who is woken by the next request; the caller looks at the requests once more afterwards.
    pub fn set_waker(&self, waker: &Waker) {
        *self.waker.lock() = Some(waker.clone());
    }

    fn wake(&self) {
        let waker = self.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
        // A waker from an earlier wait only marks a vCPU that runs now: it must come out of its guest as well.
        let place = self.place.load(Ordering::SeqCst);
        if place & HERE != 0 {
            exec::poke(place >> 1);
        }
    }
}
