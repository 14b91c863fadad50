//! The PVH boot protocol: 32-bit protected mode with `hvm_start_info` in EBX (Xen's `docs/misc/pvh.pandoc` and
//! `start_info.h`). Relocatable PVH kernels are left out.

use crate::arena::Arena;
use crate::cpu::CpuState;
use crate::elf_image::ElfImage;
use crate::error::{Format, LoadError};
use crate::modules::{PlacedModule, place_modules};
use crate::{Guest, Request};
use alloc::vec::Vec;
use api::cpu::gpr;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes, Unaligned};

/// "xEn3" with the top bit set.
const START_MAGIC: u32 = 0x336e_c578;
/// The version that brought the memory map.
const START_VERSION: u32 = 1;

/// `struct hvm_start_info`.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct StartInfo {
    magic: U32,
    version: U32,
    flags: U32,
    module_count: U32,
    modules: U64,
    command_line: U64,
    rsdp: U64,
    memory_map: U64,
    memory_map_count: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<StartInfo>() == 56);

/// `struct hvm_modlist_entry`.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct ModuleEntry {
    start: U64,
    size: U64,
    command_line: U64,
    reserved: U64,
}

const _: () = assert!(size_of::<ModuleEntry>() == 32);

/// `struct hvm_memmap_table_entry`.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct MapEntry {
    start: U64,
    size: U64,
    kind: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<MapEntry>() == 24);

/// Loads a PVH kernel whose note names `entry`.
pub(crate) fn load(
    arena: &mut Arena<'_>,
    guest: &Guest,
    request: &Request<'_>,
    image: &ElfImage<'_>,
    entry: u32,
) -> Result<(Format, CpuState), LoadError> {
    image.load(arena)?;
    let entry = image.checked_entry32(u64::from(entry))?;
    let modules = place_modules(arena, request)?;
    let ram = arena.ram();
    let info = arena.put_boot("the pvh start info", |base| {
        let map: Vec<MapEntry> = ram
            .entries()
            .map(|e| MapEntry {
                start: e.start.into(),
                size: e.len.into(),
                kind: (e.kind as u32).into(),
                reserved: 0.into(),
            })
            .collect();
        start_info(base, guest.rsdp, &map, &modules, request.command_line)
    })?;
    let state = CpuState::protected32(arena, entry)?;
    Ok((Format::Pvh, state.with_gpr(gpr::RBX, info)))
}

/// Builds the start info, its tables and its strings as one block for address `base`.
fn start_info(
    base: u64,
    rsdp: u64,
    map: &[MapEntry],
    modules: &[PlacedModule<'_>],
    command_line: &str,
) -> Vec<u8> {
    let map_at = base.saturating_add(size_of::<StartInfo>() as u64);
    let modules_at = map_at.saturating_add(size_of_val(map) as u64);
    let list_size = modules.len().saturating_mul(size_of::<ModuleEntry>());
    let strings_at = modules_at.saturating_add(list_size as u64);
    let mut strings = Vec::new();
    let mut put_string = |text: &str| {
        let at = strings_at.saturating_add(strings.len() as u64);
        strings.extend(text.bytes().chain([0]));
        at
    };
    let info = StartInfo {
        magic: START_MAGIC.into(),
        version: START_VERSION.into(),
        flags: 0.into(),
        module_count: u32::try_from(modules.len()).unwrap_or(u32::MAX).into(),
        modules: modules_at.into(),
        command_line: put_string(command_line).into(),
        rsdp: rsdp.into(),
        memory_map: map_at.into(),
        memory_map_count: u32::try_from(map.len()).unwrap_or(u32::MAX).into(),
        reserved: 0.into(),
    };
    let list: Vec<ModuleEntry> = modules
        .iter()
        .map(|m| ModuleEntry {
            start: m.start.into(),
            size: m.size.into(),
            command_line: put_string(m.command_line).into(),
            reserved: 0.into(),
        })
        .collect();
    let mut block = info.as_bytes().to_vec();
    block.extend_from_slice(map.as_bytes());
    block.extend_from_slice(list.as_bytes());
    block.extend(strings);
    block
}
