//! DR0 to DR3, which neither VMRUN nor VM entry switches.

use core::arch::asm;

/// Returns DR0 to DR3.
#[must_use]
pub(crate) fn addresses() -> [u64; 4] {
    let (a, b, c, d): (u64, u64, u64, u64);
    // SAFETY: reading debug registers at CPL 0 with DR7.GD clear has no side effect.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", out(reg) a, out(reg) b, out(reg) c,
            out(reg) d, options(nomem, nostack, preserves_flags));
    };
    [a, b, c, d]
}

/// Loads DR0 to DR3. The host never enables them: each exit clears DR7's enables.
pub(crate) fn load_addresses(values: &[u64; 4]) {
    let [a, b, c, d] = *values;
    // SAFETY: addresses alone do nothing while DR7 enables none of them.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) a, in(reg) b, in(reg) c, in(reg) d,
            options(nomem, nostack, preserves_flags));
    };
}

/// Returns DR6.
#[must_use]
pub(crate) fn status() -> u64 {
    let value;
    // SAFETY: as in `addresses`.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Loads DR6, of which the host makes no use.
pub(crate) fn load_status(value: u64) {
    // The reserved upper half must be zero, or the CPU refuses.
    let value = value & 0xffff_ffff;
    // SAFETY: a status register has no effect.
    unsafe { asm!("mov dr6, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}
