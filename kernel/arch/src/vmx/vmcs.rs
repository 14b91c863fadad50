//! The instructions on VMCSs, each in a function (SDM vol. 3, chapter 31).

use addr::Hpa;
use core::arch::asm;
use spec::vmx::{Field, FieldValue};

/// Reads a field of the current VMCS.
#[inline(always)]
pub(super) fn read<T: FieldValue>(field: Field<T>) -> T {
    let value: u64;
    // SAFETY: VMREAD touches nothing but its operands; without a current VMCS it fails and the value is of no use, which
    // the callers exclude by reading only while a vCPU is loaded.
    unsafe {
        asm!("vmread {}, {}", out(reg) value, in(reg) u64::from(field.encoding()), options(nostack))
    };
    T::narrow(value)
}

/// Writes a field of the current VMCS.
///
/// # Panics
/// When the CPU does not have the field, or no VMCS is current: the monitor would run a guest on something else than it
/// believes.
#[inline(always)]
pub(super) fn write<T: FieldValue>(field: Field<T>, value: T) {
    let failed: u8;
    // SAFETY: what the fields do to the host is argued where the VMCS is set up; a guest's fields concern the guest.
    unsafe {
        asm!("vmwrite {}, {}", "setbe {}", in(reg) u64::from(field.encoding()), in(reg) value.widen(),
            out(reg_byte) failed, options(nostack))
    };
    if failed != 0 {
        refused(field.encoding());
    }
}

/// As [`write`], for RIP, which every CPU has; on the way back from every exit.
#[inline(always)]
pub(super) fn write_rip(value: u64) {
    let rip = spec::vmx::field::GUEST_RIP.encoding();
    // SAFETY: as in `write`.
    unsafe { asm!("vmwrite {}, {}", in(reg) u64::from(rip), in(reg) value, options(nostack)) };
}

#[cold]
fn refused(encoding: u32) -> ! {
    panic!("the CPU refused a write of VMCS field {encoding:#x}")
}

/// Makes a VMCS the current one of this CPU.
///
/// # Safety
/// `vmcs` holds a VMCS that no other CPU has active.
pub(super) unsafe fn load(vmcs: Hpa) {
    let address = vmcs.as_u64();
    let failed: u8;
    // SAFETY: the caller's promise; the operand is a live local.
    unsafe {
        asm!("vmptrld [{}]", "setbe {}", in(reg) &raw const address, out(reg_byte) failed, options(nostack))
    };
    assert!(failed == 0, "the CPU refused a VMCS");
}

/// Writes what the CPU keeps of a VMCS back to it; it is neither current nor active afterwards, and its next entry is a
/// launch.
///
/// # Safety
/// `vmcs` is a frame that belongs to a VMCS.
pub(super) unsafe fn clear(vmcs: Hpa) {
    let address = vmcs.as_u64();
    let failed: u8;
    // SAFETY: the caller's promise; the operand is a live local.
    unsafe {
        asm!("vmclear [{}]", "setbe {}", in(reg) &raw const address, out(reg_byte) failed, options(nostack))
    };
    assert!(failed == 0, "the CPU refused to clear a VMCS");
}

/// Enters VMX operation.
///
/// # Safety
/// CR0 and CR4 are as VMX demands, and `region` is a frame of this CPU's alone, with the revision in its first word.
pub(super) unsafe fn turn_on(region: Hpa) {
    let address = region.as_u64();
    let failed: u8;
    // SAFETY: the caller's promise; the operand is a live local.
    unsafe {
        asm!("vmxon [{}]", "setbe {}", in(reg) &raw const address, out(reg_byte) failed, options(nostack))
    };
    assert!(failed == 0, "the CPU refused to enter VMX operation");
}

/// Drops the translations that belong to the extended page tables of `pointer`.
pub(super) fn invalidate_ept(pointer: u64) {
    const SINGLE_CONTEXT: u64 = 1;
    let descriptor = [pointer, 0];
    // SAFETY: dropping translations is always allowed; the operand is a live local.
    unsafe {
        asm!("invept {}, [{}]", in(reg) SINGLE_CONTEXT, in(reg) &raw const descriptor, options(nostack))
    };
}

/// Drops the translations with tag `vpid`.
pub(super) fn invalidate_vpid(vpid: u16) {
    const SINGLE_CONTEXT: u64 = 1;
    let descriptor = [u64::from(vpid), 0];
    // SAFETY: as in `invalidate_ept`.
    unsafe {
        asm!("invvpid {}, [{}]", in(reg) SINGLE_CONTEXT, in(reg) &raw const descriptor, options(nostack))
    };
}
