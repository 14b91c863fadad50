//! Where the heartbeat slots lie, how many there are, which atomic step the volume uses, and the times that all its
//! hosts keep to.
//!
//! Where locks lie is up to the volume; it needs only to know how large a lock's cell is.

use api::block::Geometry;
use thiserror::Error;

/// Slots of a volume at most, and so its hosts.
pub const SLOTS_MAX: u16 = 64;

/// The place of something that is changed atomically: the block at which it begins. A cell is never moved, and never
/// written in any other way once it was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell(pub u64);

/// How cells are changed atomically; a volume has one way, chosen when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The device compares and writes a block.
    CompareAndWrite,
    /// Disk Paxos on a block per slot, for devices that can only read and write.
    Paxos,
    /// No second host ever sees the device.
    Local,
}

/// The times of a volume, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    /// A host whose slot does not change for so long is dead.
    pub lease_ms: u32,
    /// A write that was sent takes effect within so long or never.
    pub reclaim_ms: u32,
    /// A host beats this often.
    pub beat_ms: u32,
    /// A host stops writing so long before its lease ends; covers the difference of the hosts' clocks.
    pub margin_ms: u32,
}

impl Terms {
    /// The times of a volume that nobody chose other ones for.
    pub const DEFAULT: Self = Self {
        lease_ms: 16_000,
        reclaim_ms: 4_000,
        beat_ms: 3_000,
        margin_ms: 1_500,
    };

    /// Longest of all times: ten minutes.
    const LONGEST_MS: u32 = 600_000;

    /// Share of the lease that the margin is at least: 1/16 makes good for clocks that differ by 6 %.
    const MARGIN_SHARE: u32 = 16;

    fn validate(&self) -> Result<(), AreaError> {
        let working_ms = self.lease_ms.saturating_sub(self.margin_ms);
        let fits = self.lease_ms <= Self::LONGEST_MS
            && self.reclaim_ms <= Self::LONGEST_MS
            && self.beat_ms > 0
            && self.margin_ms.saturating_mul(Self::MARGIN_SHARE) >= self.lease_ms
            && self.beat_ms.saturating_mul(3) <= working_ms;
        fits.then_some(()).ok_or(AreaError::Terms)
    }

    pub(crate) const fn lease_nanos(&self) -> u64 {
        nanos(self.lease_ms)
    }

    pub(crate) const fn margin_nanos(&self) -> u64 {
        nanos(self.margin_ms)
    }

    pub(crate) const fn reclaim_nanos(&self) -> u64 {
        nanos(self.reclaim_ms)
    }

    pub(crate) const fn beat_nanos(&self) -> u64 {
        nanos(self.beat_ms)
    }

    /// How long after the sending of a beat this host may write.
    pub(crate) const fn working_nanos(&self) -> u64 {
        nanos(self.lease_ms.saturating_sub(self.margin_ms))
    }
}

const fn nanos(ms: u32) -> u64 {
    (ms as u64).saturating_mul(1_000_000)
}

/// What a volume's superblock says about its locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Area {
    /// First block of slot 0.
    pub slots_lba: u64,
    /// Slots: 2 to [`SLOTS_MAX`].
    pub slots: u16,
    /// Logical blocks from one slot to the next, at least [`Area::slot_blocks`].
    pub slot_stride: u32,
    /// How cells are changed.
    pub backend: Backend,
    /// The times.
    pub terms: Terms,
}

/// What is wrong with an area's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AreaError {
    /// Not 2 to 64 slots.
    #[error("{slots} slots; 2 to 64 are possible")]
    Slots {
        /// How many.
        slots: u16,
    },
    /// The slots overlap or lie beyond the end of the device.
    #[error("the slots do not fit their place")]
    Place,
    /// A time is out of range, the margin is less than a sixteenth of the lease, or fewer than three beats fit in it.
    #[error("the times do not fit together")]
    Terms,
    /// The device has no compare-and-write, or its logical block is not 512 or 4096 bytes.
    #[error("the device cannot do what the volume was made for")]
    Device,
}

impl Area {
    /// Returns the blocks of a lock's cell.
    #[must_use]
    pub const fn cell_blocks(&self) -> u32 {
        match self.backend {
            Backend::CompareAndWrite | Backend::Local => 1,
            Backend::Paxos => self.slots as u32,
        }
    }

    /// Returns the blocks of a slot: its cell, and for Paxos the seat behind it.
    #[must_use]
    pub const fn slot_blocks(&self) -> u32 {
        match self.backend {
            Backend::CompareAndWrite | Backend::Local => 1,
            Backend::Paxos => (self.slots as u32).saturating_add(1),
        }
    }

    /// Returns the cell of slot `slot`.
    #[must_use]
    pub const fn slot_cell(&self, slot: u16) -> Cell {
        let offset = (slot as u64).saturating_mul(self.slot_stride as u64);
        Cell(self.slots_lba.saturating_add(offset))
    }

    /// Checks the description, which may come from a damaged disk.
    ///
    /// # Errors
    ///
    /// Returns what is wrong.
    pub fn validate(&self, geometry: &Geometry) -> Result<(), AreaError> {
        if self.slots < 2 || self.slots > SLOTS_MAX {
            return Err(AreaError::Slots { slots: self.slots });
        }
        self.terms.validate()?;
        let missing =
            self.backend == Backend::CompareAndWrite && geometry.compare_and_write_blocks == 0;
        if missing || !matches!(geometry.logical_block, 512 | 4096) {
            return Err(AreaError::Device);
        }
        let fits = self.slot_stride >= self.slot_blocks()
            && self.slot_cell(self.slots).0 <= geometry.blocks;
        fits.then_some(()).ok_or(AreaError::Place)
    }
}
