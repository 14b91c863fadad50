//! The wiring of the PC that a guest sees: which chip answers, and where its lines lead.
//!
//! Virtual CPUs, their local APICs and guest memory are the caller's.
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

pub mod chipset;
mod outbox;
pub mod pause;
pub mod route;
pub mod write_log;

pub use chipset::{Attention, Chipset, ChipsetConfig, Env};
pub use pause::{Pause, PauseNumber};
pub use route::route;
pub use write_log::WriteLog;
