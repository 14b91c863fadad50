//! Where the chips' effects are kept until the call that caused them is over.
//!
//! Everything is of fixed size: interrupt lines are bits, and the two queues hold more than one access can cause.

use api::device::{Effects, Gsi, MachineAction};
use devices::layout::IOAPIC_PINS;

/// Actions that wait for the caller. One access causes at most four (one per byte).
const ACTIONS_MAX: usize = 8;
/// Characters that wait for the caller. One access causes at most four.
const OUTPUT_MAX: usize = 64;

/// A first-in first-out queue without allocation.
#[derive(Clone, Copy, Debug)]
struct Queue<T: Copy, const N: usize> {
    slots: [Option<T>; N],
    head: usize,
    len: usize,
}

impl<T: Copy, const N: usize> Queue<T, N> {
    const fn new() -> Self {
        Self {
            slots: [None; N],
            head: 0,
            len: 0,
        }
    }

    /// Appends `value`; a full queue drops it.
    fn push(&mut self, value: T) {
        let tail = self.head.wrapping_add(self.len).checked_rem(N);
        if self.len < N
            && let Some(slot) = tail.and_then(|tail| self.slots.get_mut(tail))
        {
            *slot = Some(value);
            self.len = self.len.wrapping_add(1);
        }
    }

    fn pop(&mut self) -> Option<T> {
        let rest = self.len.checked_sub(1)?;
        let value = self.slots.get_mut(self.head)?.take();
        self.head = self.head.wrapping_add(1).checked_rem(N).unwrap_or(0);
        self.len = rest;
        value
    }
}

/// A line that was driven during a call: what its chip saw as its level before and after, and whether it rose between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LineChange {
    pub(crate) gsi: u8,
    pub(crate) was: bool,
    pub(crate) rose: bool,
    pub(crate) level: bool,
}

/// Recorded effects. Bit n of a word is GSI n.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// Levels as last driven by the chips.
    levels: u32,
    /// Levels as last carried on to the interrupt controllers.
    carried: u32,
    rose: u32,
    touched: u32,
    actions: Queue<MachineAction, ACTIONS_MAX>,
    output: Queue<(u8, u8), OUTPUT_MAX>,
}

impl Outbox {
    pub(crate) const fn new() -> Self {
        Self {
            levels: 0,
            carried: 0,
            rose: 0,
            touched: 0,
            actions: Queue::new(),
            output: Queue::new(),
        }
    }

    /// Tells whether [`Outbox::take_line`] has something.
    #[inline]
    pub(crate) const fn has_lines(&self) -> bool {
        self.touched != 0
    }

    /// Takes the lowest line that was driven.
    pub(crate) fn take_line(&mut self) -> Option<LineChange> {
        if self.touched == 0 {
            return None;
        }
        let [gsi, ..] = self.touched.trailing_zeros().to_le_bytes();
        let bit = bit(gsi);
        let change = LineChange {
            gsi,
            was: self.carried & bit != 0,
            rose: self.rose & bit != 0,
            level: self.levels & bit != 0,
        };
        self.touched &= !bit;
        self.rose &= !bit;
        self.carried = self.carried & !bit | self.levels & bit;
        Some(change)
    }

    /// Levels of all lines.
    pub(crate) const fn levels(&self) -> u32 {
        self.levels
    }

    /// Makes `levels` the state of the lines, as carried on already.
    pub(crate) fn restore_levels(&mut self, levels: u32) {
        self.levels = levels;
        self.carried = levels;
        self.rose = 0;
        self.touched = 0;
    }

    pub(crate) const fn has_action(&self) -> bool {
        self.actions.len != 0
    }

    pub(crate) fn take_action(&mut self) -> Option<MachineAction> {
        self.actions.pop()
    }

    pub(crate) const fn has_output(&self) -> bool {
        self.output.len != 0
    }

    pub(crate) fn take_output(&mut self) -> Option<(u8, u8)> {
        self.output.pop()
    }
}

impl Effects for Outbox {
    fn set_irq(&mut self, gsi: Gsi, level: bool) {
        let bit = bit(gsi.0);
        if level {
            self.rose |= bit & !self.levels;
            self.levels |= bit;
        } else {
            self.levels &= !bit;
        }
        self.touched |= bit;
    }

    fn request(&mut self, action: MachineAction) {
        self.actions.push(action);
    }

    fn emit(&mut self, channel: u8, byte: u8) {
        self.output.push((channel, byte));
    }
}

/// The bit of a line; lines beyond the I/O APIC's do not exist.
fn bit(gsi: u8) -> u32 {
    if gsi < IOAPIC_PINS {
        1_u32.wrapping_shl(gsi.into())
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::{LineChange, OUTPUT_MAX, Outbox};
    use api::device::{Effects, Gsi};

    #[test]
    fn a_pulse_is_remembered_as_a_rise() {
        let mut outbox = Outbox::new();
        outbox.set_irq(Gsi(4), true);
        outbox.set_irq(Gsi(4), false);
        outbox.set_irq(Gsi(200), true);
        let pulse = LineChange {
            gsi: 4,
            was: false,
            rose: true,
            level: false,
        };
        assert_eq!(outbox.take_line(), Some(pulse));
        assert_eq!(outbox.take_line(), None);
        outbox.set_irq(Gsi(4), true);
        outbox.take_line();
        outbox.set_irq(Gsi(4), false);
        outbox.set_irq(Gsi(4), true);
        let again = LineChange {
            gsi: 4,
            was: true,
            rose: true,
            level: true,
        };
        assert_eq!(outbox.take_line(), Some(again));
    }

    #[test]
    fn a_full_queue_drops_the_newest() {
        let mut outbox = Outbox::new();
        for byte in 0..=255 {
            outbox.emit(0, byte);
        }
        for byte in 0..OUTPUT_MAX {
            assert_eq!(outbox.take_output(), Some((0, byte as u8)));
        }
        assert_eq!(outbox.take_output(), None);
        outbox.emit(1, 7);
        assert_eq!(outbox.take_output(), Some((1, 7)));
    }
}
