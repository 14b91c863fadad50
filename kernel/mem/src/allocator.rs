//! The allocator over all spans. It takes `&mut self`; the kernel puts it behind a lock.

use crate::span::{BLOCK_FRAMES, SPAN_FRAMES, SpanMap, SpanRecord};
use addr::Hfn;
use alloc::vec::Vec;
use core::ops::Range;
use thiserror::Error;

/// A NUMA node, numbered from 0 as the firmware's proximity domains are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct NodeId(pub u8);

/// Frames that hold a [`SpanMap`].
const MAP_FRAMES: u32 = (size_of::<SpanMap>() as u32).div_ceil(4096);

/// Access to the maps, which live in the frames they describe.
pub trait Store {
    /// Gives access to the map in the frames from `frame` on. The content is arbitrary before the first
    /// [`SpanMap::clear`].
    fn map(&mut self, frame: Hfn) -> &mut SpanMap;
}

/// Why no memory was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MemError {
    /// No free run of frames is large enough.
    #[error("out of host memory ({frames} frames in a row wanted, {free} free in all)")]
    Exhausted {
        /// Frames wanted in a row.
        frames: u64,
        /// Frames free in all.
        free: u64,
    },
}

/// Memory in numbers, all in 4 KiB frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames under management.
    pub total: u64,
    /// Free frames.
    pub free: u64,
    /// Frames that hold the allocator's own maps.
    pub metadata: u64,
}

/// All RAM of the host.
#[derive(Debug)]
pub struct FrameAllocator<S> {
    store: S,
    /// Usable ranges of frames, ascending, disjoint.
    ranges: Vec<Range<u64>>,
    /// Index is frame number / [`SPAN_FRAMES`].
    spans: Vec<SpanRecord>,
    /// Spans below this have had nothing free when last looked at.
    hint: usize,
    stats: Stats,
}

impl<S: Store> FrameAllocator<S> {
    /// Takes over the frames in `ranges` (ascending, disjoint); `node_of` tells the NUMA node of a span's first frame.
    pub fn new(store: S, ranges: Vec<Range<u64>>, node_of: impl Fn(Hfn) -> NodeId) -> Self {
        let end = ranges.last().map_or(0, |r| r.end);
        let count = end.div_ceil(u64::from(SPAN_FRAMES));
        let mut spans = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        let mut stats = Stats::default();
        for index in 0..count {
            let first = index * u64::from(SPAN_FRAMES);
            let free = parts_of(&ranges, index)
                .map(|r| r.end - r.start)
                .sum::<u32>();
            stats.total += u64::from(free);
            let node = Hfn::new(first).map_or(NodeId(0), &node_of).0;
            spans.push(SpanRecord {
                free,
                map: None,
                node,
            });
        }
        stats.free = stats.total;
        Self {
            store,
            ranges,
            spans,
            hint: 0,
            stats,
        }
    }

    /// Returns memory in numbers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Returns each NUMA node with its frames and free frames.
    #[must_use]
    pub fn nodes(&self) -> Vec<(NodeId, u64, u64)> {
        let mut nodes: Vec<(NodeId, u64, u64)> = Vec::new();
        for (index, span) in (0_u64..).zip(&self.spans) {
            let total = parts_of(&self.ranges, index)
                .map(|r| u64::from(r.end - r.start))
                .sum::<u64>();
            let (id, free) = (NodeId(span.node), u64::from(span.free));
            match nodes.iter_mut().find(|n| n.0 == id) {
                Some(node) => {
                    node.1 += total;
                    node.2 += free;
                }
                None if total > 0 => nodes.push((id, total, free)),
                None => {}
            }
        }
        nodes
    }

    /// Returns the NUMA node of a frame, nothing for one that is not managed.
    #[must_use]
    pub fn node_of(&self, frame: Hfn) -> Option<NodeId> {
        let index = usize::try_from(frame.as_u64() / u64::from(SPAN_FRAMES)).ok()?;
        self.spans.get(index).map(|span| NodeId(span.node))
    }

    /// Takes a frame of 4 KiB, from `node` while it has one.
    ///
    /// # Errors
    /// [`MemError::Exhausted`].
    pub fn alloc_frame(&mut self, node: NodeId) -> Result<Hfn, MemError> {
        self.alloc(node, 1, SpanMap::take_frame)
    }

    /// Takes `count` frames (1 to 64) in a row.
    ///
    /// # Errors
    /// [`MemError::Exhausted`].
    pub fn alloc_run(&mut self, node: NodeId, count: u32) -> Result<Hfn, MemError> {
        self.alloc(node, count, |map| map.take_run(count))
    }

    /// Takes 2 MiB, aligned.
    ///
    /// # Errors
    /// [`MemError::Exhausted`].
    pub fn alloc_2m(&mut self, node: NodeId) -> Result<Hfn, MemError> {
        self.alloc(node, BLOCK_FRAMES, SpanMap::take_block)
    }

    /// Takes `count` (1 to 512) times 2 MiB in a row, aligned to 2 MiB, in one span of 1 GiB.
    ///
    /// # Errors
    /// [`MemError::Exhausted`].
    pub fn alloc_blocks(&mut self, node: NodeId, count: u32) -> Result<Hfn, MemError> {
        let frames = count.saturating_mul(BLOCK_FRAMES);
        self.alloc(node, frames, |map| map.take_blocks(count))
    }

    /// Takes 1 GiB, aligned: a span that nothing has touched yet.
    ///
    /// # Errors
    /// [`MemError::Exhausted`].
    pub fn alloc_1g(&mut self, node: NodeId) -> Result<Hfn, MemError> {
        let whole = |s: &SpanRecord| s.free == SPAN_FRAMES;
        let find = |spans: &[SpanRecord], near: bool| {
            spans
                .iter()
                .rposition(|s| (s.node == node.0) == near && whole(s))
        };
        let index = find(&self.spans, true)
            .or_else(|| find(&self.spans, false))
            .ok_or(MemError::Exhausted {
                frames: u64::from(SPAN_FRAMES),
                free: self.stats.free,
            })?;
        self.stats.free -= u64::from(self.spans[index].free);
        self.spans[index].free = 0;
        Ok(frame_of(index, 0))
    }

    /// Gives back `count` frames from `first` on: a part of what was taken, or a whole 1 GiB as one.
    ///
    /// # Panics
    /// When a frame is free already or was never managed, or when a part of a 1 GiB page is given back: the host's own
    /// books are wrong.
    pub fn free(&mut self, first: Hfn, count: u32) {
        let index = usize::try_from(first.as_u64() / u64::from(SPAN_FRAMES)).unwrap_or(usize::MAX);
        let start = (first.as_u64() % u64::from(SPAN_FRAMES)) as u32;
        assert!(
            index < self.spans.len(),
            "{first:?} freed, but it is not managed memory"
        );
        match self.spans[index].map {
            None => assert!(
                count == SPAN_FRAMES && self.spans[index].free == 0,
                "{first:?} was not taken like this"
            ),
            Some(home) => self
                .store
                .map(frame_of(index, home))
                .free_range(start, start + count),
        }
        self.spans[index].free += count;
        self.stats.free += u64::from(count);
        self.hint = self.hint.min(index);
    }

    fn alloc(
        &mut self,
        node: NodeId,
        frames: u32,
        take: impl Fn(&mut SpanMap) -> Option<u32>,
    ) -> Result<Hfn, MemError> {
        for near in [true, false] {
            for index in self.hint..self.spans.len() {
                let span = self.spans[index];
                if (span.node == node.0) != near || span.free < frames {
                    continue;
                }
                if let Some(offset) = self.ensure_map(index).and_then(&take) {
                    self.spans[index].free -= frames;
                    self.stats.free -= u64::from(frames);
                    self.advance_hint();
                    return Ok(frame_of(index, offset));
                }
            }
        }
        Err(MemError::Exhausted {
            frames: u64::from(frames),
            free: self.stats.free,
        })
    }

    fn advance_hint(&mut self) {
        while self.spans.get(self.hint).is_some_and(|s| s.free == 0) {
            self.hint += 1;
        }
    }

    /// Returns the span's map, made now if the span was untouched; `None` when the span is too small to hold one.
    fn ensure_map(&mut self, index: usize) -> Option<&mut SpanMap> {
        if let Some(home) = self.spans[index].map {
            return Some(self.store.map(frame_of(index, home)));
        }
        let home = parts_of(&self.ranges, index as u64).find(|r| r.end - r.start > MAP_FRAMES)?;
        self.spans[index].map = Some(home.start);
        let map = self.store.map(frame_of(index, home.start));
        map.clear();
        for part in parts_of(&self.ranges, index as u64) {
            let start = if part.start == home.start {
                part.start + MAP_FRAMES
            } else {
                part.start
            };
            map.free_range(start, part.end);
        }
        self.spans[index].free -= MAP_FRAMES;
        self.stats.free -= u64::from(MAP_FRAMES);
        self.stats.metadata += u64::from(MAP_FRAMES);
        Some(map)
    }
}

fn frame_of(span: usize, offset: u32) -> Hfn {
    Hfn::new(span as u64 * u64::from(SPAN_FRAMES) + u64::from(offset)).unwrap_or_default()
}

/// Yields the parts of `ranges` that lie in span `index`, as offsets inside it.
fn parts_of(ranges: &[Range<u64>], index: u64) -> impl Iterator<Item = Range<u32>> + '_ {
    let first = index * u64::from(SPAN_FRAMES);
    let end = first + u64::from(SPAN_FRAMES);
    ranges
        .iter()
        .filter(move |r| r.start < end && r.end > first)
        .map(move |r| {
            let start = r.start.max(first) - first;
            let stop = r.end.min(end) - first;
            start as u32..stop as u32
        })
}
