//! Writes a GUID partition table (UEFI 2.10, chapter 5) into the bytes of a disk image.
//!
//! Identifiers are given by the caller, so that equal input makes equal images. There is no reader.

use anyhow::{Context, Result, ensure};

/// Bytes of a sector.
pub(crate) const SECTOR_SIZE: usize = 512;
/// Entries of the table; 128 of them are 32 sectors.
const ENTRIES: usize = 128;
const ENTRY_SIZE: usize = 128;
/// Sectors of one table with its header, at the start behind the MBR and at the end.
const TABLE_SECTORS: u64 = 33;
/// Size of the header's used part.
const HEADER_SIZE: usize = 92;
/// The MBR's partition type that keeps others away (table 5-3), and where its first entry is.
const PROTECTIVE_TYPE: u8 = 0xee;
const MBR_ENTRY: usize = 446;

/// Type of a partition that holds GRUB's core for BIOS machines.
pub(crate) const BIOS_BOOT: Guid = Guid::new(0x2168_6148, 0x6449, 0x6e6f, 0x744e_6565_6445_4649);
/// Type of the partition that UEFI firmware boots from (table 5-7).
pub(crate) const EFI_SYSTEM: Guid = Guid::new(0xc12a_7328, 0xf81f, 0x11d2, 0xba4b_00a0_c93e_c93b);

/// A globally unique identifier in its binary form (appendix A).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Guid([u8; 16]);

impl Guid {
    /// Makes it of its text's groups; the last number holds the last two.
    pub(crate) const fn new(first: u32, second: u16, third: u16, rest: u64) -> Self {
        let [a, b, c, d] = first.to_le_bytes();
        let [e, f] = second.to_le_bytes();
        let [g, h] = third.to_le_bytes();
        let [i, j, k, l, m, n, o, p] = rest.to_be_bytes();
        Self([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }
}

/// A partition.
#[derive(Debug, Clone)]
pub(crate) struct Partition {
    /// What it is for.
    pub(crate) kind: Guid,
    /// Which one it is.
    pub(crate) id: Guid,
    /// First sector.
    pub(crate) start: u64,
    /// Sectors.
    pub(crate) count: u64,
    /// For people, in ASCII.
    pub(crate) name: &'static str,
}

/// Writes both copies of the table and the protective MBR entry; the MBR's code stays.
pub(crate) fn write(disk: &mut [u8], id: Guid, partitions: &[Partition]) -> Result<()> {
    let sectors = (disk.len() / SECTOR_SIZE) as u64;
    let usable = TABLE_SECTORS + 1..sectors.saturating_sub(TABLE_SECTORS);
    let mut entries = vec![0; ENTRIES * ENTRY_SIZE];
    ensure!(partitions.len() <= ENTRIES, "too many partitions");
    for (entry, partition) in entries.chunks_mut(ENTRY_SIZE).zip(partitions) {
        let end = partition.start + partition.count;
        ensure!(
            usable.contains(&partition.start) && end <= usable.end,
            "the partition {} does not fit the disk",
            partition.name
        );
        entry[..16].copy_from_slice(&partition.kind.0);
        entry[16..32].copy_from_slice(&partition.id.0);
        entry[32..40].copy_from_slice(&partition.start.to_le_bytes());
        entry[40..48].copy_from_slice(&(end - 1).to_le_bytes());
        let units = partition.name.encode_utf16().take(36);
        for (place, unit) in entry[56..].chunks_mut(2).zip(units) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
    }
    let last = sectors - 1;
    let header = |own: u64, other: u64, table: u64| {
        let mut header = vec![0; SECTOR_SIZE];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x0001_0000u32.to_le_bytes());
        header[12..16].copy_from_slice(&(HEADER_SIZE as u32).to_le_bytes());
        for (at, value) in [
            (24, own),
            (32, other),
            (40, usable.start),
            (48, usable.end - 1),
            (72, table),
        ] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[56..72].copy_from_slice(&id.0);
        header[80..84].copy_from_slice(&(ENTRIES as u32).to_le_bytes());
        header[84..88].copy_from_slice(&(ENTRY_SIZE as u32).to_le_bytes());
        header[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
        let sum = crc32(&header[..HEADER_SIZE]);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        header
    };
    put(disk, 1, &header(1, last, 2))?;
    put(disk, 2, &entries)?;
    put(disk, last, &header(last, 1, sectors - TABLE_SECTORS))?;
    put(disk, sectors - TABLE_SECTORS, &entries)?;
    protect(disk, sectors);
    Ok(())
}

/// Copies bytes to a sector.
pub(crate) fn put(disk: &mut [u8], sector: u64, bytes: &[u8]) -> Result<()> {
    let start = usize::try_from(sector)? * SECTOR_SIZE;
    disk.get_mut(start..start + bytes.len())
        .context("it does not fit the disk")?
        .copy_from_slice(bytes);
    Ok(())
}

/// Makes the MBR say that the whole disk is taken.
fn protect(disk: &mut [u8], sectors: u64) {
    let size = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    let mut entry = [
        0,
        0,
        2,
        0,
        PROTECTIVE_TYPE,
        0xff,
        0xff,
        0xff,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    entry[12..].copy_from_slice(&size.to_le_bytes());
    disk[MBR_ENTRY..MBR_ENTRY + 16].copy_from_slice(&entry);
    disk[MBR_ENTRY + 16..510].fill(0);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
}

/// The checksum of IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 }
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn guids_are_stored_with_three_groups_swapped() {
        assert_eq!(&BIOS_BOOT.0, b"Hah!IdontNeedEFI");
    }

    #[test]
    fn partitions_must_fit() {
        let partition = |start, count| Partition {
            kind: EFI_SYSTEM,
            id: BIOS_BOOT,
            start,
            count,
            name: "test",
        };
        let mut disk = vec![0; 1 << 20];
        assert!(write(&mut disk, BIOS_BOOT, &[partition(34, 1981)]).is_ok());
        assert_eq!(&disk[510..520], b"\x55\xaaEFI PART");
        assert_eq!(&disk[(2047 * 512)..][..8], b"EFI PART");
        assert!(write(&mut disk, BIOS_BOOT, &[partition(33, 1)]).is_err());
        assert!(write(&mut disk, BIOS_BOOT, &[partition(34, 1982)]).is_err());
    }
}
