//! Locks on the disk itself: heartbeat slots, leases, lock records, the takeover of dead hosts, and the gate that stops
//! a host's writes before its lease ends. No server, no quorum, no message between hosts.
//!
//! The rules in short. A host owns a *slot* and beats in it. A *lock record* names its holders by slot and generation.
//! Who has not beaten for a lease is dead: another host claims its slot, waits until no write of it can be on its way
//! any more, replays its journal and frees the slot with the next generation, which makes all locks of the old one
//! void without a visit. A host whose own beat gets old stops writing before that can happen ([`Gate`]).
//!
//! Not here: what is locked, what stands in a journal (vmfs/volume), and any clock, executor or device.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used)]
#![warn(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]
#![cfg_attr(
    test,
    expect(
        clippy::arithmetic_side_effects,
        reason = "a test that goes wrong may panic"
    )
)]

extern crate alloc;

mod acquire;
mod area;
mod beat;
mod error;
#[cfg(test)]
mod format_tests;
mod gate;
mod image;
mod join;
mod lease;
mod record;
mod service;
mod slot;
mod step;
mod takeover;
#[cfg(test)]
mod tests;

pub use acquire::{Acquired, Attempt, Holder};
pub use area::{Area, AreaError, Backend, Cell, SLOTS_MAX, Terms};
pub use error::LockError;
pub use gate::Gate;
pub use image::{CHECKSUM_AT, IMAGE_LEN, Image, Token};
pub use join::{Host, read_slots};
pub use lease::Lease;
pub use record::{Mode, Record};
pub use service::{LOCKS_MAX, Locks};
pub use slot::{Journal, Member, NAME_LEN, Slot, SlotState};
pub use takeover::{Claim, Life, Neighbour};
