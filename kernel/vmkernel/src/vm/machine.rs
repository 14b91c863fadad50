//! One running VM as its vCPUs and tasks share it: RAM, clock, links, the board under its lock, and why it ends.

use crate::memory::ranks;
use crate::vm::board::Board;
use crate::vm::clock::VmClock;
use crate::vm::link::{self, VcpuLink};
use crate::vm::ram::GuestRam;
use crate::vm::serial::Serial;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use api::device::{MachineAction, Width};
use arch::sync::SpinLock;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::task::Waker;
use devices::message::{ApicMessage, Delivery, RoundRobin};

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
    /// Its RAM.
    pub ram: GuestRam,
    /// Its virtual time.
    pub clock: VmClock,
    /// Its vCPUs, by number. [const after init]
    pub links: Vec<Arc<VcpuLink>>,
    /// Its serial ports' host side.
    pub serial: Serial,
    pub(super) board: SpinLock<Board>,
    paused: AtomicBool,
    has_stop: AtomicBool,
    stop: SpinLock<Option<StopReason>>,
    /// Virtual time, in ns, of the board's next timer; `u64::MAX` for none. [written under the board's lock]
    pub(super) board_deadline: AtomicU64,
    /// Wakes the board's task when the deadline moved forward.
    board_waker: SpinLock<Option<Waker>>,
    lowest: SpinLock<RoundRobin>,
}

impl VmShared {
    /// Makes a VM that stands still: its clock is paused.
    #[must_use]
    pub fn new(
        name: String,
        ram: GuestRam,
        links: Vec<Arc<VcpuLink>>,
        board: Board,
        serial: Serial,
    ) -> Self {
        Self {
            name,
            ram,
            clock: VmClock::new_paused(),
            links,
            serial,
            board: SpinLock::new(ranks::CHIPSET, board),
            paused: AtomicBool::new(false),
            has_stop: AtomicBool::new(false),
            stop: SpinLock::new(ranks::WAKER, None),
            board_deadline: AtomicU64::new(u64::MAX),
            board_waker: SpinLock::new(ranks::WAKER, None),
            lowest: SpinLock::new(ranks::WAKER, RoundRobin::default()),
        }
    }

    /// Tells whether the VM is paused.
    #[must_use]
    #[inline]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Pauses or resumes the VM; false when it was so already.
    pub fn set_paused(&self, paused: bool) -> bool {
        if self.paused.swap(paused, Ordering::AcqRel) == paused {
            return false;
        }
        if paused {
            self.clock.pause();
        } else {
            self.clock.resume();
        }
        self.links
            .iter()
            .for_each(|l| l.request(link::REQUEST_PAUSE));
        self.wake_board();
        true
    }

    /// Ends the VM; the first reason counts.
    pub fn end(&self, reason: StopReason) {
        self.stop.lock().get_or_insert(reason);
        self.has_stop.store(true, Ordering::Release);
        self.links.iter().for_each(|l| l.request(link::REQUEST_END));
        self.wake_board();
        self.serial.wake();
    }

    /// Returns why the VM ends, if it does.
    #[must_use]
    #[inline]
    pub fn take_stop(&self) -> Option<StopReason> {
        if self.has_stop.load(Ordering::Acquire) {
            self.stop.lock().clone()
        } else {
            None
        }
    }

    /// Reads a port of the board.
    #[must_use]
    pub fn port_read(&self, port: u16, width: Width) -> u32 {
        let mut board = self.board.lock();
        let value = board.port_read(port, width, self);
        board.settle(self);
        value
    }

    /// Writes a port of the board.
    pub fn port_write(&self, port: u16, width: Width, value: u32) {
        let mut board = self.board.lock();
        board.port_write(port, width, value, self);
        board.settle(self);
    }

    /// Acknowledges the 8259 pair's interrupt.
    #[must_use]
    pub fn pic_ack(&self) -> u8 {
        let mut board = self.board.lock();
        let vector = board.pic_ack(self);
        board.settle(self);
        vector
    }

    /// Tells the I/O APIC of an EOI.
    pub fn end_of_interrupt(&self, vector: u8) {
        let mut board = self.board.lock();
        board.end_of_interrupt(vector);
        board.settle(self);
    }

    /// Looks at the board again after an APIC changed what it accepts.
    pub fn identities_changed(&self) {
        let level = self.links.first().is_some_and(|l| l.extint());
        if level {
            self.links
                .iter()
                .for_each(|l| l.request(link::REQUEST_EXTINT));
        }
    }

    /// Acts on what a device asked of the machine.
    pub(super) fn act(&self, action: MachineAction) {
        match action {
            MachineAction::PowerOff => self.end(StopReason::PowerOff),
            MachineAction::Reset => self.end(StopReason::Reset),
            MachineAction::InitCpu => {
                if let Some(first) = self.links.first() {
                    first.request(link::REQUEST_INIT);
                }
            }
            MachineAction::Sleep { state } => {
                crate::warn!(
                    "VM {}: the guest asked for sleep state S{state}, which is not offered",
                    self.name
                );
            }
            // The page keeps its frame: what a guest can see of the drop is the loss of cached translations.
            MachineAction::DropMapping { .. } => {
                self.links
                    .iter()
                    .for_each(|l| l.request(link::REQUEST_FLUSH));
            }
            MachineAction::TestExit { value } => self.end(StopReason::TestExit(value)),
        }
    }

    /// Delivers a message to the vCPUs that it addresses. `sender` is the vCPU that sent it, none for devices.
    pub fn send(&self, message: &ApicMessage, sender: Option<u32>) {
        let addressed = |index: usize| {
            let identity = self.links[index].identity();
            let is_sender = sender == Some(index as u32);
            message.destination.matches(&identity, is_sender) && identity.accepts(message.delivery)
        };
        let targets = (0..self.links.len()).filter(|i| addressed(*i));
        if message.delivery == Delivery::LowestPriority {
            let chosen = self
                .lowest
                .lock()
                .pick(targets.collect::<Vec<_>>().into_iter());
            if let Some(index) = chosen {
                self.links[index].deliver(message);
            }
            return;
        }
        targets.for_each(|index| self.links[index].deliver(message));
    }

    /// Runs the board's timers that are due; returns the next one in virtual nanoseconds, `u64::MAX` for none.
    pub(super) fn run_board_timers(&self) -> u64 {
        let mut board = self.board.lock();
        if !self.is_paused() {
            board.poll(self);
            board.settle(self);
        }
        self.board_deadline.load(Ordering::Acquire)
    }

    /// Presses the power button.
    pub fn power_button(&self) {
        let mut board = self.board.lock();
        board.power_button(self);
        board.settle(self);
    }

    /// Gives bytes to the guest's COM1; returns how many it took.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        let mut board = self.board.lock();
        let taken = board.receive(bytes);
        board.settle(self);
        taken
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
