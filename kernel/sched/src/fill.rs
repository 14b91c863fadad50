//! Divides an amount by weight between bounds: the arithmetic under every entitlement.
//!
//! Each part is `weight` times one common level, raised to its minimum or cut to its maximum. The level is found by
//! fixing, round by round, the parts on that side of their bounds that weighs more; a round fixes at least one part,
//! and real trees need two or three rounds.

use alloc::vec::Vec;

/// One part of a division.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) weight: u64,
    pub(crate) min: u64,
    pub(crate) max: u64,
}

/// Amount per weight: a part of weight `w` is at `w * amount / weight` before its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    amount: u64,
    weight: u64,
}

impl Level {
    pub(crate) fn of(amount: u64, weight: u64) -> Self {
        Self {
            amount,
            weight: weight.max(1),
        }
    }

    pub(crate) fn at(self, weight: u64) -> u64 {
        let rate = u128::from(self.amount) * u128::from(weight) / u128::from(self.weight);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

/// Returns the level at which the parts sum up to `amount`, or `None` where all can have their maximum.
///
/// Where the minima alone exceed `amount` the level is zero. `scratch` is working space.
pub(crate) fn level(amount: u64, parts: &[Part], scratch: &mut Vec<Part>) -> Option<Level> {
    let sum_max = parts
        .iter()
        .fold(0u64, |sum, part| sum.saturating_add(part.max));
    if sum_max <= amount {
        return None;
    }
    scratch.clear();
    scratch.extend_from_slice(parts);
    let mut left = amount;
    loop {
        let weight = scratch.iter().map(|part| part.weight).sum();
        let level = Level::of(left, weight);
        let (mut raised, mut cut) = (0u64, 0u64);
        for part in scratch.iter() {
            let share = level.at(part.weight);
            raised += part.min.saturating_sub(share);
            cut += share.saturating_sub(part.max.max(part.min));
        }
        if raised == 0 && cut == 0 {
            return Some(level);
        }
        scratch.retain(|part| {
            let share = level.at(part.weight);
            let fixed = if raised >= cut {
                (share < part.min).then_some(part.min)
            } else {
                (share > part.max.max(part.min)).then_some(part.max.max(part.min))
            };
            left = left.saturating_sub(fixed.unwrap_or(0));
            fixed.is_none()
        });
        if scratch.is_empty() {
            return Some(level);
        }
    }
}
