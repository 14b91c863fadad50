//! The decision: who runs next on a CPU, and for how long.
//!
//! The earliest virtual deadline among the classes that the CPU serves, with a short look beyond the head of the queue
//! for a world whose cache is warm here. Everything is O(log n) in the number of worlds; worlds that turn out to be
//! stopped by a limit or by their lead are set aside on the way, once each per stop.

use crate::error::Error;
use crate::place::CANDIDATES;
use crate::scheduler::{Decision, Scheduler};
use crate::slab::WorldId;
use crate::topology::Cpu;
use crate::world::WorldState;

/// How many worlds at the head of a queue are looked at for a warm cache.
const WARM_LOOK: usize = 4;

/// What the threads beside a CPU leave for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Core {
    /// Anything.
    Free,
    /// Worlds of VMs that do not mind.
    Shared,
    /// Worlds of one VM.
    Only(u32),
}

impl Scheduler {
    /// Ends the slice of the world on `cpu`, if one is there, and returns what the CPU is to do next.
    pub fn pick(&mut self, cpu: Cpu, now: u64) -> Decision {
        let before = self.cpus[cpu.index()].current;
        let poked_for = self.cpus[cpu.index()].poked_for.take();
        self.cpus[cpu.index()].poked = false;
        self.pokes.remove(cpu);
        self.idle.remove(cpu);
        self.put_back(cpu, now);
        self.release_due(now);
        let chosen = self.choose(cpu, now);
        let decision = match chosen {
            Some(world) => self.start(cpu, world, now),
            None => {
                self.idle.insert(cpu);
                Decision::Idle {
                    until: self.next_release(),
                }
            }
        };
        self.place_again(before);
        self.place_again(poked_for.and_then(|world| self.world_index(world).ok()));
        self.tell_core(cpu, before, chosen);
        decision
    }

    /// Finds an idle CPU for a world that `pick` passed over.
    fn place_again(&mut self, index: Option<u32>) {
        if let Some(index) = index
            && !self.idle.is_empty()
            && self.worlds[index].state == WorldState::Ready
        {
            self.find_cpu(index, false);
        }
    }

    /// Charges the world on `cpu` up to `now` without ending its slice, so that its account can be read.
    pub fn charge(&mut self, cpu: Cpu, now: u64) {
        if let Some(index) = self.cpus[cpu.index()].current {
            self.charge_world(index, now);
        }
    }

    /// Moves `cycles` that `cpu` just spent for `world`, such as an interrupt's, from the account of the world that
    /// it interrupted to the system time of the one it was for.
    ///
    /// # Errors
    /// [`Error::UnknownWorld`].
    pub fn charge_system(&mut self, cpu: Cpu, world: WorldId, cycles: u64) -> Result<(), Error> {
        let index = self.world_index(world)?;
        self.worlds[index].account.system += cycles;
        if let Some(current) = self.cpus[cpu.index()].current {
            self.worlds[current].since += cycles;
        }
        Ok(())
    }

    /// The world on `cpu` spins: it gives the rest of its slice to `target`, or else to the sibling that is furthest
    /// behind, and waits a round itself. Then `cpu` must [`Self::pick`].
    ///
    /// # Errors
    /// [`Error::NotRunning`] if `cpu` runs nothing, [`Error::UnknownWorld`] for a bad target.
    pub fn yield_to(&mut self, cpu: Cpu, target: Option<WorldId>, now: u64) -> Result<(), Error> {
        let Some(index) = self.cpus[cpu.index()].current else {
            return Err(Error::NotRunning);
        };
        let wanted = match target {
            Some(target) => Some(self.world_index(target)?),
            None => None,
        };
        self.charge_world(index, now);
        self.worlds[index].account.yields += 1;
        // It misses nothing while it waits for a sibling, who must not be held back for its sake.
        self.level_spinning(index, now);
        let group = self.worlds[index].group;
        self.co_start(group, now);
        let siblings = self.groups[group].worlds.iter().copied();
        let able = |world: &u32| self.can_take_over(*world, cpu);
        let next = wanted.filter(able).or_else(|| {
            siblings
                .filter(able)
                .min_by_key(|&at| self.worlds[at].progress)
        });
        self.cpus[cpu.index()].next = next.map(|next| self.world_id(next));
        let world = &mut self.worlds[index];
        // Its share stays its own; only its turn is given away.
        let before = world.deadline;
        world.set_deadline(&self.cycles);
        world.deadline = world.deadline.max(before);
        Ok(())
    }

    /// Tells whether a world waits that may run on `cpu` now and has not been favoured too often already.
    fn can_take_over(&self, index: u32, cpu: Cpu) -> bool {
        let world = &self.worlds[index];
        let class = &self.classes[world.class];
        let ahead = world.vtime.saturating_sub(class.vtime());
        world.state == WorldState::Ready
            && class.placement.allowed.contains(cpu)
            && ahead <= world.virtual_of(2 * self.cycles.slice)
    }

    /// Charges a world for the time since it was last charged.
    pub(crate) fn charge_world(&mut self, index: u32, now: u64) {
        let world = &mut self.worlds[index];
        let WorldState::Running(cpu) = world.state else {
            return;
        };
        let cycles = world.book(now);
        if cycles == 0 {
            return;
        }
        let by = world.virtual_of(cycles);
        world.vtime = world.vtime.saturating_add(by);
        world.progress += cycles;
        world.burst += cycles;
        let class = &mut self.classes[world.class];
        class.advance(world.rate, by);
        if self.topology.node_of(cpu) != class.placement.home {
            world.account.remote += cycles;
        }
        let group = world.group;
        self.draw(group, cycles, now);
        self.draw_pace(index, cycles, now);
        self.co_start(group, now);
    }

    /// Takes the world off `cpu`, charged already; its state is the caller's to set.
    pub(crate) fn take_off(&mut self, cpu: Cpu, _now: u64) {
        let state = &mut self.cpus[cpu.index()];
        let Some(index) = state.current.take() else {
            return;
        };
        let key = state.key;
        if self.cpus.len() > CANDIDATES {
            self.running.remove(&(key, cpu));
        }
        self.count_running(self.worlds[index].group, false);
    }

    fn count_running(&mut self, group: u32, more: bool) {
        let mut at = Some(group);
        while let Some(index) = at {
            let group = &mut self.groups[index];
            group.running = if more {
                group.running + 1
            } else {
                group.running - 1
            };
            at = group.parent;
        }
    }

    /// Makes the world on `cpu` ready again.
    fn put_back(&mut self, cpu: Cpu, now: u64) {
        let Some(index) = self.cpus[cpu.index()].current else {
            return;
        };
        self.charge_world(index, now);
        self.take_off(cpu, now);
        let slice = self.cycles.slice;
        let world = &mut self.worlds[index];
        world.enter(WorldState::Ready, now);
        if world.vtime >= world.deadline {
            world.request = world.request.max(world.burst.min(slice));
            world.set_deadline(&self.cycles);
        }
        if !self.hold_back(index, now) {
            self.queue(index);
        }
    }

    /// Takes the world that is to run on `cpu` out of its queue.
    fn choose(&mut self, cpu: Cpu, now: u64) -> Option<u32> {
        if let Some(next) = self.cpus[cpu.index()].next.take()
            && let Ok(index) = self.world_index(next)
            && self.can_take_over(index, cpu)
            && self.fits_core(cpu, index)
        {
            self.unqueue(index);
            if self.may_start(index, now) {
                return Some(index);
            }
        }
        loop {
            let index = self.candidate(cpu)?;
            self.unqueue(index);
            if self.may_start(index, now) {
                return Some(index);
            }
        }
    }

    /// Tells whether a world taken from its queue may run; sets it aside if not.
    fn may_start(&mut self, index: u32, now: u64) -> bool {
        if self.hold_back(index, now) {
            return false;
        }
        if self.lead(index, now) > self.cycles.skew {
            self.co_stop(index, now);
            return false;
        }
        true
    }

    /// Returns the ready world that `cpu` should run, still queued.
    fn candidate(&mut self, cpu: Cpu) -> Option<u32> {
        let (core, claimed) = self.core_beside(cpu);
        let best = self.best_class(cpu, false);
        match core {
            Core::Free => best.map(|(_, class)| self.warm_head(class, cpu)),
            Core::Only(group) => self.best_of_group(group, cpu),
            Core::Shared => {
                let (_, class) = best?;
                if !self.classes[class].placement.exclusive {
                    return Some(self.warm_head(class, cpu));
                }
                if claimed {
                    return self
                        .best_class(cpu, true)
                        .map(|(_, class)| self.warm_head(class, cpu));
                }
                self.claim(cpu, class);
                None
            }
        }
    }

    /// Returns what the other threads' worlds, or the claim of one of those threads, leave for `cpu`; and whether
    /// there is such a claim.
    fn core_beside(&mut self, cpu: Cpu) -> (Core, bool) {
        let number = self.topology.core_number(cpu);
        let mut claimed = None;
        if let Some((by, world)) = self.claims[number] {
            let valid = self
                .world_index(world)
                .is_ok_and(|index| self.worlds[index].state == WorldState::Ready);
            if !valid || by == cpu {
                self.claims[number] = None;
            } else {
                claimed = Some(world.index);
            }
        }
        let mut core = Core::Free;
        for index in self.beside(cpu).chain(claimed) {
            let group = self.worlds[index].group;
            if self.groups[group].exclusive {
                return (Core::Only(group), claimed.is_some());
            }
            core = Core::Shared;
        }
        (core, claimed.is_some())
    }

    /// Asks the threads beside `cpu` to make way for the first world of `class`.
    fn claim(&mut self, cpu: Cpu, class: u32) {
        let Some(&(_, index)) = self.classes[class].queue.first() else {
            return;
        };
        let world = self.world_id(index);
        self.claims[self.topology.core_number(cpu)] = Some((cpu, world));
        for thread in self
            .topology
            .core(cpu)
            .iter()
            .filter(|&thread| thread != cpu)
        {
            self.pokes.insert(thread);
        }
    }

    /// Returns the class whose first world is due first among those that `cpu` serves, and when.
    fn best_class(&self, cpu: Cpu, shared_only: bool) -> Option<(i64, u32)> {
        let node = self.topology.node_of(cpu);
        let remote = i64::try_from(self.cycles.remote).unwrap_or(i64::MAX);
        let mut best: Option<(i64, u32)> = None;
        for &index in &self.cpus[cpu.index()].classes {
            let class = &self.classes[index];
            if shared_only && class.placement.exclusive {
                continue;
            }
            let Some(&(deadline, _)) = class.queue.first() else {
                continue;
            };
            let away = if class.placement.home == node {
                0
            } else {
                remote
            };
            let key = deadline.saturating_add(class.offset).saturating_add(away);
            if best.is_none_or(|(least, _)| key < least) {
                best = Some((key, index));
            }
        }
        best
    }

    /// Returns the first world of a queue, or one close behind it that ran on `cpu` last.
    fn warm_head(&self, class: u32, cpu: Cpu) -> u32 {
        let queue = &self.classes[class].queue;
        let window = i64::try_from(self.cycles.slice_min).unwrap_or(0);
        let mut first = None;
        for &(deadline, index) in queue.iter().take(WARM_LOOK) {
            let (head, _) = *first.get_or_insert((deadline, index));
            if deadline.saturating_sub(head) > window {
                break;
            }
            if self.worlds[index].last_cpu == Some(cpu) {
                return index;
            }
        }
        first.map_or(0, |(_, index)| index)
    }

    fn best_of_group(&self, group: u32, cpu: Cpu) -> Option<u32> {
        let worlds = self.groups[group].worlds.iter().copied();
        worlds
            .filter(|&index| {
                let world = &self.worlds[index];
                world.state == WorldState::Ready
                    && self.classes[world.class].placement.allowed.contains(cpu)
            })
            .min_by_key(|&index| self.worlds[index].deadline)
    }

    /// Puts a ready world, taken from its queue, on `cpu`.
    fn start(&mut self, cpu: Cpu, index: u32, now: u64) -> Decision {
        let (mut slice, alone) = (self.slice(index), self.is_alone(cpu, index));
        if alone {
            let release = self.next_release().unwrap_or(u64::MAX);
            let longest = (self.cycles.turn / 2).min(release.saturating_sub(now));
            slice = slice.max(longest.min(self.limit_left(self.worlds[index].group)));
        }
        let world = &mut self.worlds[index];
        world.enter(WorldState::Running(cpu), now);
        world.account.dispatches += 1;
        let before = world.last_cpu.replace(cpu);
        if before.is_some_and(|last| last != cpu) {
            world.account.migrations += 1;
        }
        if let Some(last) = before {
            self.cpus[last.index()].settlers -= 1;
        }
        self.cpus[cpu.index()].settlers += 1;
        let world = &self.worlds[index];
        let (group, class) = (world.group, world.class);
        let key = if alone {
            // Its slice reaches beyond its deadline: whoever comes may have the CPU.
            i64::MAX
        } else {
            world.deadline.saturating_add(self.classes[class].offset)
        };
        self.count_running(group, true);
        let state = &mut self.cpus[cpu.index()];
        state.current = Some(index);
        state.key = key;
        if self.cpus.len() > CANDIDATES {
            self.running.insert((key, cpu));
        }
        Decision::Run {
            world: self.world_id(index),
            slice,
        }
    }

    /// Tells whether nobody waits for `cpu`, and nobody's lead or part of a limit depends on how long the world `index`
    /// stays there.
    fn is_alone(&self, cpu: Cpu, index: u32) -> bool {
        let mut classes = self.cpus[cpu.index()].classes.iter();
        let group = &self.groups[self.worlds[index].group];
        let is_free = self.worlds[index].pace.is_none() && !group.co_scheduled();
        is_free && classes.all(|&class| self.classes[class].queue.is_empty())
    }

    fn slice(&self, index: u32) -> u64 {
        let world = &self.worlds[index];
        let (least, most) = (self.cycles.slice_min, self.cycles.slice);
        world
            .service_left()
            .min(self.limit_left(world.group))
            .clamp(least, most)
    }

    /// Lets idle threads of the core look again where another VM may now run beside them.
    fn tell_core(&mut self, cpu: Cpu, before: Option<u32>, after: Option<u32>) {
        if before == after && after.is_some() {
            return;
        }
        let number = self.topology.core_number(cpu);
        if let Some((by, _)) = self.claims[number]
            && by != cpu
        {
            self.pokes.insert(by);
        }
        let matters = |index: Option<u32>| {
            index.is_some_and(|index| self.groups[self.worlds[index].group].exclusive)
        };
        if matters(before) || matters(after) {
            let idle = self.topology.core(cpu).and(&self.idle);
            for thread in idle.iter().filter(|&thread| thread != cpu) {
                self.pokes.insert(thread);
            }
        }
    }
}
