//! Tests of the library by itself; long runs, latencies and comparisons are the simulator's (tests/sim).

mod admission;
mod fill;
mod fuzz;
mod running;

use crate::{Cpu, CpuSet, Decision, GroupId, Host, Scheduler, Settings, Topology, Tuning, WorldId};
use alloc::vec::Vec;

/// The tests' TSC: a cycle is a nanosecond.
const HZ: u64 = 1_000_000_000;
const MS: u64 = HZ / 1000;

/// A host whose worlds never block by themselves.
struct Machine {
    sched: Scheduler,
    now: u64,
    ends: Vec<Option<u64>>,
}

impl Machine {
    fn new(topology: Topology) -> Self {
        let cpus = topology.cpus();
        let host = Host {
            topology,
            tsc_hz: HZ,
        };
        Self {
            sched: Scheduler::new(host, Tuning::default(), 0).unwrap(),
            now: 0,
            ends: alloc::vec![Some(0); cpus],
        }
    }

    fn vm(&mut self, parent: GroupId, settings: Settings, hogs: usize) -> (GroupId, Vec<WorldId>) {
        let vm = self.sched.create_vm(parent, settings, self.now).unwrap();
        let worlds = (0..hogs).map(|_| self.hog(vm, None)).collect();
        (vm, worlds)
    }

    fn hog(&mut self, vm: GroupId, affinity: Option<CpuSet>) -> WorldId {
        let world = self.sched.add_world(vm, affinity, self.now).unwrap();
        self.sched.wake(world, self.now).unwrap();
        world
    }

    /// Runs for `cycles`: slices end, pokes are followed, refreshes happen.
    fn run(&mut self, cycles: u64) {
        let end = self.now + cycles;
        let mut refresh = self.now;
        while self.now < end {
            for cpu in self.sched.take_pokes().iter() {
                self.ends[usize::from(cpu.0)] = Some(self.now);
            }
            for cpu in 0..self.ends.len() {
                if self.ends[cpu].is_some_and(|at| at <= self.now) {
                    self.ends[cpu] = match self.sched.pick(Cpu(cpu as u16), self.now) {
                        Decision::Run { slice, .. } => Some(self.now + slice),
                        Decision::Idle { until } => until,
                    };
                }
            }
            if refresh <= self.now {
                self.sched.refresh(self.now);
                refresh = self.now + 10 * MS;
            }
            let next = self.ends.iter().flatten().copied().min().unwrap_or(end);
            let next = if self.sched.pokes.is_empty() {
                next
            } else {
                self.now
            };
            self.now = next.max(self.now).min(refresh).min(end);
        }
    }

    /// Returns the worlds' running time together, in milliseconds.
    fn ran_ms(&self, worlds: &[WorldId]) -> u64 {
        let run = |&world: &WorldId| self.sched.account(world, self.now).unwrap().run;
        worlds.iter().map(run).sum::<u64>() / MS
    }
}

#[track_caller]
fn close(got: u64, wanted: u64) {
    assert!(
        got.abs_diff(wanted) * 100 <= wanted + 300,
        "{got} ms instead of {wanted} ms"
    );
}
