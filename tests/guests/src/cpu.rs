//! Single instructions that Rust has no word for.
//!
//! All of it is callable from safe code: a guest owns its machine, and whatever it breaks is its own. Instructions
//! that may be refused return the exception instead of raising it.
#![expect(unsafe_code, reason = "each function is one privileged instruction")]

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, CpuidResult};
use core::sync::atomic::AtomicU64;

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

/// Makes a pair of functions around the instruction that calls a hypervisor; which one that is, is the CPU maker's word.
macro_rules! hypercall {
    ($instruction:literal, $call:ident, $try_call:ident) => {
        #[doc = concat!("Executes ", $instruction, " with a number that means nothing; returns what came back in RAX.")]
        #[inline(always)]
        pub fn $call(number: u64) -> u64 {
            let mut value = number;
            // SAFETY: a hypervisor may change RAX only; where there is none, #UD ends the guest with a report.
            unsafe { asm!($instruction, inout("rax") value, options(nostack)) };
            value
        }

        #[doc = concat!("Executes ", $instruction, " where it may not exist.")]
        ///
        /// # Errors
        /// The exception, where there is no hypervisor or it knows no hypercalls.
        pub fn $try_call(number: u64) -> Result<u64, Fault> {
            let mut value = number;
            // SAFETY: an exception resumes at the label; a hypervisor may change RAX only.
            unsafe {
                asm!(
                    "lea {resume}, [rip + 2f]",
                    "mov qword ptr [rip + {place}], {resume}",
                    $instruction,
                    "2:",
                    resume = out(reg) _,
                    place = sym interrupts::RESUME,
                    inout("rax") value,
                    options(nostack)
                );
            }
            interrupts::take_fault().map(|()| value)
        }
    };
}

hypercall!("vmmcall", vmmcall, try_vmmcall);
hypercall!("vmcall", vmcall, try_vmcall);

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

/// Leaves the CPU without handlers: the next exception of any kind is the last.
pub fn load_empty_interrupt_table() {
    let pointer = [0u8; 10];
    // SAFETY: whoever calls this wants the CPU to find no handler.
    unsafe { asm!("lidt [{}]", in(reg) &pointer, options(nostack, preserves_flags)) };
}

/// RAM that neither the guest's image nor its loader uses.
pub fn scratch_memory(address: u32, size: usize) -> &'static mut [u8] {
    // SAFETY: the first 4 GiB are mapped, guests have more memory than their image and modules need, and each guest
    // takes its scratch memory once.
    unsafe { core::slice::from_raw_parts_mut(address as usize as *mut u8, size) }
}

/// Calls code that may raise any exception and may leave every register changed.
///
/// # Errors
/// The exception that ended it.
pub fn try_call(address: u64) -> Result<(), Fault> {
    // SAFETY: an exception resumes at the label, where the stack pointer is taken from a static that the called code
    // can only reach by chance; a guest that calls random code accepts that.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "mov [rip + {stack}], rsp",
            "lea {resume}, [rip + 2f]",
            "mov qword ptr [rip + {place}], {resume}",
            "call {address}",
            "2:",
            "mov rsp, [rip + {stack}]",
            "cld",
            "pop rbp",
            "pop rbx",
            stack = sym CALL_STACK,
            resume = out(reg) _,
            place = sym interrupts::RESUME,
            address = in(reg) address,
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _,
            out("r13") _, out("r14") _, out("r15") _,
        );
    }
    interrupts::take_fault()
}

/// The stack pointer to go back to from `try_call`.
static CALL_STACK: AtomicU64 = AtomicU64::new(0);

/// Memory that string instructions read and write.
static STRING: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];

/// Reads `count` bytes, at most 128, from an I/O port by one instruction, and forgets them.
pub fn in_string(port: u16, count: usize) {
    let count = count.min(size_of_val(&STRING));
    // SAFETY: the memory is a static of at least that size that nobody reads.
    unsafe {
        asm!("rep insb", in("dx") port, inout("rcx") count => _, inout("rdi") STRING.as_ptr() => _, options(nostack))
    };
}

/// Writes `count` bytes, at most 128, to an I/O port by one instruction.
pub fn out_string(port: u16, count: usize) {
    let count = count.min(size_of_val(&STRING));
    // SAFETY: the memory is a static of at least that size.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rcx") count => _, inout("rsi") STRING.as_ptr() => _, options(nostack))
    };
}

/// How many instructions `access_memory` knows.
pub const MEMORY_FORMS: u32 = 16;

/// Accesses memory at an address below 4 GiB by the instruction of that number, touching at most 32 bytes.
pub fn access_memory(form: u32, address: u32, value: u64) {
    let at = u64::from(address);
    macro_rules! access {
        ($instruction:literal) => {
            // SAFETY: callers name addresses where no memory of this guest is.
            unsafe {
                asm!($instruction, at = in(reg) at, inout("rax") value => _, out("rcx") _, out("rdx") _, out("xmm0") _,
                    options(nostack))
            }
        };
    }
    match form {
        0 => access!("mov eax, [{at}]"),
        1 => access!("mov [{at}], eax"),
        2 => access!("mov al, [{at}]"),
        3 => access!("mov [{at}], al"),
        4 => access!("mov ax, [{at}]"),
        5 => access!("mov [{at}], ax"),
        6 => access!("mov rax, [{at}]"),
        7 => access!("mov [{at}], rax"),
        8 => access!("movzx eax, byte ptr [{at}]"),
        9 => access!("movsx rax, word ptr [{at}]"),
        10 => access!("or dword ptr [{at}], eax"),
        11 => access!("xchg [{at}], eax"),
        12 => access!("lock add word ptr [{at}], ax"),
        13 => access!("movups xmm0, [{at}]"),
        14 => access!("test byte ptr [{at}], 0x5a"),
        _ => fill(at, value),
    }
}

/// Four stores by one instruction.
fn fill(at: u64, value: u64) {
    // SAFETY: as `access_memory`.
    unsafe {
        asm!("rep stosd", inout("rdi") at => _, inout("ecx") 4 => _, in("eax") value as u32, options(nostack))
    };
}
