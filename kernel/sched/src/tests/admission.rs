//! Tests of admission control and of the tree's operations.

use super::{HZ, Machine};
use crate::{
    Amount, CPUS_MAX, DEPTH_MAX, Error, Host, Scheduler, Settings, Shares, Topology, Tuning,
    VCPUS_MAX,
};
use alloc::string::ToString;

fn reserve(percent: u32) -> Settings {
    Settings {
        reservation: Amount::Percent(percent),
        ..Settings::default()
    }
}

fn fixed(percent: u32) -> Settings {
    Settings {
        expandable: false,
        ..reserve(percent)
    }
}

#[test]
fn a_refusal_shows_its_arithmetic() {
    let mut machine = Machine::new(Topology::flat(2));
    let root = machine.sched.root();
    machine.vm(root, reserve(150), 0);
    let error = machine.sched.create_vm(root, reserve(60), 0).unwrap_err();
    // The host's own worlds have 10 % of a CPU.
    assert_eq!(
        error.to_string(),
        "600 MHz more would be reserved here, but of 2000 MHz there are 1600 MHz reserved already \
         and 400 MHz free: 200 MHz are missing"
    );
    assert_eq!(
        machine.sched.reserved(root).unwrap().1 * 10 / crate::RATE_ONE,
        15
    );
    machine.vm(root, reserve(40), 0);
}

#[test]
fn an_expandable_pool_borrows_and_a_fixed_one_does_not() {
    let mut machine = Machine::new(Topology::flat(2));
    let root = machine.sched.root();
    let fixed_pool = machine.sched.create_pool(root, fixed(50), 0).unwrap();
    machine.vm(fixed_pool, reserve(50), 0);
    let refused = machine.sched.create_vm(fixed_pool, reserve(1), 0);
    assert!(matches!(refused, Err(Error::Reserved { at, .. }) if at == fixed_pool));
    let pool = machine.sched.create_pool(root, reserve(20), 0).unwrap();
    let (vm, _) = machine.vm(pool, reserve(100), 0);
    let (held, _) = machine.sched.reserved(pool).unwrap();
    assert_eq!(held, crate::RATE_ONE);
    let refused = machine.sched.create_vm(pool, reserve(41), 0);
    assert!(matches!(refused, Err(Error::Reserved { at, .. }) if at == root));
    machine.sched.delete(vm).unwrap();
    assert_eq!(
        machine.sched.reserved(pool).unwrap(),
        (crate::RATE_ONE / 5, 0)
    );
    machine.vm(pool, reserve(140), 0);
}

#[test]
fn senseless_settings_are_refused() {
    let mut machine = Machine::new(Topology::flat(1));
    let root = machine.sched.root();
    let mut refused = |settings| machine.sched.create_vm(root, settings, 0).unwrap_err();
    let shares = |number| Settings {
        shares: Shares::Number(number),
        ..Settings::default()
    };
    let limit = |limit, reservation| Settings {
        limit: Some(Amount::Percent(limit)),
        ..reserve(reservation)
    };
    assert!(matches!(refused(shares(0)), Error::BadShares { .. }));
    assert!(matches!(refused(shares(u32::MAX)), Error::BadShares { .. }));
    assert_eq!(refused(limit(0, 0)), Error::ZeroLimit);
    assert_eq!(
        refused(limit(20, 30)),
        Error::AboveLimit {
            reserved: 300,
            limit: 200
        }
    );
    assert!(matches!(refused(reserve(u32::MAX)), Error::Reserved { .. }));
    assert!(machine.sched.create_vm(root, limit(u32::MAX, 0), 0).is_ok());
}

#[test]
fn a_pool_cannot_come_to_lie_in_itself() {
    let mut machine = Machine::new(Topology::flat(1));
    let root = machine.sched.root();
    let outer = machine.sched.create_pool(root, reserve(0), 0).unwrap();
    let inner = machine.sched.create_pool(outer, reserve(0), 0).unwrap();
    assert_eq!(machine.sched.move_group(outer, inner, 0), Err(Error::Cycle));
    assert_eq!(machine.sched.move_group(outer, outer, 0), Err(Error::Cycle));
    assert_eq!(
        machine.sched.move_group(root, inner, 0),
        Err(Error::BuiltIn)
    );
    assert!(matches!(
        machine.sched.delete(outer),
        Err(Error::NotEmpty { .. })
    ));
    machine.sched.move_group(inner, root, 0).unwrap();
    machine.sched.delete(outer).unwrap();
    assert_eq!(machine.sched.delete(outer), Err(Error::UnknownGroup));
}

#[test]
fn a_refused_move_changes_nothing() {
    let mut machine = Machine::new(Topology::flat(1));
    let root = machine.sched.root();
    let small = machine.sched.create_pool(root, fixed(10), 0).unwrap();
    let (vm, _) = machine.vm(root, reserve(50), 0);
    let before = machine.sched.reserved(root).unwrap();
    assert!(machine.sched.move_group(vm, small, 0).is_err());
    assert_eq!(machine.sched.reserved(root).unwrap(), before);
}

#[test]
fn sizes_are_bounded() {
    let mut machine = Machine::new(Topology::flat(1));
    let mut pool = machine.sched.root();
    for _ in 2..DEPTH_MAX {
        pool = machine.sched.create_pool(pool, reserve(0), 0).unwrap();
    }
    let (vm, _) = machine.vm(pool, reserve(0), VCPUS_MAX);
    let refused = machine.sched.create_pool(pool, reserve(0), 0).unwrap();
    assert!(matches!(
        machine.sched.create_vm(refused, reserve(0), 0),
        Err(Error::TooDeep { .. })
    ));
    assert!(matches!(
        machine.sched.add_world(vm, None, 0),
        Err(Error::TooManyVcpus { .. })
    ));
    let host = Host {
        topology: Topology::flat(CPUS_MAX + 1),
        tsc_hz: HZ,
    };
    assert!(Scheduler::new(host, Tuning::default(), 0).is_err());
}
