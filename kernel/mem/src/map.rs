//! What of a firmware's memory map can be used: RAM in whole pages, without what the map also calls something else.

use addr::PAGE_SIZE;
use alloc::vec::Vec;
use core::ops::Range;

/// A line of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// It is RAM that nobody uses.
    pub is_usable: bool,
}

/// Returns the usable RAM of `regions` as page-aligned ranges in rising order, none touching the next. Lines may overlap:
/// what any of them calls not usable is not used.
///
/// # Errors
/// A text, when RAM would be where no address reaches: such a map cannot be trusted in anything.
pub fn usable_ram(regions: &[Region]) -> Result<Vec<Range<u64>>, &'static str> {
    const END: u64 = 1 << addr::PHYS_BITS_MAX;
    let mut ram: Vec<Range<u64>> = Vec::new();
    for region in regions.iter().filter(|r| r.is_usable && r.len > 0) {
        let end = region
            .start
            .checked_add(region.len)
            .filter(|end| *end <= END)
            .ok_or("a region of RAM ends beyond the physical address space")?;
        let end = end & !(PAGE_SIZE - 1);
        let start = region.start.next_multiple_of(PAGE_SIZE);
        if start < end {
            ram.push(start..end);
        }
    }
    ram.sort_by_key(|r| r.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ram {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    for region in regions.iter().filter(|r| !r.is_usable && r.len > 0) {
        let end = region.start.saturating_add(region.len).min(END);
        let start = region.start.min(END);
        let hole = start & !(PAGE_SIZE - 1)..end.next_multiple_of(PAGE_SIZE);
        merged = subtract(merged, &hole);
    }
    Ok(merged)
}

/// Cuts `hole` out of `ranges`.
#[must_use]
pub fn subtract(ranges: Vec<Range<u64>>, hole: &Range<u64>) -> Vec<Range<u64>> {
    let parts = ranges.into_iter().flat_map(|r| {
        let below = r.start..r.end.min(hole.start).max(r.start);
        let above = r.start.max(hole.end).min(r.end)..r.end;
        [below, above]
    });
    parts.filter(|r| r.start < r.end).collect()
}

#[cfg(test)]
mod tests {
    use super::{Region, usable_ram};
    use alloc::vec;

    fn ram(start: u64, len: u64) -> Region {
        Region {
            start,
            len,
            is_usable: true,
        }
    }

    fn other(start: u64, len: u64) -> Region {
        Region {
            is_usable: false,
            ..ram(start, len)
        }
    }

    #[test]
    fn lines_that_touch_or_overlap_become_one_range() {
        let map = [
            ram(0x10_0000, 0x10_0000),
            ram(0, 0x9_fc00),
            ram(0x1f_0000, 0x2_0000),
        ];
        assert_eq!(
            usable_ram(&map),
            Ok(vec![0..0x9_f000, 0x10_0000..0x21_0000])
        );
    }

    #[test]
    fn what_is_also_called_reserved_is_not_used() {
        let map = [
            ram(0, 0x10_0000),
            other(0x8_0123, 1),
            other(0xf_f000, 0x2000),
            other(0, 0),
        ];
        assert_eq!(usable_ram(&map), Ok(vec![0..0x8_0000, 0x8_1000..0xf_f000]));
        let map = [ram(0x1000, 0x1000), other(0, u64::MAX)];
        assert_eq!(usable_ram(&map), Ok(vec![]));
    }

    #[test]
    fn ram_beyond_all_addresses_is_refused() {
        assert!(usable_ram(&[ram(u64::MAX - 0xfff, 0x2000)]).is_err());
        assert!(usable_ram(&[ram((1 << 52) - 0x1000, 0x2000)]).is_err());
        assert!(usable_ram(&[ram(0, 0x1000), ram(1 << 52, 0x1000)]).is_err());
        assert_eq!(
            usable_ram(&[ram(0x1800, 0x400)]),
            Ok(vec![]),
            "no whole page"
        );
    }

    #[test]
    fn wild_maps_give_ranges_in_order() {
        let mut state = 7_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state >> 20
        };
        for _ in 0..2000 {
            let regions: [Region; 12] = core::array::from_fn(|_| Region {
                start: random() % (1 << (20 + random() % 36)),
                len: random() % (1 << 30),
                is_usable: random() % 3 != 0,
            });
            let Ok(ranges) = usable_ram(&regions) else {
                continue;
            };
            assert!(
                ranges
                    .iter()
                    .all(|r| r.start < r.end && r.start % 4096 == 0)
            );
            assert!(ranges.windows(2).all(|w| w[0].end < w[1].start));
            for region in regions.iter().filter(|r| !r.is_usable && r.len > 0) {
                let end = region.start + region.len;
                assert!(!ranges.iter().any(|r| r.start < end && region.start < r.end));
            }
        }
    }
}
