//! Tables as firmware writes them, and damaged ones.

use super::{AcpiError, Physical, Platform, Processor, find_s5, sum};
use alloc::vec;
use alloc::vec::Vec;

struct Memory(Vec<u8>);

impl Physical for Memory {
    fn read(&mut self, address: u64, buf: &mut [u8]) -> bool {
        let start = address as usize;
        match self.0.get(start..start.saturating_add(buf.len())) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}

fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut t = vec![0; 36];
    t[..4].copy_from_slice(signature);
    t.extend_from_slice(body);
    let len = t.len() as u32;
    t[4..8].copy_from_slice(&len.to_le_bytes());
    t[9] = 0_u8.wrapping_sub(sum(&t));
    t
}

/// Memory with a root pointer at E0000h, an RSDT and a MADT of two CPUs and an I/O APIC.
fn memory() -> Memory {
    let mut madt = vec![0; 8];
    madt[..4].copy_from_slice(&0xfee0_0000_u32.to_le_bytes());
    madt.extend_from_slice(&[0, 8, 0, 0, 1, 0, 0, 0]);
    madt.extend_from_slice(&[0, 8, 1, 4, 1, 0, 0, 0]);
    madt.extend_from_slice(&[0, 8, 2, 5, 0, 0, 0, 0]);
    madt.extend_from_slice(&[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    madt.extend_from_slice(&[2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    let mut bytes = vec![0; 0x10_0000];
    let mut put = |at: usize, data: &[u8]| bytes[at..at + data.len()].copy_from_slice(data);
    put(0x2000, &table(b"APIC", &madt));
    put(0x1000, &table(b"RSDT", &0x2000_u32.to_le_bytes()));
    let mut root = *b"RSD PTR \0BASALT\0\x00\x10\0\0";
    root[8] = 0_u8.wrapping_sub(sum(&root));
    put(0xe_0000, &root);
    Memory(bytes)
}

#[test]
fn the_root_is_found_and_only_enabled_cpus_are_listed() {
    let platform = Platform::read(&mut memory(), None).unwrap();
    let ids: Vec<_> = platform.processors.iter().map(|p| p.apic_id).collect();
    assert_eq!(ids, [0, 4]);
    assert_eq!(platform.io_apics[0].address, 0xfec0_0000);
    assert_eq!(platform.isa_route(0).gsi, 2);
    assert_eq!(platform.isa_route(4).gsi, 4);
    assert_eq!(
        platform.processors[0],
        Processor {
            apic_id: 0,
            domain: 0
        }
    );
}

#[test]
fn a_missing_root_or_madt_is_named() {
    assert_eq!(
        Platform::read(&mut Memory(vec![0; 4096]), None),
        Err(AcpiError::NoRoot)
    );
    let mut memory = memory();
    memory.0[0x2005] ^= 0xff;
    assert_eq!(
        Platform::read(&mut memory, None),
        Err(AcpiError::Missing("MADT"))
    );
}

#[test]
fn s5_is_read_in_both_encodings() {
    assert_eq!(
        find_s5(b"\x08_S5_\x12\x06\x04\x00\x00\x00\x00"),
        Some((0, 0))
    );
    assert_eq!(
        find_s5(b"\x08_S5_\x12\x07\x02\x0a\x05\x0a\x07"),
        Some((5, 7))
    );
    assert_eq!(find_s5(b"_S5_\x12"), None);
}

#[test]
fn s5_may_stand_in_a_secondary_table() {
    let mut memory = memory();
    let mut put = |at: usize, data: &[u8]| memory.0[at..at + data.len()].copy_from_slice(data);
    let mut fadt = vec![0; 96];
    fadt[4..8].copy_from_slice(&0x4000_u32.to_le_bytes());
    let tables = [0x2000_u32, 0x3000, 0x5000, 0x6000];
    put(
        0x1000,
        &table(b"RSDT", tables.map(u32::to_le_bytes).as_flattened()),
    );
    put(0x3000, &table(b"FACP", &fadt));
    put(0x4000, &table(b"DSDT", b"nothing about sleep"));
    put(0x5000, &table(b"SSDT", b"nor here"));
    put(
        0x6000,
        &table(b"SSDT", b"\x08_S5_\x12\x07\x02\x0a\x05\x0a\x07"),
    );
    let platform = Platform::read(&mut memory, None).unwrap();
    assert_eq!(platform.power.s5, Some((5, 7)));
}

#[test]
fn random_damage_never_panics_or_hangs() {
    let mut seed = 0x1234_5678_9abc_def1_u64;
    for _ in 0..2_000 {
        let mut memory = memory();
        for _ in 0..6 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = if seed & 1 == 0 { 0x1000 } else { 0x2000 } + (seed >> 8) as usize % 100;
            memory.0[at] = (seed >> 32) as u8;
        }
        // The sums are made good again, so that the damage is looked at.
        for at in [0x1000_usize, 0x2000] {
            let len = u32::from_le_bytes(memory.0[at + 4..at + 8].try_into().unwrap()) as usize;
            if let Some(bytes) = memory
                .0
                .get_mut(at..at.saturating_add(len))
                .filter(|b| b.len() > 36)
            {
                bytes[9] = bytes[9].wrapping_sub(sum(bytes));
            }
        }
        let _ = Platform::read(&mut memory, None);
    }
}
