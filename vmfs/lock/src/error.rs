//! What can go wrong with locks.

use api::block::BlockError;
use thiserror::Error;

use crate::area::AreaError;

/// Why an operation on locks failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LockError {
    /// The device failed. If the operation changes a lock, whether it took effect is unknown; the heartbeat future
    /// finds out and undoes it.
    #[error("block device: {0}")]
    Device(#[from] BlockError),
    /// A cell holds no valid image.
    #[error("the cell at block {lba} holds nothing valid")]
    Corrupt {
        /// First block of the cell.
        lba: u64,
    },
    /// This host's slot was taken over: its locks are gone, and it may not write.
    #[error("another host has taken over this host's slot")]
    Lost,
    /// Every slot is taken.
    #[error("every slot is taken")]
    NoSlot,
    /// Others changed the cell each time that it was tried.
    #[error("the cell at block {lba} is too much in demand")]
    Contended {
        /// First block of the cell.
        lba: u64,
    },
    /// This host has as many locks as it may remember.
    #[error("too many locks are held")]
    TooMany,
    /// This host has its slot from a dead one and has not replayed that one's journal yet.
    #[error("the journal that came with the slot has not been replayed")]
    Unrecovered,
    /// The host of this slot is not known to be dead, or the slot is free.
    #[error("the host of slot {slot} is not known to be dead")]
    NotDead {
        /// The slot.
        slot: u16,
    },
    /// The area's description makes no sense.
    #[error("lock area: {0}")]
    Area(#[from] AreaError),
}
