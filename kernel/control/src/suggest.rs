//! The word that was probably meant: the known one with the fewest slips of the fingers between.

use alloc::vec::Vec;

/// Words longer than this are not compared: nobody misspells a path into a command.
const WORD_LEN_MAX: usize = 64;

/// Returns the known word nearest to `word`, if one is near.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // One slip in a short word, two in a longer one.
    let tolerated = if word.len() <= 3 { 1 } else { 2 };
    known
        .map(|candidate| (distance(word, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= tolerated)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that make one word of the other (the restricted
/// Damerau-Levenshtein distance).
fn distance(from: &str, to: &str) -> usize {
    if from.len() > WORD_LEN_MAX || to.len() > WORD_LEN_MAX {
        return usize::MAX;
    }
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    // Rows of the table: distances of the first i characters of `from` to every beginning of `to`.
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    let mut previous_char = None;
    for (i, &a) in from.iter().enumerate() {
        let mut row = Vec::with_capacity(last.len());
        row.push(i.saturating_add(1));
        let mut previous_to = None;
        for (j, &b) in to.iter().enumerate() {
            let cell = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX);
            let replaced = cell(&last, j).saturating_add(usize::from(a != b));
            let deleted = cell(&last, j.saturating_add(1)).saturating_add(1);
            let inserted = cell(&row, j).saturating_add(1);
            let mut best = replaced.min(deleted).min(inserted);
            if previous_char == Some(b)
                && previous_to == Some(a)
                && let Some(swap) = j.checked_sub(1)
            {
                best = best.min(cell(&before, swap).saturating_add(1));
            }
            row.push(best);
            previous_to = Some(b);
        }
        before = core::mem::replace(&mut last, row);
        previous_char = Some(a);
    }
    last.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_slips() {
        assert_eq!(distance("start", "start"), 0);
        assert_eq!(distance("strat", "start"), 1);
        assert_eq!(distance("stat", "start"), 1);
        assert_eq!(distance("", "vm"), 2);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn only_near_words_are_suggested() {
        let known = ["list", "start", "stop", "vm"];
        let near = |word| nearest(word, known.into_iter());
        assert_eq!(near("lsit"), Some("list"));
        assert_eq!(near("strt"), Some("start"));
        assert_eq!(near("vn"), Some("vm"));
        assert_eq!(near("frobnicate"), None);
        assert_eq!(near(""), None);
    }
}
