//! The 8254 interval timer of a PC and the part of system control port B (61h) that belongs to it.
//!
//! Counters are functions of virtual time: nothing is simulated tick by tick. Counter 0 drives interrupt 0, counter 1
//! (once the memory refresh) drives nothing, counter 2 is gated and read through port 61h. Left out: the delay of a
//! new count in modes 2 and 3 until the running period ends; it takes effect at once.

use crate::layout::GSI_PIT;
use crate::pit::counter::Counter;
use crate::ticks::TickRate;
use api::device::{Cx, Effects, PortIo};
use api::time::VmInstant;

mod counter;
pub mod saved;
#[cfg(test)]
mod tests;

/// Input clock of all three counters, in Hz.
pub const PIT_HZ: u32 = 1_193_182;

const RATE: TickRate = TickRate::new(PIT_HZ);

/// Interrupts of counter 0 come no faster than this: a guest that programs a shorter period gets them coalesced, as
/// it would lose them on a chip whose handler takes longer than the period.
const INTERRUPT_NANOS_MIN: u64 = 100_000;

/// Time between two interrupts of edges that came and went while nobody looked: the host was busy, and a guest that counts
/// ticks, or boots and waits for some of them, gets them late rather than never.
const CATCH_UP_NANOS: u64 = 400_000;
/// Edges that are further apart than this, in nanoseconds, are made up for.
const PERIOD_NANOS_MIN: u64 = 2 * CATCH_UP_NANOS;
/// Edges of longer ago than this are not.
const BACKLOG_NANOS_MAX: u64 = 1_000_000_000;

/// Half a period of the memory refresh, which toggles bit 4 of port 61h: 15.085 us.
const REFRESH_NANOS: u64 = 15_085;

/// Port 61h, written: gate of counter 2.
const PORT_61_GATE: u8 = 1 << 0;
/// Port 61h, bits that hold what is written: gate, speaker data, parity check, channel check.
const PORT_61_WRITABLE: u8 = 0x0f;
/// Port 61h, read: memory refresh.
const PORT_61_REFRESH: u8 = 1 << 4;
/// Port 61h, read: output of counter 2.
const PORT_61_OUT: u8 = 1 << 5;

/// The timer chip.
#[derive(Debug)]
pub struct Pit {
    counters: [Counter; 3],
    port_61: u8,
    /// Up to this tick rising edges of counter 0 have been turned into interrupts.
    checked: u64,
    /// When the last interrupt was raised.
    raised_at: Option<VmInstant>,
    line_level: bool,
}

impl Pit {
    /// Makes the chip in its power-on state: no counter counts.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            counters: [
                Counter::power_on(true),
                Counter::power_on(true),
                Counter::power_on(false),
            ],
            port_61: 0,
            checked: 0,
            raised_at: None,
            line_level: false,
        }
    }

    /// Reads port 61h.
    #[must_use]
    pub fn read_port_61(&self, now: VmInstant) -> u8 {
        let [_, _, counter] = &self.counters;
        let mut value = self.port_61;
        if (now.as_nanos() / REFRESH_NANOS) & 1 != 0 {
            value |= PORT_61_REFRESH;
        }
        if counter.output(RATE.ticks(now)) {
            value |= PORT_61_OUT;
        }
        value
    }

    /// Writes port 61h.
    pub fn write_port_61(&mut self, value: u8, now: VmInstant) {
        self.port_61 = value & PORT_61_WRITABLE;
        let [_, _, counter] = &mut self.counters;
        counter.set_gate(value & PORT_61_GATE != 0, RATE.ticks(now));
    }

    /// Returns when [`Pit::poll`] is due: at the next rising edge of counter 0.
    #[must_use]
    pub fn next_deadline(&self) -> Option<VmInstant> {
        let [counter, ..] = &self.counters;
        let edge = RATE.instant(counter.next_rise(self.checked)?);
        let Some(raised) = self.raised_at else {
            return Some(edge);
        };
        // An edge of before the last interrupt is one that is made up for.
        let pause = if edge <= raised {
            CATCH_UP_NANOS
        } else {
            INTERRUPT_NANOS_MIN
        };
        Some(edge.max(raised.saturating_add(pause)))
    }

    /// Raises interrupt 0 if counter 0 had a rising edge since the last call. Of several, the others follow, if they are not
    /// too close together or too old.
    pub fn poll(&mut self, now: VmInstant, effects: &mut dyn Effects) {
        let tick = RATE.ticks(now);
        let [counter, ..] = &self.counters;
        let rise = counter
            .next_rise(self.checked)
            .filter(|rise| *rise <= tick && !self.is_too_soon(*rise, now));
        let rose = rise.is_some();
        if let Some(rise) = rise {
            let oldest = now.as_nanos().saturating_sub(BACKLOG_NANOS_MAX);
            self.checked = if self.makes_up_for(rise) {
                rise.max(RATE.ticks(VmInstant::from_nanos(oldest)))
            } else {
                tick
            };
        }
        let level = counter.output(tick);
        if rose {
            self.raised_at = Some(now);
            if self.line_level {
                effects.set_irq(GSI_PIT, false);
            }
            effects.set_irq(GSI_PIT, true);
            self.line_level = true;
        }
        if level != self.line_level {
            self.line_level = level;
            effects.set_irq(GSI_PIT, level);
        }
    }

    /// Tells whether the edge at tick `rise` is one that is made up for, so soon after the last interrupt that it waits.
    fn is_too_soon(&self, rise: u64, now: VmInstant) -> bool {
        self.raised_at.is_some_and(|raised| {
            RATE.instant(rise) <= raised && now < raised.saturating_add(CATCH_UP_NANOS)
        })
    }

    /// Tells whether the edges that follow the one at tick `rise` are far enough apart to be made up for.
    fn makes_up_for(&self, rise: u64) -> bool {
        let [counter, ..] = &self.counters;
        counter.next_rise(rise).is_some_and(|next| {
            let between = RATE.instant(next).as_nanos();
            between.saturating_sub(RATE.instant(rise).as_nanos()) >= PERIOD_NANOS_MIN
        })
    }

    fn write_control(&mut self, value: u8, tick: u64) {
        const READ_BACK: u8 = 3;
        const NOT_COUNT: u8 = 1 << 5;
        const NOT_STATUS: u8 = 1 << 4;
        let select = value >> 6;
        for (index, counter) in (0_u8..).zip(&mut self.counters) {
            if select == index {
                counter.write_control(value);
            } else if select == READ_BACK && value >> 1 >> index & 1 != 0 {
                if value & NOT_COUNT == 0 {
                    counter.latch_count(tick);
                }
                if value & NOT_STATUS == 0 {
                    counter.latch_status(tick);
                }
            }
            if select == index && counter::is_latch_command(value) {
                counter.latch_count(tick);
            }
        }
    }

    fn counter_at(&mut self, offset: u16) -> Option<&mut Counter> {
        self.counters.get_mut(usize::from(offset & 3))
    }
}

/// Tells whether a write changes how counter 0 counts.
fn programs_counter_0(offset: u16, value: u8) -> bool {
    match offset & 3 {
        0 => true,
        3 => value >> 6 == 0 && !counter::is_latch_command(value),
        _ => false,
    }
}

impl Default for Pit {
    fn default() -> Self {
        Self::new()
    }
}

impl PortIo for Pit {
    fn read_u8(&mut self, offset: u16, cx: &mut Cx<'_>) -> u8 {
        let tick = RATE.ticks(cx.now);
        // The control port is write-only.
        self.counter_at(offset)
            .map_or(0xff, |counter| counter.read(tick))
    }

    fn write_u8(&mut self, offset: u16, value: u8, cx: &mut Cx<'_>) {
        // Edges up to now belong to the old programming.
        self.poll(cx.now, cx.effects);
        let tick = RATE.ticks(cx.now);
        if programs_counter_0(offset, value) {
            self.checked = tick;
        }
        match self.counter_at(offset) {
            Some(counter) => counter.write(value, tick),
            None => self.write_control(value, tick),
        }
        self.poll(cx.now, cx.effects);
    }
}
