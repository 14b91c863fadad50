//! Instructions that have no safe form, each in a function that states why it is sound here: CPUID, MSRs, control
//! registers, ports, halting. Knows nothing of what the values mean to the rest of the kernel.

use alloc::string::String;
use alloc::vec::Vec;
use core::arch::asm;
use spec::msr::Msr;
use spec::x86::{Cr0, Cr4, Efer};

/// The four registers that CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidResult {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Executes CPUID.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    CpuidResult {
        eax: r.eax,
        ebx: r.ebx,
        ecx: r.ecx,
        edx: r.edx,
    }
}

/// Returns the CPU's name for itself, or its maker's where it has none.
#[must_use]
pub fn brand() -> String {
    let bytes: Vec<u8> = if cpuid(0x8000_0000, 0).eax >= 0x8000_0004 {
        (0x8000_0002..=0x8000_0004)
            .flat_map(|leaf| registers(cpuid(leaf, 0)))
            .collect()
    } else {
        let r = cpuid(0, 0);
        [r.ebx, r.edx, r.ecx]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect()
    };
    String::from_utf8_lossy(&bytes)
        .trim_matches(['\0', ' '])
        .into()
}

/// Tells whether a hypervisor runs below, by the CPUID bit that is kept for it (APM vol. 3, appendix E.3.2).
#[must_use]
pub fn is_guest() -> bool {
    cpuid(1, 0).ecx & 1 << 31 != 0
}

fn registers(r: CpuidResult) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (chunk, value) in bytes.chunks_exact_mut(4).zip([r.eax, r.ebx, r.ecx, r.edx]) {
        chunk.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// Returns how many low bits of an APIC ID number the threads of a core (CPUID leaf Bh, level of threads; SDM vol. 2A).
#[must_use]
pub fn thread_bits() -> u32 {
    const THREADS: u32 = 1;
    if cpuid(0, 0).eax < 0xb {
        return 0;
    }
    let level = cpuid(0xb, 0);
    if level.ecx >> 8 & 0xff == THREADS && level.ebx != 0 {
        level.eax & 0x1f
    } else {
        0
    }
}

/// Returns the time stamp counter.
#[must_use]
#[inline]
pub fn rdtsc() -> u64 {
    // SAFETY: CR4.TSD stays clear in the host and every 64-bit CPU has the counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Reads a model-specific register.
///
/// # Safety
/// The register exists on this CPU and reading it has no side effect on memory safety.
#[must_use]
#[inline]
pub unsafe fn rdmsr(msr: Msr) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the kernel runs at CPL 0 always; the caller vouches for the register.
    unsafe {
        asm!("rdmsr", in("ecx") msr.0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The register exists on this CPU, takes this value, and the change does not break what Rust code relies on.
#[inline]
pub unsafe fn wrmsr(msr: Msr, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the kernel runs at CPL 0 always; the caller vouches for register and value.
    unsafe {
        asm!("wrmsr", in("ecx") msr.0, in("eax") low, in("edx") high, options(nostack, preserves_flags))
    };
}

/// Returns CR3's value.
#[must_use]
pub fn cr3() -> u64 {
    let value;
    // SAFETY: reading CR3 at CPL 0 has no side effect.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Returns CR2: the address of the last page fault.
#[must_use]
pub fn cr2() -> u64 {
    let value;
    // SAFETY: reading CR2 at CPL 0 has no side effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Loads CR2, of which the host makes no use.
pub fn set_cr2(value: u64) {
    // SAFETY: the register only holds the address of the last page fault.
    unsafe { asm!("mov cr2, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

/// Loads CR3, which flushes the TLB.
///
/// # Safety
/// `value` is the root of tables that map the kernel as the current ones do.
pub unsafe fn set_cr3(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Returns CR0.
#[must_use]
pub fn cr0() -> Cr0 {
    let value: u64;
    // SAFETY: reading CR0 at CPL 0 has no side effect.
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    Cr0::from_bits_retain(value)
}

/// Writes CR0.
///
/// # Safety
/// Nothing that Rust code relies on is turned off: protection, paging, write protection, the FPU.
pub unsafe fn set_cr0(value: Cr0) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr0, {}", in(reg) value.bits(), options(nostack, preserves_flags)) };
}

/// Returns CR4.
#[must_use]
pub fn cr4() -> Cr4 {
    let value: u64;
    // SAFETY: reading CR4 at CPL 0 has no side effect.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    Cr4::from_bits_retain(value)
}

/// Writes CR4.
///
/// # Safety
/// The CPU has every feature that is turned on, and none that Rust code relies on is turned off.
pub unsafe fn set_cr4(value: Cr4) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr4, {}", in(reg) value.bits(), options(nostack, preserves_flags)) };
}

/// Returns EFER.
#[must_use]
pub fn efer() -> Efer {
    // SAFETY: EFER exists on every CPU in long mode.
    Efer::from_bits_retain(unsafe { rdmsr(Msr::EFER) })
}

/// Turns on what protects the kernel from itself, where the CPU has it: SMEP, SMAP, UMIP and global pages.
pub fn enable_protections() {
    let leaf7 = if cpuid(0, 0).eax >= 7 {
        cpuid(7, 0)
    } else {
        CpuidResult::default()
    };
    let mut value = cr4() | Cr4::PGE;
    value.set(Cr4::SMEP, leaf7.ebx & 1 << 7 != 0);
    value.set(Cr4::SMAP, leaf7.ebx & 1 << 20 != 0);
    value.set(Cr4::UMIP, leaf7.ecx & 1 << 2 != 0);
    // SAFETY: each bit was just checked against CPUID; no page of the host is a user page, so neither SMEP nor SMAP
    // can hit it, and UMIP concerns user mode only.
    unsafe { set_cr4(value) };
}

/// Spins once, politely.
#[inline]
pub fn pause() {
    core::hint::spin_loop();
}

/// Turns interrupts off.
#[inline]
pub fn interrupts_off() {
    // SAFETY: masking interrupts cannot break memory safety.
    unsafe { asm!("cli", options(nomem, nostack)) };
}

/// Turns interrupts on.
#[inline]
pub fn interrupts_on() {
    // SAFETY: every vector has a handler on a stack of its own once the IDT is loaded, before the first caller.
    unsafe { asm!("sti", options(nomem, nostack)) };
}

/// Turns interrupts on and halts until one comes; no interrupt fits between the two.
#[inline]
pub fn interrupts_on_and_halt() {
    // SAFETY: as for `interrupts_on`; STI holds interrupts off until HLT has begun (APM vol. 3, STI).
    unsafe { asm!("sti", "hlt", options(nomem, nostack)) };
}

/// Stops this CPU for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: with interrupts off, HLT only stops the CPU.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Reads a byte from an I/O port.
///
/// # Safety
/// The port belongs to a device whose read has no effect on memory.
#[must_use]
pub unsafe fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: the caller's promise.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) };
    value
}

/// Writes a byte to an I/O port.
///
/// # Safety
/// The port belongs to a device that will not write memory in consequence.
pub unsafe fn outb(port: u16, value: u8) {
    // SAFETY: the caller's promise.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
}

/// Reads a 16-bit word from an I/O port.
///
/// # Safety
/// As for [`inb`].
#[must_use]
pub unsafe fn inw(port: u16) -> u16 {
    let value;
    // SAFETY: the caller's promise.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nostack, preserves_flags)) };
    value
}

/// Writes a 16-bit word to an I/O port.
///
/// # Safety
/// As for [`outb`].
pub unsafe fn outw(port: u16, value: u16) {
    // SAFETY: the caller's promise.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags)) };
}

/// Reads a 32-bit word from an I/O port.
///
/// # Safety
/// As for [`inb`].
#[must_use]
pub unsafe fn inl(port: u16) -> u32 {
    let value;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags))
    };
    value
}

/// Writes a 32-bit word to an I/O port.
///
/// # Safety
/// As for [`outb`].
pub unsafe fn outl(port: u16, value: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags))
    };
}
