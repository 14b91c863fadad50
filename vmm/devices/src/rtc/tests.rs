//! Reading and setting the clock as kernels do, its three interrupts, and random accesses.

use super::{Rtc, RtcConfig};
use crate::layout::GSI_RTC;
use crate::testing::{Bench, Rng};
use api::device::Device;
use api::time::VmInstant;

/// 2026-12-31 23:59:58 UTC.
const START: u64 = 1_798_761_598;
const SECOND: u64 = 1_000_000_000;

struct Clock {
    rtc: Rtc,
    bench: Bench,
}

impl Clock {
    fn new() -> Self {
        Self {
            rtc: Rtc::new(RtcConfig {
                wall_clock_seconds: START,
                memory_below_4g: 3 << 30,
                memory_above_4g: 5 << 30,
            }),
            bench: Bench::new(),
        }
    }

    fn at(&mut self, nanos: u64) -> &mut Self {
        self.bench.now = VmInstant::from_nanos(nanos);
        self
    }

    fn read(&mut self, index: u8) -> u8 {
        self.rtc.write_index(index);
        self.rtc.read_data(&mut self.bench.cx())
    }

    fn write(&mut self, index: u8, value: u8) {
        self.rtc.write_index(index);
        self.rtc.write_data(value, &mut self.bench.cx());
    }

    /// Century, year, month, day, hour, minute, second.
    fn time(&mut self) -> [u8; 7] {
        [0x32, 9, 8, 7, 4, 2, 0].map(|index| self.read(index))
    }

    fn poll(&mut self) {
        self.rtc.poll(self.bench.now, &mut self.bench.recorder);
    }

    fn deadline(&self) -> Option<u64> {
        self.rtc.next_deadline().map(VmInstant::as_nanos)
    }
}

#[test]
fn it_shows_the_wall_clock_and_carries_over() {
    let mut clock = Clock::new();
    assert_eq!(clock.time(), [0x20, 0x26, 0x12, 0x31, 0x23, 0x59, 0x58]);
    assert_eq!(clock.read(6), 5, "a Thursday");
    clock.at(2 * SECOND);
    assert_eq!(clock.time(), [0x20, 0x27, 0x01, 0x01, 0x00, 0x00, 0x00]);
    assert_eq!(clock.read(0x0d), 0x80);
}

#[test]
fn binary_and_twelve_hours_are_only_another_view() {
    let mut clock = Clock::new();
    clock.write(0x0b, 0x04);
    assert_eq!(clock.time(), [20, 26, 12, 31, 0x80 | 11, 59, 58]);
    clock.at(2 * SECOND).write(0x0b, 0x00);
    assert_eq!(clock.time(), [0x20, 0x27, 0x01, 0x01, 0x12, 0x00, 0x00]);
}

#[test]
fn a_kernel_sets_the_clock() {
    let mut clock = Clock::new();
    clock.at(SECOND / 3);
    clock.write(0x0b, 0x82);
    clock.write(0x0a, 0x76);
    for (index, value) in [
        (0, 0x10),
        (2, 0x20),
        (4, 0x03),
        (7, 0x29),
        (8, 0x02),
        (9, 0x28),
    ] {
        clock.write(index, value);
    }
    clock.at(10 * SECOND);
    assert_eq!(clock.time()[6], 0x10, "it stands");
    clock.write(0x0b, 0x02);
    clock.write(0x0a, 0x26);
    clock.at(10 * SECOND + SECOND / 2 + 1);
    assert_eq!(clock.time(), [0x20, 0x28, 0x02, 0x29, 0x03, 0x20, 0x11]);
    assert_eq!(clock.read(6), 3, "a Tuesday");
}

#[test]
fn update_in_progress_comes_before_every_second() {
    let mut clock = Clock::new();
    assert_eq!(clock.read(0x0a), 0x26);
    clock.at(SECOND - 2_228_001);
    assert_eq!(clock.read(0x0a), 0x26);
    clock.at(SECOND - 2_228_000);
    assert_eq!(clock.read(0x0a), 0xa6);
    clock.at(SECOND);
    assert_eq!(clock.read(0x0a), 0x26);
}

#[test]
fn the_update_interrupt_waits_for_its_acknowledgement() {
    let mut clock = Clock::new();
    assert_eq!(clock.deadline(), None, "an idle clock wakes nobody");
    clock.write(0x0b, 0x12);
    assert_eq!(clock.deadline(), Some(SECOND));
    clock.at(SECOND).poll();
    assert!(clock.bench.line(GSI_RTC));
    assert_eq!(clock.deadline(), None);
    clock.at(5 * SECOND).poll();
    assert_eq!(clock.bench.rises(GSI_RTC), 1);
    assert_eq!(clock.read(0x0c) & 0x90, 0x90);
    assert!(!clock.bench.line(GSI_RTC));
    assert_eq!(clock.deadline(), Some(6 * SECOND));
    assert_eq!(clock.read(0x0c) & 0x90, 0);
}

#[test]
fn the_periodic_interrupt_has_fifteen_rates() {
    for (select, hertz) in [(1, 256), (2, 128), (3, 8192), (6, 1024), (15, 2)] {
        let mut clock = Clock::new();
        clock.write(0x0a, 0x20 | select);
        clock.write(0x0b, 0x42);
        let mut count = 0;
        while let Some(due) = clock.deadline().filter(|due| *due <= SECOND) {
            clock.at(due).poll();
            assert_eq!(clock.read(0x0c) & 0xc0, 0xc0);
            count += 1;
        }
        assert_eq!(count, hertz);
    }
    let mut clock = Clock::new();
    clock.write(0x0a, 0x20);
    clock.write(0x0b, 0x42);
    assert_eq!(clock.deadline(), None);
}

#[test]
fn an_alarm_matches_once_a_day_or_by_wildcards() {
    let mut clock = Clock::new();
    for (index, value) in [(1, 0x05), (3, 0x00), (5, 0x00)] {
        clock.write(index, value);
    }
    clock.write(0x0b, 0x22);
    assert_eq!(clock.deadline(), Some(7 * SECOND));
    clock.at(7 * SECOND).poll();
    assert!(clock.bench.line(GSI_RTC));
    assert_eq!(clock.read(0x0c) & 0xb0, 0xb0);
    assert_eq!(clock.deadline(), Some((7 + 86_400) * SECOND));
    for index in [1, 3, 5] {
        clock.write(index, 0xc0);
    }
    assert_eq!(clock.deadline(), Some(8 * SECOND));
    clock.write(1, 0x77);
    assert_eq!(clock.deadline(), None, "there is no second 77");
}

#[test]
fn flags_are_there_for_pollers() {
    let mut clock = Clock::new();
    clock.write(1, 0x77);
    clock.at(3 * SECOND);
    assert_eq!(clock.read(0x0c), 0x50, "update and periodic, no interrupt");
}

#[test]
fn memory_sizes_are_where_firmware_looks() {
    let mut clock = Clock::new();
    let mut word = |index| u16::from_le_bytes([clock.read(index), clock.read(index + 1)]);
    assert_eq!(word(0x15), 640);
    assert_eq!(word(0x17), 0xffff);
    assert_eq!(word(0x30), 0xffff);
    assert_eq!(word(0x34), (((3 << 30) - (16 << 20)) >> 16) as u16);
    assert_eq!(word(0x5b), ((5_u64 << 30) >> 16) as u16);
    assert_eq!(clock.read(0x5d), 1);
}

#[test]
fn memory_survives_a_reset_and_the_nmi_mask_does_not() {
    let mut clock = Clock::new();
    clock.write(0x8f, 0x0a);
    assert!(clock.rtc.nmi_masked());
    clock.write(0x0b, 0x72);
    clock.rtc.reset();
    assert!(!clock.rtc.nmi_masked());
    assert_eq!(clock.read(0x0f), 0x0a);
    assert_eq!(clock.read(0x0b), 0x02);
    assert_eq!(clock.time()[6], 0x58);
}

#[test]
fn random_accesses_keep_deadlines_in_the_future() {
    let mut rng = Rng::new(146_818);
    let mut clock = Clock::new();
    let mut nanos = 0;
    for step in 0..150_000 {
        let magnitude = rng.below(36);
        nanos += rng.below(1 << magnitude);
        clock.at(nanos);
        let index = if rng.below(2) == 0 {
            rng.below(16) as u8
        } else {
            rng.byte()
        };
        if rng.below(2) == 0 {
            clock.read(index);
        } else {
            clock.write(index, rng.byte());
        }
        clock.poll();
        if let Some(due) = clock.deadline() {
            assert!(due > nanos, "step {step}");
        }
        if step % 512 == 0 {
            let saved = clock.rtc.save();
            let mut copy = Clock::new();
            copy.rtc.restore(saved.clone()).unwrap();
            assert_eq!(copy.rtc.save(), saved);
            copy.at(nanos);
            assert_eq!(copy.time(), clock.time());
            clock.bench.recorder.effects.clear();
        }
    }
}
