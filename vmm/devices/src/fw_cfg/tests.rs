//! Both interfaces as firmware and test suites use them, and random transfers.

use super::{FwCfg, FwCfgError, key};
use crate::testing::{Bench, Rng};
use addr::Gpa;
use alloc::borrow::Cow;
use alloc::vec::Vec;
use api::device::Device;
use api::memory::GuestMemory;

fn read(device: &mut FwCfg, key: u16, len: usize) -> Vec<u8> {
    device.select(key);
    (0..len).map(|_| device.read_data()).collect()
}

/// Runs one transfer with its structure at 100h and returns the control field afterwards.
fn transfer(device: &mut FwCfg, bench: &mut Bench, control: u32, length: u32, target: u64) -> u32 {
    let at = Gpa::new(0x100).unwrap();
    let mut structure = Vec::new();
    structure.extend_from_slice(&control.to_be_bytes());
    structure.extend_from_slice(&length.to_be_bytes());
    structure.extend_from_slice(&target.to_be_bytes());
    bench.memory.write(at, &structure).unwrap();
    device.write_dma(true, 0, &mut bench.cx());
    device.write_dma(false, 0x100_u32.swap_bytes(), &mut bench.cx());
    let mut control = [0; 4];
    bench.memory.read(at, &mut control).unwrap();
    u32::from_be_bytes(control)
}

#[test]
fn the_signature_says_qemu_with_dma() {
    let mut device = FwCfg::new();
    assert_eq!(read(&mut device, 0, 6), b"QEMU\0\0");
    assert_eq!(read(&mut device, 1, 4), [3, 0, 0, 0]);
    assert_eq!(device.read_dma(true).to_le_bytes(), *b"QEMU");
    assert_eq!(device.read_dma(false).to_le_bytes(), *b" CFG");
    assert_eq!(read(&mut device, 0x77, 2), [0, 0], "unknown keys are empty");
}

#[test]
fn numbers_are_little_endian() {
    let mut device = FwCfg::new();
    device.set_u16(key::NB_CPUS, 0x0102);
    device.set_u32(key::KERNEL_SIZE, 0x0102_0304);
    device.set_u64(key::RAM_SIZE, 512 << 20);
    device.set_u64(key::RAM_SIZE, 256 << 20);
    assert_eq!(read(&mut device, 5, 2), [2, 1]);
    assert_eq!(read(&mut device, 8, 4), [4, 3, 2, 1]);
    assert_eq!(read(&mut device, 3, 8), (256_u64 << 20).to_le_bytes());
}

#[test]
fn files_are_found_through_the_directory() {
    let mut device = FwCfg::new();
    assert_eq!(read(&mut device, 0x19, 4), [0; 4]);
    device.add_file("etc/e820", Cow::Borrowed(b"map")).unwrap();
    let second = device
        .add_file("bootorder", Cow::Owned(b"/rom\0".to_vec()))
        .unwrap();
    let directory = read(&mut device, 0x19, 4 + 2 * 64);
    assert_eq!(directory[..4], [0, 0, 0, 2]);
    assert_eq!(directory[4..12], [0, 0, 0, 3, 0, 0x20, 0, 0]);
    assert_eq!(&directory[12..21], b"etc/e820\0");
    assert_eq!(directory[68..76], [0, 0, 0, 5, 0, 0x21, 0, 0]);
    assert_eq!(read(&mut device, second, 5), b"/rom\0");
}

#[test]
fn unusable_files_are_refused() {
    let mut device = FwCfg::new();
    let empty = || Cow::Borrowed(&[][..]);
    assert_eq!(device.add_file("", empty()), Err(FwCfgError::Name));
    let long = "x".repeat(56);
    assert_eq!(device.add_file(&long, empty()), Err(FwCfgError::Name));
    assert!(device.add_file(&long[1..], empty()).is_ok());
    assert_eq!(device.add_file(&long[1..], empty()), Err(FwCfgError::Name));
    for number in 0..63 {
        let name = alloc::format!("file{number}");
        assert!(device.add_file(&name, empty()).is_ok());
    }
    assert_eq!(device.add_file("one more", empty()), Err(FwCfgError::Full));
}

#[test]
fn dma_selects_reads_and_skips() {
    let mut bench = Bench::with_memory(0x4_0000);
    let mut device = FwCfg::new();
    let at = Gpa::new(0x1000).unwrap();
    bench.memory.write(at, &[0x55; 16]).unwrap();
    let kernel: Vec<u8> = (0..100).collect();
    device.set(key::KERNEL_DATA, Cow::Owned(kernel)).unwrap();
    assert_eq!(transfer(&mut device, &mut bench, 0x11 << 16 | 8, 0, 0), 0);
    assert_eq!(transfer(&mut device, &mut bench, 4, 90, 0), 0);
    assert_eq!(transfer(&mut device, &mut bench, 2, 8, 0x1000), 0);
    let mut got = [0; 16];
    bench.memory.read(at, &mut got).unwrap();
    assert_eq!(got[..9], [90, 91, 92, 93, 94, 95, 96, 97, 0x55]);
    assert_eq!(transfer(&mut device, &mut bench, 2, 6, 0x1000), 0);
    bench.memory.read(at, &mut got).unwrap();
    assert_eq!(got[..7], [98, 99, 0, 0, 0, 0, 96], "zeroes past the end");
}

#[test]
fn bad_transfers_set_the_error_bit() {
    let mut bench = Bench::with_memory(0x4_0000);
    let mut device = FwCfg::new();
    for (control, length, target) in [
        (2, 4, 0x4_0000),
        (2, 4, u64::MAX),
        (2, u32::MAX, 0x1000),
        (16, 4, 0x1000),
    ] {
        let result = transfer(&mut device, &mut bench, control, length, target);
        assert_eq!(result, 1, "{control:#x} {length:#x} {target:#x}");
    }
    device.write_dma(true, u32::MAX, &mut bench.cx());
    device.write_dma(false, u32::MAX, &mut bench.cx());
}

#[test]
fn random_transfers_stay_inside() {
    let mut rng = Rng::new(0x510);
    let mut bench = Bench::with_memory(0x2000);
    let mut device = FwCfg::new();
    device
        .add_file("a", Cow::Owned(alloc::vec![7; 1000]))
        .unwrap();
    for step in 0..100_000 {
        match rng.below(4) {
            0 => device.select(rng.next() as u16 & 0x3f),
            1 => {
                device.read_data();
            }
            _ => {
                let key = rng.below(0x40) as u32;
                let control = key << 16 | rng.below(32) as u32;
                let magnitude = rng.below(32);
                let length = (rng.next() as u32) >> magnitude;
                transfer(&mut device, &mut bench, control, length, rng.below(0x3000));
            }
        }
        if step % 1024 == 0 {
            let saved = device.save();
            device.reset();
            device.restore(saved).unwrap();
            assert_eq!(device.save(), saved);
        }
    }
    let mut saved = device.save();
    saved.selected = 0x4000;
    assert!(device.restore(saved).is_err());
}
