//! A slot's unit: what the host of that slot has begun and must end, whatever happens between.

use zerocopy::byteorder::little_endian::{U32, U64};

use super::{Header, on_disk, unit_views};

/// Most files that a host can be deleting at a time.
pub const PENDING_MAX: usize = 500;

on_disk! {
    /// The unit of a slot.
    pub struct SlotUnit: 4096 {
        /// Magic `BDSL`.
        pub header: Header,
        /// Number of the slot.
        pub slot: U32,
        /// Entries of `pending` in use.
        pub count: U32,
        /// Zero.
        pub reserved: [u8; 24],
        /// Inodes whose state is "being deleted": whoever gets the slot goes on freeing them.
        pub pending: [U64; PENDING_MAX],
        /// Zero.
        pub tail: [u8; 32],
    }
}

unit_views!(SlotUnit);
