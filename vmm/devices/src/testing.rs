//! Test support: a fixed-seed generator and a call context over fakes.

use api::device::{Cx, Gsi};
use api::fake::{Effect, FakeMemory, Recorder};
use api::time::VmInstant;

/// SplitMix64: small, seedable and good enough to choose actions.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}

/// What a device call needs, with the effects kept for inspection.
pub(crate) struct Bench {
    pub(crate) now: VmInstant,
    pub(crate) memory: FakeMemory,
    pub(crate) recorder: Recorder,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_memory(0)
    }

    pub(crate) fn with_memory(len: usize) -> Self {
        Self {
            now: VmInstant::ZERO,
            memory: FakeMemory::new(len),
            recorder: Recorder::default(),
        }
    }

    pub(crate) fn cx(&mut self) -> Cx<'_> {
        Cx {
            now: self.now,
            memory: &self.memory,
            effects: &mut self.recorder,
        }
    }

    /// The last level driven on `gsi`; low before the first.
    pub(crate) fn line(&self, gsi: Gsi) -> bool {
        self.recorder
            .effects
            .iter()
            .rev()
            .find_map(|effect| match *effect {
                Effect::Irq(line, level) if line == gsi => Some(level),
                _ => None,
            })
            .unwrap_or(false)
    }

    /// Rising edges recorded on `gsi`.
    pub(crate) fn rises(&self, gsi: Gsi) -> usize {
        self.recorder
            .effects
            .iter()
            .filter(|effect| **effect == Effect::Irq(gsi, true))
            .count()
    }
}
