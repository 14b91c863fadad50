//! The Multiboot1 protocol (Multiboot Specification 0.6.96): ELF or flat images with a header in their first 8 KiB.
//!
//! Video modes, drives, the APM table and symbols are not offered; a header that asks for a video mode is loaded all
//! the same, since the information structure says that none was set.

use crate::arena::Arena;
use crate::cpu::CpuState;
use crate::elf_image::ElfImage;
use crate::error::{Format, LoadError};
use crate::modules::{PlacedModule, place_modules};
use crate::ram::{EBDA_START, EXTENDED_START, RamMap};
use crate::{Guest, Request};
use alloc::vec::Vec;
use api::cpu::gpr;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First field of the header.
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// What EAX holds at entry.
const BOOT_MAGIC: u64 = 0x2bad_b002;
/// The header lies in this many first bytes of the file.
const SEARCH_LEN: usize = 8192;
/// Header flag: the address fields are valid ("a.out kludge").
const FLAG_ADDRESSES: u32 = 1 << 16;
/// Required features that are met: page-aligned modules, memory information, video (see above).
const FLAGS_KNOWN: u32 = 0b111;
/// Flags that the loader must understand or refuse.
const FLAGS_REQUIRED: u32 = 0xffff;
/// Information flags: memory sizes, command line, modules, memory map, name of the loader.
const INFO_FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
/// Name of the loader as the guest sees it.
const LOADER_NAME: &str = "Basalt";

/// The header, with the address fields that `FLAG_ADDRESSES` announces.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Addresses {
    header: U32,
    load: U32,
    load_end: U32,
    bss_end: U32,
    entry: U32,
}

/// The information structure up to the name of the loader; the fields behind it are flagged as absent.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct Info {
    flags: U32,
    mem_lower_kib: U32,
    mem_upper_kib: U32,
    boot_device: U32,
    command_line: U32,
    module_count: U32,
    modules: U32,
    symbols: [U32; 4],
    memory_map_size: U32,
    memory_map: U32,
    drives: [U32; 2],
    config_table: U32,
    loader_name: U32,
    apm_table: U32,
    video: [U32; 12],
}

const _: () = assert!(size_of::<Info>() == 120);

/// One entry of the memory map.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct MapEntry {
    /// Size of the entry without this field.
    size: U32,
    start: U64,
    len: U64,
    kind: U32,
}

const _: () = assert!(size_of::<MapEntry>() == 24);

/// One module.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct ModuleEntry {
    start: U32,
    end: U32,
    command_line: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<ModuleEntry>() == 16);

/// A header found in a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    /// Offset in the file.
    at: usize,
    flags: u32,
}

/// Finds the header: aligned to 4 bytes, with a checksum that makes its three fields add up to zero.
pub(crate) fn find(file: &[u8]) -> Option<Header> {
    let area = file.get(..SEARCH_LEN.min(file.len()))?;
    area.array_windows::<12>()
        .enumerate()
        .step_by(4)
        .find_map(|(at, bytes)| {
            let ([magic, flags, checksum], _) = <[U32; 3]>::read_from_prefix(bytes).ok()?;
            let sum = HEADER_MAGIC
                .wrapping_add(flags.get())
                .wrapping_add(checksum.get());
            (magic.get() == HEADER_MAGIC && sum == 0).then_some(Header {
                at,
                flags: flags.get(),
            })
        })
}

/// Loads the file that has `header`.
pub(crate) fn load(
    arena: &mut Arena<'_>,
    _guest: &Guest,
    request: &Request<'_>,
    header: Header,
) -> Result<(Format, CpuState), LoadError> {
    let unknown = header.flags & FLAGS_REQUIRED & !FLAGS_KNOWN;
    if unknown != 0 {
        return Err(LoadError::MultibootFeatures {
            flags: header.flags,
        });
    }
    let entry = if header.flags & FLAG_ADDRESSES != 0 {
        load_flat(arena, request.kernel, header)?
    } else {
        let image = ElfImage::parse(request.kernel)?;
        image.load(arena)?;
        image.checked_entry32(image.entry)?
    };
    let modules = place_modules(arena, request)?;
    let ram = arena.ram();
    let info = arena.put_boot("the multiboot information", |base| {
        information(base, &ram, &modules, request)
    })?;
    let state = CpuState::protected32(arena, entry)?
        .with_gpr(gpr::RAX, BOOT_MAGIC)
        .with_gpr(gpr::RBX, info);
    Ok((Format::Multiboot1, state))
}

/// Loads a file by the addresses in its header and returns the entry point.
fn load_flat(arena: &mut Arena<'_>, file: &[u8], header: Header) -> Result<u32, LoadError> {
    let bad = |field, value: U32| LoadError::Header {
        format: Format::Multiboot1,
        field,
        value: u64::from(value.get()),
    };
    let fields = header.at.checked_add(12).and_then(|at| file.get(at..));
    let (a, _) = Addresses::read_from_prefix(fields.unwrap_or_default()).map_err(|_| {
        LoadError::Truncated {
            format: Format::Multiboot1,
            needed: (header.at as u64).saturating_add(32),
            len: file.len() as u64,
        }
    })?;
    // The header lies `before` bytes into what is loaded.
    let before = a.header.get().checked_sub(a.load.get());
    let before = before.ok_or(bad("header_addr", a.header))? as usize;
    let from = header.at.checked_sub(before);
    let data = from.and_then(|from| file.get(from..));
    let mut data = data.ok_or(bad("load_addr", a.load))?;
    if a.load_end.get() != 0 {
        let size = a.load_end.get().checked_sub(a.load.get());
        let size = size.ok_or(bad("load_end_addr", a.load_end))? as usize;
        data = data.get(..size).ok_or(LoadError::Truncated {
            format: Format::Multiboot1,
            needed: (from.unwrap_or(0) as u64).saturating_add(size as u64),
            len: file.len() as u64,
        })?;
    }
    let start = u64::from(a.load.get());
    let loaded_end = start.saturating_add(data.len() as u64);
    let end = match u64::from(a.bss_end.get()) {
        0 => loaded_end,
        bss_end if bss_end >= loaded_end => bss_end,
        _ => return Err(bad("bss_end_addr", a.bss_end)),
    };
    let entry = u64::from(a.entry.get());
    if entry < start || entry >= loaded_end {
        return Err(LoadError::EntryOutsideKernel { entry });
    }
    arena.take_for_kernel(start, end.saturating_sub(start))?;
    arena.write(start, data)?;
    arena.zero(loaded_end, end.saturating_sub(loaded_end))?;
    Ok(a.entry.get())
}

/// Builds the information structure, its tables and its strings as one block for address `base`.
fn information(
    base: u64,
    ram: &RamMap,
    modules: &[PlacedModule<'_>],
    request: &Request<'_>,
) -> Vec<u8> {
    let map: Vec<MapEntry> = ram
        .entries()
        .map(|e| MapEntry {
            size: 20.into(),
            start: e.start.into(),
            len: e.len.into(),
            kind: (e.kind as u32).into(),
        })
        .collect();
    let map_at = base.saturating_add(size_of::<Info>() as u64);
    let modules_at = map_at.saturating_add(map.as_bytes().len() as u64);
    let list_size = modules.len().saturating_mul(size_of::<ModuleEntry>());
    let strings_at = modules_at.saturating_add(list_size as u64);
    let mut strings = Vec::new();
    let mut put_string = |parts: &[&str]| {
        let at = strings_at.saturating_add(strings.len() as u64);
        strings.extend(parts.iter().flat_map(|part| part.bytes()).chain([0]));
        word(at)
    };
    // By custom the first word of the command line is the kernel's name.
    let separator = if request.command_line.is_empty() {
        ""
    } else {
        " "
    };
    let info = Info {
        flags: INFO_FLAGS.into(),
        mem_lower_kib: word(EBDA_START >> 10),
        mem_upper_kib: word(ram.low_end().saturating_sub(EXTENDED_START) >> 10),
        boot_device: 0.into(),
        command_line: put_string(&[request.kernel_name, separator, request.command_line]),
        module_count: word(modules.len() as u64),
        modules: word(modules_at),
        symbols: [0.into(); 4],
        memory_map_size: word(map.as_bytes().len() as u64),
        memory_map: word(map_at),
        drives: [0.into(); 2],
        config_table: 0.into(),
        loader_name: put_string(&[LOADER_NAME]),
        apm_table: 0.into(),
        video: [0.into(); 12],
    };
    let list: Vec<ModuleEntry> = modules
        .iter()
        .map(|m| ModuleEntry {
            start: word(m.start),
            end: word(m.start.saturating_add(m.size)),
            command_line: put_string(&[m.command_line]),
            reserved: 0.into(),
        })
        .collect();
    let mut block = info.as_bytes().to_vec();
    block.extend_from_slice(map.as_bytes());
    block.extend_from_slice(list.as_bytes());
    block.extend(strings);
    block
}

/// Narrows an address or size below 4 GiB; the arena places nothing higher.
fn word(value: u64) -> U32 {
    debug_assert!(value <= u64::from(u32::MAX), "placed above 4 GiB");
    u32::try_from(value).unwrap_or(u32::MAX).into()
}
