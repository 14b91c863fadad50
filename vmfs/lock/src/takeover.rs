//! The others: who is alive, who is dead, and how a dead host's slot is taken over, its journal replayed by the caller
//! and all its locks freed by one write.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use api::block::{BlockDevice, BlockError};
use api::time::{Clock, HostInstant};

use crate::area::{Backend, Cell, SLOTS_MAX};
use crate::error::LockError;
use crate::image::{Image, Token};
use crate::service::Locks;
use crate::slot::{Journal, Member, Slot, SlotState};
use crate::step::{AtomicStep, Fence, Seen, Swap};

/// How it is with the owner of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The slot has no owner.
    Free,
    /// It is this host.
    Me,
    /// It beats, or has not been watched for long enough.
    Alive,
    /// It has not beaten for a whole lease, or who was replaying its journal has gone or given up: [`Locks::claim`] can
    /// have it.
    Dead,
    /// It is dead, and this host, perhaps the present one, replays its journal.
    Replaying(Member),
    /// The slot holds nothing valid; nobody can say.
    Damaged,
}

/// A slot as a survey found it.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// The slot's content; that of an unused one if it is damaged.
    pub slot: Slot,
    /// How it is with its owner.
    pub life: Life,
    /// No other generation can turn out to have been there instead.
    settled: bool,
}

impl Neighbour {
    /// Returns the cell that the owner waits for.
    #[must_use]
    pub const fn wanted(&self) -> Option<Cell> {
        match self.slot.wanted {
            0 => None,
            lba => Some(Cell(lba)),
        }
    }
}

/// Follows who replays whose journal to the last one: until that one is recovered, nothing moves.
pub(crate) fn first_to_recover<'a>(
    blocked: &'a Neighbour,
    neighbours: &'a [Neighbour],
) -> &'a Neighbour {
    let mut first = blocked;
    // Hosts cannot replay each other's journals in a circle; on a damaged disk it may look so.
    for _ in 0..neighbours.len() {
        let Life::Replaying(by) = first.life else {
            break;
        };
        match neighbours.get(usize::from(by.slot)) {
            Some(next) if next.slot.member() == by && by.slot != first.slot.number => first = next,
            _ => break,
        }
    }
    first
}

/// What this host has seen of the slots.
#[derive(Debug)]
pub(crate) struct Watch([Option<(Token, HostInstant)>; SLOTS_MAX as usize]);

impl Default for Watch {
    fn default() -> Self {
        Self([None; SLOTS_MAX as usize])
    }
}

/// When a read was sent and when it was answered; what it tells was true at some time in between.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) sent: HostInstant,
    pub(crate) answered: HostInstant,
}

impl Watch {
    /// Notes that slot `number` showed `token` and returns for how many nanoseconds at least it has done so.
    pub(crate) fn note(&mut self, number: u16, token: Token, moment: Moment) -> u64 {
        let Some(entry) = self.0.get_mut(usize::from(number)) else {
            return 0;
        };
        match entry {
            Some((seen, since)) if *seen == token => moment.sent.saturating_since(*since),
            _ => {
                *entry = Some((token, moment.answered));
                0
            }
        }
    }
}

/// The right to replay a dead host's journal and then to free its slot.
#[derive(Debug)]
#[must_use = "the slot stays taken until `clear`"]
pub struct Claim {
    victim: Slot,
    image: Image,
    _mark: Mark,
}

/// Says that a slot is being dealt with, until it is dropped.
#[derive(Debug)]
struct Mark {
    /// A bit for each slot.
    claimed: Arc<AtomicU64>,
    bit: u64,
}

impl Mark {
    const fn bit_of(number: u16) -> u64 {
        // At most 64 slots.
        1_u64.wrapping_shl(number as u32)
    }

    fn set(claimed: &Arc<AtomicU64>, number: u16) -> Self {
        let bit = Self::bit_of(number);
        claimed.fetch_or(bit, Ordering::AcqRel);
        Self {
            claimed: Arc::clone(claimed),
            bit,
        }
    }

    /// Does the same unless it is set already.
    fn try_set(claimed: &Arc<AtomicU64>, number: u16) -> Option<Self> {
        let bit = Self::bit_of(number);
        let before = claimed.fetch_or(bit, Ordering::AcqRel);
        (before & bit == 0).then(|| Self {
            claimed: Arc::clone(claimed),
            bit,
        })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.claimed.fetch_and(!self.bit, Ordering::AcqRel);
    }
}

impl Claim {
    /// Returns the dead host's slot and generation.
    #[must_use]
    pub const fn member(&self) -> Member {
        self.victim.member()
    }

    /// Returns the journal to replay.
    #[must_use]
    pub const fn journal(&self) -> Journal {
        self.victim.journal
    }

    /// Returns the slot as the dead host left it, but for the state.
    #[must_use]
    pub const fn slot(&self) -> &Slot {
        &self.victim
    }
}

impl<D: BlockDevice, C: Clock> Locks<D, C> {
    /// Reads all slots, in their order, and judges who is alive. One request where the slots lie close together.
    ///
    /// A host is found dead at the earliest a lease after the first survey that saw its last beat.
    ///
    /// # Errors
    ///
    /// Returns errors of the device.
    pub async fn survey(&self) -> Result<Vec<Neighbour>, LockError> {
        let sent = self.clock.now();
        let first = self.area.slot_cell(0);
        let seen = self
            .step
            .load_all(first, self.area.slot_stride, self.area.slots)
            .await?;
        let answered = self.clock.now();
        let moment = Moment { sent, answered };
        let mut all: Vec<_> = (0..)
            .zip(&seen)
            .map(|(number, seen)| self.meet(number, seen, moment))
            .collect();
        let members: Vec<_> = all
            .iter()
            .map(|neighbour| neighbour.slot.member())
            .collect();
        for neighbour in &mut all {
            // Who replays and lost its own slot has been recovered itself; its work is there to be taken up.
            if let Life::Replaying(by) = neighbour.life
                && by.slot != neighbour.slot.number
                && !members.contains(&by)
            {
                neighbour.life = Life::Dead;
            }
        }
        Ok(all)
    }

    /// Tells whether a lock that names `member` is void, by the survey that found its slot like this.
    pub(crate) async fn is_void(
        &self,
        member: Member,
        neighbour: &Neighbour,
    ) -> Result<bool, LockError> {
        if neighbour.life == Life::Damaged || neighbour.slot.generation == member.generation {
            return Ok(false);
        }
        if neighbour.settled {
            return Ok(true);
        }
        // A generation that is not there to stay would let the dead host's journal be replayed once more, over what
        // the next holder of the lock has written.
        let cell = self.area.slot_cell(member.slot);
        let image = self.step.settle(cell).await?;
        let slot = Slot::decode(&image, member.slot, cell.0)?;
        Ok(slot.generation != member.generation)
    }

    fn meet(&self, number: u16, seen: &Seen, moment: Moment) -> Neighbour {
        let cell = self.area.slot_cell(number);
        let Ok(slot) = Slot::decode(&seen.image, number, cell.0) else {
            return Neighbour {
                slot: Slot::unused(number),
                life: Life::Damaged,
                settled: false,
            };
        };
        let unchanged_nanos = self.watch.lock().note(number, slot.token, moment);
        let life = match slot.state {
            SlotState::Free => Life::Free,
            SlotState::Live if number == self.me.slot => Life::Me,
            SlotState::Live if self.is_dead(&slot, unchanged_nanos) => Life::Dead,
            SlotState::Live => Life::Alive,
            SlotState::Replaying(by) if by == self.me && number == by.slot => Life::Me,
            // Who has a slot from a dead host beats in it while it replays.
            SlotState::Replaying(by)
                if by.slot == number && self.is_dead(&slot, unchanged_nanos) =>
            {
                Life::Dead
            }
            // A claim of this host that nobody has in hand any more: the replay failed, or was left in the middle.
            SlotState::Replaying(by) if by == self.me && !self.is_claimed(number) => Life::Dead,
            SlotState::Replaying(by) => Life::Replaying(by),
        };
        Neighbour {
            slot,
            life,
            settled: seen.settled,
        }
    }

    /// Judges a slot that another owner left live.
    fn is_dead(&self, slot: &Slot, unchanged_nanos: u64) -> bool {
        // This very machine left the slot behind in a former life: it runs again, so that life has ended.
        let former_life = slot.uuid == self.own.lock().slot.uuid;
        let alone = self.area.backend == Backend::Local;
        former_life || alone || unchanged_nanos >= self.area.terms.lease_nanos()
    }

    /// Returns the right to replay the journal of the dead host from which this one has its slot. Before that has been
    /// done, and [`Locks::clear`] called, this host can get no lock, and its journal is not its own.
    #[must_use]
    pub fn inherited(&self) -> Option<Claim> {
        let own = self.own.lock();
        self.inherits.load(Ordering::Acquire).then(|| Claim {
            victim: own.slot.clone(),
            image: own.image.clone(),
            _mark: Mark::set(&self.claimed, self.me.slot),
        })
    }

    /// Tells whether a claim on slot `number` is in hand.
    fn is_claimed(&self, number: u16) -> bool {
        self.claimed.load(Ordering::Acquire) & Mark::bit_of(number) != 0
    }

    /// Takes over the slot of a dead host, and waits until no write of it can take effect any more. The caller then
    /// replays its journal and calls [`Locks::clear`]. If this future is dropped, or the replay fails, it can be
    /// called again.
    ///
    /// # Errors
    ///
    /// Returns [`LockError::NotDead`] if the last survey cannot tell that the host is dead, or if it beat after all.
    pub async fn claim(&self, number: u16) -> Result<Claim, LockError> {
        let not_dead = LockError::NotDead { slot: number };
        let neighbours = self.survey().await?;
        let neighbour = neighbours.get(usize::from(number)).ok_or(not_dead)?;
        if neighbour.life != Life::Dead {
            return Err(not_dead);
        }
        // Two of this host's tasks may have found it dead.
        let mark = Mark::try_set(&self.claimed, number).ok_or(not_dead)?;
        let expected = neighbour.slot.encode();
        let victim = Slot {
            state: SlotState::Replaying(self.me),
            token: self.tokens.next(),
            ..neighbour.slot.clone()
        };
        let image = victim.encode();
        let cell = self.area.slot_cell(number);
        match self
            .step
            .swap(cell, &expected, &image, Fence::Lease)
            .await?
        {
            Swap::Done => {}
            Swap::Found(_) => return Err(not_dead),
        }
        if self.area.backend != Backend::Local {
            self.wait_reclaim().await;
        }
        if !self.lease.is_open(self.clock.now()) {
            return Err(BlockError::Fenced.into());
        }
        Ok(Claim {
            victim,
            image,
            _mark: mark,
        })
    }

    /// Frees the slot whose journal was replayed, and so all locks that its owner held.
    ///
    /// # Errors
    ///
    /// Returns [`LockError::Lost`] if another host has claimed the slot meanwhile, because it held this one for dead.
    pub async fn clear(&self, claim: Claim) -> Result<(), LockError> {
        self.quiesce().await;
        let number = claim.victim.number;
        if number == self.me.slot {
            // The next beat says that the slot is this host's own now.
            self.inherits.store(false, Ordering::Release);
            return self.beat().await;
        }
        let cell = self.area.slot_cell(number);
        let new = claim.victim.freed(self.tokens.next())?.encode();
        match self
            .step
            .swap(cell, &claim.image, &new, Fence::Lease)
            .await?
        {
            Swap::Done => {
                self.step.publish(cell, &new).await;
                Ok(())
            }
            Swap::Found(found) => match Slot::decode(&found, number, cell.0) {
                Ok(slot) if slot.generation != claim.victim.generation => Ok(()),
                _ => Err(LockError::Lost),
            },
        }
    }
}
