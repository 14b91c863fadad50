//! The host's real-time clock, an MC146818: reads the date once, as seconds since 1970. Alarms and writing are left out.

/// The clock's registers, by index.
pub trait ClockRegisters {
    /// Reads register `index`.
    fn read(&mut self, index: u8) -> u8;
}

const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const UPDATE_IN_PROGRESS: u8 = 0x80;
const BINARY: u8 = 4;
const HOURS_24: u8 = 2;
const PM: u8 = 0x80;
/// Most reads until two in a row agree.
const TRIES_MAX: u32 = 10_000;

/// Returns the seconds since 1970-01-01 UTC that the clock shows; `None` when it never stands still.
pub fn read_seconds(registers: &mut dyn ClockRegisters) -> Option<u64> {
    let mut last = None;
    for _ in 0..TRIES_MAX {
        if registers.read(STATUS_A) & UPDATE_IN_PROGRESS != 0 {
            continue;
        }
        let fields = [0, 2, 4, 7, 8, 9].map(|index| registers.read(index));
        if last == Some(fields) {
            return Some(decode(fields, registers.read(STATUS_B)));
        }
        last = Some(fields);
    }
    None
}

fn decode(fields: [u8; 6], status: u8) -> u64 {
    let number = |value: u8| {
        u64::from(if status & BINARY != 0 {
            value
        } else {
            (value >> 4).wrapping_mul(10).wrapping_add(value & 15)
        })
    };
    let [second, minute, hour, day, month, year] = fields;
    let mut hours = number(hour & !PM);
    if status & HOURS_24 == 0 {
        hours = hours % 12 + if hour & PM != 0 { 12 } else { 0 };
    } else {
        hours = number(hour);
    }
    let days = days_since_1970(
        2000 + number(year),
        number(month).clamp(1, 12),
        number(day).clamp(1, 31),
    );
    ((days * 24 + hours) * 60 + number(minute)) * 60 + number(second)
}

/// Counts days to a date of the Gregorian calendar, by years that start in March.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    days - 719_468
}

#[cfg(test)]
mod tests {
    use super::{ClockRegisters, days_since_1970, read_seconds};

    struct Fake([u8; 16]);

    impl ClockRegisters for Fake {
        fn read(&mut self, index: u8) -> u8 {
            self.0[usize::from(index)]
        }
    }

    fn fake(second: u8, minute: u8, hour: u8, date: [u8; 3], status: u8) -> Fake {
        let [day, month, year] = date;
        let mut r = [0; 16];
        (r[0], r[2], r[4], r[7], r[8], r[9], r[11]) =
            (second, minute, hour, day, month, year, status);
        Fake(r)
    }

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(days_since_1970(1970, 1, 1), 0);
        assert_eq!(days_since_1970(2000, 3, 1), 11_017);
        assert_eq!(days_since_1970(2024, 2, 29), 19_782);
    }

    #[test]
    fn bcd_binary_and_twelve_hours_mean_the_same() {
        let bcd = read_seconds(&mut fake(0x30, 0x15, 0x23, [0x22, 0x11, 0x26], 2));
        let binary = read_seconds(&mut fake(30, 15, 23, [22, 11, 26], 2 | 4));
        let twelve = read_seconds(&mut fake(0x30, 0x15, 0x91, [0x22, 0x11, 0x26], 0));
        assert_eq!(bcd, Some(1_795_389_330));
        assert_eq!((binary, twelve), (bcd, bcd));
    }

    #[test]
    fn a_clock_that_never_settles_is_given_up() {
        let mut r = fake(0, 0, 0, [1, 1, 0], 2);
        r.0[10] = 0x80;
        assert_eq!(read_seconds(&mut r), None);
    }
}
