//! Which frames of a guest were written since somebody looked: one bit each, set by whoever writes or finds out.
//!
//! How writes are found out, and what is done with what was written, is the caller's.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

const FRAME_SHIFT: u32 = 12;

/// The bits of one guest.
#[derive(Debug)]
pub struct WriteLog {
    words: Vec<AtomicU64>,
}

impl WriteLog {
    /// Makes the log of a guest whose memory ends below `end`, in bytes, with nothing written. `None` when no memory is left
    /// for it: it takes a 32,768th of `end`.
    #[must_use]
    pub fn new(end: u64) -> Option<Self> {
        let words = usize::try_from(end.div_ceil(64 << FRAME_SHIFT)).ok()?;
        let mut all = Vec::new();
        all.try_reserve_exact(words).ok()?;
        all.resize_with(words, || AtomicU64::new(0));
        Some(Self { words: all })
    }

    /// Notes that these bytes were written; call it after the write. What is beyond the end is left out.
    #[inline]
    pub fn note(&self, bytes: Range<u64>) {
        if bytes.is_empty() {
            return;
        }
        let last = bytes.end.wrapping_sub(1) >> FRAME_SHIFT;
        for frame in bytes.start >> FRAME_SHIFT..=last {
            let Some(word) = self.words.get((frame / 64) as usize) else {
                return;
            };
            word.fetch_or(1 << (frame % 64), Ordering::AcqRel);
        }
    }

    /// Returns how many words of 64 frames there are.
    #[must_use]
    pub fn words(&self) -> usize {
        self.words.len()
    }

    /// Takes the bits of frames `64 * word` to `64 * word + 63`, the lowest first; they are clear afterwards.
    #[must_use]
    pub fn take(&self, word: usize) -> u64 {
        match self.words.get(word) {
            Some(word) if word.load(Ordering::Relaxed) != 0 => word.swap(0, Ordering::AcqRel),
            _ => 0,
        }
    }
}

/// Returns the first byte of each frame that is set in `bits`, which [`WriteLog::take`] returned for `word`.
pub fn frames(word: usize, bits: u64) -> impl Iterator<Item = u64> {
    let first = (word as u64).wrapping_mul(64);
    (0..64_u64)
        .filter(move |bit| bits >> bit & 1 != 0)
        .map(move |bit| first.wrapping_add(bit) << FRAME_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::{WriteLog, frames};
    use alloc::vec::Vec;

    fn taken(log: &WriteLog) -> Vec<u64> {
        (0..log.words())
            .flat_map(|word| frames(word, log.take(word)))
            .collect()
    }

    #[test]
    fn what_was_written_is_told_once() {
        let log = WriteLog::new(64 << 20).unwrap();
        assert!(taken(&log).is_empty());
        log.note(0x1fff..0x2001);
        log.note(0x3f_f000..0x40_1000);
        log.note(0x1000..0x1001);
        log.note(0x9000..0x9000);
        assert_eq!(taken(&log), [0x1000, 0x2000, 0x3f_f000, 0x40_0000]);
        assert!(taken(&log).is_empty());
    }

    #[test]
    fn the_end_is_the_end() {
        let log = WriteLog::new((64 << 12) + 1).unwrap();
        assert_eq!(log.words(), 2);
        log.note(0x7f_f000..u64::MAX);
        log.note(u64::MAX - 1..u64::MAX);
        assert!(taken(&log).is_empty());
        log.note(0x7_f000..u64::MAX);
        assert_eq!(taken(&log).first(), Some(&0x7_f000));
        assert_eq!(log.take(2), 0);
        assert!(WriteLog::new(u64::MAX).is_none());
    }
}
