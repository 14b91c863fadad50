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
    /// Nanoseconds per tick, times 2^32.
    nanos_per_tick: u64,
    /// Ticks per nanosecond, times 2^32.
    ticks_per_nano: u64,
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
        let scale = |a: u64, b: u64| ((u128::from(a) << 32) / u128::from(b)) as u64;
        Self {
            tsc_hz,
            nanos_per_tick: scale(1_000_000_000, tsc_hz),
            ticks_per_nano: scale(tsc_hz, 1_000_000_000),
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

    /// Converts a number of ticks to nanoseconds.
    #[must_use]
    #[inline]
    pub fn nanos(&self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.nanos_per_tick)) >> 32) as u64
    }

    /// Converts nanoseconds to a number of ticks.
    #[must_use]
    #[inline]
    pub fn ticks(&self, nanos: u64) -> u64 {
        ((u128::from(nanos) * u128::from(self.ticks_per_nano)) >> 32) as u64
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
    fn ticks_and_nanoseconds_convert_both_ways() {
        let clock = Clock::new(2_450_000_000);
        for nanos in [1_000_u64, 1_000_000, 86_400_000_000_000] {
            let back = clock.nanos(clock.ticks(nanos));
            assert!(nanos.abs_diff(back) <= 1 + nanos / 1_000_000_000);
        }
    }

    #[test]
    fn an_absurd_frequency_is_brought_into_range() {
        assert_eq!(Clock::new(0).tsc_hz(), 1_000_000);
    }
}
