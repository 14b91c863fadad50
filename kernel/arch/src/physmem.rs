//! Host-physical memory through the direct map: copies, zeroing, and views of page tables.
//!
//! Frames that a guest can write are only ever copied in and out; no reference into them is formed.

use addr::{Hfn, Hpa, PAGE_SIZE};
pub use boot::DIRECT_MAP_BASE;

/// Returns where the direct map has `hpa`.
#[must_use]
pub fn direct(hpa: Hpa) -> *mut u8 {
    (DIRECT_MAP_BASE + hpa.as_u64()) as *mut u8
}

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

/// Copies to host-physical memory.
///
/// # Safety
/// As for [`read`].
pub unsafe fn write(hpa: Hpa, data: &[u8]) {
    // SAFETY: as in `read`.
    unsafe { crate::rt::memcpy(direct(hpa), data.as_ptr(), data.len()) };
}

/// Fills `len` bytes of host-physical memory with zeroes.
///
/// # Safety
/// As for [`read`].
pub unsafe fn zero(hpa: Hpa, len: usize) {
    // SAFETY: as in `read`.
    unsafe { crate::rt::memset(direct(hpa), 0, len) };
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
