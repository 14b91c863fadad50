//! What monitor test suites and Linux expect of a local APIC.

use super::registers::{
    CURRENT_COUNT, DFR, DIVIDE, EOI, ESR, ICR_HIGH, ICR_LOW, ID, INITIAL_COUNT, IRR, ISR, LDR,
    LVT_ERROR, LVT_LINT0, LVT_TIMER, PPR, SELF_IPI, SPURIOUS, TMR, TPR, VERSION,
};
use super::{ApicOutcome, Gp, LapicConfig, LintOutcome, LintPin, LocalApic, Now};
use crate::message::{ApicMode, Delivery, Destination};
use api::device::Device;
use api::time::VmInstant;

mod random;
mod timer;

const ENABLE: u64 = 1 << 11;
const X2APIC: u64 = 1 << 10;
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const TSC_DEADLINE: u32 = 2 << 17;

fn at(nanos: u64) -> Now {
    Now {
        time: VmInstant::from_nanos(nanos),
        tsc: nanos * 2,
    }
}

fn config(apic_id: u32) -> LapicConfig {
    LapicConfig {
        apic_id,
        bsp: apic_id == 0,
        x2apic: true,
        phys_bits: 40,
    }
}

fn xapic(apic_id: u32) -> LocalApic {
    let mut apic = LocalApic::new(config(apic_id));
    apic.mmio_write(SPURIOUS, 0x1ff, at(0));
    apic
}

fn x2apic(apic_id: u32) -> LocalApic {
    let mut apic = xapic(apic_id);
    apic.set_apic_base(apic.apic_base() | X2APIC).unwrap();
    apic
}

fn msr(register: u16) -> u32 {
    0x800 + u32::from(register >> 4)
}

#[test]
fn power_on_state_is_the_manuals() {
    let mut apic = LocalApic::new(config(3));
    assert_eq!(apic.apic_base(), 0xfee0_0000 | ENABLE);
    assert_eq!(
        LocalApic::new(config(0)).apic_base(),
        0xfee0_0000 | ENABLE | 1 << 8
    );
    assert_eq!(apic.mmio_read(ID, at(0)), 3 << 24);
    assert_eq!(apic.mmio_read(VERSION, at(0)), 0x0005_0014);
    assert_eq!(apic.mmio_read(SPURIOUS, at(0)), 0xff);
    assert_eq!(apic.mmio_read(DFR, at(0)), 0xffff_ffff);
    assert_eq!(apic.mmio_read(LVT_TIMER, at(0)), MASKED);
    assert!(
        !apic.accept(0x30, false),
        "software-disabled: nothing is accepted"
    );
}

#[test]
fn only_the_legal_mode_transitions_happen() {
    let mut apic = x2apic(0);
    let base = apic.apic_base() & !(ENABLE | X2APIC);
    let x2 = base | ENABLE | X2APIC;
    for (value, result) in [
        (base | X2APIC, Err(Gp)),
        (base | ENABLE, Err(Gp)),
        (x2, Ok(ApicMode::X2Apic)),
        (base, Ok(ApicMode::Disabled)),
        (base | X2APIC, Err(Gp)),
        (x2, Err(Gp)),
        (base | ENABLE, Ok(ApicMode::XApic)),
        (base | X2APIC, Err(Gp)),
        (base | ENABLE | 1, Err(Gp)),
        (base | ENABLE | 1 << 9, Err(Gp)),
        (base | ENABLE | 1 << 40, Err(Gp)),
        (base | ENABLE | 1 << 63, Err(Gp)),
        (x2, Ok(ApicMode::X2Apic)),
    ] {
        let before = apic.mode();
        match result {
            Ok(mode) => {
                assert_eq!(apic.set_apic_base(value), Ok(ApicOutcome::Reconfigured));
                assert_eq!(apic.mode(), mode);
            }
            Err(Gp) => {
                assert_eq!(apic.set_apic_base(value), Err(Gp), "{value:#x}");
                assert_eq!(apic.mode(), before);
            }
        }
    }
}

#[test]
fn without_x2apic_in_cpuid_its_bit_is_reserved() {
    let mut apic = LocalApic::new(LapicConfig {
        x2apic: false,
        ..config(0)
    });
    assert_eq!(apic.set_apic_base(apic.apic_base() | X2APIC), Err(Gp));
}

#[test]
fn the_page_moves_with_the_base_and_goes_with_the_mode() {
    let mut apic = xapic(0);
    apic.set_apic_base(0xfed4_0000 | ENABLE | 1 << 8).unwrap();
    assert_eq!(apic.mmio_page().unwrap().as_u64(), 0xfed4_0000);
    apic.set_apic_base(apic.apic_base() | X2APIC).unwrap();
    assert_eq!(apic.mmio_page(), None);
    apic.set_apic_base(0xfee0_0000).unwrap();
    assert_eq!(apic.mmio_page(), None);
}

#[test]
fn turning_it_off_restores_the_id_and_keeps_cr8() {
    let mut apic = xapic(1);
    apic.mmio_write(ID, 2 << 24, at(0));
    assert_eq!(apic.mmio_read(ID, at(0)), 2 << 24);
    apic.set_cr8(5);
    apic.accept(0x80, false);
    apic.set_apic_base(0xfee0_0000).unwrap();
    assert_eq!(apic.pending(), None);
    assert_eq!(apic.cr8(), 5);
    apic.set_cr8(10);
    assert_eq!(apic.cr8(), 10);
    apic.set_apic_base(0xfee0_0000 | ENABLE).unwrap();
    assert_eq!(apic.mmio_read(ID, at(0)), 1 << 24);
    assert_eq!(apic.mmio_read(TPR, at(0)), 0xa0);
}

#[test]
fn an_x2apic_id_does_not_follow_the_xapic_id() {
    let mut apic = xapic(0x123);
    apic.mmio_write(ID, 0x55 << 24, at(0));
    apic.set_apic_base(apic.apic_base() | X2APIC).unwrap();
    assert_eq!(apic.msr_read(msr(ID), at(0)), Ok(0x123));
    assert_eq!(apic.msr_read(msr(LDR), at(0)), Ok(0x12 << 16 | 1 << 3));
}

#[test]
fn priorities_decide_what_is_pending() {
    let mut apic = xapic(0);
    assert!(apic.accept(0x31, false));
    assert!(!apic.accept(0x31, false), "one request is remembered");
    assert!(apic.accept(0x62, true));
    assert_eq!(apic.pending(), Some(0x62));
    apic.set_cr8(6);
    assert_eq!(apic.pending(), None, "same class is not above");
    assert_eq!(apic.ack(), None);
    apic.set_cr8(5);
    assert_eq!(apic.ack(), Some(0x62));
    assert_eq!(apic.mmio_read(PPR, at(0)), 0x60);
    assert!(apic.accept(0x6f, false));
    assert_eq!(apic.pending(), None);
    let first = apic.mmio_write(EOI, 0, at(0));
    assert_eq!(
        first,
        ApicOutcome::Eoi {
            vector: 0x62,
            level: true
        }
    );
    assert_eq!(apic.mmio_read(PPR, at(0)), 0x50);
    assert_eq!(apic.ack(), Some(0x6f));
    apic.mmio_write(EOI, 0, at(0));
    assert_eq!(apic.mmio_write(EOI, 0, at(0)), ApicOutcome::None);
    assert_eq!(apic.pending(), None, "31h is below class 5");
    apic.mmio_write(TPR, 0, at(0));
    assert_eq!(apic.ack(), Some(0x31));
}

#[test]
fn the_trigger_mode_is_that_of_the_last_request() {
    let mut apic = xapic(0);
    let bit = |apic: &mut LocalApic| apic.mmio_read(TMR + 0x30, at(0)) >> 0x19 & 1;
    apic.accept(0x79, true);
    assert_eq!(bit(&mut apic), 1);
    apic.ack();
    apic.end_of_interrupt();
    assert_eq!(bit(&mut apic), 1);
    apic.accept(0x79, false);
    assert_eq!(bit(&mut apic), 0);
}

#[test]
fn software_disabling_masks_the_lvt_for_good() {
    let mut apic = xapic(0);
    apic.mmio_write(LVT_LINT0, 0x700, at(0));
    assert!(apic.accepts_extint());
    apic.accept(0x44, false);
    apic.mmio_write(SPURIOUS, 0xff, at(0));
    assert_eq!(apic.mmio_read(LVT_LINT0, at(0)), 0x700 | MASKED);
    apic.mmio_write(LVT_LINT0, 0x700, at(0));
    assert_eq!(apic.mmio_read(LVT_LINT0, at(0)), 0x700 | MASKED);
    assert!(!apic.accepts_extint());
    assert!(!apic.accept(0x45, false));
    assert_eq!(apic.pending(), Some(0x44), "what was pending stays");
}

#[test]
fn errors_show_after_a_write_and_interrupt_once() {
    let mut apic = xapic(0);
    apic.mmio_write(LVT_ERROR, 0xfe, at(0));
    apic.accept(5, false);
    apic.mmio_read(0x010, at(0));
    assert_eq!(apic.mmio_read(ESR, at(0)), 0);
    assert_eq!(apic.ack(), Some(0xfe));
    apic.end_of_interrupt();
    assert_eq!(apic.pending(), None);
    apic.mmio_write(ESR, 0, at(0));
    assert_eq!(apic.mmio_read(ESR, at(0)), 1 << 6 | 1 << 7);
    apic.mmio_write(ICR_LOW, 3, at(0));
    assert_eq!(
        apic.pending(),
        Some(0xfe),
        "the write re-armed the interrupt"
    );
    apic.mmio_write(ESR, 0, at(0));
    assert_eq!(apic.mmio_read(ESR, at(0)), 1 << 5);
    apic.mmio_write(ESR, 0, at(0));
    assert_eq!(apic.mmio_read(ESR, at(0)), 0);
}

#[test]
fn an_illegal_error_vector_does_not_chain() {
    let mut apic = xapic(0);
    apic.mmio_write(LVT_ERROR, 3, at(0));
    apic.accept(5, false);
    assert_eq!(apic.pending(), None);
}

#[test]
fn commands_become_messages() {
    let mut apic = xapic(0);
    apic.mmio_write(ICR_HIGH, 0x0700_0000, at(0));
    let ApicOutcome::Ipi(message) = apic.mmio_write(ICR_LOW, 0x4000 | 0x41, at(0)) else {
        panic!("no message");
    };
    assert_eq!(message.delivery, Delivery::Fixed);
    assert_eq!(message.vector, 0x41);
    assert_eq!(message.destination, Destination::narrow(7, false));
    assert_eq!(
        apic.mmio_read(ICR_LOW, at(0)),
        0x4041,
        "delivery status is idle"
    );
    for (low, expected) in [
        (0xc_4500, Some((Delivery::Init, Destination::AllButSelf))),
        (0xc_4608, Some((Delivery::Startup, Destination::AllButSelf))),
        (0x8_4030, Some((Delivery::Fixed, Destination::All))),
        (0x4_0500, Some((Delivery::Init, Destination::SelfOnly))),
        (
            0x0_0400,
            Some((Delivery::Nmi, Destination::narrow(7, false))),
        ),
        (
            0x0_0941,
            Some((Delivery::LowestPriority, Destination::narrow(7, true))),
        ),
        // INIT level de-assert, reserved mode, external interrupt, illegal vector.
        (0x8_8500, None),
        (0x0_0341, None),
        (0x0_0700, None),
        (0x0_000f, None),
    ] {
        let outcome = match apic.mmio_write(ICR_LOW, low, at(0)) {
            ApicOutcome::Ipi(message) => Some((message.delivery, message.destination)),
            ApicOutcome::None => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(outcome, expected, "{low:#x}");
    }
}

#[test]
fn a_self_ipi_needs_no_message() {
    let mut apic = xapic(0);
    assert_eq!(apic.mmio_write(ICR_LOW, 0x4_00f1, at(0)), ApicOutcome::None);
    assert_eq!(apic.ack(), Some(0xf1));
    apic.end_of_interrupt();
    let mut apic = x2apic(0);
    assert_eq!(
        apic.msr_write(0x830, 0x4_00f1, at(0)),
        Ok(ApicOutcome::None)
    );
    assert_eq!(apic.ack(), Some(0xf1));
    assert!(matches!(
        apic.msr_write(0x80b, 0, at(0)),
        Ok(ApicOutcome::Eoi { vector: 0xf1, .. })
    ));
    assert_eq!(apic.msr_write(0x83f, 0xb0, at(0)), Ok(ApicOutcome::None));
    assert_eq!(apic.ack(), Some(0xb0));
}

#[test]
fn x2apic_commands_carry_wide_destinations() {
    let mut apic = x2apic(0);
    let outcome = apic.msr_write(0x830, 0x1_0000_0002_u64 << 16 | 0x4041, at(0));
    assert_eq!(outcome, Err(Gp), "bit 17 is reserved");
    let value = 0x0001_0005_u64 << 32 | 0x4841;
    let Ok(ApicOutcome::Ipi(message)) = apic.msr_write(0x830, value, at(0)) else {
        panic!("no message");
    };
    let mda = 0x0001_0005;
    assert_eq!(
        message.destination,
        Destination::Logical { mda, wide: true }
    );
    assert_eq!(apic.msr_read(0x830, at(0)), Ok(value));
}

/// What each x2APIC register permits: readable, writable.
fn x2apic_rights(register: u16) -> (bool, bool) {
    match register {
        ID | VERSION | PPR | LDR | CURRENT_COUNT | 0x100..=0x270 => (true, false),
        TPR | SPURIOUS | ESR | ICR_LOW | 0x320..=0x370 | INITIAL_COUNT | DIVIDE => (true, true),
        EOI | SELF_IPI => (false, true),
        _ => (false, false),
    }
}

#[test]
fn every_x2apic_msr_has_the_rights_of_the_manual() {
    for index in 0..0x100_u16 {
        let register = index << 4;
        let (readable, writable) = x2apic_rights(register);
        let mut apic = x2apic(0);
        let number = msr(register);
        assert_eq!(
            apic.msr_read(number, at(0)).is_ok(),
            readable,
            "read {number:#x}"
        );
        assert_eq!(
            apic.msr_write(number, 0, at(0)).is_ok(),
            writable,
            "write {number:#x}"
        );
        if readable && writable {
            assert_eq!(
                apic.msr_read(number, at(0)),
                Ok(0),
                "{number:#x} holds a zero"
            );
        }
        if register != ICR_LOW {
            assert_eq!(apic.msr_write(number, u64::MAX, at(0)), Err(Gp));
            assert_eq!(apic.msr_write(number, 1 << 32, at(0)), Err(Gp));
        }
        let mut other = xapic(0);
        assert_eq!(other.msr_read(number, at(0)), Err(Gp));
        assert_eq!(other.msr_write(number, 0, at(0)), Err(Gp));
    }
    let mut apic = x2apic(0);
    for reserved in [0x100, 0xff00, 0xff00_0000] {
        assert_eq!(apic.msr_write(msr(SELF_IPI), reserved, at(0)), Err(Gp));
        assert_eq!(apic.msr_write(msr(TPR), reserved, at(0)), Err(Gp));
        assert_eq!(apic.msr_write(msr(EOI), reserved, at(0)), Err(Gp));
        assert_eq!(apic.msr_write(msr(ESR), reserved, at(0)), Err(Gp));
    }
}

#[test]
fn pins_follow_their_lvt_entries() {
    let mut apic = xapic(0);
    assert_eq!(apic.raise_lint(LintPin::Lint1), LintOutcome::None);
    assert!(!apic.accepts_extint());
    apic.enter_virtual_wire();
    assert!(apic.accepts_extint());
    assert_eq!(apic.raise_lint(LintPin::Lint0), LintOutcome::ExtInt);
    assert_eq!(apic.raise_lint(LintPin::Lint1), LintOutcome::Nmi);
    apic.mmio_write(LVT_LINT0, 0x31, at(0));
    assert_eq!(apic.raise_lint(LintPin::Lint0), LintOutcome::None);
    assert_eq!(apic.pending(), Some(0x31));
    apic.set_apic_base(0xfee0_0000).unwrap();
    assert!(apic.accepts_extint(), "as if there were no local APIC");
    assert_eq!(apic.raise_lint(LintPin::Lint1), LintOutcome::Nmi);
    let mut second = xapic(1);
    second.set_apic_base(0xfee0_0000).unwrap();
    assert!(!second.accepts_extint());
}

#[test]
fn init_keeps_mode_base_and_id() {
    let mut apic = xapic(1);
    apic.mmio_write(ID, 9 << 24, at(0));
    apic.mmio_write(LDR, 0xff00_0000, at(0));
    apic.set_apic_base(0xfed4_0000 | ENABLE).unwrap();
    apic.accept(0x55, false);
    apic.init();
    assert_eq!(apic.apic_base(), 0xfed4_0000 | ENABLE);
    assert_eq!(apic.identity().id, 9);
    assert_eq!(apic.identity().logical_id, 0);
    assert!(!apic.identity().software_enabled);
    assert_eq!(apic.pending(), None);
}

#[test]
fn impossible_saved_states_are_refused() {
    let good = xapic(0).save();
    let spoilt: [fn(&mut super::saved::LapicSaved); 10] = [
        |s| s.apic_base |= 1,
        |s| s.apic_base ^= 1 << 8,
        |s| s.apic_base ^= ENABLE | X2APIC,
        |s| s.irr[0] = 1,
        |s| s.isr[0] = 1 << 15,
        |s| s.lvt[5] = 1 << 13,
        |s| s.timer_divide = 4,
        |s| s.format = 16,
        |s| s.tsc_deadline = 1,
        |s| {
            s.apic_base &= !ENABLE;
            s.irr[1] = 1;
        },
    ];
    for spoil in spoilt {
        let mut saved = good.clone();
        spoil(&mut saved);
        let mut apic = xapic(0);
        assert!(apic.restore(saved).is_err());
        assert_eq!(apic.save(), good);
    }
}

#[test]
fn request_and_service_registers_show_their_bits() {
    let mut apic = xapic(0);
    apic.accept(0xb7, false);
    assert_eq!(apic.mmio_read(IRR + 0x50, at(0)), 1 << 0x17);
    apic.ack();
    assert_eq!(apic.mmio_read(IRR + 0x50, at(0)), 0);
    assert_eq!(apic.mmio_read(ISR + 0x50, at(0)), 1 << 0x17);
}
