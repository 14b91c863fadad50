//! The clock's time: how it runs on virtual time, and how registers show it.

use crate::rtc::calendar::Calendar;
use crate::rtc::{
    CMOS_CENTURY, DAY, HOURS, MINUTES, MONTH, NANOS_PER_SECOND, SECONDS, WEEKDAY, YEAR,
};
use api::time::VmInstant;

/// Date and time registers as they stand while the clock is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct TimeRegisters {
    pub(super) seconds: u8,
    pub(super) minutes: u8,
    pub(super) hours: u8,
    pub(super) weekday: u8,
    pub(super) day: u8,
    pub(super) month: u8,
    pub(super) year: u8,
    pub(super) century: u8,
}

impl TimeRegisters {
    pub(super) fn register(&mut self, index: u8) -> Option<&mut u8> {
        match index {
            SECONDS => Some(&mut self.seconds),
            MINUTES => Some(&mut self.minutes),
            HOURS => Some(&mut self.hours),
            WEEKDAY => Some(&mut self.weekday),
            DAY => Some(&mut self.day),
            MONTH => Some(&mut self.month),
            YEAR => Some(&mut self.year),
            CMOS_CENTURY => Some(&mut self.century),
            _ => None,
        }
    }
}

/// A clock that runs: at virtual time `t` it shows second `epoch + (t + phase) / 1 s` of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) epoch: i64,
    /// Below one second.
    pub(super) phase_nanos: u64,
}

impl Running {
    /// Makes the clock that shows `second`, `nanos_into` it, at `now`.
    pub(super) fn starting(second: u64, nanos_into: u64, now: VmInstant) -> Self {
        let behind = now.as_nanos() % NANOS_PER_SECOND;
        let phase_nanos = nanos_into
            .wrapping_add(NANOS_PER_SECOND)
            .wrapping_sub(behind)
            % NANOS_PER_SECOND;
        let mut clock = Self {
            epoch: 0,
            phase_nanos,
        };
        clock.epoch = second.cast_signed().wrapping_sub(clock.second(now));
        clock
    }

    fn shifted(self, now: VmInstant) -> u64 {
        now.as_nanos().saturating_add(self.phase_nanos)
    }

    pub(super) fn second(self, now: VmInstant) -> i64 {
        let elapsed = self.shifted(now) / NANOS_PER_SECOND;
        self.epoch.wrapping_add(elapsed.cast_signed())
    }

    pub(super) fn nanos_into_second(self, now: VmInstant) -> u64 {
        self.shifted(now) % NANOS_PER_SECOND
    }

    /// The moment at which `second` begins, or the VM's creation if that was earlier.
    pub(super) fn instant_of(self, second: i64) -> VmInstant {
        let elapsed = u64::try_from(second.wrapping_sub(self.epoch)).unwrap_or(0);
        VmInstant::from_nanos(
            elapsed
                .saturating_mul(NANOS_PER_SECOND)
                .saturating_sub(self.phase_nanos),
        )
    }
}

/// How register B lets the registers be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) binary: bool,
    pub(super) hours_24: bool,
}

impl Format {
    /// The registers that show calendar second `second`.
    pub(super) fn encode(self, second: i64) -> TimeRegisters {
        let time = Calendar::of_second(u64::try_from(second).unwrap_or(0));
        let hours = if self.hours_24 {
            self.register(time.hour)
        } else {
            let afternoon = if time.hour >= 12 { 0x80 } else { 0 };
            let hour = match time.hour % 12 {
                0 => 12,
                hour => hour,
            };
            self.register(hour) | afternoon
        };
        let [year, century] = [time.year % 100, time.year / 100];
        TimeRegisters {
            seconds: self.register(time.second),
            minutes: self.register(time.minute),
            hours,
            weekday: time.weekday,
            day: self.register(time.day),
            month: self.register(time.month),
            year: self.register(low_byte(year)),
            century: self.register(low_byte(century)),
        }
    }

    /// The second that the time registers mean. Out of range values carry over, as if counted on.
    pub(super) fn decode(self, registers: TimeRegisters) -> u64 {
        let year = u16::from(self.number(registers.year)) % 100;
        let century = u16::from(self.number(registers.century)) % 100;
        Calendar {
            year: century.wrapping_mul(100).wrapping_add(year),
            month: self.number(registers.month),
            day: self.number(registers.day),
            weekday: 0,
            hour: self.hour_number(registers.hours),
            minute: self.number(registers.minutes),
            second: self.number(registers.seconds),
        }
        .to_second()
    }

    pub(super) fn hour_number(self, register: u8) -> u8 {
        if self.hours_24 {
            return self.number(register);
        }
        let hour = self.number(register & 0x7f) % 12;
        if register & 0x80 != 0 {
            hour.wrapping_add(12)
        } else {
            hour
        }
    }

    /// Encodes a number below 100 as register B says.
    fn register(self, number: u8) -> u8 {
        if self.binary {
            number
        } else {
            let (tens, ones) = (number / 10, number % 10);
            tens << 4 | ones
        }
    }

    pub(super) fn number(self, register: u8) -> u8 {
        if self.binary {
            register
        } else {
            (register >> 4)
                .wrapping_mul(10)
                .wrapping_add(register & 0x0f)
        }
    }
}

fn low_byte(value: u16) -> u8 {
    let [low, _] = value.to_le_bytes();
    low
}
