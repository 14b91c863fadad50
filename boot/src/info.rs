//! The loader's information in one form, whatever the protocol. Reading it is the protocols' modules' work.

/// Most memory regions that are kept; firmware lists rarely pass 60.
pub const REGIONS_MAX: usize = 256;
const CMDLINE_MAX: usize = 1024;

/// The boot protocol that was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Multiboot 1 (`qemu -kernel`, old GRUB).
    Multiboot1,
    /// Multiboot 2 (GRUB on BIOS and UEFI).
    Multiboot2,
    /// PVH direct boot.
    Pvh,
}

/// What a region of physical memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// RAM that may be used.
    Usable,
    /// ACPI tables; reclaimable once they were read.
    AcpiReclaimable,
    /// Anything else.
    Reserved,
}

/// A region of physical memory.
#[derive(Clone, Copy, Debug)]
pub struct MemoryRegion {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: MemoryKind,
}

/// A linear framebuffer or the text mode of the screen.
#[derive(Clone, Copy, Debug)]
pub struct Framebuffer {
    /// Physical address of the first pixel.
    pub address: u64,
    /// Bytes from a row to the next.
    pub pitch: u32,
    /// Pixels (or characters) per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bits per pixel; 0 for text mode.
    pub bits_per_pixel: u8,
}

/// What the boot loader told.
#[derive(Debug)]
pub struct BootInfo {
    /// The protocol.
    pub protocol: Protocol,
    /// Physical range of the boot module (the archive), if there is one.
    pub module: Option<(u64, u64)>,
    /// Physical address of the ACPI root pointer, when the loader passed one or a copy of it.
    pub rsdp: Option<u64>,
    /// The screen, when the loader set one up.
    pub framebuffer: Option<Framebuffer>,
    regions: [MemoryRegion; REGIONS_MAX],
    region_count: usize,
    /// Regions beyond [`REGIONS_MAX`]; they are not used.
    pub regions_dropped: usize,
    cmdline: [u8; CMDLINE_MAX],
    cmdline_len: usize,
}

impl BootInfo {
    pub(crate) fn new(protocol: Protocol) -> Self {
        const NONE: MemoryRegion = MemoryRegion {
            start: 0,
            len: 0,
            kind: MemoryKind::Reserved,
        };
        Self {
            protocol,
            module: None,
            rsdp: None,
            framebuffer: None,
            regions: [NONE; REGIONS_MAX],
            region_count: 0,
            regions_dropped: 0,
            cmdline: [0; CMDLINE_MAX],
            cmdline_len: 0,
        }
    }

    /// Returns the memory regions in the loader's order. They may overlap; a reserved one wins.
    #[must_use]
    pub fn regions(&self) -> &[MemoryRegion] {
        &self.regions[..self.region_count]
    }

    /// Returns the kernel's command line, without what is not UTF-8.
    #[must_use]
    pub fn cmdline(&self) -> &str {
        let bytes = &self.cmdline[..self.cmdline_len];
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or(""),
        }
    }

    pub(crate) fn push_region(&mut self, start: u64, len: u64, kind: MemoryKind) {
        let Some(slot) = self.regions.get_mut(self.region_count) else {
            self.regions_dropped += 1;
            return;
        };
        let len = len.min(u64::MAX - start);
        *slot = MemoryRegion { start, len, kind };
        self.region_count += 1;
    }

    pub(crate) fn set_cmdline(&mut self, text: &[u8]) {
        let len = text.len().min(CMDLINE_MAX);
        self.cmdline[..len].copy_from_slice(&text[..len]);
        self.cmdline_len = len;
    }
}

/// Maps an E820 type to a kind (ACPI 6.4, 15.1).
pub(crate) fn kind_of_e820(number: u32) -> MemoryKind {
    match number {
        1 => MemoryKind::Usable,
        3 => MemoryKind::AcpiReclaimable,
        _ => MemoryKind::Reserved,
    }
}
