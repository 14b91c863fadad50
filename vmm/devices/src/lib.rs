//! The chips of the PC that a guest sees, each a pure state machine (one file per chip).
//!
//! A chip knows nothing of its neighbours: lines, messages and requests leave as return values or recorded effects,
//! and `machine` carries them on. Saved states are separate, versioned types beside each chip.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

extern crate alloc;

pub mod debugcon;
pub mod fw_cfg;
pub mod i8042;
pub mod ioapic;
pub mod lapic;
pub mod layout;
pub mod message;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod pm;
pub mod reset;
pub mod rtc;
pub mod testdev;
pub mod uart;

#[cfg(test)]
mod testing;
mod ticks;
