//! Who is addressed: xAPIC flat and cluster, x2APIC cluster, broadcasts, mixed modes, MSI and lowest priority.

use super::{ApicIdentity, ApicMessage, ApicMode, Delivery, Destination, RoundRobin};

fn xapic(id: u8, logical: u8, format: u8) -> ApicIdentity {
    ApicIdentity {
        id: id.into(),
        initial_id: id.into(),
        logical_id: logical.into(),
        format,
        mode: ApicMode::XApic,
        software_enabled: true,
    }
}

fn x2apic(id: u32) -> ApicIdentity {
    ApicIdentity {
        id,
        initial_id: id,
        logical_id: (id >> 4) << 16 | 1 << (id & 0xf),
        format: 0xf,
        mode: ApicMode::X2Apic,
        software_enabled: true,
    }
}

fn logical(mda: u8) -> Destination {
    Destination::narrow(mda, true)
}

#[test]
fn flat_mode_matches_any_common_bit() {
    for ldr in 0..=255_u8 {
        for mda in 0..255_u8 {
            let matches = logical(mda).matches(&xapic(3, ldr, 0xf), false);
            assert_eq!(matches, ldr & mda != 0);
        }
    }
}

#[test]
fn cluster_mode_matches_inside_its_cluster_only() {
    for ldr in 0..=255_u8 {
        for mda in 0..255_u8 {
            let expected = ldr >> 4 == mda >> 4 && ldr & mda & 0xf != 0;
            assert_eq!(logical(mda).matches(&xapic(3, ldr, 0), false), expected);
        }
    }
}

#[test]
fn all_ones_reaches_everyone_on_the_bus() {
    let mut off = xapic(1, 1, 0xf);
    off.mode = ApicMode::Disabled;
    for target in [xapic(0, 0, 0xf), xapic(9, 0, 0), x2apic(0), x2apic(700)] {
        assert!(logical(0xff).matches(&target, false));
        assert!(Destination::narrow(0xff, false).matches(&target, false));
        for destination in [
            Destination::Physical {
                id: u32::MAX,
                wide: true,
            },
            Destination::Logical {
                mda: u32::MAX,
                wide: true,
            },
            Destination::All,
        ] {
            assert!(destination.matches(&target, false));
            assert!(!destination.matches(&off, false));
        }
    }
}

#[test]
fn ff_from_an_x2apic_is_one_cpu() {
    let to_ff = Destination::Physical {
        id: 0xff,
        wide: true,
    };
    assert!(to_ff.matches(&x2apic(0xff), false));
    assert!(!to_ff.matches(&x2apic(0), false));
}

#[test]
fn x2apic_logical_ids_are_clusters_of_sixteen() {
    let mda = 1 << 16 | 0b1010;
    let to = Destination::Logical { mda, wide: true };
    for id in 0..64 {
        assert_eq!(to.matches(&x2apic(id), false), id == 17 || id == 19);
    }
    // The I/O APIC's 8 bits reach members 0 to 7 of cluster 0.
    for id in 0..64 {
        assert_eq!(
            logical(0x0d).matches(&x2apic(id), false),
            [0, 2, 3].contains(&id)
        );
    }
}

#[test]
fn aliased_ids_are_all_addressed() {
    let to_5 = Destination::narrow(5, false);
    assert!(to_5.matches(&xapic(5, 0, 0xf), false));
    let mut alias = xapic(5, 0, 0xf);
    alias.initial_id = 1;
    assert!(to_5.matches(&alias, false));
}

#[test]
fn a_cpu_with_a_wide_id_hears_its_first_init() {
    let mut target = xapic(44, 0, 0xf);
    target.initial_id = 300;
    let to = Destination::Physical {
        id: 300,
        wide: true,
    };
    assert!(to.matches(&target, false));
}

#[test]
fn shorthands_depend_on_the_sender_only() {
    let target = xapic(0, 0, 0xf);
    assert!(Destination::SelfOnly.matches(&target, true));
    assert!(!Destination::SelfOnly.matches(&target, false));
    assert!(!Destination::AllButSelf.matches(&target, true));
    assert!(Destination::AllButSelf.matches(&target, false));
}

#[test]
fn a_software_disabled_apic_takes_only_what_bypasses_the_irr() {
    let mut target = xapic(0, 0, 0xf);
    target.software_enabled = false;
    assert!(!target.accepts(Delivery::Fixed));
    assert!(!target.accepts(Delivery::LowestPriority));
    assert!(target.accepts(Delivery::Nmi));
    assert!(target.accepts(Delivery::Init));
    assert!(target.accepts(Delivery::Startup));
}

#[test]
fn an_msi_is_decoded() {
    let message = ApicMessage::from_msi(0xfee0_1004, 0x8131).unwrap();
    assert_eq!(message.destination, logical(1));
    assert_eq!(message.delivery, Delivery::LowestPriority);
    assert_eq!(message.vector, 0x31);
    assert!(message.level);
    assert!(ApicMessage::from_msi(0xfed0_0000, 0x31).is_none());
    assert!(ApicMessage::from_msi(0x1_fee0_0000, 0x31).is_none());
    assert!(ApicMessage::from_msi(0xfee0_0000, 0x331).is_none());
}

#[test]
fn lowest_priority_goes_round() {
    let mut turn = RoundRobin::default();
    let picks: [_; 5] = core::array::from_fn(|_| turn.pick([1, 4, 6].into_iter()).unwrap());
    assert_eq!(picks, [1, 4, 6, 1, 4]);
    assert_eq!(turn.pick(core::iter::empty()), None);
    assert_eq!(turn.pick([0].into_iter()), Some(0));
}
