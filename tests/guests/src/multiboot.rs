//! What a Multiboot1 loader tells (Multiboot 0.6.96, 3.3): memory sizes and map, command line, modules.
//!
//! Numbers are read where the loader put them; nothing is checked beyond the flags, for a guest trusts its loader.
#![expect(
    unsafe_code,
    reason = "the loader's tables are reached by their addresses"
)]

use core::slice;

use crate::{cpu, interrupts, serial};

/// Flags that say which fields hold something.
const HAS_MEMORY: u32 = 1;
const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MAP: u32 = 1 << 6;
/// A command line is cut here.
const COMMAND_LINE_SIZE_MAX: usize = 4096;

/// The loader's information block.
#[derive(Debug, Clone, Copy)]
pub struct Info {
    address: u32,
}

/// One piece of the memory map.
#[derive(Debug, Clone, Copy)]
pub struct Region {
    /// Physical address.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// 1 is RAM; the rest is as ACPI numbers it.
    pub kind: u32,
}

/// Brings the guest's devices into a known state; the macro `guest_main!` calls it first.
pub fn start(address: u32) -> Info {
    serial::init();
    interrupts::install();
    Info { address }
}

impl Info {
    fn word(&self, offset: u32) -> u32 {
        cpu::read32(self.address + offset)
    }

    fn has(&self, flag: u32) -> bool {
        self.word(0) & flag != 0
    }

    /// The end of the RAM that starts at 1 MiB, in bytes.
    pub fn memory_end(&self) -> u64 {
        if self.has(HAS_MEMORY) {
            0x10_0000 + u64::from(self.word(8)) * 1024
        } else {
            0x80_0000
        }
    }

    /// The command line, by convention with the file's name as its first word.
    pub fn command_line(&self) -> &'static str {
        if !self.has(HAS_COMMAND_LINE) {
            return "";
        }
        let start = self.word(16);
        let size = (0..COMMAND_LINE_SIZE_MAX)
            .take_while(|index| cpu::read8(start + *index as u32) != 0)
            .count();
        core::str::from_utf8(bytes(start, size)).unwrap_or("")
    }

    /// The contents of the modules, in order.
    pub fn modules(&self) -> impl Iterator<Item = &'static [u8]> {
        let (count, table) = if self.has(HAS_MODULES) {
            (self.word(20), self.word(24))
        } else {
            (0, 0)
        };
        (0..count).map(move |index| {
            let entry = table + index * 16;
            let start = cpu::read32(entry);
            bytes(start, (cpu::read32(entry + 4) - start) as usize)
        })
    }

    /// The memory map.
    pub fn memory_map(&self) -> impl Iterator<Item = Region> {
        let (size, table) = if self.has(HAS_MAP) {
            (self.word(44), self.word(48))
        } else {
            (0, 0)
        };
        let mut offset = 0;
        core::iter::from_fn(move || {
            if offset >= size {
                return None;
            }
            // The size field counts what follows it.
            let entry = table + offset;
            offset += 4 + cpu::read32(entry);
            let wide = |at: u32| {
                u64::from(cpu::read32(entry + at)) | u64::from(cpu::read32(entry + at + 4)) << 32
            };
            Some(Region {
                start: wide(4),
                size: wide(12),
                kind: cpu::read32(entry + 20),
            })
        })
    }
}

/// Memory that the loader filled and nobody writes.
fn bytes(start: u32, size: usize) -> &'static [u8] {
    // SAFETY: the first 4 GiB are mapped, and the loader's data lies outside the guest's own image.
    unsafe { slice::from_raw_parts(start as usize as *const u8, size) }
}
