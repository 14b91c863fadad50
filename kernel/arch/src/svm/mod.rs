//! AMD SVM: turning it on, permission maps and the world switch (APM vol. 2, chapter 15).

mod backend;
mod exit;
mod maps;
mod nmi;
mod vcpu;

pub(crate) use maps::PermissionMaps;
pub(crate) use vcpu::Vcpu;

use crate::cpu::{self, cpuid};
use crate::percpu;
use addr::Hfn;
use alloc::format;
use alloc::string::String;
use core::arch::asm;
use spec::msr::Msr;
use spec::x86::Efer;
use spin::Once;

/// What this CPU's SVM offers beyond the base (CPUID 8000_000Ah).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Number of ASIDs, the host's 0 included.
    pub asids: u32,
    /// EDX as it stands.
    pub bits: u32,
    /// The CPU is QEMU's TCG, whose SVM does not restore an interrupt shadow.
    emulated: bool,
}

impl Features {
    /// Returns true where exits tell the next RIP.
    #[must_use]
    pub fn next_rip(self) -> bool {
        self.bits & 1 << 3 != 0
    }

    /// Returns true where nested page faults bring the instruction's bytes.
    #[must_use]
    pub fn decode_assists(self) -> bool {
        self.bits & 1 << 7 != 0
    }

    /// Returns true where VMRUN loads the interrupt shadow from the VMCB, as the manual says (APM vol. 2, 15.21.5).
    #[must_use]
    pub fn keeps_interrupt_shadow(self) -> bool {
        !self.emulated
    }

    /// Returns true where one guest's translations can be flushed.
    #[must_use]
    pub fn flush_by_asid(self) -> bool {
        self.bits & 1 << 6 != 0
    }

    /// Returns true where interrupts are given to the guest by V_IRQ: QEMU's VMRUN may deliver an interrupt that EVENTINJ
    /// injects once more, if an exit is requested at that moment.
    pub(crate) fn injects_by_virq(self) -> bool {
        self.emulated
    }

    /// Returns true where the PAUSE intercept can be filtered.
    #[must_use]
    pub fn pause_filter(self) -> bool {
        self.bits & 1 << 10 != 0
    }
}

/// Why virtual machines cannot run on this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// No SVM.
    NoSvm,
    /// The firmware disabled SVM and locked it.
    Disabled,
    /// No nested paging.
    NoNestedPaging,
}

impl core::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoSvm => "this CPU has no AMD SVM; Basalt needs an AMD CPU of 2008 or later",
            Self::Disabled => "the firmware has disabled SVM; enable 'SVM' or 'AMD-V' in its setup",
            Self::NoNestedPaging => "this CPU has SVM without nested paging (NPT); Basalt needs it",
        })
    }
}

static FEATURES: Once<Features> = Once::new();
static MAPS: Once<PermissionMaps> = Once::new();

/// Tells whether virtual machines can run here.
///
/// # Errors
/// [`Unsupported`], with the reason in words.
pub(crate) fn probe() -> Result<(), Unsupported> {
    const VM_CR_SVMDIS: u64 = 1 << 4;
    if cpuid(0x8000_0000, 0).eax < 0x8000_000a || cpuid(0x8000_0001, 0).ecx & 1 << 2 == 0 {
        return Err(Unsupported::NoSvm);
    }
    if crate::idt::rdmsr_if_present(Msr::VM_CR).is_some_and(|value| value & VM_CR_SVMDIS != 0) {
        return Err(Unsupported::Disabled);
    }
    let leaf = cpuid(0x8000_000a, 0);
    let features = Features {
        asids: leaf.ebx,
        bits: leaf.edx,
        emulated: is_tcg(),
    };
    if features.bits & 1 == 0 {
        return Err(Unsupported::NoNestedPaging);
    }
    FEATURES.call_once(|| features);
    Ok(())
}

/// # Panics
/// Before a good [`probe`].
fn features() -> Features {
    *FEATURES.get().expect("SVM is probed before it is used")
}

/// # Panics
/// Before [`prepare`].
fn maps() -> &'static PermissionMaps {
    MAPS.get().expect("the maps are made at start-up")
}

/// Makes the permission maps in [`PermissionMaps::FRAMES`] frames from `first` on.
///
/// # Safety
/// The frames are lent for good.
pub(crate) unsafe fn prepare(first: Hfn) {
    // SAFETY: the caller's promise.
    MAPS.call_once(|| unsafe { PermissionMaps::new(first) });
}

/// Says what there is and is used.
pub(crate) fn describe() -> String {
    /// What is used where there is it.
    const NAMES: [(u32, &str); 4] = [
        (3, "next-RIP"),
        (6, "flush by ASID"),
        (7, "decode assists"),
        (10, "PAUSE filter"),
    ];
    let features = features();
    let mut text = format!("AMD SVM, nested paging, {} ASIDs", features.asids);
    for (bit, name) in NAMES {
        if features.bits & 1 << bit != 0 {
            text.push_str(", ");
            text.push_str(name);
        }
    }
    text
}

/// Tells whether the CPU is QEMU's TCG, by the signature in its hypervisor leaf.
fn is_tcg() -> bool {
    let leaf = cpuid(0x4000_0000, 0);
    let name = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
    cpu::is_guest() && name.as_flattened() == b"TCGTCGTCGTCG"
}

/// Turns SVM on for this CPU, after a good [`probe`]. `save_area` and `host_state` are frames for good: the host state
/// that VMRUN saves, and the state that VMLOAD restores.
///
/// # Safety
/// The two frames belong to this CPU from now on.
pub(crate) unsafe fn enable(save_area: Hfn, host_state: Hfn) {
    // SAFETY: SVM was probed, so EFER.SVME may be set.
    unsafe { cpu::wrmsr(Msr::EFER, (cpu::efer() | Efer::SVME).bits()) };
    // SAFETY: the register exists with SVM; the frame is ours to give.
    unsafe { cpu::wrmsr(Msr::VM_HSAVE_PA, save_area.start().as_u64()) };
    percpu::current().host_vmcb.set(host_state.start().as_u64());
    // SAFETY: SVM is on and the frame is a whole page that belongs to this CPU.
    unsafe {
        asm!("vmsave rax", in("rax") host_state.start().as_u64(), options(nostack, preserves_flags))
    };
}
