//! `count`: a guest that works without a pause and tells how far it got when it is asked, so that its share of a CPU can
//! be measured from outside.
//!
//! Each byte of input is answered by a line: `work B N M AT T B;`, with that byte, the rounds of the first CPU and of the
//! second, and the TSC. With the word `smp` on its command line the second CPU counts too.
#![no_std]
#![no_main]

use guests::multiboot::Info;
use guests::{cpu, lapic, println, serial};

guests::guest_main!(main);

/// Steps of a round, between two looks at the input.
const STEPS: u64 = 2_000;
/// Where the second CPU starts, a page below 1 MiB, and where it counts.
const START_PAGE: u8 = 8;
const COUNTER: u32 = 0x9000;
/// Its code, in real mode: `inc dword ptr cs:[1000h]`, and once more.
const CODE: [u8; 8] = [0x2e, 0x66, 0xff, 0x06, 0x00, 0x10, 0xeb, 0xf8];

fn main(info: &Info) -> ! {
    println!("count: at work");
    if info
        .command_line()
        .split_ascii_whitespace()
        .any(|word| word == "smp")
    {
        start_second();
    }
    serial::enable_input();
    cpu::enable_interrupts();
    let mut rounds = 0_u64;
    let mut value = 1_u64;
    loop {
        for _ in 0..STEPS {
            value = core::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005) ^ rounds);
        }
        rounds += 1;
        if let Some(byte) = serial::try_read() {
            let second = cpu::read32(COUNTER);
            let now = cpu::rdtsc();
            println!("work {0} {rounds} {second} AT {now} {0};", char::from(byte));
        }
    }
}

/// Puts the second CPU's code in its place and starts it (SDM vol. 3, 9.4.4).
fn start_second() {
    let code = u32::from(START_PAGE) << 12;
    cpu::write32(COUNTER, 0);
    for (word, bytes) in (0_u32..).zip(CODE.chunks_exact(4)) {
        let value = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        cpu::write32(code + 4 * word, value);
    }
    lapic::enable();
    lapic::start_others(START_PAGE);
}
