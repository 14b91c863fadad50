//! What is said of an exit, and of an entry that the CPU refused: every control beside what its MSR allows, and the
//! first of the manual's checks (SDM vol. 3, 27.2 and 27.3) that the VMCS does not pass.

use super::capability::Allowed;
use super::features;
use super::vcpu::ENTRY_REFUSED;
use super::vmcs::read;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use api::cpu::segment::{CS, SS};
use spec::event::Event;
use spec::vmx::{EntryControls, Interruptibility, field};
use spec::x86::{Cr0, Cr4, Efer, Rflags};

/// Lines about the last exit.
pub(super) fn describe() -> Vec<String> {
    const ENTRY_FAILED: u32 = 1 << 31;
    let reason = read(field::EXIT_REASON);
    let mut lines = Vec::new();
    lines.push(format!(
        "VMX exit {:#x}, qualification {:#x}, event {:#x}, vectoring {:#x}, length {}",
        reason,
        read(field::EXIT_QUALIFICATION),
        read(field::EXIT_EVENT),
        read(field::VECTORING_EVENT),
        read(field::EXIT_LENGTH),
    ));
    if reason == ENTRY_REFUSED {
        let number = read(field::INSTRUCTION_ERROR);
        lines.push(format!(
            "the entry failed with error {number}: {}",
            error_name(number)
        ));
    }
    if reason & ENTRY_FAILED != 0 {
        explain(&mut lines);
    }
    lines
}

/// Names of VM-instruction errors that an entry can end with (SDM vol. 3, 31.4).
fn error_name(number: u32) -> &'static str {
    match number {
        4 => "the VMCS is not clear for a launch",
        5 => "the VMCS was not launched",
        7 => "a control field is not valid",
        8 => "a field of the host's state is not valid",
        26 => "events are blocked by a load of SS",
        _ => "see the manual",
    }
}

fn explain(lines: &mut Vec<String>) {
    for (name, value, allowed) in controls() {
        let wrong = allowed.violations(value);
        let verdict = if wrong == 0 {
            String::from("allowed")
        } else {
            format!("bits {wrong:#x} are not allowed")
        };
        lines.push(format!(
            "{name} controls {value:#010x}: {verdict} (must {:#010x}, may {:#010x})",
            allowed.0 as u32,
            allowed.0 >> 32
        ));
    }
    let first = failed_check(&Guest::read());
    lines.push(match first {
        Some(what) => format!("the check that failed: {what}"),
        None => String::from("the guest's state passes the checks that Basalt knows"),
    });
}

fn controls() -> [(&'static str, u32, Allowed); 5] {
    let c = &features().capabilities;
    [
        ("pin-based", read(field::PIN_CONTROLS), c.pin),
        ("primary", read(field::PRIMARY_CONTROLS), c.primary),
        ("secondary", read(field::SECONDARY_CONTROLS), c.secondary),
        ("exit", read(field::EXIT_CONTROLS), c.exit),
        ("entry", read(field::ENTRY_CONTROLS), c.entry),
    ]
}

/// What the checks look at.
#[derive(Clone, Copy, Debug)]
struct Guest {
    cr0: Cr0,
    cr4: Cr4,
    efer: Efer,
    rip: u64,
    rflags: Rflags,
    is_64bit_entry: bool,
    /// Access rights and limits of ES, CS, SS, DS, FS, GS, LDTR and TR.
    rights: [u32; 8],
    limits: [u32; 8],
    blocking: Interruptibility,
    event: Event,
}

impl Guest {
    fn read() -> Self {
        Self {
            cr0: Cr0::from_bits_retain(read(field::GUEST_CR0)),
            cr4: Cr4::from_bits_retain(read(field::GUEST_CR4)),
            efer: Efer::from_bits_retain(read(field::GUEST_EFER)),
            rip: read(field::GUEST_RIP),
            rflags: Rflags::from_bits_retain(read(field::GUEST_RFLAGS)),
            is_64bit_entry: read(field::ENTRY_CONTROLS) & EntryControls::GUEST_64BIT.bits() != 0,
            rights: core::array::from_fn(|n| read(field::GUEST_RIGHTS.nth(n))),
            limits: core::array::from_fn(|n| read(field::GUEST_LIMIT.nth(n))),
            blocking: Interruptibility::from_bits_retain(read(field::GUEST_INTERRUPTIBILITY)),
            event: Event(u64::from(read(field::ENTRY_EVENT))),
        }
    }
}

/// Returns the first check that fails, of those on the guest's state that software can get wrong.
fn failed_check(g: &Guest) -> Option<&'static str> {
    control_registers(g)
        .or_else(|| segments(g))
        .or_else(|| events(g))
}

fn first(checks: &[(bool, &'static str)]) -> Option<&'static str> {
    checks
        .iter()
        .find(|(fails, _)| *fails)
        .map(|(_, what)| *what)
}

fn control_registers(g: &Guest) -> Option<&'static str> {
    let paging = g.cr0.contains(Cr0::PG);
    let active = g.efer.contains(Efer::LMA);
    first(&[
        (!g.cr0.contains(Cr0::NE), "CR0.NE is clear"),
        (paging && !g.cr0.contains(Cr0::PE), "CR0 has PG without PE"),
        (!g.cr4.contains(Cr4::VMXE), "CR4.VMXE is clear"),
        (
            g.is_64bit_entry && !(paging && g.cr4.contains(Cr4::PAE)),
            "long mode without paging or PAE",
        ),
        (
            !g.is_64bit_entry && g.cr4.contains(Cr4::PCIDE),
            "CR4.PCIDE outside long mode",
        ),
        (
            active != g.is_64bit_entry,
            "EFER.LMA is not what the entry controls say",
        ),
        (
            paging && active != g.efer.contains(Efer::LME),
            "EFER.LMA is not EFER.LME under paging",
        ),
        (!g.rflags.contains(Rflags::ONE), "bit 1 of RFLAGS is clear"),
        (
            g.rflags.contains(Rflags::VM) && (g.is_64bit_entry || !g.cr0.contains(Cr0::PE)),
            "virtual-8086 mode where there is none",
        ),
    ])
}

fn segments(g: &Guest) -> Option<&'static str> {
    const UNUSABLE: u32 = 1 << 16;
    const LONG: u32 = 1 << 13;
    const BIG: u32 = 1 << 14;
    let usable = |n: usize| g.rights[n] & UNUSABLE == 0;
    let kind = |n: usize| g.rights[n] & 0xf;
    let granularity_is_wrong = |n: usize| {
        let granular = g.rights[n] & 1 << 15 != 0;
        usable(n)
            && ((granular && g.limits[n] & 0xfff != 0xfff) || (!granular && g.limits[n] >> 20 != 0))
    };
    let bad_data = |n: usize| n != CS && usable(n) && g.rights[n] & 0x91 != 0x91;
    let is_64bit = g.is_64bit_entry && g.rights[CS] & LONG != 0;
    first(&[
        (!usable(CS), "CS is unusable"),
        (
            !matches!(kind(CS), 3 | 9 | 11 | 13 | 15),
            "CS is no accessed code segment",
        ),
        (is_64bit && g.rights[CS] & BIG != 0, "CS has both L and D"),
        (
            usable(SS) && !matches!(kind(SS), 3 | 7),
            "SS is no writable, accessed data segment",
        ),
        (
            (0..6).any(bad_data),
            "a data segment is not present, not accessed or a system segment",
        ),
        (
            (0..8).any(granularity_is_wrong),
            "a segment's granularity does not go with its limit",
        ),
        (
            !usable(7) || !(kind(7) == 11 || kind(7) == 3 && !g.is_64bit_entry),
            "TR is no busy task-state segment",
        ),
        (
            usable(6) && (kind(6) != 2 || g.rights[6] & 0x80 == 0),
            "LDTR is no local descriptor table",
        ),
        (
            !is_64bit && g.rip >> 32 != 0,
            "RIP is beyond 4 GiB outside 64-bit mode",
        ),
    ])
}

fn events(g: &Guest) -> Option<&'static str> {
    let shadow = Interruptibility::STI | Interruptibility::MOV_SS;
    let injects = |kind| g.event.is_valid() && g.event.kind() == kind;
    first(&[
        (
            g.blocking.contains(shadow),
            "blocking by STI and by MOV SS at once",
        ),
        (
            g.blocking.contains(Interruptibility::STI) && !g.rflags.contains(Rflags::IF),
            "blocking by STI with interrupts off",
        ),
        (
            injects(Event::TYPE_INTR)
                && (!g.rflags.contains(Rflags::IF) || g.blocking.intersects(shadow)),
            "an interrupt is injected that the guest cannot take",
        ),
        (
            injects(Event::TYPE_NMI)
                && g.blocking
                    .intersects(Interruptibility::NMI | Interruptibility::MOV_SS),
            "an NMI is injected that the guest cannot take",
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::{Guest, failed_check};
    use crate::vmx::segment::rights_of;
    use api::cpu::SegmentAttributes as Attr;
    use spec::event::Event;
    use spec::vmx::Interruptibility;
    use spec::x86::{Cr0, Cr4, Efer, Rflags};

    fn real_mode() -> Guest {
        let data = rights_of(Attr::DATA16);
        let mut rights = [data; 8];
        rights[1] = rights_of(Attr::CODE16);
        rights[6] = rights_of(Attr::LDT);
        rights[7] = rights_of(Attr::TSS_BUSY);
        Guest {
            cr0: Cr0::NE | Cr0::ET,
            cr4: Cr4::VMXE,
            efer: Efer::empty(),
            rip: 0xfff0,
            rflags: Rflags::ONE,
            is_64bit_entry: false,
            rights,
            limits: [0xffff; 8],
            blocking: Interruptibility::empty(),
            event: Event::default(),
        }
    }

    #[test]
    fn the_state_after_reset_passes() {
        assert_eq!(failed_check(&real_mode()), None);
    }

    #[test]
    fn each_mistake_is_named() {
        let named = |change: fn(&mut Guest)| {
            let mut guest = real_mode();
            change(&mut guest);
            failed_check(&guest).unwrap_or("passes")
        };
        assert!(named(|g| g.cr0 = Cr0::ET).contains("NE"));
        assert!(named(|g| g.cr0 |= Cr0::PG).contains("PG"));
        assert!(named(|g| g.efer = Efer::LMA).contains("LMA"));
        assert!(named(|g| g.rights[1] = 0x9a).contains("CS"));
        assert!(named(|g| g.rights[7] = 0x89).contains("TR"));
        assert!(named(|g| g.limits[3] = u32::MAX).contains("granularity"));
        assert!(named(|g| g.event = Event::interrupt(32)).contains("interrupt"));
        assert!(named(|g| g.blocking = Interruptibility::STI).contains("STI"));
        assert!(named(|g| g.rip = 1 << 40).contains("RIP"));
    }
}
