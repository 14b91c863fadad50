//! The Multiboot 2 information, read by the crate `multiboot2`.

use crate::info::{BootInfo, Framebuffer, MemoryKind, Protocol};
use crate::{BootError, DIRECT_MAP_BASE};
use multiboot2::{BootInformation, BootInformationHeader, FramebufferType, MemoryAreaType};

/// Reads the structure at `info`.
///
/// # Safety
/// As for [`crate::read_info`].
pub(crate) unsafe fn read(info: u32) -> Result<BootInfo, BootError> {
    let address = (DIRECT_MAP_BASE + u64::from(info)) as *const BootInformationHeader;
    // SAFETY: the loader placed the structure there, below 4 GiB and so inside the map, and nothing changes it.
    let mbi = unsafe { BootInformation::load(address) }
        .map_err(|_| BootError::BadInformation("Multiboot2 header"))?;
    let mut boot = BootInfo::new(Protocol::Multiboot2);
    if let Some(text) = mbi.command_line_tag().and_then(|tag| tag.cmdline().ok()) {
        boot.set_cmdline(text.as_bytes());
    }
    if let Some(module) = mbi.module_tags().next() {
        boot.module = Some((
            u64::from(module.start_address()),
            u64::from(module.module_size()),
        ));
    }
    boot.rsdp = rsdp(&mbi);
    boot.framebuffer = framebuffer(&mbi);
    let map = mbi.memory_map_tag().ok_or(BootError::NoMemoryMap)?;
    for area in map.memory_areas() {
        let kind = match area.typ() {
            MemoryAreaType::Available => MemoryKind::Usable,
            MemoryAreaType::AcpiAvailable => MemoryKind::AcpiReclaimable,
            _ => MemoryKind::Reserved,
        };
        boot.push_region(area.start_address(), area.size(), kind);
    }
    Ok(boot)
}

/// Returns where the loader's copy of the root pointer lies: the bytes behind the tag's 8-byte header.
fn rsdp(mbi: &BootInformation<'_>) -> Option<u64> {
    let v2 = mbi.rsdp_v2_tag().map(|tag| core::ptr::from_ref(tag) as u64);
    let v1 = mbi.rsdp_v1_tag().map(|tag| core::ptr::from_ref(tag) as u64);
    Some(v2.or(v1)? - DIRECT_MAP_BASE + 8)
}

fn framebuffer(mbi: &BootInformation<'_>) -> Option<Framebuffer> {
    let tag = mbi.framebuffer_tag()?.ok()?;
    let text = matches!(tag.buffer_type(), Ok(FramebufferType::Text));
    Some(Framebuffer {
        address: tag.address(),
        pitch: tag.pitch(),
        width: tag.width(),
        height: tag.height(),
        bits_per_pixel: if text { 0 } else { tag.bpp() },
    })
}
