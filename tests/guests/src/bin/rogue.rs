//! `rogue`: one kind of misbehaviour per run, named by a word of the command line.
//!
//! What a monitor owes to each is written beside it; the table of tests holds it to that. Random misbehaviour is the
//! guest `fuzz`.
#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    reason = "misbehaviour is a matter of single instructions"
)]

use core::arch::asm;

use guests::multiboot::Info;
use guests::random::Random;
use guests::{cpu, interrupts, lapic, power, println};

guests::guest_main!(main);

/// Physical addresses where a PC of a few hundred MiB has nothing, below the devices that end the first 4 GiB.
const HOLES: [u32; 4] = [0x8000_0000, 0xb123_4560, 0xd000_0000, 0xfd00_0ff8];
/// Vector of the interrupts that are sent.
const VECTOR: u8 = 0x40;
/// Interrupts that the storm waits for.
const STORM_SIZE: u64 = 20_000;
/// Line and vector of the 8254's first counter.
const PIT_LINE: u8 = 0;
/// Bytes that `wild` executes.
const WILD_SIZE: usize = 1 << 16;
/// Exceptions after which `wild` has done enough.
const WILD_FAULTS: u64 = 5_000;
/// What a guest ends with that found what it expected.
const STATUS_GOOD: u32 = 0;
/// What a guest ends with that found something else.
const STATUS_BAD: u32 = 1;

fn main(info: &Info) -> ! {
    let mut words = info.command_line().split_ascii_whitespace();
    for word in words.by_ref() {
        match word {
            "triple-fault" => triple_fault(),
            "jump-nowhere" => jump(HOLES[2]),
            "unbacked" => unbacked(),
            "lost-tables" => lost_tables(),
            "storm" => storm(Some(STORM_SIZE)),
            "storm-forever" => storm(None),
            "spin" => spin(),
            "hog" => hog(),
            "pause" => pause(),
            "exits" => exits(),
            "past-timer" => past_timer(),
            "flood" => flood(),
            "reset-forever" => reset(),
            "wild" => wild(words.next().and_then(|seed| seed.parse().ok()).unwrap_or(1)),
            _ => {}
        }
    }
    println!("rogue: no misbehaviour was asked for");
    power::exit(STATUS_BAD)
}

/// An exception that nothing can take: the CPU shuts down (APM Vol. 2, 8.2.9), and the VM ends with a record.
fn triple_fault() -> ! {
    println!("rogue: triple fault");
    cpu::load_empty_interrupt_table();
    // SAFETY: there is no way back, which is the point.
    unsafe { asm!("int3", options(noreturn)) }
}

/// A jump to where no memory is. A PC's bus would float; a monitor may stop the VM for it.
fn jump(address: u32) -> ! {
    println!("rogue: jumping to {address:#x}");
    // SAFETY: there is no way back, which is the point.
    unsafe { asm!("jmp {}", in(reg) u64::from(address), options(noreturn)) }
}

/// Reads and writes where no memory is: reads give all ones, writes go nowhere.
fn unbacked() -> ! {
    for hole in HOLES {
        let before = cpu::read32(hole);
        cpu::write32(hole, 0x1234_5678);
        let after = cpu::read32(hole);
        println!("rogue: {hole:#x} reads {before:#x} and {after:#x}");
        if (before, after) != (u32::MAX, u32::MAX) {
            power::exit(STATUS_BAD);
        }
    }
    let popped: u64;
    // SAFETY: interrupts are off, and the stack pointer is put back before anything else uses it.
    unsafe {
        asm!(
            "mov {saved}, rsp",
            "mov rsp, {hole}",
            "push rsp",
            "pop {popped}",
            "mov rsp, {saved}",
            saved = out(reg) _,
            hole = in(reg) u64::from(HOLES[2]),
            popped = out(reg) popped,
        );
    }
    println!("rogue: a stack there gives {popped:#x}");
    let good = popped == u64::MAX;
    power::exit(if good { STATUS_GOOD } else { STATUS_BAD })
}

/// Page tables where no memory is: nothing can be fetched any more, not even the way to a handler.
fn lost_tables() -> ! {
    println!("rogue: page tables at {:#x}", HOLES[2]);
    // SAFETY: there is no way back, which is the point.
    unsafe { asm!("mov cr3, {}", "ud2", in(reg) u64::from(HOLES[2]), options(noreturn)) }
}

/// Interrupts from three sources as fast as they come; ends after `size` of them, or never.
fn storm(size: Option<u64>) -> ! {
    println!("rogue: storm");
    interrupts::silence_after(size.unwrap_or(u64::MAX));
    lapic::enable();
    // Counter 0, both bytes, mode 2 (8254 data sheet): the fastest it can divide by is 2.
    cpu::out8(0x43, 0x34);
    cpu::out8(0x40, 2);
    cpu::out8(0x40, 0);
    interrupts::unmask_pic_line(PIT_LINE);
    lapic::start_periodic_timer(VECTOR);
    cpu::enable_interrupts();
    while size.is_none_or(|size| interrupts::taken() < size) {
        lapic::send_self_xapic(VECTOR);
    }
    println!("rogue: storm is over");
    power::exit(STATUS_GOOD)
}

/// Keeps the CPU and listens to nothing.
fn spin() -> ! {
    println!("rogue: spinning");
    cpu::disable_interrupts();
    loop {
        core::hint::spin_loop();
    }
}

/// Keeps the CPU without telling it so.
fn hog() -> ! {
    println!("rogue: computing");
    loop {
        core::hint::black_box(0);
    }
}

/// Says that it waits for somebody, for ever.
fn pause() -> ! {
    println!("rogue: pausing");
    cpu::disable_interrupts();
    loop {
        // SAFETY: a hint to the CPU.
        unsafe { asm!("pause", options(nomem, nostack)) }
    }
}

/// Leaves the guest as often as it can.
fn exits() -> ! {
    println!("rogue: exiting");
    loop {
        cpu::cpuid(0, 0);
    }
}

/// Sets its timer to a time that has passed, again and again.
fn past_timer() -> ! {
    println!("rogue: past timer");
    interrupts::silence_after(u64::MAX);
    lapic::enable();
    lapic::use_deadline_timer(VECTOR);
    cpu::enable_interrupts();
    loop {
        cpu::wrmsr(lapic::MSR_TSC_DEADLINE, 1);
    }
}

/// Prints for ever.
fn flood() -> ! {
    for line in 0_u64.. {
        println!("rogue: line {line} of no end");
    }
    cpu::halt_forever()
}

/// Resets the machine as soon as it has started.
fn reset() -> ! {
    cpu::out8(0xcf9, 6);
    cpu::halt_forever()
}

/// Executes random bytes with all rights; goes on elsewhere among them after each exception. Whatever it does to its
/// own machine is its own affair; the host must not notice.
fn wild(seed: u64) -> ! {
    println!("rogue: wild {seed}");
    let mut random = Random::new(seed);
    let code = cpu::scratch_memory(0x80_0000, WILD_SIZE);
    for byte in code.iter_mut() {
        *byte = random.word() as u8;
    }
    let start = code.as_ptr() as u64;
    loop {
        if (0..32).map(interrupts::count).sum::<u64>() > WILD_FAULTS {
            println!("rogue: wild is tired");
            power::exit(STATUS_GOOD);
        }
        let offset = u64::from(random.below(WILD_SIZE as u32));
        // Whatever comes of it is not the result.
        let _ = cpu::try_call(start + offset);
    }
}
