//! The PVH start structure `hvm_start_info` (Xen public headers, arch-x86/hvm/start_info.h). Only version 1 has the
//! memory map that Basalt needs.

use crate::info::{BootInfo, Protocol, kind_of_e820};
use crate::{BootError, bytes_at, c_string_at};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct StartInfo {
    magic: U32,
    version: U32,
    flags: U32,
    nr_modules: U32,
    modlist: U64,
    cmdline: U64,
    rsdp: U64,
    memmap: U64,
    memmap_entries: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<StartInfo>() == 56);

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct MapEntry {
    address: U64,
    size: U64,
    kind: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<MapEntry>() == 24);

const MAGIC: u32 = 0x336e_c578;

/// Reads the structure at `info`.
///
/// # Safety
/// As for [`crate::read_info`].
pub(crate) unsafe fn read(info: u32) -> Result<BootInfo, BootError> {
    // SAFETY: the loader's structure, unchanging by the caller's promise.
    let bytes = unsafe { bytes_at(u64::from(info), size_of::<StartInfo>()) }?;
    let start =
        StartInfo::ref_from_bytes(bytes).map_err(|_| BootError::BadInformation("start info"))?;
    if start.magic.get() != MAGIC {
        return Err(BootError::BadInformation(
            "wrong magic in the PVH start info",
        ));
    }
    if start.version.get() < 1 || start.memmap.get() == 0 {
        return Err(BootError::NoMemoryMap);
    }
    let mut boot = BootInfo::new(Protocol::Pvh);
    if start.cmdline.get() != 0 {
        // SAFETY: as above.
        boot.set_cmdline(unsafe { c_string_at(start.cmdline.get()) }?);
    }
    if start.rsdp.get() != 0 {
        boot.rsdp = Some(start.rsdp.get());
    }
    if start.nr_modules.get() > 0 {
        // SAFETY: as above.
        let module = unsafe { bytes_at(start.modlist.get(), 16) }?;
        let (address, _) =
            U64::read_from_prefix(module).map_err(|_| BootError::BadInformation("module list"))?;
        let (len, _) = U64::read_from_prefix(&module[8..])
            .map_err(|_| BootError::BadInformation("module list"))?;
        boot.module = Some((address.get(), len.get()));
    }
    let len = start.memmap_entries.get() as usize * size_of::<MapEntry>();
    // SAFETY: as above.
    let map = unsafe { bytes_at(start.memmap.get(), len) }?;
    for entry in map
        .chunks_exact(size_of::<MapEntry>())
        .filter_map(|b| MapEntry::ref_from_bytes(b).ok())
    {
        boot.push_region(
            entry.address.get(),
            entry.size.get(),
            kind_of_e820(entry.kind.get()),
        );
    }
    Ok(boot)
}
