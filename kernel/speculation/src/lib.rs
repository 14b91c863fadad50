//! Which leaks of speculative execution a CPU has, what guards against each, and whether that is done.
//!
//! A CPU is taken for open to a leak of its maker unless it says that it is not: old microcode says nothing, and being
//! wrong on that side costs time only. Left out: leaks that microcode closes without the hypervisor (gather data
//! sampling), and those inside a guest, which are its kernel's matter.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used)]

extern crate alloc;

use alloc::vec::Vec;
use api::guard::Guards;

#[cfg(test)]
mod tests;

/// Who made the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// AMD, and Hygon after it.
    Amd,
    /// Intel.
    Intel,
}

/// What a CPU says of itself; registers that it does not have read as 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Who made it.
    pub maker: Maker,
    /// CPUID leaf 7, subleaf 0: EBX.
    pub leaf7_ebx: u32,
    /// CPUID leaf 7, subleaf 0: EDX (SDM vol. 2, CPUID).
    pub leaf7_edx: u32,
    /// CPUID leaf 8000_0008h: EBX (APM vol. 3, E.4.7).
    pub leaf8_ebx: u32,
    /// CPUID leaf 8000_0021h: EAX (APM vol. 3, E.4.16).
    pub leaf21_eax: u32,
    /// MSR IA32_ARCH_CAPABILITIES (SDM vol. 4, table 2-2).
    pub arch_capabilities: u64,
}

/// How things stand with one leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The CPU does not have it.
    Absent,
    /// What guards against it is done.
    Guarded,
    /// It could be guarded against, and is not.
    Unguarded,
    /// The CPU has it and offers nothing against it.
    Defenceless,
}

/// One leak on this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What leaks, in the field's own words.
    pub name: &'static str,
    /// How things stand.
    pub state: State,
    /// What guards against it; empty where nothing is needed or nothing helps.
    pub guard: &'static str,
    /// Why: what the CPU says.
    pub reason: &'static str,
}

/// What the CPU has and wants, before it is known what is done.
enum Need {
    Absent(&'static str),
    Guard(Guards, &'static str, &'static str),
    Defenceless(&'static str),
}

use Need::{Absent, Defenceless, Guard};

/// A leak's name, and how a CPU is judged.
type Leak = (&'static str, fn(&Facts) -> Need);

const LEAKS: [Leak; 11] = [
    ("branch targets, guest to host", host_branches),
    ("branch targets, guest to guest", guest_branches),
    ("return stack", return_stack),
    ("branch history", branch_history),
    ("return targets (SRSO, Retbleed)", return_targets),
    ("L1 terminal fault", terminal_fault),
    ("microarchitectural data sampling", data_sampling),
    ("TSX asynchronous abort", transactions),
    ("MMIO stale data", stale_data),
    ("speculative store bypass", store_bypass),
    ("page-size change machine check", page_size_change),
];

/// Judges a CPU on which `done` is done.
#[must_use]
pub fn judge(facts: &Facts, done: Guards) -> Vec<Finding> {
    let finding = |(name, need): Leak| {
        let (state, guard, reason) = match need(facts) {
            Absent(reason) => (State::Absent, "", reason),
            Guard(guards, guard, reason) if done.contains(guards) => {
                (State::Guarded, guard, reason)
            }
            Guard(_, guard, reason) => (State::Unguarded, guard, reason),
            Defenceless(reason) => (State::Defenceless, "", reason),
        };
        Finding {
            name,
            state,
            guard,
            reason,
        }
    };
    LEAKS.into_iter().map(finding).collect()
}

/// Returns what has to be done on this CPU.
#[must_use]
pub fn wanted(facts: &Facts) -> Guards {
    let guards = |(_, need): Leak| match need(facts) {
        Guard(guards, ..) => guards,
        Absent(_) | Defenceless(_) => Guards::empty(),
    };
    LEAKS.into_iter().map(guards).collect()
}

impl Facts {
    fn is_amd(&self) -> bool {
        self.maker == Maker::Amd
    }

    /// A bit by which a CPU says that it does not have a leak, or what it has against it.
    fn capability(&self, bit: u32) -> bool {
        !self.is_amd() && self.arch_capabilities & 1 << bit != 0
    }

    fn leaf7(&self, bit: u32) -> bool {
        self.leaf7_edx & 1 << bit != 0
    }

    fn leaf8(&self, bit: u32) -> bool {
        self.leaf8_ebx & 1 << bit != 0
    }

    fn leaf21(&self, bit: u32) -> bool {
        self.leaf21_eax & 1 << bit != 0
    }

    fn has_ibrs(&self) -> bool {
        if self.is_amd() {
            self.leaf8(14)
        } else {
            self.leaf7(26)
        }
    }

    fn has_ibpb(&self) -> bool {
        if self.is_amd() {
            self.leaf8(12)
        } else {
            self.leaf7(26)
        }
    }

    /// Whether VERW clears the buffers of data sampling.
    fn has_md_clear(&self) -> bool {
        self.leaf7(10)
    }
}

fn host_branches(facts: &Facts) -> Need {
    let guards = Guards::HOST_BRANCHES;
    if facts.capability(1) {
        Guard(guards, "enhanced IBRS", "ARCH_CAPABILITIES.IBRS_ALL is set")
    } else if facts.is_amd() && facts.leaf21(8) {
        Guard(guards, "automatic IBRS", "CPUID 8000_0021h EAX[8] is set")
    } else if facts.has_ibrs() {
        let reason = "the CPU has IBRS, and neither the enhanced nor the automatic one";
        Guard(guards, "IBRS at every exit", reason)
    } else {
        Defenceless("the CPU has no IBRS")
    }
}

fn guest_branches(facts: &Facts) -> Need {
    if facts.has_ibpb() {
        let guard = "IBPB when a CPU passes to another VM";
        Guard(Guards::FORGET_BETWEEN_VMS, guard, "the CPU has IBPB")
    } else {
        Defenceless("the CPU has no IBPB")
    }
}

fn return_stack(_: &Facts) -> Need {
    let reason = "no exit clears the return stack";
    Guard(Guards::RETURN_STACK, "filling it after an exit", reason)
}

fn branch_history(facts: &Facts) -> Need {
    if facts.is_amd() {
        Absent("AMD's CPUs do not have it")
    } else if facts.capability(20) {
        Absent("ARCH_CAPABILITIES.BHI_NO is set")
    } else {
        let reason = "the CPU does not say BHI_NO";
        Guard(Guards::BRANCH_HISTORY, "clearing it after an exit", reason)
    }
}

fn return_targets(facts: &Facts) -> Need {
    if !facts.is_amd() {
        Absent("Intel's CPUs do not have it")
    } else if facts.leaf21(29) {
        Absent("CPUID 8000_0021h EAX[29], SRSO_NO, is set")
    } else if facts.has_ibpb() {
        let reason = "the CPU does not say SRSO_NO";
        Guard(Guards::RETURN_PREDICTOR, "IBPB at every exit", reason)
    } else {
        Defenceless("the CPU does not say SRSO_NO and has no IBPB")
    }
}

fn terminal_fault(facts: &Facts) -> Need {
    let guards = Guards::DATA_CACHE;
    if facts.is_amd() {
        Absent("AMD's CPUs do not have it")
    } else if facts.capability(0) {
        Absent("ARCH_CAPABILITIES.RDCL_NO is set")
    } else if facts.capability(3) {
        Absent("ARCH_CAPABILITIES.SKIP_L1DFL_VMENTRY is set")
    } else if facts.leaf7(28) {
        let reason = "the CPU does not say RDCL_NO, and has L1D_FLUSH";
        Guard(guards, "L1D_FLUSH before an entry", reason)
    } else {
        let reason = "the CPU does not say RDCL_NO, nor has it L1D_FLUSH";
        Guard(guards, "reading 64 KiB before an entry", reason)
    }
}

fn data_sampling(facts: &Facts) -> Need {
    if facts.is_amd() {
        Absent("AMD's CPUs do not have it")
    } else if facts.capability(5) {
        Absent("ARCH_CAPABILITIES.MDS_NO is set")
    } else if facts.has_md_clear() {
        let reason = "the CPU does not say MDS_NO, and has MD_CLEAR";
        Guard(Guards::BUFFERS, "VERW before an entry", reason)
    } else {
        Defenceless("the CPU says neither MDS_NO nor MD_CLEAR")
    }
}

fn transactions(facts: &Facts) -> Need {
    const RTM: u32 = 1 << 11;
    if facts.is_amd() {
        Absent("AMD's CPUs do not have it")
    } else if facts.leaf7_ebx & RTM == 0 {
        Absent("the CPU has no transactions")
    } else if facts.capability(8) {
        Absent("ARCH_CAPABILITIES.TAA_NO is set")
    } else if facts.has_md_clear() {
        let reason = "the CPU has transactions and MD_CLEAR";
        Guard(Guards::BUFFERS, "VERW before an entry", reason)
    } else {
        Defenceless("the CPU has transactions and no MD_CLEAR")
    }
}

fn stale_data(facts: &Facts) -> Need {
    let all_absent = [13, 14, 15].into_iter().all(|bit| facts.capability(bit));
    if facts.is_amd() {
        Absent("AMD's CPUs do not have it")
    } else if all_absent {
        Absent("SBDR_SSDP_NO, FBSDP_NO and PSDP_NO are set")
    } else if facts.capability(17) || facts.has_md_clear() && !facts.capability(5) {
        let reason = "FB_CLEAR is set, or MD_CLEAR on a CPU with data sampling";
        Guard(Guards::BUFFERS, "VERW before an entry", reason)
    } else {
        Defenceless("the CPU says neither that it is free of it nor FB_CLEAR")
    }
}

fn store_bypass(facts: &Facts) -> Need {
    if facts.capability(4) {
        return Absent("ARCH_CAPABILITIES.SSB_NO is set");
    }
    if facts.is_amd() && facts.leaf8(26) {
        return Absent("CPUID 8000_0008h EBX[26], SSB_NO, is set");
    }
    let has_switch = if facts.is_amd() {
        facts.leaf8(24)
    } else {
        facts.leaf7(31)
    };
    if has_switch {
        Guard(
            Guards::SPEC_CTRL,
            "a SPEC_CTRL for each guest",
            "the CPU has SSBD",
        )
    } else {
        Defenceless("the CPU has no SSBD")
    }
}

fn page_size_change(facts: &Facts) -> Need {
    if facts.is_amd() {
        Absent("AMD's CPUs do not have it")
    } else if facts.capability(6) {
        Absent("ARCH_CAPABILITIES.IF_PSCHANGE_MC_NO is set")
    } else {
        let reason = "the CPU does not say IF_PSCHANGE_MC_NO";
        Guard(
            Guards::SMALL_CODE_PAGES,
            "guests' code in pages of 4 KiB",
            reason,
        )
    }
}
