//! Turning the host off and restarting it, by the registers that ACPI names, with a PC's older ways behind.
#![expect(unsafe_code, reason = "writes the power registers")]

use crate::startup;
use crate::timer;

const SLEEP_ENABLE: u16 = 1 << 13;
const RESET_CONTROL: u16 = 0xcf9;
const KEYBOARD_COMMAND: u16 = 0x64;

/// Turns the host off; stops it where there is no way to.
pub fn power_off() -> ! {
    crate::info!("power off");
    let power = startup::platform().power;
    if let Some((a, b)) = power.s5 {
        for (port, kind) in [(power.pm1a_control, a), (power.pm1b_control, b)] {
            if port != 0 {
                // SAFETY: the FADT names the port as a PM1 control block; the value turns the machine off.
                unsafe { arch::cpu::outw(port, u16::from(kind & 7) << 10 | SLEEP_ENABLE) };
            }
        }
    }
    timer::clock().spin_nanos(100_000_000);
    crate::error!("this machine cannot turn itself off; it is safe to do it by hand");
    arch::cpu::halt_forever()
}

/// Restarts the host.
pub fn reboot() -> ! {
    crate::info!("reboot");
    if let Some((port, value)) = startup::platform().power.reset {
        // SAFETY: the FADT names the port and the value as the reset register's.
        unsafe { arch::cpu::outb(port, value) };
        timer::clock().spin_nanos(10_000_000);
    }
    for (port, value) in [
        (RESET_CONTROL, 2),
        (RESET_CONTROL, 6),
        (KEYBOARD_COMMAND, 0xfe),
    ] {
        // SAFETY: the reset ports of every PC; nothing but a reset follows.
        unsafe { arch::cpu::outb(port, value) };
        timer::clock().spin_nanos(10_000_000);
    }
    arch::cpu::halt_forever()
}
