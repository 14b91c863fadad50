//! The wall clock of the MC146818.

use crate::cpu;

/// Register A: an update is in progress.
const UPDATING: u8 = 0x80;

/// A date and a time of day, as the clock shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// Year, month, day.
    pub date: (u16, u8, u8),
    /// Hour, minute, second.
    pub time: (u8, u8, u8),
}

/// Reads the clock between two updates.
pub fn now() -> Time {
    loop {
        while read(0x0a) & UPDATING != 0 {}
        let first = fields();
        if first == fields() {
            return first;
        }
    }
}

fn fields() -> Time {
    let two_digits = |register| {
        let value = read(register);
        // Firmware leaves the clock in binary-coded decimal.
        value / 16 * 10 + value % 16
    };
    Time {
        date: (
            2000 + u16::from(two_digits(9)),
            two_digits(8),
            two_digits(7),
        ),
        time: (two_digits(4), two_digits(2), two_digits(0)),
    }
}

fn read(register: u8) -> u8 {
    cpu::out8(0x70, register);
    cpu::in8(0x71)
}
