//! What is done against leaks of speculative execution: which guards are on, and the instructions behind them. What is
//! wanted is decided by the policy; a guard that this CPU or this code cannot give stays off.
//!
//! Left out: filling the return stack and clearing the branch history after exits, IBRS at every exit, a SPEC_CTRL for each
//! guest (its bits are hidden from guests), and small pages for guests' code.

use crate::cpu::{self, cpuid, wrmsr};
use crate::idt::rdmsr_if_present;
use api::guard::Guards;
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};
use spec::msr::Msr;
use spec::x86::Efer;

static ACTIVE: AtomicU32 = AtomicU32::new(0);

/// SPEC_CTRL.IBRS, and PRED_CMD.IBPB at the same place.
const BIT_0: u64 = 1;

/// How the host's own indirect branches are kept from what guests taught the predictor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HostBranches {
    /// SPEC_CTRL.IBRS, set once.
    Enhanced,
    /// EFER.AIBRSE, set once.
    Automatic,
}

/// Turns on what there is of `wanted`; before the other CPUs start.
pub fn choose(wanted: Guards) {
    let mut possible = Guards::empty();
    possible.set(Guards::HOST_BRANCHES, host_branches().is_some());
    possible.set(Guards::FORGET_BETWEEN_VMS, has_ibpb());
    possible.set(Guards::DATA_CACHE, leaf7_edx() & 1 << 28 != 0);
    possible.set(Guards::BUFFERS, leaf7_edx() & 1 << 10 != 0);
    ACTIVE.store((wanted & possible).bits(), Ordering::Release);
}

/// Returns the guards that are on.
#[must_use]
pub fn active() -> Guards {
    Guards::from_bits_truncate(ACTIVE.load(Ordering::Acquire))
}

/// Sets what a CPU keeps set; on each CPU.
pub(crate) fn enable_on_cpu() {
    if !active().contains(Guards::HOST_BRANCHES) {
        return;
    }
    match host_branches() {
        // SAFETY: the CPU has IBRS, so it has the register; the bit only restricts speculation.
        Some(HostBranches::Enhanced) => unsafe { wrmsr(Msr::SPEC_CTRL, BIT_0) },
        // SAFETY: the CPU has automatic IBRS, so the bit may be set; it only restricts speculation.
        Some(HostBranches::Automatic) => unsafe {
            wrmsr(Msr::EFER, (cpu::efer() | Efer::AIBRSE).bits());
        },
        None => {}
    }
}

/// Makes the branch predictor forget, because another VM comes to this CPU.
pub fn pass_to_other_vm() {
    if active().contains(Guards::FORGET_BETWEEN_VMS) {
        // SAFETY: the guard is on only where the register exists; the command only costs time.
        unsafe { wrmsr(Msr::PRED_CMD, BIT_0) };
    }
}

/// Tells whether [`before_entry`] has anything to do.
pub(crate) fn guards_entries() -> bool {
    active().intersects(Guards::DATA_CACHE | Guards::BUFFERS)
}

/// Empties what a guest could look into.
#[cold]
pub(crate) fn before_entry() {
    let active = active();
    if active.contains(Guards::DATA_CACHE) {
        // SAFETY: the guard is on only where the register exists; a flush changes no data.
        unsafe { wrmsr(Msr::FLUSH_CMD, BIT_0) };
    }
    if active.contains(Guards::BUFFERS) {
        let selector: u16 = 0x10;
        // SAFETY: VERW only sets a flag; its operand is a live local with the selector of a writable segment.
        unsafe {
            asm!("verw word ptr [{}]", in(reg) &raw const selector, options(nostack, readonly))
        };
    }
}

fn leaf7_edx() -> u32 {
    if cpuid(0, 0).eax >= 7 {
        cpuid(7, 0).edx
    } else {
        0
    }
}

fn extended(leaf: u32) -> cpu::CpuidResult {
    if cpuid(0x8000_0000, 0).eax >= leaf {
        cpuid(leaf, 0)
    } else {
        cpu::CpuidResult::default()
    }
}

fn has_ibpb() -> bool {
    leaf7_edx() & 1 << 26 != 0 || extended(0x8000_0008).ebx & 1 << 12 != 0
}

fn host_branches() -> Option<HostBranches> {
    const IBRS_ALL: u64 = 1 << 1;
    let capabilities = if leaf7_edx() & 1 << 29 != 0 {
        rdmsr_if_present(Msr::ARCH_CAPABILITIES).unwrap_or(0)
    } else {
        0
    };
    if capabilities & IBRS_ALL != 0 && leaf7_edx() & 1 << 26 != 0 {
        Some(HostBranches::Enhanced)
    } else if extended(0x8000_0021).eax & 1 << 8 != 0 {
        Some(HostBranches::Automatic)
    } else {
        None
    }
}
