//! What the engine asks of a scheduler, and Basalt's own behind that interface.
//!
//! Worlds and VMs are the simulation's indices here, so that several policies can run the same case.

use sched::{Cpu, Decision, GroupId, Host, Scheduler, Settings, Topology, Tuning, WorldId};

/// What a CPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Runs that world for at most so many cycles.
    Run(usize, u64),
    /// Sleeps until poked, or until then.
    Idle(Option<u64>),
}

/// A scheduler under simulation.
pub trait Policy {
    /// Returns the name for tables.
    fn name(&self) -> &'static str;
    /// Adds a blocked world to the VM `vm`, which has that many shares; worlds come in the order of their indices.
    fn add(&mut self, vm: usize, shares: u32, now: u64);
    /// A world has something to do.
    fn wake(&mut self, world: usize, now: u64);
    /// The world on `cpu` has nothing more to do.
    fn block(&mut self, world: usize, cpu: usize, now: u64);
    /// The world on `cpu` spins in vain.
    fn spin(&mut self, cpu: usize, now: u64);
    /// The CPU asks.
    fn pick(&mut self, cpu: usize, now: u64) -> Next;
    /// Returns the CPUs that must ask now.
    fn pokes(&mut self) -> Vec<usize>;
    /// The time for periodic work has come.
    fn refresh(&mut self, now: u64);
}

/// Basalt's scheduler.
#[derive(Debug)]
pub struct Entitlement {
    /// The scheduler itself, for checks.
    pub sched: Scheduler,
    /// Handles by index.
    pub worlds: Vec<WorldId>,
    /// Handles of VMs by index; made by the case, or by [`Policy::add`] in the root.
    pub vms: Vec<GroupId>,
}

impl Entitlement {
    /// Makes the scheduler of a host with a TSC of 1 GHz.
    ///
    /// # Panics
    /// If the topology is empty or too large.
    #[must_use]
    pub fn new(topology: Topology) -> Self {
        let host = Host {
            topology,
            tsc_hz: crate::workload::SECOND,
        };
        Self {
            sched: Scheduler::new(host, Tuning::default(), 0)
                .expect("cases describe possible hosts"),
            worlds: Vec::new(),
            vms: Vec::new(),
        }
    }
}

impl Policy for Entitlement {
    fn name(&self) -> &'static str {
        "entitlement"
    }

    fn add(&mut self, vm: usize, shares: u32, now: u64) {
        if vm == self.vms.len() {
            let settings = Settings {
                shares: sched::Shares::Number(shares),
                ..Settings::default()
            };
            let made = self.sched.create_vm(self.sched.root(), settings, now);
            self.vms
                .push(made.expect("a VM without reservation is always admitted"));
        }
        let world = self.sched.add_world(self.vms[vm], None, now);
        self.worlds.push(world.expect("cases keep to the limits"));
    }

    fn wake(&mut self, world: usize, now: u64) {
        self.sched
            .wake(self.worlds[world], now)
            .expect("the world exists");
    }

    fn block(&mut self, world: usize, _cpu: usize, now: u64) {
        self.sched
            .block(self.worlds[world], now)
            .expect("the world exists");
    }

    fn spin(&mut self, cpu: usize, now: u64) {
        self.sched
            .yield_to(Cpu(cpu as u16), None, now)
            .expect("a world spins there");
    }

    fn pick(&mut self, cpu: usize, now: u64) -> Next {
        match self.sched.pick(Cpu(cpu as u16), now) {
            // Handles are dense, and worlds are added in order and never removed.
            Decision::Run { world, slice } => Next::Run(world.index(), slice),
            Decision::Idle { until } => Next::Idle(until),
        }
    }

    fn pokes(&mut self) -> Vec<usize> {
        self.sched
            .take_pokes()
            .iter()
            .map(|cpu| usize::from(cpu.0))
            .collect()
    }

    fn refresh(&mut self, now: u64) {
        self.sched.refresh(now);
    }
}
