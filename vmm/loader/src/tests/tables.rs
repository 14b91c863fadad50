//! The firmware tables, read back as a guest would.

use super::{Guest, machine, request, start};
use crate::tests::files::bzimage;
use crate::{Request, VCPUS_MAX};
use alloc::vec::Vec;

fn guest(vcpus: u32) -> Guest {
    let kernel = bzimage(64, 1);
    start(&Request {
        machine: machine(vcpus),
        ..request(&kernel)
    })
    .unwrap()
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, b| sum.wrapping_add(*b))
}

/// Reads the table at `at` and checks its sum.
fn table(guest: &Guest, at: u64) -> Vec<u8> {
    let len = guest.u32(at + 4) as usize;
    let bytes = guest.bytes(at, len);
    assert_eq!(sum(&bytes), 0, "checksum of the table at {at:#x}");
    bytes
}

/// Finds the tables that the XSDT lists.
fn listed(guest: &Guest) -> Vec<Vec<u8>> {
    let rsdp = guest.loaded.rsdp.as_u64();
    assert_eq!(guest.bytes(rsdp, 8), b"RSD PTR ");
    assert_eq!(sum(&guest.bytes(rsdp, 20)), 0);
    assert_eq!(sum(&guest.bytes(rsdp, 36)), 0);
    let rsdt = table(guest, u64::from(guest.u32(rsdp + 16)));
    let xsdt = table(guest, guest.u64(rsdp + 24));
    let long = xsdt[36..]
        .chunks(8)
        .map(|c| u64::from_le_bytes(c.try_into().unwrap()));
    let short = rsdt[36..]
        .chunks(4)
        .map(|c| u32::from_le_bytes(c.try_into().unwrap()));
    let long: Vec<u64> = long.collect();
    assert_eq!(long, short.map(u64::from).collect::<Vec<_>>());
    long.into_iter().map(|at| table(guest, at)).collect()
}

fn find(tables: &[Vec<u8>], signature: &[u8]) -> Vec<u8> {
    tables
        .iter()
        .find(|t| t.starts_with(signature))
        .unwrap()
        .clone()
}

#[test]
fn the_fadt_names_the_power_management_ports() {
    let guest = guest(1);
    let fadt = find(&listed(&guest), b"FACP");
    let word = |at: usize| u32::from_le_bytes(fadt[at..at + 4].try_into().unwrap());
    assert_eq!(fadt.len(), 276);
    assert_eq!(guest.bytes(u64::from(word(36)), 4), b"FACS");
    assert_eq!(word(36) % 64, 0);
    assert_eq!(&table(&guest, u64::from(word(40)))[..4], b"DSDT");
    assert_eq!(fadt[46..48], [9, 0]);
    assert_eq!(word(48), 0xb2);
    assert_eq!(fadt[52..54], [0xf1, 0xf0]);
    assert_eq!((word(56), word(64), word(76)), (0xb000, 0xb004, 0xb008));
    assert_eq!(word(112) & 1 << 10, 1 << 10);
    assert_eq!(
        fadt[116..129],
        [1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0, 6]
    );
    assert_eq!(
        fadt[109], 5,
        "no keyboard controller, no vga, legacy devices"
    );
}

#[test]
fn the_madt_lists_every_processor_once() {
    for vcpus in [1, 2, 255, 256, VCPUS_MAX] {
        let madt = find(&listed(&guest(vcpus)), b"APIC");
        let mut ids = Vec::new();
        let mut rest = &madt[44..];
        while let [kind, len, ..] = *rest {
            match kind {
                0 => ids.push(u32::from(rest[3])),
                9 => ids.push(u32::from_le_bytes(rest[4..8].try_into().unwrap())),
                1 => assert_eq!(rest[4..8], 0xfec0_0000u32.to_le_bytes()),
                2 if rest[3] == 9 => assert_eq!(rest[4..10], [9, 0, 0, 0, 0x0d, 0]),
                _ => {}
            }
            rest = &rest[usize::from(len)..];
        }
        assert!(rest.is_empty());
        assert_eq!(ids, (0..vcpus).collect::<Vec<_>>());
    }
}

#[test]
fn the_mp_table_is_whole_and_absent_beyond_255_processors() {
    let small = guest(255);
    assert_eq!(small.bytes(0xf_0040, 4), b"_MP_");
    assert_eq!(sum(&small.bytes(0xf_0040, 16)), 0);
    let at = u64::from(small.u32(0xf_0044));
    let len = usize::try_from(small.u32(at + 4) & 0xffff).unwrap();
    let bytes = small.bytes(at, len);
    assert_eq!(sum(&bytes), 0);
    let count = u16::from_le_bytes(bytes[34..36].try_into().unwrap());
    let mut rest = &bytes[44..];
    for _ in 0..count {
        rest = &rest[if rest[0] == 0 { 20 } else { 8 }..];
    }
    assert!(rest.is_empty());
    assert_eq!(guest(256).u32(0xf_0040), 0);
}

#[test]
fn the_bios_data_area_describes_conventional_memory() {
    let guest = guest(1);
    assert_eq!(guest.bytes(0x40e, 2), [0xc0, 0x9f]);
    assert_eq!(guest.bytes(0x413, 2), [0x7f, 0x02]);
}

/// Writes the tables to the folder that `BASALT_DUMP_ACPI` names, for a look with an AML disassembler.
#[test]
fn tables_can_be_dumped() {
    extern crate std;
    let Ok(folder) = std::env::var("BASALT_DUMP_ACPI") else {
        return;
    };
    let guest = guest(4);
    let fadt = find(&listed(&guest), b"FACP");
    let dsdt = u32::from_le_bytes(fadt[40..44].try_into().unwrap());
    let mut all = listed(&guest);
    all.push(table(&guest, u64::from(dsdt)));
    for table in all {
        let name = core::str::from_utf8(&table[..4]).unwrap();
        std::fs::write(std::format!("{folder}/{name}.dat"), &table).unwrap();
    }
}
