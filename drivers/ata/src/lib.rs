//! Host drivers for ATA disks (ATA/ATAPI Command Set 3, ACS-3), as state machines over ports: behind AHCI controllers
//! (Serial ATA AHCI 1.3.1), and behind IDE controllers with bus-master DMA, such as the PIIX3's.
//!
//! Left out: ATAPI devices, port multipliers, native command queueing, power management, the second disk of an IDE channel.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod ahci;
mod command;
pub mod ide;
mod identity;

pub use identity::Identity;

use thiserror::Error;

/// Bytes of a page of a request's data.
pub const PAGE: usize = 4096;

/// Why a disk cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StartError {
    /// It did not become ready, or not answer, in time.
    #[error("it does not answer")]
    Silent,
    /// It says that a command failed.
    #[error("it failed to say what it is: status {status:#04x}, error {error:#04x}")]
    Failed {
        /// Its status register.
        status: u8,
        /// Its error register.
        error: u8,
    },
    /// It is not an ATA disk, or one without 48-bit addresses, or its blocks are of no use here.
    #[error("it is no disk with 48-bit addresses and blocks of 512 to 4096 bytes")]
    Unusable,
    /// The controller cannot address all of memory.
    #[error("the controller has no 64-bit addresses, which this driver needs")]
    Addresses,
}
