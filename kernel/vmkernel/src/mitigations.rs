//! What this CPU says of leaks of speculative execution, and how things stand with them; the judgement is `speculation`'s.

use alloc::string::ToString;
use alloc::vec::Vec;
use arch::cpu::cpuid;
use arch::{guard, idt};
use control::{LeakState, Mitigation};
use spec::msr::Msr;
use speculation::{Facts, Maker, State, judge, wanted};

/// CPUID leaf 7, EDX: there is the MSR of the capabilities.
const HAS_ARCH_CAPABILITIES: u32 = 1 << 29;

/// Turns on what this CPU needs and can have; before the other CPUs start.
pub fn start() {
    guard::choose(wanted(&facts()));
}

/// Returns the table.
pub fn report() -> Vec<Mitigation> {
    judge(&facts(), guard::active())
        .into_iter()
        .map(|finding| Mitigation {
            leak: finding.name.to_string(),
            state: match finding.state {
                State::Absent => LeakState::Absent,
                State::Guarded => LeakState::Guarded,
                State::Unguarded => LeakState::Open,
                State::Defenceless => LeakState::Defenceless,
            },
            guard: finding.guard.to_string(),
            reason: finding.reason.to_string(),
        })
        .collect()
}

fn facts() -> Facts {
    let basic = cpuid(0, 0);
    let extended_max = cpuid(0x8000_0000, 0).eax;
    let leaf7 = if basic.eax >= 7 {
        cpuid(7, 0)
    } else {
        Default::default()
    };
    let extended = |leaf| {
        if extended_max >= leaf {
            cpuid(leaf, 0)
        } else {
            Default::default()
        }
    };
    let capabilities = (leaf7.edx & HAS_ARCH_CAPABILITIES != 0)
        .then(|| idt::rdmsr_if_present(Msr::ARCH_CAPABILITIES))
        .flatten();
    Facts {
        // "GenuineIntel" begins so; whoever else has SVM or VMX follows AMD.
        maker: if basic.ebx == u32::from_le_bytes(*b"Genu") {
            Maker::Intel
        } else {
            Maker::Amd
        },
        leaf7_ebx: leaf7.ebx,
        leaf7_edx: leaf7.edx,
        leaf8_ebx: extended(0x8000_0008).ebx,
        leaf21_eax: extended(0x8000_0021).eax,
        arch_capabilities: capabilities.unwrap_or(0),
    }
}
