//! ACPI power management of the PIIX4: PM1a event and control blocks, PM timer, general-purpose events, SMI command
//! port (Intel 290562, chapter 7; ACPI specification, chapter 4).
//!
//! There is no SMM: the SMI command port only switches SCI_EN, as firmware's handler would. Throttling, device
//! monitors and the SMBus are left out; their ports read 0.

use crate::layout::{
    ACPI_DISABLE, ACPI_ENABLE, GSI_SCI, PM_TIMER_BITS, SLEEP_TYPE_S3, SLEEP_TYPE_S4, SLEEP_TYPE_S5,
};
use crate::ticks::TickRate;
use api::device::{Cx, Effects, MachineAction, PortIo};
use api::time::VmInstant;
use bitflags::bitflags;

pub mod saved;
#[cfg(test)]
mod tests;

/// Clock of the PM timer, in Hz (ACPI 4.8.2.1).
pub const PM_TIMER_HZ: u32 = 3_579_545;

const RATE: TickRate = TickRate::new(PM_TIMER_HZ);
const TIMER_MASK: u64 = (1 << PM_TIMER_BITS) - 1;
/// TMR_STS is set whenever the timer's top bit changes.
const TIMER_HALF_SHIFT: u32 = PM_TIMER_BITS - 1;

/// Offsets in the block.
const STATUS: u16 = 0x0;
const ENABLE: u16 = 0x2;
const CONTROL: u16 = 0x4;
/// Offset of the PM timer in the block.
pub const TIMER_OFFSET: u16 = 0x8;
const GPE_STATUS: u16 = 0xc;
const GPE_ENABLE: u16 = 0xe;

bitflags! {
    /// PM1 status and enable registers share their positions (ACPI tables 4.11 and 4.12).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Event: u16 {
        const TIMER = 1 << 0;
        const BUS_MASTER = 1 << 4;
        const GLOBAL = 1 << 5;
        const POWER_BUTTON = 1 << 8;
        const SLEEP_BUTTON = 1 << 9;
        const RTC = 1 << 10;
        /// Status only.
        const WAKE = 1 << 15;
        /// Those that an enable bit turns into an interrupt.
        const ENABLES = Self::TIMER.bits()
            | Self::GLOBAL.bits()
            | Self::POWER_BUTTON.bits()
            | Self::SLEEP_BUTTON.bits()
            | Self::RTC.bits();
    }
}

/// PM1 control: events raise SCI instead of SMI.
const SCI_EN: u16 = 1 << 0;
/// PM1 control: bits that hold what is written: SCI_EN, BM_RLD, SLP_TYP.
const CONTROL_WRITABLE: u16 = SCI_EN | 1 << 1 | 7 << 10;
/// High byte of PM1 control: SLP_EN, write-only.
const SLP_EN: u8 = 1 << 5;

/// The power-management block and the SMI command port.
#[derive(Debug)]
pub struct Pm {
    status: Event,
    enable: Event,
    control: u16,
    gpe_status: u16,
    gpe_enable: u16,
    smi_command: u8,
    smi_status: u8,
    /// Number of the timer's half-period up to which TMR_STS was looked for.
    checked_half: u64,
    line_level: bool,
}

impl Pm {
    /// Makes the block in its power-on state: SCI off, nothing enabled.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            status: Event::empty(),
            enable: Event::empty(),
            control: 0,
            gpe_status: 0,
            gpe_enable: 0,
            smi_command: 0,
            smi_status: 0,
            checked_half: 0,
            line_level: false,
        }
    }

    /// Reads the PM timer, as one double word.
    #[inline]
    #[must_use]
    pub fn read_timer(now: VmInstant) -> u32 {
        let [b0, b1, b2, b3, ..] = (RATE.ticks(now) & TIMER_MASK).to_le_bytes();
        u32::from_le_bytes([b0, b1, b2, b3])
    }

    /// Presses the power button, and tells whether the guest has an interrupt enabled for it.
    pub fn press_power_button(&mut self, effects: &mut dyn Effects) -> bool {
        self.set_status(Event::POWER_BUTTON, effects);
        self.enable.contains(Event::POWER_BUTTON) && self.control & SCI_EN != 0
    }

    /// Hears that the real-time clock raised its interrupt.
    pub fn rtc_event(&mut self, effects: &mut dyn Effects) {
        self.set_status(Event::RTC, effects);
    }

    /// Records that a sleeping machine was woken.
    pub fn wake(&mut self, effects: &mut dyn Effects) {
        self.set_status(Event::WAKE, effects);
    }

    /// Raises general-purpose event `number`, 0 to 15.
    pub fn raise_gpe(&mut self, number: u8, effects: &mut dyn Effects) {
        self.gpe_status |= 1_u16.checked_shl(number.into()).unwrap_or(0);
        self.update_line(effects);
    }

    fn set_status(&mut self, event: Event, effects: &mut dyn Effects) {
        self.status |= event;
        self.update_line(effects);
    }

    /// Returns when [`Pm::poll`] is due: only a guest that enabled the timer's interrupt causes one.
    #[must_use]
    pub fn next_deadline(&self) -> Option<VmInstant> {
        let waits = self.control & SCI_EN != 0
            && self.enable.contains(Event::TIMER)
            && !self.status.contains(Event::TIMER);
        waits.then(|| RATE.instant(self.checked_half.wrapping_add(1) << TIMER_HALF_SHIFT))
    }

    /// Sets TMR_STS if the timer's top bit changed up to `now`.
    pub fn poll(&mut self, now: VmInstant, effects: &mut dyn Effects) {
        let half = RATE.ticks(now) >> TIMER_HALF_SHIFT;
        if half != self.checked_half {
            self.checked_half = half;
            self.status |= Event::TIMER;
        }
        self.update_line(effects);
    }

    /// Reads the SMI command port (`offset` 0) or the scratch port beside it (1).
    #[must_use]
    pub const fn read_smi(&self, offset: u16) -> u8 {
        if offset == 0 {
            self.smi_command
        } else {
            self.smi_status
        }
    }

    /// Writes the SMI command port (`offset` 0) or the scratch port beside it (1).
    pub fn write_smi(&mut self, offset: u16, value: u8, effects: &mut dyn Effects) {
        if offset != 0 {
            self.smi_status = value;
            return;
        }
        self.smi_command = value;
        match value {
            ACPI_ENABLE => self.control |= SCI_EN,
            ACPI_DISABLE => self.control &= !SCI_EN,
            _ => {}
        }
        self.update_line(effects);
    }

    /// SCI is a level: up while an enabled event stands and the guest has taken over from SMM.
    fn update_line(&mut self, effects: &mut dyn Effects) {
        let fixed = !(self.status & self.enable).is_empty();
        let general = self.gpe_status & self.gpe_enable != 0;
        let level = self.control & SCI_EN != 0 && (fixed || general);
        if level != self.line_level {
            self.line_level = level;
            effects.set_irq(GSI_SCI, level);
        }
    }

    fn register(&self, offset: u16) -> u16 {
        match offset {
            STATUS => self.status.bits(),
            ENABLE => self.enable.bits(),
            CONTROL => self.control,
            GPE_STATUS => self.gpe_status,
            GPE_ENABLE => self.gpe_enable,
            _ => 0,
        }
    }

    fn write_control_high(&mut self, value: u8, effects: &mut dyn Effects) {
        let [low, _] = self.control.to_le_bytes();
        self.control = u16::from_le_bytes([low, value]) & CONTROL_WRITABLE;
        if value & SLP_EN == 0 {
            return;
        }
        match value >> 2 & 7 {
            SLEEP_TYPE_S5 => effects.request(MachineAction::PowerOff),
            SLEEP_TYPE_S3 => effects.request(MachineAction::Sleep { state: 3 }),
            SLEEP_TYPE_S4 => effects.request(MachineAction::Sleep { state: 4 }),
            // Types that the DSDT does not name.
            _ => {}
        }
    }
}

impl Default for Pm {
    fn default() -> Self {
        Self::new()
    }
}

impl PortIo for Pm {
    fn read_u8(&mut self, offset: u16, cx: &mut Cx<'_>) -> u8 {
        if offset & !3 == TIMER_OFFSET {
            let bytes = Self::read_timer(cx.now).to_le_bytes();
            return bytes.get(usize::from(offset & 3)).copied().unwrap_or(0);
        }
        if offset & !1 == STATUS {
            self.poll(cx.now, cx.effects);
        }
        let [low, high] = self.register(offset & !1).to_le_bytes();
        if offset & 1 == 0 { low } else { high }
    }

    fn write_u8(&mut self, offset: u16, value: u8, cx: &mut Cx<'_>) {
        // A change of the timer that happened before the write is not cleared or enabled away.
        self.poll(cx.now, cx.effects);
        let high = offset & 1 != 0;
        let keep = |old: u16| {
            let [low_byte, high_byte] = old.to_le_bytes();
            u16::from_le_bytes(if high {
                [low_byte, value]
            } else {
                [value, high_byte]
            })
        };
        let ones = keep(0);
        match offset & !1 {
            STATUS => self.status &= Event::from_bits_retain(!ones),
            ENABLE => {
                self.enable = Event::from_bits_truncate(keep(self.enable.bits())) & Event::ENABLES;
            }
            CONTROL if high => self.write_control_high(value, cx.effects),
            CONTROL => self.control = keep(self.control) & CONTROL_WRITABLE,
            GPE_STATUS => self.gpe_status &= !ones,
            GPE_ENABLE => self.gpe_enable = keep(self.gpe_enable),
            _ => {}
        }
        self.update_line(cx.effects);
    }
}
