//! The world switch of VMX. As on SVM it moves the general registers, xmm0-15 and MXCSR on every entry and exit, because
//! the host's Rust code uses them; CR2 as well, which VMX leaves to software (SDM vol. 3, 27.3.2).

use core::arch::global_asm;
use core::mem::offset_of;

/// What the switch touches by offset.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Registers {
    /// xmm0 to xmm15 while the host runs.
    pub(super) xmm: [u128; 16],
    /// General registers by number; RSP lives in the VMCS.
    pub(super) gprs: [u64; 16],
    pub(super) cr2: u64,
    /// What the VMCS has for the host's RSP; 0 before the first entry.
    pub(super) host_rsp: u64,
    pub(super) mxcsr: u32,
    /// 1 once the VMCS was launched since it was last cleared.
    pub(super) launched: u32,
}

const _: () = assert!(offset_of!(Registers, xmm) == 0);

/// The CPU wants attention: the guest did not run.
pub(super) const ATTENTION: u32 = 0;
/// The guest ran, or the CPU refused its state with an exit reason.
pub(super) const EXITED: u32 = 1;
/// The instruction failed; the VMCS says why.
pub(super) const FAILED: u32 = 2;

unsafe extern "C" {
    /// Enters the guest with interrupts off from the look at the attention word (gs:28h) on: a pending interrupt makes
    /// the guest exit at once. Returns one of the constants above, with interrupts on.
    pub(super) fn vmx_switch(registers: *mut Registers) -> u32;
    /// Where the CPU goes on after an exit.
    static vmx_exit: u8;
}

/// Returns what belongs into the VMCS for the host's RIP.
pub(super) fn host_rip() -> u64 {
    (&raw const vmx_exit) as u64
}

static HOST_MXCSR: u32 = 0x1f80;

global_asm!(
    ".section .text.vmx_switch, \"ax\", @progbits",
    ".balign 16",
    ".global vmx_switch, vmx_exit",
    "vmx_switch:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdi",
    "cli",
    "xor eax, eax",
    "cmp qword ptr gs:[0x28], 0",
    "jne 5f",
    "cmp rsp, [rdi + {host_rsp}]",
    "je 2f",
    "mov [rdi + {host_rsp}], rsp",
    "mov eax, 0x6c14",
    "vmwrite rax, rsp",
    "2:",
    "mov rax, [rdi + {cr2}]",
    "mov rcx, cr2",
    "cmp rax, rcx",
    "je 3f",
    "mov cr2, rax",
    "3:",
    "movaps xmm0, [rdi]",
    "movaps xmm1, [rdi + 0x10]",
    "movaps xmm2, [rdi + 0x20]",
    "movaps xmm3, [rdi + 0x30]",
    "movaps xmm4, [rdi + 0x40]",
    "movaps xmm5, [rdi + 0x50]",
    "movaps xmm6, [rdi + 0x60]",
    "movaps xmm7, [rdi + 0x70]",
    "movaps xmm8, [rdi + 0x80]",
    "movaps xmm9, [rdi + 0x90]",
    "movaps xmm10, [rdi + 0xa0]",
    "movaps xmm11, [rdi + 0xb0]",
    "movaps xmm12, [rdi + 0xc0]",
    "movaps xmm13, [rdi + 0xd0]",
    "movaps xmm14, [rdi + 0xe0]",
    "movaps xmm15, [rdi + 0xf0]",
    "ldmxcsr [rdi + {mxcsr}]",
    "cmp dword ptr [rdi + {launched}], 0",
    "mov rax, [rdi + {gprs}]",
    "mov rcx, [rdi + {gprs} + 0x08]",
    "mov rdx, [rdi + {gprs} + 0x10]",
    "mov rbx, [rdi + {gprs} + 0x18]",
    "mov rbp, [rdi + {gprs} + 0x28]",
    "mov rsi, [rdi + {gprs} + 0x30]",
    "mov r8, [rdi + {gprs} + 0x40]",
    "mov r9, [rdi + {gprs} + 0x48]",
    "mov r10, [rdi + {gprs} + 0x50]",
    "mov r11, [rdi + {gprs} + 0x58]",
    "mov r12, [rdi + {gprs} + 0x60]",
    "mov r13, [rdi + {gprs} + 0x68]",
    "mov r14, [rdi + {gprs} + 0x70]",
    "mov r15, [rdi + {gprs} + 0x78]",
    "mov rdi, [rdi + {gprs} + 0x38]",
    "je 4f",
    "vmresume",
    "jmp 6f",
    "4:",
    "vmlaunch",
    // Neither entered: nothing of the guest has changed.
    "6:",
    "mov rdi, [rsp]",
    "mov eax, {failed}",
    "jmp 7f",
    "vmx_exit:",
    "xchg rdi, [rsp]",
    "mov [rdi + {gprs}], rax",
    "mov [rdi + {gprs} + 0x08], rcx",
    "mov [rdi + {gprs} + 0x10], rdx",
    "mov [rdi + {gprs} + 0x18], rbx",
    "mov [rdi + {gprs} + 0x28], rbp",
    "mov [rdi + {gprs} + 0x30], rsi",
    "mov rax, [rsp]",
    "mov [rdi + {gprs} + 0x38], rax",
    "mov [rdi + {gprs} + 0x40], r8",
    "mov [rdi + {gprs} + 0x48], r9",
    "mov [rdi + {gprs} + 0x50], r10",
    "mov [rdi + {gprs} + 0x58], r11",
    "mov [rdi + {gprs} + 0x60], r12",
    "mov [rdi + {gprs} + 0x68], r13",
    "mov [rdi + {gprs} + 0x70], r14",
    "mov [rdi + {gprs} + 0x78], r15",
    "mov rax, cr2",
    "mov [rdi + {cr2}], rax",
    "movaps [rdi], xmm0",
    "movaps [rdi + 0x10], xmm1",
    "movaps [rdi + 0x20], xmm2",
    "movaps [rdi + 0x30], xmm3",
    "movaps [rdi + 0x40], xmm4",
    "movaps [rdi + 0x50], xmm5",
    "movaps [rdi + 0x60], xmm6",
    "movaps [rdi + 0x70], xmm7",
    "movaps [rdi + 0x80], xmm8",
    "movaps [rdi + 0x90], xmm9",
    "movaps [rdi + 0xa0], xmm10",
    "movaps [rdi + 0xb0], xmm11",
    "movaps [rdi + 0xc0], xmm12",
    "movaps [rdi + 0xd0], xmm13",
    "movaps [rdi + 0xe0], xmm14",
    "movaps [rdi + 0xf0], xmm15",
    "stmxcsr [rdi + {mxcsr}]",
    "mov dword ptr [rdi + {launched}], 1",
    "mov eax, {exited}",
    "7:",
    "ldmxcsr [rip + {host_mxcsr}]",
    "5:",
    "sti",
    "pop rdi",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    host_rsp = const offset_of!(Registers, host_rsp),
    cr2 = const offset_of!(Registers, cr2),
    mxcsr = const offset_of!(Registers, mxcsr),
    launched = const offset_of!(Registers, launched),
    gprs = const offset_of!(Registers, gprs),
    failed = const FAILED,
    exited = const EXITED,
    host_mxcsr = sym HOST_MXCSR,
);
