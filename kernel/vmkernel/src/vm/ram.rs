//! A VM's RAM: host frames behind a nested page table, given on first touch, 2 MiB at a time where that fits.
#![expect(
    unsafe_code,
    reason = "copies to and from frames that belong to the guest"
)]

use crate::memory::{self, KernelFrames, ranks};
use crate::zeroed;
use addr::{Gfn, Gpa, Hfn, Hpa, PAGE_SIZE};
use api::memory::{GuestMemory, MemoryError};
use arch::nested::{Access, Mapping, NestedTable, NestedView, PageSize};
use arch::physmem::DirectFrame;
use arch::sync::SpinLock;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loader::RamMap;
use machine::WriteLog;
use spin::Once;

/// End of the window for video memory, where the guest has no RAM.
const VGA_END: u64 = 0xc_0000;
/// Frames that a [`FrameCache`] keeps.
const CACHED_FRAMES: usize = 32;

/// What one vCPU remembers of where the guest's frames are: those of its code and its page tables are asked for again
/// and again. A frame stays where it is until the nested table loses it, and then every vCPU is asked to flush.
#[derive(Debug)]
pub struct FrameCache {
    /// Number of a guest frame and its host frame, at the guest frame's number modulo the length.
    slots: [(u64, DirectFrame); CACHED_FRAMES],
}

impl Default for FrameCache {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameCache {
    /// No frame has a number of 64 bits.
    const EMPTY: (u64, DirectFrame) = (u64::MAX, DirectFrame::NONE);

    /// Makes an empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: [Self::EMPTY; CACHED_FRAMES],
        }
    }

    /// Forgets all frames.
    pub fn clear(&mut self) {
        self.slots = [Self::EMPTY; CACHED_FRAMES];
    }

    #[inline]
    fn find(&self, gfn: Gfn) -> Option<DirectFrame> {
        let (known, frame) = self.slots[gfn.as_u64() as usize % CACHED_FRAMES];
        (known == gfn.as_u64()).then_some(frame)
    }

    fn insert(&mut self, gfn: Gfn, frame: DirectFrame) {
        self.slots[gfn.as_u64() as usize % CACHED_FRAMES] = (gfn.as_u64(), frame);
    }
}

/// RAM of one VM.
#[derive(Debug)]
pub struct GuestRam {
    map: RamMap,
    view: NestedView,
    /// `None` only while it is dropped.
    nested: SpinLock<Option<NestedTable>>,
    bytes_backed: AtomicU64,
    /// Writes are noted in `written`, see `tracking`. [ended under `nested`]
    pub(super) is_tracked: AtomicBool,
    pub(super) written: Once<WriteLog>,
}

impl GuestRam {
    /// Makes RAM as `map` lays it out, with nothing behind it yet. `None` without a free frame.
    #[must_use]
    pub fn new(map: RamMap) -> Option<Self> {
        let nested = NestedTable::new(arch::virt::nested_format(), &mut KernelFrames)?;
        let view = nested.view();
        Some(Self {
            map,
            view,
            nested: SpinLock::new(ranks::NESTED, Some(nested)),
            bytes_backed: AtomicU64::new(0),
            is_tracked: AtomicBool::new(false),
            written: Once::new(),
        })
    }

    /// Returns the layout.
    #[must_use]
    pub fn map(&self) -> &RamMap {
        &self.map
    }

    /// Returns the bytes of host memory behind the guest's RAM so far.
    #[must_use]
    pub fn bytes_backed(&self) -> u64 {
        self.bytes_backed.load(Ordering::Relaxed)
    }

    /// Runs `body` with the nested table.
    pub fn with_nested<T>(&self, body: impl FnOnce(&mut NestedTable) -> T) -> Option<T> {
        self.nested.lock().as_mut().map(body)
    }

    /// Tells whether `gpa` is RAM.
    #[must_use]
    #[inline]
    pub fn is_ram(&self, gpa: Gpa) -> bool {
        let at = gpa.as_u64();
        if at < self.map.low_end() {
            !(loader::VGA_START..VGA_END).contains(&at)
        } else {
            self.map.high().contains(&at)
        }
    }

    /// Tells whether there is memory behind `gpa`.
    #[must_use]
    pub fn is_backed(&self, gpa: Gpa) -> bool {
        self.view.lookup(gpa).is_some()
    }

    /// Puts memory behind `gpa`, if it is RAM and has none yet.
    ///
    /// # Errors
    /// [`MemoryError`].
    #[inline]
    pub fn back(&self, gpa: Gpa) -> Result<Mapping, MemoryError> {
        match self.view.lookup(gpa) {
            Some(mapping) => Ok(mapping),
            None => self.back_now(gpa),
        }
    }

    /// Reads 8 bytes that lie in one page, such as an entry of the guest's page tables; `None` where there is no RAM yet,
    /// or they do not. What was found is kept in `frames`, which is of this VM.
    #[must_use]
    #[inline]
    pub fn read_u64(&self, frames: &mut FrameCache, gpa: Gpa) -> Option<u64> {
        let frame = self.frame_with(frames, gpa, 8)?;
        // SAFETY: the bytes are RAM behind the guest's address, in one page; it stays while the VM lives.
        Some(unsafe { frame.read_u64(gpa.page_offset()) })
    }

    /// As [`Self::read_u64`], 16 bytes.
    #[must_use]
    #[inline]
    pub fn read_u128(&self, frames: &mut FrameCache, gpa: Gpa) -> Option<u128> {
        let frame = self.frame_with(frames, gpa, 16)?;
        let offset = gpa.page_offset();
        // SAFETY: as in `read_u64`.
        let low = unsafe { frame.read_u64(offset) };
        // SAFETY: as in `read_u64`.
        let high = unsafe { frame.read_u64(offset + 8) };
        Some(u128::from(low) | u128::from(high) << 64)
    }

    /// Returns the frame that holds `len` bytes at `gpa`.
    #[inline]
    fn frame_with(&self, frames: &mut FrameCache, gpa: Gpa, len: u64) -> Option<DirectFrame> {
        if gpa.page_offset() > PAGE_SIZE - len {
            return None;
        }
        match frames.find(gpa.frame()) {
            Some(frame) => Some(frame),
            None => self.find_frame(frames, gpa),
        }
    }

    #[inline(never)]
    fn find_frame(&self, frames: &mut FrameCache, gpa: Gpa) -> Option<DirectFrame> {
        let frame = DirectFrame::new(self.view.lookup(gpa)?.hpa.frame());
        frames.insert(gpa.frame(), frame);
        Some(frame)
    }

    #[cold]
    fn back_now(&self, gpa: Gpa) -> Result<Mapping, MemoryError> {
        let mut nested = self.nested.lock();
        let nested = nested
            .as_mut()
            .ok_or(MemoryError::Unbacked { gpa, len: 1 })?;
        if let Some(mapping) = self.view.lookup(gpa) {
            return Ok(mapping);
        }
        let region = self
            .region_of(gpa)
            .ok_or(MemoryError::Unbacked { gpa, len: 1 })?;
        let exhausted = MemoryError::Exhausted { gpa };
        let large = PageSize::Large.bytes();
        let start = gpa.as_u64() & !(large - 1);
        // Where no block was left for a first page, its neighbours stay small for good.
        let fits = region.start <= start
            && start + large <= region.end
            && self.view.is_vacant(gpa, PageSize::Large);
        let block = if fits { zeroed_block() } else { None };
        let (page, size, frame) = match block {
            Some(frame) => (start, PageSize::Large, frame),
            None => {
                let frame = memory::alloc_frame().map_err(|_| exhausted)?;
                // SAFETY: the frame was just taken for this guest; nobody else knows it.
                unsafe { arch::physmem::zero_frame(frame) };
                (gpa.as_u64() & !(PAGE_SIZE - 1), PageSize::Small, frame)
            }
        };
        if !nested.map(
            Gpa::new_truncate(page),
            frame.start(),
            size,
            Access::ALL,
            &mut KernelFrames,
        ) {
            memory::free(frame, frames_of(size));
            return Err(exhausted);
        }
        if self.is_tracked() {
            nested.track_page(gpa, arch::virt::tracking());
        }
        self.bytes_backed.fetch_add(size.bytes(), Ordering::Relaxed);
        self.view.lookup(gpa).ok_or(exhausted)
    }

    /// Returns the contiguous region of RAM that holds `gpa`.
    fn region_of(&self, gpa: Gpa) -> Option<Range<u64>> {
        let high = self.map.high();
        let regions = [0..loader::VGA_START, VGA_END..self.map.low_end(), high];
        regions.into_iter().find(|r| r.contains(&gpa.as_u64()))
    }

    /// Calls `copy` with each host piece of the guest range.
    fn pieces(
        &self,
        gpa: Gpa,
        len: usize,
        mut copy: impl FnMut(Hpa, Range<usize>),
    ) -> Result<(), MemoryError> {
        let mut done = 0;
        while done < len {
            let at = gpa
                .checked_add(done as u64)
                .ok_or(MemoryError::Unbacked { gpa, len })?;
            let mapping = self.back(at)?;
            let piece = (len - done).min(usize::try_from(mapping.remaining).unwrap_or(usize::MAX));
            copy(mapping.hpa, done..done + piece);
            done += piece;
        }
        Ok(())
    }

    /// Replaces `expected` by `new` (1, 2, 4, 8 or 16 bytes, aligned) in one atomic step; tells whether it did.
    ///
    /// # Errors
    /// [`MemoryError`] when there is no RAM.
    pub fn compare_exchange(
        &self,
        gpa: Gpa,
        expected: &[u8],
        new: &[u8],
    ) -> Result<bool, MemoryError> {
        let mapping = self.back(gpa)?;
        // SAFETY: as in `read`; aligned accesses of up to 16 bytes stay inside the page.
        let done = unsafe { arch::physmem::compare_exchange(mapping.hpa, expected, new) };
        self.note_write(gpa, new.len() as u64);
        Ok(done)
    }
}

impl GuestMemory for GuestRam {
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), MemoryError> {
        let len = buf.len();
        // SAFETY: the piece is RAM that `back` found behind the guest's range; it stays while the VM lives.
        self.pieces(gpa, len, |hpa, range| unsafe {
            arch::physmem::read(hpa, &mut buf[range])
        })
    }

    fn write(&self, gpa: Gpa, data: &[u8]) -> Result<(), MemoryError> {
        // SAFETY: as in `read`.
        let result = self.pieces(gpa, data.len(), |hpa, range| unsafe {
            arch::physmem::write(hpa, &data[range])
        });
        self.note_write(gpa, data.len() as u64);
        result
    }

    fn fill_zero(&self, gpa: Gpa, len: u64) -> Result<(), MemoryError> {
        let mut done = 0;
        while done < len {
            let at = gpa
                .checked_add(done)
                .ok_or(MemoryError::Unbacked { gpa, len: 1 })?;
            if !self.is_ram(at) {
                return Err(MemoryError::Unbacked { gpa: at, len: 1 });
            }
            // What has no frame behind it yet reads as zero when it gets one.
            let mapping = self.view.lookup(at);
            let page = PAGE_SIZE - at.page_offset();
            let step = mapping.map_or(page, |m| m.remaining).min(len - done);
            if let Some(mapping) = mapping {
                // SAFETY: as in `read`.
                unsafe { arch::physmem::zero(mapping.hpa, step as usize) };
                self.note_write(at, step);
            }
            done += step;
        }
        Ok(())
    }
}

impl Drop for GuestRam {
    fn drop(&mut self) {
        if let Some(nested) = self.nested.lock().take() {
            let mut leaf = |frame: Hfn, size: PageSize| memory::free(frame, frames_of(size));
            nested.dismantle(&mut KernelFrames, &mut leaf);
        }
    }
}

fn frames_of(size: PageSize) -> u32 {
    (size.bytes() / PAGE_SIZE) as u32
}

/// Takes a block of 2 MiB with nothing but zeroes in it: from the stock, else one that is zeroed now.
fn zeroed_block() -> Option<Hfn> {
    if let Some(block) = zeroed::take() {
        return Some(block);
    }
    let block = memory::alloc_2m().ok()?;
    let len = PageSize::Large.bytes() as usize;
    // SAFETY: the block was just taken for the guest; nobody else knows it.
    unsafe { arch::physmem::zero_streaming(block.start(), len) };
    Some(block)
}
