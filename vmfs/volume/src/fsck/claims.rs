//! Which blocks and sub-blocks files use, as their mappings say.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};

use crate::bits;
use crate::layout::Layout;

/// Used blocks by cluster, and used sub-blocks.
#[derive(Debug, Default)]
pub(super) struct Claims {
    blocks: BTreeMap<u64, Box<[u8; 1024]>>,
    sub_blocks: BTreeSet<u64>,
}

impl Claims {
    /// Claims data blocks of one cluster; returns the first one that was claimed already.
    pub(super) fn claim(&mut self, layout: &Layout, block: u64, count: u64) -> Option<u64> {
        let cluster = layout.cluster_of(block)?;
        let index = block.saturating_sub(layout.cluster_start(cluster));
        let bitmap = self
            .blocks
            .entry(cluster)
            .or_insert_with(|| Box::new([0; 1024]));
        let mut twice = None;
        for offset in 0..count {
            if !bits::put(&mut **bitmap, index.saturating_add(offset), true) {
                twice = twice.or(Some(block.saturating_add(offset)));
            }
        }
        twice
    }

    /// Claims a sub-block; returns whether it was free.
    pub(super) fn claim_sub_block(&mut self, number: u64) -> bool {
        self.sub_blocks.insert(number)
    }

    /// Tells whether a block of a cluster, counted from its start, is used as a whole.
    pub(super) fn is_claimed(&self, cluster: u64, index: u64) -> bool {
        self.blocks
            .get(&cluster)
            .is_some_and(|bitmap| bits::get(&**bitmap, index))
    }

    /// Returns which sub-blocks of a block are used, a bit for each.
    pub(super) fn sub_blocks(&self, block: u64) -> u16 {
        let first = crate::allocator::sub_block(block, 0);
        let last = crate::allocator::sub_block(block, 15);
        self.sub_blocks
            .range(first..=last)
            .fold(0, |mask, number| mask | 1 << number.saturating_sub(first))
    }

    /// Returns the blocks from `start` to `end` of which sub-blocks are used.
    pub(super) fn carved(&self, start: u64, end: u64) -> BTreeSet<u64> {
        let from = crate::allocator::sub_block(start, 0);
        let to = crate::allocator::sub_block(end, 0);
        self.sub_blocks
            .range(from..to)
            .map(|number| number / crate::format::SUB_BLOCKS_PER_BLOCK)
            .collect()
    }
}
