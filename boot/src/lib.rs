//! From the boot loader to the first Rust line: headers, 32-bit entry, the trampoline of the other CPUs, and the
//! loader's information in one form.
//!
//! It sets up only what the first Rust line needs (provisional page tables, SSE, a stack); the final page tables, GDT
//! and IDT are `arch`'s.
#![no_std]
#![expect(
    unsafe_code,
    reason = "reads what the boot loader left in memory and holds the entry code"
)]

mod entry;
mod info;
mod mb2;
mod multiboot1;
mod pvh;
pub mod trampoline;

pub use info::{BootInfo, Framebuffer, MemoryKind, MemoryRegion, Protocol, REGIONS_MAX};

/// Start of the map of physical memory that the entry code makes: the first 4 GiB, read-write, never executable.
pub const DIRECT_MAP_BASE: u64 = 0xffff_8000_0000_0000;

/// Why the loader's information cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// The value in EAX is none of the three protocols' magic numbers.
    UnknownMagic(u32),
    /// The information structure is damaged.
    BadInformation(&'static str),
    /// There is no memory map.
    NoMemoryMap,
}

impl core::fmt::Display for BootError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::UnknownMagic(magic) => {
                write!(f, "started by an unknown boot protocol (magic {magic:#x})")
            }
            Self::BadInformation(what) => {
                write!(f, "the boot loader's information is damaged: {what}")
            }
            Self::NoMemoryMap => write!(f, "the boot loader gave no memory map"),
        }
    }
}

unsafe extern "C" {
    static boot_tsc: u64;
}

/// Returns the TSC as the entry code's first instructions found it.
#[must_use]
pub fn first_tsc() -> u64 {
    // SAFETY: the entry code wrote the word before any Rust ran; nothing writes it again.
    unsafe { boot_tsc }
}

/// Reads the loader's information.
///
/// # Errors
/// [`BootError`] when it is damaged or of an unknown protocol.
///
/// # Safety
/// `magic` and `info` are what the entry code received, the loader's structures are still in place, and the first
/// 4 GiB are mapped at [`DIRECT_MAP_BASE`].
pub unsafe fn read_info(magic: u32, info: u32) -> Result<BootInfo, BootError> {
    match magic {
        // SAFETY: the caller's promise is exactly what the three readers need.
        0x2bad_b002 => unsafe { multiboot1::read(info) },
        // SAFETY: as above.
        0x36d7_6289 => unsafe { mb2::read(info) },
        // SAFETY: as above; the entry code marks a PVH start with this number of its own.
        entry::PVH_MAGIC => unsafe { pvh::read(info) },
        other => Err(BootError::UnknownMagic(other)),
    }
}

/// Returns `len` bytes of physical memory at `address` through the entry code's map.
///
/// # Safety
/// The range is RAM below 4 GiB that nothing writes while the slice lives.
unsafe fn bytes_at(address: u64, len: usize) -> Result<&'static [u8], BootError> {
    let end = address.checked_add(len as u64);
    if address == 0 || end.is_none_or(|end| end > 1 << 32) {
        return Err(BootError::BadInformation(
            "a structure lies outside the first 4 GiB",
        ));
    }
    // SAFETY: the range is inside the mapped 4 GiB by the check above; the caller promises that it is unchanging RAM.
    Ok(unsafe { core::slice::from_raw_parts((DIRECT_MAP_BASE + address) as *const u8, len) })
}

/// Returns the NUL-terminated string at `address`, at most 4 KiB of it.
///
/// # Safety
/// As for [`bytes_at`].
unsafe fn c_string_at(address: u64) -> Result<&'static [u8], BootError> {
    const LEN_MAX: usize = 4096;
    // SAFETY: passed on to the caller.
    let bytes = unsafe { bytes_at(address, LEN_MAX) }?;
    let len = bytes.iter().position(|&b| b == 0).unwrap_or(LEN_MAX);
    Ok(&bytes[..len])
}
