//! Starts a guest without firmware: boot protocols, the memory map and the tables that firmware would have left.
//!
//! [`load`] recognises the kernel by its content, copies everything into guest memory and returns the state of the
//! first vCPU. Deliberately left out: firmware images (SeaBIOS and OVMF are mapped by the machine), Multiboot2, and the
//! addresses of devices beyond those the ACPI tables must name.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

extern crate alloc;

mod acpi;
mod arena;
mod bios_area;
mod cpu;
mod dsdt;
mod elf_image;
mod error;
mod linux;
mod modules;
mod mp_table;
mod multiboot;
mod platform;
mod pvh;
mod ram;
#[cfg(test)]
mod tests;

pub use cpu::{CpuMode, CpuState};
pub use error::{Format, LoadError};
pub use ram::{
    EBDA_START, EXTENDED_START, FIRMWARE_START, HIGH_RAM_START, LOW_RAM_MAX, MAP_ENTRIES_MAX,
    MapEntry, MapKind, RAM_MAX, RAM_MIN, RamMap, VGA_START,
};

use addr::Gpa;
use api::memory::GuestMemory;
use arena::Arena;
use elf_image::ElfImage;

/// Most vCPUs that the tables describe.
pub const VCPUS_MAX: u32 = 1024;

/// What the tables tell about the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineShape {
    /// Where RAM lies.
    pub ram: RamMap,
    /// Number of vCPUs, 1 to [`VCPUS_MAX`]; their APIC ids are 0 and up.
    pub vcpus: u32,
    /// Whether ports 60h and 64h are a full keyboard controller, not only a reset line.
    pub has_keyboard_controller: bool,
    /// Whether there is a VGA-compatible display.
    pub has_vga: bool,
}

/// A file passed to the guest.
#[derive(Clone, Copy, Debug)]
pub struct Module<'a> {
    /// The module's command line, by custom its name first.
    pub command_line: &'a str,
    /// Its content.
    pub data: &'a [u8],
}

/// What is to be started.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The kernel file.
    pub kernel: &'a [u8],
    /// Its name, the first word of a Multiboot1 command line.
    pub kernel_name: &'a str,
    /// The command line, without the kernel's name.
    pub command_line: &'a str,
    /// The initial RAM disk; for PVH and Multiboot1 it is the first module.
    pub initrd: Option<&'a [u8]>,
    /// Further modules; Linux' own protocols have none.
    pub modules: &'a [Module<'a>],
    /// The machine.
    pub machine: MachineShape,
}

/// A guest ready to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The protocol that the kernel was recognised by.
    pub format: Format,
    /// State of the first vCPU; the others wait for a startup IPI.
    pub cpu: CpuState,
    /// Address of the ACPI root pointer.
    pub rsdp: Gpa,
}

/// What the firmware part left for the boot protocols.
pub(crate) struct Guest {
    pub(crate) rsdp: u64,
}

/// Writes the tables of a PC's firmware: BIOS data area, ACPI tables, MP table; returns the address of the RSDP.
///
/// RAM must be backed in the firmware area, [`FIRMWARE_START`] to [`EXTENDED_START`], and stay writable: it holds the
/// FACS.
///
/// # Errors
/// [`LoadError::VcpuCount`] or [`LoadError::Memory`].
pub fn write_tables(machine: &MachineShape, memory: &dyn GuestMemory) -> Result<Gpa, LoadError> {
    if machine.vcpus == 0 || machine.vcpus > VCPUS_MAX {
        return Err(LoadError::VcpuCount {
            vcpus: machine.vcpus,
            max: VCPUS_MAX,
        });
    }
    let arena = Arena::new(memory, machine.ram);
    bios_area::write(&arena)?;
    mp_table::write(&arena, machine)?;
    acpi::write(&arena, machine)
}

/// Loads a guest: tables, kernel, initrd, modules and command line.
///
/// Guest memory need not be zeroed before; what the kernel may rely on being zero is zeroed.
///
/// # Errors
/// [`LoadError`] says which file or number is wrong. Guest memory may then hold part of the guest.
pub fn load(request: &Request<'_>, memory: &dyn GuestMemory) -> Result<Loaded, LoadError> {
    let rsdp = write_tables(&request.machine, memory)?;
    let guest = Guest {
        rsdp: rsdp.as_u64(),
    };
    let mut arena = Arena::new(memory, request.machine.ram);
    let (format, cpu) = load_kernel(&mut arena, &guest, request)?;
    Ok(Loaded { format, cpu, rsdp })
}

fn load_kernel(
    arena: &mut Arena<'_>,
    guest: &Guest,
    request: &Request<'_>,
) -> Result<(Format, CpuState), LoadError> {
    let file = request.kernel;
    if linux::is_bzimage(file) {
        return linux::load_bzimage(arena, guest, request);
    }
    if let Some(header) = multiboot::find(file) {
        return multiboot::load(arena, guest, request, header);
    }
    if !file.starts_with(b"\x7fELF") {
        return Err(unrecognised(file));
    }
    let image = ElfImage::parse(file)?;
    if let Some(entry) = image.pvh_entry {
        pvh::load(arena, guest, request, &image, entry)
    } else if image.is_higher_half_kernel() {
        linux::load_elf(arena, guest, request, &image)
    } else {
        Err(LoadError::NoProtocol)
    }
}

/// Names what a file without a known header most likely is.
fn unrecognised(file: &[u8]) -> LoadError {
    const COMPRESSIONS: [(&[u8], &str); 5] = [
        (b"\x1f\x8b", "gzip"),
        (b"\xfd7zXZ", "xz"),
        (b"BZh", "bzip2"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x04\x22\x4d\x18", "lz4"),
    ];
    if file.is_empty() {
        return LoadError::Empty;
    }
    for (magic, method) in COMPRESSIONS {
        if file.starts_with(magic) {
            return LoadError::Compressed { method };
        }
    }
    let mut first = [0; 4];
    for (to, from) in first.iter_mut().zip(file) {
        *to = *from;
    }
    LoadError::Unrecognised { first }
}
