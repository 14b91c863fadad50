//! Host driver for NVM Express controllers (NVM Express Base Specification 1.4), as a state machine over ports.
//!
//! [`Controller::start`] brings the controller up and reads what its first namespace is, [`Controller::make_queues`] makes
//! its queues, each an [`IoQueue`] that moves requests, and [`Controller::restart`] gets one back that has stopped
//! answering. Who waits for whom, and who owns the data meanwhile, is the caller's (crate `requests`). Left out: other
//! namespaces, fused commands, aborting single commands.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod command;
mod identity;
mod io;
mod queue;
mod start;
#[cfg(test)]
mod tests;

pub use identity::Identity;
pub use io::{IoQueue, PAGES_MAX, QUEUE_BYTES, SLOTS};
pub use start::{Controller, StartError};

/// Bytes of a page as the controller counts them here.
pub const PAGE: usize = 4096;
