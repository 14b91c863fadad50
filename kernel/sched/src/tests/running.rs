//! Tests of who gets how much, on hosts whose worlds want all they can get.

use super::{MS, Machine, close};
use crate::{Amount, Cpu, CpuSet, Error, Settings, Shares, Topology, WorldState};

const SECOND: u64 = 1000 * MS;

fn shares(number: u32) -> Settings {
    Settings {
        shares: Shares::Number(number),
        ..Settings::default()
    }
}

#[test]
fn shares_divide_one_cpu() {
    let mut machine = Machine::new(Topology::flat(1));
    let root = machine.sched.root();
    let worlds: alloc::vec::Vec<_> = (1..=3)
        .map(|number| machine.vm(root, shares(number * 1000), 1).1)
        .collect();
    machine.run(6 * SECOND);
    for (number, worlds) in (1u64..).zip(&worlds) {
        close(machine.ran_ms(worlds), number * 1000);
    }
}

#[test]
fn three_worlds_divide_two_cpus_evenly() {
    let mut machine = Machine::new(Topology::flat(2));
    let root = machine.sched.root();
    let worlds: alloc::vec::Vec<_> = (0..3)
        .map(|_| machine.vm(root, shares(1000), 1).1)
        .collect();
    machine.run(3 * SECOND);
    for worlds in &worlds {
        close(machine.ran_ms(worlds), 2000);
    }
}

#[test]
fn a_limit_holds_on_an_idle_host() {
    let mut machine = Machine::new(Topology::flat(2));
    let root = machine.sched.root();
    let limited = Settings {
        limit: Some(Amount::Percent(30)),
        ..Settings::default()
    };
    let (_, worlds) = machine.vm(root, limited, 2);
    machine.run(4 * SECOND);
    close(machine.ran_ms(&worlds), 1200);
}

#[test]
fn a_reservation_holds_against_many_shares() {
    let mut machine = Machine::new(Topology::flat(1));
    let root = machine.sched.root();
    let (_, hogs) = machine.vm(root, shares(1_000_000), 4);
    let reserved = Settings {
        reservation: Amount::Percent(40),
        ..shares(1)
    };
    let (_, worlds) = machine.vm(root, reserved, 1);
    machine.run(5 * SECOND);
    close(machine.ran_ms(&worlds), 2000);
    close(machine.ran_ms(&hogs), 3000);
}

#[test]
fn pools_divide_before_their_children_do() {
    let mut machine = Machine::new(Topology::flat(1));
    let root = machine.sched.root();
    let rich = machine.sched.create_pool(root, shares(3000), 0).unwrap();
    let poor = machine.sched.create_pool(root, shares(1000), 0).unwrap();
    let (_, one) = machine.vm(rich, shares(10), 1);
    let (_, two) = machine.vm(rich, shares(20), 1);
    let (_, three) = machine.vm(poor, shares(1_000_000), 1);
    machine.run(8 * SECOND);
    close(machine.ran_ms(&one), 2000);
    close(machine.ran_ms(&two), 4000);
    close(machine.ran_ms(&three), 2000);
}

#[test]
fn settings_of_a_running_vm_can_change() {
    let mut machine = Machine::new(Topology::flat(1));
    let root = machine.sched.root();
    let (one, ones) = machine.vm(root, shares(1000), 1);
    let (_, twos) = machine.vm(root, shares(1000), 1);
    machine.run(SECOND);
    machine.sched.set(one, shares(3000), machine.now).unwrap();
    machine.run(4 * SECOND);
    close(machine.ran_ms(&ones), 3500);
    close(machine.ran_ms(&twos), 1500);
}

#[test]
fn bound_worlds_share_their_cpu_and_the_rest_share_the_others() {
    let mut machine = Machine::new(Topology::flat(3));
    let root = machine.sched.root();
    let only: CpuSet = [Cpu(0)].into_iter().collect();
    let (vm, _) = machine.vm(root, shares(3000), 0);
    let bound = machine.hog(vm, Some(only));
    let (vm, _) = machine.vm(root, shares(1000), 0);
    let bound_too = machine.hog(vm, Some(only));
    let (_, one) = machine.vm(root, shares(2000), 2);
    let (_, two) = machine.vm(root, shares(1000), 2);
    machine.run(12 * SECOND);
    close(machine.ran_ms(&[bound]), 9000);
    close(machine.ran_ms(&[bound_too]), 3000);
    close(machine.ran_ms(&one), 16_000);
    close(machine.ran_ms(&two), 8000);
}

#[test]
fn siblings_stay_together_beside_a_bound_hog() {
    let mut machine = Machine::new(Topology::flat(2));
    let root = machine.sched.root();
    let (vm, _) = machine.vm(root, shares(2000), 0);
    let cpu = |cpu| Some([Cpu(cpu)].into_iter().collect::<CpuSet>());
    let pair = [machine.hog(vm, cpu(0)), machine.hog(vm, cpu(1))];
    let (hog, _) = machine.vm(root, shares(1000), 0);
    machine.hog(hog, cpu(0));
    for _ in 0..1000 {
        machine.run(2 * MS + 3000);
        for world in pair {
            if let WorldState::Running(cpu) = machine.sched.state(world).unwrap() {
                machine.sched.charge(cpu, machine.now);
            }
        }
        let progress = pair.map(|world| machine.sched.progress(world).unwrap());
        let skew = progress[0].abs_diff(progress[1]);
        assert!(skew <= 6 * MS + MS / 10, "skew of {skew} ns");
    }
    let stopped = machine.sched.account(pair[1], machine.now).unwrap().co_stop;
    assert!(stopped > 100 * MS);
}

#[test]
fn an_exclusive_vm_shares_no_core_and_starves_not() {
    let mut machine = Machine::new(Topology::regular(1, 2, 2));
    let root = machine.sched.root();
    let (vm, _) = machine.vm(root, shares(2000), 0);
    machine.sched.set_exclusive(vm, true).unwrap();
    let mine = [machine.hog(vm, None), machine.hog(vm, None)];
    let (_, others) = machine.vm(root, shares(4000), 4);
    for _ in 0..4000 {
        machine.run(MS / 2);
        for core in [[Cpu(0), Cpu(1)], [Cpu(2), Cpu(3)]] {
            let on = core.map(|cpu| {
                machine
                    .sched
                    .current(cpu)
                    .map(|world| mine.contains(&world))
            });
            assert!(on != [Some(true), Some(false)] && on != [Some(false), Some(true)]);
        }
    }
    assert!(machine.ran_ms(&mine) > 1000, "{}", machine.ran_ms(&mine));
    assert!(
        machine.ran_ms(&others) > 2000,
        "{}",
        machine.ran_ms(&others)
    );
}

#[test]
fn worlds_stay_at_home_until_there_is_reason_to_leave() {
    let mut machine = Machine::new(Topology::regular(2, 2, 1));
    let root = machine.sched.root();
    let (one, ones) = machine.vm(root, shares(1000), 2);
    let (two, twos) = machine.vm(root, shares(1000), 2);
    assert_ne!(machine.sched.home(one), machine.sched.home(two));
    machine.run(SECOND);
    let remote =
        |machine: &Machine, world| machine.sched.account(world, machine.now).unwrap().remote;
    for &world in ones.iter().chain(&twos) {
        assert!(remote(&machine, world) < 20 * MS);
    }
    for world in twos {
        machine.sched.block(world, machine.now).unwrap();
    }
    let more: alloc::vec::Vec<_> = (0..2).map(|_| machine.hog(one, None)).collect();
    machine.run(SECOND);
    assert!(machine.ran_ms(&more) + machine.ran_ms(&ones) > 2000 + 3900);
}

#[test]
fn a_spinning_vcpu_gives_way_to_the_sibling_that_waits() {
    let mut machine = Machine::new(Topology::flat(1));
    let root = machine.sched.root();
    let (_, pair) = machine.vm(root, shares(1000), 2);
    let (_, _hog) = machine.vm(root, shares(4000), 1);
    machine.run(100 * MS);
    for _ in 0..50 {
        while !pair.contains(&machine.sched.current(Cpu(0)).unwrap()) {
            machine.run(MS / 10);
        }
        let spinner = machine.sched.current(Cpu(0)).unwrap();
        let other = if spinner == pair[0] { pair[1] } else { pair[0] };
        machine.sched.yield_to(Cpu(0), None, machine.now).unwrap();
        let decision = machine.sched.pick(Cpu(0), machine.now);
        assert!(matches!(decision, crate::Decision::Run { world, .. } if world == other));
        machine.ends[0] = Some(machine.now + MS);
        machine.run(20 * MS);
    }
}

#[test]
fn system_time_is_charged_to_whom_it_was_spent_for() {
    let mut machine = Machine::new(Topology::flat(1));
    let root = machine.sched.root();
    let (vm, worlds) = machine.vm(root, shares(1000), 1);
    let sleeper = machine.sched.add_world(vm, None, 0).unwrap();
    machine.run(10 * MS);
    let before = machine.sched.account(worlds[0], machine.now).unwrap().run;
    machine.sched.charge_system(Cpu(0), sleeper, MS).unwrap();
    machine.run(10 * MS);
    let after = machine.sched.account(worlds[0], machine.now).unwrap().run;
    assert_eq!(after - before, 9 * MS);
    assert_eq!(
        machine.sched.account(sleeper, machine.now).unwrap().system,
        MS
    );
}

#[test]
fn a_helper_runs_on_its_vms_entitlement() {
    let mut machine = Machine::new(Topology::flat(1));
    let root = machine.sched.root();
    let (busy, worlds) = machine.vm(root, Settings::default(), 1);
    let (_, rival) = machine.vm(root, Settings::default(), 1);
    let helper = machine.sched.add_helper(busy, machine.now).unwrap();
    machine.sched.wake(helper, machine.now).unwrap();
    machine.run(2000 * MS);
    let both = machine.ran_ms(&worlds) + machine.ran_ms(&[helper]);
    close(both, 1000);
    close(machine.ran_ms(&rival), 1000);
    assert!(machine.ran_ms(&[helper]) > 400, "a helper is not starved");
    machine
        .sched
        .remove_world(helper, machine.now)
        .expect("it is there");
    assert_eq!(machine.sched.worlds_of(busy), Ok(worlds));
}

#[test]
fn a_helper_is_no_sibling() {
    let mut machine = Machine::new(Topology::flat(2));
    let root = machine.sched.root();
    let (vm, worlds) = machine.vm(root, Settings::default(), 1);
    let helper = machine.sched.add_helper(vm, machine.now).unwrap();
    machine.sched.wake(helper, machine.now).unwrap();
    machine.run(1000 * MS);
    let account = machine.sched.account(worlds[0], machine.now).unwrap();
    assert_eq!(account.co_stop, 0);
    assert_eq!(
        machine.sched.add_helper(root, 0),
        Err(Error::WrongKind),
        "a pool has no vCPUs to help"
    );
}

#[test]
fn a_world_alone_keeps_its_cpu_until_somebody_comes() {
    let mut machine = Machine::new(Topology::flat(1));
    let root = machine.sched.root();
    let (_, hog) = machine.vm(root, Settings::default(), 1);
    machine.run(100 * MS);
    let dispatches = |machine: &Machine, world| {
        let account = machine.sched.account(world, machine.now).unwrap();
        account.dispatches
    };
    assert!(
        dispatches(&machine, hog[0]) < 20,
        "slices of ten milliseconds"
    );
    let (vm, _) = machine.vm(root, Settings::default(), 0);
    let second = machine.sched.add_world(vm, None, machine.now).unwrap();
    machine.sched.wake(second, machine.now).unwrap();
    assert!(
        !machine.sched.take_pokes().is_empty(),
        "it gives way at once"
    );
}

#[test]
fn idle_worlds_settle_all_over_the_host() {
    let mut machine = Machine::new(Topology::flat(64));
    machine.run(MS);
    let root = machine.sched.root();
    for _ in 0..128 {
        let (_, worlds) = machine.vm(root, Settings::default(), 1);
        machine.run(MS);
        let WorldState::Running(cpu) = machine.sched.state(worlds[0]).unwrap() else {
            panic!("there are idle CPUs");
        };
        machine.sched.block(worlds[0], machine.now).unwrap();
        machine.ends[usize::from(cpu.0)] = Some(machine.now);
        machine.run(MS);
    }
    let settlers = machine.sched.cpus.iter().map(|cpu| cpu.settlers);
    assert!(settlers.clone().all(|count| count == 2), "{settlers:?}");
}
