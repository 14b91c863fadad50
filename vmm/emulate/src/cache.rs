//! Remembers decoded instructions, so that a loop that polls a device decodes once.

use crate::decode::Decoded;
use crate::fetch::Window;
use crate::registers::CodeSize;
use alloc::vec;
use alloc::vec::Vec;

/// Number of decoded instructions that are kept.
const CACHE_SIZE: usize = 64;

/// Decoded instructions, found by where they were and checked by what is there now.
#[derive(Debug)]
pub(crate) struct Cache {
    entries: Vec<CacheEntry>,
    /// Answers for a slot that cannot be missing.
    unhandled: Decoded,
}

#[derive(Clone, Copy, Debug, Default)]
struct CacheEntry {
    /// The instruction's bytes, first byte lowest; zero where `mask` is.
    bytes: u128,
    mask: u128,
    size: CodeSize,
    /// Zero length marks an empty entry.
    decoded: Decoded,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self {
            entries: vec![CacheEntry::default(); CACHE_SIZE],
            unhandled: Decoded::default(),
        }
    }

    /// Returns the instruction that `window`, `available` bytes at `rip`, begins with; `decode` is asked for it, and may
    /// extend the window, if it is not known.
    #[inline]
    pub(crate) fn find_or_insert<T>(
        &mut self,
        rip: u64,
        size: CodeSize,
        window: &mut Window,
        decode: impl FnOnce(&mut Window) -> Result<Decoded, T>,
    ) -> Result<&Decoded, T> {
        let [entry, ..] = self.entries.get_mut(index(rip)..).unwrap_or_default() else {
            return Ok(&self.unhandled);
        };
        let is_known = entry.size == size
            && window.bytes & entry.mask == entry.bytes
            && entry.decoded.len != 0
            && usize::from(entry.decoded.len) <= window.len;
        if !is_known {
            let decoded = decode(window)?;
            let bits = u32::from(decoded.len).saturating_mul(8);
            let mask = u128::MAX
                .checked_shl(bits)
                .map_or(u128::MAX, |above| !above);
            *entry = CacheEntry {
                bytes: window.bytes & mask,
                mask,
                size,
                decoded,
            };
        }
        Ok(&entry.decoded)
    }
}

#[inline]
fn index(rip: u64) -> usize {
    let [low, ..] = (rip ^ rip >> 6).to_le_bytes();
    usize::from(low) & (CACHE_SIZE - 1)
}
