//! `demo`: a guest with a prompt on its serial port, to see a machine at work where no other guest is at hand.
//!
//! It sleeps while nobody types. Half of its commands show the machine, the other half misbehave on request.
#![no_std]
#![no_main]

use guests::multiboot::Info;
use guests::{acpi, cmos, cpu, power, print, println, serial, state};

guests::guest_main!(main);

/// The longest line that is read.
const LINE_SIZE_MAX: usize = 80;
/// Frequency of the ACPI timer, in Hz.
const PM_TIMER_HZ: u64 = 3_579_545;
/// How long the TSC is measured against it, in its ticks.
const CALIBRATION_TICKS: u32 = 35_795;

/// Names of the commands and what they do.
const COMMANDS: [(&str, &str); 11] = [
    ("help", "shows this list"),
    ("cpuid", "shows the processor"),
    ("mem", "shows the memory map"),
    ("time", "shows the clock and the TSC's frequency"),
    ("echo TEXT", "prints the text"),
    ("spin", "computes for two seconds"),
    (
        "hold N",
        "fills all registers by the number N and watches them for ten seconds",
    ),
    (
        "write N",
        "writes to N pages, one after the other, for five seconds",
    ),
    ("hang", "stops with interrupts off"),
    ("reboot", "resets the machine"),
    ("poweroff", "switches the machine off"),
];

fn main(info: &Info) -> ! {
    println!("demo: a tiny guest. `help` shows what it can do.");
    serial::enable_input();
    let mut buffer = [0; LINE_SIZE_MAX];
    loop {
        print!("demo> ");
        let line = read_line(&mut buffer);
        run(line.trim(), info);
    }
}

/// Reads a line with echo and backspace.
fn read_line(buffer: &mut [u8; LINE_SIZE_MAX]) -> &str {
    let mut size = 0;
    loop {
        match serial::read() {
            b'\r' | b'\n' => break,
            0x08 | 0x7f if size > 0 => {
                size -= 1;
                print!("\x08 \x08");
            }
            byte @ b' '..=b'~' if size < LINE_SIZE_MAX => {
                buffer[size] = byte;
                size += 1;
                serial::write(byte);
            }
            _ => {}
        }
    }
    println!();
    // Only printable ASCII was let in.
    core::str::from_utf8(&buffer[..size]).unwrap_or("")
}

fn run(line: &str, info: &Info) {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "" => {}
        "help" => help(),
        "cpuid" => show_processor(),
        "mem" => show_memory(info),
        "time" => show_time(),
        "echo" => println!("{rest}"),
        "spin" => spin(),
        "hold" => hold(rest),
        "write" => write(rest),
        "hang" => {
            println!("good night");
            cpu::halt_forever();
        }
        "reboot" => power::reset(),
        "poweroff" => {
            println!("bye");
            power::off();
        }
        _ => println!("there is no command {word}; `help` lists them"),
    }
}

fn help() {
    for (name, purpose) in COMMANDS {
        println!("  {name:<10} {purpose}");
    }
}

fn show_processor() {
    let vendor = cpu::cpuid(0, 0);
    print!("vendor     ");
    for word in [vendor.ebx, vendor.edx, vendor.ecx] {
        print_ascii(word);
    }
    println!();
    let features = cpu::cpuid(1, 0);
    println!("signature  {:#010x}", features.eax);
    println!(
        "features   ecx {:#010x} edx {:#010x}",
        features.ecx, features.edx
    );
    if features.ecx >> 31 == 1 {
        let hypervisor = cpu::cpuid(0x4000_0000, 0);
        print!("hypervisor ");
        for word in [hypervisor.ebx, hypervisor.ecx, hypervisor.edx] {
            print_ascii(word);
        }
        println!();
    }
}

fn print_ascii(word: u32) {
    for byte in word
        .to_le_bytes()
        .into_iter()
        .filter(|byte| (b' '..=b'~').contains(byte))
    {
        serial::write(byte);
    }
}

fn show_memory(info: &Info) {
    for region in info.memory_map() {
        let kind = match region.kind {
            1 => "RAM",
            2 => "reserved",
            3 => "ACPI tables",
            4 => "ACPI storage",
            _ => "other",
        };
        println!(
            "  {:#012x}..{:#012x} {kind}",
            region.start,
            region.start.wrapping_add(region.size)
        );
    }
}

fn show_time() {
    let cmos::Time {
        date: (year, month, day),
        time: (hour, minute, second),
    } = cmos::now();
    println!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}");
    match tsc_hz() {
        Some(hz) => println!("TSC {} kHz", hz / 1000),
        None => println!("there is no ACPI timer to measure the TSC against"),
    }
}

/// Measures the TSC against the ACPI timer for ten milliseconds.
fn tsc_hz() -> Option<u64> {
    let port = acpi::fixed()?.pm_timer;
    let first = cpu::in32(port);
    let start = cpu::rdtsc();
    loop {
        // The counter has 24 bits that can be relied on.
        let ticks = cpu::in32(port).wrapping_sub(first) & 0xff_ffff;
        if ticks >= CALIBRATION_TICKS {
            return Some((cpu::rdtsc() - start) * PM_TIMER_HZ / u64::from(ticks));
        }
    }
}

/// Watches registers that other guests on the same CPU use as well.
fn hold(seed: &str) {
    let (Ok(seed), Some(hz)) = (seed.trim().parse::<u8>(), tsc_hz()) else {
        println!("`hold` wants a number up to 255 and a machine with an ACPI timer");
        return;
    };
    match state::hold(u64::from(seed), cpu::rdtsc() + 10 * hz) {
        Ok(rounds) => println!("all registers held for {rounds} rounds"),
        Err(lost) => println!("LOST: {lost} registers"),
    }
}

/// Writes a byte of each of some pages, a round every 10 ms.
fn write(count: &str) {
    const FIRST: u32 = 32 << 20;
    const PAGE: usize = 4096;
    const PAGES_MAX: usize = 4096;
    let (Ok(count @ 1..=PAGES_MAX), Some(hz)) = (count.trim().parse::<usize>(), tsc_hz()) else {
        println!(
            "`write` wants a number of pages up to {PAGES_MAX} and a machine with an ACPI timer"
        );
        return;
    };
    let pages = cpu::scratch_memory(FIRST, count * PAGE);
    let mut rounds = 0_u64;
    let end = cpu::rdtsc() + 5 * hz;
    while cpu::rdtsc() < end {
        let next = cpu::rdtsc() + hz / 100;
        for byte in pages.iter_mut().step_by(PAGE) {
            *byte = byte.wrapping_add(1);
        }
        rounds += 1;
        while cpu::rdtsc() < next {}
    }
    println!("{count} pages, {rounds} times");
}

fn spin() {
    let Some(hz) = tsc_hz() else {
        println!("there is no ACPI timer to measure the TSC against");
        return;
    };
    let end = cpu::rdtsc() + 2 * hz;
    let mut rounds = 0u64;
    while cpu::rdtsc() < end {
        rounds += 1;
    }
    println!("{rounds} rounds");
}
