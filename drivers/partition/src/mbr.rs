//! The partition table in a disk's first sector, and the chain of logical partitions (UEFI 2.10, 5.2, has the record;
//! the chain is the custom of all PC systems: each link has one partition relative to itself, and the next link
//! relative to the extended partition).

use crate::bytes::{array, u32_at};
use crate::{Kind, Partition, Scheme, Table, are_apart, read_block};
use alloc::vec::Vec;
use api::block::{BlockDevice, BlockError};

/// Where the entries are, and how long one is.
const ENTRIES_AT: usize = 446;
const ENTRY_BYTES: usize = 16;
const ENTRIES: usize = 4;
/// Where the signature is.
const SIGNATURE_AT: usize = 510;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// Types of extended partitions.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// Type of the entry that keeps others off a GPT.
const PROTECTIVE: u8 = 0xee;
/// Links of a chain that are followed.
const LINKS_MAX: usize = 64;
/// Number of the first logical partition.
const LOGICAL_FIRST: u32 = 5;

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    active: u8,
    kind: u8,
    first: u32,
    blocks: u32,
}

impl Entry {
    fn is_used(&self) -> bool {
        self.kind != 0 && self.blocks != 0
    }

    fn is_extended(&self) -> bool {
        self.is_used() && EXTENDED.contains(&self.kind)
    }

    /// Tells whether the disk has a GPT.
    pub(crate) fn is_protective(&self) -> bool {
        self.is_used() && self.kind == PROTECTIVE
    }

    /// Makes a partition that begins `base` blocks before the entry's first block; `None` if it is not inside the disk.
    fn partition(&self, number: u32, base: u64, disk: u64) -> Option<Partition> {
        let first = base.checked_add(u64::from(self.first))?;
        let blocks = u64::from(self.blocks);
        let inside = first != 0 && first.checked_add(blocks)? <= disk;
        inside.then(|| Partition {
            number,
            first,
            blocks,
            kind: Kind::Mbr(self.kind),
            id: None,
            name: alloc::string::String::new(),
        })
    }
}

/// Reads the entries of a sector; `None` if it has none: file systems end their first sector like a table as well, and
/// have other bytes where entries say whether they are active.
pub(crate) fn parse(sector: &[u8]) -> Option<[Entry; ENTRIES]> {
    let entry = |index: usize| {
        let at = index.saturating_mul(ENTRY_BYTES).saturating_add(ENTRIES_AT);
        let [active] = array(sector, at);
        let [kind] = array(sector, at.saturating_add(4));
        Entry {
            active,
            kind,
            first: u32_at(sector, at.saturating_add(8)),
            blocks: u32_at(sector, at.saturating_add(12)),
        }
    };
    let entries: [Entry; ENTRIES] = core::array::from_fn(entry);
    let good = array::<2>(sector, SIGNATURE_AT) == SIGNATURE
        && entries.iter().all(|entry| matches!(entry.active, 0 | 0x80))
        && entries.iter().any(Entry::is_used);
    good.then_some(entries)
}

/// Makes the table of the first sector's entries and the logical partitions.
pub(crate) async fn read<D: BlockDevice>(
    device: &D,
    entries: [Entry; ENTRIES],
) -> Result<Table, BlockError> {
    let disk = device.geometry().blocks;
    let mut partitions = Vec::new();
    let mut extended = None;
    for (number, entry) in (1..).zip(entries) {
        if !entry.is_used() {
            continue;
        }
        let Some(partition) = entry.partition(number, 0, disk) else {
            return Ok(Table::NONE);
        };
        if entry.is_extended() {
            extended = Some(partition);
        } else {
            partitions.push(partition);
        }
    }
    if let Some(extended) = extended {
        partitions.append(&mut logical(device, &extended).await?);
    }
    if !are_apart(&partitions) {
        return Ok(Table::NONE);
    }
    Ok(Table {
        scheme: Scheme::Mbr,
        partitions,
        from_backup: false,
    })
}

/// Follows the chain through an extended partition; it ends at the first link that breaks a rule.
async fn logical<D: BlockDevice>(
    device: &D,
    extended: &Partition,
) -> Result<Vec<Partition>, BlockError> {
    let end = extended.first.saturating_add(extended.blocks);
    let mut partitions = Vec::new();
    let mut link = extended.first;
    let numbers = LOGICAL_FIRST..;
    for number in numbers.take(LINKS_MAX) {
        let sector = read_block(device, link).await?;
        let Some([own, next, ..]) = parse(&sector) else {
            break;
        };
        if own.is_used() && !own.is_extended() {
            match own.partition(number, link, end) {
                Some(partition) => partitions.push(partition),
                None => break,
            }
        }
        let following = extended.first.saturating_add(u64::from(next.first));
        // Links go forward only, so that no chain is a ring.
        if !next.is_extended() || following <= link || following >= end {
            break;
        }
        link = following;
    }
    Ok(partitions)
}
