//! The Multiboot 1 information structure (Multiboot Specification 0.6.96, 3.3). Only what Basalt uses is read.

use crate::info::{BootInfo, Protocol, kind_of_e820};
use crate::{BootError, bytes_at, c_string_at};

const FLAG_CMDLINE: u32 = 1 << 2;
const FLAG_MODULES: u32 = 1 << 3;
const FLAG_MMAP: u32 = 1 << 6;

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes
        .get(offset..offset + 4)
        .map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from(u32_at(bytes, offset)) | u64::from(u32_at(bytes, offset + 4)) << 32
}

/// Reads the structure at `info`.
///
/// # Safety
/// As for [`crate::read_info`].
pub(crate) unsafe fn read(info: u32) -> Result<BootInfo, BootError> {
    // SAFETY: the loader's structure, unchanging by the caller's promise.
    let head = unsafe { bytes_at(u64::from(info), 116) }?;
    let flags = u32_at(head, 0);
    let mut boot = BootInfo::new(Protocol::Multiboot1);
    if flags & FLAG_CMDLINE != 0 {
        // SAFETY: as above.
        boot.set_cmdline(unsafe { c_string_at(u64::from(u32_at(head, 16))) }?);
    }
    if flags & FLAG_MODULES != 0 && u32_at(head, 20) > 0 {
        // SAFETY: as above.
        let module = unsafe { bytes_at(u64::from(u32_at(head, 24)), 16) }?;
        let (start, end) = (u64::from(u32_at(module, 0)), u64::from(u32_at(module, 4)));
        let len = end.checked_sub(start).ok_or(BootError::BadInformation(
            "the boot module ends before it starts",
        ))?;
        boot.module = Some((start, len));
    }
    if flags & FLAG_MMAP == 0 {
        return Err(BootError::NoMemoryMap);
    }
    // SAFETY: as above.
    let map = unsafe { bytes_at(u64::from(u32_at(head, 48)), u32_at(head, 44) as usize) }?;
    let mut rest = map;
    while rest.len() >= 24 {
        boot.push_region(
            u64_at(rest, 4),
            u64_at(rest, 12),
            kind_of_e820(u32_at(rest, 20)),
        );
        let step = u32_at(rest, 0) as usize + 4;
        rest = rest.get(step..).unwrap_or(&[]);
    }
    Ok(boot)
}
