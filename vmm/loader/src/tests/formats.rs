//! Each boot protocol with a small kernel, and each way a file can be wrong.

use super::files::{bzimage, elf32, elf64, multiboot};
use super::{RAM, machine, request, start};
use crate::{CpuMode, Format, LoadError, Module, RamMap, Request};
use alloc::string::ToString;
use alloc::vec;
use api::cpu::{gpr, segment};

#[test]
fn a_bzimage_starts_at_its_64_bit_entry_with_a_zero_page() {
    let mut kernel = bzimage(5000, 1);
    kernel[1024 + 0x200] = 0xf4;
    let initrd = vec![0x5a; 10_000];
    let guest = start(&Request {
        initrd: Some(&initrd),
        ..request(&kernel)
    })
    .unwrap();
    let cpu = &guest.loaded.cpu;
    assert_eq!(guest.loaded.format, Format::LinuxBzImage64);
    assert_eq!(cpu.mode, CpuMode::Long64);
    assert_eq!(cpu.registers.rip, 0x100_0200);
    assert_eq!(guest.bytes(cpu.registers.rip, 1), [0xf4]);
    assert_eq!(cpu.registers.segments[segment::CS].selector, 0x10);
    assert_eq!(cpu.registers.segments[segment::SS].selector, 0x18);
    let zero_page = cpu.registers.gpr[gpr::RSI];
    assert_eq!(guest.bytes(zero_page + 0x202, 4), b"HdrS");
    assert_eq!(guest.bytes(zero_page + 0x210, 1), [0xff]);
    assert_eq!(guest.u32(zero_page + 0x214), 0x100_0000);
    assert_eq!(
        guest.string(u64::from(guest.u32(zero_page + 0x228))),
        "console=ttyS0 quiet"
    );
    let initrd_at = u64::from(guest.u32(zero_page + 0x218));
    assert_eq!(guest.u32(zero_page + 0x21c), 10_000);
    assert_eq!(initrd_at, RAM - 3 * 4096);
    assert_eq!(guest.bytes(initrd_at, 10_000), initrd);
    assert_eq!(guest.u64(zero_page + 0x70), guest.loaded.rsdp.as_u64());
    assert_eq!(guest.bytes(zero_page + 0x1e8, 1), [4]);
    assert_eq!(guest.u64(zero_page + 0x2d0 + 60), 1 << 20);
    assert_eq!(guest.u64(zero_page + 0x2d0 + 68), RAM - (1 << 20));
}

#[test]
fn a_relocatable_bzimage_moves_down_when_its_place_is_not_ram() {
    let kernel = bzimage(5000, 1);
    let mut request = request(&kernel);
    request.machine.ram = RamMap::new(8 << 20).unwrap();
    let guest = start(&request).unwrap();
    assert_eq!(guest.loaded.cpu.registers.rip, 0x20_0200);
    request.machine.ram = RamMap::new(4 << 20).unwrap();
    assert!(matches!(
        start(&request).err(),
        Some(LoadError::KernelOutsideRam { .. })
    ));
}

#[test]
fn a_bzimage_without_64_bit_entry_starts_in_protected_mode() {
    let kernel = bzimage(64, 0);
    let guest = start(&request(&kernel)).unwrap();
    assert_eq!(guest.loaded.format, Format::LinuxBzImage32);
    assert_eq!(guest.loaded.cpu.mode, CpuMode::Protected32);
    assert_eq!(guest.loaded.cpu.registers.rip, 0x100_0000);
}

#[test]
fn a_bzimage_says_what_is_wrong_with_it() {
    let error = |kernel: &[u8]| start(&request(kernel)).err().unwrap();
    let mut kernel = bzimage(5000, 1);
    kernel.truncate(3000);
    assert_eq!(
        error(&kernel),
        LoadError::Truncated {
            format: Format::LinuxBzImage64,
            needed: 1024 + 5008 - 15,
            len: 3000
        }
    );
    assert!(matches!(
        error(&bzimage(64, 1)[..0x210]),
        LoadError::Truncated { .. }
    ));
    let mut kernel = bzimage(64, 1);
    kernel[0x206] = 5;
    kernel[0x207] = 2;
    assert_eq!(
        error(&kernel),
        LoadError::OldProtocol { major: 2, minor: 5 }
    );
    let mut kernel = bzimage(64, 1);
    kernel[0x211] = 0;
    assert!(matches!(error(&kernel), LoadError::Header { .. }));
}

#[test]
fn linux_refuses_modules_long_command_lines_and_large_initrds() {
    let kernel = bzimage(64, 1);
    let base = request(&kernel);
    let modules = [Module {
        command_line: "m",
        data: &[1],
    }];
    assert!(matches!(
        start(&Request {
            modules: &modules,
            ..base
        })
        .err(),
        Some(LoadError::ModulesUnsupported { .. })
    ));
    let long = "x".repeat(256);
    assert_eq!(
        start(&Request {
            command_line: &long,
            ..base
        })
        .err(),
        Some(LoadError::CommandLineTooLong { len: 256, max: 255 })
    );
    let initrd = vec![0; 33 << 20];
    let error = start(&Request {
        initrd: Some(&initrd),
        ..base
    })
    .err()
    .unwrap();
    assert!(matches!(
        error,
        LoadError::DoesNotFit {
            what: "the initrd",
            ..
        }
    ));
    assert!(error.to_string().contains("more memory"));
}

#[test]
fn a_pvh_kernel_gets_its_start_info() {
    let code = [0xf4; 100];
    let kernel = elf64(
        0xffff_ffff_8100_0000,
        &[(0x100_0000, 0xffff_ffff_8100_0000, &code, 0x5000)],
        &[],
        Some(0x100_0010),
    );
    let modules = [Module {
        command_line: "second",
        data: b"two",
    }];
    let guest = start(&Request {
        initrd: Some(b"one"),
        modules: &modules,
        ..request(&kernel)
    })
    .unwrap();
    let cpu = &guest.loaded.cpu;
    assert_eq!(guest.loaded.format, Format::Pvh);
    assert_eq!(
        (cpu.mode, cpu.registers.rip),
        (CpuMode::Protected32, 0x100_0010)
    );
    let info = cpu.registers.gpr[gpr::RBX];
    assert_eq!(guest.u32(info), 0x336e_c578);
    assert_eq!(guest.u32(info + 4), 1);
    assert_eq!(guest.u32(info + 12), 2);
    assert_eq!(guest.string(guest.u64(info + 24)), "console=ttyS0 quiet");
    assert_eq!(guest.u64(info + 32), guest.loaded.rsdp.as_u64());
    assert_eq!(guest.u32(info + 48), 4);
    assert_eq!(guest.u64(guest.u64(info + 40) + 3 * 24), 1 << 20);
    let list = guest.u64(info + 16);
    assert_eq!(guest.bytes(guest.u64(list), 3), b"one");
    assert_eq!(guest.bytes(guest.u64(list + 32), 3), b"two");
    assert_eq!(guest.string(guest.u64(list + 48)), "second");
}

#[test]
fn an_uncompressed_linux_without_note_starts_by_the_64_bit_protocol() {
    let code = [0xf4; 100];
    let kernel = elf64(
        0x100_0000,
        &[(0x100_0000, 0xffff_ffff_8100_0000, &code, 0x5000)],
        &[],
        None,
    );
    let guest = start(&request(&kernel)).unwrap();
    assert_eq!(guest.loaded.format, Format::LinuxElf64);
    assert_eq!(guest.loaded.cpu.registers.rip, 0x100_0000);
    let zero_page = guest.loaded.cpu.registers.gpr[gpr::RSI];
    assert_eq!(guest.bytes(zero_page + 0x202, 4), b"HdrS");
}

#[test]
fn a_multiboot_elf_gets_its_information() {
    let kernel = elf32(0x40_0010, 0x40_0000, &multiboot(0, &[]), 0x100, 0x10_0000);
    let modules = [Module {
        command_line: "env x",
        data: b"NR_CPUS=2\n",
    }];
    let guest = start(&Request {
        modules: &modules,
        ..request(&kernel)
    })
    .unwrap();
    let cpu = &guest.loaded.cpu;
    assert_eq!(guest.loaded.format, Format::Multiboot1);
    assert_eq!(
        (cpu.mode, cpu.registers.rip),
        (CpuMode::Protected32, 0x40_0010)
    );
    assert_eq!(cpu.registers.gpr[gpr::RAX], 0x2bad_b002);
    assert_eq!(guest.bytes(0x40_0100, 0x100), [0; 0x100]);
    let info = cpu.registers.gpr[gpr::RBX];
    let word = |at| u64::from(guest.u32(info + at));
    assert_eq!(word(0), 0x24d);
    assert_eq!((word(4), word(8)), (639, (RAM >> 10) - 1024));
    assert_eq!(guest.string(word(16)), "kernel console=ttyS0 quiet");
    assert_eq!(word(20), 1);
    let module = word(24);
    let start = u64::from(guest.u32(module));
    assert_eq!(guest.u32(module + 4) - guest.u32(module), 10);
    assert_eq!(start, 0x50_0000);
    assert_eq!(guest.bytes(start, 10), b"NR_CPUS=2\n");
    assert_eq!(guest.string(u64::from(guest.u32(module + 8))), "env x");
    assert_eq!((word(44), guest.u32(word(48))), (4 * 24, 20));
    assert_eq!(guest.string(word(64)), "Basalt");
}

#[test]
fn a_flat_multiboot_image_is_loaded_by_its_addresses() {
    // The header lies 0x20 bytes into the file, of which the first 0x10 are not loaded.
    let header = multiboot(
        0x1_0003,
        &[0x10_0010, 0x10_0000, 0x10_0100, 0x10_1000, 0x10_0040],
    );
    let mut kernel = vec![0x11; 0x200];
    kernel[0x20..0x20 + header.len()].copy_from_slice(&header);
    kernel[0x50] = 0xf4;
    let guest = start(&request(&kernel)).unwrap();
    assert_eq!(guest.loaded.cpu.registers.rip, 0x10_0040);
    assert_eq!(guest.bytes(0x10_0040, 1), [0xf4]);
    assert_eq!(guest.bytes(0x10_0100, 2), [0, 0]);
    kernel.truncate(0x60);
    assert!(matches!(
        start(&request(&kernel)).err(),
        Some(LoadError::Truncated { .. })
    ));
}

#[test]
fn multiboot_features_that_nobody_knows_are_refused() {
    let kernel = elf32(0x40_0010, 0x40_0000, &multiboot(8, &[]), 0x100, 0x1000);
    assert_eq!(
        start(&request(&kernel)).err(),
        Some(LoadError::MultibootFeatures { flags: 8 })
    );
}

#[test]
fn elf_files_that_are_no_kernels_are_refused() {
    let error = |kernel: &[u8]| start(&request(kernel)).err().unwrap();
    let code = [0xf4; 100];
    let user = elf64(0x40_0000, &[(0x40_0000, 0x40_0000, &code, 100)], &[], None);
    assert_eq!(error(&user), LoadError::NoProtocol);
    let mut arm = user.clone();
    arm[18] = 183;
    assert_eq!(
        error(&arm),
        LoadError::ForeignElf {
            machine: 183,
            kind: 2
        }
    );
    assert!(matches!(
        error(&user[..0x1010]),
        LoadError::DamagedElf { .. }
    ));
    let outside = elf64(0, &[(0xb_0000, 0, &code, 100)], &[], Some(0xb_0000));
    assert!(matches!(
        error(&outside),
        LoadError::KernelOutsideRam { .. }
    ));
    let entry = elf64(0, &[(0x10_0000, 0, &code, 100)], &[], Some(0x10_0064));
    assert_eq!(
        error(&entry),
        LoadError::EntryOutsideKernel { entry: 0x10_0064 }
    );
}

#[test]
fn files_of_no_known_format_are_named() {
    let error = |kernel: &[u8]| start(&request(kernel)).err().unwrap();
    assert_eq!(error(&[]), LoadError::Empty);
    assert_eq!(
        error(b"\x1f\x8b\x08"),
        LoadError::Compressed { method: "gzip" }
    );
    let text = error(b"#!/bin/sh").to_string();
    assert!(text.contains("[23, 21, 2f, 62]"), "{text}");
}

#[test]
fn impossible_machines_are_refused() {
    let kernel = bzimage(64, 1);
    for vcpus in [0, 1025, u32::MAX] {
        let request = Request {
            machine: machine(vcpus),
            ..request(&kernel)
        };
        assert_eq!(
            start(&request).err(),
            Some(LoadError::VcpuCount { vcpus, max: 1024 })
        );
    }
    for bytes in [0, 4096, 0x20_0001, u64::MAX] {
        assert!(matches!(RamMap::new(bytes), Err(LoadError::RamSize { .. })));
    }
}

#[test]
fn ram_beyond_the_pci_window_continues_at_4_gib() {
    let map = RamMap::new(8 << 30).unwrap();
    assert_eq!(map.low_end(), 0xe000_0000);
    assert_eq!(map.high(), 1 << 32..(1 << 32) + (9 << 29));
    assert_eq!(map.total(), 8 << 30);
    let ends: alloc::vec::Vec<u64> = map.entries().map(|e| e.start + e.len).collect();
    assert_eq!(
        ends,
        [0x9_fc00, 0xa_0000, 0x10_0000, 0xe000_0000, 0x2_2000_0000]
    );
}
