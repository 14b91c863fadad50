//! The event loop: CPUs, worlds and time, under any policy.
//!
//! The engine counts by itself what worlds got and how long they waited; it believes no scheduler's accounts.

use crate::policy::{Next, Policy};
use crate::random::Random;
use crate::workload::{Behaviour, MS, US};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How long a world spins before its CPU notices.
const SPIN: u64 = 20 * US;
const REFRESH: u64 = 10 * MS;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Wake(usize),
    CpuEnd(usize, u64),
    Refresh,
    Look,
}

/// What a world is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Nothing.
    Sleeping,
    /// It waits or runs, and has something to compute.
    Computing,
    /// It holds its VM's lock.
    Holding,
    /// It spins for its VM's lock.
    Spinning,
}

/// A world under simulation.
#[derive(Clone, Debug)]
pub struct Actor {
    /// Its VM's index.
    pub vm: usize,
    /// What it does with its time.
    pub behaviour: Behaviour,
    /// What it is at.
    pub doing: Doing,
    left: u64,
    /// When it became runnable and did not run since, if so.
    pub waiting_since: Option<u64>,
    woken: bool,
    period_start: u64,
    /// Cycles on a CPU.
    pub run: u64,
    /// Bursts or critical sections that it finished.
    pub done: u64,
}

/// A simulation of one policy.
#[derive(Debug)]
pub struct Engine<P> {
    /// The policy.
    pub policy: P,
    /// The time, in cycles.
    pub now: u64,
    /// All worlds.
    pub actors: Vec<Actor>,
    /// Wake-up latencies of interactive worlds, in cycles.
    pub latencies: Vec<u64>,
    /// Longest wait of each world, for whatever reason.
    pub waits_max: Vec<u64>,
    /// Which world is on each CPU, and since when.
    pub on: Vec<Option<(usize, u64)>>,
    /// How often a CPU asked.
    pub decisions: u64,
    locks: Vec<Option<usize>>,
    turn: Vec<u64>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    random: Random,
}

impl<P: Policy> Engine<P> {
    /// Makes a host of so many CPUs.
    #[must_use]
    pub fn new(policy: P, cpus: usize, seed: u64) -> Self {
        let mut made = Self {
            policy,
            now: 0,
            actors: Vec::new(),
            latencies: Vec::new(),
            waits_max: Vec::new(),
            on: vec![None; cpus],
            decisions: 0,
            locks: Vec::new(),
            turn: vec![0; cpus],
            events: BinaryHeap::new(),
            sequence: 0,
            random: Random::new(seed),
        };
        for cpu in 0..cpus {
            made.at(0, Event::CpuEnd(cpu, 0));
        }
        made.at(REFRESH, Event::Refresh);
        made
    }

    /// Adds a world; VMs are numbered from 0 without gaps. It starts within the first 20 ms.
    pub fn add(&mut self, vm: usize, shares: u32, behaviour: Behaviour) -> usize {
        let index = self.actors.len();
        self.policy.add(vm, shares, self.now);
        self.locks.resize(self.locks.len().max(vm + 1), None);
        self.actors.push(Actor {
            vm,
            behaviour,
            doing: Doing::Sleeping,
            left: 0,
            waiting_since: None,
            woken: false,
            period_start: 0,
            run: 0,
            done: 0,
        });
        self.waits_max.push(0);
        let start = self.now + self.random.below(20 * MS);
        self.at(start, Event::Wake(index));
        index
    }

    /// Has `look` called at `time`.
    pub fn mark(&mut self, time: u64) {
        self.at(time, Event::Look);
    }

    /// Returns the cycles that `world` got until now, its present slice included.
    #[must_use]
    pub fn ran(&self, world: usize) -> u64 {
        let slice = self.on.iter().flatten().find(|on| on.0 == world);
        self.actors[world].run + slice.map_or(0, |on| self.now - on.1)
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence, event)));
    }

    /// Runs until `end`; calls `look` whenever all that happens at an instant has happened.
    pub fn run(&mut self, end: u64, mut look: impl FnMut(&mut Self)) {
        self.at(end, Event::Look);
        while let Some(Reverse((time, _, event))) = self.events.pop() {
            self.now = time;
            self.happen(event);
            self.obey();
            let more_now = self
                .events
                .peek()
                .is_some_and(|Reverse(next)| next.0 == time);
            if more_now {
                continue;
            }
            look(self);
            if time >= end {
                return;
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake(world) => self.wake(world),
            Event::CpuEnd(cpu, turn) if turn == self.turn[cpu] => self.cpu_end(cpu),
            Event::Refresh => {
                self.policy.refresh(self.now);
                self.at(self.now + REFRESH, Event::Refresh);
            }
            Event::CpuEnd(..) | Event::Look => {}
        }
    }

    fn obey(&mut self) {
        loop {
            let pokes = self.policy.pokes();
            if pokes.is_empty() {
                return;
            }
            for cpu in pokes {
                self.cpu_end(cpu);
            }
        }
    }

    fn wake(&mut self, world: usize) {
        if self.actors[world].doing != Doing::Sleeping {
            return;
        }
        let left = self.burst(self.actors[world].behaviour);
        let actor = &mut self.actors[world];
        actor.doing = Doing::Computing;
        actor.left = left;
        actor.waiting_since = Some(self.now);
        actor.woken = true;
        actor.period_start = self.now;
        self.policy.wake(world, self.now);
    }

    fn burst(&mut self, behaviour: Behaviour) -> u64 {
        match behaviour {
            Behaviour::Hog => u64::MAX,
            Behaviour::Sleeper { run, .. } | Behaviour::OnOff { on: run, .. } => {
                self.random.exponential(run)
            }
            Behaviour::Periodic { run, .. } | Behaviour::PingPong { run, .. } => run,
            Behaviour::Locker { compute, .. } => self.random.exponential(compute),
        }
    }

    /// A slice ends, a burst ends, or a poke comes.
    fn cpu_end(&mut self, cpu: usize) {
        if let Some((world, since)) = self.on[cpu].take() {
            let ran = self.now - since;
            let actor = &mut self.actors[world];
            actor.run += ran;
            actor.left = actor.left.saturating_sub(ran);
            let over = actor.left == 0;
            actor.waiting_since = Some(self.now);
            if over {
                self.burst_over(world, cpu);
            }
        }
        self.dispatch(cpu);
    }

    fn dispatch(&mut self, cpu: usize) {
        self.turn[cpu] += 1;
        self.decisions += 1;
        match self.policy.pick(cpu, self.now) {
            Next::Run(world, slice) => {
                assert!(
                    self.on.iter().flatten().all(|on| on.0 != world),
                    "{world} runs twice"
                );
                self.on[cpu] = Some((world, self.now));
                self.note_wait(world);
                let length = slice.min(self.actors[world].left).max(1);
                self.at(self.now + length, Event::CpuEnd(cpu, self.turn[cpu]));
            }
            Next::Idle(Some(until)) => {
                let until = until.max(self.now + 1);
                self.at(until, Event::CpuEnd(cpu, self.turn[cpu]));
            }
            Next::Idle(None) => {}
        }
    }

    fn note_wait(&mut self, world: usize) {
        let actor = &mut self.actors[world];
        if let Some(since) = actor.waiting_since.take() {
            let wait = self.now - since;
            self.waits_max[world] = self.waits_max[world].max(wait);
            if core::mem::take(&mut actor.woken) && actor.behaviour.is_interactive() {
                self.latencies.push(wait);
            }
        }
    }

    /// The world on `cpu` finished what it was at.
    fn burst_over(&mut self, world: usize, cpu: usize) {
        let now = self.now;
        let sleep = match self.actors[world].behaviour {
            Behaviour::Hog => {
                self.actors[world].left = u64::MAX;
                return;
            }
            Behaviour::Locker { compute, hold } => {
                self.lock_step(world, cpu, compute, hold);
                return;
            }
            Behaviour::Sleeper { sleep, .. } | Behaviour::OnOff { off: sleep, .. } => {
                Some(now + self.random.exponential(sleep))
            }
            Behaviour::Periodic { period, .. } => {
                Some((now / period + 1) * period + self.actors[world].vm as u64 * 13 * US % period)
            }
            Behaviour::PingPong { .. } => None,
        };
        let actor = &mut self.actors[world];
        actor.doing = Doing::Sleeping;
        actor.done += 1;
        actor.waiting_since = None;
        self.policy.block(world, cpu, now);
        if let Some(time) = sleep {
            self.at(time, Event::Wake(world));
        }
        if let Behaviour::PingPong { peer, .. } = self.actors[world].behaviour {
            self.wake(peer);
        }
    }

    fn lock_step(&mut self, world: usize, cpu: usize, compute: u64, hold: u64) {
        let lock = &mut self.locks[self.actors[world].vm];
        let actor = &mut self.actors[world];
        match (actor.doing, *lock) {
            (Doing::Holding, _) => {
                *lock = None;
                actor.doing = Doing::Computing;
                actor.done += 1;
                actor.left = self.random.exponential(compute);
            }
            (_, None) => {
                *lock = Some(world);
                actor.doing = Doing::Holding;
                actor.left = hold;
            }
            (before, Some(_)) => {
                actor.doing = Doing::Spinning;
                actor.left = SPIN;
                if before == Doing::Spinning {
                    self.policy.spin(cpu, self.now);
                }
            }
        }
    }
}
