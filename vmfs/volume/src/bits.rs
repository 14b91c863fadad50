//! Bitmaps: bytes whose lowest bit comes first.

/// Tells whether a bit is set; bits beyond the end are.
pub(crate) fn get(bits: &[u8], index: u64) -> bool {
    usize::try_from(index / 8)
        .ok()
        .and_then(|byte| bits.get(byte))
        .is_none_or(|byte| byte & (1 << (index % 8)) != 0)
}

/// Sets or clears a bit; returns whether that changed it.
pub(crate) fn put(bits: &mut [u8], index: u64, value: bool) -> bool {
    let Some(byte) = usize::try_from(index / 8)
        .ok()
        .and_then(|byte| bits.get_mut(byte))
    else {
        return false;
    };
    let mask = 1 << (index % 8);
    let changed = (*byte & mask != 0) != value;
    if changed {
        *byte ^= mask;
    }
    changed
}

/// Returns the first run of `want` clear bits between `start` and `end`, or else the longest one there is.
pub(crate) fn find_run(bits: &[u8], start: u64, end: u64, want: u64) -> Option<(u64, u64)> {
    let mut best: Option<(u64, u64)> = None;
    let mut index = start;
    while index < end {
        if index.is_multiple_of(8) && byte_is_full(bits, index) {
            index = index.saturating_add(8);
            continue;
        }
        let run = run_at(bits, index, end, want);
        if run > best.map_or(0, |(_, len)| len) {
            best = Some((index, run));
            if run >= want {
                break;
            }
        }
        index = index.saturating_add(run.max(1));
    }
    best
}

/// Returns how many bits from `index` on, at most `want`, are clear.
pub(crate) fn run_at(bits: &[u8], index: u64, end: u64, want: u64) -> u64 {
    let limit = end.min(index.saturating_add(want));
    let mut at = index;
    while at < limit && !get(bits, at) {
        let whole = at.is_multiple_of(8)
            && limit.saturating_sub(at) >= 8
            && usize::try_from(at / 8).is_ok_and(|byte| bits.get(byte) == Some(&0));
        at = at.saturating_add(if whole { 8 } else { 1 });
    }
    at.saturating_sub(index)
}

fn byte_is_full(bits: &[u8], index: u64) -> bool {
    usize::try_from(index / 8).is_ok_and(|byte| bits.get(byte) == Some(&0xff))
}

#[cfg(test)]
mod tests {
    use super::{find_run, get, put, run_at};

    #[test]
    fn runs_are_found_whatever_the_bytes() {
        let mut bits = [0xff; 8];
        for index in [3, 4, 9, 10, 11, 12, 13, 14, 15, 16, 17, 40] {
            assert!(put(&mut bits, index, false));
            assert!(!put(&mut bits, index, false));
        }
        assert_eq!(find_run(&bits, 0, 64, 2), Some((3, 2)));
        assert_eq!(find_run(&bits, 0, 64, 5), Some((9, 5)));
        assert_eq!(find_run(&bits, 0, 64, 100), Some((9, 9)));
        assert_eq!(find_run(&bits, 18, 64, 100), Some((40, 1)));
        assert_eq!(find_run(&bits, 41, 64, 1), None);
        assert_eq!(run_at(&bits, 9, 64, 100), 9);
        assert_eq!(run_at(&bits, 9, 12, 100), 3);
        assert!(get(&bits, 1 << 40), "what lies beyond is in use");
    }
}
