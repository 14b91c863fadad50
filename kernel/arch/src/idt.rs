//! Interrupt entry.
//!
//! Device interrupts and IPIs (vectors 32 and up) run no Rust at all: a stub notes the vector in the per-CPU block,
//! acknowledges the local APIC and returns; the CPU's executor takes the notes and wakes tasks. Exceptions go to one
//! Rust function, which does not return but for the guarded MSR read. Handlers run with interrupts off and never nest.

use crate::cpu;
use crate::gdt;
use core::arch::{asm, global_asm};
use core::fmt;
use core::sync::atomic::{AtomicPtr, Ordering};
use spec::msr::Msr;
use spec::x86::Exception;
use x86_64::VirtAddr;
use x86_64::structures::idt::InterruptDescriptorTable;

/// First vector that a device or IPI may use.
pub const VECTOR_FIRST: u8 = 0x20;
/// Vector of the local APIC's timer.
pub const VECTOR_TIMER: u8 = 0xfd;
/// Vector of the IPI that only wakes or interrupts a CPU.
pub const VECTOR_WAKE: u8 = 0xfe;
/// The local APIC's spurious vector; it is neither noted nor acknowledged.
pub const VECTOR_SPURIOUS: u8 = 0xff;

/// What the exception stub leaves on its stack: all registers and the CPU's own frame.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ExceptionFrame {
    /// R15, R14, R13, R12, R11, R10, R9, R8, RBP, RDI, RSI, RDX, RCX, RBX, RAX.
    pub registers: [u64; 15],
    /// The vector.
    pub vector: u64,
    /// The error code, 0 where the CPU pushes none.
    pub error_code: u64,
    /// Where it happened.
    pub rip: u64,
    /// Code segment.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack segment.
    pub ss: u64,
}

impl ExceptionFrame {
    /// Returns RBP, where a backtrace starts.
    #[must_use]
    pub fn rbp(&self) -> u64 {
        self.registers[8]
    }
}

impl fmt::Debug for ExceptionFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ExceptionFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 15] = [
            "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rbp", "rdi", "rsi", "rdx",
            "rcx", "rbx", "rax",
        ];
        let name = Exception(self.vector as u8).name();
        writeln!(
            f,
            "{name} (vector {}, error code {:#x}) at rip {:#018x}",
            self.vector, self.error_code, self.rip
        )?;
        writeln!(
            f,
            "  cs {:#x}  rflags {:#x}  ss:rsp {:#x}:{:#018x}  cr2 {:#018x}",
            self.cs,
            self.rflags,
            self.ss,
            self.rsp,
            cpu::cr2()
        )?;
        for (index, (name, value)) in NAMES.iter().zip(self.registers).rev().enumerate() {
            write!(f, "  {name:>3} {value:#018x}")?;
            if index % 3 == 2 {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// What is called on an exception that nothing expected.
pub type FatalHook = fn(&ExceptionFrame) -> !;

static FATAL: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Sets what is called on an exception that nothing expected.
pub fn set_fatal_hook(hook: FatalHook) {
    FATAL.store(hook as *mut (), Ordering::Release);
}

unsafe extern "C" {
    static idt_stubs: u8;
    static guarded_rdmsr_at: u8;
    static guarded_wrmsr_at: u8;
    static guarded_rdmsr_fault: u8;
}

static IDT: spin::Once<InterruptDescriptorTable> = spin::Once::new();

/// Loads the IDT on this CPU; its interrupt stacks must be in place (`gdt::install`).
pub fn install() {
    IDT.call_once(build).load();
}

/// Returns the IDT's address, after [`install`].
pub(crate) fn base() -> u64 {
    IDT.get().map_or(0, |idt| core::ptr::from_ref(idt) as u64)
}

fn build() -> InterruptDescriptorTable {
    let mut idt = InterruptDescriptorTable::new();
    let base = (&raw const idt_stubs) as u64;
    let table = core::ptr::from_mut(&mut idt).cast::<[u64; 2]>();
    for vector in 0..256_u64 {
        let ist = match vector {
            2 => gdt::IST_NMI,
            8 => gdt::IST_DOUBLE_FAULT,
            18 => gdt::IST_MACHINE_CHECK,
            0..32 => gdt::IST_EXCEPTION,
            _ => gdt::IST_INTERRUPT,
        };
        let gate = gate(VirtAddr::new(base + vector * 16), ist);
        // SAFETY: the table is 256 gates of 16 bytes and `vector` is below 256; it is not loaded yet.
        let slot = unsafe { table.add(vector as usize) };
        // SAFETY: as above.
        unsafe { slot.write(gate) };
    }
    idt
}

/// Makes a 64-bit interrupt gate (APM vol. 2, 4.8.4) to the kernel's code segment.
fn gate(handler: VirtAddr, ist: u8) -> [u64; 2] {
    const PRESENT_INTERRUPT_GATE: u64 = 0x8e00 << 32;
    const KERNEL_CODE: u64 = 0x08 << 16;
    let a = handler.as_u64();
    let low = a & 0xffff
        | KERNEL_CODE
        | u64::from(ist) << 32
        | PRESENT_INTERRUPT_GATE
        | (a >> 16 & 0xffff) << 48;
    [low, a >> 32]
}

/// Reads an MSR that may not exist: `None` when the CPU answers #GP.
#[must_use]
pub fn rdmsr_if_present(msr: Msr) -> Option<u64> {
    let (low, high, ok): (u32, u32, u32);
    // SAFETY: a #GP at the labelled instruction is recognised by its address and continued at the other label with
    // ESI = 0. The handler is Rust, so all caller-saved registers are clobbered.
    unsafe {
        asm!(
            "mov esi, 1",
            "call guarded_rdmsr",
            in("ecx") msr.0, lateout("eax") low, lateout("edx") high, lateout("esi") ok,
            clobber_abi("C"),
        );
    }
    (ok != 0).then_some(u64::from(high) << 32 | u64::from(low))
}

/// Writes an MSR; false when the CPU answers #GP.
///
/// # Safety
/// As for [`cpu::wrmsr`], if the CPU takes the value.
#[must_use]
pub unsafe fn wrmsr_if_accepted(msr: Msr, value: u64) -> bool {
    let ok: u32;
    // SAFETY: as in `rdmsr_if_present`; the caller vouches for the effect of a write that succeeds.
    unsafe {
        asm!(
            "mov esi, 1",
            "call guarded_wrmsr",
            in("ecx") msr.0, in("eax") value as u32, in("edx") (value >> 32) as u32, lateout("esi") ok,
            clobber_abi("C"),
        );
    }
    ok != 0
}

extern "C" fn exception(frame: &mut ExceptionFrame) {
    let guarded = [
        (&raw const guarded_rdmsr_at) as u64,
        (&raw const guarded_wrmsr_at) as u64,
    ];
    if frame.vector == u64::from(Exception::GP.0) && guarded.contains(&frame.rip) {
        frame.rip = (&raw const guarded_rdmsr_fault) as u64;
        return;
    }
    let hook = FATAL.load(Ordering::Acquire);
    if hook.is_null() {
        cpu::halt_forever();
    }
    // SAFETY: the pointer is not null, and only `set_fatal_hook` stores one, from a `FatalHook`.
    let hook: FatalHook = unsafe { core::mem::transmute::<*mut (), FatalHook>(hook) };
    hook(frame)
}

global_asm!(
    r#"
    .section .text.idt, "ax", @progbits
    .balign 16
    .global idt_stubs
idt_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
    pushq $vector
    jmp exception_common
    .elseif vector == 2
    jmp nmi_entry
    .elseif vector < 32
    pushq $0
    pushq $vector
    jmp exception_common
    .elseif vector == 255
    iretq
    .else
    pushq %rax
    movl $vector, %eax
    jmp interrupt_common
    .endif
    .set vector, vector + 1
    .endr

    # Notes vector EAX: bit in the per-CPU bitmap, attention, end of interrupt.
    .balign 16
interrupt_common:
    lock btsq %rax, %gs:0x08
    movq $1, %gs:0x28
    movq %gs:0x30, %rax
    testq %rax, %rax
    jz 1f
    movl $0, 0xb0(%rax)
    popq %rax
    iretq
1:  pushq %rcx
    pushq %rdx
    movl $0x80b, %ecx
    xorl %eax, %eax
    xorl %edx, %edx
    wrmsr
    popq %rdx
    popq %rcx
    popq %rax
    iretq

    # An NMI either stops this CPU (a panic elsewhere) or asks for attention.
nmi_entry:
    cmpq $0, %gs:0x38
    jne 2f
    movq $1, %gs:0x28
    iretq
2:  cli
    hlt
    jmp 2b

exception_common:
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    movq %rsp, %rbx
    andq $-16, %rsp
    call {exception}
    movq %rbx, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp
    iretq

    .global guarded_rdmsr, guarded_rdmsr_at, guarded_rdmsr_fault, guarded_wrmsr, guarded_wrmsr_at
guarded_rdmsr:
guarded_rdmsr_at:
    rdmsr
    ret
guarded_wrmsr:
guarded_wrmsr_at:
    wrmsr
    ret
guarded_rdmsr_fault:
    xorl %esi, %esi
    ret
"#,
    exception = sym exception,
    options(att_syntax)
);
