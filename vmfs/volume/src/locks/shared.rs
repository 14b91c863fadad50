//! The locks of `vmfs/lock` as the volume's lock service, and what the superblock says to them.

use api::block::BlockDevice;
use api::time::Clock;
use lock::{Area, Attempt, Backend, Cell, Claim, Journal, Life, Locks, Mode, Terms};

use super::{LockError, LockService};
use crate::error::Error;
use crate::format::BLOCK_BYTES;
use crate::layout::Layout;

impl Layout {
    /// Returns where the hosts' slots lie and how locks are changed, for [`Locks::join`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the volume wants an atomic step that this code does not know.
    pub fn lock_terms(&self) -> Result<Area, Error> {
        let backend = match self.lock_backend {
            1 => Backend::CompareAndWrite,
            2 => Backend::Paxos,
            3 => Backend::Local,
            _ => return Err(Error::Unsupported),
        };
        let sectors = |bytes: u64| {
            bytes
                .checked_div(u64::from(self.logical_block))
                .unwrap_or(0)
        };
        let area = Area {
            slots_lba: sectors(self.heartbeat),
            slots: u16::try_from(self.slots).map_err(|_| Error::Unsupported)?,
            slot_stride: u32::try_from(sectors(self.slot_bytes)).map_err(|_| Error::Unsupported)?,
            backend,
            terms: Terms {
                lease_ms: self.lease_ms,
                reclaim_ms: self.reclaim_ms,
                beat_ms: self.beat_ms,
                margin_ms: self.margin_ms,
            },
        };
        let cell = u64::from(area.cell_blocks()).saturating_mul(u64::from(self.logical_block));
        if cell > self.lock_bytes {
            return Err(Error::Unsupported);
        }
        Ok(area)
    }

    /// Returns where the journal of a slot lies, for [`Locks::join`].
    #[must_use]
    pub fn slot_journal(&self, slot: u16) -> Journal {
        let sector = u64::from(self.logical_block);
        let bytes = self.journal_blocks.saturating_mul(BLOCK_BYTES);
        Journal {
            lba: self.journal(slot).checked_div(sector).unwrap_or(0),
            blocks: bytes.checked_div(sector).unwrap_or(0),
        }
    }
}

impl From<lock::LockError> for LockError {
    fn from(error: lock::LockError) -> Self {
        use lock::LockError as Theirs;
        match error {
            Theirs::Device(error) => Self::Block(error),
            Theirs::Contended { .. } | Theirs::NotDead { .. } => Self::Held,
            Theirs::Corrupt { lba } => Self::Damaged { lba },
            Theirs::TooMany => Self::TooMany,
            Theirs::Lost | Theirs::NoSlot | Theirs::Unrecovered | Theirs::Area(_) => Self::Lost,
        }
    }
}

impl<D, C, P> LockService for P
where
    D: BlockDevice + Clone,
    C: Clock + Clone,
    P: core::ops::Deref<Target = Locks<D, C>>,
{
    type Token = Cell;
    type Claim = Claim;

    fn slot(&self) -> u16 {
        self.me().slot
    }

    fn inherited(&self) -> Option<(u16, Claim)> {
        let claim = Locks::inherited(self)?;
        Some((claim.member().slot, claim))
    }

    async fn acquire(&self, lba: u64, mode: Mode) -> Result<Cell, LockError> {
        let cell = Cell(lba);
        match self.try_acquire(cell, mode).await? {
            Attempt::Acquired(_) => Ok(cell),
            Attempt::Busy(holder) if holder.life == Life::Dead => Err(LockError::Dead {
                slot: holder.member.slot,
            }),
            Attempt::Busy(_) => Err(LockError::Held),
        }
    }

    async fn release(&self, token: Cell) -> Result<(), LockError> {
        Locks::release(self, token).await?;
        Ok(())
    }

    async fn claim(&self, slot: u16) -> Result<Claim, LockError> {
        Ok(Locks::claim(self, slot).await?)
    }

    async fn clear(&self, claim: Claim) -> Result<(), LockError> {
        Ok(Locks::clear(self, claim).await?)
    }
}
