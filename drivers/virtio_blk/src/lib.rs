//! Host driver for virtio block devices (VIRTIO 1.2, sections 2 to 4 and 5.2), over the registers of virtio-pci.
//!
//! [`Device::start`] agrees on features and reads what the disk is, [`Device::make_queues`] makes its queues, and
//! [`Device::restart`] resets a device that has stopped answering. Each request lies in an indirect table of its own, so
//! that a slot is a descriptor. Left out: devices of the time before version 1 or without indirect tables, event indices,
//! packed rings, lifetime and zone features.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod queue;
mod start;
#[cfg(test)]
mod tests;

pub use queue::{BlkQueue, PAGES_MAX, QUEUE_BYTES};
pub use start::{Device, Identity, StartError};

/// Bytes of a page of a request's data.
pub const PAGE: usize = 4096;
/// Bytes of a sector, the unit of the device's addresses.
const SECTOR: u32 = 512;

/// The three windows of a device (4.1.4).
#[derive(Debug)]
pub struct Windows<R> {
    /// The common configuration.
    pub common: R,
    /// Where queues are notified, and the distance of two places there.
    pub notify: (R, u32),
    /// The configuration of block devices.
    pub device: R,
}
