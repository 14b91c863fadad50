//! The allocator over memory maps of all sizes.

use crate::{BLOCK_FRAMES, FrameAllocator, MemError, NodeId, SPAN_FRAMES, SpanMap, Store};
use addr::Hfn;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

#[derive(Debug, Default)]
struct Maps(BTreeMap<u64, Box<SpanMap>>);

impl Store for Maps {
    fn map(&mut self, frame: Hfn) -> &mut SpanMap {
        self.0
            .entry(frame.as_u64())
            .or_insert_with(|| Box::new(SpanMap::empty()))
    }
}

const NODE: NodeId = NodeId(0);

fn allocator(ranges: Vec<core::ops::Range<u64>>) -> FrameAllocator<Maps> {
    FrameAllocator::new(Maps::default(), ranges, |_| NODE)
}

fn one(end: u64) -> Vec<core::ops::Range<u64>> {
    core::iter::once(0..end).collect()
}

#[test]
fn every_frame_is_given_once_and_only_from_usable_ranges() {
    let mut a = allocator(vec![0x100..0x180, 0x1000..0x1234]);
    let mut seen = BTreeSet::new();
    while let Ok(frame) = a.alloc_frame(NODE) {
        let n = frame.as_u64();
        assert!((0x100..0x180).contains(&n) || (0x1000..0x1234).contains(&n));
        assert!(seen.insert(n));
    }
    assert_eq!(seen.len() as u64 + a.stats().metadata, a.stats().total);
    assert_eq!(a.stats().free, 0);
}

#[test]
fn a_terabyte_touches_one_span_for_the_first_frame() {
    let mut a = allocator(one(1000 * u64::from(SPAN_FRAMES)));
    a.alloc_frame(NODE).unwrap();
    assert_eq!(a.stats().metadata, 9);
    assert!(
        a.stats().metadata * 4096 * 250 < 1 << 30,
        "metadata is at most 0.4 % of a span"
    );
}

#[test]
fn two_mebibyte_blocks_are_aligned_and_come_back_whole() {
    let mut a = allocator(one(u64::from(SPAN_FRAMES)));
    let block = a.alloc_2m(NODE).unwrap();
    assert_eq!(block.as_u64() % u64::from(BLOCK_FRAMES), 0);
    for i in 0..BLOCK_FRAMES {
        a.free(block.checked_add(u64::from(i)).unwrap(), 1);
    }
    assert_eq!(a.alloc_2m(NODE).unwrap(), block);
}

#[test]
fn a_gibibyte_comes_from_an_untouched_span_and_returns() {
    let mut a = allocator(one(2 * u64::from(SPAN_FRAMES)));
    a.alloc_frame(NODE).unwrap();
    let page = a.alloc_1g(NODE).unwrap();
    assert_eq!(page.as_u64(), u64::from(SPAN_FRAMES));
    assert!(matches!(a.alloc_1g(NODE), Err(MemError::Exhausted { .. })));
    a.free(page, SPAN_FRAMES);
    assert_eq!(a.alloc_1g(NODE).unwrap(), page);
}

#[test]
fn runs_are_contiguous() {
    let mut a = allocator(one(4096));
    let hole = a.alloc_frame(NODE).unwrap();
    let run = a.alloc_run(NODE, 3).unwrap();
    let next = a.alloc_frame(NODE).unwrap().as_u64();
    assert!(next < run.as_u64() || next >= run.as_u64() + 3);
    a.free(hole, 1);
    a.free(run, 3);
}

#[test]
fn the_near_node_is_used_first_and_the_far_one_after() {
    let far = u64::from(SPAN_FRAMES);
    let node_of = |f: Hfn| NodeId(u8::from(f.as_u64() >= u64::from(SPAN_FRAMES)));
    let mut a = FrameAllocator::new(Maps::default(), vec![0..64, far..far + 64], node_of);
    assert!(a.alloc_frame(NodeId(1)).unwrap().as_u64() >= far);
    let mut last = Hfn::default();
    while let Ok(f) = a.alloc_frame(NodeId(1)) {
        last = f;
    }
    assert!(last.as_u64() < far);
    assert_eq!(a.node_of(last), Some(NodeId(0)));
    assert_eq!(a.node_of(Hfn::new(far).unwrap()), Some(NodeId(1)));
    assert_eq!(a.node_of(Hfn::new(far * 2).unwrap()), None);
}

#[test]
#[should_panic(expected = "freed twice")]
fn freeing_a_frame_twice_is_a_host_error() {
    let mut a = allocator(one(4096));
    let f = a.alloc_frame(NODE).unwrap();
    a.free(f, 1);
    a.free(f, 1);
}

#[test]
fn blocks_in_a_row_are_found_between_used_ones() {
    let mut a = allocator(one(u64::from(SPAN_FRAMES)));
    let blocks: Vec<_> = (0..8).map(|_| a.alloc_2m(NODE).unwrap()).collect();
    // Blocks 2 to 4 and 6 are free: three fit between, four only behind the last one taken.
    for at in [2, 3, 4, 6] {
        a.free(blocks[at], BLOCK_FRAMES);
    }
    assert_eq!(
        a.alloc_blocks(NODE, 4).unwrap().as_u64(),
        blocks[7].as_u64() + u64::from(BLOCK_FRAMES)
    );
    assert_eq!(a.alloc_blocks(NODE, 3).unwrap(), blocks[2]);
    assert_eq!(a.alloc_blocks(NODE, 1).unwrap(), blocks[6]);
    assert!(a.alloc_blocks(NODE, 512).is_err());
}

/// Random takes and returns of all sizes against a set of owned frames.
#[test]
fn random_traffic_never_gives_a_frame_to_two_owners() {
    let mut a = allocator(vec![16..1500, 2048..u64::from(SPAN_FRAMES) * 2 + 700]);
    let mut owned: Vec<(u64, u32)> = Vec::new();
    let mut frames = BTreeSet::new();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..60_000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let taken = match seed % 8 {
            0..3 => a.alloc_frame(NODE).map(|f| (f, 1)),
            3 => a
                .alloc_run(NODE, (seed >> 8) as u32 % 64 + 1)
                .map(|f| (f, (seed >> 8) as u32 % 64 + 1)),
            4 if seed % 64 == 4 => a.alloc_2m(NODE).map(|f| (f, BLOCK_FRAMES)),
            5 if seed % 128 == 5 => a.alloc_blocks(NODE, 3).map(|f| (f, 3 * BLOCK_FRAMES)),
            _ if !owned.is_empty() => {
                let (first, count) = owned.swap_remove(seed as usize % owned.len());
                (first..first + u64::from(count)).for_each(|f| assert!(frames.remove(&f)));
                a.free(Hfn::new(first).unwrap(), count);
                continue;
            }
            _ => continue,
        };
        if let Ok((first, count)) = taken {
            let first = first.as_u64();
            (first..first + u64::from(count))
                .for_each(|f| assert!(frames.insert(f), "frame {f:#x} given twice"));
            owned.push((first, count));
        }
    }
    let stats = a.stats();
    assert_eq!(
        stats.total,
        stats.free + stats.metadata + frames.len() as u64
    );
}
