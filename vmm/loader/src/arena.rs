//! Finds places in guest RAM below 4 GiB, and writes there. It never moves what was placed.

use crate::error::LoadError;
use crate::ram::{EBDA_START, EXTENDED_START, RamMap};
use addr::{Gpa, PAGE_SIZE};
use alloc::vec::Vec;
use api::memory::{GuestMemory, MemoryError};
use core::ops::Range;

/// Conventional memory that boot structures may use: not the first page (interrupt vectors, BIOS data area) and not the
/// page of the EBDA.
const CONVENTIONAL: Range<u64> = PAGE_SIZE..(EBDA_START & !(PAGE_SIZE - 1));

/// Guest RAM below 4 GiB with a record of what is taken.
pub(crate) struct Arena<'a> {
    memory: &'a dyn GuestMemory,
    ram: RamMap,
    /// Sorted by start; entries may touch or overlap.
    taken: Vec<Range<u64>>,
}

impl<'a> Arena<'a> {
    pub(crate) fn new(memory: &'a dyn GuestMemory, ram: RamMap) -> Self {
        Self {
            memory,
            ram,
            taken: Vec::new(),
        }
    }

    pub(crate) fn ram(&self) -> RamMap {
        self.ram
    }

    /// Takes the `len` bytes that the kernel image insists on at `start`.
    pub(crate) fn take_for_kernel(&mut self, start: u64, len: u64) -> Result<(), LoadError> {
        let end = start.saturating_add(len);
        if !self.ram.is_loadable(start, end) {
            return Err(LoadError::KernelOutsideRam {
                start,
                end,
                ram_end: self.ram.low_end(),
            });
        }
        self.take(start..end);
        Ok(())
    }

    fn take(&mut self, range: Range<u64>) {
        let at = self.taken.partition_point(|t| t.start < range.start);
        self.taken.insert(at, range);
    }

    /// Returns the end of everything taken in extended memory, at least 1 MiB.
    pub(crate) fn extended_end(&self) -> u64 {
        let ends = self.taken.iter().map(|t| t.end);
        ends.max().unwrap_or(0).max(EXTENDED_START)
    }

    /// Takes `size` bytes for a small boot structure, as high as possible below 640 KiB, else above the kernel.
    pub(crate) fn place_boot(&mut self, what: &'static str, size: u64) -> Result<u64, LoadError> {
        match self.highest(&CONVENTIONAL, size) {
            Some(start) => {
                self.take(start..start.saturating_add(size));
                Ok(start)
            }
            None => self.place_up(what, size),
        }
    }

    /// Takes `size` bytes, page-aligned, directly above all that is taken in extended memory.
    pub(crate) fn place_up(&mut self, what: &'static str, size: u64) -> Result<u64, LoadError> {
        let start = align_up(self.extended_end(), PAGE_SIZE);
        let end = start.saturating_add(size);
        if end > self.ram.low_end() {
            return Err(LoadError::DoesNotFit {
                what,
                size,
                limit: self.ram.low_end(),
            });
        }
        self.take(start..end);
        Ok(start)
    }

    /// Takes `size` bytes, page-aligned, as high as possible in extended memory with the last byte at most at `last`.
    pub(crate) fn place_down(
        &mut self,
        what: &'static str,
        size: u64,
        last: u64,
    ) -> Result<u64, LoadError> {
        let limit = last.saturating_add(1).min(self.ram.low_end());
        let start = self
            .highest(&(EXTENDED_START..limit), size)
            .ok_or(LoadError::DoesNotFit { what, size, limit })?;
        self.take(start..start.saturating_add(size));
        Ok(start)
    }

    /// Finds the highest page-aligned free place for `size` bytes inside `window`.
    fn highest(&self, window: &Range<u64>, size: u64) -> Option<u64> {
        let mut end = window.end;
        loop {
            let start = end.checked_sub(size)? & !(PAGE_SIZE - 1);
            if start < window.start {
                return None;
            }
            let blocker = self
                .taken
                .iter()
                .filter(|t| t.start < start.saturating_add(size) && t.end > start)
                .map(|t| t.start)
                .min();
            match blocker {
                // Every step goes below one more taken range, so the loop ends.
                Some(below) => end = below.min(end),
                None => return Some(start),
            }
        }
    }

    /// Copies `data` to `start`.
    pub(crate) fn write(&self, start: u64, data: &[u8]) -> Result<(), LoadError> {
        Ok(self.memory.write(gpa(start, data.len())?, data)?)
    }

    /// Zeroes `len` bytes from `start`.
    pub(crate) fn zero(&self, start: u64, len: u64) -> Result<(), LoadError> {
        Ok(self.memory.fill_zero(gpa(start, 0)?, len)?)
    }

    /// Places a structure whose content depends on its own address: `build` is called for its size, then for good.
    pub(crate) fn put_boot(
        &mut self,
        what: &'static str,
        build: impl Fn(u64) -> Vec<u8>,
    ) -> Result<u64, LoadError> {
        let start = self.place_boot(what, build(0).len() as u64)?;
        self.write(start, &build(start))?;
        Ok(start)
    }
}

fn gpa(start: u64, len: usize) -> Result<Gpa, MemoryError> {
    Gpa::new(start).ok_or(MemoryError::Unbacked {
        gpa: Gpa::new_truncate(start),
        len,
    })
}

/// Rounds `value` up to a multiple of `align`, a power of two; saturates at the top of the address space.
pub(crate) const fn align_up(value: u64, align: u64) -> u64 {
    let mask = align.wrapping_sub(1);
    value.saturating_add(mask) & !mask
}

#[cfg(test)]
mod tests {
    use super::{Arena, align_up};
    use crate::ram::RamMap;
    use api::fake::FakeMemory;

    #[test]
    fn boot_structures_go_to_the_top_of_conventional_memory_and_around_the_kernel() {
        let memory = FakeMemory::new(4 << 20);
        let mut arena = Arena::new(&memory, RamMap::new(4 << 20).unwrap());
        assert_eq!(arena.place_boot("a", 1), Ok(0x9_e000));
        arena.take_for_kernel(0x8000, 0x9_5000).unwrap();
        assert_eq!(arena.place_boot("b", 0x2000), Ok(0x6000));
        assert_eq!(arena.place_boot("c", 0x6000), Ok(0x10_0000));
        assert_eq!(arena.place_boot("d", 0x5000), Ok(0x1000));
        assert!(arena.place_up("e", 4 << 20).is_err());
    }

    #[test]
    fn placing_down_skips_what_is_taken() {
        let memory = FakeMemory::new(4 << 20);
        let mut arena = Arena::new(&memory, RamMap::new(4 << 20).unwrap());
        arena.take_for_kernel(0x30_0000, 0x10_0000).unwrap();
        assert_eq!(arena.place_down("a", 0x1001, u64::MAX), Ok(0x2f_e000));
        assert_eq!(arena.place_down("b", 0x1000, 0x1f_ffff), Ok(0x1f_f000));
        assert!(arena.place_down("c", 0x30_0000, u64::MAX).is_err());
        assert!(arena.place_down("d", u64::MAX, u64::MAX).is_err());
    }

    #[test]
    fn the_hole_below_1_mib_takes_no_kernel() {
        let memory = FakeMemory::new(4 << 20);
        let mut arena = Arena::new(&memory, RamMap::new(4 << 20).unwrap());
        assert!(arena.take_for_kernel(0x9_f000, 0x1000).is_err());
        assert!(arena.take_for_kernel(0xc_0000, 1).is_err());
        assert!(arena.take_for_kernel(0x10_0000, 0x30_0001).is_err());
        assert!(arena.take_for_kernel(u64::MAX, u64::MAX).is_err());
    }

    #[test]
    fn rounding_up_saturates() {
        assert_eq!(align_up(1, 4096), 4096);
        assert_eq!(align_up(u64::MAX, 4096), !4095);
    }
}
