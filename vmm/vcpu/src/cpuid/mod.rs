//! The CPUID leaves of one vCPU: built once from the host's, looked up in a few instructions.
//!
//! The Hyper-V leaves are not here; their owner answers 4000_0000h and up itself when it is enabled for a VM.

mod features;
mod filter;
mod policy;
#[cfg(test)]
mod tests;
mod topology;
mod xstate;

pub use policy::{Capabilities, CpuidConfig, Offer, Vendor};
pub use topology::{Topology, TopologyError};
pub use xstate::{AVX, AVX512, SSE, X87};

use api::cpu::cr4;
use features::{Basic1Ecx, Basic1Edx, Extended1Edx};
use xstate::XState;

/// The four registers of a CPUID leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidResult {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Where the host's leaves come from: the CPUID instruction, or a table in tests.
pub trait HostCpuid {
    /// Returns a leaf of the host.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult;
}

impl<F: Fn(u32, u32) -> CpuidResult> HostCpuid for F {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        self(leaf, subleaf)
    }
}

/// State of the vCPU that shows in CPUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dynamic {
    /// CR4, for OSXSAVE.
    pub cr4: u64,
    /// XCR0, for the size of the XSAVE area.
    pub xcr0: u64,
    /// Whether IA32_APIC_BASE enables the local APIC.
    pub is_apic_enabled: bool,
}

/// Number of basic leaves kept, 0 to 1Fh.
const BASIC: u32 = 0x20;
/// First extended leaf.
const EXTENDED_BASE: u32 = 0x8000_0000;
/// Number of extended leaves kept, to 8000_0021h.
const EXTENDED: u32 = 0x22;
/// First leaf of the hypervisor's range.
const HYPERVISOR_BASE: u32 = 0x4000_0000;
/// Number of hypervisor leaves kept, to 4000_0010h.
const HYPERVISOR: u32 = 0x11;
/// Leaves kept.
const SLOTS: usize = (BASIC + EXTENDED + HYPERVISOR) as usize;

/// What a leaf needs beyond its stored registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Plain,
    /// Leaf 1: OSXSAVE and APIC follow the vCPU's state.
    Features,
    /// Leaf 8000_0001h: APIC follows the vCPU's state.
    ExtendedFeatures,
    /// Leaf 7: one subleaf more.
    Structured,
    /// Leaf 0Dh.
    XState,
    /// Leaves 4 and 8000_001Dh: a subleaf per cache.
    Caches,
    /// Leaves 0Bh and 1Fh.
    Topology,
}

#[derive(Clone, Copy, Debug, Default)]
struct Leaf {
    registers: CpuidResult,
    kind: Kind,
}

/// Caches that a leaf may list.
const CACHES: usize = 6;

/// The CPUID leaves of one vCPU.
#[derive(Clone, Debug)]
pub struct Cpuid {
    leaves: [Leaf; SLOTS],
    structured1: CpuidResult,
    caches: [CpuidResult; CACHES],
    xstate: XState,
    xsave_features: u32,
    topology: Topology,
    apic_id: u32,
    capabilities: Capabilities,
}

impl Cpuid {
    /// Builds the leaves for one vCPU.
    #[must_use]
    pub fn new(host: &dyn HostCpuid, config: &CpuidConfig) -> Self {
        policy::build(host, config)
    }

    /// Returns what the leaves allow in control registers and MSRs.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Answers CPUID; leaves that do not exist are zero, as on AMD processors.
    #[must_use]
    #[inline]
    pub fn lookup(&self, leaf: u32, subleaf: u32, now: &Dynamic) -> CpuidResult {
        let Some(entry) = slot(leaf).and_then(|slot| self.leaves.get(slot)) else {
            return CpuidResult::default();
        };
        let stored = entry.registers;
        match entry.kind {
            Kind::Plain => stored,
            Kind::Features => {
                let osxsave = now.cr4 & cr4::OSXSAVE != 0;
                CpuidResult {
                    ecx: stored.ecx | when(osxsave, Basic1Ecx::OSXSAVE.bits()),
                    edx: stored.edx | when(now.is_apic_enabled, Basic1Edx::APIC.bits()),
                    ..stored
                }
            }
            kind => self.lookup_indexed(kind, stored, subleaf, now),
        }
    }

    #[inline(never)]
    fn lookup_indexed(
        &self,
        kind: Kind,
        stored: CpuidResult,
        subleaf: u32,
        now: &Dynamic,
    ) -> CpuidResult {
        match kind {
            Kind::Plain | Kind::Features => stored,
            Kind::ExtendedFeatures => {
                // Only AMD repeats the bit here.
                let repeated = now.is_apic_enabled && self.capabilities.vendor == Vendor::Amd;
                CpuidResult {
                    edx: stored.edx | when(repeated, Extended1Edx::APIC.bits()),
                    ..stored
                }
            }
            Kind::Structured => match subleaf {
                0 => stored,
                1 => self.structured1,
                _ => CpuidResult::default(),
            },
            Kind::XState => self.xstate.leaf(subleaf, self.xsave_features, now.xcr0),
            Kind::Caches => self
                .caches
                .get(subleaf as usize)
                .copied()
                .unwrap_or_default(),
            Kind::Topology => self.topology.leaf(subleaf, self.apic_id),
        }
    }
}

/// Returns the place of `leaf` in the table.
#[inline]
const fn slot(leaf: u32) -> Option<usize> {
    const EXTENDED_AT: u32 = BASIC;
    const HYPERVISOR_AT: u32 = BASIC + EXTENDED;
    if leaf < BASIC {
        return Some(leaf as usize);
    }
    let extended = leaf.wrapping_sub(EXTENDED_BASE);
    if extended < EXTENDED {
        return Some(extended.wrapping_add(EXTENDED_AT) as usize);
    }
    let hypervisor = leaf.wrapping_sub(HYPERVISOR_BASE);
    if hypervisor < HYPERVISOR {
        return Some(hypervisor.wrapping_add(HYPERVISOR_AT) as usize);
    }
    None
}

#[inline]
const fn when(condition: bool, bits: u32) -> u32 {
    if condition { bits } else { 0 }
}
