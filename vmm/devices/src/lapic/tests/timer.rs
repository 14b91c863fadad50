//! The timer: one-shot, periodic, TSC-deadline, and what happens between them.

use super::{MASKED, PERIODIC, TSC_DEADLINE, at, xapic};
use crate::lapic::registers::{CURRENT_COUNT, DIVIDE, INITIAL_COUNT, LVT_TIMER};
use crate::lapic::{ApicOutcome, TimerDeadline};
use api::time::VmInstant;

#[test]
fn one_shot_counts_down_and_stays_at_zero() {
    let mut apic = xapic(0);
    apic.mmio_write(LVT_TIMER, 0xee, at(0));
    apic.mmio_write(DIVIDE, 0b1011, at(0));
    assert_eq!(
        apic.mmio_write(INITIAL_COUNT, 0x10000, at(100)),
        ApicOutcome::TimerChanged
    );
    let due = VmInstant::from_nanos(100 + 0x10000);
    assert_eq!(apic.timer_deadline(), Some(TimerDeadline::At(due)));
    assert_eq!(apic.mmio_read(CURRENT_COUNT, at(100)), 0x10000);
    assert_eq!(apic.mmio_read(CURRENT_COUNT, at(1100)), 0x10000 - 1000);
    assert!(!apic.timer_poll(at(0x10063)));
    assert!(apic.timer_poll(at(0x10064)));
    assert_eq!(apic.ack(), Some(0xee));
    assert_eq!(apic.mmio_read(CURRENT_COUNT, at(0x20000)), 0);
    assert_eq!(apic.timer_deadline(), None);
    assert!(!apic.timer_poll(at(0x30000)));
}

#[test]
fn the_divider_scales_and_may_change_on_the_way() {
    for (code, divisor) in [
        (0b0000, 2),
        (0b0001, 4),
        (0b0010, 8),
        (0b0011, 16),
        (0b1000, 32),
        (0b1001, 64),
        (0b1010, 128),
        (0b1011, 1),
    ] {
        let mut apic = xapic(0);
        apic.mmio_write(DIVIDE, code, at(0));
        apic.mmio_write(INITIAL_COUNT, 1000, at(0));
        assert_eq!(apic.mmio_read(CURRENT_COUNT, at(10 * divisor)), 990);
        apic.mmio_write(DIVIDE, 0b0001, at(10 * divisor));
        assert_eq!(apic.mmio_read(CURRENT_COUNT, at(10 * divisor + 40)), 980);
    }
}

#[test]
fn periods_keep_their_grid_and_missed_ones_are_one_interrupt() {
    let mut apic = xapic(0);
    apic.mmio_write(DIVIDE, 0b1011, at(0));
    apic.mmio_write(LVT_TIMER, PERIODIC | 0x40, at(0));
    apic.mmio_write(INITIAL_COUNT, 1_000_000, at(7));
    assert!(apic.timer_poll(at(5_300_007)));
    assert_eq!(apic.ack(), Some(0x40));
    apic.end_of_interrupt();
    assert_eq!(apic.pending(), None);
    let next = VmInstant::from_nanos(6_000_007);
    assert_eq!(apic.timer_deadline(), Some(TimerDeadline::At(next)));
    assert_eq!(apic.mmio_read(CURRENT_COUNT, at(5_300_007)), 700_000);
    assert!(!apic.timer_poll(at(6_000_006)));
    assert!(apic.timer_poll(at(6_000_007)));
}

#[test]
fn a_tiny_period_does_not_become_a_storm() {
    let mut apic = xapic(0);
    apic.mmio_write(DIVIDE, 0b1011, at(0));
    apic.mmio_write(LVT_TIMER, PERIODIC | 0x40, at(0));
    apic.mmio_write(INITIAL_COUNT, 1, at(0));
    let mut expiries = 0;
    for nanos in 0..1_000_000 {
        expiries += u32::from(apic.timer_poll(at(nanos)));
        assert!(apic.mmio_read(CURRENT_COUNT, at(nanos)) <= 1);
    }
    assert!(expiries <= 10, "{expiries} in a millisecond");
}

#[test]
fn mode_changes_keep_the_count() {
    let initial = 0x99_9999;
    let mut apic = xapic(0);
    apic.mmio_write(DIVIDE, 0b1011, at(0));
    apic.mmio_write(INITIAL_COUNT, initial, at(0));
    apic.mmio_write(LVT_TIMER, PERIODIC | MASKED, at(10));
    assert_eq!(apic.mmio_read(INITIAL_COUNT, at(10)), initial);
    apic.mmio_write(LVT_TIMER, MASKED, at(20));
    apic.mmio_write(INITIAL_COUNT, initial, at(20));
    let half = 20 + u64::from(initial / 2) + 10;
    apic.mmio_write(LVT_TIMER, MASKED | PERIODIC, at(half));
    let count = apic.mmio_read(CURRENT_COUNT, at(half + 1));
    assert!(count > 0 && count < initial / 2, "it goes on from there");
    let wrapped = 20 + u64::from(initial) + 5;
    let count = apic.mmio_read(CURRENT_COUNT, at(wrapped));
    assert!(count > initial / 2, "and starts again");
    apic.mmio_write(LVT_TIMER, MASKED, at(wrapped));
    let done = wrapped + u64::from(initial);
    assert_eq!(apic.mmio_read(CURRENT_COUNT, at(done)), 0);
    apic.mmio_write(LVT_TIMER, MASKED | PERIODIC, at(done));
    assert_eq!(
        apic.mmio_read(CURRENT_COUNT, at(done + 5)),
        0,
        "a finished count is not revived"
    );
}

#[test]
fn an_expiry_under_the_mask_is_lost() {
    let mut apic = xapic(0);
    apic.mmio_write(DIVIDE, 0b1011, at(0));
    apic.mmio_write(LVT_TIMER, MASKED | 0x50, at(0));
    apic.mmio_write(INITIAL_COUNT, 100, at(0));
    assert_eq!(apic.timer_deadline(), None);
    apic.mmio_write(LVT_TIMER, 0x50, at(200));
    assert!(!apic.timer_poll(at(300)));
    assert_eq!(apic.pending(), None);
}

#[test]
fn a_tsc_deadline_fires_once() {
    let mut apic = xapic(0);
    assert_eq!(apic.set_tsc_deadline(5, at(0)), ApicOutcome::None);
    assert_eq!(apic.tsc_deadline(at(0)), 0, "not in this mode");
    apic.mmio_write(LVT_TIMER, TSC_DEADLINE | 0xef, at(0));
    assert_eq!(
        apic.set_tsc_deadline(2000, at(0)),
        ApicOutcome::TimerChanged
    );
    assert_eq!(apic.timer_deadline(), Some(TimerDeadline::Tsc(2000)));
    assert_eq!(apic.tsc_deadline(at(10)), 2000);
    apic.mmio_write(INITIAL_COUNT, 77, at(10));
    assert_eq!(apic.mmio_read(INITIAL_COUNT, at(10)), 0);
    assert!(!apic.timer_poll(at(999)));
    assert!(apic.timer_poll(at(1000)));
    assert_eq!(apic.tsc_deadline(at(1000)), 0);
    assert_eq!(apic.ack(), Some(0xef));
    apic.end_of_interrupt();
    assert_eq!(apic.set_tsc_deadline(1, at(1000)), ApicOutcome::None);
    assert_eq!(apic.pending(), Some(0xef), "a past deadline fires at once");
    assert_eq!(apic.timer_deadline(), None);
    apic.set_tsc_deadline(9000, at(1000));
    apic.mmio_write(LVT_TIMER, 0xef, at(1000));
    apic.mmio_write(LVT_TIMER, TSC_DEADLINE | 0xef, at(1000));
    assert_eq!(
        apic.tsc_deadline(at(1000)),
        0,
        "leaving the mode disarms the timer"
    );
}
