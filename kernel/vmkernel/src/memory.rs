//! Host memory: builds the frame allocator from the loader's map, and hands out frames under a lock.
#![expect(
    unsafe_code,
    reason = "gives the frame allocator its maps, which live in the frames themselves"
)]

use crate::firmware::Nodes;
use crate::zeroed;
use addr::{Hfn, Hpa, PAGE_SIZE};
use alloc::vec::Vec;
use arch::physmem::FrameSource;
use arch::sync::SpinLock;
use boot::BootInfo;
use core::ops::Range;
use mem::{FrameAllocator, MemError, NodeId, SpanMap, Stats, Store};
use spin::Once;

/// Least RAM that Basalt starts on.
pub const RAM_MIN_BYTES: u64 = 48 << 20;
/// Memory below 1 MiB is the firmware's, the trampoline's and the screen's.
const LOW_MEMORY_END: u64 = 1 << 20;

/// Frames of a block of 2 MiB.
const BLOCK_FRAMES: u64 = 512;

static FRAMES: Once<SpinLock<FrameAllocator<MapsInPlace>>> = Once::new();

/// The allocator's maps, in the frames that they describe.
#[derive(Debug)]
pub struct MapsInPlace(());

impl Store for MapsInPlace {
    fn map(&mut self, frame: Hfn) -> &mut SpanMap {
        // SAFETY: the allocator calls this only with frames that it keeps for its maps, all of them RAM in the direct
        // map; any bytes are a valid `SpanMap`, and `&mut self` makes the access exclusive.
        unsafe { arch::physmem::frame_as(frame) }
    }
}

/// Starts the frame allocator on `ram` without what is in use: low memory, the image, the boot module.
pub fn init(ram: &[Range<u64>], boot: &BootInfo, nodes: &Nodes) {
    let mut free = ram.to_vec();
    let module = boot
        .module
        .map(|(start, len)| start & !(PAGE_SIZE - 1)..(start + len).next_multiple_of(PAGE_SIZE));
    let used = [
        Some(0..LOW_MEMORY_END),
        Some(arch::paging::image_range()),
        module,
    ];
    for hole in used.into_iter().flatten() {
        free = mem::map::subtract(free, &hole);
    }
    let frames = free
        .into_iter()
        .map(|r| r.start / PAGE_SIZE..r.end / PAGE_SIZE)
        .collect();
    let node_of = |frame: Hfn| nodes.node_of(frame.start());
    FRAMES.call_once(|| {
        SpinLock::new(
            ranks::FRAMES,
            FrameAllocator::new(MapsInPlace(()), frames, node_of),
        )
    });
}

/// The order in which the kernel's locks may be taken: a lock only under locks of lower rank.
pub mod ranks {
    use arch::sync::Rank;

    /// A VM's record in the inventory.
    pub const VM: Rank = Rank(10);
    /// The names of pools.
    pub const POOLS: Rank = Rank(15);
    /// A VM's chipset.
    pub const CHIPSET: Rank = Rank(20);
    /// A VM's clock, while it does not run.
    pub const CLOCK: Rank = Rank(25);
    /// A VM's memory map.
    pub const NESTED: Rank = Rank(30);
    /// A VM's serial buffers.
    pub const SERIAL: Rank = Rank(40);
    /// A VM's table of APIC identities.
    pub const ROUTING: Rank = Rank(50);
    /// The list of storage devices, and that of datastores.
    pub const STORAGE: Rank = Rank(52);
    /// A datastore's turns.
    pub const DATASTORE: Rank = Rank(53);
    /// A storage device's requests.
    pub const DISK: Rank = Rank(54);
    /// The host's I/O APICs.
    pub const IO_APICS: Rank = Rank(55);
    /// PCI configuration space.
    pub const PCI: Rank = Rank(56);
    /// A waker's slot.
    pub const WAKER: Rank = Rank(60);
    /// A CPU's timers.
    pub const TIMERS: Rank = Rank(70);
    /// A CPU's run queue.
    pub const RUN_QUEUE: Rank = Rank(80);
    /// The scheduler of worlds.
    pub const SCHEDULER: Rank = Rank(85);
    /// The console's devices.
    pub const CONSOLE: Rank = Rank(90);
    /// The kernel's address space.
    pub const SPACE: Rank = Rank(200);
    /// The stock of zeroed blocks.
    pub const ZEROED: Rank = Rank(240);
    /// The frame allocator.
    pub const FRAMES: Rank = Rank(250);
}

const _: () = assert!(ranks::FRAMES.0 > ranks::ZEROED.0 && ranks::ZEROED.0 > ranks::SPACE.0);

fn with<T>(
    body: impl FnOnce(&mut FrameAllocator<MapsInPlace>) -> Result<T, MemError>,
) -> Result<T, MemError> {
    match FRAMES.get() {
        Some(frames) => body(&mut frames.lock()),
        None => Err(MemError::Exhausted { frames: 1, free: 0 }),
    }
}

/// As [`with`]; when nothing is left, the stock of zeroed blocks is given back first.
fn take<T>(
    body: impl Fn(&mut FrameAllocator<MapsInPlace>) -> Result<T, MemError>,
) -> Result<T, MemError> {
    match with(&body) {
        Err(_) if zeroed::give_back() => with(&body),
        result => result,
    }
}

/// Returns the memory in numbers; zeroed blocks in stock are free.
#[must_use]
pub fn stats() -> Stats {
    let stock = zeroed::blocks().len() as u64 * BLOCK_FRAMES;
    FRAMES.get().map_or_else(Stats::default, |frames| {
        let stats = frames.lock().stats();
        Stats {
            free: stats.free + stock,
            ..stats
        }
    })
}

/// Yields each NUMA node's number, frames and free frames.
pub fn nodes() -> impl Iterator<Item = (u32, u64, u64)> {
    let stock = zeroed::blocks();
    let nodes = FRAMES.get().map_or_else(Vec::new, |frames| {
        let frames = frames.lock();
        let mut nodes = frames.nodes();
        for block in stock {
            let home = frames.node_of(block);
            if let Some(node) = nodes.iter_mut().find(|n| Some(n.0) == home) {
                node.2 += BLOCK_FRAMES;
            }
        }
        nodes
    });
    nodes
        .into_iter()
        .map(|(node, total, free)| (u32::from(node.0), total, free))
}

/// Tells whether there is RAM beyond the first 4 GiB, which on every PC begins there.
#[must_use]
pub fn has_high_ram() -> bool {
    let first = Hfn::new((1 << 32) / PAGE_SIZE);
    let node = FRAMES.get().zip(first).map(|(f, at)| f.lock().node_of(at));
    node.flatten().is_some()
}

/// Takes a frame of 4 KiB.
///
/// # Errors
/// [`MemError`] when none is left.
pub fn alloc_frame() -> Result<Hfn, MemError> {
    take(|f| f.alloc_frame(NodeId(0)))
}

/// Takes a block of 2 MiB.
///
/// # Errors
/// [`MemError`] when none is left.
pub fn alloc_2m() -> Result<Hfn, MemError> {
    take(|f| f.alloc_2m(NodeId(0)))
}

/// Takes a block of 2 MiB if at least `least_free` frames are free.
#[must_use]
pub fn alloc_spare_2m(least_free: u64) -> Option<Hfn> {
    let frames = &mut *FRAMES.get()?.lock();
    if frames.stats().free < least_free {
        return None;
    }
    frames.alloc_2m(NodeId(0)).ok()
}

/// Takes `count` blocks of 2 MiB in a row, 1 to 512.
///
/// # Errors
/// [`MemError`] when no such run is left.
pub fn alloc_blocks(count: u32) -> Result<Hfn, MemError> {
    take(|f| f.alloc_blocks(NodeId(0), count))
}

/// Takes `count` frames in a row, 1 to 64.
///
/// # Errors
/// [`MemError`] when no such run is left.
pub fn alloc_run(count: u32) -> Result<Hfn, MemError> {
    take(|f| f.alloc_run(NodeId(0), count))
}

/// Bytes that may be many: blocks of 2 MiB in a row, filled from the front, given back when they are dropped.
#[derive(Debug)]
pub struct LargeBytes {
    first: Hfn,
    blocks: u32,
    len: usize,
}

impl LargeBytes {
    /// Bytes of a block.
    const BLOCK: usize = BLOCK_FRAMES as usize * PAGE_SIZE as usize;

    /// Makes room for `capacity` bytes, at most 1 GiB; there are none yet.
    ///
    /// # Errors
    /// [`MemError`] when no such run is left.
    pub fn with_capacity(capacity: usize) -> Result<Self, MemError> {
        let blocks = capacity.div_ceil(Self::BLOCK).max(1);
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        let first = alloc_blocks(blocks)?;
        Ok(Self {
            first,
            blocks,
            len: 0,
        })
    }

    /// Appends bytes; what goes beyond the room is left out.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = self.blocks as usize * Self::BLOCK - self.len;
        let count = bytes.len().min(room);
        let to = arch::physmem::direct(self.first.start()).wrapping_add(self.len);
        // SAFETY: the blocks are this value's alone, `count` bytes from `to` on lie in them, and nobody has a view of
        // bytes beyond `len`.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, count) };
        self.len += count;
    }
}

impl core::ops::Deref for LargeBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let base = arch::physmem::direct(self.first.start()).cast_const();
        // SAFETY: `push` has written the first `len` bytes of the blocks, which are this value's alone.
        unsafe { core::slice::from_raw_parts(base, self.len) }
    }
}

impl Drop for LargeBytes {
    fn drop(&mut self) {
        let blocks = (0..u64::from(self.blocks)).filter_map(|index| {
            let frames = index.checked_mul(BLOCK_FRAMES)?;
            Hfn::new(self.first.as_u64().checked_add(frames)?)
        });
        blocks.for_each(|block| free(block, BLOCK_FRAMES as u32));
    }
}

/// Gives `count` frames back.
pub fn free(first: Hfn, count: u32) {
    if let Some(frames) = FRAMES.get() {
        frames.lock().free(first, count);
    }
}

/// The kernel's frames, for page tables and control blocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelFrames;

impl FrameSource for KernelFrames {
    fn alloc(&mut self) -> Option<Hfn> {
        alloc_frame().ok()
    }

    fn free(&mut self, frame: Hfn) {
        free(frame, 1);
    }
}

/// Reads RAM that firmware or the boot loader filled; false when the range is not RAM or low memory.
pub fn read_physical(ram: &[Range<u64>], hpa: Hpa, buf: &mut [u8]) -> bool {
    let end = hpa.as_u64().saturating_add(buf.len() as u64);
    let inside = |r: &Range<u64>| r.start <= hpa.as_u64() && end <= r.end;
    let mapped = ram.iter().any(inside);
    if mapped {
        // SAFETY: the range is RAM in the direct map, and only read.
        unsafe { arch::physmem::read(hpa, buf) };
    }
    mapped
}
