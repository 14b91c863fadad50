//! The chipset: all chips of the PC outside of its CPUs, behind ports, addresses and lines.
//!
//! # How a virtual CPU uses it
//!
//! Under the VM's lock, per access: call [`Chipset::port_read`], [`Chipset::port_write`], [`Chipset::mmio_read`] or
//! [`Chipset::mmio_write`], then look at [`Chipset::take_attention`]. Mostly it is empty and nothing is to be done;
//! each of its flags names the calls that take what waits. When [`Chipset::next_deadline`] comes, call
//! [`Chipset::poll`]. When a local APIC reports the EOI of a level-triggered vector, call [`Chipset::eoi_broadcast`].
//! Before an entry with [`Chipset::pic_intr`] up and an open local APIC, take the vector from [`Chipset::pic_ack`].
//!
//! No call allocates, and none costs more than a constant, but fw_cfg's DMA (as long as what is copied) and
//! `reset`, `save` and `restore`.

use crate::outbox::Outbox;
use addr::Gpa;
use alloc::boxed::Box;
use api::device::{Cx, Effects, Gsi, MachineAction, Width};
use api::memory::GuestMemory;
use api::time::VmInstant;
use bitflags::bitflags;
use devices::debugcon::DebugConsole;
use devices::fw_cfg::FwCfg;
use devices::i8042::I8042;
use devices::ioapic::Ioapic;
use devices::layout::{
    CHANNEL_COM1, CHANNEL_COM2, GSI_COM1, GSI_COM2, GSI_PIT, GSI_RTC, IOAPIC_BASE, IOAPIC_LEN,
    PIT_IOAPIC_PIN, TEST_MMIO_BASE, TEST_MMIO_LEN,
};
use devices::message::ApicMessage;
use devices::pci::PciBus;
use devices::pic::Pic;
use devices::pit::Pit;
use devices::pm::Pm;
use devices::reset::ResetPorts;
use devices::rtc::{Rtc, RtcConfig};
use devices::testdev::TestDevices;
use devices::uart::Uart;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod hostile;
mod ports;
pub mod saved;
#[cfg(test)]
mod tests;

/// ISA interrupts: those that reach the 8259 pair.
const ISA_INTERRUPTS: u8 = 16;
/// The line number that the cascade of the 8259 pair occupies: no chip can drive it.
const CASCADE: u8 = 2;

/// What an access may use besides the chipset itself.
#[derive(Clone, Copy)]
#[expect(
    missing_debug_implementations,
    reason = "borrows a trait object for the length of one call"
)]
pub struct Env<'a> {
    /// Virtual time of the access.
    pub now: VmInstant,
    /// The guest's RAM, for fw_cfg's DMA.
    pub memory: &'a dyn GuestMemory,
}

/// What is decided when the machine is built.
#[derive(Debug)]
pub struct ChipsetConfig {
    /// Wall clock and memory sizes.
    pub rtc: RtcConfig,
    /// A keyboard is plugged in.
    pub keyboard: bool,
    /// The test devices of `run-guest` exist.
    pub test_devices: bool,
    /// Firmware configuration, filled.
    pub fw_cfg: FwCfg,
}

bitflags! {
    /// What happened since the last look that somebody outside of the chipset has to act upon.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Attention: u8 {
        /// [`Chipset::take_message`] has interrupt messages for local APICs.
        const MESSAGES = 1 << 0;
        /// The level of [`Chipset::pic_intr`] changed.
        const INTR = 1 << 1;
        /// [`Chipset::take_output`] has characters.
        const OUTPUT = 1 << 2;
        /// [`Chipset::take_action`] has requests of the machine.
        const ACTIONS = 1 << 3;
        /// [`Chipset::next_deadline`] changed.
        const DEADLINE = 1 << 4;
        /// A serial port may have room again for [`Chipset::receive`].
        const INPUT = 1 << 5;
    }
}

/// The chips and their wiring.
#[derive(Debug)]
pub struct Chipset {
    // Chips.
    pic: Pic,
    pit: Pit,
    ioapic: Ioapic,
    rtc: Rtc,
    pm: Pm,
    pci: PciBus,
    reset_ports: ResetPorts,
    i8042: I8042,
    com1: Uart,
    com2: Uart,
    debug_console: DebugConsole,
    fw_cfg: FwCfg,
    test_devices: Option<Box<TestDevices>>,
    post_code: u8,
    // Wiring.
    outbox: Outbox,
    attention: Attention,
    // Derived from the chips, kept so that the common access need not ask them.
    pm_base: Option<u16>,
    intr: bool,
    deadline: Option<VmInstant>,
    /// Interrupt 0 is masked in both controllers: the 8254 wakes nobody and catches up when somebody could notice.
    timer_masked: bool,
    /// What the 8254 would have woken for.
    timer_due: Option<VmInstant>,
}

impl Chipset {
    /// Makes the chipset in its power-on state.
    #[must_use]
    pub fn new(config: ChipsetConfig) -> Self {
        let mut chipset = Self {
            pic: Pic::new(),
            pit: Pit::new(),
            ioapic: Ioapic::new(),
            rtc: Rtc::new(config.rtc),
            pm: Pm::new(),
            pci: PciBus::new(),
            reset_ports: ResetPorts::new(),
            i8042: I8042::new(config.keyboard),
            com1: Uart::new(CHANNEL_COM1, GSI_COM1),
            com2: Uart::new(CHANNEL_COM2, GSI_COM2),
            debug_console: DebugConsole,
            fw_cfg: config.fw_cfg,
            test_devices: config.test_devices.then(|| Box::new(TestDevices::new())),
            post_code: 0,
            outbox: Outbox::new(),
            attention: Attention::empty(),
            pm_base: None,
            intr: false,
            deadline: None,
            timer_masked: false,
            timer_due: None,
        };
        chipset.derive();
        chipset
    }

    /// Does what PC firmware would have done to the chips, for guests that start without it: the 8259 pair is
    /// initialised with vectors 08h and 70h, all but the cascade and interrupts 10 and 11 masked.
    pub fn prepare_for_direct_boot(&mut self) {
        self.pic.initialize_as_firmware();
        self.derive();
    }

    /// Returns and clears what somebody outside has to act upon.
    #[inline]
    pub fn take_attention(&mut self) -> Attention {
        let mut attention = core::mem::replace(&mut self.attention, Attention::empty());
        attention.set(Attention::MESSAGES, self.ioapic.has_message());
        attention.set(Attention::OUTPUT, self.outbox.has_output());
        attention.set(Attention::ACTIONS, self.outbox.has_action());
        attention
    }

    /// Takes the next interrupt message for the local APICs; [`route`](crate::route()) finds its targets.
    #[inline]
    pub fn take_message(&mut self) -> Option<ApicMessage> {
        self.ioapic.next_message()
    }

    /// Takes the next request of the machine as a whole, oldest first.
    pub fn take_action(&mut self) -> Option<MachineAction> {
        self.outbox.take_action()
    }

    /// Takes the next character that the guest said, with its channel (0 is COM1, 1 COM2, 2 the debug console). One
    /// access causes at most four; beyond 64 that nobody took, characters are lost.
    pub fn take_output(&mut self) -> Option<(u8, u8)> {
        self.outbox.take_output()
    }

    /// Returns the level of INTR of the 8259 pair.
    #[inline]
    #[must_use]
    pub const fn pic_intr(&self) -> bool {
        self.intr
    }

    /// Acknowledges INTR and returns the vector to inject.
    pub fn pic_ack(&mut self) -> u8 {
        let vector = self.pic.acknowledge();
        self.update_intr();
        vector
    }

    /// Tells the I/O APIC that a local APIC ended a level-triggered vector.
    pub fn eoi_broadcast(&mut self, vector: u8) {
        self.ioapic.end_of_interrupt(vector);
    }

    /// Returns when [`Chipset::poll`] is due next, if ever.
    #[inline]
    #[must_use]
    pub const fn next_deadline(&self) -> Option<VmInstant> {
        self.deadline
    }

    /// Lets every timer act that is due at `now`. Calling it early or late does no harm.
    pub fn poll(&mut self, now: VmInstant) {
        self.pit.poll(now, &mut self.outbox);
        self.rtc.poll(now, &mut self.outbox);
        self.pm.poll(now, &mut self.outbox);
        self.carry_lines();
        self.update_deadline();
    }

    /// Feeds characters to serial channel `channel` (0 or 1) and returns how many were accepted, from the front.
    /// After [`Attention::INPUT`] there may be room for more.
    pub fn receive(&mut self, channel: u8, bytes: &[u8]) -> usize {
        let uart = match channel {
            CHANNEL_COM1 => &mut self.com1,
            CHANNEL_COM2 => &mut self.com2,
            _ => return 0,
        };
        let accepted = uart.receive(bytes, &mut self.outbox);
        self.carry_lines();
        accepted
    }

    /// Drives interrupt line `gsi` for a device that is not a part of the chipset. A line has one driver.
    pub fn set_line(&mut self, gsi: Gsi, level: bool) {
        self.outbox.set_irq(gsi, level);
        self.carry_lines();
    }

    /// Presses the power button, and tells whether the guest will notice.
    pub fn press_power_button(&mut self) -> bool {
        let noticed = self.pm.press_power_button(&mut self.outbox);
        self.carry_lines();
        noticed
    }

    /// Records that the machine was woken from a sleep state.
    pub fn wake(&mut self) {
        self.pm.wake(&mut self.outbox);
        self.carry_lines();
    }

    /// Tells whether the guest masked NMIs through the clock's index port.
    #[must_use]
    pub const fn nmi_masked(&self) -> bool {
        self.rtc.nmi_masked()
    }

    /// Returns the firmware configuration, to add to it before the guest starts.
    pub fn fw_cfg_mut(&mut self) -> &mut FwCfg {
        &mut self.fw_cfg
    }

    /// Sets byte `index` of the CMOS memory, 0 to 127, before the guest starts; the clock's registers are left alone.
    pub fn set_cmos(&mut self, index: u8, value: u8) {
        self.rtc.set_memory(index, value);
    }

    /// Reads guest-physical memory where a chip may answer, or returns `None` where none does.
    pub fn mmio_read(&mut self, gpa: Gpa, width: Width) -> Option<u64> {
        let address = gpa.as_u64();
        if let Some(offset) = offset_in(address, IOAPIC_BASE, IOAPIC_LEN) {
            return Some(self.ioapic.mmio_read(offset, width));
        }
        let devices = self.test_devices.as_ref()?;
        let offset = offset_in(address, TEST_MMIO_BASE, TEST_MMIO_LEN)?;
        Some(devices.mmio_read(offset, width))
    }

    /// Writes guest-physical memory where a chip may answer, and tells whether one did.
    pub fn mmio_write(&mut self, gpa: Gpa, width: Width, value: u64, now: VmInstant) -> bool {
        let address = gpa.as_u64();
        if let Some(offset) = offset_in(address, IOAPIC_BASE, IOAPIC_LEN) {
            self.catch_up_timer(now);
            self.ioapic.mmio_write(offset, width, value);
            self.update_timer_mask();
            return true;
        }
        let Some(devices) = &mut self.test_devices else {
            return false;
        };
        let offset = offset_in(address, TEST_MMIO_BASE, TEST_MMIO_LEN);
        if let Some(offset) = offset {
            devices.mmio_write(offset, width, value);
        }
        offset.is_some()
    }

    /// Carries what the chips did to their lines on to the interrupt controllers.
    #[inline]
    fn carry_lines(&mut self) {
        if self.outbox.has_lines() {
            self.carry_changed_lines();
        }
    }

    fn carry_changed_lines(&mut self) {
        while let Some(change) = self.outbox.take_line() {
            let gsi = change.gsi;
            if change.rose {
                if change.was {
                    self.drive(gsi, false);
                }
                self.drive(gsi, true);
                if !change.level {
                    self.drive(gsi, false);
                }
                if gsi == GSI_RTC.0 {
                    // The PIIX4 watches the clock's line; this may drive the SCI, which the loop finds next.
                    self.pm.rtc_event(&mut self.outbox);
                }
            } else if change.was && !change.level {
                self.drive(gsi, false);
            }
        }
        self.update_intr();
    }

    /// Drives one line into both interrupt controllers.
    fn drive(&mut self, gsi: u8, level: bool) {
        if gsi == CASCADE {
            return;
        }
        if gsi < ISA_INTERRUPTS {
            self.pic.set_line(gsi, level);
        }
        let pin = if gsi == GSI_PIT.0 {
            PIT_IOAPIC_PIN
        } else {
            gsi
        };
        self.ioapic.set_line(pin, level);
    }

    #[inline]
    fn update_intr(&mut self) {
        let intr = self.pic.intr();
        if intr != self.intr {
            self.intr = intr;
            self.attention |= Attention::INTR;
        }
    }

    /// Lets the 8254 do what it would have done while nobody could see it. Due before a mask changes or a request
    /// register is read.
    #[inline]
    fn catch_up_timer(&mut self, now: VmInstant) {
        if self.timer_masked && self.timer_due.is_some_and(|due| due <= now) {
            self.pit.poll(now, &mut self.outbox);
            self.carry_lines();
            self.timer_due = self.pit.next_deadline();
        }
    }

    #[inline]
    fn update_timer_mask(&mut self) {
        let masked = self.is_timer_masked();
        if masked != self.timer_masked {
            self.timer_masked = masked;
            self.update_deadline();
        }
    }

    fn is_timer_masked(&self) -> bool {
        self.pic.is_masked(GSI_PIT.0) && self.ioapic.is_masked(PIT_IOAPIC_PIN)
    }

    fn update_deadline(&mut self) {
        self.timer_due = self.pit.next_deadline();
        let timer = self.timer_due.filter(|_| !self.timer_masked);
        let deadlines = [timer, self.rtc.next_deadline(), self.pm.next_deadline()];
        let deadline = deadlines.into_iter().flatten().min();
        if deadline != self.deadline {
            self.deadline = deadline;
            self.attention |= Attention::DEADLINE;
        }
    }

    /// Recomputes what is kept beside the chips.
    fn derive(&mut self) {
        self.pm_base = self.pci.pm_base();
        self.timer_masked = self.is_timer_masked();
        self.update_intr();
        self.update_deadline();
    }

    fn cx<'a>(outbox: &'a mut Outbox, env: &Env<'a>) -> Cx<'a> {
        Cx {
            now: env.now,
            memory: env.memory,
            effects: outbox,
        }
    }
}

fn offset_in(address: u64, base: u64, len: u64) -> Option<u64> {
    let offset = address.checked_sub(base)?;
    (offset < len).then_some(offset)
}
