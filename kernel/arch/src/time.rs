//! Time from the TSC, calibrated against the ACPI PM timer or the PIT; CPUID's word on its frequency is not trusted.

use crate::{apic, cpu};

/// Nanoseconds of one calibration run.
const CALIBRATION_NANOS: u64 = 10_000_000;
const PM_TIMER_HZ: u64 = 3_579_545;
const PIT_HZ: u64 = 1_193_182;

/// Converts between TSC ticks and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    tsc_hz: u64,
    /// Nanoseconds per tick, times 2^32. Both conversions use this one number, so that they agree to the tick after
    /// any uptime.
    nanos_per_tick: u64,
}

/// What the TSC was measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The ACPI power-management timer at this port.
    PmTimer(u16),
    /// Channel 2 of the PIT.
    Pit,
}

impl Clock {
    /// Makes a clock for a TSC of `tsc_hz` (1 MHz to 100 GHz).
    #[must_use]
    pub fn new(tsc_hz: u64) -> Self {
        let tsc_hz = tsc_hz.clamp(1_000_000, 100_000_000_000);
        Self {
            tsc_hz,
            nanos_per_tick: (1_000_000_000 << 32) / tsc_hz,
        }
    }

    /// Measures the TSC and the local APIC's timer for 10 ms. Returns the clock and the timer's frequency in Hz.
    #[must_use]
    pub fn calibrate(reference: Reference) -> (Self, u32) {
        apic::start_calibration();
        let start = cpu::rdtsc();
        let (ticks, of_hz) = match reference {
            Reference::PmTimer(port) => wait_pm_timer(port),
            Reference::Pit => wait_pit(),
        };
        let passed = cpu::rdtsc() - start;
        let tsc_hz = u128::from(passed) * u128::from(of_hz) / u128::from(ticks.max(1));
        let clock = Self::new(tsc_hz as u64);
        let timer_hz = apic::end_calibration(passed, clock.tsc_hz);
        (clock, timer_hz)
    }

    /// Returns the TSC's frequency in Hz.
    #[must_use]
    pub fn tsc_hz(&self) -> u64 {
        self.tsc_hz
    }

    /// Converts a number of ticks to nanoseconds, rounded down; saturates.
    #[must_use]
    #[inline]
    pub fn nanos(&self, ticks: u64) -> u64 {
        let nanos = (u128::from(ticks) * u128::from(self.nanos_per_tick)) >> 32;
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// Converts nanoseconds to ticks: the least number of ticks that [`Self::nanos`] makes `nanos` or more of, so that
    /// a timer for the result is due when it fires; saturates.
    #[must_use]
    #[inline]
    pub fn ticks(&self, nanos: u64) -> u64 {
        let ticks = (u128::from(nanos) << 32).div_ceil(u128::from(self.nanos_per_tick));
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// Spins for `nanos`.
    pub fn spin_nanos(&self, nanos: u64) {
        let start = cpu::rdtsc();
        let ticks = self.ticks(nanos);
        while cpu::rdtsc() - start < ticks {
            cpu::pause();
        }
    }
}

/// Waits the calibration time by the PM timer; returns the ticks that really passed and their frequency.
fn wait_pm_timer(port: u16) -> (u64, u64) {
    // SAFETY: the port is the FADT's PM timer, a counter without side effects.
    let read = || u64::from(unsafe { cpu::inl(port) });
    let wanted = PM_TIMER_HZ * CALIBRATION_NANOS / 1_000_000_000;
    let start = read();
    loop {
        let passed = read().wrapping_sub(start) & 0xff_ffff;
        if passed >= wanted {
            return (passed, PM_TIMER_HZ);
        }
    }
}

/// Waits the calibration time by channel 2 of the PIT, one-shot, speaker off.
fn wait_pit() -> (u64, u64) {
    let count = PIT_HZ * CALIBRATION_NANOS / 1_000_000_000;
    let out = |port: u16, value: u8| {
        // SAFETY: ports 42h, 43h and 61h are the PIT and its gate on every PC; they touch no memory.
        unsafe { cpu::outb(port, value) };
    };
    // SAFETY: as above.
    let status = || unsafe { cpu::inb(0x61) };
    out(0x61, status() & !2 | 1);
    out(0x43, 0b1011_0000);
    out(0x42, count as u8);
    out(0x42, (count >> 8) as u8);
    let gate = status();
    out(0x61, gate & !1);
    out(0x61, gate | 1);
    while status() & 0x20 == 0 {}
    (count, PIT_HZ)
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn a_deadline_is_due_at_its_tick_and_not_before_after_any_uptime() {
        const YEAR: u64 = 365 * 86_400 * 1_000_000_000;
        for hz in [1_000_000, 1_000_000_000, 2_450_000_000, 3_700_000_001] {
            let clock = Clock::new(hz);
            let mut nanos = 1;
            while nanos < 20 * YEAR {
                let ticks = clock.ticks(nanos);
                assert!(clock.nanos(ticks) >= nanos, "{hz} Hz, {nanos} ns");
                assert!(clock.nanos(ticks - 1) < nanos, "{hz} Hz, {nanos} ns");
                nanos = nanos * 5 / 3 + 1;
            }
        }
    }

    #[test]
    fn conversions_saturate() {
        assert_eq!(Clock::new(3_000_000_000).ticks(u64::MAX), u64::MAX);
        assert_eq!(Clock::new(1_000_000).nanos(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_second_has_as_many_ticks_as_the_frequency_says() {
        let second = 1_000_000_000;
        for hz in [1_000_000, 2_450_000_000, 3_700_000_001] {
            assert!(Clock::new(hz).ticks(second).abs_diff(hz) <= 1 + hz / second);
        }
    }

    #[test]
    fn an_absurd_frequency_is_brought_into_range() {
        assert_eq!(Clock::new(0).tsc_hz(), 1_000_000);
    }
}
