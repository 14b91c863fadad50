//! The local APIC in both of its modes (APM Vol. 2, chapter 16).
//!
//! Only what the guests measure: self-interrupts, their end, the timer's deadline mode.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::cpu;

/// MSR of the APIC's base address and mode.
pub const MSR_APIC_BASE: u32 = 0x1b;
/// MSR of the x2APIC's end-of-interrupt register.
pub const MSR_X2APIC_EOI: u32 = 0x80b;
/// MSR of the timer's deadline.
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// Where the registers are in xAPIC mode, out of reset.
const XAPIC_BASE: u32 = 0xfee0_0000;
/// APIC_BASE: global enable, and x2APIC mode.
const BASE_ENABLE: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;
/// Register offsets in xAPIC mode; MSR 0x800 + offset / 16 in x2APIC mode.
const EOI: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const COMMAND: u32 = 0x300;
const TIMER: u32 = 0x320;
/// Spurious vector register: software enable, vector 0xff.
const SPURIOUS_ENABLE: u32 = 0x1ff;
/// Interrupt command: fixed delivery, assert, to self by shorthand.
const COMMAND_SELF: u32 = 0x0004_4000;
/// Interrupt command: INIT, and start-up, assert, to all but this CPU by shorthand.
const COMMAND_INIT_OTHERS: u32 = 0x000c_4500;
const COMMAND_START_OTHERS: u32 = 0x000c_4600;
/// Timer entry: TSC-deadline mode.
const TIMER_DEADLINE: u32 = 2 << 17;
/// Timer entry: masked.
const TIMER_MASKED: u32 = 1 << 16;
/// Timer entry: periodic mode.
const TIMER_PERIODIC: u32 = 1 << 17;
/// Initial count and divisor of the timer.
const TIMER_START: u32 = 0x380;
const TIMER_DIVIDE: u32 = 0x3e0;
const DIVIDE_BY_1: u32 = 0xb;

static X2APIC: AtomicBool = AtomicBool::new(false);
/// Interrupts that a bare handler took.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Switches the APIC on in xAPIC mode.
pub fn enable() {
    cpu::wrmsr(MSR_APIC_BASE, cpu::rdmsr(MSR_APIC_BASE) | BASE_ENABLE);
    cpu::write32(XAPIC_BASE + SPURIOUS, SPURIOUS_ENABLE);
}

/// Switches from xAPIC to x2APIC mode; there is no way back but reset.
pub fn enable_x2apic() {
    cpu::wrmsr(
        MSR_APIC_BASE,
        cpu::rdmsr(MSR_APIC_BASE) | BASE_ENABLE | BASE_X2APIC,
    );
    X2APIC.store(true, Relaxed);
    write(SPURIOUS, SPURIOUS_ENABLE);
}

/// Interrupts again and again, as fast as the timer can (xAPIC mode).
pub fn start_periodic_timer(vector: u8) {
    cpu::write32(XAPIC_BASE + TIMER_DIVIDE, DIVIDE_BY_1);
    cpu::write32(XAPIC_BASE + TIMER, TIMER_PERIODIC | u32::from(vector));
    cpu::write32(XAPIC_BASE + TIMER_START, 1);
}

/// Masks the timer.
pub(crate) fn stop_timer() {
    write(TIMER, TIMER_MASKED);
}

/// Whether a command would reset a CPU or start one at an address (delivery modes INIT and start-up).
pub fn is_init_or_start(command: u32) -> bool {
    matches!(command >> 8 & 7, 5 | 6)
}

fn write(register: u32, value: u32) {
    if X2APIC.load(Relaxed) {
        cpu::wrmsr(0x800 + register / 16, u64::from(value));
    } else {
        cpu::write32(XAPIC_BASE + register, value);
    }
}

/// Ends the interrupt in service.
pub fn end_of_interrupt() {
    write(EOI, 0);
}

/// Ends the interrupt in service, in xAPIC mode: one store.
#[inline(always)]
pub fn end_of_interrupt_xapic() {
    cpu::write32(XAPIC_BASE + EOI, 0);
}

/// Sends an interrupt to this CPU, in xAPIC mode: one store.
#[inline(always)]
pub fn send_self_xapic(vector: u8) {
    cpu::write32(XAPIC_BASE + COMMAND, COMMAND_SELF | u32::from(vector));
}

/// Starts the other CPUs in real mode at the page `page`, in xAPIC mode: INIT, then a start-up message.
pub fn start_others(page: u8) {
    cpu::write32(XAPIC_BASE + COMMAND, COMMAND_INIT_OTHERS);
    cpu::write32(XAPIC_BASE + COMMAND, COMMAND_START_OTHERS | u32::from(page));
}

/// Puts the timer into deadline mode.
pub fn use_deadline_timer(vector: u8) {
    write(TIMER, TIMER_DEADLINE | u32::from(vector));
}

/// How many interrupts the bare handlers have taken.
#[inline(always)]
pub fn taken() -> u64 {
    TAKEN.load(Relaxed)
}

/// Counts the interrupt and ends it, in xAPIC mode, with as few instructions as can be.
#[unsafe(naked)]
pub extern "C" fn count_and_end_xapic() {
    naked_asm!(
        "push rax",
        "inc qword ptr [rip + {taken}]",
        "mov eax, 0xfee000b0",
        "mov dword ptr [rax], 0",
        "pop rax",
        "iretq",
        taken = sym TAKEN,
    )
}

/// Counts the interrupt and ends it, in x2APIC mode, with as few instructions as can be.
#[unsafe(naked)]
pub extern "C" fn count_and_end_x2apic() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "inc qword ptr [rip + {taken}]",
        "mov ecx, 0x80b",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "iretq",
        taken = sym TAKEN,
    )
}
