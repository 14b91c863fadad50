//! What the compiler and the precompiled core expect of their surroundings: memory functions and a panic handler.
#![expect(
    unsafe_code,
    reason = "these symbols are fixed by name and work on raw memory"
)]

use core::arch::naked_asm;
use core::panic::PanicInfo;

use crate::power;
use crate::println;

/// The status a guest ends with after a panic.
const STATUS_PANIC: u32 = 0x70;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("guest panic: {info}");
    power::exit(STATUS_PANIC)
}

/// Referred to by unwind tables that the linker script discards; never called.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Referred to by landing pads of the precompiled core; panics abort, so it is never called.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() {}

/// C's memcpy. Naked, because a loop written in Rust may be compiled into a call of itself.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn memcpy(to: *mut u8, from: *const u8, size: usize) -> *mut u8 {
    naked_asm!("mov rax, rdi", "mov rcx, rdx", "rep movsb", "ret")
}

/// C's memmove.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn memmove(to: *mut u8, from: *const u8, size: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "mov rcx, rdx",
        "mov r8, rdi",
        "sub r8, rsi",
        "cmp r8, rdx",
        "jb 2f",
        "rep movsb",
        "ret",
        // The target begins inside the source: copy from the end.
        "2:",
        "lea rdi, [rdi + rdx - 1]",
        "lea rsi, [rsi + rdx - 1]",
        "std",
        "rep movsb",
        "cld",
        "ret",
    )
}

/// C's memset.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn memset(to: *mut u8, byte: i32, size: usize) -> *mut u8 {
    naked_asm!(
        "mov r8, rdi",
        "mov eax, esi",
        "mov rcx, rdx",
        "rep stosb",
        "mov rax, r8",
        "ret"
    )
}

/// C's memcmp.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn memcmp(left: *const u8, right: *const u8, size: usize) -> i32 {
    naked_asm!(
        "mov rcx, rdx",
        "xor eax, eax",
        // Sets the flags to "equal" for an empty range.
        "cmp eax, eax",
        "repe cmpsb",
        "je 2f",
        "movzx eax, byte ptr [rdi - 1]",
        "movzx ecx, byte ptr [rsi - 1]",
        "sub ecx, eax",
        "mov eax, ecx",
        "2:",
        "ret",
    )
}

/// C's bcmp.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn bcmp(left: *const u8, right: *const u8, size: usize) -> i32 {
    naked_asm!("jmp {}", sym memcmp)
}

/// C's strlen.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn strlen(text: *const u8) -> usize {
    naked_asm!(
        "mov rcx, -1",
        "xor eax, eax",
        "repne scasb",
        "mov rax, rcx",
        "not rax",
        "dec rax",
        "ret"
    )
}
