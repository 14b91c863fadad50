//! Who is entitled to what: reservation, limit, shares and demand, divided down the tree at every refresh.
//!
//! Demand is what a world used, or a whole CPU if it hardly ever had to wait for an event. The tree is divided twice
//! over: what each group may have by its own siblings' demand (its entitlement), and from that the rate at which each
//! world's virtual time runs. Nothing here decides anything; it sets the rates that decisions are made by. A refresh is
//! O(n) and no part of a decision.

use crate::RATE_ONE;
use crate::fill::{self, Level, Part};
use crate::scheduler::Scheduler;
use crate::topology::CpuSet;
use crate::wake::DEBT_TURNS;
use crate::world::{RATE_MIN, WorldState};
use alloc::vec::Vec;

/// A world that was runnable for this part of a period wants a whole CPU: 15 of 16.
const HUNGRY_PARTS: u64 = 16;
/// By what part of its entitlement a paced world may exceed it: one in so many.
const PACE_SLACK: u64 = 16;
/// It must want it for so many periods on end: a burst that had to wait is no hunger.
const HUNGRY_PERIODS: u32 = 3;
/// Bound of what shares alone would give, where the sums must not overflow.
const PULL_MAX: u64 = 1 << 40;
/// How far two classes that compete may drift apart, in turns.
const DRIFT_TURNS: u64 = 4;

impl Scheduler {
    /// Measures demand since the last call and sets every world's rate. To be called about every
    /// [`crate::Tuning::refresh_us`]; a late call is harmless, an early one is ignored.
    pub fn refresh(&mut self, now: u64) {
        let period = now.saturating_sub(self.refreshed_at);
        if period < self.cycles.refresh / 2 {
            return;
        }
        self.refreshed_at = now;
        self.divide_now(period, now);
    }

    /// Divides the host anew, `period` cycles after the last time.
    pub(crate) fn divide_now(&mut self, period: u64, now: u64) {
        if self.order.is_empty() {
            self.sort_groups();
        }
        self.measure(period, now);
        let order = core::mem::take(&mut self.order);
        self.sum_up(&order);
        let mut work = Work::default();
        self.divide(&order, &mut work);
        if self.cap_bound_worlds(&mut work) {
            self.sum_up(&order);
            self.divide(&order, &mut work);
        }
        self.order = order;
        let indices: Vec<u32> = self.worlds.indices().collect();
        let floor = self.floor(indices.len() as u64);
        for index in indices {
            self.worlds[index].next_rate = self.worlds[index].next_rate.max(floor);
            self.reweigh(index);
        }
        self.hold_classes_together();
    }

    /// Returns the rate that every world has whatever others have reserved, so that none stands still for ever: a
    /// 1024th of a CPU, or on a crowded host a sixteenth of an even share. It is taken from all others, so it is small.
    fn floor(&self, worlds: u64) -> u64 {
        (RATE_ONE / 1024).min(self.capacity() / (16 * worlds.max(1)))
    }

    fn sort_groups(&mut self) {
        let mut order = alloc::vec![self.root];
        let mut at = 0;
        while let Some(&group) = order.get(at) {
            order.extend_from_slice(&self.groups[group].groups);
            at += 1;
        }
        self.order = order;
    }

    fn measure(&mut self, period: u64, now: u64) {
        for cpu in 0..self.cpus.len() {
            if let Some(index) = self.cpus[cpu].current {
                self.charge_world(index, now);
            }
        }
        let indices: Vec<u32> = self.worlds.indices().collect();
        for index in indices {
            let world = &mut self.worlds[index];
            world.book(now);
            let wanted = world.period_run + world.period_ready;
            let used = world.period_run.min(period);
            let hungry = wanted >= period - period / HUNGRY_PARTS;
            if period > 0 {
                let rate = u128::from(used) * u128::from(RATE_ONE) / u128::from(period);
                let rate = u64::try_from(rate).unwrap_or(RATE_ONE);
                world.use_mean = (world.use_mean * 7 + rate) / 8;
                world.hungry_periods = if hungry {
                    world.hungry_periods.saturating_add(1)
                } else {
                    0
                };
                world.demand = if world.hungry_periods >= HUNGRY_PERIODS {
                    RATE_ONE
                } else {
                    world.use_mean
                };
            }
            world.cap = RATE_ONE;
            (world.period_run, world.period_ready) = (0, 0);
        }
    }

    /// Sums demand and guarantees up, children first.
    fn sum_up(&mut self, order: &[u32]) {
        for &index in order.iter().rev() {
            let group = &self.groups[index];
            let of_worlds = group.worlds.iter().map(|&world| {
                let world = &self.worlds[world];
                world.demand.min(world.cap)
            });
            let of_groups = group.groups.iter().map(|&child| self.groups[child].demand);
            let wanted: u64 = of_worlds.chain(of_groups).sum();
            let promised: u64 = group
                .groups
                .iter()
                .map(|&child| self.groups[child].guaranteed)
                .sum();
            let most = group.limit.unwrap_or(u64::MAX);
            let group = &mut self.groups[index];
            group.demand = wanted.min(most);
            group.squeezed = wanted > most;
            group.guaranteed = group.reservation.max(promised).min(group.demand);
        }
    }

    /// Divides from the root down.
    fn divide(&mut self, order: &[u32], work: &mut Work) {
        let capacity = self.capacity();
        self.groups[self.root].potential = capacity;
        for &index in order {
            let group = &self.groups[index];
            let above = group
                .parent
                .is_some_and(|parent| self.groups[parent].squeezed);
            let squeezed = group.squeezed || above;
            self.groups[index].squeezed = squeezed;
            let group = &self.groups[index];
            work.parts.clear();
            work.parts.extend(group.groups.iter().map(|&child| {
                let child = &self.groups[child];
                Part {
                    weight: child.weight(),
                    min: child.guaranteed,
                    max: child.demand,
                }
            }));
            work.parts.extend(group.worlds.iter().map(|&world| {
                let world = &self.worlds[world];
                Part {
                    weight: 1,
                    min: 0,
                    max: world.demand.min(world.cap),
                }
            }));
            let amount = group.potential;
            let level = fill::level(amount, &work.parts, &mut work.scratch);
            // Where there is enough for all, nobody's virtual time may run faster for having few shares.
            work.plenty = level.is_none();
            let level = level.unwrap_or_else(|| {
                let wanting = work.parts.iter().filter(|part| part.max > 0);
                Level::of(amount, wanting.map(|part| part.weight).sum())
            });
            self.hand_down(index, level, work);
        }
    }

    fn hand_down(&mut self, index: u32, level: Level, work: &Work) {
        let mut parts = work.parts.iter();
        let squeezed = self.groups[index].squeezed;
        let children = self.groups[index].groups.len();
        for (place, part) in parts.by_ref().take(children).enumerate() {
            let child = self.groups[index].groups[place];
            let child = &mut self.groups[child];
            let most = child.limit.unwrap_or(u64::MAX);
            let least = if work.plenty { part.max } else { part.min };
            child.potential = level.at(part.weight).max(least).min(most);
        }
        for (place, part) in parts.enumerate() {
            let world = self.groups[index].worlds[place];
            let world = &mut self.worlds[world];
            world.pull = level.at(part.weight);
            let least = if work.plenty { part.max } else { part.min };
            let rate = world.pull.max(least).min(world.cap);
            world.entitled = rate.min(part.max);
            world.next_rate = rate.max(RATE_MIN);
            let pace = world.next_rate + world.next_rate / PACE_SLACK;
            world.pace = squeezed.then_some(pace);
        }
    }

    /// Caps worlds whose affinity makes their entitlement impossible; returns whether there were any.
    fn cap_bound_worlds(&mut self, work: &mut Work) -> bool {
        let all = self.cpus.len();
        let sets: Vec<CpuSet> = {
            let mut sets: Vec<CpuSet> = self
                .classes
                .indices()
                .map(|class| self.classes[class].placement.allowed)
                .filter(|allowed| allowed.len() < all)
                .collect();
            sets.sort_unstable_by_key(|set| (set.len(), *set));
            sets.dedup();
            sets
        };
        if sets.is_empty() {
            return false;
        }
        let bound: Vec<(u32, CpuSet)> = self
            .worlds
            .indices()
            .map(|world| {
                let class = self.worlds[world].class;
                (world, self.classes[class].placement.allowed)
            })
            .filter(|(_, allowed)| allowed.len() < all)
            .collect();
        let mut capped = false;
        for set in &sets {
            let inside = |allowed: &CpuSet| allowed.except(set).is_empty();
            let members: Vec<u32> = bound
                .iter()
                .filter(|(_, allowed)| inside(allowed))
                .map(|&(world, _)| world)
                .collect();
            capped |= self.cap_set(&members, set.len() as u64 * RATE_ONE, work);
        }
        capped
    }

    fn cap_set(&mut self, members: &[u32], capacity: u64, work: &mut Work) -> bool {
        work.parts.clear();
        work.parts.extend(members.iter().map(|&world| {
            let world = &self.worlds[world];
            let entitled = world.entitled.min(world.cap);
            Part {
                weight: if entitled > 0 {
                    world.pull.min(PULL_MAX)
                } else {
                    0
                },
                min: 0,
                max: entitled,
            }
        }));
        let Some(level) = fill::level(capacity, &work.parts, &mut work.scratch) else {
            return false;
        };
        for (&world, part) in members.iter().zip(&work.parts) {
            let world = &mut self.worlds[world];
            world.cap = world.cap.min(level.at(part.weight).max(RATE_MIN));
        }
        true
    }

    /// Gives a world its new rate; what it is owed in cycles stays the same.
    fn reweigh(&mut self, index: u32) {
        let world = &self.worlds[index];
        let (old, new) = (world.rate, world.next_rate);
        let runnable = matches!(world.state, WorldState::Ready | WorldState::Running(_));
        if old == new || !runnable {
            let world = &mut self.worlds[index];
            world.lag = rescale(world.lag, old, new);
            world.rate = new;
            return;
        }
        let queued = world.state == WorldState::Ready;
        if let WorldState::Running(cpu) = world.state
            && new < old / 2
        {
            // The rest of a slice that was cut for the old rate would set it back for a long time at the new one.
            self.pokes.insert(cpu);
        }
        let large = old.abs_diff(new) > old / 8;
        if large && queued {
            self.unqueue(index);
        }
        let world = &mut self.worlds[index];
        let class = &mut self.classes[world.class];
        class.leave(old, world.vtime);
        let mean = class.vtime();
        let lag = mean.saturating_sub(world.vtime);
        world.rate = new;
        if large {
            let most = i64::try_from(self.cycles.turn).unwrap_or(i64::MAX / 8) * DEBT_TURNS;
            world.vtime = mean.saturating_sub(rescale(lag, old, new).clamp(-most, most));
        }
        class.join(new, world.vtime);
        if large {
            world.set_deadline(&self.cycles);
            if queued {
                self.queue(index);
            }
        }
    }

    /// Keeps classes that compete within reach of each other, where an affinity has made one lag for good.
    fn hold_classes_together(&mut self) {
        let most = i64::try_from(self.cycles.turn * DRIFT_TURNS).unwrap_or(i64::MAX);
        let all = self.cpus.len();
        let indices: Vec<u32> = self.classes.indices().collect();
        for index in indices {
            let class = &self.classes[index];
            if class.rates() == 0 || class.placement.allowed.len() == all {
                continue;
            }
            let Some(around) = self.around(index) else {
                continue;
            };
            let class = &mut self.classes[index];
            let ahead = class
                .vtime()
                .saturating_add(class.offset)
                .saturating_sub(around);
            class.offset = class
                .offset
                .saturating_sub(ahead.saturating_sub(ahead.clamp(-most, most)));
        }
    }
}

/// Returns virtual time that stands for the same service at another rate.
fn rescale(lag: i64, old: u64, new: u64) -> i64 {
    let scaled = i128::from(lag) * i128::from(old) / i128::from(new.max(1));
    i64::try_from(scaled).unwrap_or(lag)
}

#[derive(Debug, Default)]
struct Work {
    parts: Vec<Part>,
    scratch: Vec<Part>,
    /// The last division could give everyone what it wanted.
    plenty: bool,
}
