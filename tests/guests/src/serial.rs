//! COM1: polled output, input by interrupt into a small ring.
//!
//! There is no flow control; a full ring drops what comes.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

use crate::{cpu, interrupts};

/// The interrupt line of COM1.
pub const IRQ: u8 = 4;

/// The port block of COM1 (16550 data sheet: registers 0 to 7 from here on).
const BASE: u16 = 0x3f8;
/// Line status register: a byte waits, or the transmitter has room.
const LINE_STATUS: u16 = BASE + 5;
const DATA_READY: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 0x20;

/// Bytes of input that wait for their reader.
const RING_SIZE: usize = 256;
static RING: [AtomicU8; RING_SIZE] = [const { AtomicU8::new(0) }; RING_SIZE];
/// Bytes ever put in, by the interrupt.
static WRITTEN: AtomicUsize = AtomicUsize::new(0);
/// Bytes ever taken out, by the guest's main path.
static READ: AtomicUsize = AtomicUsize::new(0);

/// Programs 115200 8N1 with FIFOs and no interrupts.
pub fn init() {
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
        cpu::out8(BASE + register, value);
    }
}

/// Lets input interrupt, through OUT2 and the first 8259.
pub fn enable_input() {
    cpu::out8(BASE + 1, 1);
    cpu::out8(BASE + 4, 0xb);
    interrupts::unmask_pic_line(IRQ);
}

/// Moves what has come into the ring.
pub(crate) fn on_interrupt() {
    // The read of the identification register acknowledges causes other than data.
    cpu::in8(BASE + 2);
    for _ in 0..RING_SIZE {
        if cpu::in8(LINE_STATUS) & DATA_READY == 0 {
            return;
        }
        let byte = cpu::in8(BASE);
        let written = WRITTEN.load(Relaxed);
        if written.wrapping_sub(READ.load(Relaxed)) < RING_SIZE {
            RING[written % RING_SIZE].store(byte, Relaxed);
            WRITTEN.store(written.wrapping_add(1), Relaxed);
        }
    }
}

/// Takes a byte of input, if there is one.
pub fn try_read() -> Option<u8> {
    let read = READ.load(Relaxed);
    if read == WRITTEN.load(Relaxed) {
        return None;
    }
    READ.store(read.wrapping_add(1), Relaxed);
    Some(RING[read % RING_SIZE].load(Relaxed))
}

/// Waits for a byte of input, asleep while there is none.
pub fn read() -> u8 {
    loop {
        cpu::disable_interrupts();
        if let Some(byte) = try_read() {
            cpu::enable_interrupts();
            return byte;
        }
        cpu::enable_interrupts_and_halt();
    }
}

/// Sends one byte.
pub fn write(byte: u8) {
    while cpu::in8(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {}
    cpu::out8(BASE, byte);
}

struct Port;

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                write(b'\r');
            }
            write(byte);
        }
        Ok(())
    }
}

/// Prints formatted text; the macro `print!` calls it.
pub fn print(arguments: fmt::Arguments<'_>) {
    // The port never refuses.
    let _ = Port.write_fmt(arguments);
}

/// Prints formatted text and ends the line; the macro `println!` calls it.
pub fn print_line(arguments: fmt::Arguments<'_>) {
    let _ = Port.write_fmt(arguments);
    let _ = Port.write_str("\n");
}
