//! Two schedulers to compare with: a plain round robin, and the rules of Xen's credit2.
//!
//! Both in one queue for all CPUs, which flatters them. Credit2 here has its credits, weights, resets, wake-up
//! preemption and rate limit; it leaves out caps, soft affinity and balancing between run queues.

use crate::policy::{Next, Policy};
use crate::workload::{MS, US};
use std::collections::VecDeque;

/// Takes turns of 10 ms; who wakes waits at the end of the queue.
#[derive(Debug)]
pub struct RoundRobin {
    queue: VecDeque<usize>,
    current: Vec<Option<usize>>,
    pokes: Vec<usize>,
    idle: Vec<bool>,
}

impl RoundRobin {
    /// Makes one for so many CPUs.
    #[must_use]
    pub fn new(cpus: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            current: vec![None; cpus],
            pokes: Vec::new(),
            idle: vec![false; cpus],
        }
    }
}

impl Policy for RoundRobin {
    fn name(&self) -> &'static str {
        "round robin"
    }

    fn add(&mut self, _vm: usize, _shares: u32, _now: u64) {}

    fn wake(&mut self, world: usize, _now: u64) {
        self.queue.push_back(world);
        if let Some(cpu) = self.idle.iter().position(|&idle| idle) {
            self.idle[cpu] = false;
            self.pokes.push(cpu);
        }
    }

    fn block(&mut self, _world: usize, cpu: usize, _now: u64) {
        self.current[cpu] = None;
    }

    fn spin(&mut self, _cpu: usize, _now: u64) {}

    fn pick(&mut self, cpu: usize, _now: u64) -> Next {
        self.queue.extend(self.current[cpu].take());
        self.current[cpu] = self.queue.pop_front();
        self.idle[cpu] = self.current[cpu].is_none();
        self.current[cpu].map_or(Next::Idle(None), |world| Next::Run(world, 10 * MS))
    }

    fn pokes(&mut self) -> Vec<usize> {
        core::mem::take(&mut self.pokes)
    }

    fn refresh(&mut self, _now: u64) {}
}

const CREDIT_INIT: i64 = 10 * MS as i64;
const TIMER_MIN: u64 = 500 * US;
const TIMER_MAX: u64 = 10 * MS;
const RATE_LIMIT: u64 = MS;
const YIELD_BIAS: i64 = MS as i64;

#[derive(Clone, Copy, Debug)]
struct Unit {
    credit: i64,
    weight: i64,
    started: u64,
    charged: u64,
}

/// Credits burnt by weight, highest credit first, refilled together when the best one has none left.
#[derive(Debug)]
pub struct Credit2 {
    units: Vec<Unit>,
    queue: Vec<usize>,
    current: Vec<Option<usize>>,
    idle: Vec<bool>,
    pokes: Vec<usize>,
    weight_max: i64,
}

impl Credit2 {
    /// Makes one for so many CPUs.
    #[must_use]
    pub fn new(cpus: usize) -> Self {
        Self {
            units: Vec::new(),
            queue: Vec::new(),
            current: vec![None; cpus],
            idle: vec![false; cpus],
            pokes: Vec::new(),
            weight_max: 1,
        }
    }

    fn burn(&mut self, world: usize, now: u64) {
        let weight_max = self.weight_max;
        let unit = &mut self.units[world];
        let ran = now.saturating_sub(unit.charged) as i64;
        unit.credit -= ran * weight_max / unit.weight;
        unit.charged = now;
    }

    fn insert(&mut self, world: usize) {
        let credit = self.units[world].credit;
        let place = self
            .queue
            .partition_point(|&other| self.units[other].credit >= credit);
        self.queue.insert(place, world);
    }

    fn reset(&mut self, least: i64) {
        let times = 1 + (-least).max(0) / CREDIT_INIT;
        for unit in &mut self.units {
            unit.credit = (unit.credit + times * CREDIT_INIT).min(CREDIT_INIT);
        }
        let units = &self.units;
        self.queue.sort_by_key(|&world| -units[world].credit);
    }

    fn slice(&self, world: usize) -> u64 {
        let unit = self.units[world];
        let rival = self
            .queue
            .first()
            .map_or(0, |&next| self.units[next].credit.max(0));
        let credit = (unit.credit - rival).max(0) * unit.weight / self.weight_max;
        (credit as u64).clamp(TIMER_MIN.max(RATE_LIMIT), TIMER_MAX)
    }
}

impl Policy for Credit2 {
    fn name(&self) -> &'static str {
        "credit2's rules"
    }

    fn add(&mut self, _vm: usize, shares: u32, _now: u64) {
        let weight = i64::from(shares);
        self.weight_max = self.weight_max.max(weight);
        self.units.push(Unit {
            credit: CREDIT_INIT,
            weight,
            started: 0,
            charged: 0,
        });
    }

    fn wake(&mut self, world: usize, now: u64) {
        self.insert(world);
        if let Some(cpu) = self.idle.iter().position(|&idle| idle) {
            self.idle[cpu] = false;
            self.pokes.push(cpu);
            return;
        }
        for cpu in 0..self.current.len() {
            if let Some(running) = self.current[cpu] {
                self.burn(running, now);
            }
        }
        let credit_on = |&cpu: &usize| self.current[cpu].map(|running| self.units[running].credit);
        let weakest = (0..self.current.len()).min_by_key(credit_on);
        if let Some(cpu) = weakest
            && let Some(running) = self.current[cpu]
            && self.units[running].credit < self.units[world].credit
        {
            self.pokes.push(cpu);
        }
    }

    fn block(&mut self, world: usize, cpu: usize, now: u64) {
        self.burn(world, now);
        self.current[cpu] = None;
    }

    fn spin(&mut self, cpu: usize, now: u64) {
        // Xen turns a spin-wait exit into a yield: for this once it competes with a millisecond less of credit.
        if let Some(world) = self.current[cpu].take() {
            self.burn(world, now);
            let credit = self.units[world].credit - YIELD_BIAS;
            let place = self
                .queue
                .partition_point(|&other| self.units[other].credit >= credit);
            self.queue.insert(place, world);
        }
    }

    fn pick(&mut self, cpu: usize, now: u64) -> Next {
        if let Some(world) = self.current[cpu].take() {
            self.burn(world, now);
            let limited = now - self.units[world].started < RATE_LIMIT;
            if limited {
                self.current[cpu] = Some(world);
                return Next::Run(world, RATE_LIMIT - (now - self.units[world].started));
            }
            self.insert(world);
        }
        if self.queue.is_empty() {
            self.idle[cpu] = true;
            return Next::Idle(None);
        }
        let world = self.queue.remove(0);
        if self.units[world].credit <= 0 {
            self.reset(self.units[world].credit);
        }
        let unit = &mut self.units[world];
        (unit.started, unit.charged) = (now, now);
        self.current[cpu] = Some(world);
        self.idle[cpu] = false;
        Next::Run(world, self.slice(world))
    }

    fn pokes(&mut self) -> Vec<usize> {
        core::mem::take(&mut self.pokes)
    }

    fn refresh(&mut self, _now: u64) {}
}
