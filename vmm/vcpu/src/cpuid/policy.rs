//! Which leaves and bits of the host a guest sees, and what is put in their place.

use super::features::{Basic1Ecx, Extended1Ecx, Extended21Eax};
use super::filter::{Basic, Extended, capabilities};
use super::{
    BASIC, CACHES, Cpuid, CpuidResult, EXTENDED_BASE, HYPERVISOR_BASE, HostCpuid, Kind, Leaf,
    SLOTS, Topology, slot,
};
use api::cpu::cr4;
use bitflags::bitflags;

/// Who made the host's processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// AMD, and Hygon, which follows AMD's manual.
    Amd,
    /// Intel, and all others.
    Intel,
}

bitflags! {
    /// Features that the VM offers by its own means, or whose use the kernel has prepared.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Offer: u8 {
        /// The local APIC emulates x2APIC.
        const X2APIC = 1 << 0;
        /// The local APIC emulates the TSC-deadline timer.
        const TSC_DEADLINE = 1 << 1;
        /// The guest's TSC runs at one rate in all power states.
        const INVARIANT_TSC = 1 << 2;
        /// IA32_SPEC_CTRL and IA32_PRED_CMD reach the hardware.
        const SPECULATION_CONTROL = 1 << 3;
    }
}

/// What the leaves of a vCPU depend on besides the host.
#[derive(Clone, Copy, Debug)]
pub struct CpuidConfig {
    /// How the VM's vCPUs are grouped.
    pub topology: Topology,
    /// APIC id of this vCPU.
    pub apic_id: u32,
    /// Frequency of the guest's TSC in kHz.
    pub tsc_khz: u32,
    /// Frequency of the local APIC's timer in kHz, before its divider.
    pub apic_bus_khz: u32,
    /// Widest guest-physical address that second-level paging translates, 32 to 52 bits.
    pub phys_bits_max: u8,
    /// Bits of XCR0 whose state the kernel switches between vCPUs.
    pub xcr0_mask: u64,
    /// What the VM and the kernel offer.
    pub offer: Offer,
}

/// What a vCPU may set in control registers and MSRs: it follows from the leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Maker of the processor.
    pub vendor: Vendor,
    /// Width of guest-physical addresses in bits.
    pub phys_bits: u8,
    /// Bits of CR4 that may be one.
    pub cr4: u64,
    /// Bits of EFER that may be one.
    pub efer: u64,
    /// Bits of XCR0 that may be one; zero without XSAVE.
    pub xcr0: u64,
    /// Bits of IA32_SPEC_CTRL that may be one; zero when it does not exist.
    pub spec_ctrl: u64,
    /// Bits of IA32_PRED_CMD that may be one; zero when it does not exist.
    pub pred_cmd: u64,
    /// Whether IA32_TSC_AUX exists.
    pub has_tsc_aux: bool,
    /// Whether 64-bit mode exists.
    pub has_long_mode: bool,
}

/// The hypervisor's signature, in EBX, ECX and EDX of leaf 4000_0000h.
const SIGNATURE: [[u8; 4]; 3] = [*b"Basa", *b"ltBa", *b"salt"];
/// Highest leaf of the hypervisor's range: frequencies, by the convention that VMware began.
const HYPERVISOR_LAST: u32 = HYPERVISOR_BASE + 0x10;
/// Highest basic leaf on AMD: extended state.
const AMD_LAST: u32 = 0xd;
/// Highest basic leaf on Intel: frequencies.
const INTEL_LAST: u32 = 0x16;
/// Highest basic leaf on Intel hosts that have it: topology, second version.
const INTEL_TOPOLOGY2: u32 = 0x1f;
/// Highest extended leaf on Intel: address sizes.
pub(super) const INTEL_EXTENDED_LAST: u32 = EXTENDED_BASE + 8;
/// Highest extended leaf on AMD.
pub(super) const AMD_EXTENDED_LAST: u32 = EXTENDED_BASE + 0x21;
/// Builds the leaves of one vCPU.
pub(super) fn build(host: &dyn HostCpuid, config: &CpuidConfig) -> Cpuid {
    let identity = host.cpuid(0, 0);
    let vendor = vendor(&identity);
    let basic = Basic::from_host(host, config, identity.eax);
    let extended = Extended::from_host(host, config, vendor, &basic);
    let cpuid = Cpuid {
        leaves: [Leaf::default(); SLOTS],
        structured1: basic.structured1(),
        caches: caches(host, config, vendor, &extended),
        xstate: basic.xstate,
        xsave_features: basic.xsave.bits(),
        topology: config.topology,
        apic_id: config.apic_id,
        capabilities: capabilities(vendor, &basic, &extended),
    };
    let mut builder = Builder { cpuid };
    builder.basic(host, config, &identity, &basic);
    builder.frequencies(config);
    builder.extended(host, config, &identity, &extended);
    builder.amd_only(host, config, &extended);
    builder.hypervisor(config);
    builder.cpuid
}

fn vendor(identity: &CpuidResult) -> Vendor {
    let name = [identity.ebx, identity.edx, identity.ecx].map(u32::to_le_bytes);
    match name.as_flattened() {
        b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
        _ => Vendor::Intel,
    }
}

/// Lists the host's caches, each shared by the threads that share it in the guest's topology.
fn caches(
    host: &dyn HostCpuid,
    config: &CpuidConfig,
    vendor: Vendor,
    extended: &Extended,
) -> [CpuidResult; CACHES] {
    /// EAX bits 25:14: how many threads share the cache, less one. Bits 31:26, on Intel: cores, less one.
    const SHARING: u32 = 0xfff << 14;
    const CORES: u32 = 0x3f << 26;
    let mut caches = [CpuidResult::default(); CACHES];
    let leaf = match vendor {
        Vendor::Amd if extended.ecx1.contains(Extended1Ecx::TOPOEXT) => EXTENDED_BASE | 0x1d,
        Vendor::Amd => return caches,
        Vendor::Intel => 4,
    };
    let topology = &config.topology;
    // Intel counts APIC ids, AMD threads.
    let spread = |threads: u32, bits: u32| match vendor {
        Vendor::Amd => threads.saturating_sub(1),
        Vendor::Intel => (1u32 << bits).saturating_sub(1),
    };
    let core_bits = topology
        .package_bits()
        .saturating_sub(topology.thread_bits());
    let cores = (1u32 << core_bits).saturating_sub(1).min(0x3f);
    for (cache, subleaf) in caches.iter_mut().zip(0..) {
        let r = host.cpuid(leaf, subleaf);
        // Type 0 ends the list.
        if r.eax & 0x1f == 0 {
            break;
        }
        let level = r.eax >> 5 & 7;
        let sharing = if level >= 3 {
            spread(topology.package_threads(), topology.package_bits())
        } else {
            spread(topology.threads(), topology.thread_bits())
        };
        let mut eax = r.eax & !(SHARING | CORES) | sharing.min(0xfff) << 14;
        if vendor == Vendor::Intel {
            eax |= cores << 26;
        }
        *cache = CpuidResult { eax, ..r };
    }
    caches
}

/// Fills the table.
struct Builder {
    cpuid: Cpuid,
}

impl Builder {
    fn set(&mut self, leaf: u32, kind: Kind, registers: CpuidResult) {
        let place = slot(leaf).and_then(|slot| self.cpuid.leaves.get_mut(slot));
        debug_assert!(place.is_some(), "leaf {leaf:#x} has no slot");
        if let Some(place) = place {
            *place = Leaf { registers, kind };
        }
    }

    fn plain(&mut self, leaf: u32, registers: CpuidResult) {
        self.set(leaf, Kind::Plain, registers);
    }

    fn is_amd(&self) -> bool {
        self.cpuid.capabilities.vendor == Vendor::Amd
    }

    fn basic(
        &mut self,
        host: &dyn HostCpuid,
        config: &CpuidConfig,
        identity: &CpuidResult,
        basic: &Basic,
    ) {
        /// Leaf 6 EAX: the APIC timer runs in all power states.
        const ARAT: u32 = 1 << 2;
        let last = match identity.eax {
            _ if self.is_amd() => AMD_LAST,
            INTEL_TOPOLOGY2.. => INTEL_TOPOLOGY2,
            _ => INTEL_LAST,
        };
        self.plain(
            0,
            CpuidResult {
                eax: last,
                ..*identity
            },
        );
        let one = host.cpuid(1, 0);
        let topology = &config.topology;
        let siblings = match topology.package_threads() {
            1 => 0,
            count if self.is_amd() => count,
            _ => 1 << topology.package_bits(),
        };
        let identity_fields = one.ebx & 0xffff | siblings.min(0xff) << 16 | config.apic_id << 24;
        let features = CpuidResult {
            eax: one.eax,
            ebx: identity_fields,
            ecx: basic.ecx1.bits(),
            edx: basic.edx1.bits(),
        };
        self.set(1, Kind::Features, features);
        if !self.is_amd() {
            self.plain(2, host.cpuid(2, 0));
            self.set(4, Kind::Caches, CpuidResult::default());
            if last == INTEL_TOPOLOGY2 {
                self.set(INTEL_TOPOLOGY2, Kind::Topology, CpuidResult::default());
            }
        }
        self.plain(
            6,
            CpuidResult {
                eax: ARAT,
                ..CpuidResult::default()
            },
        );
        let has_second = basic.eax71.bits() | basic.edx71.bits() != 0;
        let structured = CpuidResult {
            eax: u32::from(has_second),
            ebx: basic.ebx7.bits(),
            ecx: basic.ecx7.bits(),
            edx: basic.edx7.bits(),
        };
        self.set(7, Kind::Structured, structured);
        self.set(0xb, Kind::Topology, CpuidResult::default());
        if basic.ecx1.contains(Basic1Ecx::XSAVE) {
            self.set(0xd, Kind::XState, CpuidResult::default());
        }
    }

    /// Leaf 16h, the processor's nominal frequency. Leaf 15h, the TSC's ratio to a crystal, stays empty: guests take the
    /// crystal for the APIC timer's clock, whose frequency here times any exact ratio overflows the 32 bits in which
    /// Linux multiplies them; it then took a TSC of 50 MHz for one of 2.7 MHz. Without it guests calibrate.
    fn frequencies(&mut self, config: &CpuidConfig) {
        if self.is_amd() {
            return;
        }
        let mhz = config.tsc_khz.saturating_add(500) / 1000;
        let nominal = CpuidResult {
            eax: mhz,
            ebx: mhz,
            ecx: 100,
            edx: 0,
        };
        self.plain(0x16, nominal);
    }

    fn extended(
        &mut self,
        host: &dyn HostCpuid,
        config: &CpuidConfig,
        identity: &CpuidResult,
        extended: &Extended,
    ) {
        /// Leaf 8000_0007h EDX: the TSC is invariant.
        const INVARIANT_TSC: u32 = 1 << 8;
        let mut first = CpuidResult {
            eax: extended.last,
            ..CpuidResult::default()
        };
        if self.is_amd() {
            first = CpuidResult {
                eax: extended.last,
                ..*identity
            };
        }
        self.plain(EXTENDED_BASE, first);
        let one = host.cpuid(EXTENDED_BASE | 1, 0);
        let features = CpuidResult {
            eax: one.eax,
            ebx: one.ebx,
            ecx: extended.ecx1.bits(),
            edx: extended.edx1.bits(),
        };
        self.set(EXTENDED_BASE | 1, Kind::ExtendedFeatures, features);
        // The name, and sizes of caches and TLBs.
        for leaf in EXTENDED_BASE | 2..=EXTENDED_BASE | 6 {
            self.plain(leaf, host.cpuid(leaf, 0));
        }
        let invariant = config.offer.contains(Offer::INVARIANT_TSC);
        let edx = if invariant { INVARIANT_TSC } else { 0 };
        self.plain(
            EXTENDED_BASE | 7,
            CpuidResult {
                edx,
                ..CpuidResult::default()
            },
        );
        let has_la57 = self.cpuid.capabilities.cr4 & cr4::LA57 != 0;
        let linear_bits = if has_la57 { 57 } else { 48 };
        let mut sizes = CpuidResult {
            eax: u32::from(extended.phys_bits) | linear_bits << 8,
            ebx: extended.ebx8.bits(),
            ..CpuidResult::default()
        };
        if self.is_amd() {
            let topology = &config.topology;
            let threads = topology.package_threads().saturating_sub(1);
            sizes.ecx = threads.min(0xff) | topology.package_bits() << 12;
        }
        self.plain(EXTENDED_BASE | 8, sizes);
    }

    /// Leaves that only AMD has: TLB sizes, hints, caches, topology, and late feature bits.
    fn amd_only(&mut self, host: &dyn HostCpuid, config: &CpuidConfig, extended: &Extended) {
        let exists = |leaf: u32| leaf <= extended.last;
        for leaf in [EXTENDED_BASE | 0x19, EXTENDED_BASE | 0x1a] {
            if exists(leaf) {
                self.plain(leaf, host.cpuid(leaf, 0));
            }
        }
        if extended.ecx1.contains(Extended1Ecx::TOPOEXT) {
            self.set(EXTENDED_BASE | 0x1d, Kind::Caches, CpuidResult::default());
            let topology = &config.topology;
            let core = (config.apic_id & (1u32 << topology.package_bits()).wrapping_sub(1))
                >> topology.thread_bits();
            let identity = CpuidResult {
                eax: config.apic_id,
                ebx: core & 0xff | topology.threads().saturating_sub(1) << 8,
                // One node per package; its number.
                ecx: config.apic_id >> topology.package_bits() & 0xff,
                edx: 0,
            };
            self.plain(EXTENDED_BASE | 0x1e, identity);
        }
        if exists(AMD_EXTENDED_LAST) {
            let bits = Extended21Eax::from_bits_truncate(host.cpuid(AMD_EXTENDED_LAST, 0).eax)
                | Extended21Eax::NO_SMM_CTL_MSR;
            self.plain(
                AMD_EXTENDED_LAST,
                CpuidResult {
                    eax: bits.bits(),
                    ..CpuidResult::default()
                },
            );
        }
    }

    fn hypervisor(&mut self, config: &CpuidConfig) {
        let [ebx, ecx, edx] = SIGNATURE.map(u32::from_le_bytes);
        let first = CpuidResult {
            eax: HYPERVISOR_LAST,
            ebx,
            ecx,
            edx,
        };
        self.plain(HYPERVISOR_BASE, first);
        let frequencies = CpuidResult {
            eax: config.tsc_khz,
            ebx: config.apic_bus_khz,
            ..CpuidResult::default()
        };
        self.plain(HYPERVISOR_LAST, frequencies);
    }
}

const _: () = assert!(INTEL_TOPOLOGY2 < BASIC);
