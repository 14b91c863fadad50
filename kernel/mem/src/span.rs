//! One span of 1 GiB: a bitmap of free frames under a bitmap of blocks (2 MiB). Pure data; it knows no addresses.

/// Frames in a block of 2 MiB.
pub const BLOCK_FRAMES: u32 = 512;
/// Blocks in a span.
const SPAN_BLOCKS: u32 = 512;
/// Frames in a span of 1 GiB.
pub const SPAN_FRAMES: u32 = BLOCK_FRAMES * SPAN_BLOCKS;
const WORDS_PER_BLOCK: usize = 8;
const SUMMARY_WORDS: usize = 8;

/// The bitmap of a span in use. All bits zero is a span with nothing free.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct SpanMap {
    /// A set bit is a free frame.
    free: [u64; WORDS_PER_BLOCK * SPAN_BLOCKS as usize],
    /// Free frames of each block.
    counts: [u16; SPAN_BLOCKS as usize],
    /// Blocks with some, but not all, frames free.
    partial: [u64; SUMMARY_WORDS],
    /// Blocks with all frames free.
    whole: [u64; SUMMARY_WORDS],
}

impl SpanMap {
    /// Returns a map with nothing free.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            free: [0; WORDS_PER_BLOCK * SPAN_BLOCKS as usize],
            counts: [0; SPAN_BLOCKS as usize],
            partial: [0; SUMMARY_WORDS],
            whole: [0; SUMMARY_WORDS],
        }
    }

    /// Returns all frames to the used state.
    pub fn clear(&mut self) {
        self.free.fill(0);
        self.counts.fill(0);
        self.partial.fill(0);
        self.whole.fill(0);
    }

    /// Frees frames `start..end` of the span.
    ///
    /// # Panics
    /// When one of them is free already: two owners of a frame are a host error.
    pub fn free_range(&mut self, start: u32, end: u32) {
        assert!(
            start <= end && end <= SPAN_FRAMES,
            "frames {start}..{end} are not in a span"
        );
        let mut at = start;
        while at < end {
            let stop = end.min((at / 64 + 1) * 64);
            self.set_in_word(at, stop - at);
            at = stop;
        }
    }

    /// Takes one frame, from a block that is in use already if there is one.
    pub fn take_frame(&mut self) -> Option<u32> {
        let block = first_set(&self.partial).or_else(|| first_set(&self.whole))?;
        let words = self.block_words(block);
        let (index, word) = words.iter().enumerate().find(|(_, w)| **w != 0)?;
        let frame = block * BLOCK_FRAMES + index as u32 * 64 + word.trailing_zeros();
        self.clear_in_word(frame, 1);
        Some(frame)
    }

    /// Takes `count` (1 to 64) frames in a row that do not cross a multiple of 64.
    pub fn take_run(&mut self, count: u32) -> Option<u32> {
        debug_assert!((1..=64).contains(&count));
        for summary in [self.partial, self.whole] {
            for block in set_bits(&summary) {
                let words = self.block_words(block);
                let found = words
                    .iter()
                    .enumerate()
                    .find_map(|(i, w)| run_in(*w, count).map(|bit| (i, bit)));
                if let Some((index, bit)) = found {
                    let frame = block * BLOCK_FRAMES + index as u32 * 64 + bit;
                    self.clear_in_word(frame, count);
                    return Some(frame);
                }
            }
        }
        None
    }

    /// Takes a whole block of 2 MiB.
    pub fn take_block(&mut self) -> Option<u32> {
        let block = first_set(&self.whole)?;
        let first = block as usize * WORDS_PER_BLOCK;
        self.free[first..first + WORDS_PER_BLOCK].fill(0);
        self.set_count(block, 0);
        Some(block * BLOCK_FRAMES)
    }

    /// Takes `count` whole blocks of 2 MiB in a row.
    pub fn take_blocks(&mut self, count: u32) -> Option<u32> {
        let is_whole = |block: u32| self.whole[block as usize / 64] >> (block % 64) & 1 != 0;
        let mut run = 0;
        let end = (0..SPAN_BLOCKS).find(|block| {
            run = if is_whole(*block) { run + 1 } else { 0 };
            run == count
        })?;
        let first = end + 1 - count;
        for block in first..=end {
            let words = block as usize * WORDS_PER_BLOCK;
            self.free[words..words + WORDS_PER_BLOCK].fill(0);
            self.set_count(block, 0);
        }
        Some(first * BLOCK_FRAMES)
    }

    fn block_words(&self, block: u32) -> &[u64] {
        let first = block as usize * WORDS_PER_BLOCK;
        &self.free[first..first + WORDS_PER_BLOCK]
    }

    fn set_in_word(&mut self, frame: u32, count: u32) {
        let word = &mut self.free[frame as usize / 64];
        let mask = mask(frame % 64, count);
        assert!(*word & mask == 0, "frame {frame} of a span freed twice");
        *word |= mask;
        let block = frame / BLOCK_FRAMES;
        let total = self.counts[block as usize] + count as u16;
        self.set_count(block, total);
    }

    fn clear_in_word(&mut self, frame: u32, count: u32) {
        self.free[frame as usize / 64] &= !mask(frame % 64, count);
        let block = frame / BLOCK_FRAMES;
        let total = self.counts[block as usize] - count as u16;
        self.set_count(block, total);
    }

    fn set_count(&mut self, block: u32, count: u16) {
        self.counts[block as usize] = count;
        let (word, bit) = (block as usize / 64, 1u64 << (block % 64));
        self.partial[word] &= !bit;
        self.whole[word] &= !bit;
        match u32::from(count) {
            0 => {}
            BLOCK_FRAMES => self.whole[word] |= bit,
            _ => self.partial[word] |= bit,
        }
    }
}

/// What the allocator keeps of a span, in use or not.
#[derive(Clone, Copy, Debug)]
pub struct SpanRecord {
    /// Free frames.
    pub free: u32,
    /// Where its [`SpanMap`] lies: a frame number inside the span, or none while the span is untouched.
    pub map: Option<u32>,
    /// NUMA node.
    pub node: u8,
}

fn mask(first: u32, count: u32) -> u64 {
    let ones = if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    };
    ones << first
}

/// Returns the lowest bit where `count` ones in a row start.
fn run_in(word: u64, count: u32) -> Option<u32> {
    let mut starts = word;
    let mut have = 1;
    while have < count && starts != 0 {
        let step = have.min(count - have);
        starts &= starts >> step;
        have += step;
    }
    (starts != 0).then(|| starts.trailing_zeros())
}

fn first_set(words: &[u64; SUMMARY_WORDS]) -> Option<u32> {
    words
        .iter()
        .enumerate()
        .find(|(_, w)| **w != 0)
        .map(|(i, w)| i as u32 * 64 + w.trailing_zeros())
}

fn set_bits(words: &[u64; SUMMARY_WORDS]) -> impl Iterator<Item = u32> + use<> {
    let words = *words;
    (0..SPAN_BLOCKS).filter(move |b| words[*b as usize / 64] >> (b % 64) & 1 != 0)
}
