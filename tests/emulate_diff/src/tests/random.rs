//! Pseudo-random numbers of the kind that shows borders.

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    pub(super) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    /// A number of the kind that shows borders: small, negative, single bits, random.
    pub(super) fn value(&mut self) -> u64 {
        let v = self.next();
        match v % 6 {
            0 => v >> 60,
            1 => 0u64.wrapping_sub(v >> 60),
            2 => 1 << ((v >> 8) % 64),
            3 => (1u64 << ((v >> 8) % 64)).wrapping_sub(1),
            4 => v >> ((v >> 8) % 64),
            _ => v,
        }
    }
}
