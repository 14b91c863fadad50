//! Host-physical memory through the direct map: copies, zeroing, and views of page tables.
//!
//! Frames that a guest can write are only ever copied in and out; no reference into them is formed.

use addr::{Hfn, Hpa, Hva, PAGE_SIZE};
pub use boot::DIRECT_MAP_BASE;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Returns where the direct map has `hpa`.
#[must_use]
pub fn direct(hpa: Hpa) -> *mut u8 {
    (base() + hpa.as_u64()) as *mut u8
}

#[cfg(not(test))]
fn base() -> u64 {
    DIRECT_MAP_BASE
}

#[cfg(test)]
use fake::base;

/// Where frames for page tables and control blocks come from.
pub trait FrameSource {
    /// Takes a frame, its content arbitrary.
    fn alloc(&mut self) -> Option<Hfn>;
    /// Gives a frame back.
    fn free(&mut self, frame: Hfn);
}

/// Copies from host-physical memory.
///
/// # Safety
/// The range is RAM in the direct map that belongs to the caller: a guest's memory or a buffer of its own.
pub unsafe fn read(hpa: Hpa, buf: &mut [u8]) {
    // SAFETY: the caller owns the range; the buffer is a Rust object and so never part of it. A guest may write the
    // range meanwhile: the copy is done by `rep movs` in assembly, which then yields some mix of old and new bytes.
    unsafe { crate::rt::memcpy(buf.as_mut_ptr(), direct(hpa), buf.len()) };
}

/// A frame by its place in the direct map, for those who read the same few frames over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectFrame(Hva);

impl DirectFrame {
    /// Stands for a frame that nobody knows; it is never read.
    pub const NONE: Self = Self(Hva::new(0));

    /// Returns where `frame` is.
    #[must_use]
    pub fn new(frame: Hfn) -> Self {
        Self(Hva::new(direct(frame.start()) as u64))
    }

    /// Reads the 8 bytes at `offset`, 0 to 4088; aligned ones are read whole even while a guest writes them.
    ///
    /// # Safety
    /// As for [`read`]; the frame was made with [`Self::new`].
    #[must_use]
    #[inline]
    pub unsafe fn read_u64(self, offset: u64) -> u64 {
        debug_assert!(offset <= PAGE_SIZE - 8, "a word that is not in one frame");
        let value;
        // SAFETY: the caller lends the 8 bytes, which lie in one frame. A guest may change them at any time and
        // alignment is not asked for, so it is an instruction of our own and not a read that the language knows.
        unsafe {
            core::arch::asm!("mov {}, [{} + {}]", out(reg) value, in(reg) self.0.as_u64(), in(reg) offset,
                options(nostack, preserves_flags, readonly));
        };
        value
    }
}

/// Copies to host-physical memory.
///
/// # Safety
/// As for [`read`].
pub unsafe fn write(hpa: Hpa, data: &[u8]) {
    // SAFETY: as in `read`.
    unsafe { crate::rt::memcpy(direct(hpa), data.as_ptr(), data.len()) };
}

/// Replaces `expected` by `new` in one atomic step; tells whether it did. Both have 1, 2, 4, 8 or 16 bytes, and `hpa` is
/// aligned to that size; for any other size nothing happens and the result is false.
///
/// # Safety
/// As for [`read`].
pub unsafe fn compare_exchange(hpa: Hpa, expected: &[u8], new: &[u8]) -> bool {
    let at = direct(hpa);
    if expected.len() != new.len() || !hpa.is_aligned(new.len().next_power_of_two() as u64) {
        return false;
    }
    macro_rules! exchange {
        ($atomic:ty, $number:ty) => {{
            let number = |b: &[u8]| b.try_into().map_or(0, <$number>::from_le_bytes);
            // SAFETY: the caller lends the aligned range, which others touch only as a guest's memory may be touched.
            let cell = unsafe { <$atomic>::from_ptr(at.cast()) };
            cell.compare_exchange(number(expected), number(new), Ordering::AcqRel, Ordering::Acquire).is_ok()
        }};
    }
    match new.len() {
        1 => exchange!(AtomicU8, u8),
        2 => exchange!(AtomicU16, u16),
        4 => exchange!(AtomicU32, u32),
        8 => exchange!(AtomicU64, u64),
        16 => {
            let word = |b: &[u8], i: usize| {
                b.get(i..i + 8)
                    .and_then(|b| b.try_into().ok())
                    .map_or(0, u64::from_le_bytes)
            };
            let done: u8;
            // SAFETY: the caller lends the 16 aligned bytes; every CPU with SVM has CMPXCHG16B.
            unsafe {
                core::arch::asm!(
                    "xchg rbx, {low}", "lock cmpxchg16b [{at}]", "sete {done}", "mov rbx, {low}",
                    at = in(reg) at, low = inout(reg) word(new, 0) => _, in("rcx") word(new, 8),
                    inout("rax") word(expected, 0) => _, inout("rdx") word(expected, 8) => _,
                    done = out(reg_byte) done, options(nostack),
                );
            };
            done != 0
        }
        _ => false,
    }
}

/// Fills `len` bytes of host-physical memory with zeroes.
///
/// # Safety
/// As for [`read`].
pub unsafe fn zero(hpa: Hpa, len: usize) {
    // SAFETY: as in `read`.
    unsafe { crate::rt::memset(direct(hpa), 0, len) };
}

/// Fills `len` bytes with zeroes past the caches: for blocks so large that they would push everything else out, and of
/// which little is used at once. `hpa` and `len` are multiples of 256.
///
/// # Safety
/// As for [`read`].
pub unsafe fn zero_streaming(hpa: Hpa, len: usize) {
    assert!(
        hpa.is_aligned(256) && len.is_multiple_of(256),
        "a block to be zeroed is not aligned"
    );
    if len == 0 {
        return;
    }
    // SAFETY: the caller owns the range, whose end lies a multiple of 256 bytes behind its start; SFENCE orders the
    // stores before whatever publishes the block.
    unsafe {
        core::arch::asm!(
            "xorps xmm0, xmm0",
            "2:",
            "movntps [{at}], xmm0",
            "movntps [{at} + 0x10], xmm0",
            "movntps [{at} + 0x20], xmm0",
            "movntps [{at} + 0x30], xmm0",
            "movntps [{at} + 0x40], xmm0",
            "movntps [{at} + 0x50], xmm0",
            "movntps [{at} + 0x60], xmm0",
            "movntps [{at} + 0x70], xmm0",
            "movntps [{at} + 0x80], xmm0",
            "movntps [{at} + 0x90], xmm0",
            "movntps [{at} + 0xa0], xmm0",
            "movntps [{at} + 0xb0], xmm0",
            "movntps [{at} + 0xc0], xmm0",
            "movntps [{at} + 0xd0], xmm0",
            "movntps [{at} + 0xe0], xmm0",
            "movntps [{at} + 0xf0], xmm0",
            "add {at}, 0x100",
            "cmp {at}, {end}",
            "jne 2b",
            "sfence",
            at = inout(reg) direct(hpa) => _,
            end = in(reg) direct(hpa).wrapping_add(len),
            out("xmm0") _,
            options(nostack),
        );
    }
}

/// Zeroes a whole frame.
///
/// # Safety
/// The frame belongs to the caller and nothing refers to its content.
pub unsafe fn zero_frame(frame: Hfn) {
    // SAFETY: the caller's promise.
    unsafe { zero(frame.start(), PAGE_SIZE as usize) };
}

/// Views a frame as a value of type `T` for ever.
///
/// # Safety
/// The frame (and those that follow, for a larger `T`) is in the direct map, belongs to the caller alone, holds a valid
/// `T`, and is not given back while the reference lives; `T` needs at most page alignment.
#[must_use]
pub unsafe fn frame_as<'a, T>(frame: Hfn) -> &'a mut T {
    const { assert!(align_of::<T>() <= 4096) };
    // SAFETY: the caller's promise; the direct map is mapped read-write and page-aligned.
    unsafe { &mut *direct(frame.start()).cast::<T>() }
}

/// Physical memory for tests: an arena in place of the direct map, and frames from it that are counted.
#[cfg(test)]
pub(crate) mod fake {
    use super::FrameSource;
    use addr::{Hfn, PAGE_SIZE};
    use alloc::vec;
    use alloc::vec::Vec;
    use core::sync::atomic::{AtomicU64, Ordering};

    const FRAMES: usize = 256;

    static BASE: spin::Once<u64> = spin::Once::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);

    pub(super) fn base() -> u64 {
        *BASE.call_once(|| {
            // One frame more than is used, so that the first can be aligned; words, so that the tables' entries are.
            let words = (FRAMES + 1) * PAGE_SIZE as usize / 8;
            let arena: &'static mut [u64] = Vec::leak(vec![0x5a5a_5a5a_5a5a_5a5a; words]);
            (arena.as_mut_ptr() as u64).next_multiple_of(PAGE_SIZE)
        })
    }

    /// Up to `left` frames, and what of them is out.
    #[derive(Debug)]
    pub(crate) struct FakeFrames {
        pub(crate) left: usize,
        pub(crate) out: Vec<Hfn>,
    }

    impl FakeFrames {
        pub(crate) fn new(left: usize) -> Self {
            let out = Vec::new();
            Self { left, out }
        }
    }

    impl FrameSource for FakeFrames {
        fn alloc(&mut self) -> Option<Hfn> {
            self.left = self.left.checked_sub(1)?;
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            assert!(number < FRAMES as u64, "the tests' arena is used up");
            let frame = Hfn::new(number)?;
            self.out.push(frame);
            Some(frame)
        }

        fn free(&mut self, frame: Hfn) {
            let index = self.out.iter().position(|f| *f == frame);
            self.out
                .remove(index.expect("only frames that are out come back"));
            self.left += 1;
        }
    }
}
