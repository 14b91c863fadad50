//! The frame allocator: who owns which 4 KiB, 2 MiB and 1 GiB of host RAM, and whether it suffices for one more VM.
//!
//! Physical memory is cut into spans of 1 GiB. A span costs nothing until a frame of it is wanted; then its bitmap is
//! made, in the span's own first free frames (36 KiB, 0.0034 % of it). So a host of 1000 GiB boots about as fast as one
//! of 1 GiB. Not here: page tables, the heap, reclaim policy.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod admission;
mod allocator;
pub mod map;
mod span;

pub use admission::{RESERVE_BYTES, TooLittle, admit, need};
pub use allocator::{FrameAllocator, MemError, NodeId, Stats, Store};
pub use span::{BLOCK_FRAMES, SPAN_FRAMES, SpanMap, SpanRecord};

#[cfg(test)]
mod tests;
