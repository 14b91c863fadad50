//! The one place where the two makers' virtualization meets: which one this host has, turning it on, and running code
//! with its vCPU type.

use crate::nested::{Format, NestedTable, Tracking};
use crate::physmem::FrameSource;
use crate::{guard, svm, vmx};
use addr::Hfn;
use alloc::string::String;
use api::backend::VcpuBackend;
use core::fmt;
use spec::msr::Msr;
use spin::Once;

/// Frames that [`enable`] takes for each CPU.
pub const CPU_FRAMES: usize = 2;
/// Frames in a row that [`prepare`] takes for all VMs.
pub const SHARED_FRAMES: u32 = svm::PermissionMaps::FRAMES;

/// MSRs whose guest values are in the CPU while the guest runs.
pub(crate) const PASSED_THROUGH: [Msr; 10] = [
    Msr::FS_BASE,
    Msr::GS_BASE,
    Msr::KERNEL_GS_BASE,
    Msr::STAR,
    Msr::LSTAR,
    Msr::CSTAR,
    Msr::SFMASK,
    Msr::SYSENTER_CS,
    Msr::SYSENTER_ESP,
    Msr::SYSENTER_EIP,
];

/// Why virtual machines cannot run on this CPU, in words that say what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// Neither SVM nor VMX.
    Neither,
    /// There is SVM, but not as it must be.
    Svm(svm::Unsupported),
    /// There is VMX, but not as it must be.
    Vmx(vmx::Unsupported),
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Neither => f.write_str(
                "this CPU has neither AMD SVM nor Intel VT-x; Basalt needs an AMD CPU of 2008 or later, or an Intel CPU \
                 of 2010 or later",
            ),
            Self::Svm(reason) => reason.fmt(f),
            Self::Vmx(reason) => reason.fmt(f),
        }
    }
}

/// Whose virtualization this host has. All its CPUs are alike.
#[derive(Clone, Copy, Debug)]
enum Maker {
    Amd,
    Intel,
}

static MAKER: Once<Maker> = Once::new();

/// A vCPU type that can be made.
pub trait NewVcpu: VcpuBackend + Sized {
    /// Makes a vCPU in the state after reset, over `nested`, with frames of `F`, which it gives back when it is dropped.
    /// `None` without a free frame.
    fn new<F: FrameSource + Default>(nested: &NestedTable) -> Option<Self>;
}

/// Code that works with any vCPU type; see [`with_backend`].
pub trait Visitor {
    /// What it returns.
    type Output;

    /// Does it.
    fn visit<B: NewVcpu>(self) -> Self::Output;
}

/// Finds out whether virtual machines can run here, and by what.
///
/// # Errors
/// [`Unsupported`], with the reason in words.
pub fn probe() -> Result<(), Unsupported> {
    let maker = match (svm::probe(), vmx::probe()) {
        (Ok(()), _) => Maker::Amd,
        (_, Ok(())) => Maker::Intel,
        (Err(svm::Unsupported::NoSvm), Err(vmx::Unsupported::NoVmx)) => {
            return Err(Unsupported::Neither);
        }
        (Err(svm::Unsupported::NoSvm), Err(reason)) => return Err(Unsupported::Vmx(reason)),
        (Err(reason), _) => return Err(Unsupported::Svm(reason)),
    };
    MAKER.call_once(|| maker);
    Ok(())
}

/// # Panics
/// Before a good [`probe`].
fn maker() -> Maker {
    *MAKER
        .get()
        .expect("the CPU is probed before anything runs on it")
}

/// Makes what all VMs share, in [`SHARED_FRAMES`] frames from `first` on; once, after a good [`probe`].
///
/// # Safety
/// The frames are lent for good.
pub unsafe fn prepare(first: Hfn) {
    match maker() {
        // SAFETY: the caller's promise.
        Maker::Amd => unsafe { svm::prepare(first) },
        // SAFETY: the caller's promise.
        Maker::Intel => unsafe { vmx::prepare(first) },
    }
}

/// Turns virtualization on for this CPU, after a good [`probe`].
///
/// # Safety
/// The frames belong to this CPU from now on.
pub unsafe fn enable(frames: [Hfn; CPU_FRAMES]) {
    guard::enable_on_cpu();
    match maker() {
        // SAFETY: the caller's promise.
        Maker::Amd => unsafe { svm::enable(frames[0], frames[1]) },
        // SAFETY: the caller's promise.
        Maker::Intel => unsafe { vmx::enable(frames[0]) },
    }
}

/// Runs `visitor` with this host's vCPU type.
pub fn with_backend<V: Visitor>(visitor: V) -> V::Output {
    match maker() {
        Maker::Amd => visitor.visit::<svm::Vcpu>(),
        Maker::Intel => visitor.visit::<vmx::Vcpu>(),
    }
}

/// Returns the format of nested tables here.
#[must_use]
pub fn nested_format() -> Format {
    match maker() {
        Maker::Amd => Format::Npt,
        Maker::Intel => Format::Ept,
    }
}

/// Returns how writes to pages are noticed here.
#[must_use]
pub fn tracking() -> Tracking {
    match maker() {
        Maker::Intel if vmx::logs_writes() => Tracking::Log,
        _ => Tracking::Faults,
    }
}

/// Says what this host has, for the administrator.
#[must_use]
pub fn describe() -> String {
    match maker() {
        Maker::Amd => svm::describe(),
        Maker::Intel => vmx::describe(),
    }
}
