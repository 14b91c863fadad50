//! Limits: a bucket of cycles per limited group, filled at the limit's rate.
//!
//! When the bucket is empty, worlds below the group are set aside as they come up, so stopping a group of any size
//! costs nothing at once; they come back together when the bucket has filled up again. What was used too much is owed,
//! so the limit is exact over time.
//!
//! A bucket alone would let a pool's worlds run all at once and then stand still together, and a world entitled to most
//! of a CPU could not get it in the short time that the bucket lasts. So where a limit is the bottleneck, each world
//! below it is also paced, at a rate a little above its entitlement; the bucket stays as the hard bound.

use crate::RATE_ONE;
use crate::scheduler::Scheduler;
use crate::world::WorldState;

impl Scheduler {
    /// Takes `cycles` from every bucket above a world of `group`.
    pub(crate) fn draw(&mut self, group: u32, cycles: u64, now: u64) {
        let mut at = Some(group);
        while let Some(index) = at {
            at = self.groups[index].parent;
            self.draw_at(index, cycles, now);
        }
    }

    fn draw_at(&mut self, index: u32, cycles: u64, now: u64) {
        let Some(limit) = self.groups[index].limit else {
            return;
        };
        self.fill_bucket(index, now);
        let group = &mut self.groups[index];
        group.tokens -= i64::try_from(cycles).unwrap_or(i64::MAX / 4);
        if group.tokens <= 0 && group.release_at.is_none() {
            let target = i128::from(bucket(limit, self.cycles.limit) / 2);
            let missing = (target - i128::from(group.tokens)).max(1);
            let wait = missing * i128::from(RATE_ONE) / i128::from(limit) + 1;
            let release = now.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX));
            group.release_at = Some(release);
            self.releases.insert((release, index));
        }
    }

    fn fill_bucket(&mut self, index: u32, now: u64) {
        let most = self.cycles.limit;
        let group = &mut self.groups[index];
        let Some(limit) = group.limit else {
            return;
        };
        let cycles = u128::from(now.saturating_sub(group.filled_at));
        let earned = cycles * u128::from(limit) / u128::from(RATE_ONE);
        let earned = i64::try_from(earned).unwrap_or(i64::MAX / 4);
        group.tokens = (group.tokens.saturating_add(earned)).min(bucket(limit, most));
        group.filled_at = group.filled_at.max(now);
    }

    /// Returns the group at or above `group` whose limit is used up.
    pub(crate) fn stopped_by_limit(&self, group: u32) -> Option<u32> {
        let mut at = Some(group);
        while let Some(index) = at {
            if self.groups[index].release_at.is_some() {
                return Some(index);
            }
            at = self.groups[index].parent;
        }
        None
    }

    /// Returns how long a world of `group` may run before a limit stops it, in cycles.
    pub(crate) fn limit_left(&self, group: u32) -> u64 {
        let mut left = u64::MAX;
        let mut at = Some(group);
        while let Some(index) = at {
            let group = &self.groups[index];
            if group.limit.is_some() {
                let tokens = u64::try_from(group.tokens).unwrap_or(0);
                // Others that run now draw from the same bucket.
                left = left.min(tokens / u64::from(group.running.max(1)));
            }
            at = group.parent;
        }
        left
    }

    /// Lifts the limits that are due at `now`.
    pub(crate) fn release_due(&mut self, now: u64) {
        while let Some(&(at, world)) = self.paced.first()
            && at <= now
        {
            self.paced.pop_first();
            self.enqueue(world, now);
        }
        while let Some(&(at, index)) = self.releases.first() {
            if at > now {
                return;
            }
            self.releases.pop_first();
            self.groups[index].release_at = None;
            self.fill_bucket(index, now);
            if self.groups[index].tokens > 0 {
                self.lift(index, now);
            } else {
                // Worlds that were still running used what came in.
                self.draw_at(index, 0, now);
            }
        }
    }

    /// Returns when a limit is next lifted.
    pub(crate) fn next_release(&self) -> Option<u64> {
        let group = self.releases.first().map(|&(at, _)| at);
        let world = self.paced.first().map(|&(at, _)| at);
        group.into_iter().chain(world).min()
    }

    /// Books `cycles` that a world ran against its part of a limit.
    pub(crate) fn draw_pace(&mut self, index: u32, cycles: u64, now: u64) {
        let most = self.cycles.limit;
        let world = &mut self.worlds[index];
        if let Some(pace) = world.pace {
            let begun = now.saturating_sub(cycles).saturating_sub(most);
            let takes = u128::from(cycles) * u128::from(RATE_ONE) / u128::from(pace.max(1));
            let takes = u64::try_from(takes).unwrap_or(u64::MAX);
            world.paced_until = world.paced_until.max(begun).saturating_add(takes);
        }
    }

    /// Sets a world aside if a limit, or its part of one, is used up. It must be runnable and in no queue.
    pub(crate) fn hold_back(&mut self, index: u32, now: u64) -> bool {
        if let Some(by) = self.stopped_by_limit(self.worlds[index].group) {
            self.park(index, by, now);
            return true;
        }
        let world = &self.worlds[index];
        let until = world.paced_until;
        if world.pace.is_none() || until <= now.saturating_add(self.cycles.slice_min) {
            return false;
        }
        self.leave_class(index);
        self.worlds[index].enter(WorldState::Limited, now);
        self.paced.insert((until, index));
        true
    }

    /// Lets the worlds run again that wait for the limit of group `index`.
    pub(crate) fn lift(&mut self, index: u32, now: u64) {
        if let Some(at) = self.groups[index].release_at.take() {
            self.releases.remove(&(at, index));
        }
        self.fill_bucket(index, now);
        for world in core::mem::take(&mut self.groups[index].parked) {
            if self.worlds[world].state == WorldState::Limited {
                self.enqueue(world, now);
            }
        }
    }

    /// Sets a world aside until the limit of group `by` is lifted. It must be in no queue.
    fn park(&mut self, world: u32, by: u32, now: u64) {
        self.leave_class(world);
        self.worlds[world].enter(WorldState::Limited, now);
        self.groups[by].parked.push(world);
    }

    /// Starts the bucket of a new limit full.
    pub(crate) fn reset_bucket(&mut self, index: u32, now: u64) {
        let most = self.cycles.limit;
        self.lift(index, now);
        let group = &mut self.groups[index];
        group.filled_at = now;
        group.tokens = group.limit.map_or(0, |limit| bucket(limit, most));
    }
}

fn bucket(limit: u64, cycles: u64) -> i64 {
    let most = u128::from(limit) * u128::from(cycles) / u128::from(RATE_ONE);
    i64::try_from(most).unwrap_or(i64::MAX / 4).max(1)
}
