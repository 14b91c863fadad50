//! Relaxed co-scheduling: a vCPU may run ahead of a runnable sibling only so far.
//!
//! Progress is a vCPU's running time; one that wakes starts among the others, for an idle vCPU misses nothing.
//! Nobody is stopped or started together: a vCPU that is too far ahead is passed over until the others have caught up.
//! The bound: [`crate::Tuning::skew_us`] plus one slice, for the lead is checked when a slice begins.

use crate::scheduler::Scheduler;
use crate::world::{World, WorldState};

impl Scheduler {
    /// Returns how far `world` is ahead of the last of its runnable siblings, in cycles.
    pub(crate) fn lead(&self, world: u32, now: u64) -> u64 {
        let own = &self.worlds[world];
        let group = &self.groups[own.group];
        if own.helper || !group.co_scheduled() {
            return 0;
        }
        let last = group
            .worlds
            .iter()
            .filter(|&&sibling| sibling != world)
            .filter_map(|&sibling| progress_if_runnable(&self.worlds[sibling], now))
            .min();
        last.map_or(0, |last| own.progress.saturating_sub(last))
    }

    /// Stops a world that is too far ahead. It must be in no queue and on no CPU.
    pub(crate) fn co_stop(&mut self, world: u32, now: u64) {
        self.leave_class(world);
        self.worlds[world].enter(WorldState::CoStopped, now);
        let group = self.worlds[world].group;
        self.groups[group].co_stopped += 1;
    }

    /// Starts those vCPUs of `group` again whose siblings have caught up with them.
    pub(crate) fn co_start(&mut self, group: u32, now: u64) {
        if self.groups[group].co_stopped == 0 {
            return;
        }
        for place in 0..self.groups[group].worlds.len() {
            let world = self.groups[group].worlds[place];
            if self.worlds[world].state == WorldState::CoStopped
                && self.lead(world, now) <= self.cycles.skew / 2
            {
                self.groups[group].co_stopped -= 1;
                self.enqueue(world, now);
            }
        }
    }

    /// Puts a vCPU that wakes within the range of its runnable siblings: it missed nothing while it was idle, and it
    /// must not be stopped for having been ahead long ago.
    pub(crate) fn level_woken(&mut self, world: u32, now: u64) {
        if let Some((last, foremost)) = self.range_of_siblings(world, now) {
            let own = &mut self.worlds[world];
            own.progress = own.progress.clamp(last, foremost);
        }
    }

    /// Puts a vCPU that spins level with the foremost of its siblings: it misses nothing while it waits for one of
    /// them, and none of them must be held back for its sake.
    pub(crate) fn level_spinning(&mut self, world: u32, now: u64) {
        if let Some((_, foremost)) = self.range_of_siblings(world, now) {
            let own = &mut self.worlds[world];
            own.progress = own.progress.max(foremost);
        }
    }

    /// Returns the least and the greatest progress of those siblings that want to run.
    fn range_of_siblings(&self, world: u32, now: u64) -> Option<(u64, u64)> {
        let group = &self.groups[self.worlds[world].group];
        if !group.co_scheduled() {
            return None;
        }
        let wanting = group
            .worlds
            .iter()
            .filter(|&&sibling| sibling != world)
            .map(|&sibling| &self.worlds[sibling])
            .filter_map(|sibling| match sibling.state {
                WorldState::CoStopped => Some(sibling.progress),
                _ => progress_if_runnable(sibling, now),
            });
        wanting.fold(None, |range, progress| match range {
            None => Some((progress, progress)),
            Some((last, foremost)) => Some((progress.min(last), progress.max(foremost))),
        })
    }
}

/// Returns the progress of a world that wants to run and was not stopped for being ahead.
fn progress_if_runnable(world: &World, now: u64) -> Option<u64> {
    match world.state {
        _ if world.helper => None,
        WorldState::Ready | WorldState::Limited => Some(world.progress),
        WorldState::Running(_) => Some(world.progress + now.saturating_sub(world.since)),
        WorldState::Blocked | WorldState::CoStopped => None,
    }
}
