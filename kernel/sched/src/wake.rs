//! Becoming runnable and ceasing to be: wake, block, and the places in virtual time where worlds come back.
//!
//! What a world was owed when it blocked it is still owed when it wakes, up to one turn; what it was ahead is
//! forgiven as time passes. So sleeping neither earns credit nor washes debts away at once.

use crate::error::Error;
use crate::scheduler::Scheduler;
use crate::slab::WorldId;
use crate::world::WorldState;

/// How far from its share a world may be for it to count, in turns.
pub(crate) const DEBT_TURNS: i64 = 4;

impl Scheduler {
    /// Makes a blocked world ready; others stay as they are. CPUs that should look are poked.
    ///
    /// # Errors
    /// [`Error::UnknownWorld`].
    pub fn wake(&mut self, world: WorldId, now: u64) -> Result<(), Error> {
        let index = self.world_index(world)?;
        if self.worlds[index].state == WorldState::Blocked {
            self.release_due(now);
            self.level_woken(index, now);
            self.enqueue(index, now);
        }
        Ok(())
    }

    /// Takes a world out of contention until it is woken, whatever it does now. If it was on a CPU, that CPU must
    /// [`Self::pick`] next.
    ///
    /// # Errors
    /// [`Error::UnknownWorld`].
    pub fn block(&mut self, world: WorldId, now: u64) -> Result<(), Error> {
        let index = self.world_index(world)?;
        match self.worlds[index].state {
            WorldState::Blocked => return Ok(()),
            WorldState::Running(cpu) => {
                self.charge_world(index, now);
                self.take_off(cpu, now);
                self.leave_class(index);
            }
            WorldState::Ready => {
                self.unqueue(index);
                self.leave_class(index);
            }
            WorldState::CoStopped => {
                let group = self.worlds[index].group;
                self.groups[group].co_stopped -= 1;
            }
            WorldState::Limited => self.unpark(index),
        }
        let (slice_min, slice) = (self.cycles.slice_min, self.cycles.slice);
        let world = &mut self.worlds[index];
        world.request = ((3 * world.request + world.burst) / 4).clamp(slice_min, slice);
        world.burst = 0;
        world.enter(WorldState::Blocked, now);
        let group = world.group;
        self.co_start(group, now);
        Ok(())
    }

    fn unpark(&mut self, index: u32) {
        self.paced.remove(&(self.worlds[index].paced_until, index));
        let mut at = Some(self.worlds[index].group);
        while let Some(group) = at {
            self.groups[group].parked.retain(|&parked| parked != index);
            at = self.groups[group].parent;
        }
    }

    /// Makes a world ready that is not runnable, or sets it aside where a limit is used up.
    pub(crate) fn enqueue(&mut self, index: u32, now: u64) {
        self.join_class(index, now);
        if self.hold_back(index, now) {
            return;
        }
        self.worlds[index].enter(WorldState::Ready, now);
        self.queue(index);
        self.find_cpu(index, true);
    }

    /// Inserts a world into its class's queue by its deadline.
    pub(crate) fn queue(&mut self, index: u32) {
        let world = &self.worlds[index];
        let key = (world.deadline, index);
        self.classes[world.class].queue.insert(key);
    }

    /// Removes a ready world from its queue.
    pub(crate) fn unqueue(&mut self, index: u32) {
        let world = &self.worlds[index];
        let key = (world.deadline, index);
        self.classes[world.class].queue.remove(&key);
    }

    /// Counts a world among the runnable ones of its class, at the place in virtual time that it is owed.
    pub(crate) fn join_class(&mut self, index: u32, now: u64) {
        let class = self.worlds[index].class;
        if self.classes[class].rates() == 0 {
            self.align(class);
        }
        let mean = self.classes[class].vtime();
        let turn = i64::try_from(self.cycles.turn).unwrap_or(i64::MAX / 8);
        let world = &mut self.worlds[index];
        let lag = match world.state {
            // It was held back while it wanted to run: the time went on for it as for the others.
            WorldState::Limited | WorldState::CoStopped => mean
                .saturating_sub(world.vtime)
                .clamp(-DEBT_TURNS * turn, DEBT_TURNS * turn),
            _ => {
                let lag = world.lag.clamp(-DEBT_TURNS * turn, turn);
                let passed = i64::try_from(now.saturating_sub(world.since)).unwrap_or(i64::MAX);
                if lag < 0 {
                    lag.saturating_add(passed).min(0)
                } else {
                    lag
                }
            }
        };
        world.vtime = mean.saturating_sub(lag);
        world.set_deadline(&self.cycles);
        let class = &mut self.classes[class];
        class.join(world.rate, world.vtime);
    }

    /// Discounts a world from its class and remembers what it is owed.
    pub(crate) fn leave_class(&mut self, index: u32) {
        let world = &mut self.worlds[index];
        let class = &mut self.classes[world.class];
        class.leave(world.rate, world.vtime);
        // Against the others alone, here and in `join_class`: a mean that counts the world itself would forgive a
        // part of its debt every time that it blocks.
        world.lag = class.vtime().saturating_sub(world.vtime);
    }

    /// Returns the mean virtual time of the classes that compete with `class`, on the common timeline.
    pub(crate) fn around(&self, class: u32) -> Option<i64> {
        let cpu = self.classes[class].placement.allowed.lowest()?;
        let (mut rates, mut moments) = (0i128, 0i128);
        for &other in &self.cpus[cpu.index()].classes {
            let other_class = &self.classes[other];
            if other != class && other_class.rates() > 0 {
                let at = other_class.vtime().saturating_add(other_class.offset);
                rates += other_class.rates();
                moments += other_class.rates() * i128::from(at);
            }
        }
        (rates > 0).then(|| i64::try_from(moments / rates).unwrap_or(0))
    }

    /// Shifts a class that was empty to where its competitors are.
    fn align(&mut self, class: u32) {
        if let Some(around) = self.around(class) {
            let class = &mut self.classes[class];
            class.offset = around.saturating_sub(class.vtime());
        }
    }
}
