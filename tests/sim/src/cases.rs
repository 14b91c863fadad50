//! Small cases in the manner of real traces, the same under three policies.
//!
//! Every case says what its workers did and how long interactive worlds waited after waking. Nothing is asserted here:
//! the tests at the end hold Basalt's own results to bounds.

use crate::engine::Engine;
use crate::policy::{Entitlement, Policy};
use crate::rivals::{Credit2, RoundRobin};
use crate::workload::{Behaviour, MS, SECOND, US};
use sched::Topology;

/// What one policy made of one case.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The policy's name.
    pub policy: &'static str,
    /// Wake-up latencies in cycles, sorted.
    pub latencies: Vec<u64>,
    /// Bursts, rounds or critical sections finished in a second, by worlds that are no hogs.
    pub done_per_second: u64,
    /// Of one CPU, what the hogs together got.
    pub hogs: f64,
}

/// A case: its name and how its worlds are made.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The name, for tables.
    pub name: &'static str,
    cpus: usize,
    worlds: fn() -> Vec<(usize, u32, Behaviour)>,
}

/// All cases.
pub const CASES: &[Case] = &[
    Case {
        name: "one hog among 40 sleepers, 1 CPU",
        cpus: 1,
        worlds: hog_among_sleepers,
    },
    Case {
        name: "periodic timers beside hogs, 4 CPUs",
        cpus: 4,
        worlds: timers,
    },
    Case {
        name: "ping-pong pairs beside hogs, 2 CPUs",
        cpus: 2,
        worlds: ping_pong,
    },
    Case {
        name: "lock holders preempted by hogs, 2 CPUs",
        cpus: 2,
        worlds: lock_holders,
    },
];

impl Case {
    /// Runs the case for so many seconds under every policy.
    #[must_use]
    pub fn run(&self, seed: u64, seconds: u64) -> Vec<Outcome> {
        vec![
            self.under(Entitlement::new(Topology::flat(self.cpus)), seed, seconds),
            self.under(Credit2::new(self.cpus), seed, seconds),
            self.under(RoundRobin::new(self.cpus), seed, seconds),
        ]
    }

    fn under<P: Policy>(&self, policy: P, seed: u64, seconds: u64) -> Outcome {
        let name = policy.name();
        let mut engine = Engine::new(policy, self.cpus, seed);
        for (vm, shares, behaviour) in (self.worlds)() {
            engine.add(vm, shares, behaviour);
        }
        engine.run(SECOND, |_| ());
        engine.latencies.clear();
        let count = |engine: &Engine<P>, hogs: bool| -> (u64, u64) {
            let worlds = (0..engine.actors.len())
                .filter(|&world| (engine.actors[world].behaviour == Behaviour::Hog) == hogs);
            worlds.fold((0, 0), |(ran, done), world| {
                (ran + engine.ran(world), done + engine.actors[world].done)
            })
        };
        let before = (count(&engine, true).0, count(&engine, false).1);
        engine.run((1 + seconds) * SECOND, |_| ());
        let after = (count(&engine, true).0, count(&engine, false).1);
        engine.latencies.sort_unstable();
        Outcome {
            policy: name,
            latencies: engine.latencies,
            done_per_second: (after.1 - before.1) / seconds,
            hogs: (after.0 - before.0) as f64 / (seconds * SECOND) as f64,
        }
    }
}

/// Returns the latency that this part of all wake-ups, in thousandths, does not exceed.
#[must_use]
pub fn percentile(sorted: &[u64], thousandths: usize) -> u64 {
    let place = (sorted.len() * thousandths / 1000).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or(0)
}

fn hog_among_sleepers() -> Vec<(usize, u32, Behaviour)> {
    let sleeper = Behaviour::Sleeper {
        run: 200 * US,
        sleep: 16 * MS,
    };
    let sleepers = (1..=40).map(|vm| (vm, 1000, sleeper));
    core::iter::once((0, 1000, Behaviour::Hog))
        .chain(sleepers)
        .collect()
}

fn timers() -> Vec<(usize, u32, Behaviour)> {
    let timer = |vm: usize| Behaviour::Periodic {
        period: (4 + vm as u64 % 5) * MS,
        run: 100 * US,
    };
    let hogs = (0..8).map(|vm| (vm, 1000, Behaviour::Hog));
    hogs.chain((8..24).map(|vm| (vm, 1000, timer(vm))))
        .collect()
}

fn ping_pong() -> Vec<(usize, u32, Behaviour)> {
    let side = |world: usize| Behaviour::PingPong {
        run: 50 * US,
        peer: world ^ 1,
    };
    // Two VMs of two vCPUs each, then four hogs with the same shares a VM.
    let pairs = (0..4).map(|world| (world / 2, 1000, side(world)));
    pairs
        .chain((2..6).map(|vm| (vm, 1000, Behaviour::Hog)))
        .collect()
}

fn lock_holders() -> Vec<(usize, u32, Behaviour)> {
    let locker = Behaviour::Locker {
        compute: 100 * US,
        hold: 30 * US,
    };
    let vcpus = (0..4).map(|_| (0, 2000, locker));
    vcpus
        .chain((1..3).map(|vm| (vm, 1000, Behaviour::Hog)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{CASES, MS, Outcome, percentile};

    fn ours(name: &str) -> Outcome {
        let case = CASES.iter().find(|case| case.name.starts_with(name));
        case.unwrap().run(1, 5).remove(0)
    }

    #[test]
    fn a_hog_does_not_delay_those_that_want_little() {
        let outcome = ours("one hog");
        assert!(percentile(&outcome.latencies, 990) < 5 * MS);
        assert!(outcome.hogs > 0.4);
    }

    #[test]
    fn timers_fire_on_time_beside_hogs() {
        assert!(percentile(&ours("periodic").latencies, 999) < MS);
    }

    #[test]
    fn pairs_get_no_more_than_their_shares_by_waking_often() {
        // Six VMs on two CPUs: four hogs have two thirds of them.
        let outcome = ours("ping-pong");
        assert!((1.25..1.45).contains(&outcome.hogs), "{}", outcome.hogs);
    }

    #[test]
    fn a_preempted_lock_holder_is_run_again_soon() {
        let outcome = ours("lock holders");
        assert!(
            outcome.done_per_second > 1000,
            "{}",
            outcome.done_per_second
        );
        assert!((0.9..1.1).contains(&outcome.hogs), "{}", outcome.hogs);
    }
}
