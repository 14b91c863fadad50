//! The kernel's heap: talc over 2 MiB blocks from the frame allocator, started by a small arena in the image's BSS.
#![expect(unsafe_code, reason = "lends memory to the allocator")]

use crate::memory;
use addr::Hfn;
use core::alloc::Layout;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use talc::TalcLock;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;

/// Bytes of the first arena: enough for the span records of 60 TiB.
const ARENA_BYTES: usize = 1 << 20;
const BLOCK_BYTES: usize = 2 << 20;

#[repr(C, align(4096))]
struct Arena(core::cell::UnsafeCell<[u8; ARENA_BYTES]>);

// SAFETY: the arena is handed to the allocator once and then touched by nobody else.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena(core::cell::UnsafeCell::new([0; ARENA_BYTES]));
static ARENA_GIVEN: AtomicBool = AtomicBool::new(false);
static BYTES_CLAIMED: AtomicU64 = AtomicU64::new(0);

/// The heap's type, for the binary's `#[global_allocator]`.
pub type KernelHeap = TalcLock<spin::Mutex<()>, BlockSource>;

/// Where the heap gets its memory.
#[derive(Debug)]
pub struct BlockSource(());

/// The only source.
pub const HEAP_SOURCE: BlockSource = BlockSource(());

/// Returns the bytes that the heap has taken so far.
#[must_use]
pub fn bytes_claimed() -> u64 {
    BYTES_CLAIMED.load(Ordering::Relaxed)
}

/// Takes blocks in a row for a piece of that layout, mostly one.
fn blocks_for(layout: Layout) -> Option<(Hfn, usize)> {
    // Half a block more than needed has room for the allocator's own notes.
    let bytes = layout.size().checked_add(layout.align())?;
    let count = bytes.checked_add(BLOCK_BYTES / 2)?.div_ceil(BLOCK_BYTES);
    let block = match count {
        0 | 1 => memory::alloc_2m(),
        _ => memory::alloc_blocks(u32::try_from(count).ok()?),
    };
    Some((block.ok()?, count.max(1) * BLOCK_BYTES))
}

// SAFETY: `acquire` touches the allocator only through its argument: the frame allocator never allocates from the heap
// after its construction, which the arena serves.
unsafe impl Source for BlockSource {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let (base, len) = if ARENA_GIVEN.swap(true, Ordering::Relaxed) {
            let (block, len) = blocks_for(layout).ok_or(())?;
            (arch::physmem::direct(block.start()), len)
        } else {
            (ARENA.0.get().cast::<u8>(), ARENA_BYTES)
        };
        BYTES_CLAIMED.fetch_add(len as u64, Ordering::Relaxed);
        // SAFETY: the memory is mapped, ours, and nobody else's from here on.
        unsafe { talc.claim(base, len) }.map(|_| ()).ok_or(())
    }
}
