//! Single instructions that Rust has no word for.
//!
//! All of it is callable from safe code: a guest owns its machine, and whatever it breaks is its own. Instructions
//! that may be refused return the exception instead of raising it.
#![expect(unsafe_code, reason = "each function is one privileged instruction")]

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, CpuidResult};

use crate::interrupts::{self, Fault};

/// CR0.WP, the write-protection of supervisor code (APM Vol. 2, 3.1.1).
pub const CR0_WP: u64 = 1 << 16;

/// Reads the time-stamp counter after everything before it.
#[inline(always)]
pub fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: LFENCE and RDTSC read; CR4.TSD does not matter at CPL 0.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Executes CPUID.
#[inline(always)]
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    __cpuid_count(leaf, subleaf)
}

/// Reads a byte from an I/O port.
#[inline(always)]
pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: the guest owns every port of its machine.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// Writes a byte to an I/O port.
#[inline(always)]
pub fn out8(port: u16, value: u8) {
    // SAFETY: the guest owns every port of its machine.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
    };
}

/// Reads two bytes from an I/O port.
#[inline(always)]
pub fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: the guest owns every port of its machine.
    unsafe {
        asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// Writes two bytes to an I/O port.
#[inline(always)]
pub fn out16(port: u16, value: u16) {
    // SAFETY: the guest owns every port of its machine.
    unsafe {
        asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags))
    };
}

/// Reads four bytes from an I/O port.
#[inline(always)]
pub fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: the guest owns every port of its machine.
    unsafe {
        asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// Writes four bytes to an I/O port.
#[inline(always)]
pub fn out32(port: u16, value: u32) {
    // SAFETY: the guest owns every port of its machine.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags))
    };
}

/// Reads a model-specific register that exists.
#[inline(always)]
pub fn rdmsr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: a register that does not exist raises #GP, which ends the guest with a report.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register that exists and takes this value.
#[inline(always)]
pub fn wrmsr(register: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the guest owns its CPU; a refused value raises #GP, which ends the guest with a report.
    unsafe { asm!("wrmsr", in("ecx") register, in("eax") low, in("edx") high, options(nostack)) };
}

/// Executes VMMCALL with a number that means nothing; returns what came back in RAX.
#[inline(always)]
pub fn vmmcall(number: u64) -> u64 {
    let mut value = number;
    // SAFETY: a hypervisor may change RAX only; where there is none, #UD ends the guest with a report.
    unsafe { asm!("vmmcall", inout("rax") value, options(nostack)) };
    value
}

/// Executes VMMCALL where it may not exist.
///
/// # Errors
/// The exception, where there is no hypervisor or it knows no hypercalls.
pub fn try_vmmcall(number: u64) -> Result<u64, Fault> {
    let mut value = number;
    // SAFETY: an exception resumes at the label; a hypervisor may change RAX only.
    unsafe {
        asm!(
            "lea {resume}, [rip + 2f]",
            "mov qword ptr [rip + {place}], {resume}",
            "vmmcall",
            "2:",
            resume = out(reg) _,
            place = sym interrupts::RESUME,
            inout("rax") value,
            options(nostack)
        );
    }
    interrupts::take_fault().map(|()| value)
}

/// Reads a model-specific register that may not exist.
///
/// # Errors
/// The exception, where it does not.
pub fn try_rdmsr(register: u32) -> Result<u64, Fault> {
    let (low, high): (u32, u32);
    // SAFETY: an exception resumes at the label.
    unsafe {
        asm!(
            "lea {resume}, [rip + 2f]",
            "mov qword ptr [rip + {place}], {resume}",
            "rdmsr",
            "2:",
            resume = out(reg) _,
            place = sym interrupts::RESUME,
            in("ecx") register,
            out("eax") low,
            out("edx") high,
            options(nostack)
        );
    }
    interrupts::take_fault().map(|()| u64::from(high) << 32 | u64::from(low))
}

/// Writes a model-specific register that may not exist or may refuse the value.
///
/// # Errors
/// The exception, where it does.
pub fn try_wrmsr(register: u32, value: u64) -> Result<(), Fault> {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: an exception resumes at the label; what the value does is the guest's own affair.
    unsafe {
        asm!(
            "lea {resume}, [rip + 2f]",
            "mov qword ptr [rip + {place}], {resume}",
            "wrmsr",
            "2:",
            resume = out(reg) _,
            place = sym interrupts::RESUME,
            in("ecx") register,
            in("eax") low,
            in("edx") high,
            options(nostack)
        );
    }
    interrupts::take_fault()
}

/// Reads CR0.
#[inline(always)]
pub fn cr0() -> u64 {
    let value;
    // SAFETY: reading a control register has no effect.
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes CR0.
#[inline(always)]
pub fn set_cr0(value: u64) {
    // SAFETY: callers change WP only, and no page here is read-only.
    unsafe { asm!("mov cr0, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Lets interrupts in.
#[inline(always)]
pub fn enable_interrupts() {
    // SAFETY: every vector has a handler once `multiboot::start` has run.
    unsafe { asm!("sti", options(nostack)) };
}

/// Keeps interrupts out.
#[inline(always)]
pub fn disable_interrupts() {
    // SAFETY: this only delays handlers.
    unsafe { asm!("cli", options(nostack)) };
}

/// Lets interrupts in and sleeps until one came; none is lost in between, for STI takes effect one instruction late.
#[inline(always)]
pub fn enable_interrupts_and_halt() {
    // SAFETY: as `enable_interrupts`.
    unsafe { asm!("sti", "hlt", options(nostack)) };
}

/// Stops for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: only an NMI or SMI ends HLT with interrupts off, and the loop goes on then.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Takes the compiler's view of a value away, so that a loop around it stays a loop.
#[inline(always)]
pub fn keep() {
    // SAFETY: there is no instruction.
    unsafe { asm!("", options(nostack)) };
}

/// Reads a 32-bit device register or table field at a physical address below 4 GiB.
#[inline(always)]
pub fn read32(address: u32) -> u32 {
    let value;
    // SAFETY: the first 4 GiB are mapped one to one; unbacked memory reads as the machine says.
    unsafe {
        asm!("mov {0:e}, [{1}]", out(reg) value, in(reg) u64::from(address), options(nostack, preserves_flags))
    };
    value
}

/// Writes a 32-bit device register at a physical address below 4 GiB.
#[inline(always)]
pub fn write32(address: u32, value: u32) {
    // SAFETY: the first 4 GiB are mapped one to one, and callers write to devices and free memory only.
    unsafe {
        asm!("mov [{1}], {0:e}", in(reg) value, in(reg) u64::from(address), options(nostack, preserves_flags))
    };
}

/// Reads a byte at a physical address below 4 GiB.
#[inline(always)]
pub fn read8(address: u32) -> u8 {
    let value;
    // SAFETY: as `read32`.
    unsafe {
        asm!("mov {0}, [{1}]", out(reg_byte) value, in(reg) u64::from(address), options(nostack, preserves_flags))
    };
    value
}
