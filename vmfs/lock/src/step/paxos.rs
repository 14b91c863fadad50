//! The atomic step on a device that can only read and write: Disk Paxos, with a ballot block per seat in every cell.
//!
//! An uncontended step takes five requests: read all ballots, promise, read, accept, read. Who made the image that is
//! there takes two: nobody else may use the lowest ballot number of the next instance, so it accepts at once. A host
//! writes only the ballots of its own seat, and only under its lease; seats are given out in `seat.rs`.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, Ordering};

use api::block::BlockDevice;
use api::time::Clock;
use spin::Mutex;

use super::ballot::{AUTHORS_BALLOT, Ballot, Ballots, View};
use super::{AtomicStep, Fence, Fenced, Seen, Swap};
use crate::area::Cell;
use crate::error::LockError;
use crate::image::{Image, Token};

/// How often a step is tried anew when others get in its way.
const ROUNDS: u32 = 16;
/// Cells of which a host remembers that it made the image that is there; with more, the two-request way is lost for
/// some.
const AUTHORED_MAX: usize = 4096;
/// The wait before the first new try, for each seat in front of one's own.
const BACKOFF_NANOS: u64 = 1_000_000;
/// The wait doubles so often.
const BACKOFF_DOUBLINGS: u32 = 6;

/// An image that this host made and knows to be chosen.
#[derive(Clone, Copy, Debug)]
struct Authored {
    instance: u64,
    number: u64,
    token: Token,
}

/// The step by Disk Paxos.
#[derive(Debug)]
pub(crate) struct Paxos<D, C> {
    fenced: Fenced<D, C>,
    seats: u16,
    /// This host's seat; it has one before it makes a step.
    seat: AtomicU16,
    authored: Mutex<BTreeMap<Cell, Authored>>,
    /// What the last load of a single cell read; the swap that follows begins with it.
    recent: Mutex<Option<(Cell, Ballots)>>,
}

impl<D: BlockDevice, C: Clock> Paxos<D, C> {
    pub(super) const fn new(fenced: Fenced<D, C>, seats: u16) -> Self {
        Self {
            fenced,
            seats,
            seat: AtomicU16::new(0),
            authored: Mutex::new(BTreeMap::new()),
            recent: Mutex::new(None),
        }
    }

    pub(super) const fn fenced(&self) -> &Fenced<D, C> {
        &self.fenced
    }

    /// Takes the seat that this host has come to own.
    pub(super) fn sit(&self, seat: u16) {
        self.seat.store(seat, Ordering::Release);
    }

    fn seat(&self) -> u16 {
        self.seat.load(Ordering::Acquire)
    }

    /// Returns the block of the seat that belongs to the slot at `cell`.
    pub(super) const fn seat_lba(&self, cell: Cell) -> u64 {
        cell.0.saturating_add(self.seats as u64)
    }

    /// The block of this host's ballot on `cell`.
    fn own_lba(&self, cell: Cell) -> u64 {
        cell.0.saturating_add(u64::from(self.seat()))
    }

    fn seen(ballots: &Ballots, cell: Cell) -> Result<Seen, LockError> {
        let view = ballots.view().ok_or(LockError::Corrupt { lba: cell.0 })?;
        Ok(match view {
            View::Settled { image, .. } => Seen {
                image,
                settled: true,
            },
            View::Pending { image, .. } => Seen {
                image,
                settled: false,
            },
        })
    }

    async fn ballots(&self, cell: Cell) -> Result<Ballots, LockError> {
        let buffer = self.fenced.read(cell.0, u32::from(self.seats)).await?;
        self.decode(&buffer, cell)
    }

    fn decode(&self, blocks: &[u8], cell: Cell) -> Result<Ballots, LockError> {
        let ballots: Result<Vec<_>, _> = (0..self.seats)
            .zip(blocks.chunks(self.fenced.block_len()))
            .map(|(seat, block)| Ballot::decode(block, seat, cell))
            .collect();
        Ok(Ballots(ballots?))
    }

    async fn put(&self, cell: Cell, ballot: &Ballot) -> Result<(), LockError> {
        self.recent.lock().take_if(|(loaded, _)| *loaded == cell);
        let bytes = ballot.encode(self.seat(), cell);
        let lba = self.own_lba(cell);
        Ok(self.fenced.put(lba, &bytes, Fence::Lease).await?)
    }

    /// Tries what only the author of the image that is there may: to accept at once. Returns the ballots if others got
    /// in the way.
    async fn swap_as_author(
        &self,
        cell: Cell,
        authored: Authored,
        new: &Image,
    ) -> Result<Option<Ballots>, LockError> {
        let instance = authored.instance.saturating_add(1);
        let ballot = Ballot {
            instance,
            promised: AUTHORS_BALLOT,
            accepted: AUTHORS_BALLOT,
            chosen: false,
            image: Some(new.clone()),
        };
        self.put(cell, &ballot).await?;
        let ballots = self.ballots(cell).await?;
        if ballots.leads(self.seat(), instance, AUTHORS_BALLOT) {
            self.remember(cell, instance, AUTHORS_BALLOT, new);
            return Ok(None);
        }
        Ok(Some(ballots))
    }

    /// Goes through both phases for one instance. Returns the image that was chosen, or `None` if others got in the
    /// way, and the ballots as they were read last.
    async fn choose(
        &self,
        cell: Cell,
        ballots: &Ballots,
        (instance, base): (u64, Option<&Image>),
        new: &Image,
    ) -> Result<(Option<Image>, Ballots), LockError> {
        let corrupt = LockError::Corrupt { lba: cell.0 };
        let seat = self.seat();
        let number = ballots.next_number(seat, instance).ok_or(corrupt)?;
        let own = ballots.0.get(usize::from(seat)).ok_or(corrupt)?;
        let promise = if own.instance == instance && own.accepted != 0 {
            Ballot {
                promised: number,
                ..own.clone()
            }
        } else {
            Ballot {
                instance,
                promised: number,
                accepted: 0,
                chosen: false,
                image: base.cloned(),
            }
        };
        self.put(cell, &promise).await?;
        let ballots = self.ballots(cell).await?;
        if !ballots.leads(seat, instance, number) {
            return Ok((None, ballots));
        }
        let image = match (ballots.accepted(instance), base) {
            (Some(accepted), _) => accepted,
            (None, Some(_)) => new.clone(),
            // What was accepted when we began cannot have gone.
            (None, None) => return Err(corrupt),
        };
        let acceptance = Ballot {
            instance,
            promised: number,
            accepted: number,
            chosen: false,
            image: Some(image.clone()),
        };
        self.put(cell, &acceptance).await?;
        let mut ballots = self.ballots(cell).await?;
        if !ballots.leads(seat, instance, number) {
            return Ok((None, ballots));
        }
        // Known here, not yet on the disk: the next instance says it there, or `publish`.
        if let Some(own) = ballots.0.get_mut(usize::from(seat)) {
            own.chosen = true;
        }
        if image == *new {
            self.remember(cell, instance, number, new);
        }
        Ok((Some(image), ballots))
    }

    fn remember(&self, cell: Cell, instance: u64, number: u64, image: &Image) {
        let mut authored = self.authored.lock();
        if authored.len() >= AUTHORED_MAX {
            authored.pop_first();
        }
        let token = image.token();
        let entry = Authored {
            instance,
            number,
            token,
        };
        authored.insert(cell, entry);
    }

    /// Waits before a new try, each seat for another time.
    async fn back_off(&self, round: u32) {
        let doubled = BACKOFF_NANOS << round.min(BACKOFF_DOUBLINGS);
        let turns = u64::from(self.seat()).saturating_add(1);
        self.fenced.sleep(doubled.saturating_mul(turns)).await;
    }

    /// Brings to its end whatever is pending on `cell`, says so on the disk, and returns the image that is there.
    pub(super) async fn settle(&self, cell: Cell) -> Result<Image, LockError> {
        self.fenced.wait_late(self.own_lba(cell)).await;
        for round in 0..ROUNDS {
            let ballots = self.ballots(cell).await?;
            let view = ballots.view().ok_or(LockError::Corrupt { lba: cell.0 })?;
            let (image, instance) = match view {
                View::Settled { image, .. } => return Ok(image),
                View::Pending { image, instance } => (image, instance),
            };
            let (chosen, ballots) = self
                .choose(cell, &ballots, (instance, None), &image)
                .await?;
            let Some(image) = chosen else {
                self.back_off(round).await;
                continue;
            };
            if let Some(own) = ballots.0.get(usize::from(self.seat())) {
                self.put(cell, own).await?;
            }
            return Ok(image);
        }
        Err(LockError::Contended { lba: cell.0 })
    }

    /// Says on the disk that `image`, this host's last one, is chosen, so that others need not find out.
    pub(super) async fn publish(&self, cell: Cell, image: &Image) -> Result<(), LockError> {
        let known = self.authored.lock().get(&cell).copied();
        let Some(authored) = known.filter(|authored| authored.token == image.token()) else {
            return Ok(());
        };
        let ballot = Ballot {
            instance: authored.instance,
            promised: authored.number,
            accepted: authored.number,
            chosen: true,
            image: Some(image.clone()),
        };
        self.put(cell, &ballot).await
    }
}

impl<D: BlockDevice, C: Clock> AtomicStep for Paxos<D, C> {
    async fn load_all(&self, first: Cell, stride: u32, count: u16) -> Result<Vec<Seen>, LockError> {
        let stride = stride.max(u32::from(self.seats));
        let mut all = Vec::new();
        for (first, blocks) in self.fenced.read_cells(first, stride, count).await? {
            let stride_len = self.fenced.block_len().saturating_mul(stride as usize);
            for (number, ballots) in (0..).zip(blocks.chunks(stride_len)) {
                let offset = u64::from(stride).saturating_mul(number);
                let cell = Cell(first.0.saturating_add(offset));
                all.push(Self::seen(&self.decode(ballots, cell)?, cell)?);
            }
        }
        Ok(all)
    }

    async fn load(&self, cell: Cell) -> Result<Seen, LockError> {
        // With a late write on its way, what is read now need not be what a swap finds.
        self.fenced.wait_late(self.own_lba(cell)).await;
        let ballots = self.ballots(cell).await?;
        let seen = Self::seen(&ballots, cell);
        *self.recent.lock() = Some((cell, ballots));
        seen
    }

    async fn swap(
        &self,
        cell: Cell,
        expected: &Image,
        new: &Image,
        _fence: Fence,
    ) -> Result<Swap, LockError> {
        let authored = self.authored.lock().remove(&cell);
        let mut read = self
            .recent
            .lock()
            .take()
            .and_then(|(loaded, ballots)| (loaded == cell).then_some(ballots));
        if let Some(authored) = authored.filter(|authored| authored.token == expected.token()) {
            match self.swap_as_author(cell, authored, new).await? {
                None => return Ok(Swap::Done),
                ballots => read = ballots,
            }
        }
        let mut ballots = match read {
            Some(ballots) => ballots,
            None => {
                self.fenced.wait_late(self.own_lba(cell)).await;
                self.ballots(cell).await?
            }
        };
        for round in 0..ROUNDS {
            let view = ballots.view().ok_or(LockError::Corrupt { lba: cell.0 })?;
            let (instance, base) = match &view {
                View::Settled { image, .. } if image == new => return Ok(Swap::Done),
                View::Settled { image, .. } if image != expected => {
                    return Ok(Swap::Found(image.clone()));
                }
                View::Settled { image, next } => (*next, Some(image)),
                View::Pending { instance, .. } => (*instance, None),
            };
            let chosen;
            (chosen, ballots) = self.choose(cell, &ballots, (instance, base), new).await?;
            match chosen {
                Some(image) if image == *new => return Ok(Swap::Done),
                // Another's image was brought to its end; it is what is there now.
                Some(_) => {}
                None => {
                    self.back_off(round).await;
                    ballots = self.ballots(cell).await?;
                }
            }
        }
        Err(LockError::Contended { lba: cell.0 })
    }
}
