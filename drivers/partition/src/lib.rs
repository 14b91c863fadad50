//! Partition tables of the host's disks, and a partition as a block device of its own.
//!
//! Tables are untrusted: checksums, bounds and overlaps are checked, chains are bounded, and a table that breaks a rule
//! counts as none. Left out: writing tables, hybrid ones (the GPT counts), and labels of BSD or Apple.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::indexing_slicing
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod bytes;
mod gpt;
mod mbr;
mod slice;
#[cfg(test)]
mod tests;

pub use slice::Slice;

use alloc::string::String;
use alloc::vec::Vec;
use api::block::{BlockDevice, BlockError, Buffer};
use core::fmt;

/// Most partitions of a table that are looked at.
pub const PARTITIONS_MAX: usize = 256;

/// What a disk is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Nothing that was found.
    None,
    /// The table in the first sector, with the logical partitions that hang on it.
    Mbr,
    /// GUID partition table.
    Gpt,
}

/// What a partition is for, as its table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The type byte of an MBR.
    Mbr(u8),
    /// The type GUID of a GPT.
    Gpt(Guid),
}

/// A globally unique identifier as it lies on the disk (UEFI 2.10, appendix A): the first three groups are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(pub [u8; 16]);

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g, h, i, rest @ ..] = self.0;
        let first = u32::from_le_bytes([a, b, c, d]);
        let (second, third) = (u16::from_le_bytes([e, g]), u16::from_le_bytes([h, i]));
        write!(f, "{first:08x}-{second:04x}-{third:04x}-")?;
        for (at, byte) in rest.iter().enumerate() {
            if at == 2 {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// A partition. Addresses are in logical blocks of the disk, and inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1; logical ones of an MBR start at 5.
    pub number: u32,
    /// First block.
    pub first: u64,
    /// Blocks, at least 1.
    pub blocks: u64,
    /// What for.
    pub kind: Kind,
    /// Its own identifier, where the table gives one.
    pub id: Option<Guid>,
    /// Name for people; empty where the table gives none.
    pub name: String,
}

/// What was found on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What kind of table.
    pub scheme: Scheme,
    /// Its partitions by number.
    pub partitions: Vec<Partition>,
    /// The first copy of a GPT is damaged; this is the second one.
    pub from_backup: bool,
}

impl Table {
    const NONE: Self = Self {
        scheme: Scheme::None,
        partitions: Vec::new(),
        from_backup: false,
    };
}

/// Reads the partition table of a disk.
///
/// # Errors
/// The device's. A bad table is no error: it counts as none.
pub async fn read<D: BlockDevice>(device: &D) -> Result<Table, BlockError> {
    let first = read_block(device, 0).await?;
    let Some(entries) = mbr::parse(&first) else {
        return Ok(Table::NONE);
    };
    if entries.iter().any(mbr::Entry::is_protective) {
        return Ok(gpt::read(device).await?.unwrap_or(Table::NONE));
    }
    mbr::read(device, entries).await
}

async fn read_block<D: BlockDevice>(device: &D, lba: u64) -> Result<Buffer, BlockError> {
    let len = device.geometry().logical_block as usize;
    let (buffer, result) = device.read(lba, Buffer::zeroed(len)).await;
    result.map(|()| buffer)
}

/// Tells whether no two partitions share a block.
fn are_apart(partitions: &[Partition]) -> bool {
    let mut ranges: Vec<(u64, u64)> = partitions.iter().map(|p| (p.first, p.blocks)).collect();
    ranges.sort_unstable();
    ranges.windows(2).all(|pair| match pair {
        [(first, blocks), (next, _)] => first.saturating_add(*blocks) <= *next,
        _ => true,
    })
}
