//! `fuzz`: random actions with a fixed seed, of the kind that the command line names: `ports`, `msrs`, `mmio`,
//! `opcodes`, then how many, then the seed.
//!
//! It spares only what would end the guest by right: resets, power off, INIT to itself, DMA into its own memory. After
//! that it must still be alive and say so; that nothing else was disturbed is for the one who runs it to see.
#![no_std]
#![no_main]

use guests::multiboot::Info;
use guests::random::Random;
use guests::{acpi, cpu, interrupts, lapic, power, println, serial, user};

guests::guest_main!(main);

/// Actions between two reports.
const REPORT_EVERY: u32 = 50_000;
/// What a guest ends with that is still alive.
const STATUS_DONE: u32 = 0;
/// What it ends with when it was not told what to do.
const STATUS_USAGE: u32 = 1;

/// Ranges of MSRs that some CPU has something in, or a hypervisor pretends to.
const MSRS: [(u32, u32); 13] = [
    (0x0, 0x200),
    (0x200, 0x80),
    (0x277, 1),
    (0x2ff, 1),
    (0x380, 0x20),
    (0x400, 0x100),
    (0x560, 0x40),
    (0x6e0, 1),
    (0x800, 0x100),
    (0xda0, 1),
    (0xc000_0080, 0x90),
    (0xc001_0000, 0x200),
    (0xc001_1000, 0x80),
];
/// MSRs by which hypervisors put pages of theirs over guest memory: they are read only.
const HYPERVISOR_MSRS: [(u32, u32); 2] = [(0x4000_0000, 0x200), (0x4b56_4d00, 0x10)];
/// APIC_BASE: moving the registers over this code would be suicide.
const MSR_APIC_BASE: u32 = 0x1b;
const APIC_BASE_ADDRESS: u64 = !0xfff;
/// Interrupt command register in x2APIC mode.
const MSR_X2APIC_COMMAND: u32 = 0x830;

/// Pages with devices, with none, and with read-only memory.
const PAGES: [u32; 12] = [
    0xfee0_0000,
    0xfee0_0000,
    0xfec0_0000,
    0xfec0_0000,
    0xfed0_0000,
    0xff00_0000,
    0xd000_0000,
    0x000a_0000,
    0x000b_8000,
    0x000c_8000,
    0xfffc_0000,
    0xffff_f000,
];
const LAPIC_PAGE: u32 = 0xfee0_0000;
/// Offsets of the local APIC's command register, with the widest access that touches it.
const LAPIC_COMMAND: core::ops::Range<u32> = 0x2f0..0x310;

/// One random action.
type Action = fn(&mut Random);

fn main(info: &Info) -> ! {
    let mut words = info.command_line().split_ascii_whitespace();
    let kinds: [(&str, Action); 4] = [
        ("ports", port),
        ("msrs", msr),
        ("mmio", mmio),
        ("opcodes", opcodes),
    ];
    let Some((name, action)) = words.find_map(|word| kinds.into_iter().find(|kind| kind.0 == word))
    else {
        println!("fuzz: say ports, msrs, mmio or opcodes");
        power::exit(STATUS_USAGE);
    };
    let count = words
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(1000);
    let seed = words.next().and_then(|word| word.parse().ok()).unwrap_or(1);
    println!("fuzz: {count} {name}, seed {seed}");
    cpu::disable_interrupts();
    interrupts::ignore_nmi();
    let mut random = Random::new(seed);
    for index in 1..=count {
        action(&mut random);
        if index % REPORT_EVERY == 0 {
            serial::init();
            println!("fuzz: {index}");
        }
    }
    // The port may have been written to as well.
    serial::init();
    println!("fuzz: done");
    power::exit(STATUS_DONE)
}

/// One access to a random port, of random width, now and then a string of them.
fn port(random: &mut Random) {
    // Half of them where devices are, the rest anywhere.
    let port = match random.below(4) {
        0 => random.below(0x1_0000) as u16,
        1 => random.below(0x100) as u16,
        2 => {
            random.pick(&[
                0x2e8, 0x2f8, 0x3c0, 0x3d0, 0x3f0, 0x4d0, 0x510, 0x600, 0xcf8, 0x2000,
            ]) + random.below(16) as u16
        }
        _ => random.below(0x400) as u16,
    };
    let value = random.value() as u32;
    match random.below(9) {
        0 => drop(cpu::in8(port)),
        1 => drop(cpu::in16(port)),
        2 => drop(cpu::in32(port)),
        3 => cpu::in_string(port, random.below(16) as usize),
        4 if may_write(port, 1, value) => cpu::out8(port, value as u8),
        5 if may_write(port, 2, value) => cpu::out16(port, value as u16),
        6 if may_write(port, 4, value) => cpu::out32(port, value),
        7 if may_write(port, 1, 0xff) => cpu::out_string(port, random.below(16) as usize),
        _ => configuration(random, value),
    }
}

/// Whether a write does not end this machine by right.
fn may_write(port: u16, width: u16, value: u32) -> bool {
    let touches = |from: u16, size: u16| port < from + size && from < port.saturating_add(width);
    let power = acpi::fixed().map_or(0, |fixed| fixed.pm1a_control);
    // Debug exit, system control A, reset control, and the DMA port of fw_cfg.
    if touches(0xf4, 4) || touches(0x92, 1) || touches(0xcf8, 8) || touches(0x514, 8) {
        return false;
    }
    if touches(power, 2) {
        return false;
    }
    // The keyboard controller's commands that pulse or write its output port, whose bit 0 is the CPU's reset.
    let command = value.to_le_bytes()[usize::from(0x64u16.wrapping_sub(port) & 3)];
    !(touches(0x64, 1) && (command >= 0xf0 || command == 0xd1))
}

/// A read or write of PCI configuration space by mechanism 1.
fn configuration(random: &mut Random, value: u32) {
    let function = random.below(0x20);
    let register = random.below(0x40) * 4;
    cpu::out32(0xcf8, 0x8000_0000 | function << 8 | register);
    let power_management = register >= 0x40;
    if random.below(2) == 0 || power_management {
        cpu::in32(0xcfc);
    } else {
        cpu::out32(0xcfc, value);
    }
}

/// One read or write of a random MSR.
fn msr(random: &mut Random) {
    if random.below(8) == 0 {
        let (first, count) = random.pick(&HYPERVISOR_MSRS);
        let _ = cpu::try_rdmsr(first + random.below(count));
        return;
    }
    let register = if random.below(16) == 0 {
        random.word() as u32
    } else {
        let (first, count) = random.pick(&MSRS);
        first + random.below(count)
    };
    let read = cpu::try_rdmsr(register);
    let mut value = match (random.below(3), read) {
        // What is there with one bit changed is what most gets past the checks.
        (0, Ok(old)) => old ^ 1 << random.below(64),
        _ => random.value(),
    };
    if register == MSR_APIC_BASE {
        let old = read.unwrap_or(0);
        value = value & !APIC_BASE_ADDRESS | old & APIC_BASE_ADDRESS;
    }
    if HYPERVISOR_MSRS
        .iter()
        .any(|(first, count)| (*first..first + count).contains(&register))
    {
        return;
    }
    if register == MSR_X2APIC_COMMAND && lapic::is_init_or_start(value as u32) {
        return;
    }
    let _ = cpu::try_wrmsr(register, value);
}

/// One access to a page that is not ordinary memory, by one of many instructions.
fn mmio(random: &mut Random) {
    let page = random.pick(&PAGES);
    let offset = match random.below(3) {
        0 => random.below(0x1000),
        1 => random.below(0x100) * 16,
        _ => random.below(0x40),
    };
    let value = random.value();
    let commands = page == LAPIC_PAGE && LAPIC_COMMAND.contains(&offset);
    let form = if commands {
        // A plain 32-bit store is the one access whose value is known beforehand.
        if lapic::is_init_or_start(value as u32) || offset % 16 != 0 {
            return;
        }
        1
    } else {
        random.below(cpu::MEMORY_FORMS)
    };
    cpu::access_memory(form, page + offset.min(0xfe0), value);
}

/// Random bytes executed without rights, with pointers to devices and holes in the registers.
fn opcodes(random: &mut Random) {
    user::run_random(random);
}
