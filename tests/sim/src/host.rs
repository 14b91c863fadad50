//! A random host under Basalt's scheduler, and the checks of what it promises.
//!
//! Checked: what each VM got against the oracle, the longest waits, the skew of siblings, and that no CPU idles while an
//! eligible world waits. Affinity is left to the library's own tests: the oracle does not know it.

use crate::engine::Engine;
use crate::oracle::{Node, entitle};
use crate::policy::Entitlement;
use crate::random::Random;
use crate::workload::{Behaviour, MS, SECOND, US};
use sched::{Amount, Cpu, GroupId, RATE_ONE, Settings, Shares, Topology, WorldState};

/// Entitlement is worked out for parts of this length, and compared over windows of up to ten seconds.
const PART: u64 = 100 * MS;
const WINDOW: u64 = 10 * SECOND;

/// What a run found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Decisions made.
    pub decisions: u64,
    /// Largest error of a VM entitled to at least half a CPU, of its entitlement.
    pub error_max: f64,
    /// Mean error of those VMs.
    pub error_mean: f64,
    /// The window's length, in cycles.
    pub window: u64,
    /// Largest shortfall or excess beyond 1 %, in cycles, over all VMs.
    pub excess_max: u64,
    /// Largest skew between siblings, in cycles.
    pub skew_max: u64,
    /// Longest uninterrupted wait of a ready world, as a part of the bound for it.
    pub wait_of_bound: f64,
    /// Longest such wait in cycles.
    pub wait_max: u64,
    /// Instants at which a CPU idled while an eligible world waited.
    pub idle_faults: u64,
    /// Wake-up latencies in cycles, sorted.
    pub latencies: Vec<u64>,
    /// VM windows compared.
    pub compared: u64,
}

/// What the scheduler promises about skew: its tuning's bound, and a slice.
pub const SKEW_BOUND: u64 = 6 * MS;
/// Beyond 1 % of itself, an entitlement is met to 1 % of a CPU over the window.
pub const GRAIN_PARTS: u64 = 100;

/// A random host.
#[derive(Debug)]
pub struct RandomHost {
    engine: Engine<Entitlement>,
    nodes: Vec<Node>,
    /// Node of each VM index.
    vm_nodes: Vec<usize>,
    rate_min: Vec<u64>,
    before: Vec<(u64, u64, u64)>,
    due: Vec<f64>,
    got: Vec<f64>,
    part_start: u64,
    window_start: u64,
    looks: u64,
    errors: (f64, u64),
    findings: Findings,
}

impl RandomHost {
    /// Makes pools, VMs and worlds from the seed.
    #[must_use]
    pub fn new(seed: u64, cpus: usize, worlds: usize) -> Self {
        let mut random = Random::new(seed);
        let topology = match (cpus % 8, random.below(2)) {
            (0, 1) => Topology::regular(2, cpus / 4, 2),
            _ => Topology::flat(cpus),
        };
        let engine = Engine::new(Entitlement::new(topology), cpus, seed);
        let root = Node {
            parent: 0,
            weight: 1.0,
            reservation: 0.0,
            limit: f64::INFINITY,
            wants: Vec::new(),
        };
        let mut made = Self {
            engine,
            nodes: vec![root],
            vm_nodes: Vec::new(),
            rate_min: Vec::new(),
            before: Vec::new(),
            due: Vec::new(),
            got: Vec::new(),
            part_start: 0,
            window_start: 0,
            looks: 0,
            errors: (0.0, 0),
            findings: Findings::default(),
        };
        let pools = made.make_pools(&mut random);
        while made.engine.actors.len() < worlds {
            let pool = pools[random.below(pools.len() as u64) as usize];
            let room = worlds - made.engine.actors.len();
            made.make_vm(&mut random, pool, room, cpus);
        }
        let count = made.engine.actors.len();
        made.rate_min = vec![RATE_ONE; count];
        made.before = vec![(0, 0, 0); count];
        made.due = vec![0.0; made.vm_nodes.len()];
        made.got = vec![0.0; made.vm_nodes.len()];
        made
    }

    fn make_pools(&mut self, random: &mut Random) -> Vec<(GroupId, usize)> {
        let root = self.engine.policy.sched.root();
        let mut pools = vec![(root, 0)];
        for _ in 0..random.below(6) {
            let parent = pools[random.below(pools.len() as u64) as usize];
            let settings = draw_settings(random, 2);
            if let Some(made) = self.admit(parent, settings, true) {
                pools.push(made);
            }
        }
        pools
    }

    /// Asks for a pool or VM; a refusal is an answer too.
    fn admit(
        &mut self,
        parent: (GroupId, usize),
        settings: Settings,
        pool: bool,
    ) -> Option<(GroupId, usize)> {
        let sched = &mut self.engine.policy.sched;
        let made = if pool {
            sched.create_pool(parent.0, settings, 0)
        } else {
            sched.create_vm(parent.0, settings, 0)
        };
        let cpus = |amount: Amount| amount.rate(SECOND) as f64 / RATE_ONE as f64;
        let made = made.ok()?;
        self.nodes.push(Node {
            parent: parent.1,
            weight: settings.shares.number(4) as f64,
            reservation: cpus(settings.reservation),
            limit: settings.limit.map_or(f64::INFINITY, cpus),
            wants: Vec::new(),
        });
        Some((made, self.nodes.len() - 1))
    }

    fn make_vm(&mut self, random: &mut Random, pool: (GroupId, usize), room: usize, cpus: usize) {
        let most = room.min(8).min(cpus.max(2));
        let vcpus = match random.below(3) {
            0 => random.between(1, most as u64) as usize,
            _ => 1,
        };
        let settings = draw_settings(random, vcpus as u32);
        let Some((vm, node)) = self.admit(pool, settings, false) else {
            return;
        };
        self.engine.policy.vms.push(vm);
        self.nodes[node].weight = settings.shares.number(vcpus as u32) as f64;
        let index = self.vm_nodes.len();
        self.vm_nodes.push(node);
        let first = self.engine.actors.len();
        if vcpus == 2 && random.below(2) == 0 {
            for peer in [first + 1, first] {
                self.engine
                    .add(index, 0, Behaviour::PingPong { run: 50 * US, peer });
            }
            return;
        }
        for _ in 0..vcpus {
            let behaviour = Behaviour::draw(random);
            self.engine.add(index, 0, behaviour);
        }
    }

    /// Runs for so many seconds and returns what was found.
    #[must_use]
    pub fn run(mut self, seconds: u64) -> Findings {
        // The first second shows how demand is learnt, which is not what the windows are about.
        let start = SECOND;
        let end = start + seconds * SECOND;
        let mut engine = core::mem::replace(
            &mut self.engine,
            Engine::new(Entitlement::new(Topology::flat(1)), 1, 0),
        );
        engine.run(start, |_| ());
        self.begin_part(&mut engine);
        self.window_start = start;
        for mark in (start..end).step_by(PART as usize).skip(1) {
            engine.mark(mark);
        }
        engine.latencies.clear();
        let before = engine.decisions;
        engine.run(end, |engine| self.look(engine, end));
        self.findings.decisions = engine.decisions - before;
        self.findings.latencies = core::mem::take(&mut engine.latencies);
        self.findings.latencies.sort_unstable();
        self.findings.error_mean = self.errors.0 / self.errors.1.max(1) as f64;
        self.check_waits(&engine);
        self.findings
    }

    fn look(&mut self, engine: &mut Engine<Entitlement>, end: u64) {
        self.looks += 1;
        if self
            .looks
            .is_multiple_of(if engine.actors.len() > 200 { 64 } else { 4 })
        {
            self.check_idle(engine);
        }
        if engine.now >= self.part_start + PART {
            self.check_skew(engine);
            self.end_part(engine);
            if engine.now >= (self.window_start + WINDOW).min(end) {
                self.end_window(engine.now);
            }
            self.begin_part(engine);
        }
    }

    fn check_idle(&mut self, engine: &Engine<Entitlement>) {
        if engine.on.iter().all(Option::is_some) {
            return;
        }
        let sched = &engine.policy.sched;
        let waits = |&world| sched.state(world) == Ok(WorldState::Ready);
        if engine.policy.worlds.iter().any(waits) {
            self.findings.idle_faults += 1;
        }
    }

    fn check_skew(&mut self, engine: &mut Engine<Entitlement>) {
        let sched = &mut engine.policy.sched;
        for cpu in 0..engine.on.len() {
            sched.charge(Cpu(cpu as u16), engine.now);
        }
        let mut ranges = vec![(u64::MAX, 0); self.vm_nodes.len()];
        for (actor, &world) in engine.actors.iter().zip(&engine.policy.worlds) {
            let runnable = matches!(
                sched.state(world),
                Ok(WorldState::Ready | WorldState::Running(_))
            );
            if let (true, Ok(progress)) = (runnable, sched.progress(world)) {
                let range = &mut ranges[actor.vm];
                *range = (range.0.min(progress), range.1.max(progress));
            }
        }
        let skew = ranges
            .iter()
            .map(|range| range.1.saturating_sub(range.0))
            .max();
        self.findings.skew_max = self.findings.skew_max.max(skew.unwrap_or(0));
    }

    fn begin_part(&mut self, engine: &mut Engine<Entitlement>) {
        self.part_start = engine.now;
        let sched = &engine.policy.sched;
        for (index, &world) in engine.policy.worlds.iter().enumerate() {
            let account = sched.account(world, engine.now).unwrap_or_default();
            self.before[index] = (
                engine.actors[index].run,
                account.ready + account.limited + account.co_stop,
                0,
            );
            let rate = sched.rate(world).unwrap_or(RATE_ONE);
            self.rate_min[index] = self.rate_min[index].min(rate);
        }
        for (world, since) in engine.on.iter().flatten() {
            self.before[*world].0 += engine.now - since;
        }
    }

    fn end_part(&mut self, engine: &Engine<Entitlement>) {
        let part = (engine.now - self.part_start) as f64;
        let sched = &engine.policy.sched;
        for node in &mut self.nodes {
            node.wants.clear();
        }
        let mut runs: Vec<u64> = engine.actors.iter().map(|actor| actor.run).collect();
        for (world, since) in engine.on.iter().flatten() {
            runs[*world] += engine.now - since;
        }
        let mut capacity = 0.0;
        for (index, &world) in engine.policy.worlds.iter().enumerate() {
            let account = sched.account(world, engine.now).unwrap_or_default();
            let (run_before, waited_before, _) = self.before[index];
            let run = (runs[index] - run_before) as f64;
            let waited = (account.ready + account.limited + account.co_stop - waited_before) as f64;
            let wants = if run + waited > 0.95 * part {
                1.0
            } else {
                run / part
            };
            let vm = engine.actors[index].vm;
            self.nodes[self.vm_nodes[vm]].wants.push(wants);
            self.got[vm] += run;
            capacity += run / part;
        }
        let entitled = entitle(&self.nodes, capacity);
        for (vm, &node) in self.vm_nodes.iter().enumerate() {
            self.due[vm] += entitled[node] * part;
        }
    }

    fn end_window(&mut self, now: u64) {
        self.findings.window = now - self.window_start;
        let window = self.findings.window as f64;
        for (got, due) in self.got.iter_mut().zip(&mut self.due) {
            let error = (*got - *due).abs();
            if *due >= 0.5 * window {
                self.findings.error_max = self.findings.error_max.max(error / *due);
                self.errors = (self.errors.0 + error / *due, self.errors.1 + 1);
            }
            let excess = (error - 0.01 * *due).max(0.0) as u64;
            self.findings.excess_max = self.findings.excess_max.max(excess);
            self.findings.compared += 1;
            (*got, *due) = (0.0, 0.0);
        }
        self.window_start = now;
    }

    fn check_waits(&mut self, engine: &Engine<Entitlement>) {
        for (index, &world) in engine.policy.worlds.iter().enumerate() {
            let account = engine
                .policy
                .sched
                .account(world, engine.now)
                .unwrap_or_default();
            let part = account.ready_max as f64 / wait_bound(self.rate_min[index]) as f64;
            self.findings.wait_of_bound = self.findings.wait_of_bound.max(part);
            self.findings.wait_max = self.findings.wait_max.max(account.ready_max);
        }
    }
}

/// Returns how long a ready world with that rate waits at most, in cycles: four turns that it may have run ahead, its
/// own, and one for slices that have begun and rates not learnt yet; a turn is 40 ms, or the shortest slice at its rate.
#[must_use]
pub fn wait_bound(rate: u64) -> u64 {
    6 * (40 * MS).max(200 * US * RATE_ONE / rate.max(1)) + 20 * MS
}

fn draw_settings(random: &mut Random, vcpus: u32) -> Settings {
    let shares = match random.below(4) {
        0 => Shares::Low,
        1 => Shares::High,
        2 => Shares::Number(random.between(500, 4000) as u32),
        _ => Shares::Normal,
    };
    let reservation = match random.below(4) {
        0 => Amount::Percent(random.between(5, 30 * u64::from(vcpus)) as u32),
        _ => Amount::ZERO,
    };
    let limit =
        (random.below(6) == 0).then(|| Amount::Percent(random.between(30, 80) as u32 * vcpus));
    Settings {
        reservation,
        limit,
        shares,
        expandable: random.below(3) > 0,
    }
}
