//! MC146818 real-time clock with 128 bytes of CMOS memory, as PC firmware and kernels use it.
//!
//! Time is the wall clock given at the VM's creation plus virtual time, or what the guest set since. Flags and updates
//! are computed when somebody looks, or when an enabled interrupt is due. Left out: daylight saving, the square wave
//! and the second bank of the PIIX3.

use crate::layout::GSI_RTC;
use crate::rtc::time::{Format, Running, TimeRegisters};
use crate::ticks::TickRate;
use api::device::{Cx, Effects};
use api::time::VmInstant;
use bitflags::bitflags;

mod alarm;
mod calendar;
pub mod saved;
#[cfg(test)]
mod tests;
mod time;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// UIP is up for 244 us before the update and for the 1984 us that the update takes (data sheet, "update cycle").
const UPDATE_NANOS: u64 = 2_228_000;
/// The first update comes half a second after the divider leaves its reset (data sheet, "divider control").
const DIVIDER_START_NANOS: u64 = 500_000_000;

/// The periodic interrupt divides this crystal.
const CRYSTAL: TickRate = TickRate::new(32_768);

/// Bytes of CMOS memory, the clock's registers included.
pub const CMOS_LEN: usize = 128;
const INDEX_MASK: u8 = 0x7f;

const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: u8 = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;
/// Century, as the FADT says.
pub const CMOS_CENTURY: u8 = 0x32;

/// Register A: update in progress.
const A_UPDATING: u8 = 1 << 7;
/// Register A at reset: 32,768 Hz crystal, periodic rate 1024 Hz.
const A_RESET: u8 = 0x26;
/// Register D: RAM and time are valid.
const D_VALID: u8 = 1 << 7;
/// Register C: some enabled flag is set.
const C_INTERRUPT: u8 = 1 << 7;

bitflags! {
    /// Register B.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Control: u8 {
        const DAYLIGHT_SAVING = 1 << 0;
        const HOURS_24 = 1 << 1;
        const BINARY = 1 << 2;
        const SQUARE_WAVE = 1 << 3;
        const UPDATE_INTERRUPT = 1 << 4;
        const ALARM_INTERRUPT = 1 << 5;
        const PERIODIC_INTERRUPT = 1 << 6;
        /// The clock stands still while it is being set.
        const SET = 1 << 7;
    }
}

bitflags! {
    /// Register C without its summary bit; positions are those of the enables in register B.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Flags: u8 {
        const UPDATE = 1 << 4;
        const ALARM = 1 << 5;
        const PERIODIC = 1 << 6;
    }
}

/// What the clock and its memory hold at the VM's creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtcConfig {
    /// Wall clock in seconds since 1970-01-01 UTC.
    pub wall_clock_seconds: u64,
    /// Bytes of RAM below 4 GiB.
    pub memory_below_4g: u64,
    /// Bytes of RAM at 4 GiB and above.
    pub memory_above_4g: u64,
}

/// The clock chip.
#[derive(Debug)]
pub struct Rtc {
    index: u8,
    /// Register A without UIP.
    rate: u8,
    control: Control,
    flags: Flags,
    alarm: [u8; 3],
    ram: [u8; CMOS_LEN],
    /// `None` while SET or the divider's reset holds the clock.
    running: Option<Running>,
    /// What the time registers show while the clock stands.
    stopped: TimeRegisters,
    stopped_nanos_into: u64,
    /// The second up to which update and alarm were looked for.
    checked_second: i64,
    /// The periodic tick up to which the periodic flag was looked for.
    checked_period: u64,
    line_level: bool,
}

impl Rtc {
    /// Makes the chip with a valid clock and the memory sizes that firmware expects in CMOS.
    #[must_use]
    pub fn new(config: RtcConfig) -> Self {
        let now = VmInstant::ZERO;
        let second = calendar::unix_to_calendar(config.wall_clock_seconds);
        let running = Running::starting(second, 0, now);
        let mut rtc = Self {
            index: 0,
            rate: A_RESET,
            control: Control::HOURS_24,
            flags: Flags::empty(),
            alarm: [0; 3],
            ram: [0; CMOS_LEN],
            running: Some(running),
            stopped: TimeRegisters::default(),
            stopped_nanos_into: 0,
            checked_second: running.second(now),
            checked_period: 0,
            line_level: false,
        };
        rtc.store_memory_sizes(config);
        rtc
    }

    /// CMOS locations by the conventions that Bochs' firmware began and SeaBIOS reads.
    fn store_memory_sizes(&mut self, config: RtcConfig) {
        const KIB: u64 = 1 << 10;
        const BASE_KIB: u16 = 640;
        let below = config.memory_below_4g;
        let kib_above_1m = clamp_u16(below.saturating_sub(KIB * KIB) / KIB);
        let blocks_above_16m = clamp_u16(below.saturating_sub(16 * KIB * KIB) / (64 * KIB));
        for (index, value) in [
            (0x15, BASE_KIB),
            (0x17, kib_above_1m),
            (0x30, kib_above_1m),
            (0x34, blocks_above_16m),
        ] {
            let [low, high] = value.to_le_bytes();
            self.set_memory(index, low);
            self.set_memory(index.wrapping_add(1), high);
        }
        let [b0, b1, b2, ..] = (config.memory_above_4g / (64 * KIB)).to_le_bytes();
        for (index, byte) in (0x5b..).zip([b0, b1, b2]) {
            self.set_memory(index, byte);
        }
    }

    /// Sets a byte of CMOS memory from outside, as a machine's builder does; clock registers are left alone.
    pub fn set_memory(&mut self, index: u8, value: u8) {
        if let Some(byte) = self.ram.get_mut(usize::from(index)) {
            *byte = value;
        }
    }

    /// Writes the index port; bit 7 masks NMIs.
    pub fn write_index(&mut self, value: u8) {
        self.index = value;
    }

    /// Tells whether the guest masked NMIs through the index port.
    #[must_use]
    pub const fn nmi_masked(&self) -> bool {
        self.index & !INDEX_MASK != 0
    }

    /// Reads the data port.
    pub fn read_data(&mut self, cx: &mut Cx<'_>) -> u8 {
        let index = self.index & INDEX_MASK;
        match index {
            SECONDS_ALARM | MINUTES_ALARM | HOURS_ALARM => self.alarm_register(index),
            STATUS_A => self.rate | self.updating(cx.now),
            STATUS_B => self.control.bits(),
            STATUS_C => self.read_flags(cx),
            STATUS_D => D_VALID,
            _ => {
                let mut time = self.time_registers(cx.now);
                match time.register(index) {
                    Some(register) => *register,
                    None => self.ram.get(usize::from(index)).copied().unwrap_or(0),
                }
            }
        }
    }

    /// Writes the data port.
    pub fn write_data(&mut self, value: u8, cx: &mut Cx<'_>) {
        // What happened up to now happened under the old programming.
        self.catch_up(cx.now);
        let index = self.index & INDEX_MASK;
        let [second, minute, hour] = &mut self.alarm;
        match index {
            SECONDS_ALARM => *second = value,
            MINUTES_ALARM => *minute = value,
            HOURS_ALARM => *hour = value,
            STATUS_A => self.write_rate(value & !A_UPDATING, cx.now),
            STATUS_B => self.write_control(Control::from_bits_retain(value), cx.now),
            STATUS_C | STATUS_D => {}
            _ => self.write_time_or_memory(index, value, cx.now),
        }
        self.update_line(cx.effects);
    }

    /// Returns when [`Rtc::poll`] is due: the next event whose interrupt is enabled, none while one is unacknowledged.
    #[must_use]
    pub fn next_deadline(&self) -> Option<VmInstant> {
        if self.line_level {
            return None;
        }
        let periodic = self
            .control
            .contains(Control::PERIODIC_INTERRUPT)
            .then(|| self.next_period())
            .flatten();
        let running = self.running;
        let update = running.filter(|_| self.control.contains(Control::UPDATE_INTERRUPT));
        let update = update.map(|clock| clock.instant_of(self.checked_second.wrapping_add(1)));
        let alarm = running
            .filter(|_| self.control.contains(Control::ALARM_INTERRUPT))
            .and_then(|clock| Some(clock.instant_of(self.next_alarm()?)));
        [periodic, update, alarm].into_iter().flatten().min()
    }

    /// Sets the flags of what happened up to `now` and raises interrupt 8 if an enabled one is among them.
    pub fn poll(&mut self, now: VmInstant, effects: &mut dyn Effects) {
        self.catch_up(now);
        self.update_line(effects);
    }

    fn alarm_register(&self, index: u8) -> u8 {
        let [second, minute, hour] = self.alarm;
        match index {
            SECONDS_ALARM => second,
            MINUTES_ALARM => minute,
            _ => hour,
        }
    }

    fn updating(&self, now: VmInstant) -> u8 {
        match self.running {
            Some(clock)
                if clock.nanos_into_second(now)
                    >= NANOS_PER_SECOND.saturating_sub(UPDATE_NANOS) =>
            {
                A_UPDATING
            }
            _ => 0,
        }
    }

    fn read_flags(&mut self, cx: &mut Cx<'_>) -> u8 {
        self.catch_up(cx.now);
        let enabled = self.flags.bits() & self.control.bits() != 0;
        let value = self.flags.bits() | if enabled { C_INTERRUPT } else { 0 };
        self.flags = Flags::empty();
        self.update_line(cx.effects);
        value
    }

    fn time_registers(&self, now: VmInstant) -> TimeRegisters {
        match self.running {
            Some(clock) => self.format().encode(clock.second(now)),
            None => self.stopped,
        }
    }

    fn format(&self) -> Format {
        Format {
            binary: self.control.contains(Control::BINARY),
            hours_24: self.control.contains(Control::HOURS_24),
        }
    }

    /// The divider counts in its three operating positions; 11x holds it in reset.
    fn divider_runs(rate: u8) -> bool {
        rate >> 4 & 7 <= 2
    }

    fn write_rate(&mut self, rate: u8, now: VmInstant) {
        let restarted = !Self::divider_runs(self.rate) && Self::divider_runs(rate);
        self.rate = rate;
        if restarted {
            self.stopped_nanos_into = DIVIDER_START_NANOS;
        }
        self.start_or_stop(now);
        self.checked_period = self.period_number(now);
    }

    fn write_control(&mut self, control: Control, now: VmInstant) {
        let mut control = control;
        if control.contains(Control::SET) {
            // Data sheet, register B: SET clears the enable of the update-ended interrupt.
            control.remove(Control::UPDATE_INTERRUPT);
            self.stop(now);
        }
        self.control = control;
        self.start_or_stop(now);
    }

    fn start_or_stop(&mut self, now: VmInstant) {
        let runs = Self::divider_runs(self.rate) && !self.control.contains(Control::SET);
        if !runs {
            self.stop(now);
        } else if self.running.is_none() {
            let second = self.format().decode(self.stopped);
            self.start(second, self.stopped_nanos_into, now);
        }
    }

    fn stop(&mut self, now: VmInstant) {
        if let Some(clock) = self.running.take() {
            self.stopped = self.format().encode(clock.second(now));
            self.stopped_nanos_into = clock.nanos_into_second(now);
        }
    }

    fn start(&mut self, second: u64, nanos_into: u64, now: VmInstant) {
        let clock = Running::starting(second, nanos_into, now);
        self.running = Some(clock);
        self.checked_second = clock.second(now);
    }

    fn write_time_or_memory(&mut self, index: u8, value: u8, now: VmInstant) {
        let mut registers = self.time_registers(now);
        let Some(register) = registers.register(index) else {
            self.set_memory(index, value);
            return;
        };
        *register = value;
        match self.running {
            Some(clock) => {
                let second = self.format().decode(registers);
                self.start(second, clock.nanos_into_second(now), now);
            }
            None => self.stopped = registers,
        }
    }

    /// log2 of crystal ticks per period, or `None` when the rate is 0 or the divider is held.
    fn period_shift(&self) -> Option<u32> {
        let select = self.rate & 0x0f;
        let shift = match select {
            0 => return None,
            1 | 2 => select.wrapping_add(6),
            _ => select.wrapping_sub(1),
        };
        Self::divider_runs(self.rate).then_some(shift.into())
    }

    fn period_number(&self, now: VmInstant) -> u64 {
        self.period_shift()
            .map_or(0, |shift| CRYSTAL.ticks(now).wrapping_shr(shift))
    }

    fn next_period(&self) -> Option<VmInstant> {
        let shift = self.period_shift()?;
        let tick = self.checked_period.wrapping_add(1).wrapping_shl(shift);
        Some(CRYSTAL.instant(tick))
    }

    /// The first second after the checked one at which the alarm matches.
    fn next_alarm(&self) -> Option<i64> {
        let [second, minute, hour] = self.alarm;
        let format = self.format();
        let number = |register, number: u8| (register < alarm::ANY).then_some(number);
        let pattern = alarm::Pattern {
            second: number(second, format.number(second)),
            minute: number(minute, format.number(minute)),
            hour: number(hour, format.hour_number(hour)),
        };
        let wait = pattern.seconds_until(self.checked_second)?;
        Some(self.checked_second.wrapping_add(wait))
    }

    /// Sets the flags of everything that happened since the last look.
    fn catch_up(&mut self, now: VmInstant) {
        if let Some(clock) = self.running {
            let second = clock.second(now);
            if second > self.checked_second {
                self.flags |= Flags::UPDATE;
                if self.next_alarm().is_some_and(|alarm| alarm <= second) {
                    self.flags |= Flags::ALARM;
                }
                self.checked_second = second;
            }
        }
        let period = self.period_number(now);
        if period > self.checked_period {
            self.flags |= Flags::PERIODIC;
            self.checked_period = period;
        }
    }

    fn update_line(&mut self, effects: &mut dyn Effects) {
        let level = self.flags.bits() & self.control.bits() != 0;
        if level != self.line_level {
            self.line_level = level;
            effects.set_irq(GSI_RTC, level);
        }
    }
}

fn clamp_u16(value: u64) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}
