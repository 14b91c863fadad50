//! The judge of the toy: it sees everything, and states which promise was broken.
//!
//! Every payload block carries the lock holder for whom it was written. A write that lands for anybody but the last one
//! who got the lock is a stale one, whatever the hosts believe.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use lock::{Member, Mode};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::disk::Witness;
use super::world::World;

/// What a host writes under a lock: a count, and for whom.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Payload {
    /// The lock's number.
    pub lock: U32,
    /// The slot of the holder for whom it was written.
    pub slot: U32,
    /// The holder's generation.
    pub generation: U32,
    /// 1 where the payload counts (a journal entry in force).
    pub valid: U32,
    /// The count.
    pub count: U64,
}

impl Payload {
    /// Makes the payload of count `count` under lock `lock`, held by `member`.
    #[must_use]
    pub fn new(lock: usize, member: Member, count: u64) -> Self {
        Self {
            lock: U32::new(lock as u32),
            slot: U32::new(u32::from(member.slot)),
            generation: U32::new(member.generation),
            valid: U32::new(1),
            count: U64::new(count),
        }
    }

    /// Returns the holder for whom it was written.
    #[must_use]
    pub fn member(&self) -> Member {
        Member {
            slot: self.slot.get() as u16,
            generation: self.generation.get(),
        }
    }

    /// Reads a payload from the head of a block.
    #[must_use]
    pub fn read(block: &[u8]) -> Self {
        match Self::read_from_prefix(block) {
            Ok((payload, _)) => payload,
            Err(_) => Self::new_zeroed(),
        }
    }
}

/// What the judge knows of one lock.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The last one who got it to write.
    rightful: Option<Member>,
    /// Who believes to hold it, and how.
    beliefs: Vec<(usize, Mode)>,
    /// The highest count that a host was told is on disk.
    acknowledged: u64,
    /// The highest count that a host began to write.
    begun: u64,
}

/// Tells whether a host may still write.
type LeaseIsOpen = Box<dyn Fn() -> bool>;

/// The judge.
pub struct Judge {
    world: Rc<World>,
    locks: RefCell<Vec<Known>>,
    leases: RefCell<Vec<Option<LeaseIsOpen>>>,
    /// First block of the payload of lock 0; two blocks for each.
    payload_lba: u64,
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Judge({:?})", self.locks)
    }
}

impl Judge {
    /// Makes the judge of `locks` locks whose payloads begin at block `payload_lba`.
    #[must_use]
    pub fn new(world: Rc<World>, hosts: usize, locks: usize, payload_lba: u64) -> Self {
        Self {
            world,
            locks: RefCell::new(vec![Known::default(); locks]),
            leases: RefCell::new((0..hosts).map(|_| None).collect()),
            payload_lba,
        }
    }

    /// A host has joined; `open` tells whether it may still write.
    pub fn joined(&self, host: usize, open: LeaseIsOpen) {
        self.leases.borrow_mut()[host] = Some(open);
    }

    /// A host has died, or given up its membership: it believes nothing any more.
    pub fn forgot(&self, host: usize) {
        self.leases.borrow_mut()[host] = None;
        for known in self.locks.borrow_mut().iter_mut() {
            known.beliefs.retain(|&(believer, _)| believer != host);
        }
    }

    /// A host is about to give up a lock or to ask for it again.
    pub fn let_go(&self, host: usize, lock: usize) {
        let known = &mut self.locks.borrow_mut()[lock];
        known.beliefs.retain(|&(believer, _)| believer != host);
    }

    /// A host was told that it has a lock.
    pub fn acquired(&self, host: usize, member: Member, lock: usize, mode: Mode) {
        self.let_go(host, lock);
        let known = &mut self.locks.borrow_mut()[lock];
        let leases = self.leases.borrow();
        for &(other, held) in &known.beliefs {
            let together = mode == held && mode != Mode::Exclusive;
            let open = leases[other].as_ref().is_some_and(|open| open());
            if !together && open {
                self.world.condemn(|| {
                    format!("hosts {other} ({held:?}) and {host} ({mode:?}) both own lock {lock}")
                });
            }
        }
        known.beliefs.push((host, mode));
        if mode == Mode::Exclusive {
            known.rightful = Some(member);
        }
    }

    /// A host begins to write a count.
    pub fn begins(&self, lock: usize, count: u64) {
        let known = &mut self.locks.borrow_mut()[lock];
        known.begun = known.begun.max(count);
    }

    /// A host was told that a count is on disk.
    pub fn acknowledges(&self, lock: usize, count: u64) {
        let known = &mut self.locks.borrow_mut()[lock];
        known.acknowledged = known.acknowledged.max(count);
    }

    /// A host that may do so has read both payloads of a lock. They are the same, and nothing is missing.
    pub fn reads(&self, host: usize, lock: usize, counts: [u64; 2]) {
        let known = &self.locks.borrow()[lock];
        let [first, second] = counts;
        if first != second {
            self.world.condemn(|| {
                format!("host {host} reads {first} and {second} under lock {lock}: half a change")
            });
        }
        let (least, most) = (known.acknowledged, known.begun);
        if first < least || first > most {
            self.world.condemn(|| {
                format!("host {host} reads {first} under lock {lock}, not {least} to {most}")
            });
        }
    }
}

impl Witness for Judge {
    fn lands(&self, host: usize, _life: u32, lba: u64, data: &[u8]) {
        let locks = self.locks.borrow();
        let Some(offset) = lba.checked_sub(self.payload_lba) else {
            return;
        };
        let lock = (offset / 2) as usize;
        let Some(known) = locks.get(lock) else {
            return;
        };
        let payload = Payload::read(data);
        self.world.note(|| {
            format!(
                "disk    payload {lock}.{} becomes {} for {}",
                offset % 2,
                payload.count,
                name(payload.member())
            )
        });
        if known.rightful != Some(payload.member()) {
            self.world.condemn(|| {
                let rightful = known.rightful.map_or_else(|| "nobody".to_owned(), name);
                format!(
                    "a write of host {host} for {} lands under lock {lock}, which {rightful} owns",
                    name(payload.member())
                )
            });
        }
    }
}

/// A member in the words of the trace: slot and generation.
#[must_use]
pub fn name(member: Member) -> String {
    format!("{}.{}", member.slot, member.generation)
}
