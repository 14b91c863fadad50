//! The local APIC's timer: one-shot, periodic and TSC-deadline.
//!
//! It counts virtual time lazily: no tick is simulated, an expiry is a point in time. Whether an expiry becomes an
//! interrupt (mask, vector) is decided by the LVT, not here.

use crate::layout::LAPIC_TIMER_HZ;
use api::time::VmInstant;

/// The two clocks that a timer is compared with, read at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Virtual time.
    pub time: VmInstant,
    /// The guest's time-stamp counter.
    pub tsc: u64,
}

/// When a timer wants [`LocalApic::timer_poll`](super::LocalApic::timer_poll).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerDeadline {
    /// At this virtual time.
    At(VmInstant),
    /// When the guest's time-stamp counter reaches this value.
    Tsc(u64),
}

/// Timer mode of the LVT timer entry, bits 18:17.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
}

impl TimerMode {
    /// The reserved encoding 3 counts as one-shot.
    pub(super) const fn from_lvt(lvt: u32) -> Self {
        match lvt >> 17 & 3 {
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::OneShot,
        }
    }
}

/// Writable bits of the divide configuration register.
pub(super) const DIVIDE_MASK: u32 = 0b1011;

/// A guest that asks for a shorter period gets this one: its handler could not run anyway, and the host would do
/// nothing but deliver timer interrupts.
const PERIOD_NANOS_MIN: u64 = 500_000;

const _: () = assert!(LAPIC_TIMER_HZ == 1_000_000_000, "a tick is a nanosecond");

/// Counter state. Exactly one of `expiry` and `tsc_deadline` can be armed, by the mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timer {
    pub(super) initial: u32,
    /// Raw divide configuration.
    pub(super) divide: u32,
    /// When the current count reaches 0; `None` when it stands at 0.
    pub(super) expiry: Option<VmInstant>,
    /// IA32_TSC_DEADLINE; 0 is disarmed.
    pub(super) tsc_deadline: u64,
}

impl Timer {
    pub(super) const RESET: Self = Self {
        initial: 0,
        divide: 0,
        expiry: None,
        tsc_deadline: 0,
    };

    /// log2 of the divisor: 000 is 2, 001 is 4, ... 110 is 128, 111 is 1.
    fn shift(&self) -> u32 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        code.wrapping_add(1) & 7
    }

    fn count_nanos(&self, count: u32) -> u64 {
        u64::from(count).wrapping_shl(self.shift())
    }

    fn period_nanos(&self) -> u64 {
        self.count_nanos(self.initial).max(PERIOD_NANOS_MIN)
    }

    /// Loads the initial count and starts counting down; 0 stops the timer. In TSC-deadline mode the register is
    /// ignored (12.5.4.1).
    pub(super) fn start(&mut self, initial: u32, mode: TimerMode, now: VmInstant) {
        if mode == TimerMode::TscDeadline {
            return;
        }
        self.initial = initial;
        let nanos = if mode == TimerMode::Periodic {
            self.period_nanos()
        } else {
            self.count_nanos(initial)
        };
        self.expiry = (initial != 0).then(|| now.saturating_add(nanos));
    }

    /// Stops whatever counts, as a change between TSC-deadline and another mode does.
    pub(super) fn disarm(&mut self) {
        self.initial = 0;
        self.expiry = None;
        self.tsc_deadline = 0;
    }

    pub(super) fn current_count(&self, mode: TimerMode, now: VmInstant) -> u32 {
        let Some(expiry) = self.expiry else {
            return 0;
        };
        let overdue = now.saturating_since(expiry);
        let remaining = if overdue == 0 {
            expiry.saturating_since(now)
        } else if mode == TimerMode::Periodic {
            let period = self.period_nanos();
            period.saturating_sub(overdue.checked_rem(period).unwrap_or(0))
        } else {
            0
        };
        let divisor = self.count_nanos(1);
        let count = remaining.div_ceil(divisor.max(1));
        // A stretched period would show more than was loaded.
        u32::try_from(count).unwrap_or(u32::MAX).min(self.initial)
    }

    /// Changes the divisor; the count goes on from where it is.
    pub(super) fn set_divide(&mut self, divide: u32, mode: TimerMode, now: VmInstant) {
        let count = self.current_count(mode, now);
        self.divide = divide & DIVIDE_MASK;
        if self.expiry.is_some() {
            self.expiry = Some(now.saturating_add(self.count_nanos(count)));
        }
    }

    pub(super) fn deadline(&self) -> Option<TimerDeadline> {
        match self.expiry {
            Some(expiry) => Some(TimerDeadline::At(expiry)),
            None if self.tsc_deadline != 0 => Some(TimerDeadline::Tsc(self.tsc_deadline)),
            None => None,
        }
    }

    /// Tells whether the timer expired up to `now`, once however many periods were missed. A periodic timer is then
    /// armed for the next point of its original grid, the others are disarmed.
    pub(super) fn expire(&mut self, mode: TimerMode, now: Now) -> bool {
        if let Some(expiry) = self.expiry {
            if now.time < expiry {
                return false;
            }
            self.expiry = (mode == TimerMode::Periodic).then(|| {
                let period = self.period_nanos();
                let overdue = now.time.saturating_since(expiry);
                let past_grid = overdue.checked_rem(period).unwrap_or(0);
                now.time.saturating_add(period.saturating_sub(past_grid))
            });
            return true;
        }
        if self.tsc_deadline != 0 && now.tsc >= self.tsc_deadline {
            self.tsc_deadline = 0;
            return true;
        }
        false
    }
}
