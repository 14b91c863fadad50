//! The Multiboot1 header and the way from its 32-bit entry to long mode.
//!
//! It maps the first 4 GiB one to one in pages of 2 MiB, the last of them uncached because devices are there, enables
//! SSE and calls `guest_main`. It sets up no interrupts; `interrupts` does.
#![expect(
    unsafe_code,
    reason = "the first instructions of a guest cannot be Rust"
)]

use core::arch::global_asm;

global_asm!(
    r#"
    .section .boot.multiboot, "a"
    .balign 4
    // Multiboot 0.6.96, 3.1.1: magic, flags (page-aligned modules, memory information), checksum.
    .long 0x1badb002
    .long 3
    .long -(0x1badb002 + 3)

    .section .boot.text, "ax"
    .code32
    .global _start32
_start32:
    cli
    cld
    mov esp, offset boot_stack_end
    mov esi, ebx

    // PML4[0] -> PDPT, PDPT[0..4] -> four page directories, present and writable.
    mov eax, offset boot_pdpt + 3
    mov dword ptr [boot_pml4], eax
    mov eax, offset boot_pd + 3
    mov edi, offset boot_pdpt
    mov ecx, 4
2:  mov [edi], eax
    add eax, 4096
    add edi, 8
    dec ecx
    jnz 2b

    // 2048 pages of 2 MiB: present, writable, large; from 3 GiB on also uncached.
    mov eax, 0x83
    mov edi, offset boot_pd
    mov ecx, 2048
3:  cmp eax, 0xc0000000
    jb 4f
    or eax, 0x18
4:  mov [edi], eax
    add edi, 8
    add eax, 0x200000
    dec ecx
    jnz 3b

    mov eax, cr4
    or eax, 0x620           // PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, offset boot_pml4
    mov cr3, eax
    mov ecx, 0xc0000080     // EFER
    rdmsr
    or eax, 0x100           // LME
    wrmsr
    mov eax, cr0
    and eax, 0xfffffffb     // EM
    or eax, 0x80010003      // PG, WP, MP, PE
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    ljmp 8, offset start64

    .code64
start64:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov edi, esi
    xor ebp, ebp
    call guest_main
    ud2

    .section .data.boot, "aw"
    .balign 8
    // Null, 64-bit code, data, and two slots for the task state segment that `interrupts` fills in.
    .global boot_gdt
boot_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0, 0
boot_gdt_pointer:
    .word 39
    .quad boot_gdt

    .section .bss.boot, "aw", @nobits
    .balign 4096
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4096 * 4
    .skip 65536
boot_stack_end:
    .text
    "#
);
