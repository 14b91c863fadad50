//! The world switch of VMX. As on SVM it moves the general registers, xmm0-15 and MXCSR on every entry and exit, because
//! the host's Rust code uses them. CR2, which VMX leaves to software as well, stays in the CPU until another vCPU comes: in
//! the host a page fault is the end.

use crate::switch_text::{gprs, xmm};
use core::arch::{asm, global_asm};
use core::mem::offset_of;

/// What the switch touches by offset.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Registers {
    /// xmm0 to xmm15 while the host runs.
    pub(super) xmm: [u128; 16],
    /// General registers by number; RSP lives in the VMCS.
    pub(super) gprs: [u64; 16],
    /// What the VMCS has for the host's RSP; 0 before the first entry.
    pub(super) host_rsp: u64,
    pub(super) mxcsr: u32,
    /// 1 once the VMCS was to be launched since it was last cleared.
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
    /// Not to be called from Rust: it keeps RBX, RBP and RSP only, see [`enter`].
    static vmx_switch: u8;
    /// Where the CPU goes on after an exit.
    static vmx_exit: u8;
}

/// Enters the guest with interrupts off from the look at the attention word (gs:28h) on: a pending interrupt makes the
/// guest exit at once. Returns one of the constants above, with interrupts on. The compiler spills only what its caller
/// really keeps in registers.
///
/// # Safety
/// VMX is on, and the current VMCS is one whose exits lead to [`host_rip`] in the kernel as it is now.
#[inline(always)]
pub(super) unsafe fn enter(registers: &mut Registers) -> u32 {
    let outcome: u32;
    // SAFETY: the switch restores what it may not clobber and the rest is named; the red zone is off in this crate, so
    // that it may push.
    unsafe {
        asm!(
            "call {switch}",
            switch = sym vmx_switch,
            inout("rdi") core::ptr::from_mut(registers) => _,
            lateout("eax") outcome,
            out("rcx") _, out("rdx") _, out("rsi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
    outcome
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
    "push rdi",
    "cli",
    "cmp qword ptr gs:[0x28], 0",
    "jne 5f",
    "cmp rsp, [rdi + {host_rsp}]",
    "je 2f",
    "mov [rdi + {host_rsp}], rsp",
    "mov eax, 0x6c14",
    "vmwrite rax, rsp",
    "2:",
    xmm!(loads "rdi"),
    "ldmxcsr [rdi + {mxcsr}]",
    "cmp dword ptr [rdi + {launched}], 0",
    "mov rax, [rdi + {gprs}]",
    gprs!(loads "rdi"),
    "je 4f",
    "mov rdi, [rdi + {gprs} + 0x38]",
    "vmresume",
    "jmp 6f",
    "4:",
    "mov dword ptr [rdi + {launched}], 1",
    "mov rdi, [rdi + {gprs} + 0x38]",
    "vmlaunch",
    // Neither entered: nothing of the guest has changed.
    "6:",
    "pop rdi",
    "mov eax, {failed}",
    "jmp 7f",
    "vmx_exit:",
    "xchg rdi, [rsp]",
    "mov [rdi + {gprs}], rax",
    gprs!(stores "rdi"),
    "pop qword ptr [rdi + {gprs} + 0x38]",
    xmm!(stores "rdi"),
    "stmxcsr [rdi + {mxcsr}]",
    "mov eax, {exited}",
    "7:",
    "ldmxcsr [rip + {host_mxcsr}]",
    "8:",
    "sti",
    "pop rbp",
    "pop rbx",
    "ret",
    "5:",
    "pop rdi",
    "mov eax, {attention}",
    "jmp 8b",
    host_rsp = const offset_of!(Registers, host_rsp),
    mxcsr = const offset_of!(Registers, mxcsr),
    launched = const offset_of!(Registers, launched),
    gprs = const offset_of!(Registers, gprs),
    attention = const ATTENTION,
    failed = const FAILED,
    exited = const EXITED,
    host_mxcsr = sym HOST_MXCSR,
);
