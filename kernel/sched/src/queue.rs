//! A queue of ready worlds with equal placement, ordered by virtual deadline.
//!
//! The class keeps the weighted mean of its runnable worlds' virtual times, which is where a fluid schedule would be.
//! Its own timeline can be shifted as a whole, so worlds that are bound to a busy CPU keep their order among themselves
//! without falling behind the rest of the host for ever.

use crate::topology::CpuSet;
use alloc::collections::BTreeSet;

/// What worlds must have in common to wait in one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) allowed: CpuSet,
    pub(crate) home: u16,
    /// The worlds of VMs that share no core wait apart, so that a CPU can pass them over in one step.
    pub(crate) exclusive: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Class {
    pub(crate) placement: Placement,
    /// Worlds that belong to it, in any state.
    pub(crate) members: u32,
    pub(crate) queue: BTreeSet<(i64, u32)>,
    /// Added to a virtual time of this class to compare it with other classes'.
    pub(crate) offset: i64,
    /// Over runnable worlds: the sum of rates, and of rate times virtual time.
    rates: i128,
    moments: i128,
    /// The mean when the last world left.
    rest: i64,
}

impl Class {
    pub(crate) fn new(placement: Placement, start: i64) -> Self {
        Self {
            placement,
            members: 0,
            queue: BTreeSet::new(),
            offset: 0,
            rates: 0,
            moments: 0,
            rest: start,
        }
    }

    /// Returns where a fluid schedule would be, on the class's own timeline.
    pub(crate) fn vtime(&self) -> i64 {
        if self.rates <= 0 {
            return self.rest;
        }
        i64::try_from(self.moments / self.rates).unwrap_or(self.rest)
    }

    pub(crate) fn rates(&self) -> i128 {
        self.rates
    }

    /// Counts a world that became runnable.
    pub(crate) fn join(&mut self, rate: u64, vtime: i64) {
        self.rates += i128::from(rate);
        self.moments += i128::from(rate) * i128::from(vtime);
    }

    /// Discounts a world that is no longer runnable.
    pub(crate) fn leave(&mut self, rate: u64, vtime: i64) {
        let mean = self.vtime();
        self.rates -= i128::from(rate);
        self.moments -= i128::from(rate) * i128::from(vtime);
        if self.rates <= 0 {
            // The last one to leave may be ahead; who comes next must not find itself behind for that.
            self.rest = mean.max(vtime);
            self.rates = 0;
            self.moments = 0;
        }
    }

    /// Follows a runnable world's virtual time.
    pub(crate) fn advance(&mut self, rate: u64, by: i64) {
        self.moments += i128::from(rate) * i128::from(by);
    }
}
