//! The trampoline of the application processors: from a startup IPI in real mode to a Rust function.
//!
//! The code is position-dependent: it is assembled for one page, [`ADDRESS`], and copied there by the starter, which
//! also fills the parameters at the end of the page and maps the page, identity and executable, in the tables named.

use core::arch::global_asm;

/// Physical address of the page that holds the trampoline; the startup vector is its page number.
pub const ADDRESS: u64 = 0x8000;

/// Parameters at [`PARAMETERS_OFFSET`] inside the page.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Parameters {
    /// Page tables that map the trampoline page identity, and the kernel; below 4 GiB.
    pub cr3: u64,
    /// Top of the stack of the CPU to start.
    pub stack_top: u64,
    /// The function to call; it never returns.
    pub entry: u64,
    /// Its only argument.
    pub argument: u64,
}
const _: () = assert!(size_of::<Parameters>() == 32);

/// Where [`Parameters`] lie inside the page.
pub const PARAMETERS_OFFSET: usize = 0xf00;

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
}

/// Returns the code to copy to [`ADDRESS`].
#[must_use]
pub fn code() -> &'static [u8] {
    let start = &raw const trampoline_start;
    let end = &raw const trampoline_end;
    // SAFETY: both symbols are in one section of this file's assembly, in this order, and it is never written.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}

global_asm!(
    r#"
    .section .rodata.trampoline, "a", @progbits
    .balign 16
    .global trampoline_start, trampoline_end
    .code16
trampoline_start:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl 0x8000 + (ap_gdt_pointer - trampoline_start)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x08, $0x8000 + (ap32 - trampoline_start)
    .code32
ap32:
    movw $0x10, %ax
    movw %ax, %ds
    movl $((1 << 5) | (1 << 9) | (1 << 10)), %eax
    movl %eax, %cr4
    movl 0x8f00, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $((1 << 8) | (1 << 11)), %eax
    wrmsr
    movl $0x80010033, %eax
    movl %eax, %cr0
    ljmpl $0x18, $0x8000 + (ap64 - trampoline_start)
    .code64
ap64:
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %eax, %ss
    movq 0x8f08, %rsp
    movq 0x8f10, %rax
    movq 0x8f18, %rdi
    xorl %ebp, %ebp
    pushq $0
    pushq $0
    callq *%rax
    ud2
    .balign 8
ap_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00af9b000000ffff
ap_gdt_pointer:
    .short 31
    .long 0x8000 + (ap_gdt - trampoline_start)
trampoline_end:
"#,
    options(att_syntax)
);
