//! The ways out of a guest.

use crate::{acpi, cpu, println};

/// The port of QEMU's isa-debug-exit, which run-guest offers too.
const DEBUG_EXIT: u16 = 0xf4;
/// PM1 control: enter the sleep state of SLP_TYP (ACPI 6.5, 4.8.3.2.1).
const SLEEP_ENABLE: u16 = 1 << 13;

/// Ends with a status where there is a test device, else switches off.
pub fn exit(status: u32) -> ! {
    cpu::out32(DEBUG_EXIT, status);
    off()
}

/// Switches the machine off.
pub fn off() -> ! {
    match acpi::fixed() {
        Some(fixed) => cpu::out16(fixed.pm1a_control, fixed.off << 10 | SLEEP_ENABLE),
        None => println!("there is no ACPI here: cannot switch off"),
    }
    cpu::halt_forever()
}

/// Resets the machine by port 0xcf9 (PIIX3 data sheet, reset control register).
pub fn reset() -> ! {
    cpu::out8(0xcf9, 2);
    cpu::out8(0xcf9, 6);
    cpu::halt_forever()
}
