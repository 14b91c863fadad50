# Entry code of the boot CPU. See entry.rs for what it promises; AMD APM vol. 2, 14.6 for the mode switch.
    .set KBASE, 0xffffffff80000000
    .set PTE_P, 1
    .set PTE_W, 2
    .set PTE_PS, 0x80
    .set NX_HIGH, 0x80000000

    .section .boot.mb, "a", @progbits
    .balign 8
# Multiboot 1: flags = page-align modules, memory map, and the address fields, since the file is an ELF64.
mb1_header:
    .long 0x1badb002
    .long 0x00010003
    .long -(0x1badb002 + 0x00010003)
    .long mb1_header
    .long 0x100000
    .long __load_end
    .long __end_phys
    .long _start32
    .balign 8
mb2_header:
    .long 0xe85250d6
    .long 0
    .long mb2_header_end - mb2_header
    .long -(0xe85250d6 + (mb2_header_end - mb2_header))
    # Information request: command line, modules, memory map, framebuffer, ACPI old and new.
    .short 1, 1
    .long 8 + 6 * 4
    .long 1, 3, 6, 8, 14, 15
    # Framebuffer, optional: no preference, so text mode stays where the firmware has one.
    .balign 8
    .short 5, 1
    .long 20
    .long 0, 0, 0
    .balign 8
    # Modules on page boundaries.
    .short 6, 1
    .long 8
    .balign 8
    .short 0, 0
    .long 8
mb2_header_end:

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long _start_pvh

    .section .boot.text, "ax", @progbits
    .code32
    .global _start32, _start_pvh
_start_pvh:
    movl ${PVH_MAGIC}, %eax
_start32:
    cli
    cld
    movl %eax, %ebp                     # magic
    movl %ebx, %edi                     # information
    rdtsc
    movl %eax, (boot_tsc - KBASE)
    movl %edx, (boot_tsc - KBASE + 4)
    movl $(boot_stack_top - KBASE), %esp

    # Long mode and NX, or a plain refusal.
    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb no_long_mode
    movl $0x80000001, %eax
    cpuid
    btl $29, %edx
    jnc no_long_mode
    btl $20, %edx
    jnc no_nx

    # The direct map of 4 GiB in 2 MiB pages: four page directories.
    movl $(boot_pd - KBASE), %ebx
    movl $(PTE_P | PTE_W | PTE_PS), %eax
    movl $2048, %ecx
1:  movl %eax, (%ebx)
    addl $0x200000, %eax
    addl $8, %ebx
    loop 1b
    movl $(boot_pd - KBASE + PTE_P + PTE_W), %eax
    movl $(boot_pdpt_low - KBASE), %ebx
    movl $4, %ecx
1:  movl %eax, (%ebx)
    addl $4096, %eax
    addl $8, %ebx
    loop 1b
    # Slot 0 is executable until the jump up; slot 256 never is.
    movl $(boot_pdpt_low - KBASE + PTE_P + PTE_W), %eax
    movl %eax, (boot_pml4 - KBASE)
    movl %eax, (boot_pml4 - KBASE + 256 * 8)
    movl $NX_HIGH, (boot_pml4 - KBASE + 256 * 8 + 4)
    # The image at -2 GiB: 8 MiB of 4 KiB pages.
    movl $(boot_pdpt_high - KBASE + PTE_P + PTE_W), (boot_pml4 - KBASE + 511 * 8)
    movl $(boot_pd_high - KBASE + PTE_P + PTE_W), (boot_pdpt_high - KBASE + 510 * 8)
    movl $(boot_pt - KBASE + PTE_P + PTE_W), %eax
    movl $(boot_pd_high - KBASE), %ebx
    movl $4, %ecx
1:  movl %eax, (%ebx)
    addl $4096, %eax
    addl $8, %ebx
    loop 1b
    .macro map_range from, to, low, high
    movl $(\from - KBASE), %eax
1:  cmpl $(\to - KBASE), %eax
    jae 2f
    movl %eax, %ebx
    shrl $9, %ebx
    leal \low(%eax), %edx
    movl %edx, (boot_pt - KBASE)(%ebx)
    movl $\high, (boot_pt - KBASE + 4)(%ebx)
    addl $4096, %eax
    jmp 1b
2:
    .endm
    map_range __text_start, __rodata_start, PTE_P, 0
    map_range __rodata_start, __data_start, PTE_P, NX_HIGH
    map_range __data_start, __end, (PTE_P + PTE_W), NX_HIGH
    # The guard page below the boot stack.
    movl $(boot_stack_guard - KBASE), %ebx
    shrl $9, %ebx
    movl $0, (boot_pt - KBASE)(%ebx)

    movl $(boot_pml4 - KBASE), %eax
    movl %eax, %cr3
    movl $((1 << 5) | (1 << 9) | (1 << 10)), %eax   # CR4: PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    rdmsr
    orl $((1 << 8) | (1 << 11)), %eax               # EFER: LME, NXE
    wrmsr
    movl $0x80010033, %eax                          # CR0: PG, WP, NE, ET, MP, PE
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmpl $8, $start64

no_long_mode:
    movl $text_no_long_mode, %esi
    jmp refuse
no_nx:
    movl $text_no_nx, %esi
# Prints the text at ESI on COM1 and on the text screen, then stops.
refuse:
    movl $0xb8000, %ebx
1:  lodsb
    testb %al, %al
    jz 3f
    movb %al, (%ebx)
    movb $0x4f, 1(%ebx)
    addl $2, %ebx
    movb %al, %ah
    movw $0x3fd, %dx
    movl $100000, %ecx
2:  inb %dx, %al
    testb $0x20, %al
    loopz 2b
    movb %ah, %al
    movw $0x3f8, %dx
    outb %al, %dx
    jmp 1b
3:  hlt
    jmp 3b

    .code64
start64:
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %eax, %ss
    movabsq $start_high, %rax
    jmpq *%rax

    .section .boot.data, "a", @progbits
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
boot_gdt_pointer:
    .short 15
    .long boot_gdt
text_no_long_mode:
    .asciz "Basalt cannot start: this CPU has no 64-bit mode.\r\n"
text_no_nx:
    .asciz "Basalt cannot start: this CPU has no NX, or the firmware turned it off. Enable 'Execute Disable' in its setup.\r\n"

    .section .text.start_high, "ax", @progbits
start_high:
    # The identity map goes before the first Rust line.
    movq $0, boot_pml4(%rip)
    movq %cr3, %rax
    movq %rax, %cr3
    leaq boot_stack_top(%rip), %rsp
    movl %edi, %esi
    movl %ebp, %edi
    xorl %ebp, %ebp
    pushq $0
    pushq $0
    call basalt_start
    ud2

    .section .bss.boot, "aw", @nobits
    .balign 4096
boot_pml4:      .skip 4096
boot_pdpt_low:  .skip 4096
boot_pdpt_high: .skip 4096
boot_pd:        .skip 4 * 4096
boot_pd_high:   .skip 4096
boot_pt:        .skip 4 * 4096
    .global boot_tsc
boot_tsc:       .skip 8
    .balign 4096
boot_stack_guard: .skip 4096
boot_stack:     .skip 65536
boot_stack_top:
