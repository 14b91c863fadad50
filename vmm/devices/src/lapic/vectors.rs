//! A set of 256 interrupt vectors: one of the registers IRR, ISR and TMR.

/// 256 bits in four words; the highest member is found by at most four tests and one bit scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct VectorSet {
    words: [u64; 4],
}

impl VectorSet {
    pub(super) const EMPTY: Self = Self { words: [0; 4] };

    pub(super) const fn from_words(words: [u64; 4]) -> Self {
        Self { words }
    }

    pub(super) const fn words(&self) -> [u64; 4] {
        self.words
    }

    fn word_of(vector: u8) -> (usize, u64) {
        (
            usize::from(vector >> 6),
            1_u64.wrapping_shl(u32::from(vector & 63)),
        )
    }

    /// Adds `vector` and tells whether it was absent.
    #[inline]
    pub(super) fn insert(&mut self, vector: u8) -> bool {
        let (index, bit) = Self::word_of(vector);
        let Some(word) = self.words.get_mut(index) else {
            return false;
        };
        let absent = *word & bit == 0;
        *word |= bit;
        absent
    }

    #[inline]
    pub(super) fn remove(&mut self, vector: u8) {
        let (index, bit) = Self::word_of(vector);
        if let Some(word) = self.words.get_mut(index) {
            *word &= !bit;
        }
    }

    #[inline]
    pub(super) fn contains(&self, vector: u8) -> bool {
        let (index, bit) = Self::word_of(vector);
        self.words.get(index).is_some_and(|word| word & bit != 0)
    }

    /// Returns the numerically highest member.
    #[inline]
    pub(super) fn highest(&self) -> Option<u8> {
        let [w0, w1, w2, w3] = self.words;
        let (base, word) = if w3 != 0 {
            (192_u8, w3)
        } else if w2 != 0 {
            (128, w2)
        } else if w1 != 0 {
            (64, w1)
        } else if w0 != 0 {
            (0, w0)
        } else {
            return None;
        };
        let [bit, ..] = word.ilog2().to_le_bytes();
        Some(base | bit)
    }

    /// Returns the 32-bit register number `index`, 0 to 7, as software sees it.
    pub(super) fn register(&self, index: u8) -> u32 {
        let word = self.words.get(usize::from(index >> 1)).copied();
        let [b0, b1, b2, b3, b4, b5, b6, b7] = word.unwrap_or(0).to_le_bytes();
        if index & 1 == 0 {
            u32::from_le_bytes([b0, b1, b2, b3])
        } else {
            u32::from_le_bytes([b4, b5, b6, b7])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::VectorSet;
    use crate::testing::Rng;
    use alloc::collections::BTreeSet;

    #[test]
    fn it_behaves_as_an_ordered_set() {
        let mut rng = Rng::new(256);
        let mut set = VectorSet::EMPTY;
        let mut model = BTreeSet::new();
        for _ in 0..20_000 {
            let vector = rng.byte();
            if rng.below(2) == 0 {
                assert_eq!(set.insert(vector), model.insert(vector));
            } else {
                set.remove(vector);
                model.remove(&vector);
            }
            assert_eq!(set.highest(), model.last().copied());
            let probe = rng.byte();
            let contained = model.contains(&probe);
            assert_eq!(set.contains(probe), contained);
            let register = set.register(probe >> 5);
            assert_eq!(register >> (probe & 31) & 1 == 1, contained);
        }
    }
}
