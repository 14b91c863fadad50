//! A hundred thousand random calls: nothing panics, and what must always hold does.

use super::{HZ, MS};
use crate::{
    Amount, Cpu, CpuSet, Decision, GroupId, Host, Scheduler, Settings, Shares, Topology, Tuning,
    WorldId, WorldState,
};
use alloc::vec::Vec;

/// More than are compared one by one, so that their order is kept.
const CPUS: u16 = 12;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn settings(&mut self) -> Settings {
        Settings {
            reservation: Amount::Percent(self.below(60) as u32),
            limit: (self.below(3) == 0).then(|| Amount::Mhz(self.below(3000) as u32)),
            shares: Shares::Number(self.below(9000) as u32),
            expandable: self.below(2) == 0,
        }
    }

    fn affinity(&mut self) -> Option<CpuSet> {
        let cpus = |bits: u64| (0..CPUS).filter(move |cpu| bits >> cpu & 1 != 0).map(Cpu);
        (self.below(3) == 0).then(|| cpus(self.below(256)).collect())
    }
}

struct Fuzz {
    random: Random,
    sched: Scheduler,
    now: u64,
    groups: Vec<GroupId>,
    worlds: Vec<WorldId>,
}

impl Fuzz {
    fn group(&mut self) -> GroupId {
        let place = self.random.below(self.groups.len() as u64);
        self.groups[place as usize]
    }

    fn world(&mut self) -> Option<WorldId> {
        let count = self.worlds.len() as u64;
        (count > 0).then(|| self.worlds[self.random.below(count) as usize])
    }

    fn change_tree(&mut self) {
        let (group, other) = (self.group(), self.group());
        let settings = self.random.settings();
        let now = self.now;
        let made = match self.random.below(8) {
            0 if self.groups.len() < 60 => self.sched.create_pool(group, settings, now),
            1 | 2 if self.groups.len() < 60 => self.sched.create_vm(group, settings, now),
            3 => self.sched.delete(group).map(|()| group),
            4 => self.sched.move_group(group, other, now).map(|()| group),
            5 => self
                .sched
                .set_exclusive(group, self.random.below(4) == 0)
                .map(|()| group),
            _ => self.sched.set(group, settings, now).map(|()| group),
        };
        if let Ok(made) = made
            && !self.groups.contains(&made)
        {
            self.groups.push(made);
        }
    }

    fn change_worlds(&mut self) {
        let group = self.group();
        let affinity = self.random.affinity();
        let now = self.now;
        let Some(world) = self.world().filter(|_| self.random.below(8) > 2) else {
            if self.worlds.len() < 200
                && let Ok(world) = self.sched.add_world(group, affinity, now)
            {
                self.worlds.push(world);
            }
            return;
        };
        if self.random.below(8) == 0 {
            let _ = self.sched.remove_world(world, now);
        } else {
            let _ = self.sched.set_affinity(world, affinity, now);
        }
        self.obey();
    }

    fn act(&mut self) {
        self.now += self.random.below(MS);
        let now = self.now;
        let cpu = Cpu(self.random.below(u64::from(CPUS)) as u16);
        let world = self.world();
        match (self.random.below(24), world) {
            (0, _) => self.change_tree(),
            (1, _) => self.change_worlds(),
            (2..=8, Some(world)) => drop(self.sched.wake(world, now)),
            (9..=11, Some(world)) => drop(self.sched.block(world, now)),
            (12, target) => {
                let target = target.filter(|_| self.random.below(2) == 0);
                if self.sched.yield_to(cpu, target, now).is_ok() {
                    self.pick(cpu);
                }
            }
            (13, _) => self.sched.charge(cpu, now),
            (14, Some(world)) => drop(self.sched.charge_system(
                cpu,
                world,
                self.random.below(5000),
            )),
            (15 | 16, _) => self.sched.refresh(now),
            _ => self.pick(cpu),
        }
        self.obey();
        self.check();
    }

    /// Follows all pokes, as CPUs do, and empties CPUs whose world was blocked.
    fn obey(&mut self) {
        for cpu in (0..CPUS).map(Cpu) {
            if self.sched.current(cpu).is_none() && !self.sched.idle.contains(cpu) {
                self.pick(cpu);
            }
        }
        let mut rounds = 0;
        loop {
            let pokes = self.sched.take_pokes();
            if pokes.is_empty() {
                return;
            }
            rounds += 1;
            assert!(rounds < 100, "pokes never end");
            for cpu in pokes.iter() {
                self.pick(cpu);
            }
        }
    }

    fn pick(&mut self, cpu: Cpu) {
        if let Decision::Run { world, slice } = self.sched.pick(cpu, self.now) {
            assert!(slice > 0);
            assert_eq!(self.sched.state(world), Ok(WorldState::Running(cpu)));
        }
    }

    /// Nobody runs twice or where it must not, queues hold just the ready worlds, and no CPU idles that need not.
    fn check(&self) {
        let sched = &self.sched;
        let mut ready = 0;
        for index in sched.worlds.indices() {
            let world = &sched.worlds[index];
            let class = &sched.classes[world.class];
            match world.state {
                WorldState::Ready => {
                    ready += 1;
                    assert!(class.queue.contains(&(world.deadline, index)));
                    let idle = sched.idle.and(&class.placement.allowed);
                    let stopped = sched.stopped_by_limit(world.group).is_some();
                    let shy = sched
                        .groups
                        .indices()
                        .any(|group| sched.groups[group].exclusive);
                    assert!(
                        idle.is_empty() || stopped || shy,
                        "CPU {:?} idles",
                        idle.lowest()
                    );
                }
                WorldState::Running(cpu) => {
                    assert_eq!(sched.cpus[usize::from(cpu.0)].current, Some(index));
                    assert!(class.placement.allowed.contains(cpu));
                    assert!(sched.fits_core(cpu, index));
                }
                WorldState::Blocked | WorldState::CoStopped | WorldState::Limited => {}
            }
        }
        let queued: usize = sched
            .classes
            .indices()
            .map(|class| sched.classes[class].queue.len())
            .sum();
        assert_eq!(queued, ready);
        let running = (0..CPUS)
            .filter(|&cpu| sched.current(Cpu(cpu)).is_some())
            .count();
        assert_eq!(sched.running.len(), running);
    }
}

#[test]
fn random_calls_keep_the_invariants() {
    for seed in 0..4 {
        let host = Host {
            topology: Topology::regular(2, 3, 2),
            tsc_hz: HZ,
        };
        let sched = Scheduler::new(host, Tuning::default(), 0).unwrap();
        let groups = alloc::vec![sched.root(), sched.service()];
        let mut fuzz = Fuzz {
            random: Random(seed),
            sched,
            now: 0,
            groups,
            worlds: Vec::new(),
        };
        for _ in 0..30_000 {
            fuzz.act();
        }
    }
}
