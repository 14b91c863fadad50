//! Registers that a monitor keeps in the CPU between exits: filled, left alone while others run there, and compared.
//!
//! The general registers are not here: a guest that runs at all has them.

#![expect(unsafe_code, reason = "registers that no language construct names")]

use core::arch::asm;

use crate::cpu;

const CR4_OSXSAVE: u64 = 1 << 18;
const FEATURE_XSAVE: u32 = 1 << 26;
const FEATURE_AVX: u32 = 1 << 28;
const FEATURE_RDTSCP: u32 = 1 << 27;
const TSC_AUX: u32 = 0xc000_0103;
/// Turns of the loop between filling and comparing; other guests come in between every now and then.
const TURNS: u64 = 200_000;

/// The contents of the registers that one instruction block fills and reads.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(32))]
struct Vectors {
    ymm: [[u64; 4]; 16],
    mm: [u64; 8],
    mxcsr: u32,
}

impl Vectors {
    fn patterned(seed: u64, wide: bool) -> Self {
        let word = |n: usize| (seed << 56 | n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut vectors = Self::zero();
        for (index, register) in vectors.ymm.iter_mut().enumerate() {
            let count = if wide { 4 } else { 2 };
            for (part, slot) in register.iter_mut().take(count).enumerate() {
                *slot = word(index * 4 + part);
            }
        }
        for (index, slot) in vectors.mm.iter_mut().enumerate() {
            *slot = word(100 + index);
        }
        // All exceptions masked, rounding by the seed.
        vectors.mxcsr = 0x1f80 | (seed as u32 & 3) << 13;
        vectors
    }

    const fn zero() -> Self {
        Self {
            ymm: [[0; 4]; 16],
            mm: [0; 8],
            mxcsr: 0,
        }
    }
}

/// Fills the registers with patterns of `seed` and compares them, over and over until the TSC is at `end`; returns the
/// rounds, or what was lost. Odd seeds use AVX where there is any, even ones leave it off.
pub fn hold(seed: u64, end: u64) -> Result<u64, &'static str> {
    let features = cpu::cpuid(1, 0).ecx;
    let has_xsave = features & FEATURE_XSAVE != 0;
    let wide = seed & 1 == 1 && has_xsave && features & FEATURE_AVX != 0;
    let xcr0 = if wide { 7 } else { 3 };
    let has_aux = cpu::cpuid(0x8000_0001, 0).edx & FEATURE_RDTSCP != 0;
    if has_xsave {
        set_xcr0(xcr0);
    }
    if has_aux {
        cpu::wrmsr(TSC_AUX, seed);
    }
    let breakpoints = [1, 2, 3, 4].map(|n| seed << 32 | n);
    set_debug_registers(breakpoints);
    let wanted = Vectors::patterned(seed, wide);
    let mut rounds = 0;
    while cpu::rdtsc() < end {
        let mut found = Vectors::zero();
        if wide {
            through_ymm(&wanted, &mut found);
        } else {
            through_xmm(&wanted, &mut found);
        }
        let complaint = match () {
            () if found.mm != wanted.mm => "mm",
            () if found.mxcsr != wanted.mxcsr => "mxcsr",
            () if found.ymm != wanted.ymm => "vector",
            () if debug_registers() != breakpoints => "debug",
            () if has_xsave && get_xcr0() != xcr0 => "xcr0",
            () if has_aux && rdtscp_aux() != seed as u32 => "tsc_aux",
            () => {
                rounds += 1;
                continue;
            }
        };
        return Err(complaint);
    }
    Ok(rounds)
}

/// Makes a function that loads all registers from one place, waits, and stores them to another.
macro_rules! through {
    ($name:ident, $move:literal, $register:literal) => {
        fn $name(from: &Vectors, to: &mut Vectors) {
            // SAFETY: the block reads `from`, writes `to`, and names all that it changes; EMMS leaves the x87 unit as
            // compiled code expects it, and MXCSR gets its usual value back.
            unsafe {
                asm!(
                    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                    concat!($move, " ", $register, "\\n, [{from} + 32*\\n]"),
                    ".endr",
                    ".irp n, 0,1,2,3,4,5,6,7",
                    "movq mm\\n, [{from} + 512 + 8*\\n]",
                    ".endr",
                    "ldmxcsr [{from} + 576]",
                    "2:",
                    "dec {turns}",
                    "jnz 2b",
                    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
                    concat!($move, " [{to} + 32*\\n], ", $register, "\\n"),
                    ".endr",
                    ".irp n, 0,1,2,3,4,5,6,7",
                    "movq [{to} + 512 + 8*\\n], mm\\n",
                    ".endr",
                    "stmxcsr [{to} + 576]",
                    "emms",
                    "mov dword ptr [{usual}], 0x1f80",
                    "ldmxcsr [{usual}]",
                    from = in(reg) from,
                    to = in(reg) to,
                    turns = inout(reg) TURNS => _,
                    usual = in(reg) &mut 0_u32,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    out("mm0") _, out("mm1") _, out("mm2") _, out("mm3") _,
                    out("mm4") _, out("mm5") _, out("mm6") _, out("mm7") _,
                    options(nostack),
                );
            }
        }
    };
}

through!(through_xmm, "movups", "xmm");
through!(through_ymm, "vmovups", "ymm");

fn set_xcr0(value: u64) {
    // SAFETY: the CPU has XSAVE, and the value is x87 and SSE with or without AVX, which it has as well.
    unsafe {
        asm!("mov {t}, cr4", "or {t}, {bit}", "mov cr4, {t}", "xsetbv",
            t = out(reg) _, bit = const CR4_OSXSAVE, in("ecx") 0, in("eax") value as u32, in("edx") 0,
            options(nomem, nostack));
    }
}

fn get_xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: `set_xcr0` turned OSXSAVE on.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

fn set_debug_registers(values: [u64; 4]) {
    let [a, b, c, d] = values;
    // SAFETY: addresses alone do nothing: DR7 enables none of them.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) a, in(reg) b, in(reg) c, in(reg) d,
            options(nomem, nostack, preserves_flags));
    }
}

fn debug_registers() -> [u64; 4] {
    let (a, b, c, d);
    // SAFETY: reading has no effect.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", out(reg) a, out(reg) b, out(reg) c,
            out(reg) d, options(nomem, nostack, preserves_flags));
    }
    [a, b, c, d]
}

fn rdtscp_aux() -> u32 {
    let aux;
    // SAFETY: the CPU has RDTSCP, which only reads.
    unsafe {
        asm!("rdtscp", out("eax") _, out("edx") _, out("ecx") aux, options(nomem, nostack, preserves_flags));
    }
    aux
}
