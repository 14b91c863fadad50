//! The Gregorian calendar by second number: seconds since the first of January of the year 0, UTC.

const SECONDS_PER_DAY: u64 = 86_400;
/// Days of 400 years, after which the calendar repeats.
const DAYS_PER_400_YEARS: u64 = 146_097;
/// Days of the years that four digits can show.
const DAYS: u64 = days_before_year(10_000);

/// Date and time. Fields of a value made by [`Calendar::of_second`] are in their usual ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Calendar {
    /// 0 to 9999.
    pub(super) year: u16,
    /// 1 to 12.
    pub(super) month: u8,
    /// 1 to 31.
    pub(super) day: u8,
    /// 1 is Sunday; not looked at in the other direction.
    pub(super) weekday: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

/// Converts seconds since 1970.
pub(super) fn unix_to_calendar(seconds: u64) -> u64 {
    days_before_year(1970)
        .wrapping_mul(SECONDS_PER_DAY)
        .saturating_add(seconds)
}

/// Days from the beginning of year 0 to that of `year`, at most some 10,000.
const fn days_before_year(year: u64) -> u64 {
    let leaps = year
        .div_ceil(4)
        .wrapping_sub(year.div_ceil(100))
        .wrapping_add(year.div_ceil(400));
    year.wrapping_mul(365).wrapping_add(leaps)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn month_lengths(year: u64) -> [u8; 12] {
    let february = if is_leap(year) { 29 } else { 28 };
    [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

fn narrow(value: u64) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low
}

impl Calendar {
    /// Returns the date and time of second number `second`; after the year 9999 the calendar begins anew.
    pub(super) fn of_second(second: u64) -> Self {
        let days = (second / SECONDS_PER_DAY) % DAYS;
        let of_day = second % SECONDS_PER_DAY;
        // The estimate is exact or one too high.
        let mut year = days.wrapping_mul(400) / DAYS_PER_400_YEARS;
        if days_before_year(year) > days {
            year = year.wrapping_sub(1);
        }
        if days_before_year(year.wrapping_add(1)) <= days {
            year = year.wrapping_add(1);
        }
        let mut rest = days.wrapping_sub(days_before_year(year));
        let mut month = 1_u8;
        for length in month_lengths(year) {
            match rest.checked_sub(length.into()) {
                Some(after) => {
                    rest = after;
                    month = month.wrapping_add(1);
                }
                None => break,
            }
        }
        // Year 0 began on a Saturday.
        let weekday = days.wrapping_add(6) % 7;
        let [low, high, ..] = year.to_le_bytes();
        Self {
            year: u16::from_le_bytes([low, high]),
            month,
            day: narrow(rest).wrapping_add(1),
            weekday: narrow(weekday).wrapping_add(1),
            hour: narrow(of_day / 3600),
            minute: narrow(of_day / 60 % 60),
            second: narrow(of_day % 60),
        }
    }

    /// Returns the second number. A month out of range counts as the nearest; other fields carry over.
    pub(super) fn to_second(self) -> u64 {
        let year = u64::from(self.year);
        let months_before = self.month.clamp(1, 12).wrapping_sub(1);
        let in_months = month_lengths(year)
            .iter()
            .take(months_before.into())
            .fold(0_u64, |sum, length| sum.wrapping_add(u64::from(*length)));
        let days = days_before_year(year)
            .wrapping_add(in_months)
            .wrapping_add(u64::from(self.day.max(1)))
            .wrapping_sub(1);
        days.wrapping_mul(SECONDS_PER_DAY)
            .wrapping_add(u64::from(self.hour).wrapping_mul(3600))
            .wrapping_add(u64::from(self.minute).wrapping_mul(60))
            .wrapping_add(self.second.into())
    }
}

#[cfg(test)]
mod tests {
    use super::{Calendar, unix_to_calendar};
    use crate::testing::Rng;

    fn date(unix: u64) -> (u16, u8, u8, u8) {
        let time = Calendar::of_second(unix_to_calendar(unix));
        (time.year, time.month, time.day, time.weekday)
    }

    #[test]
    fn known_dates_are_right() {
        assert_eq!(date(0), (1970, 1, 1, 5));
        assert_eq!(date(951_782_400), (2000, 2, 29, 3));
        assert_eq!(date(1_798_761_599), (2026, 12, 31, 5));
        assert_eq!(date(4_107_542_400), (2100, 3, 1, 2));
    }

    #[test]
    fn every_day_follows_the_last_one() {
        let mut rng = Rng::new(1582);
        for _ in 0..20_000 {
            let second = rng.below(3_652_425 * 86_400);
            let time = Calendar::of_second(second);
            assert_eq!(time.to_second(), second);
            assert!((1..=12).contains(&time.month) && (1..=31).contains(&time.day));
            let next = Calendar::of_second(second + 86_400);
            assert_eq!(next.weekday, time.weekday % 7 + 1);
        }
    }
}
