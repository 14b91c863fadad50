//! When an alarm of the clock matches next.

/// Register values from here on match anything (data sheet, "time of day alarm").
pub(super) const ANY: u8 = 0xc0;

const SECONDS_PER_DAY: i64 = 86_400;

/// What an alarm compares with; `None` matches anything, a number out of range nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) second: Option<u8>,
    pub(super) minute: Option<u8>,
    pub(super) hour: Option<u8>,
}

/// The numbers below `count` that `field` matches.
fn matching(field: Option<u8>, count: u8) -> impl Iterator<Item = i64> {
    (0..count)
        .filter(move |number| field.is_none_or(|wanted| wanted == *number))
        .map(i64::from)
}

impl Pattern {
    /// Returns how many seconds after second number `after` the pattern matches first, 1 to 86,400.
    pub(super) fn seconds_until(self, after: i64) -> Option<i64> {
        let of_day = after.rem_euclid(SECONDS_PER_DAY);
        let today = self.first_after(of_day);
        let match_at =
            today.or_else(|| Some(self.first_after(-1)?.wrapping_add(SECONDS_PER_DAY)))?;
        Some(match_at.wrapping_sub(of_day))
    }

    /// The first second of a day after `of_day`. Whole hours and minutes that lie before are skipped.
    fn first_after(self, of_day: i64) -> Option<i64> {
        for hour in matching(self.hour, 24) {
            let hour_start = hour.wrapping_mul(3600);
            if hour_start.wrapping_add(3599) <= of_day {
                continue;
            }
            for minute in matching(self.minute, 60) {
                let minute_start = hour_start.wrapping_add(minute.wrapping_mul(60));
                if minute_start.wrapping_add(59) <= of_day {
                    continue;
                }
                let found = matching(self.second, 60)
                    .map(|second| minute_start.wrapping_add(second))
                    .find(|time| *time > of_day);
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;
    use crate::testing::Rng;

    #[test]
    fn it_finds_what_trying_every_second_finds() {
        let mut rng = Rng::new(146_818);
        for _ in 0..60 {
            let mut field = |count| (rng.below(2) == 0).then(|| rng.below(count) as u8);
            let pattern = Pattern {
                second: field(62),
                minute: field(60),
                hour: field(25),
            };
            let after = rng.below(200_000) as i64;
            let slow = (after + 1..=after + 86_400).find(|time| {
                let of_day = time % 86_400;
                let is = |field: Option<u8>, number| field.is_none_or(|f| i64::from(f) == number);
                is(pattern.second, of_day % 60)
                    && is(pattern.minute, of_day / 60 % 60)
                    && is(pattern.hour, of_day / 3600)
            });
            assert_eq!(pattern.seconds_until(after), slow.map(|time| time - after));
        }
    }
}
