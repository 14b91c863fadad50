//! Enumeration as kernels and firmware do it, and random configuration traffic.

use super::PciBus;
use crate::testing::Rng;
use api::device::{Device, Width};

fn select(bus: &mut PciBus, device: u32, function: u32, register: u32) {
    bus.write_address(1 << 31 | device << 11 | function << 8 | register & 0xfc);
}

fn read(bus: &mut PciBus, device: u32, function: u32, register: u32) -> u32 {
    select(bus, device, function, register);
    bus.read_data(0xcfc, Width::Dword)
}

#[test]
fn a_scan_finds_three_functions() {
    let mut bus = PciBus::new();
    let mut found = alloc::vec::Vec::new();
    for device in 0..32 {
        for function in 0..8 {
            let id = read(&mut bus, device, function, 0);
            if id != u32::MAX {
                found.push((device, function, id));
            }
        }
    }
    assert_eq!(
        found,
        [
            (0, 0, 0x1237_8086),
            (1, 0, 0x7000_8086),
            (1, 3, 0x7113_8086)
        ]
    );
    assert_eq!(read(&mut bus, 0, 0, 8) >> 16, 0x0600);
    assert_eq!(
        read(&mut bus, 1, 0, 0xc) >> 16 & 0x80,
        0x80,
        "multi-function"
    );
}

#[test]
fn linux_recognises_mechanism_1() {
    let mut bus = PciBus::new();
    bus.write_address(0x8000_0000);
    assert_eq!(bus.read_address(), 0x8000_0000);
    bus.write_address(0x8001_0000);
    assert_eq!(bus.read_data(0xcfc, Width::Dword), u32::MAX, "bus 1");
    bus.write_address(0);
    assert_eq!(bus.read_data(0xcfc, Width::Dword), u32::MAX, "not enabled");
}

#[test]
fn narrow_accesses_reach_their_bytes() {
    let mut bus = PciBus::new();
    select(&mut bus, 1, 3, 0);
    assert_eq!(bus.read_data(0xcfe, Width::Word), 0x7113);
    assert_eq!(bus.read_data(0xcff, Width::Byte), 0x71);
    select(&mut bus, 1, 0, 0x60);
    bus.write_data(0xcfd, Width::Byte, 0x0b);
    assert_eq!(bus.pirq_route(1), Some(11));
    assert_eq!(bus.pirq_route(0), None);
    assert_eq!(bus.read_data(0xcfc, Width::Dword), 0x8080_0b80);
}

#[test]
fn firmware_may_move_the_power_management_ports() {
    let mut bus = PciBus::new();
    assert_eq!(bus.pm_base(), Some(0xb000));
    select(&mut bus, 1, 3, 0x40);
    bus.write_data(0xcfc, Width::Dword, 0x0000_0601);
    assert_eq!(bus.read_data(0xcfc, Width::Dword), 0x0000_0601);
    assert_eq!(bus.pm_base(), Some(0x600));
    bus.write_data(0xcfc, Width::Dword, u32::MAX);
    assert_eq!(bus.read_data(0xcfc, Width::Dword), 0xffc1);
    select(&mut bus, 1, 3, 0x80);
    bus.write_data(0xcfc, Width::Byte, 0);
    assert_eq!(bus.pm_base(), None);
}

#[test]
fn there_are_no_base_addresses() {
    let mut bus = PciBus::new();
    for (device, function) in [(0, 0), (1, 0), (1, 3)] {
        for register in (0x10..0x38).step_by(4) {
            select(&mut bus, device, function, register);
            bus.write_data(0xcfc, Width::Dword, u32::MAX);
            assert_eq!(bus.read_data(0xcfc, Width::Dword), 0);
        }
    }
}

#[test]
fn random_traffic_never_changes_identities() {
    let mut rng = Rng::new(0x0cf8);
    let mut bus = PciBus::new();
    for step in 0..150_000 {
        let width = [Width::Byte, Width::Word, Width::Dword][rng.below(3) as usize];
        let port = 0xcfc + rng.below(4) as u16;
        match rng.below(4) {
            0 => bus.write_address(rng.next() as u32 & 0x8000_1bff | 1 << 31),
            1 => bus.write_address(rng.next() as u32),
            2 => bus.write_data(port, width, rng.next() as u32),
            _ => {
                bus.read_data(port, width);
            }
        }
        if step % 512 == 0 {
            assert_eq!(read(&mut bus, 1, 3, 0), 0x7113_8086);
            let saved = bus.save();
            let mut copy = PciBus::new();
            copy.restore(saved.clone()).unwrap();
            assert_eq!(copy.save(), saved);
        }
    }
    let mut saved = bus.save();
    saved.isa_bridge[2] = 1;
    assert!(bus.restore(saved).is_err());
}
