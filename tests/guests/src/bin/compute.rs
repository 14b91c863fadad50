//! `compute`: how long code takes that gives a hypervisor no reason to step in.
//!
//! It prints `compute NAME TICKS` for arithmetic and for loads over 16 MiB of memory. Run bare and in a hypervisor on
//! the same machine, the figures should be the same.
#![no_std]
#![no_main]

use guests::multiboot::Info;
use guests::{cpu, power, println};

guests::guest_main!(main);

/// Steps of the arithmetic loop.
const STEPS: u64 = 100_000_000;
/// Memory that is walked, and how often.
const WALK_START: u32 = 0x100_0000;
const WALK_SIZE: u32 = 0x100_0000;
const WALK_STRIDE: u32 = 64;
const WALK_ROUNDS: u32 = 40;
/// What the guest ends with.
const STATUS_DONE: u32 = 0;

fn main(_: &Info) -> ! {
    arithmetic(STEPS / 100);
    println!("compute arithmetic {}", ticks(|| arithmetic(STEPS)));
    walk();
    let rounds = || (0..WALK_ROUNDS).for_each(|_| walk());
    println!("compute memory {}", ticks(rounds));
    println!("done");
    power::exit(STATUS_DONE)
}

fn ticks(work: impl FnOnce()) -> u64 {
    let start = cpu::rdtsc();
    work();
    cpu::rdtsc() - start
}

fn arithmetic(steps: u64) {
    let mut value: u64 = 1;
    for step in 0..steps {
        value = value.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(step);
        cpu::keep();
    }
    core::hint::black_box(value);
}

fn walk() {
    let mut sum: u32 = 0;
    for offset in (0..WALK_SIZE).step_by(WALK_STRIDE as usize) {
        sum = sum.wrapping_add(cpu::read32(WALK_START + offset));
    }
    core::hint::black_box(sum);
}
