//! Feature bits of the host, filtered: listed in `features`, offered by configuration, and usable with the state
//! components that the guest has.

use super::features::{
    Basic1Ecx, Basic1Edx, Basic7Ebx, Basic7Ecx, Basic7Edx, Basic71Eax, Basic71Edx, Extended1Ecx,
    Extended1Edx, Extended8Ebx, XsaveEax,
};
use super::policy::{AMD_EXTENDED_LAST, INTEL_EXTENDED_LAST};
use super::xstate::{AVX, AVX512, XState};
use super::{Capabilities, CpuidConfig, CpuidResult, EXTENDED_BASE, HostCpuid, Offer, Vendor};
use api::cpu::{cr4, efer};

/// IA32_SPEC_CTRL: IBRS, STIBP, SSBD.
const SPEC_CTRL_IBRS: u64 = 1 << 0;
const SPEC_CTRL_STIBP: u64 = 1 << 1;
const SPEC_CTRL_SSBD: u64 = 1 << 2;
/// IA32_PRED_CMD: IBPB.
const PRED_CMD_IBPB: u64 = 1 << 0;

/// Feature bits of the basic leaves.
pub(super) struct Basic {
    pub(super) ecx1: Basic1Ecx,
    pub(super) edx1: Basic1Edx,
    pub(super) ebx7: Basic7Ebx,
    pub(super) ecx7: Basic7Ecx,
    pub(super) edx7: Basic7Edx,
    pub(super) eax71: Basic71Eax,
    pub(super) edx71: Basic71Edx,
    pub(super) xsave: XsaveEax,
    pub(super) xstate: XState,
}

impl Basic {
    pub(super) fn from_host(host: &dyn HostCpuid, config: &CpuidConfig, last: u32) -> Self {
        let leaf = |leaf, subleaf| {
            if leaf <= last {
                host.cpuid(leaf, subleaf)
            } else {
                CpuidResult::default()
            }
        };
        let one = leaf(1, 0);
        let seven = leaf(7, 0);
        let seven1 = if seven.eax >= 1 {
            leaf(7, 1)
        } else {
            CpuidResult::default()
        };
        let mut basic = Self {
            ecx1: Basic1Ecx::from_bits_truncate(one.ecx).difference(Basic1Ecx::SYNTHETIC),
            edx1: Basic1Edx::from_bits_truncate(one.edx)
                .difference(Basic1Edx::APIC | Basic1Edx::HTT),
            ebx7: Basic7Ebx::from_bits_truncate(seven.ebx) | Basic7Ebx::TSC_ADJUST,
            ecx7: Basic7Ecx::from_bits_truncate(seven.ecx),
            edx7: Basic7Edx::from_bits_truncate(seven.edx),
            eax71: Basic71Eax::from_bits_truncate(seven1.eax),
            edx71: Basic71Edx::from_bits_truncate(seven1.edx),
            xsave: XsaveEax::empty(),
            xstate: XState::default(),
        };
        basic.add_offers(config);
        if basic.ecx1.contains(Basic1Ecx::XSAVE) {
            basic.xsave = XsaveEax::from_bits_truncate(leaf(0xd, 1).eax);
            basic.xstate = XState::from_host(host, config.xcr0_mask);
        }
        basic.drop_unusable();
        basic
    }

    fn add_offers(&mut self, config: &CpuidConfig) {
        self.ecx1 |= Basic1Ecx::HYPERVISOR;
        self.ecx1
            .set(Basic1Ecx::X2APIC, config.offer.contains(Offer::X2APIC));
        self.ecx1.set(
            Basic1Ecx::TSC_DEADLINE,
            config.offer.contains(Offer::TSC_DEADLINE),
        );
        self.edx1
            .set(Basic1Edx::HTT, config.topology.package_threads() > 1);
        if !config.offer.contains(Offer::SPECULATION_CONTROL) {
            self.edx7.remove(Basic7Edx::SPECULATION);
        }
    }

    /// Drops what works only with state components that are not offered.
    fn drop_unusable(&mut self) {
        if self.xstate.supported() & AVX != AVX {
            self.ecx1.remove(Basic1Ecx::AVX_DEPENDENT);
            self.ebx7.remove(Basic7Ebx::AVX2);
            self.ecx7.remove(Basic7Ecx::AVX_DEPENDENT);
            self.eax71.remove(Basic71Eax::AVX_DEPENDENT);
            self.edx71.remove(Basic71Edx::AVX_DEPENDENT);
        }
        if self.xstate.supported() & AVX512 != AVX512 {
            self.ebx7.remove(Basic7Ebx::AVX512_DEPENDENT);
            self.ecx7.remove(Basic7Ecx::AVX512_DEPENDENT);
            self.edx7.remove(Basic7Edx::AVX512_DEPENDENT);
            self.eax71.remove(Basic71Eax::AVX512_DEPENDENT);
        }
    }

    pub(super) fn structured1(&self) -> CpuidResult {
        CpuidResult {
            eax: self.eax71.bits(),
            edx: self.edx71.bits(),
            ..CpuidResult::default()
        }
    }
}

/// Feature bits and sizes of the extended leaves.
pub(super) struct Extended {
    pub(super) last: u32,
    pub(super) ecx1: Extended1Ecx,
    pub(super) edx1: Extended1Edx,
    pub(super) ebx8: Extended8Ebx,
    pub(super) phys_bits: u8,
}

impl Extended {
    pub(super) fn from_host(
        host: &dyn HostCpuid,
        config: &CpuidConfig,
        vendor: Vendor,
        basic: &Basic,
    ) -> Self {
        let host_last = host.cpuid(EXTENDED_BASE, 0).eax;
        let leaf = |number: u32| {
            let leaf = EXTENDED_BASE | number;
            if leaf <= host_last {
                host.cpuid(leaf, 0)
            } else {
                CpuidResult::default()
            }
        };
        let one = leaf(1);
        let mut ecx1 = Extended1Ecx::from_bits_truncate(one.ecx);
        let mut edx1 = Extended1Edx::from_bits_truncate(one.edx & !Extended1Edx::REPEATED);
        let mut ebx8 = Extended8Ebx::from_bits_truncate(leaf(8).ebx);
        let is_amd = vendor == Vendor::Amd;
        let is_multi = config.topology.package_threads() > 1;
        ecx1.set(Extended1Ecx::CMP_LEGACY, is_amd && is_multi);
        if is_amd {
            edx1 |= Extended1Edx::from_bits_truncate(basic.edx1.bits() & Extended1Edx::REPEATED);
        } else {
            ecx1.remove(Extended1Ecx::TOPOEXT);
        }
        if basic.xstate.supported() & AVX != AVX {
            ecx1.remove(Extended1Ecx::AVX_DEPENDENT);
        }
        if !config.offer.contains(Offer::SPECULATION_CONTROL) {
            ebx8.remove(Extended8Ebx::SPECULATION);
        }
        let [host_bits, ..] = leaf(8).eax.to_le_bytes();
        Self {
            last: if is_amd {
                host_last.clamp(INTEL_EXTENDED_LAST, AMD_EXTENDED_LAST)
            } else {
                INTEL_EXTENDED_LAST
            },
            ecx1,
            edx1,
            ebx8,
            // Processors without the leaf have 36 bits (AMD APM vol. 3, Fn8000_0008).
            phys_bits: if host_bits == 0 { 36 } else { host_bits }.min(config.phys_bits_max),
        }
    }
}

pub(super) fn capabilities(vendor: Vendor, basic: &Basic, extended: &Extended) -> Capabilities {
    let has_long_mode = extended.edx1.contains(Extended1Edx::LM);
    let has_xsave = basic.ecx1.contains(Basic1Ecx::XSAVE);
    let select = |pairs: &[(bool, u64)]| {
        let chosen = pairs.iter().filter(|(present, _)| *present);
        chosen.fold(0, |all, (_, bits)| all | bits)
    };
    let intel_spec = basic.edx7;
    let amd_spec = extended.ebx8;
    let ibrs = intel_spec.contains(Basic7Edx::SPEC_CTRL) || amd_spec.contains(Extended8Ebx::IBRS);
    let stibp = intel_spec.contains(Basic7Edx::STIBP) || amd_spec.contains(Extended8Ebx::STIBP);
    let ssbd = intel_spec.contains(Basic7Edx::SSBD) || amd_spec.contains(Extended8Ebx::SSBD);
    let ibpb = intel_spec.contains(Basic7Edx::SPEC_CTRL) || amd_spec.contains(Extended8Ebx::IBPB);
    Capabilities {
        vendor,
        phys_bits: extended.phys_bits,
        cr4: allowed_cr4(basic),
        efer: select(&[
            (extended.edx1.contains(Extended1Edx::SYSCALL), efer::SCE),
            (has_long_mode, efer::LME | efer::LMA),
            (extended.edx1.contains(Extended1Edx::NX), efer::NXE),
            (extended.edx1.contains(Extended1Edx::FFXSR), efer::FFXSR),
        ]),
        xcr0: if has_xsave {
            basic.xstate.supported()
        } else {
            0
        },
        spec_ctrl: select(&[
            (ibrs, SPEC_CTRL_IBRS),
            (stibp, SPEC_CTRL_STIBP),
            (ssbd, SPEC_CTRL_SSBD),
        ]),
        pred_cmd: select(&[(ibpb, PRED_CMD_IBPB)]),
        has_tsc_aux: extended.edx1.contains(Extended1Edx::RDTSCP)
            || basic.ecx7.contains(Basic7Ecx::RDPID),
        has_long_mode,
    }
}

fn allowed_cr4(basic: &Basic) -> u64 {
    let pairs = [
        (basic.edx1.contains(Basic1Edx::VME), cr4::VME | cr4::PVI),
        (basic.edx1.contains(Basic1Edx::TSC), cr4::TSD),
        (basic.edx1.contains(Basic1Edx::DE), cr4::DE),
        (basic.edx1.contains(Basic1Edx::PSE), cr4::PSE),
        (basic.edx1.contains(Basic1Edx::PAE), cr4::PAE),
        (basic.edx1.contains(Basic1Edx::MCE), cr4::MCE),
        (basic.edx1.contains(Basic1Edx::PGE), cr4::PGE),
        (true, cr4::PCE),
        (basic.edx1.contains(Basic1Edx::FXSR), cr4::OSFXSR),
        (basic.edx1.contains(Basic1Edx::SSE), cr4::OSXMMEXCPT),
        (basic.ecx7.contains(Basic7Ecx::UMIP), cr4::UMIP),
        (basic.ecx7.contains(Basic7Ecx::LA57), cr4::LA57),
        (basic.ebx7.contains(Basic7Ebx::FSGSBASE), cr4::FSGSBASE),
        (basic.ecx1.contains(Basic1Ecx::PCID), cr4::PCIDE),
        (basic.ecx1.contains(Basic1Ecx::XSAVE), cr4::OSXSAVE),
        (basic.ebx7.contains(Basic7Ebx::SMEP), cr4::SMEP),
        (basic.ebx7.contains(Basic7Ebx::SMAP), cr4::SMAP),
    ];
    let chosen = pairs.iter().filter(|(present, _)| *present);
    chosen.fold(0, |all, (_, bits)| all | bits)
}
