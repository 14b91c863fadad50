//! Joining and leaving: how a host gets a slot and gives it back.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{self, RefCell};

use api::block::BlockDevice;
use api::time::Clock;

use crate::area::Area;
use crate::error::LockError;
use crate::image::Image;
use crate::lease::Lease;
use crate::service::{Locks, Own, Tokens};
use crate::slot::{Journal, NAME_LEN, Slot, SlotState};
use crate::step::{AtomicStep, Fence, Step, Swap};
use crate::takeover::Watch;

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

impl<D: BlockDevice + Clone, C: Clock + Clone> Locks<D, C> {
    /// Takes a free slot of the volume for this host, whose journal there is what `journal_of` says of the slot.
    ///
    /// The lease begins; [`Locks::keep_alive`] must run from now on.
    ///
    /// # Errors
    ///
    /// Returns [`LockError::NoSlot`] if all slots are taken, also by dead hosts that nobody has recovered.
    pub async fn join(
        device: D,
        clock: C,
        area: Area,
        host: Host<'_>,
        journal_of: impl Fn(u16) -> Journal,
    ) -> Result<Self, LockError> {
        area.validate(&device.geometry())?;
        let lease = Arc::new(Lease::new(area.terms.reclaim_nanos()));
        let step = Step::new(device.clone(), clock.clone(), Arc::clone(&lease), &area)?;
        let tokens = Tokens::new(host.nonce);
        for number in 0..area.slots {
            let cell = area.slot_cell(number);
            let found = step.load(cell).await?.image;
            let free = match Slot::decode(&found, number, cell.0) {
                Ok(slot) if slot.state == SlotState::Free => slot,
                // A damaged slot is nobody's until it has been repaired.
                Ok(_) | Err(_) => continue,
            };
            let slot = Slot {
                state: SlotState::Live,
                token: tokens.next(),
                counter: 1,
                uuid: host.uuid,
                journal: journal_of(number),
                wanted: 0,
                name: host.name_bytes(),
                ..free
            };
            let image = slot.encode();
            let sent = clock.now();
            match step.swap(cell, &found, &image, Fence::None).await? {
                Swap::Done => {}
                Swap::Found(_) => continue,
            }
            lease.extend(sent.saturating_add(area.terms.working_nanos()));
            return Ok(Self {
                device,
                clock,
                area,
                lease,
                step,
                me: slot.member(),
                tokens,
                own: RefCell::new(Own { slot, image }),
                table: RefCell::new(BTreeMap::new()),
                watch: RefCell::new(Watch::default()),
                wanted: cell::Cell::new(0),
            });
        }
        Err(LockError::NoSlot)
    }

    /// Gives the slot back, and with it every lock that is still held. Writing ends.
    ///
    /// No other future of this service may be under way, and the caller's writes have ended.
    ///
    /// # Errors
    ///
    /// Returns [`LockError::Lost`] if another host has taken the slot over, and errors of the device; the other hosts
    /// then find this one dead after a while.
    pub async fn leave(self) -> Result<(), LockError> {
        self.quiesce().await;
        let mut image = self.own.borrow().image.clone();
        let cell = self.area.slot_cell(self.me.slot);
        for _ in 0..crate::service::ROUNDS {
            let slot = self.own_slot(&image)?;
            let generation = slot.generation.checked_add(1);
            let free = Slot {
                state: SlotState::Free,
                generation: generation.ok_or(LockError::NoSlot)?,
                token: self.tokens.next(),
                ..slot
            };
            let new = free.encode();
            match self.step.swap(cell, &image, &new, self.own_fence()).await? {
                Swap::Done => return Ok(()),
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
    let lease = Arc::new(Lease::new(0));
    let step = Step::new(device, clock, lease, area)?;
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
