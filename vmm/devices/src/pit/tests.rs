//! Modes, latches and gates of the 8254, and calibration loops as kernels run them.

use super::{Pit, RATE};
use crate::layout::GSI_PIT;
use crate::testing::{Bench, Rng};
use api::device::{Device, PortIo};
use api::time::VmInstant;

struct Timer {
    pit: Pit,
    bench: Bench,
}

impl Timer {
    fn new() -> Self {
        Self {
            pit: Pit::new(),
            bench: Bench::new(),
        }
    }

    /// Goes to the first moment of `tick`.
    fn at(&mut self, tick: u64) -> &mut Self {
        self.bench.now = RATE.instant(tick);
        self
    }

    fn read(&mut self, port: u16) -> u8 {
        self.pit.read_u8(port - 0x40, &mut self.bench.cx())
    }

    fn write(&mut self, port: u16, value: u8) {
        self.pit.write_u8(port - 0x40, value, &mut self.bench.cx());
    }

    fn program(&mut self, control: u8, count: u16) {
        let port = 0x40 + u16::from(control >> 6);
        let [low, high] = count.to_le_bytes();
        self.write(0x43, control);
        self.write(port, low);
        self.write(port, high);
    }

    fn count(&mut self, counter: u8) -> u16 {
        self.write(0x43, counter << 6);
        let port = 0x40 + u16::from(counter);
        u16::from_le_bytes([self.read(port), self.read(port)])
    }

    fn poll(&mut self) {
        self.pit.poll(self.bench.now, &mut self.bench.recorder);
    }

    fn out2(&self) -> bool {
        self.pit.read_port_61(self.bench.now) & 0x20 != 0
    }
}

#[test]
fn mode_2_interrupts_once_per_period() {
    let mut timer = Timer::new();
    timer.at(10).program(0x34, 1193);
    let due = timer.pit.next_deadline().unwrap();
    assert_eq!(due, RATE.instant(10 + 1193));
    let rises = timer.bench.rises(GSI_PIT);
    timer.at(10 + 1192).poll();
    assert_eq!(timer.bench.rises(GSI_PIT), rises);
    timer.at(10 + 1193).poll();
    assert_eq!(timer.bench.rises(GSI_PIT), rises + 1);
    timer.at(10 + 1193 * 2 + 7).poll();
    assert_eq!(timer.bench.rises(GSI_PIT), rises + 2);
    let next = timer.pit.next_deadline().unwrap();
    assert_eq!(next, RATE.instant(10 + 1193 * 3), "on the same grid");
    timer.at(10 + 1193 * 50 + 13);
    assert_eq!(timer.count(0), 1193 - 13);
}

/// Polls when the timer says, up to `end`; returns the interrupts that came.
fn interrupts_until(timer: &mut Timer, end: VmInstant) -> usize {
    let before = timer.bench.rises(GSI_PIT);
    while let Some(due) = timer.pit.next_deadline().filter(|due| *due <= end) {
        timer.bench.now = due.max(timer.bench.now);
        timer.poll();
    }
    timer.bench.now = end;
    timer.bench.rises(GSI_PIT) - before
}

#[test]
fn edges_that_nobody_saw_come_late_and_one_after_the_other() {
    let mut timer = Timer::new();
    timer.at(0).program(0x34, 4772);
    let start = timer.bench.now;
    let after = |millis: u64| start.saturating_add(millis * 1_000_000);
    // A host that was busy for 22 ms of a period of 4 ms.
    timer.bench.now = after(22);
    assert_eq!(interrupts_until(&mut timer, after(22)), 1);
    timer.poll();
    assert_eq!(interrupts_until(&mut timer, after(22)), 0, "not at once");
    // 40 ms hold 10 edges, of which the first is taken.
    assert_eq!(interrupts_until(&mut timer, after(41)), 9);
    assert_eq!(interrupts_until(&mut timer, after(81)), 10);
}

#[test]
fn old_and_dense_edges_are_not_made_up_for() {
    let mut timer = Timer::new();
    timer.at(0).program(0x34, 1193);
    timer.bench.now = VmInstant::from_nanos(60_000_000_000);
    let second = timer.bench.now.saturating_add(1_000_000_000);
    let came = interrupts_until(&mut timer, second);
    assert!(
        (1990..=2010).contains(&came),
        "{came}: one second late, and one in time"
    );
    timer.program(0x34, 600);
    let later = timer.bench.now.saturating_add(50_000_000);
    timer.bench.now = later;
    timer.poll();
    let due = timer.pit.next_deadline().unwrap();
    assert!(due > later, "a dense one is missed");
}

#[test]
fn a_new_count_forgets_what_was_missed_and_a_latch_does_not() {
    for (control, missed) in [(0x00, true), (0xd2, true), (0x34, false)] {
        let mut timer = Timer::new();
        timer.at(0).program(0x34, 4772);
        timer.bench.now = VmInstant::from_nanos(22_000_000);
        timer.poll();
        timer.write(0x43, control);
        let due = timer.pit.next_deadline();
        let is_late = due.is_some_and(|due| due < VmInstant::from_nanos(23_000_000));
        assert_eq!(is_late, missed, "{control:#x}");
    }
}

#[test]
fn mode_0_interrupts_at_terminal_count_only() {
    let mut timer = Timer::new();
    timer.at(0).program(0x30, 0x1000);
    assert!(!timer.bench.line(GSI_PIT));
    timer.at(0x0fff).poll();
    assert!(!timer.bench.line(GSI_PIT));
    timer.at(0x1000).poll();
    assert!(timer.bench.line(GSI_PIT));
    assert_eq!(timer.pit.next_deadline(), None);
    timer.at(0x1002);
    assert_eq!(timer.count(0), 0xfffe, "it counts on");
}

#[test]
fn the_first_byte_stops_mode_0() {
    let mut timer = Timer::new();
    timer.at(0).program(0x30, 100);
    timer.at(50).write(0x40, 10);
    assert_eq!(timer.pit.next_deadline(), None);
    timer.at(500).write(0x40, 0);
    assert_eq!(timer.pit.next_deadline(), Some(RATE.instant(510)));
}

#[test]
fn mode_3_is_a_square_wave() {
    let mut timer = Timer::new();
    timer.at(0);
    timer.pit.write_port_61(1, VmInstant::ZERO);
    for period in [10_u64, 11] {
        let start = timer.bench.now.as_nanos() / 800;
        timer.at(start).program(0xb6, period as u16);
        for position in 0..period * 3 {
            timer.at(start + position);
            let high = position % period < period.div_ceil(2);
            assert_eq!(timer.out2(), high, "{position} of {period}");
            let count = timer.count(2);
            assert!(u64::from(count) <= period && count & 1 == 0, "{count}");
        }
    }
}

#[test]
fn mode_4_strobes_for_one_tick() {
    let mut timer = Timer::new();
    timer.at(0).program(0x38, 20);
    assert!(timer.bench.line(GSI_PIT));
    timer.at(20).poll();
    assert!(!timer.bench.line(GSI_PIT));
    timer.at(21).poll();
    assert!(timer.bench.line(GSI_PIT));
    assert_eq!(timer.pit.next_deadline(), None);
}

#[test]
fn a_gate_triggers_modes_1_and_5() {
    let mut timer = Timer::new();
    timer.at(0).program(0xb2, 30);
    assert!(timer.out2());
    timer.pit.write_port_61(1, RATE.instant(5));
    assert!(!timer.at(5).out2());
    assert!(!timer.at(34).out2());
    assert!(timer.at(35).out2());
    timer.pit.write_port_61(0, RATE.instant(40));
    timer.pit.write_port_61(1, RATE.instant(41));
    assert!(!timer.at(41).out2(), "retriggered");
    timer.at(100).program(0xba, 8);
    timer.pit.write_port_61(0, RATE.instant(100));
    timer.pit.write_port_61(1, RATE.instant(101));
    assert!(timer.at(108).out2());
    assert!(!timer.at(109).out2());
    assert!(timer.at(110).out2());
}

#[test]
fn a_low_gate_holds_mode_0_and_restarts_mode_2() {
    let mut timer = Timer::new();
    timer.pit.write_port_61(1, VmInstant::ZERO);
    timer.at(0).program(0xb0, 100);
    timer.pit.write_port_61(0, RATE.instant(40));
    timer.at(1000);
    assert_eq!(timer.count(2), 60);
    timer.pit.write_port_61(1, RATE.instant(1000));
    assert!(!timer.at(1059).out2());
    assert!(timer.at(1060).out2());
    timer.at(2000).program(0xb4, 50);
    timer.pit.write_port_61(0, RATE.instant(2010));
    assert!(timer.at(2049).out2(), "forced high");
    timer.pit.write_port_61(1, RATE.instant(3000));
    timer.at(3010);
    assert_eq!(timer.count(2), 40);
}

/// The loop by which Linux measures the TSC: counter 2 in mode 0, output polled through port 61h.
#[test]
fn linux_can_calibrate_against_counter_2() {
    let mut timer = Timer::new();
    timer.at(500);
    timer.pit.write_port_61(1, timer.bench.now);
    let start = timer.bench.now;
    timer.program(0xb0, 11932);
    while !timer.out2() {
        timer.bench.now = timer.bench.now.saturating_add(997);
    }
    let nanos = timer.bench.now.saturating_since(start);
    assert!((10_000_000..10_003_000).contains(&nanos), "{nanos}");
}

#[test]
fn latches_hold_until_read() {
    let mut timer = Timer::new();
    timer.at(0).program(0x34, 0x8000);
    timer.at(0x100).write(0x43, 0x00);
    timer.at(0x200).write(0x43, 0x00);
    timer.at(0x300);
    assert_eq!(timer.read(0x40), 0x00);
    assert_eq!(timer.read(0x40), 0x7f);
    timer.write(0x43, 0xc2);
    assert_eq!(timer.read(0x40), 0x80 | 0x34, "status first");
    timer.at(0x400);
    assert_eq!(timer.read(0x40), 0x00);
    assert_eq!(timer.read(0x40), 0x7d);
    timer.write(0x43, 0x34);
    timer.write(0x43, 0xe2);
    assert_eq!(timer.read(0x40) & 0x40, 0x40, "null count");
}

#[test]
fn single_byte_access_reads_and_writes_one_byte() {
    let mut timer = Timer::new();
    timer.at(0).write(0x43, 0x14);
    timer.write(0x40, 0x20);
    timer.at(3);
    assert_eq!(timer.read(0x40), 0x1d);
    timer.write(0x43, 0x24);
    timer.write(0x40, 0x02);
    timer.at(3 + 0x100);
    assert_eq!(timer.read(0x40), 0x01);
}

#[test]
fn bcd_counts_decimal_digits() {
    let mut timer = Timer::new();
    timer.at(0).program(0x35, 0x1000);
    timer.at(1);
    assert_eq!(timer.count(0), 0x0999);
    timer.at(1001);
    assert_eq!(timer.count(0), 0x0999);
    timer.at(2000).program(0x31, 0);
    timer.at(2001);
    assert_eq!(timer.count(0), 0x9999);
}

#[test]
fn a_period_of_one_tick_is_no_storm() {
    let mut timer = Timer::new();
    timer.at(0).program(0x34, 1);
    let before = timer.bench.rises(GSI_PIT);
    while timer.bench.now.as_nanos() < 10_000_000 {
        timer.bench.now = timer.pit.next_deadline().unwrap();
        timer.poll();
    }
    assert!(timer.bench.rises(GSI_PIT) - before <= 101);
}

#[test]
fn refresh_toggles() {
    let pit = Pit::new();
    let at = |nanos| pit.read_port_61(VmInstant::from_nanos(nanos)) & 0x10;
    assert_ne!(at(1_000), at(16_000));
    assert_eq!(at(1_000), at(31_000));
}

#[test]
fn random_programming_keeps_deadline_and_line_consistent() {
    let mut rng = Rng::new(8254);
    let mut timer = Timer::new();
    for step in 0..200_000 {
        let magnitude = rng.below(28);
        let nanos = rng.below(1 << magnitude);
        timer.bench.now = timer.bench.now.saturating_add(nanos);
        let port = 0x40 + rng.below(4) as u16;
        match rng.below(6) {
            0 | 1 => timer.write(port, rng.byte()),
            2 => timer.write(0x43, rng.byte()),
            3 => {
                timer.read(port);
            }
            4 => timer.pit.write_port_61(rng.byte(), timer.bench.now),
            _ => timer.poll(),
        }
        timer.poll();
        if let Some(due) = timer.pit.next_deadline() {
            assert!(due > timer.bench.now, "a poll never leaves a due edge");
        }
        if step % 512 == 0 {
            let saved = timer.pit.save();
            let mut copy = Pit::new();
            copy.restore(saved.clone()).unwrap();
            assert_eq!(copy.save(), saved);
            timer.bench.recorder.effects.clear();
        }
    }
    let mut saved = timer.pit.save();
    saved.counters[1].mode = 6;
    assert!(timer.pit.restore(saved).is_err());
}
