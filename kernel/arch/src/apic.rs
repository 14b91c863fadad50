//! The local APIC of this CPU, xAPIC or x2APIC: IPIs, the timer, start-up of other CPUs (APM vol. 2, chapter 16).

use crate::cpu::{self, cpuid};
use crate::idt::{VECTOR_SPURIOUS, VECTOR_TIMER, VECTOR_WAKE};
use crate::percpu::{self, PerCpu};
use crate::time::Clock;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use spec::msr::Msr;

const REG_ID: u32 = 0x20;
const REG_TPR: u32 = 0x80;
const REG_SPURIOUS: u32 = 0xf0;
const REG_ICR: u32 = 0x300;
const REG_ICR_HIGH: u32 = 0x310;
const REG_LVT_TIMER: u32 = 0x320;
const REG_LVT_LINT0: u32 = 0x350;
const REG_LVT_LINT1: u32 = 0x360;
const REG_LVT_ERROR: u32 = 0x370;
const REG_TIMER_INITIAL: u32 = 0x380;
const REG_TIMER_CURRENT: u32 = 0x390;
const REG_TIMER_DIVIDE: u32 = 0x3e0;

const LVT_MASKED: u32 = 1 << 16;
const LVT_TSC_DEADLINE: u32 = 2 << 17;
const LVT_NMI: u32 = 4 << 8;
const ICR_PENDING: u32 = 1 << 12;
const ICR_ASSERT: u32 = 1 << 14;
const ICR_NMI: u32 = 4 << 8;
const ICR_INIT: u32 = 5 << 8;
const ICR_STARTUP: u32 = 6 << 8;
const ICR_ALL_BUT_SELF: u32 = 3 << 18;

/// Timer ticks per 2^32 TSC ticks; 0 means TSC-deadline mode.
static TIMER_RATIO: AtomicU64 = AtomicU64::new(0);
static XAPIC_BASE: AtomicU64 = AtomicU64::new(0);
static TIMER_HZ: AtomicU32 = AtomicU32::new(0);

/// Tells whether the CPU has x2APIC mode.
#[must_use]
pub fn has_x2apic() -> bool {
    cpuid(1, 0).ecx & 1 << 21 != 0
}

/// Tells whether the timer takes a TSC deadline.
#[must_use]
pub fn has_tsc_deadline() -> bool {
    cpuid(1, 0).ecx & 1 << 24 != 0
}

/// Remembers where the xAPIC's registers are mapped; needed on CPUs without x2APIC before [`id`] or [`init`].
pub fn set_xapic_mapping(virtual_address: u64) {
    XAPIC_BASE.store(virtual_address, Ordering::Release);
}

/// Returns this CPU's local APIC ID.
#[must_use]
pub fn id() -> u32 {
    if has_x2apic() && cpuid(0, 0).eax >= 0xb {
        return cpuid(0xb, 0).edx;
    }
    let base = XAPIC_BASE.load(Ordering::Acquire);
    if base == 0 {
        cpuid(1, 0).ebx >> 24
    } else {
        read_at(base, REG_ID) >> 24
    }
}

/// Turns the local APIC of `cpu`, which must be this one, on: x2APIC where there is one.
pub fn init(cpu: &PerCpu) {
    let enabled = 1 << 11;
    // SAFETY: every 64-bit CPU has the APIC base register.
    let base = unsafe { cpu::rdmsr(Msr::APIC_BASE) };
    if has_x2apic() {
        // SAFETY: setting the enable bits is the documented way into x2APIC mode; x2APIC was checked.
        unsafe { cpu::wrmsr(Msr::APIC_BASE, base | enabled | 1 << 10) };
    } else {
        // SAFETY: as above, for xAPIC mode.
        unsafe { cpu::wrmsr(Msr::APIC_BASE, base | enabled) };
        cpu.lapic.set(XAPIC_BASE.load(Ordering::Acquire));
    }
    write(cpu, REG_TPR, 0);
    write(cpu, REG_LVT_LINT0, LVT_MASKED);
    write(cpu, REG_LVT_LINT1, LVT_NMI);
    write(cpu, REG_LVT_ERROR, LVT_MASKED);
    write(cpu, REG_TIMER_DIVIDE, 0b1011);
    let mode = if has_tsc_deadline() {
        LVT_TSC_DEADLINE
    } else {
        0
    };
    write(cpu, REG_LVT_TIMER, mode | u32::from(VECTOR_TIMER));
    write(cpu, REG_SPURIOUS, 1 << 8 | u32::from(VECTOR_SPURIOUS));
}

/// Starts a count-down from the largest value, for calibration.
pub fn start_calibration() {
    let cpu = percpu::current();
    write(cpu, REG_LVT_TIMER, LVT_MASKED);
    write(cpu, REG_TIMER_INITIAL, u32::MAX);
}

/// Ends the calibration: `tsc_ticks` passed since [`start_calibration`], at `tsc_hz`. Returns the timer's frequency.
pub fn end_calibration(tsc_ticks: u64, tsc_hz: u64) -> u32 {
    let cpu = percpu::current();
    let counted = u64::from(u32::MAX - read(cpu, REG_TIMER_CURRENT));
    write(cpu, REG_TIMER_INITIAL, 0);
    let mode = if has_tsc_deadline() {
        LVT_TSC_DEADLINE
    } else {
        0
    };
    write(cpu, REG_LVT_TIMER, mode | u32::from(VECTOR_TIMER));
    if !has_tsc_deadline() {
        TIMER_RATIO.store(
            ((counted as u128) << 32).div_ceil(tsc_ticks.max(1) as u128) as u64,
            Ordering::Relaxed,
        );
    }
    let hz = (counted as u128 * u128::from(tsc_hz) / u128::from(tsc_ticks.max(1))) as u32;
    TIMER_HZ.store(hz, Ordering::Relaxed);
    hz
}

/// Makes the timer interrupt at TSC `deadline` at the latest; an earlier arming stays (a spurious wake is harmless).
pub fn arm_timer(deadline: u64) {
    let cpu = percpu::current();
    if deadline < cpu.timer_armed.get() {
        cpu.timer_armed.set(deadline);
        program(cpu, deadline);
    }
}

/// Notes that the timer fired: nothing is armed now.
pub fn timer_fired() {
    percpu::current().timer_armed.set(u64::MAX);
}

fn program(cpu: &PerCpu, deadline: u64) {
    let ratio = TIMER_RATIO.load(Ordering::Relaxed);
    if ratio == 0 {
        // SAFETY: the ratio is 0 only on CPUs with TSC-deadline mode, whose LVT was set up so.
        unsafe { cpu::wrmsr(Msr::TSC_DEADLINE, deadline.max(1)) };
        return;
    }
    let ticks = deadline.saturating_sub(cpu::rdtsc());
    let count = (u128::from(ticks) * u128::from(ratio)) >> 32;
    write(
        cpu,
        REG_TIMER_INITIAL,
        u32::try_from(count).unwrap_or(u32::MAX).max(1),
    );
}

/// Makes this CPU's APIC look again whether an interrupt waits, by setting the task priority to what it is. A CPU knows
/// without; QEMU's may have forgotten.
pub(crate) fn look_again() {
    write(percpu::current(), REG_TPR, 0);
}

/// Interrupts the CPU with `apic_id` so that it looks at its work.
pub fn send_wake(apic_id: u32) {
    send(apic_id, ICR_ASSERT | u32::from(VECTOR_WAKE));
}

/// Stops all other CPUs for good, by NMI; for panics.
pub fn stop_others() {
    let me = percpu::current();
    for index in (0..percpu::CPUS_MAX as u32).filter(|i| *i != me.index()) {
        if let Some(cpu) = percpu::of(index) {
            cpu.order_stop();
        }
    }
    if percpu::online() > 1 {
        write_icr(me, 0, ICR_ALL_BUT_SELF | ICR_ASSERT | ICR_NMI);
    }
}

/// Resets the CPU with `apic_id` and starts it at `page` (its trampoline's page number).
pub fn start_cpu(apic_id: u32, page: u8, clock: &Clock) {
    send(apic_id, ICR_ASSERT | ICR_INIT);
    clock.spin_nanos(200_000);
    for _ in 0..2 {
        send(apic_id, ICR_ASSERT | ICR_STARTUP | u32::from(page));
        clock.spin_nanos(50_000);
    }
}

fn send(apic_id: u32, command: u32) {
    write_icr(percpu::current(), apic_id, command);
}

fn write_icr(cpu: &PerCpu, apic_id: u32, command: u32) {
    if cpu.lapic.get() == 0 {
        // SAFETY: x2APIC mode is on when no xAPIC mapping is in use; the command is a well-formed IPI.
        unsafe {
            cpu::wrmsr(
                Msr::X2APIC_ICR,
                u64::from(apic_id) << 32 | u64::from(command),
            )
        };
        return;
    }
    while read(cpu, REG_ICR) & ICR_PENDING != 0 {
        cpu::pause();
    }
    write(cpu, REG_ICR_HIGH, apic_id << 24);
    write(cpu, REG_ICR, command);
}

fn read(cpu: &PerCpu, register: u32) -> u32 {
    match cpu.lapic.get() {
        // SAFETY: x2APIC mode is on, and the module reads registers that exist in it.
        0 => unsafe { cpu::rdmsr(Msr(Msr::X2APIC_BASE.0 + (register >> 4))) as u32 },
        base => read_at(base, register),
    }
}

fn write(cpu: &PerCpu, register: u32, value: u32) {
    match cpu.lapic.get() {
        // SAFETY: x2APIC mode is on, and the module writes registers and values that exist in it.
        0 => unsafe { cpu::wrmsr(Msr(Msr::X2APIC_BASE.0 + (register >> 4)), u64::from(value)) },
        base => {
            let at = (base + u64::from(register)) as *mut u32;
            // SAFETY: the xAPIC page is mapped at `base`, uncached, for ever; the register lies inside it.
            unsafe { at.write_volatile(value) };
        }
    }
}

fn read_at(base: u64, register: u32) -> u32 {
    let at = (base + u64::from(register)) as *const u32;
    // SAFETY: the xAPIC page is mapped at `base`, uncached, for ever; the register lies inside it.
    unsafe { at.read_volatile() }
}
