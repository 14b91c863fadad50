//! Where a guest's RAM lies, and the memory map that describes it. No RAM is allocated here.

use crate::error::LoadError;
use addr::{PAGE_SIZE, PHYS_BITS_MAX};
use core::ops::Range;

/// End of conventional memory: the last KiB below 640 KiB is the extended BIOS data area.
pub const EBDA_START: u64 = 0x9_fc00;
/// Start of the VGA window, where conventional memory ends.
pub const VGA_START: u64 = 0xa_0000;
/// Start of the firmware area, which holds the ACPI and MP tables.
pub const FIRMWARE_START: u64 = 0xe_0000;
/// End of the firmware area and start of extended memory.
pub const EXTENDED_START: u64 = 0x10_0000;
/// RAM below 4 GiB ends here at the latest; the PCI window follows.
pub const LOW_RAM_MAX: u64 = 0xe000_0000;
/// RAM that does not fit below the PCI window continues here.
pub const HIGH_RAM_START: u64 = 1 << 32;
/// Smallest RAM of a VM.
pub const RAM_MIN: u64 = 0x20_0000;
/// Largest RAM of a VM: all of the physical address space above the PCI window, and what lies below.
pub const RAM_MAX: u64 = (1 << PHYS_BITS_MAX) - HIGH_RAM_START + LOW_RAM_MAX;

/// Kind of an entry in the memory map; the numbers are those of e820.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// Free for the guest.
    Ram = 1,
    /// Not to be touched.
    Reserved = 2,
}

/// One entry of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: MapKind,
}

/// How many entries [`RamMap::entries`] has at most.
pub const MAP_ENTRIES_MAX: usize = 5;

/// The RAM of one VM: where it begins and ends in guest-physical space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamMap {
    low_end: u64,
    high_end: u64,
}

impl RamMap {
    /// Lays out `ram_bytes` of RAM: up to 3.5 GiB from address 0, the rest from 4 GiB.
    ///
    /// The hole from 640 KiB to 1 MiB is not subtracted: RAM is backed there too, and what the guest finds at the VGA
    /// window is up to the device models.
    ///
    /// # Errors
    /// [`LoadError::RamSize`] when the size is not a multiple of 4 KiB between [`RAM_MIN`] and [`RAM_MAX`].
    pub const fn new(ram_bytes: u64) -> Result<Self, LoadError> {
        if ram_bytes < RAM_MIN || ram_bytes > RAM_MAX || ram_bytes & (PAGE_SIZE - 1) != 0 {
            return Err(LoadError::RamSize {
                bytes: ram_bytes,
                min: RAM_MIN,
                max: RAM_MAX,
            });
        }
        Ok(match ram_bytes.checked_sub(LOW_RAM_MAX) {
            Some(rest) => Self {
                low_end: LOW_RAM_MAX,
                high_end: HIGH_RAM_START.saturating_add(rest),
            },
            None => Self {
                low_end: ram_bytes,
                high_end: HIGH_RAM_START,
            },
        })
    }

    /// Returns the end of the RAM that starts at address 0.
    #[must_use]
    pub const fn low_end(&self) -> u64 {
        self.low_end
    }

    /// Returns the RAM above 4 GiB; empty when all of it fits below.
    #[must_use]
    pub const fn high(&self) -> Range<u64> {
        HIGH_RAM_START..self.high_end
    }

    /// Returns the size of the RAM in bytes.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.low_end
            .saturating_add(self.high_end.saturating_sub(HIGH_RAM_START))
    }

    /// Tells whether all of `start..end` is RAM below 4 GiB that a kernel may be loaded into.
    pub(crate) const fn is_loadable(&self, start: u64, end: u64) -> bool {
        start <= end && (end <= EBDA_START || (start >= EXTENDED_START && end <= self.low_end))
    }

    /// Returns the memory map in ascending order.
    pub fn entries(&self) -> impl Iterator<Item = MapEntry> + use<> {
        let entry = |start: u64, end: u64, kind| MapEntry {
            start,
            len: end.saturating_sub(start),
            kind,
        };
        [
            entry(0, EBDA_START, MapKind::Ram),
            entry(EBDA_START, VGA_START, MapKind::Reserved),
            entry(FIRMWARE_START, EXTENDED_START, MapKind::Reserved),
            entry(EXTENDED_START, self.low_end, MapKind::Ram),
            entry(HIGH_RAM_START, self.high_end, MapKind::Ram),
        ]
        .into_iter()
        .filter(|e: &MapEntry| e.len != 0)
    }
}
