//! A VM's board in the kernel: the chipset behind its lock, and what follows from each access.

use crate::memory::ranks;
use crate::timer;
use crate::vm::link;
use crate::vm::machine::{StopReason, VmShared};
use crate::vm::start::Blueprint;
use addr::Gpa;
use alloc::borrow::Cow;
use api::device::{MachineAction, Width};
use api::memory::GuestMemory;
use arch::sync::SpinLock;
use core::sync::atomic::Ordering;
use devices::fw_cfg::{FwCfg, key};
use devices::layout;
use devices::message::{ApicIdentity, ApicMessage, RoundRobin};
use devices::rtc::RtcConfig;
use loader::RamMap;
use machine::{Attention, Chipset, ChipsetConfig, Env};

/// Makes a chipset as firmware would leave it.
#[must_use]
pub fn new_chipset(blueprint: &Blueprint<'_>, map: &RamMap) -> Chipset {
    let high = map.high();
    let config = ChipsetConfig {
        rtc: RtcConfig {
            wall_clock_seconds: timer::wall_clock_seconds(),
            memory_below_4g: map.low_end(),
            memory_above_4g: high.end.saturating_sub(high.start),
        },
        keyboard: true,
        test_devices: blueprint.test_devices,
        fw_cfg: new_fw_cfg(blueprint),
    };
    let mut chipset = Chipset::new(config);
    chipset.prepare_for_direct_boot();
    chipset
}

fn new_fw_cfg(blueprint: &Blueprint<'_>) -> FwCfg {
    let mut fw_cfg = FwCfg::new();
    let vcpus = u16::try_from(blueprint.vcpus).unwrap_or(u16::MAX);
    fw_cfg.set_u64(key::RAM_SIZE, blueprint.memory_bytes);
    fw_cfg.set_u16(key::NB_CPUS, vcpus);
    fw_cfg.set_u16(key::MAX_CPUS, vcpus);
    let mut line = blueprint.command_line.as_bytes().to_vec();
    line.push(0);
    fw_cfg.set_u32(key::CMDLINE_SIZE, u32::try_from(line.len()).unwrap_or(0));
    // A definition's command line is far below the 4 GiB that an item may have.
    let _ = fw_cfg.set(key::CMDLINE_DATA, Cow::Owned(line));
    fw_cfg
}

/// Who takes an interrupt message.
#[derive(Debug)]
pub struct Routing {
    identities: alloc::vec::Vec<ApicIdentity>,
    turn: RoundRobin,
}

impl Routing {
    /// Makes the routing of a VM from its APICs' identities, by vCPU.
    #[must_use]
    pub fn new(identities: alloc::vec::Vec<ApicIdentity>) -> SpinLock<Self> {
        SpinLock::new(
            ranks::ROUTING,
            Self {
                identities,
                turn: RoundRobin::default(),
            },
        )
    }
}

impl VmShared {
    fn env(&self) -> Env<'_> {
        Env {
            now: self.clock.now(),
            memory: &*self.ram,
        }
    }

    /// Reads a port of the board.
    #[must_use]
    #[inline(always)]
    pub fn port_read(&self, port: u16, width: Width) -> u32 {
        let mut board = self.board.lock();
        let value = board.port_read(port, width, &self.env());
        self.settle(&mut board);
        value
    }

    /// Writes a port of the board.
    pub fn port_write(&self, port: u16, width: Width, value: u32) {
        let mut board = self.board.lock();
        board.port_write(port, width, value, &self.env());
        self.settle(&mut board);
    }

    /// Reads a register in memory; all ones where nothing answers.
    #[must_use]
    #[inline]
    pub fn mmio_read(&self, gpa: Gpa, width: Width) -> u64 {
        let mut board = self.board.lock();
        let value = board.mmio_read(gpa, width).unwrap_or(width.all_ones());
        self.settle(&mut board);
        value
    }

    /// Writes a register in memory; nothing happens where nothing answers.
    #[inline]
    pub fn mmio_write(&self, gpa: Gpa, width: Width, value: u64) {
        let mut board = self.board.lock();
        board.mmio_write(gpa, width, value, self.clock.now());
        self.settle(&mut board);
    }

    /// Acknowledges the 8259 pair's interrupt.
    #[must_use]
    pub fn pic_ack(&self) -> u8 {
        let mut board = self.board.lock();
        let vector = board.pic_ack();
        self.settle(&mut board);
        vector
    }

    /// Tells the I/O APIC of an EOI.
    pub fn end_of_interrupt(&self, vector: u8) {
        let mut board = self.board.lock();
        board.eoi_broadcast(vector);
        self.settle(&mut board);
    }

    /// Presses the power button; tells whether the guest listens.
    #[must_use]
    pub fn power_button(&self) -> bool {
        let mut board = self.board.lock();
        let noticed = board.press_power_button();
        self.settle(&mut board);
        self.wake_if_due(&mut board);
        noticed
    }

    /// Gives bytes to the guest's COM1; returns how many it took.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        let mut board = self.board.lock();
        let taken = board.receive(0, bytes);
        self.settle(&mut board);
        taken
    }

    /// Runs the board's timers that are due; returns the next one in virtual nanoseconds, `u64::MAX` for none.
    pub(super) fn run_board_timers(&self) -> u64 {
        let mut board = self.board.lock();
        if !self.is_paused() {
            board.poll(self.clock.now());
            self.settle(&mut board);
            self.wake_if_due(&mut board);
        }
        self.board_deadline.load(Ordering::Acquire)
    }

    /// Wakes a machine that is suspended to RAM if an event that it enabled in PM1 has come: power button or clock.
    fn wake_if_due(&self, board: &mut Chipset) {
        const WAKE_EVENTS: u32 = 1 << 8 | 1 << 9 | 1 << 10;
        if !self.suspended.load(Ordering::Acquire) {
            return;
        }
        let status = board.port_read(layout::PM1A_EVENT, Width::Word, &self.env());
        let enabled = board.port_read(layout::PM1A_EVENT + 2, Width::Word, &self.env());
        if status & enabled & WAKE_EVENTS == 0 {
            return;
        }
        board.wake();
        self.settle(board);
        self.waking_vector
            .store(self.read_waking_vector(), Ordering::Release);
        self.suspended.store(false, Ordering::Release);
        self.links
            .iter()
            .for_each(|l| l.request(link::REQUEST_RESUME));
    }

    /// Reads the waking vector from the FACS, which is the first of the firmware's tables. Without one the machine
    /// starts at the reset vector's code, as after any other start.
    fn read_waking_vector(&self) -> u32 {
        const RESET: u32 = 0xf_fff0;
        let mut facs = [0; 16];
        let read = self
            .ram
            .read(Gpa::new_truncate(loader::FIRMWARE_START), &mut facs);
        let vector = u32::from_le_bytes([facs[12], facs[13], facs[14], facs[15]]);
        let usable = read.is_ok() && facs.starts_with(b"FACS") && vector != 0;
        if usable { vector } else { RESET }
    }

    /// Acts on what an access left behind. Mostly that is nothing.
    #[inline]
    fn settle(&self, board: &mut Chipset) {
        let attention = board.take_attention();
        if !attention.is_empty() {
            self.act_on(attention, board);
        }
    }

    #[inline(never)]
    fn act_on(&self, attention: Attention, board: &mut Chipset) {
        if attention.contains(Attention::OUTPUT) {
            while let Some((channel, byte)) = board.take_output() {
                self.serial.emit(channel, byte);
            }
        }
        if attention.contains(Attention::MESSAGES) {
            while let Some(message) = board.take_message() {
                self.send(&message, None);
            }
        }
        if attention.contains(Attention::INTR) {
            let level = board.pic_intr();
            self.links.iter().for_each(|l| l.set_extint(level));
        }
        if attention.contains(Attention::DEADLINE) {
            let next = board.next_deadline().map_or(u64::MAX, |i| i.as_nanos());
            if self.board_deadline.swap(next, Ordering::AcqRel) > next {
                self.wake_board();
            }
        }
        while let Some(action) = board.take_action() {
            self.act(action);
        }
    }

    fn act(&self, action: MachineAction) {
        match action {
            MachineAction::PowerOff => self.end(StopReason::PowerOff),
            MachineAction::Reset => self.end(StopReason::Reset),
            MachineAction::InitCpu => {
                if let Some(first) = self.links.first() {
                    first.request(link::REQUEST_INIT);
                }
            }
            MachineAction::Sleep { state: 3 } => {
                self.suspended.store(true, Ordering::Release);
                self.links
                    .iter()
                    .for_each(|l| l.request(link::REQUEST_SUSPEND));
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

    /// Publishes what vCPU `index`'s local APIC answers to.
    pub fn set_identity(&self, index: u32, identity: ApicIdentity) {
        if let Some(slot) = self.routing.lock().identities.get_mut(index as usize) {
            *slot = identity;
        }
        // An APIC that opened its LINT0 takes a standing interrupt of the 8259 pair.
        if self.links.first().is_some_and(|l| l.extint()) {
            self.links
                .iter()
                .for_each(|l| l.request(link::REQUEST_EXTINT));
        }
    }

    /// Delivers a message to the vCPUs that it addresses. `sender` is the vCPU that sent it, none for devices.
    pub fn send(&self, message: &ApicMessage, sender: Option<u32>) {
        let routing = &mut *self.routing.lock();
        let sender = sender.map(|s| s as usize);
        machine::route(
            message,
            sender,
            &routing.identities,
            &mut routing.turn,
            |cpu| self.links[cpu].deliver(message),
        );
    }
}
