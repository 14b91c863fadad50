//! Acquiring and releasing locks.
//!
//! Trying only: who waits for a lock decides himself how long and what he does meanwhile.

use core::sync::atomic::Ordering;

use api::block::{BlockDevice, BlockError};
use api::time::Clock;

use crate::area::Cell;
use crate::error::LockError;
use crate::image::Token;
use crate::record::{Mode, Record};
use crate::service::{Change, Locks, ROUNDS};
use crate::slot::Member;
use crate::step::{AtomicStep, Fence, Swap};
use crate::takeover::{Life, first_to_recover};

/// What became of a try to get a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// This host holds the lock in the mode it asked for.
    Acquired(Acquired),
    /// Another host stands against it.
    Busy(Holder),
}

/// A lock that was acquired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquired {
    /// The token of the record that names this host.
    pub token: Token,
    /// The token of the record before. If it is the one that this host's last release returned, nobody has had the
    /// lock in between.
    pub previous: Token,
}

/// Who stands in the way: the holder, or the host that replays its journal and has died over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub member: Member,
    /// How it is with him: if dead, [`Locks::claim`] leads on.
    pub life: Life,
    /// How the lock is held.
    pub mode: Mode,
}

impl<D: BlockDevice, C: Clock> Locks<D, C> {
    /// Tries to get the lock at `cell` in `mode`; a lock that this host holds in another mode changes its mode.
    ///
    /// Two requests where nobody else holds the lock and the device compares and writes; one more if the record names
    /// others. If the future is dropped or fails, the lock counts as not held; the heartbeat releases what may have
    /// been acquired.
    ///
    /// # Errors
    ///
    /// Returns [`BlockError::Fenced`] if the lease has run out, also for a lock that was held until then, and
    /// [`LockError::Contended`] also while another operation of this host on the lock is under way, and
    /// [`LockError::Unrecovered`] before what [`Locks::inherited`] returns has been dealt with.
    pub async fn try_acquire(&self, cell: Cell, mode: Mode) -> Result<Attempt, LockError> {
        if self.inherits.load(Ordering::Acquire) {
            return Err(LockError::Unrecovered);
        }
        let mut change = self.begin(cell)?;
        let mut image = match change.held() {
            Some((held, image)) if held == mode => {
                let token = Record::decode(image, cell.0)?.token;
                self.check_lease()?;
                return Ok(Attempt::Acquired(Acquired {
                    token,
                    previous: token,
                }));
            }
            Some((_, image)) => image.clone(),
            None => self.step.load(cell).await?.image,
        };
        for _ in 0..ROUNDS {
            let record = Record::decode(&image, cell.0)?;
            if let Some(holder) = self.living_obstacle(&record, mode).await? {
                return Ok(Attempt::Busy(holder));
            }
            let token = self.tokens.next();
            let new = record.granted(self.me, mode, token).encode();
            change.sent = true;
            match self.step.swap(cell, &image, &new, Fence::Lease).await? {
                Swap::Done => {
                    self.check_lease()?;
                    change.end_held(mode, new);
                    return Ok(Attempt::Acquired(Acquired {
                        token,
                        previous: record.token,
                    }));
                }
                // Whatever was sent before expected another image than this one: it has no effect any more.
                Swap::Found(found) => {
                    change.sent = false;
                    image = found;
                }
            }
        }
        Err(LockError::Contended { lba: cell.0 })
    }

    /// Fails if the lease has run out: then what this host holds is perhaps another's already.
    fn check_lease(&self) -> Result<(), LockError> {
        let open = self.lease.is_open(self.clock.now());
        open.then_some(()).ok_or(BlockError::Fenced.into())
    }

    /// Gives back the lock at `cell`; does nothing if this host has nothing to do with it. Returns the token of the
    /// free record.
    ///
    /// The caller's writes under the lock have ended. If one of them ended without an answer, this waits until it
    /// cannot take effect any more.
    ///
    /// # Errors
    ///
    /// After an error the lock counts as not held, and the heartbeat goes on releasing it.
    pub async fn release(&self, cell: Cell) -> Result<Token, LockError> {
        self.quiesce().await;
        self.finish_release(self.begin(cell)?).await
    }

    /// Carries out a release; no write of unknown fate is left.
    pub(crate) async fn finish_release(&self, mut change: Change<'_>) -> Result<Token, LockError> {
        let cell = change.cell();
        let mut image = match change.held() {
            Some((_, image)) => image.clone(),
            None => self.step.load(cell).await?.image,
        };
        for _ in 0..ROUNDS {
            let record = Record::decode(&image, cell.0)?;
            let token = self.tokens.next();
            let new = record.released(self.me, token).encode();
            change.sent = true;
            match self.step.swap(cell, &image, &new, Fence::Lease).await? {
                Swap::Done => {
                    // Still under way: another operation on the cell must not begin before this has been said.
                    change.freed();
                    self.step.publish(cell, &new).await;
                    return Ok(token);
                }
                Swap::Found(found) => {
                    let record = Record::decode(&found, cell.0)?;
                    if !record.names(self.me) {
                        change.freed();
                        return Ok(record.token);
                    }
                    image = found;
                }
            }
        }
        Err(LockError::Contended { lba: cell.0 })
    }

    /// Returns a holder that is not void and stands against this host having the lock in `mode`.
    async fn living_obstacle(
        &self,
        record: &Record,
        mode: Mode,
    ) -> Result<Option<Holder>, LockError> {
        if record.obstacles(self.me, mode).next().is_none() {
            return Ok(None);
        }
        let neighbours = self.survey().await?;
        for member in record.obstacles(self.me, mode) {
            let Some(neighbour) = neighbours.get(usize::from(member.slot)) else {
                continue;
            };
            if !self.is_void(member, neighbour).await? {
                let first = first_to_recover(neighbour, &neighbours);
                return Ok(Some(Holder {
                    member: first.slot.member(),
                    life: first.life,
                    mode: record.mode,
                }));
            }
        }
        Ok(None)
    }
}
