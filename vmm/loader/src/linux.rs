//! The Linux/x86 boot protocol: bzImage by its 64-bit or 32-bit entry point, and uncompressed 64-bit kernels.
//!
//! Follows Documentation/arch/x86/boot.rst and zero-page.rst of Linux. The real-mode entry point, zImage and the EFI
//! handover are left out: no guest needs them.

use crate::arena::{Arena, align_up};
use crate::cpu::CpuState;
use crate::elf_image::ElfImage;
use crate::error::{Format, LoadError};
use crate::ram::EXTENDED_START;
use crate::{Guest, Request};
use alloc::vec::Vec;
use api::cpu::gpr;
use core::mem::offset_of;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Offset of the setup header in a bzImage and in the zero page.
const HEADER_AT: usize = 0x1f1;
/// Offset, in a bzImage, of the byte that tells where the header ends.
const HEADER_END_BYTE: usize = 0x201;
/// Size of the zero page (`struct boot_params`).
const ZERO_PAGE_SIZE: usize = 4096;
/// Offset in the zero page of the address of the RSDP.
const ZP_RSDP: usize = 0x70;
/// Offset in the zero page of the number of e820 entries.
const ZP_E820_COUNT: usize = 0x1e8;
/// Offset in the zero page of what follows the setup header.
const ZP_HEADER_END: usize = 0x290;
/// Offset in the zero page of the e820 table.
const ZP_E820: usize = 0x2d0;
/// Offset of the 64-bit entry point in the loaded kernel.
const ENTRY64: u64 = 0x200;
/// Offset of the magic number "HdrS" in the file.
const MAGIC_AT: usize = 0x202;
/// "HdrS".
const MAGIC: u32 = 0x5372_6448;
/// A boot sector's last two bytes.
const BOOT_FLAG: u16 = 0xaa55;
/// Protocol 2.06, the first with `cmdline_size`.
const VERSION_MIN: u16 = 0x206;
/// Protocol 2.10, the first with `pref_address` and `init_size`.
const VERSION_INIT_SIZE: u16 = 0x20a;
/// Protocol 2.12, the first with `xloadflags`.
const VERSION_XLOADFLAGS: u16 = 0x20c;
/// `loadflags`: the protected-mode part is loaded at 1 MiB, not at 64 KiB.
const LOADED_HIGH: u8 = 1 << 0;
/// `xloadflags`: the kernel has a 64-bit entry point.
const XLF_KERNEL_64: u16 = 1 << 0;
/// `type_of_loader` of a loader without an assigned number.
const LOADER_UNASSIGNED: u8 = 0xff;
/// Alignment of a relocated kernel that does not name one.
const DEFAULT_ALIGNMENT: u64 = 0x20_0000;
/// How far beyond its loaded part a kernel older than 2.10 may write before it reads the memory map.
const OLD_KERNEL_SLACK: u64 = 0x100_0000;
/// Longest command line of an uncompressed kernel, `COMMAND_LINE_SIZE` less the terminator.
const VMLINUX_COMMAND_LINE_MAX: u32 = 2047;
/// The initrd of an uncompressed kernel must end below 2 GiB, as old bzImages demand.
const INITRD_LAST: u32 = 0x7fff_ffff;

/// `struct setup_header` at 0x1f1.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SetupHeader {
    setup_sects: u8,
    root_flags: U16,
    syssize: U32,
    ram_size: U16,
    vid_mode: U16,
    root_dev: U16,
    boot_flag: U16,
    jump: U16,
    magic: U32,
    version: U16,
    realmode_swtch: U32,
    start_sys_seg: U16,
    kernel_version: U16,
    type_of_loader: u8,
    loadflags: u8,
    setup_move_size: U16,
    code32_start: U32,
    ramdisk_image: U32,
    ramdisk_size: U32,
    bootsect_kludge: U32,
    heap_end_ptr: U16,
    ext_loader_ver: u8,
    ext_loader_type: u8,
    cmd_line_ptr: U32,
    initrd_addr_max: U32,
    kernel_alignment: U32,
    relocatable_kernel: u8,
    min_alignment: u8,
    xloadflags: U16,
    cmdline_size: U32,
    hardware_subarch: U32,
    hardware_subarch_data: U64,
    payload_offset: U32,
    payload_length: U32,
    setup_data: U64,
    pref_address: U64,
    init_size: U32,
    handover_offset: U32,
    kernel_info_offset: U32,
}

const _: () = assert!(size_of::<SetupHeader>() == 0x26c - HEADER_AT);
const _: () = assert!(offset_of!(SetupHeader, magic) == MAGIC_AT - HEADER_AT);
const _: () = assert!(offset_of!(SetupHeader, init_size) == 0x260 - HEADER_AT);

/// One entry of the zero page's e820 table.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct E820Entry {
    start: U64,
    len: U64,
    kind: U32,
}

const _: () = assert!(size_of::<E820Entry>() == 20);

/// Tells whether `file` has the magic numbers of a bzImage.
pub(crate) fn is_bzimage(file: &[u8]) -> bool {
    file.get(MAGIC_AT..)
        .and_then(|rest| rest.first_chunk())
        .is_some_and(|magic| u32::from_le_bytes(*magic) == MAGIC)
}

/// A bzImage taken apart.
struct BzImage<'a> {
    format: Format,
    header: SetupHeader,
    /// The header as the file has it, up to the end that the file itself gives; newer kernels have more fields.
    raw_header: &'a [u8],
    /// The protected-mode part.
    payload: &'a [u8],
}

impl<'a> BzImage<'a> {
    fn parse(file: &'a [u8]) -> Result<Self, LoadError> {
        let header = read_header(file)?;
        let is_64_bit = header.version.get() >= VERSION_XLOADFLAGS
            && header.xloadflags.get() & XLF_KERNEL_64 != 0;
        let format = if is_64_bit {
            Format::LinuxBzImage64
        } else {
            Format::LinuxBzImage32
        };
        if header.loadflags & LOADED_HIGH == 0 {
            return Err(LoadError::Header {
                format,
                field: "loadflags (a zimage, not a bzimage)",
                value: u64::from(header.loadflags),
            });
        }
        // The end of the header is the target of the jump at 0x200, whose displacement is the byte at 0x201.
        let displacement = file.get(HEADER_END_BYTE).copied().unwrap_or(0);
        let header_end = MAGIC_AT.saturating_add(usize::from(displacement));
        let sectors = match header.setup_sects {
            0 => 4,
            n => usize::from(n),
        };
        let payload_at = sectors.saturating_add(1).saturating_mul(512);
        let payload_size = (header.syssize.get() as usize).saturating_mul(16);
        // `syssize` counts paragraphs and rounds up.
        let needed = payload_at.saturating_add(payload_size.saturating_sub(15));
        let truncated = LoadError::Truncated {
            format,
            needed: needed as u64,
            len: file.len() as u64,
        };
        if file.len() < needed || payload_size == 0 {
            return Err(truncated);
        }
        let payload = file.get(payload_at..).ok_or(truncated)?;
        Ok(Self {
            format,
            header,
            raw_header: file
                .get(HEADER_AT..header_end.min(ZP_HEADER_END))
                .ok_or(truncated)?,
            payload: payload.get(..payload_size).unwrap_or(payload),
        })
    }

    /// Bytes that the kernel uses from its load address on before it looks at the memory map.
    fn runtime_size(&self) -> u64 {
        let loaded = self.payload.len() as u64;
        if self.header.version.get() >= VERSION_INIT_SIZE {
            loaded.max(u64::from(self.header.init_size.get()))
        } else {
            loaded.saturating_add(OLD_KERNEL_SLACK)
        }
    }

    /// Takes room for the kernel: at its preferred address, or, if it can be moved, at the lowest that fits.
    fn place(&self, arena: &mut Arena<'_>) -> Result<u64, LoadError> {
        let size = self.runtime_size();
        let preferred = if self.header.version.get() >= VERSION_INIT_SIZE {
            self.header.pref_address.get()
        } else {
            EXTENDED_START
        };
        let movable = self.header.relocatable_kernel != 0;
        let result = arena.take_for_kernel(preferred, size);
        if result.is_ok() || !movable {
            return result.map(|()| preferred);
        }
        let alignment = u64::from(self.header.kernel_alignment.get());
        let alignment = if alignment.is_power_of_two() {
            alignment
        } else {
            DEFAULT_ALIGNMENT
        };
        let lowest = align_up(EXTENDED_START, alignment);
        arena.take_for_kernel(lowest, size).map(|()| lowest)
    }
}

fn read_header(file: &[u8]) -> Result<SetupHeader, LoadError> {
    let bytes = file.get(HEADER_AT..).unwrap_or_default();
    let (header, _) = SetupHeader::read_from_prefix(bytes).map_err(|_| LoadError::Truncated {
        format: Format::LinuxBzImage32,
        needed: HEADER_AT.saturating_add(size_of::<SetupHeader>()) as u64,
        len: file.len() as u64,
    })?;
    if header.boot_flag.get() != BOOT_FLAG {
        return Err(LoadError::Header {
            format: Format::LinuxBzImage32,
            field: "boot_flag",
            value: u64::from(header.boot_flag.get()),
        });
    }
    let version = header.version.get();
    if version < VERSION_MIN {
        let [minor, major] = version.to_le_bytes();
        return Err(LoadError::OldProtocol { major, minor });
    }
    Ok(header)
}

/// Loads a bzImage.
pub(crate) fn load_bzimage(
    arena: &mut Arena<'_>,
    guest: &Guest,
    request: &Request<'_>,
) -> Result<(Format, CpuState), LoadError> {
    let image = BzImage::parse(request.kernel)?;
    let start = image.place(arena)?;
    arena.write(start, image.payload)?;
    let mut header = image.header;
    let files = place_files(
        arena,
        request,
        image.format,
        header.cmdline_size.get(),
        header.initrd_addr_max.get(),
    )?;
    files.fill(&mut header);
    // Both entry points exist only below 4 GiB, where the arena places everything.
    let start32 = low32(start);
    header.code32_start = start32.into();
    let zero_page = put_zero_page(arena, guest, image.raw_header, &header)?;
    let state = match image.format {
        Format::LinuxBzImage64 => CpuState::long64(arena, start.saturating_add(ENTRY64))?,
        _ => CpuState::protected32(arena, start32)?,
    };
    Ok((image.format, state.with_gpr(gpr::RSI, zero_page)))
}

/// Loads an uncompressed 64-bit kernel that has no PVH note.
pub(crate) fn load_elf(
    arena: &mut Arena<'_>,
    guest: &Guest,
    request: &Request<'_>,
    image: &ElfImage<'_>,
) -> Result<(Format, CpuState), LoadError> {
    image.load(arena)?;
    let entry = image.checked_entry32(image.entry)?;
    let mut header = SetupHeader::new_zeroed();
    header.boot_flag = BOOT_FLAG.into();
    header.magic = MAGIC.into();
    header.version = VERSION_XLOADFLAGS.into();
    header.loadflags = LOADED_HIGH;
    let files = place_files(
        arena,
        request,
        Format::LinuxElf64,
        VMLINUX_COMMAND_LINE_MAX,
        INITRD_LAST,
    )?;
    files.fill(&mut header);
    let zero_page = put_zero_page(arena, guest, &[], &header)?;
    let state = CpuState::long64(arena, u64::from(entry))?;
    Ok((Format::LinuxElf64, state.with_gpr(gpr::RSI, zero_page)))
}

/// Where the command line and the initrd were put.
struct Files {
    command_line: u64,
    initrd: u64,
    initrd_size: u64,
}

impl Files {
    fn fill(&self, header: &mut SetupHeader) {
        header.type_of_loader = LOADER_UNASSIGNED;
        header.cmd_line_ptr = low32(self.command_line).into();
        header.ramdisk_image = low32(self.initrd).into();
        header.ramdisk_size = low32(self.initrd_size).into();
    }
}

fn place_files(
    arena: &mut Arena<'_>,
    request: &Request<'_>,
    format: Format,
    command_line_max: u32,
    initrd_last: u32,
) -> Result<Files, LoadError> {
    if !request.modules.is_empty() {
        return Err(LoadError::ModulesUnsupported { format });
    }
    let max = command_line_max as usize;
    let line = request.command_line.as_bytes();
    if line.len() > max {
        return Err(LoadError::CommandLineTooLong {
            len: line.len(),
            max,
        });
    }
    let command_line = arena.put_boot("the command line", |_| {
        line.iter().copied().chain([0]).collect()
    })?;
    let initrd_data = request.initrd.unwrap_or_default();
    let initrd_size = initrd_data.len() as u64;
    let mut initrd = 0;
    if initrd_size != 0 {
        initrd = arena.place_down("the initrd", initrd_size, u64::from(initrd_last))?;
        arena.write(initrd, initrd_data)?;
    }
    Ok(Files {
        command_line,
        initrd,
        initrd_size,
    })
}

/// Puts the zero page into guest memory: `raw` as the file has it, overlaid by the fields of `header`.
fn put_zero_page(
    arena: &mut Arena<'_>,
    guest: &Guest,
    raw: &[u8],
    header: &SetupHeader,
) -> Result<u64, LoadError> {
    let at = arena.place_boot("the zero page", ZERO_PAGE_SIZE as u64)?;
    let mut page = alloc::vec![0; ZERO_PAGE_SIZE];
    put(&mut page, HEADER_AT, raw);
    // The file's header may be shorter than ours; fields behind its end stay zero.
    let known = match raw.len() {
        0 => size_of::<SetupHeader>(),
        len => len.min(size_of::<SetupHeader>()),
    };
    let fields = header.as_bytes().get(..known).unwrap_or_default();
    put(&mut page, HEADER_AT, fields);
    put(&mut page, ZP_RSDP, &guest.rsdp.to_le_bytes());
    let entries: Vec<E820Entry> = arena
        .ram()
        .entries()
        .map(|e| E820Entry {
            start: e.start.into(),
            len: e.len.into(),
            kind: (e.kind as u32).into(),
        })
        .collect();
    let [count, ..] = entries.len().to_le_bytes();
    put(&mut page, ZP_E820_COUNT, &[count]);
    put(&mut page, ZP_E820, entries.as_bytes());
    arena.write(at, &page)?;
    Ok(at)
}

fn put(page: &mut [u8], at: usize, data: &[u8]) {
    if let Some(place) = at
        .checked_add(data.len())
        .and_then(|end| page.get_mut(at..end))
    {
        place.copy_from_slice(data);
    }
}

/// Narrows an address that the arena placed; it places nothing above 4 GiB.
fn low32(address: u64) -> u32 {
    debug_assert!(address <= u64::from(u32::MAX), "placed above 4 GiB");
    u32::try_from(address).unwrap_or(u32::MAX)
}
