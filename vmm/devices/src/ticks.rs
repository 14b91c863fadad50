//! Conversion between virtual time and the ticks of a chip's crystal, without drift and without floating point.

use api::time::VmInstant;

/// A clock below 1 GHz that has been ticking since the VM's creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TickRate {
    /// Ticks per nanosecond, times 2^64, rounded up. The rounding is below one tick in 500 years.
    per_nano: u64,
}

impl TickRate {
    /// Makes a rate of `hz`, 1 to 999,999,999.
    pub(crate) const fn new(hz: u32) -> Self {
        assert!(hz > 0 && hz < 1_000_000_000, "rate out of range");
        let exact = ((hz as u128) << 64).div_ceil(1_000_000_000);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "hz is below a billion, so the quotient is below 2^64"
        )]
        let per_nano = exact as u64;
        Self { per_nano }
    }

    /// Ticks that have happened up to `time`.
    #[inline]
    pub(crate) const fn ticks(self, time: VmInstant) -> u64 {
        // The product of two 64-bit numbers fits, and so does its upper half.
        let product = (time.as_nanos() as u128).wrapping_mul(self.per_nano as u128);
        (product >> 64) as u64
    }

    /// The first moment at which tick number `tick` has happened; saturates at the end of time.
    pub(crate) fn instant(self, tick: u64) -> VmInstant {
        let nanos = (u128::from(tick) << 64).div_ceil(u128::from(self.per_nano).max(1));
        VmInstant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::TickRate;
    use crate::testing::Rng;
    use api::time::VmInstant;

    #[test]
    fn an_instant_is_the_first_with_its_tick() {
        let mut rng = Rng::new(3_579_545);
        for hz in [1, 32_768, 1_193_182, 3_579_545, 999_999_999] {
            let rate = TickRate::new(hz);
            for _ in 0..2_000 {
                let magnitude = rng.below(30);
                let tick = rng.below(1 << magnitude) + 1;
                let instant = rate.instant(tick);
                assert_eq!(rate.ticks(instant), tick);
                let before = VmInstant::from_nanos(instant.as_nanos() - 1);
                assert_eq!(rate.ticks(before), tick - 1);
            }
        }
    }

    #[test]
    fn a_year_has_the_right_number_of_ticks() {
        let year = 365 * 24 * 3600;
        let rate = TickRate::new(1_193_182);
        let ticks = rate.ticks(VmInstant::from_nanos(year * 1_000_000_000));
        assert_eq!(ticks, year * 1_193_182);
    }
}
