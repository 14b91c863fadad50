//! The guest's interrupt table: exceptions are reported or resumed from, interrupts are counted.
//!
//! Every vector runs on a stack of its own (interrupt stack table 1), because the precompiled core may use memory
//! below RSP. Handlers do not nest. Measured paths install bare handlers with [`set_handler`].
#![expect(
    unsafe_code,
    reason = "tables that the CPU reads, and the code it enters through them"
)]

use core::arch::{asm, global_asm, naked_asm};
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::{cpu, lapic, power, println, serial};

/// Vector of the first of the sixteen lines of the two 8259s.
pub const PIC_VECTOR: u8 = 0x20;
/// Vectors from here on are the local APIC's.
pub const APIC_VECTOR: u8 = 0x30;

/// The status a guest ends with after an exception that nothing expected.
const STATUS_EXCEPTION: u32 = 0x71;
/// Size of the entry stubs, in bytes; each is aligned to it.
const STUB_SIZE: u64 = 16;
/// Selector of the task state segment in the boot GDT.
const TSS_SELECTOR: u16 = 24;
/// RFLAGS that survive an exception: arithmetic flags and IF; not the trap flag, nor what else random code sets.
const FLAGS_KEPT: u64 = 0xad7;
/// A fault that is present, in the encoding of `LAST_FAULT`.
const FAULT_PRESENT: u64 = 1 << 63;

/// Where to go on after an exception; zero where none is expected.
pub(crate) static RESUME: AtomicU64 = AtomicU64::new(0);
/// The exception that was resumed from: vector in bits 39:32, error code in 31:0.
static LAST_FAULT: AtomicU64 = AtomicU64::new(0);
/// How often each vector was entered through the counting handler.
static COUNTS: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];
/// Interrupts of all vectors so far.
static TAKEN: AtomicU64 = AtomicU64::new(0);
/// Interrupts after which there shall be no more.
static QUIET_AFTER: AtomicU64 = AtomicU64::new(u64::MAX);
/// The interrupt descriptor table, two words per gate.
static IDT: [AtomicU64; 512] = [const { AtomicU64::new(0) }; 512];
/// The task state segment (APM Vol. 2, 12.2.5) in 32-bit words.
static TSS: [AtomicU32; 26] = [const { AtomicU32::new(0) }; 26];

/// An exception that an instruction raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Its vector.
    pub vector: u8,
    /// Its error code; zero where it has none.
    pub error_code: u32,
}

/// What the stubs push, lowest address first.
#[repr(C)]
struct Frame {
    general: [u64; 15],
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            general,
            vector,
            error_code,
            rip,
            cs,
            rflags,
            rsp,
            ss,
        } = self;
        write!(
            f,
            "vector {vector:#x} error {error_code:#x} at {cs:#x}:{rip:#x} "
        )?;
        write!(
            f,
            "rflags {rflags:#x} stack {ss:#x}:{rsp:#x} general {general:x?}"
        )
    }
}

global_asm!(
    r#"
    .section .text.interrupts, "ax"
    .balign 16
    .global interrupt_stubs
interrupt_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    // 8, 10 to 14, 17, 21, 29 and 30 push an error code themselves (APM Vol. 2, table 8-1).
    .if ((1 << (vector & 31)) & 0x60227d00) == 0 || vector > 31
    push 0
    .endif
    push vector
    jmp interrupt_common
    .set vector, vector + 1
    .endr

interrupt_common:
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    sub rsp, 512            // the stack is 16-byte aligned here: 22 words were pushed
    fxsave64 [rsp]
    cld
    call interrupt_entered
    fxrstor64 [rsp]
    add rsp, 512
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq

    .section .bss.interrupts, "aw", @nobits
    .balign 16
    .skip 16384
    .global interrupt_stack_end
interrupt_stack_end:
    .text
    "#
);

unsafe extern "C" {
    /// The first of 256 entry stubs.
    safe static interrupt_stubs: u8;
    /// The end of the stack that handlers run on.
    safe static interrupt_stack_end: u8;
    /// The five-slot descriptor table of the entry code.
    safe static boot_gdt: [AtomicU64; 5];
}

/// Sets up the table, masks the 8259s and leaves interrupts off.
pub(crate) fn install() {
    let stubs = &raw const interrupt_stubs as u64;
    for vector in 0..=255 {
        set_gate(vector, stubs + u64::from(vector) * STUB_SIZE);
    }
    let stack = &raw const interrupt_stack_end as u64;
    // IST1 is at byte 36, the I/O map's offset in the upper half of the last word: there is no map.
    TSS[9].store(stack as u32, Relaxed);
    TSS[10].store((stack >> 32) as u32, Relaxed);
    TSS[25].store((size_of_val(&TSS) as u32) << 16, Relaxed);
    let base = &raw const TSS as u64;
    let limit = size_of_val(&TSS) as u64 - 1;
    // Present, type 9: available 64-bit TSS (APM Vol. 2, 4.8.3).
    let low = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    boot_gdt[3].store(low, Relaxed);
    boot_gdt[4].store(base >> 32, Relaxed);
    // SAFETY: the descriptor was just written, and its segment is a static.
    unsafe { asm!("ltr {0:x}", in(reg) TSS_SELECTOR, options(nostack, preserves_flags)) };
    let pointer = TablePointer {
        limit: size_of_val(&IDT) as u16 - 1,
        base: &raw const IDT as u64,
    };
    // SAFETY: the table is a static, and each of its gates leads to a stub.
    unsafe { asm!("lidt [{}]", in(reg) &pointer, options(nostack, preserves_flags)) };
    mask_pics();
}

/// The operand of LIDT.
#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// Makes a vector enter `handler`, which must save what it uses, acknowledge the interrupt and end with IRETQ.
pub fn set_handler(vector: u8, handler: extern "C" fn()) {
    set_gate(vector, handler as *const () as u64);
}

/// Copies the descriptors in use to the start of a larger table.
pub(crate) fn copy_descriptors(table: &[AtomicU64]) {
    for (from, to) in boot_gdt.iter().zip(table) {
        to.store(from.load(Relaxed), Relaxed);
    }
}

/// Makes non-maskable interrupts do nothing.
pub fn ignore_nmi() {
    set_handler(2, return_at_once);
}

#[unsafe(naked)]
extern "C" fn return_at_once() {
    naked_asm!("iretq")
}

fn set_gate(vector: u8, target: u64) {
    // Present, type 0xe: interrupt gate, through selector 8 and IST1 (APM Vol. 2, 4.8.4).
    let low = target & 0xffff | 8 << 16 | 1 << 32 | 0x8e << 40 | (target >> 16 & 0xffff) << 48;
    let index = usize::from(vector) * 2;
    IDT[index].store(low, Relaxed);
    IDT[index + 1].store(target >> 32, Relaxed);
}

/// Moves the 8259s' lines to [`PIC_VECTOR`] and masks them all (8259A data sheet, initialisation command words).
fn mask_pics() {
    for (command, data, vector, cascade) in
        [(0x20, 0x21, PIC_VECTOR, 4), (0xa0, 0xa1, PIC_VECTOR + 8, 2)]
    {
        cpu::out8(command, 0x11);
        cpu::out8(data, vector);
        cpu::out8(data, cascade);
        cpu::out8(data, 1);
        cpu::out8(data, 0xff);
    }
}

/// Opens a line of the first 8259.
pub fn unmask_pic_line(line: u8) {
    cpu::out8(0x21, cpu::in8(0x21) & !(1 << line));
}

/// Silences the local APIC's timer and the first 8259 after so many interrupts. Only a handler can: sources may be so
/// fast that nothing else runs any more.
pub fn silence_after(interrupts: u64) {
    QUIET_AFTER.store(interrupts, Relaxed);
}

/// Interrupts of all vectors since the start.
pub fn taken() -> u64 {
    TAKEN.load(Relaxed)
}

/// How often the vector was entered since the start.
pub fn count(vector: u8) -> u64 {
    COUNTS[usize::from(vector)].load(Relaxed)
}

/// Ends an instruction that may fault: says whether it did.
pub(crate) fn take_fault() -> Result<(), Fault> {
    RESUME.store(0, Relaxed);
    match LAST_FAULT.swap(0, Relaxed) {
        0 => Ok(()),
        fault => Err(Fault {
            vector: (fault >> 32) as u8,
            error_code: fault as u32,
        }),
    }
}

#[unsafe(no_mangle)]
extern "C" fn interrupt_entered(frame: &mut Frame) {
    let vector = frame.vector as u8;
    COUNTS[usize::from(vector)].fetch_add(1, Relaxed);
    if vector >= PIC_VECTOR && TAKEN.fetch_add(1, Relaxed) >= QUIET_AFTER.load(Relaxed) {
        lapic::stop_timer();
        cpu::out8(0x21, 0xff);
    }
    match vector {
        0..PIC_VECTOR => match RESUME.swap(0, Relaxed) {
            0 => {
                println!("guest exception: {frame:?}");
                power::exit(STATUS_EXCEPTION);
            }
            resume => {
                let fault = u64::from(vector) << 32 | frame.error_code & 0xffff_ffff;
                LAST_FAULT.store(FAULT_PRESENT | fault, Relaxed);
                frame.rip = resume;
                frame.rflags &= FLAGS_KEPT;
            }
        },
        PIC_VECTOR..APIC_VECTOR => {
            if vector == PIC_VECTOR + serial::IRQ {
                serial::on_interrupt();
            }
            if vector >= PIC_VECTOR + 8 {
                cpu::out8(0xa0, 0x20);
            }
            cpu::out8(0x20, 0x20);
        }
        APIC_VECTOR.. => lapic::end_of_interrupt(),
    }
}
