//! Joining and leaving: how a host gets a slot and gives it back.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use api::block::BlockDevice;
use api::time::{Clock, HostInstant};
use spin::Mutex;

use crate::area::{Area, Backend};
use crate::error::LockError;
use crate::image::Image;
use crate::lease::Lease;
use crate::service::{Locks, Own, ROUNDS, Tokens};
use crate::slot::{Journal, Member, NAME_LEN, Slot, SlotState};
use crate::step::{AtomicStep, Fence, Seat, Step, Swap};
use crate::takeover::{Moment, Watch};

/// Who joins.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// The machine's UUID; the same after a restart, different on every machine.
    pub uuid: [u8; 16],
    /// Its name for people; what goes beyond 64 bytes is cut off.
    pub name: &'a str,
    /// Random bits, new for every call.
    pub nonce: u64,
}

impl Host<'_> {
    fn name_bytes(&self) -> [u8; NAME_LEN] {
        let mut bytes = [0; NAME_LEN];
        for (byte, named) in bytes.iter_mut().zip(self.name.bytes()) {
            *byte = named;
        }
        bytes
    }
}

/// A slot that can be had: as it is and as it is to become.
struct Offer {
    found: Image,
    taken: Slot,
    /// Who gets it.
    me: Member,
    /// When it was seen to be free.
    seen: HostInstant,
}

impl Offer {
    fn new(found: Image, taken: Slot, seen: HostInstant) -> Self {
        Self {
            found,
            me: taken.member(),
            taken,
            seen,
        }
    }
}

/// What a host that joins has seen so far.
#[derive(Default)]
struct Watches {
    slots: Watch,
    seats: Watch,
}

impl<D: BlockDevice + Clone, C: Clock + Clone> Locks<D, C> {
    /// Takes a slot of the volume for this host, whose journal there is what `journal_of` says of the slot.
    ///
    /// If no slot is free, it waits for up to a lease to find one whose host is dead, and takes that with its journal:
    /// see [`Locks::inherited`].
    ///
    /// The lease begins; [`Locks::keep_alive`] must run from now on.
    ///
    /// # Errors
    ///
    /// Returns [`LockError::NoSlot`] if all slots have living hosts.
    pub async fn join(
        device: D,
        clock: C,
        area: Area,
        host: Host<'_>,
        journal_of: impl Fn(u16) -> Journal,
    ) -> Result<Self, LockError> {
        area.validate(&device.geometry())?;
        let lease = Arc::new(Lease::new());
        let step = Step::new(device.clone(), clock.clone(), Arc::clone(&lease), &area);
        let joining = Joining {
            area: &area,
            clock: &clock,
            step: &step,
            lease: &lease,
            host,
            tokens: Tokens::new(host.nonce),
        };
        let (own, me) = joining.take_slot(journal_of).await?;
        let tokens = joining.tokens;
        let inherits = own.slot.state != SlotState::Live;
        let locks = Self {
            device,
            clock,
            area,
            lease,
            step,
            me,
            tokens,
            own: Mutex::new(own),
            own_busy: AtomicBool::new(false),
            inherits: AtomicBool::new(inherits),
            table: Mutex::new(BTreeMap::new()),
            watch: Mutex::new(Watch::default()),
            wanted: AtomicU64::new(0),
            claimed: Arc::new(AtomicU64::new(0)),
        };
        if inherits && area.backend != Backend::Local {
            locks.wait_reclaim().await;
        }
        Ok(locks)
    }

    /// Gives the slot back, and with it every lock that is still held. Writing ends.
    ///
    /// No other future of this service may be under way, and the caller's writes have ended.
    ///
    /// # Errors
    ///
    /// Returns [`LockError::Lost`] if another host has taken the slot over, and errors of the device; the other hosts
    /// then find this one dead after a while. So they do after [`LockError::Unrecovered`].
    pub async fn leave(self) -> Result<(), LockError> {
        if self.inherits.load(Ordering::Acquire) {
            return Err(LockError::Unrecovered);
        }
        self.quiesce().await;
        let mut image = self.own.lock().image.clone();
        let cell = self.area.slot_cell(self.me.slot);
        for _ in 0..ROUNDS {
            let free = self.own_slot(&image)?.freed(self.tokens.next())?;
            let new = free.encode();
            match self.step.swap(cell, &image, &new, self.own_fence()).await? {
                Swap::Done => {
                    self.step.publish(cell, &new).await;
                    return self.step.leave_seat(cell).await;
                }
                Swap::Found(found) if self.has_left(&found) => return Ok(()),
                Swap::Found(found) => image = found,
            }
        }
        Err(LockError::Contended { lba: cell.0 })
    }

    /// Tells whether `found` says that this host's generation is over without anybody having taken it over.
    fn has_left(&self, found: &Image) -> bool {
        let cell = self.area.slot_cell(self.me.slot);
        Slot::decode(found, self.me.slot, cell.0)
            .is_ok_and(|slot| slot.generation != self.me.generation && self.tokens.made(slot.token))
    }
}

/// What a host has while it has no slot yet.
struct Joining<'a, D, C> {
    area: &'a Area,
    clock: &'a C,
    step: &'a Step<D, C>,
    lease: &'a Lease,
    host: Host<'a>,
    tokens: Tokens,
}

impl<D: BlockDevice, C: Clock> Joining<'_, D, C> {
    /// Takes a free slot, or one whose host is found dead within a lease.
    async fn take_slot(
        &self,
        journal_of: impl Fn(u16) -> Journal,
    ) -> Result<(Own, Member), LockError> {
        let mut watches = Watches::default();
        let begun = self.clock.now();
        // The first survey begins the watch, so the last one must be well more than a lease later.
        let terms = &self.area.terms;
        let watch_nanos = terms.lease_nanos().saturating_add(terms.reclaim_nanos());
        let patience_nanos = watch_nanos.saturating_mul(3);
        let mut races = 0;
        loop {
            let offers = self.offers(&mut watches, &journal_of).await?;
            let mut raced = false;
            for offer in offers {
                let number = offer.me.slot;
                let cell = self.area.slot_cell(number);
                let image = offer.taken.encode();
                let seat = (number, cell);
                let nonce = self.host.nonce;
                let taken = self
                    .step
                    .take_seat(seat, nonce, offer.seen, &self.area.terms);
                if !taken.await? {
                    continue;
                }
                let sent = self.clock.now();
                let swap = self.step.swap(cell, &offer.found, &image, Fence::None);
                if let Swap::Done = swap.await? {
                    self.lease
                        .extend(sent.saturating_add(self.area.terms.working_nanos()));
                    let slot = offer.taken;
                    return Ok((Own { slot, image }, offer.me));
                }
                raced = true;
            }
            // Another host was faster, so the next slot is worth a look at once; every race has a winner.
            if raced && races < self.area.slots {
                races = races.saturating_add(1);
                continue;
            }
            let now = self.clock.now();
            if now.saturating_since(begun) > patience_nanos {
                return Err(LockError::NoSlot);
            }
            let next = now.saturating_add(self.area.terms.beat_nanos());
            self.clock.sleep_until(next).await;
        }
    }

    /// Returns the slots that can be had now, free ones first.
    async fn offers(
        &self,
        watches: &mut Watches,
        journal_of: &impl Fn(u16) -> Journal,
    ) -> Result<Vec<Offer>, LockError> {
        let sent = self.clock.now();
        let first = self.area.slot_cell(0);
        let all = self
            .step
            .load_all(first, self.area.slot_stride, self.area.slots)
            .await?;
        let moment = Moment {
            sent,
            answered: self.clock.now(),
        };
        let mut free = Vec::new();
        let mut dead = Vec::new();
        for (number, seen) in (0..).zip(all) {
            let cell = self.area.slot_cell(number);
            // A damaged slot is nobody's until it has been repaired.
            let Ok(slot) = Slot::decode(&seen.image, number, cell.0) else {
                continue;
            };
            let unchanged_nanos = watches.slots.note(number, slot.token, moment);
            let is_free = slot.state == SlotState::Free;
            if !is_free && !self.is_dead(&slot, unchanged_nanos) {
                continue;
            }
            // One is enough, and looking at seats costs requests.
            if is_free && !free.is_empty() {
                continue;
            }
            let sent = self.clock.now();
            if !self.may_sit(number, is_free, &mut watches.seats).await? {
                continue;
            }
            if is_free {
                let taken = self.fresh(slot, journal_of(number));
                free.push(Offer::new(seen.image, taken, sent));
            } else if let Some((taken, me)) = self.inherited(slot) {
                dead.push(Offer {
                    me,
                    ..Offer::new(seen.image, taken, sent)
                });
            }
        }
        free.append(&mut dead);
        Ok(free)
    }

    /// Tells whether the seat of a slot can be taken: it is empty, or nobody can be about to use it any more.
    async fn may_sit(
        &self,
        number: u16,
        is_free: bool,
        watch: &mut Watch,
    ) -> Result<bool, LockError> {
        let sent = self.clock.now();
        let seat = self.step.seat(self.area.slot_cell(number)).await?;
        let answered = self.clock.now();
        let Seat::Taken(token) = seat else {
            return Ok(is_free || self.area.backend != Backend::Paxos);
        };
        let unchanged_nanos = watch.note(number, token, Moment { sent, answered });
        let terms = &self.area.terms;
        Ok(unchanged_nanos >= terms.lease_nanos().saturating_add(terms.reclaim_nanos()))
    }

    fn is_dead(&self, slot: &Slot, unchanged_nanos: u64) -> bool {
        let beats = match slot.state {
            SlotState::Free => false,
            SlotState::Live => true,
            // Another host is at it; whether it lives its own slot tells.
            SlotState::Replaying(by) => by.slot == slot.number,
        };
        let former_life = slot.state == SlotState::Live && slot.uuid == self.host.uuid;
        let alone = self.area.backend == Backend::Local;
        beats && (former_life || alone || unchanged_nanos >= self.area.terms.lease_nanos())
    }

    /// A free slot, taken.
    fn fresh(&self, free: Slot, journal: Journal) -> Slot {
        Slot {
            state: SlotState::Live,
            token: self.tokens.next(),
            counter: 1,
            uuid: self.host.uuid,
            journal,
            wanted: 0,
            name: self.host.name_bytes(),
            ..free
        }
    }

    /// A dead host's slot, taken: it goes on standing for the dead host, whose locks hold, until the journal has been
    /// replayed. `None` if its generations are used up.
    fn inherited(&self, dead: Slot) -> Option<(Slot, Member)> {
        let me = Member {
            slot: dead.number,
            generation: dead.generation.checked_add(1)?,
        };
        let taken = Slot {
            state: SlotState::Replaying(me),
            token: self.tokens.next(),
            uuid: self.host.uuid,
            wanted: 0,
            name: self.host.name_bytes(),
            ..dead
        };
        Some((taken, me))
    }
}

/// Reads every slot of an area from a device on which this host has no slot: for tools that look from outside.
///
/// # Errors
///
/// Returns errors of the device and of the area's description. A damaged slot is an error in its place.
pub async fn read_slots<D: BlockDevice + Clone, C: Clock + Clone>(
    device: D,
    clock: C,
    area: &Area,
) -> Result<Vec<Result<Slot, LockError>>, LockError> {
    area.validate(&device.geometry())?;
    let lease = Arc::new(Lease::new());
    let step = Step::new(device, clock, lease, area);
    let all = step
        .load_all(area.slot_cell(0), area.slot_stride, area.slots)
        .await?;
    let decode =
        |(number, image): (u16, Image)| Slot::decode(&image, number, area.slot_cell(number).0);
    Ok((0..)
        .zip(all.into_iter().map(|seen| seen.image))
        .map(decode)
        .collect())
}
