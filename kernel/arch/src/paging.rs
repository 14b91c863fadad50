//! The kernel's own page tables: the image with W^X, all RAM at the direct map, device windows, guarded stacks.
//!
//! There is one address space, shared by all CPUs, and nothing in it is ever user-accessible or both writable and
//! executable. Mappings are only added; nothing is unmapped, so no TLB shoot-down exists. Nested tables are `svm::npt`'s.

use crate::cpu::{self, cpuid};
use crate::physmem::{DIRECT_MAP_BASE, FrameSource, frame_as, zero_frame};
use addr::{Hfn, Hpa, PAGE_SIZE};
use core::ops::Range;
use spec::x86::Pte;

/// Where the image is linked; its memory is this much above its physical address.
pub(crate) const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// Where device registers are mapped; the direct map ends below.
pub(crate) const MMIO_BASE: u64 = 0xffff_c000_0000_0000;
const STACK_BASE: u64 = 0xffff_d000_0000_0000;
const SIZE_2M: u64 = 2 << 20;
const SIZE_1G: u64 = 1 << 30;

unsafe extern "C" {
    static __text_start: u8;
    static __rodata_start: u8;
    static __data_start: u8;
    static __end: u8;
}

/// Returns the physical range of the kernel's image, its boot part included.
#[must_use]
pub fn image_range() -> Range<u64> {
    0x10_0000..(&raw const __end) as u64 - KERNEL_BASE
}

/// Returns the virtual range of the kernel's code.
#[must_use]
pub fn text_range() -> Range<u64> {
    (&raw const __text_start) as u64..(&raw const __rodata_start) as u64
}

/// How a device window is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Device registers.
    Uncached,
    /// Tables in memory that is not RAM to the map: read like RAM.
    WriteBack,
}

/// The kernel's address space.
#[derive(Debug)]
pub struct KernelSpace {
    root: Hfn,
    mmio_next: u64,
    stack_next: u64,
}

/// The table frames ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfFrames;

impl KernelSpace {
    /// Builds the tables: the image, and `ram` (page-aligned ranges) at the direct map.
    ///
    /// # Errors
    /// [`OutOfFrames`] when `frames` runs dry.
    pub fn new(frames: &mut impl FrameSource, ram: &[Range<u64>]) -> Result<Self, OutOfFrames> {
        let root = new_table(frames)?;
        let mut this = Self {
            root,
            mmio_next: MMIO_BASE,
            stack_next: STACK_BASE,
        };
        this.map_image(frames)?;
        for range in ram {
            this.map_range(
                frames,
                DIRECT_MAP_BASE + range.start,
                range.clone(),
                Pte::W | Pte::NX | Pte::G,
            )?;
        }
        Ok(this)
    }

    /// Makes these tables this CPU's.
    pub fn activate(&self) {
        // SAFETY: the tables map the image and RAM as the entry code's did; the boot stack is part of the image.
        unsafe { cpu::set_cr3(self.root.start().as_u64()) };
    }

    /// Maps device registers or firmware tables; returns the virtual address of `hpa` itself.
    ///
    /// # Errors
    /// [`OutOfFrames`] when `frames` runs dry.
    pub fn map_device(
        &mut self,
        frames: &mut impl FrameSource,
        hpa: Hpa,
        len: u64,
        caching: Caching,
    ) -> Result<u64, OutOfFrames> {
        let start = hpa.as_u64() & !(PAGE_SIZE - 1);
        let end = (hpa.as_u64() + len).next_multiple_of(PAGE_SIZE);
        let flags = match caching {
            Caching::Uncached => Pte::W | Pte::NX | Pte::PCD | Pte::PWT,
            Caching::WriteBack => Pte::NX,
        };
        let at = self.mmio_next;
        for offset in (0..end - start).step_by(PAGE_SIZE as usize) {
            self.map_page(frames, at + offset, start + offset, 0, flags)?;
        }
        self.mmio_next += end - start + PAGE_SIZE;
        Ok(at + hpa.page_offset())
    }

    /// Maps a stack of `pages` fresh frames with an unmapped page on either side; returns its top.
    ///
    /// # Errors
    /// [`OutOfFrames`] when `frames` runs dry.
    pub fn map_stack(
        &mut self,
        frames: &mut impl FrameSource,
        pages: u64,
    ) -> Result<u64, OutOfFrames> {
        let bottom = self.stack_next + PAGE_SIZE;
        for page in 0..pages {
            let frame = frames.alloc().ok_or(OutOfFrames)?;
            self.map_page(
                frames,
                bottom + page * PAGE_SIZE,
                frame.start().as_u64(),
                0,
                Pte::W | Pte::NX,
            )?;
        }
        self.stack_next = bottom + pages * PAGE_SIZE;
        Ok(self.stack_next)
    }

    /// Makes tables for the trampoline: the kernel's, and the page at `page` identity, executable, not writable.
    /// The root lies where a 32-bit CR3 load reaches, or the result is `None`.
    pub fn trampoline_tables(&self, frames: &mut impl FrameSource, page: u64) -> Option<Hpa> {
        let root = new_table(frames).ok()?;
        let (ours, its) = (table(self.root), table(root));
        its[256..].copy_from_slice(&ours[256..]);
        let mut space = Self {
            root,
            mmio_next: 0,
            stack_next: 0,
        };
        space.map_page(frames, page, page, 0, Pte::empty()).ok()?;
        (root.start().as_u64() < 1 << 32).then_some(root.start())
    }

    fn map_image(&mut self, frames: &mut impl FrameSource) -> Result<(), OutOfFrames> {
        let text = text_range();
        let rodata = (&raw const __rodata_start) as u64..(&raw const __data_start) as u64;
        let data = (&raw const __data_start) as u64..(&raw const __end) as u64;
        let parts = [
            (text, Pte::G),
            (rodata, Pte::NX | Pte::G),
            (data, Pte::W | Pte::NX | Pte::G),
        ];
        for (range, flags) in parts {
            for va in range.step_by(PAGE_SIZE as usize) {
                self.map_page(frames, va, va - KERNEL_BASE, 0, flags)?;
            }
        }
        Ok(())
    }

    /// Maps `range` of physical memory at `va` with the largest pages that fit.
    fn map_range(
        &mut self,
        frames: &mut impl FrameSource,
        va: u64,
        range: Range<u64>,
        flags: Pte,
    ) -> Result<(), OutOfFrames> {
        let has_1g = cpuid(0x8000_0001, 0).edx & 1 << 26 != 0;
        let delta = va - range.start;
        let mut at = range.start;
        while at < range.end {
            let fits = |size: u64| at.is_multiple_of(size) && range.end - at >= size;
            let (level, size) = match () {
                () if has_1g && fits(SIZE_1G) => (2, SIZE_1G),
                () if fits(SIZE_2M) => (1, SIZE_2M),
                () => (0, PAGE_SIZE),
            };
            self.map_page(frames, at + delta, at, level, flags)?;
            at += size;
        }
        Ok(())
    }

    /// Writes the entry for `va` at `level` (0 is 4 KiB, 1 is 2 MiB, 2 is 1 GiB), making the tables above it.
    fn map_page(
        &mut self,
        frames: &mut impl FrameSource,
        va: u64,
        hpa: u64,
        level: u32,
        flags: Pte,
    ) -> Result<(), OutOfFrames> {
        let mut frame = self.root;
        for upper in (level + 1..4).rev() {
            let entry = &mut table(frame)[index_of(va, upper)];
            if !Pte::from_bits_retain(*entry).contains(Pte::P) {
                let new = new_table(frames)?;
                *entry = Pte::to(new.start().as_u64(), Pte::P | Pte::W).bits();
            }
            frame = Hpa::new_truncate(Pte::from_bits_retain(*entry).address()).frame();
        }
        let large = if level > 0 { Pte::PS } else { Pte::empty() };
        table(frame)[index_of(va, level)] =
            Pte::to(hpa, flags | large | Pte::P | Pte::A | Pte::D).bits();
        Ok(())
    }
}

fn index_of(va: u64, level: u32) -> usize {
    (va >> (12 + 9 * level)) as usize & 511
}

fn new_table(frames: &mut impl FrameSource) -> Result<Hfn, OutOfFrames> {
    let frame = frames.alloc().ok_or(OutOfFrames)?;
    // SAFETY: the frame was just given to us alone.
    unsafe { zero_frame(frame) };
    Ok(frame)
}

fn table(frame: Hfn) -> &'static mut [u64; 512] {
    // SAFETY: only frames made by `new_table` come here; they are never given back, and each caller ends its use of
    // one view before it takes the next.
    unsafe { frame_as(frame) }
}
