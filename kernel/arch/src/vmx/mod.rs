//! Intel VMX: turning it on, the MSR bitmap and the world switch (SDM vol. 3, chapters 24 to 31).
//!
//! Left out: APIC virtualization, posted interrupts, TSC scaling and VMCS shadowing; guests' task switches, which VMX
//! leaves to the monitor.

mod backend;
mod capability;
mod check;
mod exit;
mod segment;
mod switch;
mod vcpu;
mod vmcs;

pub use capability::Lack;
pub(crate) use vcpu::Vcpu;

use crate::cpu::{self, cpuid};
use crate::idt::rdmsr_if_present;
use crate::physmem::frame_as;
use crate::virt;
use addr::{Hfn, Hpa};
use alloc::format;
use alloc::string::String;
use capability::{Allowed, Capabilities, Controls};
use spec::msr::Msr;
use spec::vmx::{EptCapabilities, PinControls, PrimaryControls, SecondaryControls};
use spec::x86::{Cr0, Cr4};
use spin::Once;

/// Lock bit of IA32_FEATURE_CONTROL.
const LOCKED: u64 = 1;
/// VMXON outside SMX operation is allowed.
const VMX_OUTSIDE_SMX: u64 = 1 << 2;

/// Why virtual machines cannot run on this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// No VMX.
    NoVmx,
    /// The firmware disabled VMX and locked it.
    Disabled,
    /// VMX of an early generation.
    Lacks(Lack),
}

impl core::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoVmx => f.write_str("this CPU has no Intel VT-x"),
            Self::Disabled => f.write_str(
                "the firmware has disabled VT-x; enable 'Virtualization Technology' or 'VT-x' in its setup",
            ),
            Self::Lacks(lack) => write!(
                f,
                "this CPU has VT-x without {lack}; Basalt needs an Intel CPU of 2010 (Westmere) or later"
            ),
        }
    }
}

/// What was found, and what follows from it.
#[derive(Clone, Copy, Debug)]
struct Features {
    capabilities: Capabilities,
    controls: Controls,
}

static FEATURES: Once<Features> = Once::new();
static MSR_BITMAP: Once<Hpa> = Once::new();

/// Tells whether virtual machines can run here.
///
/// # Errors
/// [`Unsupported`], with the reason in words.
pub(crate) fn probe() -> Result<(), Unsupported> {
    if cpuid(1, 0).ecx & 1 << 5 == 0 {
        return Err(Unsupported::NoVmx);
    }
    let control = rdmsr_if_present(Msr::FEATURE_CONTROL).unwrap_or(0);
    if control & LOCKED != 0 && control & VMX_OUTSIDE_SMX == 0 {
        return Err(Unsupported::Disabled);
    }
    let capabilities = read_capabilities();
    let controls = capabilities.controls().map_err(Unsupported::Lacks)?;
    FEATURES.call_once(|| Features {
        capabilities,
        controls,
    });
    Ok(())
}

/// Reads the capability MSRs; those that are not there allow nothing.
fn read_capabilities() -> Capabilities {
    const TRUE_CONTROLS: u64 = 1 << 55;
    let read = |msr| rdmsr_if_present(msr).unwrap_or(0);
    let basic = read(Msr::VMX_BASIC);
    let either = |plain, exact| {
        Allowed(read(if basic & TRUE_CONTROLS != 0 {
            exact
        } else {
            plain
        }))
    };
    Capabilities {
        basic,
        misc: read(Msr::VMX_MISC),
        cr0_fixed0: read(Msr::VMX_CR0_FIXED0),
        cr4_fixed0: read(Msr::VMX_CR4_FIXED0),
        pin: either(Msr::VMX_PIN_CONTROLS, Msr::VMX_TRUE_PIN_CONTROLS),
        primary: either(Msr::VMX_PRIMARY_CONTROLS, Msr::VMX_TRUE_PRIMARY_CONTROLS),
        secondary: Allowed(read(Msr::VMX_SECONDARY_CONTROLS)),
        exit: either(Msr::VMX_EXIT_CONTROLS, Msr::VMX_TRUE_EXIT_CONTROLS),
        entry: either(Msr::VMX_ENTRY_CONTROLS, Msr::VMX_TRUE_ENTRY_CONTROLS),
        ept: EptCapabilities(read(Msr::VMX_EPT_VPID)),
    }
}

/// # Panics
/// Before a good [`probe`].
fn features() -> &'static Features {
    FEATURES.get().expect("VMX is probed before it is used")
}

/// # Panics
/// Before [`prepare`].
fn msr_bitmap() -> Hpa {
    *MSR_BITMAP.get().expect("the map is made at start-up")
}

/// Makes the MSR bitmap (SDM vol. 3, 25.6.9) in the frame `frame`.
///
/// # Safety
/// The frame is lent for good.
pub(crate) unsafe fn prepare(frame: Hfn) {
    MSR_BITMAP.call_once(|| {
        // SAFETY: the caller's promise; any bytes are valid for the type.
        let map: &mut [u8; 4096] = unsafe { frame_as(frame) };
        map.fill(0xff);
        for msr in virt::PASSED_THROUGH {
            // Reads of low and high MSRs, then writes of both: 1 KiB each.
            let base = if msr.0 >= 0xc000_0000 { 1024 } else { 0 };
            let byte = base + (msr.0 & 0x1fff) as usize / 8;
            map[byte] &= !(1 << (msr.0 % 8));
            map[byte + 2048] &= !(1 << (msr.0 % 8));
        }
        frame.start()
    });
}

/// Turns VMX on for this CPU, after a good [`probe`].
///
/// # Safety
/// The frame belongs to this CPU from now on.
pub(crate) unsafe fn enable(region: Hfn) {
    let capabilities = &features().capabilities;
    if rdmsr_if_present(Msr::FEATURE_CONTROL).is_some_and(|value| value & LOCKED == 0) {
        // SAFETY: the register exists, and firmware left it to us.
        unsafe { cpu::wrmsr(Msr::FEATURE_CONTROL, LOCKED | VMX_OUTSIDE_SMX) };
    }
    let cr0 = cpu::cr0() | Cr0::from_bits_retain(capabilities.cr0_fixed0);
    // SAFETY: paging and protection are on already; what else VMX fixes is NE, which concerns the x87 unit alone.
    unsafe { cpu::set_cr0(cr0) };
    let cr4 = cpu::cr4() | Cr4::from_bits_retain(capabilities.cr4_fixed0);
    // SAFETY: CR4.VMXE is what VMX fixes.
    unsafe { cpu::set_cr4(cr4) };
    // SAFETY: the caller's promise; any bytes are valid for the type.
    let words: &mut [u32; 1024] = unsafe { frame_as(region) };
    words.fill(0);
    words[0] = revision();
    // SAFETY: CR0 and CR4 were just set, the region is ours and begins with the revision.
    unsafe { vmcs::turn_on(region.start()) };
}

/// Tells whether the CPU logs the pages that a guest writes.
pub(crate) fn logs_writes() -> bool {
    features()
        .controls
        .secondary
        .contains(SecondaryControls::PML)
}

/// Returns what the first word of a VMXON region or VMCS must be.
fn revision() -> u32 {
    features().capabilities.basic as u32 & 0x7fff_ffff
}

/// Says what there is and is used.
pub(crate) fn describe() -> String {
    let Features {
        capabilities,
        controls,
    } = features();
    let ept = capabilities.ept;
    let secondary = |flag| controls.secondary.contains(flag);
    let names = [
        (ept.accessed_dirty(), "accessed and dirty bits"),
        (secondary(SecondaryControls::VPID), "VPID"),
        (
            controls.pin.contains(PinControls::PREEMPTION_TIMER),
            "preemption timer",
        ),
        (
            controls.primary.contains(PrimaryControls::TPR_SHADOW),
            "TPR shadow",
        ),
        (secondary(SecondaryControls::PAUSE_LOOP), "PAUSE-loop exits"),
        (secondary(SecondaryControls::RDTSCP), "RDTSCP"),
        (secondary(SecondaryControls::INVPCID), "INVPCID"),
        (secondary(SecondaryControls::PML), "page-modification log"),
    ];
    let mut text = format!(
        "Intel VMX, EPT, unrestricted guest, revision {:#x}",
        revision()
    );
    for (_, name) in names.iter().filter(|(there, _)| *there) {
        text.push_str(", ");
        text.push_str(name);
    }
    text
}
