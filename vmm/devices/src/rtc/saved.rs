//! Saved state of the real-time clock.

use crate::rtc::{CMOS_LEN, Control, Flags, NANOS_PER_SECOND, Rtc, Running, TimeRegisters};
use api::device::{Device, RestoreError, SavedState};

/// State of clock and CMOS memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtcSaved {
    /// Index port, NMI mask included.
    pub index: u8,
    /// Register A without UIP.
    pub rate: u8,
    /// Register B.
    pub control: u8,
    /// Register C: bits 6:4.
    pub flags: u8,
    /// Alarm: second, minute, hour registers.
    pub alarm: [u8; 3],
    /// CMOS memory by index; the clock's own registers are not in it.
    pub ram: [u8; 128],
    /// While it runs: calendar second (since the year 0) at virtual time `-phase`, and the phase in nanoseconds.
    pub running: Option<(i64, u64)>,
    /// While it stands: second, minute, hour, weekday, day, month, year and century registers.
    pub stopped: [u8; 8],
    /// While it stands: nanoseconds into the second.
    pub stopped_nanos_into: u64,
    /// Second up to which update and alarm were looked for.
    pub checked_second: i64,
    /// Periodic tick up to which the periodic flag was looked for.
    pub checked_period: u64,
    /// Level last driven on interrupt 8.
    pub line_level: bool,
}

impl SavedState for RtcSaved {
    const KIND: &'static str = "mc146818";
    const VERSION: u16 = 1;
}

impl Device for Rtc {
    type Saved = RtcSaved;

    /// Does what the RESET pin does (data sheet, "RESET"): clock and memory live on a battery, only enables and flags
    /// are cleared.
    fn reset(&mut self) {
        self.index = 0;
        self.control.remove(
            Control::PERIODIC_INTERRUPT
                | Control::ALARM_INTERRUPT
                | Control::UPDATE_INTERRUPT
                | Control::SQUARE_WAVE,
        );
        self.flags = Flags::empty();
        self.line_level = false;
    }

    fn save(&self) -> RtcSaved {
        let Self {
            index,
            rate,
            control,
            flags,
            alarm,
            ram,
            running,
            stopped:
                TimeRegisters {
                    seconds,
                    minutes,
                    hours,
                    weekday,
                    day,
                    month,
                    year,
                    century,
                },
            stopped_nanos_into,
            checked_second,
            checked_period,
            line_level,
        } = self;
        RtcSaved {
            index: *index,
            rate: *rate,
            control: control.bits(),
            flags: flags.bits(),
            alarm: *alarm,
            ram: *ram,
            running: running.map(|clock| (clock.epoch, clock.phase_nanos)),
            stopped: [
                *seconds, *minutes, *hours, *weekday, *day, *month, *year, *century,
            ],
            stopped_nanos_into: *stopped_nanos_into,
            checked_second: *checked_second,
            checked_period: *checked_period,
            line_level: *line_level,
        }
    }

    fn restore(&mut self, saved: RtcSaved) -> Result<(), RestoreError> {
        let bad = |field| RestoreError::Field {
            kind: RtcSaved::KIND,
            field,
        };
        const _: () = assert!(CMOS_LEN == 128, "the saved array has the memory's size");
        let control = Control::from_bits_retain(saved.control);
        let runs = Self::divider_runs(saved.rate) && !control.contains(Control::SET);
        if saved.rate & 0x80 != 0 {
            return Err(bad("rate"));
        }
        if runs != saved.running.is_some() {
            return Err(bad("running"));
        }
        let running = saved
            .running
            .map(|(epoch, phase_nanos)| Running { epoch, phase_nanos });
        if running.is_some_and(|clock| clock.phase_nanos >= NANOS_PER_SECOND)
            || saved.stopped_nanos_into >= NANOS_PER_SECOND
        {
            return Err(bad("phase"));
        }
        // Far outside of the calendar second numbers would wrap, and a deadline could lie in the past for ever.
        let far = |second: i64| second.unsigned_abs() >= 1 << 62;
        if far(saved.checked_second) || running.is_some_and(|clock| far(clock.epoch)) {
            return Err(bad("checked_second"));
        }
        let [seconds, minutes, hours, weekday, day, month, year, century] = saved.stopped;
        *self = Self {
            index: saved.index,
            rate: saved.rate,
            control,
            flags: Flags::from_bits(saved.flags).ok_or(bad("flags"))?,
            alarm: saved.alarm,
            ram: saved.ram,
            running,
            stopped: TimeRegisters {
                seconds,
                minutes,
                hours,
                weekday,
                day,
                month,
                year,
                century,
            },
            stopped_nanos_into: saved.stopped_nanos_into,
            checked_second: saved.checked_second,
            checked_period: saved.checked_period,
            line_level: saved.line_level,
        };
        Ok(())
    }
}
