//! The clustered datastore: a file system for virtual disks on block devices that several hosts share.
//!
//! A [`Volume`] is one host's mount. Its code is `async` over a block device and knows no thread, clock or global;
//! what it needs of others it is given: the device, a clock, and a lock service that reaches all hosts on the disk.
//! What stands on the disk is in [`format`], docs/formats/datastore.md and docs/adr/0012-datastore-format.md.
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
#[cfg(test)]
extern crate std;

mod allocator;
mod bits;
mod cache;
mod directory;
mod disk;
mod error;
mod file;
pub mod format;
mod fsck;
mod grow;
mod io;
mod journal;
mod layout;
mod locks;
mod map;
mod mkfs;
pub mod ram;
mod record;
mod remove;
mod replay;
mod span;
mod together;
mod tree;
mod usage;
mod volume;

#[cfg(test)]
mod tests;

pub use directory::{FileId, Kind, Stat};
pub use disk::Disk;
pub use error::Error;
pub use file::{FILE_BYTES_MAX, File, Run};
pub use fsck::{Action, Finding, Report, fsck, fsck_online};
pub use layout::{Layout, LayoutFault};
pub use locks::{LocalLocks, LockError, LockMode, LockService};
pub use map::Provision;
pub use mkfs::{MkfsError, MkfsOptions, mkfs};
pub use replay::{Replayed, replay};
pub use span::{MEMBER_START, Span};
pub use usage::Usage;
pub use volume::{Host, Settings, Volume};

/// Reads a volume's superblock, the second copy if the first is damaged, and checks that the device can hold it.
///
/// # Errors
/// [`Error::NotAVolume`], [`Error::Unsupported`], or the device's.
pub async fn probe<D: api::block::BlockDevice>(device: &D) -> Result<Layout, Error> {
    let mut found = Err(Error::NotAVolume);
    for at in [format::SUPERBLOCK_A, format::SUPERBLOCK_B] {
        match disk::read_unit(device, at).await {
            Ok(bytes) => match Layout::read(&bytes, device.geometry().bytes()) {
                Ok(layout) => return Ok(layout),
                Err(LayoutFault::Features) => return Err(Error::Unsupported),
                Err(_) => {}
            },
            Err(error) => found = Err(error),
        }
    }
    found
}
