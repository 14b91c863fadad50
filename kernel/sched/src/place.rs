//! Which CPU is told that a world became ready.
//!
//! An idle CPU if there is one, best the one it ran on last, else on a core that is idle as a whole, else at home;
//! otherwise the CPU whose world has the latest deadline. The search looks at a bounded number of CPUs, but for a world's
//! first one, which is looked for among all.

use crate::scheduler::Scheduler;
use crate::topology::{Cpu, CpuSet};

/// How many idle CPUs are compared, and how many running worlds.
pub(crate) const CANDIDATES: usize = 8;

impl Scheduler {
    /// Pokes a CPU that should run the ready world `index`; one that is busy only if `preempting`.
    pub(crate) fn find_cpu(&mut self, index: u32, preempting: bool) {
        let placement = self.classes[self.worlds[index].class].placement;
        if !self.idle.is_empty()
            && let Some(cpu) = self.best_idle(index, &self.idle.and(&placement.allowed))
        {
            self.idle.remove(cpu);
            self.pokes.insert(cpu);
            let id = self.world_id(index);
            let state = &mut self.cpus[cpu.index()];
            state.poked = true;
            state.poked_for = Some(id);
            return;
        }
        if preempting && let Some(cpu) = self.latest_deadline(index, &placement.allowed) {
            self.pokes.insert(cpu);
            self.cpus[cpu.index()].poked = true;
        }
    }

    fn best_idle(&self, index: u32, idle: &CpuSet) -> Option<Cpu> {
        if idle.is_empty() {
            return None;
        }
        let world = &self.worlds[index];
        let home = self.classes[world.class].placement.home;
        let here = self.topology.node(home);
        if world.last_cpu.is_none() {
            // It will come back to where it starts, so those that start spread over all.
            return idle
                .iter()
                .filter(|&cpu| self.fits_core(cpu, index))
                .min_by_key(|&cpu| (!here.contains(cpu), self.cpus[cpu.index()].settlers));
        }
        let score = |cpu: Cpu| {
            let alone = self.topology.core(cpu).except(&self.idle).is_empty();
            (here.contains(cpu), alone, world.last_cpu == Some(cpu))
        };
        let known = world.last_cpu.filter(|cpu| idle.contains(*cpu));
        let fitting = known
            .into_iter()
            .chain(idle.and(&here).iter())
            .chain(idle.except(&here).iter());
        fitting
            .filter(|&cpu| self.fits_core(cpu, index))
            .take(CANDIDATES)
            .max_by_key(|&cpu| score(cpu))
    }

    /// Returns the CPU among `allowed` whose world is due later than the ready world `index`.
    fn latest_deadline(&self, index: u32, allowed: &CpuSet) -> Option<Cpu> {
        let world = &self.worlds[index];
        let key = world
            .deadline
            .saturating_add(self.classes[world.class].offset);
        let later = |cpu: Cpu| {
            let state = &self.cpus[cpu.index()];
            state.current.is_some() && !state.poked && state.key > key && self.fits_core(cpu, index)
        };
        if allowed.len() <= CANDIDATES {
            return allowed
                .iter()
                .filter(|&cpu| later(cpu))
                .max_by_key(|cpu| self.cpus[cpu.index()].key);
        }
        self.running
            .iter()
            .rev()
            .take(CANDIDATES)
            .map(|&(_, cpu)| cpu)
            .find(|&cpu| allowed.contains(cpu) && later(cpu))
    }

    /// Tells whether the threads beside `cpu` run nothing that must not share a core with the world `index`.
    pub(crate) fn fits_core(&self, cpu: Cpu, index: u32) -> bool {
        self.beside(cpu).all(|other| self.may_share(other, index))
    }

    /// Returns the worlds on the other threads of the core of `cpu`.
    pub(crate) fn beside(&self, cpu: Cpu) -> impl Iterator<Item = u32> + '_ {
        let core = self.topology.core(cpu);
        core.iter()
            .filter(move |&thread| thread != cpu)
            .filter_map(|thread| self.cpus[thread.index()].current)
    }

    /// Tells whether two worlds may be on one core at the same time.
    pub(crate) fn may_share(&self, one: u32, other: u32) -> bool {
        let (one, other) = (self.worlds[one].group, self.worlds[other].group);
        one == other || !(self.groups[one].exclusive || self.groups[other].exclusive)
    }
}
