//! One running VM as its vCPUs and tasks share it: RAM, clock, links, the board under its lock, and why it ends.

use crate::memory::ranks;
use crate::vm::board::Routing;
use crate::vm::clock::VmClock;
use crate::vm::link::{self, VcpuLink};
use crate::vm::ram::GuestRam;
use crate::vm::serial::Serial;
use crate::worlds::VmGroup;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use arch::sync::SpinLock;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::task::Waker;
use machine::Chipset;

/// What is known of a fault that ended a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// In a sentence.
    pub what: String,
    /// The vCPU that caused it.
    pub vcpu: u32,
    /// Where that vCPU was.
    pub rip: u64,
    /// Registers and such, a line each.
    pub details: Vec<String>,
}

/// Why a vCPU or the whole VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The guest turned itself off.
    PowerOff,
    /// The guest reset the machine.
    Reset,
    /// The administrator ended the VM.
    Killed,
    /// A test device ended the run with this value.
    TestExit(u32),
    /// The architecture leaves nothing to go on with, or our state of the VM is wrong.
    Fault(Box<Fault>),
    /// Another vCPU ended the VM.
    Ended,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("powered off by the guest"),
            Self::Reset => f.write_str("reset by the guest"),
            Self::Killed => f.write_str("killed"),
            Self::TestExit(value) => write!(f, "ended by the test device with {value:#x}"),
            Self::Fault(fault) => f.write_str(&fault.what),
            Self::Ended => f.write_str("ended with the VM"),
        }
    }
}

/// One running VM.
#[derive(Debug)]
pub struct VmShared {
    /// Its name. [const after init]
    pub name: String,
    /// A number that no other run of a VM on this host has. [const after init]
    pub(super) number: u64,
    /// Its RAM.
    pub ram: Arc<GuestRam>,
    /// Its virtual time.
    pub clock: VmClock,
    /// Its vCPUs, by number. [const after init]
    pub links: Vec<Arc<VcpuLink>>,
    /// Its serial ports' host side.
    pub serial: Arc<Serial>,
    /// Its place in the scheduler.
    pub group: VmGroup,
    pub(super) board: SpinLock<Chipset>,
    pub(super) routing: SpinLock<Routing>,
    paused: AtomicBool,
    /// Suspended to RAM (ACPI S3) until a wake event.
    pub(super) suspended: AtomicBool,
    /// Real-mode address at which the first vCPU resumes.
    pub(super) waking_vector: AtomicU32,
    has_stop: AtomicBool,
    stop: SpinLock<Option<StopReason>>,
    /// Virtual time, in ns, of the board's next timer; `u64::MAX` for none. [written under the board's lock]
    pub(super) board_deadline: AtomicU64,
    /// Wakes the board's task when the deadline moved forward.
    board_waker: SpinLock<Option<Waker>>,
}

impl VmShared {
    /// Makes a VM that stands still: its clock is paused.
    #[must_use]
    pub fn new(
        name: String,
        ram: Arc<GuestRam>,
        links: Vec<Arc<VcpuLink>>,
        board: Chipset,
        routing: SpinLock<Routing>,
        serial: Arc<Serial>,
        group: VmGroup,
    ) -> Self {
        static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);
        Self {
            name,
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            ram,
            clock: VmClock::new_stopped(u32::try_from(links.len()).unwrap_or(u32::MAX)),
            links,
            serial,
            group,
            board: SpinLock::new(ranks::CHIPSET, board),
            routing,
            paused: AtomicBool::new(false),
            suspended: AtomicBool::new(false),
            waking_vector: AtomicU32::new(0),
            has_stop: AtomicBool::new(false),
            stop: SpinLock::new(ranks::WAKER, None),
            board_deadline: AtomicU64::new(u64::MAX),
            board_waker: SpinLock::new(ranks::WAKER, None),
        }
    }

    /// Tells whether the VM is paused.
    #[must_use]
    #[inline]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Pauses or resumes the VM; false when it was so already. Control tasks only, which run on one CPU.
    pub fn set_paused(&self, paused: bool) -> bool {
        if self.is_paused() == paused {
            return false;
        }
        if paused {
            self.clock.pause();
        } else {
            // Before the flag, so that who sees the VM run sees its clock as it is now.
            self.clock.resume();
        }
        self.paused.store(paused, Ordering::Release);
        self.links
            .iter()
            .for_each(|l| l.request(link::REQUEST_PAUSE));
        self.wake_board();
        true
    }

    /// Ends the VM; the first reason counts, but a VM that is killed does not come back from its reset.
    pub fn end(&self, reason: StopReason) {
        let mut stop = self.stop.lock();
        let kills_reset = reason == StopReason::Killed && *stop == Some(StopReason::Reset);
        if stop.is_none() || kills_reset {
            *stop = Some(reason);
        }
        drop(stop);
        self.has_stop.store(true, Ordering::Release);
        self.links.iter().for_each(|l| l.request(link::REQUEST_END));
        self.wake_board();
        self.serial.wake();
    }

    /// Returns why the VM ends, if it does.
    #[must_use]
    #[inline]
    pub fn take_stop(&self) -> Option<StopReason> {
        if self.has_stop() {
            self.stop_reason()
        } else {
            None
        }
    }

    /// Tells whether the VM ends.
    #[inline(always)]
    pub(super) fn has_stop(&self) -> bool {
        self.has_stop.load(Ordering::Acquire)
    }

    #[cold]
    fn stop_reason(&self) -> Option<StopReason> {
        self.stop.lock().clone()
    }

    /// Registers the board's task for [`Self::wake_board`].
    pub(super) fn set_board_waker(&self, waker: &Waker) {
        *self.board_waker.lock() = Some(waker.clone());
    }

    /// Wakes the board's task: its next deadline changed, or the VM ends or pauses.
    pub(super) fn wake_board(&self) {
        let waker = self.board_waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
