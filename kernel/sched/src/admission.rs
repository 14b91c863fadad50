//! Admission control: nothing is guaranteed that is not there.
//!
//! A group holds its reservation of its parent; an expandable pool holds what its children hold where that is more. A
//! request is tried from the bottom up, changes nothing until every level has agreed, and is refused with the numbers
//! of the level that did not.

use crate::RATE_ONE;
use crate::error::Error;
use crate::group::GroupKind;
use crate::scheduler::Scheduler;
use crate::settings::{Settings, Shares};
use alloc::vec::Vec;

impl Scheduler {
    /// Returns the rates of settings that make sense by themselves.
    pub(crate) fn rates_of(&self, settings: &Settings) -> Result<(u64, Option<u64>), Error> {
        if let Shares::Number(number) = settings.shares
            && (number == 0 || number > Shares::NUMBER_MAX)
        {
            return Err(Error::BadShares {
                number,
                most: Shares::NUMBER_MAX,
            });
        }
        let reservation = settings.reservation.rate(self.tsc_hz);
        let limit = settings.limit.map(|limit| limit.rate(self.tsc_hz));
        match limit {
            Some(0) => Err(Error::ZeroLimit),
            Some(limit) if reservation > limit => Err(self.above_limit(reservation, limit)),
            // More than the host has is no limit, and must not make numbers large.
            _ => Ok((reservation, limit.map(|limit| limit.min(self.capacity())))),
        }
    }

    /// Returns the rate of all CPUs together.
    pub(crate) fn capacity(&self) -> u64 {
        self.cpus.len() as u64 * RATE_ONE
    }

    /// Returns what a group would hold of its parent with these numbers.
    pub(crate) fn would_hold(
        kind: GroupKind,
        expandable: bool,
        reservation: u64,
        below: u64,
    ) -> u64 {
        if kind == GroupKind::Pool && expandable {
            reservation.max(below)
        } else {
            reservation
        }
    }

    /// Lets a child of `parent` hold `new` instead of `old`, or refuses.
    pub(crate) fn admit(&mut self, parent: Option<u32>, old: u64, new: u64) -> Result<(), Error> {
        let mut changes: Vec<(u32, u64, u64)> = Vec::new();
        let (mut at, mut old, mut new) = (parent, old, new);
        while let Some(index) = at {
            let group = &self.groups[index];
            let others = group.reserved_below - old;
            let below = others.saturating_add(new);
            let free_to_grow = group.settings.expandable && group.parent.is_some();
            if new > old && below > group.reservation && !free_to_grow {
                return Err(Error::Reserved {
                    at: self.group_id(index),
                    asked: self.mhz(new - old),
                    capacity: self.mhz(group.reservation),
                    reserved: self.mhz(group.reserved_below),
                });
            }
            let held = Self::would_hold(
                group.kind,
                group.settings.expandable,
                group.reservation,
                below,
            );
            if let Some(limit) = group.limit
                && new > old
                && held > limit
            {
                return Err(self.above_limit(held, limit));
            }
            changes.push((index, below, held));
            (old, new) = (group.held, held);
            at = group.parent;
        }
        for (index, below, held) in changes {
            self.groups[index].reserved_below = below;
            self.groups[index].held = held;
        }
        Ok(())
    }

    /// Returns a rate in MHz of this host's TSC.
    #[must_use]
    pub fn mhz(&self, rate: u64) -> u64 {
        let mhz = u128::from(rate) * u128::from(self.tsc_hz) / u128::from(RATE_ONE);
        u64::try_from((mhz + 500_000) / 1_000_000).unwrap_or(u64::MAX)
    }

    pub(crate) fn above_limit(&self, reserved: u64, limit: u64) -> Error {
        Error::AboveLimit {
            reserved: self.mhz(reserved),
            limit: self.mhz(limit),
        }
    }
}
