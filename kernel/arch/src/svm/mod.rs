//! AMD SVM: turning it on, permission maps, nested tables and the world switch (APM vol. 2, chapter 15).

mod asid;
mod maps;
mod npt;
mod vcpu;

pub(crate) use asid::AsidSource;
pub use maps::PermissionMaps;
pub use npt::{Access, Mapping, NestedTable, NestedView, PageSize};
pub use vcpu::{Gpr, Vcpu};

use crate::cpu::{self, cpuid};
use crate::percpu;
use addr::Hfn;
use core::arch::asm;
use spec::msr::Msr;
use spec::x86::Efer;

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

/// Tells whether virtual machines can run here.
///
/// # Errors
/// [`Unsupported`], with the reason in words.
pub fn probe() -> Result<Features, Unsupported> {
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
        Err(Unsupported::NoNestedPaging)
    } else {
        Ok(features)
    }
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
pub unsafe fn enable(save_area: Hfn, host_state: Hfn) {
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

/// Returns DR0 to DR3, which VMRUN does not switch.
#[must_use]
pub fn debug_registers() -> [u64; 4] {
    let (a, b, c, d): (u64, u64, u64, u64);
    // SAFETY: reading debug registers at CPL 0 with DR7.GD clear has no side effect.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", out(reg) a, out(reg) b, out(reg) c,
            out(reg) d, options(nomem, nostack, preserves_flags));
    };
    [a, b, c, d]
}

/// Loads DR0 to DR3. The host never enables them: DR7 is cleared by every #VMEXIT.
pub fn load_debug_registers(values: &[u64; 4]) {
    let [a, b, c, d] = *values;
    // SAFETY: addresses alone do nothing while DR7 enables none of them.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) a, in(reg) b, in(reg) c, in(reg) d,
            options(nomem, nostack, preserves_flags));
    };
}
