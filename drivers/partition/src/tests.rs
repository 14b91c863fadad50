//! Tables made by hand, damaged ones, and many at random.

use crate::gpt::crc32;
use crate::{Guid, Kind, Scheme, Slice, Table, read};
use api::block::{BlockDevice, BlockError, Buffer, Durability};
use api::fake::{FakeDisk, block_on};
use std::string::ToString;
use std::vec;
use std::vec::Vec;

const BLOCKS: u64 = 4096;

fn table(disk: &FakeDisk) -> Table {
    block_on(read(disk)).unwrap()
}

fn mbr(entries: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut sector = vec![0; 512];
    for (at, (kind, first, blocks)) in (446..).step_by(16).zip(entries) {
        sector[at + 4] = *kind;
        sector[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        sector[at + 12..at + 16].copy_from_slice(&blocks.to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// Writes a copy of a GPT with its header at `own`, entries at `at`.
fn put_gpt(disk: &FakeDisk, own: u64, at: u64, partitions: &[(u64, u64, &str)]) {
    let block = disk.geometry().logical_block as usize;
    let mut entries = vec![0; 128 * 128];
    for (entry, (first, last, name)) in entries.chunks_mut(128).zip(partitions) {
        entry[..16].copy_from_slice(b"Hah!IdontNeedEFI");
        entry[16..32].fill(7);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        for (place, unit) in entry[56..].chunks_mut(2).zip(name.encode_utf16()) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
    }
    for (lba, bytes) in (at..).zip(entries.chunks(block)) {
        let mut whole = vec![0; block];
        whole[..bytes.len()].copy_from_slice(bytes);
        disk.put(lba, &whole);
    }
    let mut header = vec![0; block];
    header[..8].copy_from_slice(b"EFI PART");
    header[8..12].copy_from_slice(&0x1_0000_u32.to_le_bytes());
    header[12..16].copy_from_slice(&92_u32.to_le_bytes());
    for (place, value) in [(24, own), (40, 34), (48, BLOCKS - 34), (72, at)] {
        header[place..place + 8].copy_from_slice(&value.to_le_bytes());
    }
    header[80..84].copy_from_slice(&128_u32.to_le_bytes());
    header[84..88].copy_from_slice(&128_u32.to_le_bytes());
    header[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
    let sum = crc32(&header[..92]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    disk.put(own, &header);
}

fn gpt_disk(partitions: &[(u64, u64, &str)]) -> FakeDisk {
    let disk = FakeDisk::new(512, BLOCKS);
    disk.put(0, &mbr(&[(0xee, 1, 4095)]));
    put_gpt(&disk, 1, 2, partitions);
    put_gpt(&disk, BLOCKS - 1, BLOCKS - 33, partitions);
    disk
}

#[test]
fn an_empty_disk_has_no_table() {
    assert_eq!(table(&FakeDisk::new(512, BLOCKS)), Table::NONE);
    assert_eq!(table(&FakeDisk::new(4096, 1)), Table::NONE);
}

#[test]
fn primary_and_logical_partitions_are_found() {
    let disk = FakeDisk::new(512, BLOCKS);
    disk.put(0, &mbr(&[(0x83, 8, 100), (0x0f, 1000, 1000)]));
    disk.put(1000, &mbr(&[(0x83, 10, 50), (0x05, 100, 60)]));
    disk.put(1100, &mbr(&[(0x07, 5, 20)]));
    let found = table(&disk);
    assert_eq!(found.scheme, Scheme::Mbr);
    let places: Vec<_> = found
        .partitions
        .iter()
        .map(|p| (p.number, p.first, p.blocks, p.kind))
        .collect();
    let expected = [
        (1, 8, 100, Kind::Mbr(0x83)),
        (5, 1010, 50, Kind::Mbr(0x83)),
        (6, 1105, 20, Kind::Mbr(0x07)),
    ];
    assert_eq!(places, expected);
}

#[test]
fn a_chain_that_is_a_ring_ends() {
    let disk = FakeDisk::new(512, BLOCKS);
    disk.put(0, &mbr(&[(0x05, 1000, 1000)]));
    disk.put(1000, &mbr(&[(0x83, 10, 5), (0x05, 100, 60)]));
    disk.put(1100, &mbr(&[(0x83, 10, 5), (0x05, 0, 60)]));
    assert_eq!(table(&disk).partitions.len(), 2);
}

#[test]
fn tables_that_break_rules_count_as_none() {
    for entries in [
        [(0x83, 8, 100), (0x83, 107, 10)],
        [(0x83, 8, 100), (0x83, 4000, 97)],
        [(0x83, 0, 100), (0, 0, 0)],
    ] {
        let disk = FakeDisk::new(512, BLOCKS);
        disk.put(0, &mbr(&entries));
        assert_eq!(table(&disk), Table::NONE, "{entries:?}");
    }
    // The first sector of a FAT file system: the signature, and code where entries would be.
    let mut sector = mbr(&[(0x83, 8, 100)]);
    sector[446] = 0x31;
    let disk = FakeDisk::new(512, BLOCKS);
    disk.put(0, &sector);
    assert_eq!(table(&disk), Table::NONE);
}

#[test]
fn a_gpt_is_read_with_names_and_identifiers() {
    let disk = gpt_disk(&[(40, 99, "boot"), (100, 3000, "Daten\u{1F4BE}")]);
    let found = table(&disk);
    assert_eq!((found.scheme, found.from_backup), (Scheme::Gpt, false));
    let second = &found.partitions[1];
    assert_eq!((second.number, second.first, second.blocks), (2, 100, 2901));
    assert_eq!(second.name, "Daten\u{1F4BE}");
    assert_eq!(second.kind, Kind::Gpt(Guid(*b"Hah!IdontNeedEFI")));
    let guid = Guid(*b"Hah!IdontNeedEFI").to_string();
    assert_eq!(guid, "21686148-6449-6e6f-744e-656564454649");
}

#[test]
fn a_gpt_with_blocks_of_4096_bytes_is_read() {
    let disk = FakeDisk::new(4096, BLOCKS);
    let mut first = mbr(&[(0xee, 1, 4095)]);
    first.resize(4096, 0);
    disk.put(0, &first);
    put_gpt(&disk, 1, 2, &[(40, 99, "a")]);
    assert_eq!(table(&disk).partitions.len(), 1);
}

#[test]
fn the_second_copy_serves_when_the_first_is_damaged() {
    for damaged in [1, 2] {
        let disk = gpt_disk(&[(40, 99, "a")]);
        let mut block = disk.block(damaged).to_vec();
        block[57] ^= 1;
        disk.put(damaged, &block);
        let found = table(&disk);
        assert!(found.from_backup && found.partitions.len() == 1);
        let mut block = disk.block(BLOCKS - 1).to_vec();
        block[41] ^= 1;
        disk.put(BLOCKS - 1, &block);
        assert_eq!(table(&disk), Table::NONE);
    }
}

#[test]
fn gpt_partitions_that_overlap_or_leave_the_disk_are_refused() {
    for bad in [
        [(40, 99, ""), (99, 120, "")],
        [(40, 99, ""), (3000, BLOCKS, "")],
        [(33, 99, ""), (200, 300, "")],
        [(99, 40, ""), (200, 300, "")],
    ] {
        assert_eq!(table(&gpt_disk(&bad)), Table::NONE, "{bad:?}");
    }
}

#[test]
fn a_slice_reaches_its_own_blocks_and_no_others() {
    let disk = gpt_disk(&[(100, 199, "a")]);
    let slice = Slice::of(&disk, &table(&disk).partitions[0]);
    assert_eq!(slice.geometry().blocks, 100);
    let write = |lba, len| {
        let buffer = Buffer::copied_from(&vec![9; len]);
        block_on(slice.write(lba, buffer, Durability::Fua)).1
    };
    assert_eq!(write(0, 512), Ok(()));
    assert_eq!(write(98, 1024), Ok(()));
    assert_eq!(write(99, 1024), Err(BlockError::Invalid));
    assert_eq!(write(u64::MAX, 512), Err(BlockError::Invalid));
    assert_eq!(block_on(slice.discard(50, 51)), Err(BlockError::Invalid));
    assert_eq!(disk.block(100)[0], 9);
    assert_eq!((disk.block(198)[0], disk.block(199)[0]), (9, 9));
    assert_eq!((disk.block(99)[0], disk.block(200)[0]), (0, 0));
}

/// A generator that is the same everywhere (Marsaglia's xorshift).
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn whatever_stands_on_a_disk_is_read_without_harm() {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for round in 0..1000 {
        let disk = match round % 3 {
            0 => gpt_disk(&[(40, 99, "a"), (100, 3000, "b")]),
            1 => FakeDisk::new(512, 1 + next(&mut state) % 64),
            _ => {
                let disk = FakeDisk::new(512, BLOCKS);
                disk.put(0, &mbr(&[(0x83, 8, 100), (0x0f, 1000, 1000)]));
                disk.put(1000, &mbr(&[(0x83, 10, 50), (0x05, 100, 60)]));
                disk
            }
        };
        for _ in 0..next(&mut state) % 6 {
            let targets = [0, 1, 2, 1000, disk.geometry().blocks - 1];
            let lba = targets[next(&mut state) as usize % 5].min(disk.geometry().blocks - 1);
            let mut block = disk.block(lba).to_vec();
            for _ in 0..next(&mut state) % 8 {
                let interesting = [446, 450, 454, 458, 510, 511, 12, 16, 40, 72, 80, 84];
                let at = match next(&mut state) % 2 {
                    0 => interesting[next(&mut state) as usize % interesting.len()],
                    _ => next(&mut state) as usize % 512,
                };
                block[at] = next(&mut state) as u8;
            }
            if next(&mut state).is_multiple_of(2) && block.starts_with(b"EFI PART") {
                // A header whose own checksum is right, whatever else it says.
                block[16..20].fill(0);
                let sum = crc32(&block[..92]);
                block[16..20].copy_from_slice(&sum.to_le_bytes());
            }
            disk.put(lba, &block);
        }
        for partition in table(&disk).partitions {
            let end = partition.first.checked_add(partition.blocks).unwrap();
            assert!(partition.blocks > 0 && end <= disk.geometry().blocks);
        }
    }
}
