//! GUID partition tables (UEFI 2.10, 5.3): the first copy, or the second when the first is damaged.

use crate::bytes::{array, u32_at, u64_at};
use crate::{Guid, Kind, PARTITIONS_MAX, Partition, Scheme, Table, are_apart, read_block};
use alloc::string::String;
use alloc::vec::Vec;
use api::block::{BlockDevice, BlockError, Buffer};

const SIGNATURE: [u8; 8] = *b"EFI PART";
/// Bytes of a header that are defined.
const HEADER_BYTES: usize = 92;
/// Where a header has its own checksum.
const CHECKSUM_AT: usize = 16;
/// Bytes of an entry at least, and of an entry that is looked at at most.
const ENTRY_BYTES: usize = 128;
const ENTRY_BYTES_MAX: usize = 4096;
/// Bytes of a table that is looked at at most.
const TABLE_BYTES_MAX: usize = 1 << 20;
/// Code units of a name.
const NAME_UNITS: usize = 36;

/// What a header says, checked.
#[derive(Debug)]
struct Header {
    /// First and last block that partitions may use.
    usable: (u64, u64),
    table: u64,
    entries: usize,
    entry_bytes: usize,
    table_checksum: u32,
}

/// Reads the table of a disk whose first sector says that it has one; `None` if both copies are damaged.
pub(crate) async fn read<D: BlockDevice>(device: &D) -> Result<Option<Table>, BlockError> {
    let last = device.geometry().blocks.saturating_sub(1);
    let first = read_copy(device, 1).await?;
    if first.is_some() {
        return Ok(first);
    }
    let second = read_copy(device, last).await?;
    Ok(second.map(|table| Table {
        from_backup: true,
        ..table
    }))
}

async fn read_copy<D: BlockDevice>(device: &D, at: u64) -> Result<Option<Table>, BlockError> {
    let blocks = device.geometry().blocks;
    if at >= blocks {
        return Ok(None);
    }
    let block = match read_block(device, at).await {
        // The other copy may be good.
        Err(BlockError::Medium { .. }) => return Ok(None),
        other => other?,
    };
    let Some(header) = Header::parse(&block, at, blocks) else {
        return Ok(None);
    };
    let Some(bytes) = read_entries(device, &header).await? else {
        return Ok(None);
    };
    if crc32(&bytes) != header.table_checksum {
        return Ok(None);
    }
    Ok(header.table_of(&bytes))
}

/// Reads a table's entries; `None` where they are beyond the disk or cannot be read.
async fn read_entries<D: BlockDevice>(
    device: &D,
    header: &Header,
) -> Result<Option<Vec<u8>>, BlockError> {
    let geometry = device.geometry();
    let block = geometry.logical_block as usize;
    let len = header.entries.saturating_mul(header.entry_bytes);
    let count = len.div_ceil(block);
    let end = header.table.saturating_add(count as u64);
    if len > TABLE_BYTES_MAX || end > geometry.blocks {
        return Ok(None);
    }
    let step = (geometry.max_blocks as usize).clamp(1, 64);
    let mut bytes = Vec::with_capacity(count.saturating_mul(block));
    let mut done = 0_usize;
    while done < count {
        let part = count.saturating_sub(done).min(step);
        let at = header.table.saturating_add(done as u64);
        let buffer = Buffer::zeroed(part.saturating_mul(block));
        let (buffer, result) = device.read(at, buffer).await;
        match result {
            Err(BlockError::Medium { .. }) => return Ok(None),
            other => other?,
        }
        bytes.extend_from_slice(&buffer);
        done = done.saturating_add(part);
    }
    bytes.truncate(len);
    Ok(Some(bytes))
}

impl Header {
    /// Reads a header that lies at block `at` of a disk of `blocks`.
    fn parse(block: &[u8], at: u64, blocks: u64) -> Option<Self> {
        let size = u32_at(block, 12) as usize;
        if array::<8>(block, 0) != SIGNATURE || size < HEADER_BYTES {
            return None;
        }
        let mut summed = block.get(..size)?.to_vec();
        summed.get_mut(CHECKSUM_AT..)?.get_mut(..4)?.fill(0);
        let usable = (u64_at(block, 40), u64_at(block, 48));
        let (entries, entry_bytes) = (u32_at(block, 80), u32_at(block, 84) as usize);
        let good = crc32(&summed) == u32_at(block, CHECKSUM_AT)
            && u64_at(block, 24) == at
            && usable.0 <= usable.1
            && usable.1 < blocks
            && (ENTRY_BYTES..=ENTRY_BYTES_MAX).contains(&entry_bytes)
            && entry_bytes.is_power_of_two();
        good.then_some(Self {
            usable,
            table: u64_at(block, 72),
            entries: entries as usize,
            entry_bytes,
            table_checksum: u32_at(block, 88),
        })
    }

    /// Makes the table of its entries; `None` if one breaks a rule.
    fn table_of(&self, bytes: &[u8]) -> Option<Table> {
        let mut partitions = Vec::new();
        for (number, entry) in (1..).zip(bytes.chunks(self.entry_bytes)) {
            let kind = Guid(array(entry, 0));
            if kind == Guid([0; 16]) {
                continue;
            }
            let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
            if first > last || first < self.usable.0 || last > self.usable.1 {
                return None;
            }
            partitions.push(Partition {
                number,
                first,
                blocks: last.checked_sub(first)?.checked_add(1)?,
                kind: Kind::Gpt(kind),
                id: Some(Guid(array(entry, 16))),
                name: name(entry.get(56..).unwrap_or_default()),
            });
        }
        let good = partitions.len() <= PARTITIONS_MAX && are_apart(&partitions);
        good.then_some(Table {
            scheme: Scheme::Gpt,
            partitions,
            from_backup: false,
        })
    }
}

/// Reads a name in UTF-16; what is no printable character becomes a dot.
fn name(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).take(NAME_UNITS);
    let units = units.map(|pair| u16::from_le_bytes(array(pair, 0)));
    char::decode_utf16(units.take_while(|unit| *unit != 0))
        .map(|unit| unit.ok().filter(|c| !c.is_control()).unwrap_or('.'))
        .collect()
}

/// The checksum of IEEE 802.3, bit by bit: tables are small and read once.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 }
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}
