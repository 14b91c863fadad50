//! The scheduler's state, its construction, and what can be read from it.
//!
//! The operations stand in files of their own: `tree` (pools, VMs, worlds), `pick` and `wake` (decisions), `entitle`
//! (who is entitled to what), `limit`, `cosched`, `place`.

use crate::RATE_ONE;
use crate::account::Account;
use crate::error::Error;
use crate::group::{Group, GroupKind};
use crate::queue::Class;
use crate::settings::{Amount, Host, Settings, Shares, Tuning};
use crate::slab::{GroupId, Slab, WorldId};
use crate::topology::{CPUS_MAX, Cpu, CpuSet, Topology};
use crate::world::{World, WorldState};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// What a CPU is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Run `world` for at most `slice` TSC cycles, then ask again.
    Run {
        /// Who runs.
        world: WorldId,
        /// For how long, in TSC cycles; never zero.
        slice: u64,
    },
    /// Nothing is eligible: sleep until poked, or until the TSC reaches `until`.
    Idle {
        /// When a limit is next lifted.
        until: Option<u64>,
    },
}

/// Times of [`Tuning`] in TSC cycles.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cycles {
    pub(crate) slice: u64,
    pub(crate) slice_min: u64,
    pub(crate) turn: u64,
    pub(crate) skew: u64,
    pub(crate) refresh: u64,
    pub(crate) limit: u64,
    pub(crate) remote: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct CpuState {
    pub(crate) current: Option<u32>,
    /// The deadline that `current` was picked by, on the common timeline.
    pub(crate) key: i64,
    /// Who runs next here because a spinning sibling gave way.
    pub(crate) next: Option<WorldId>,
    pub(crate) classes: Vec<u32>,
    /// How many worlds ran here last.
    pub(crate) settlers: u32,
    /// It was already told to look.
    pub(crate) poked: bool,
    /// The world that an idle CPU was told to look for.
    pub(crate) poked_for: Option<WorldId>,
}

/// The entitlement scheduler of one host. See the crate's documentation.
#[derive(Clone, Debug)]
pub struct Scheduler {
    pub(crate) topology: Topology,
    pub(crate) tsc_hz: u64,
    pub(crate) tuning: Tuning,
    pub(crate) cycles: Cycles,
    pub(crate) worlds: Slab<World>,
    pub(crate) groups: Slab<Group>,
    pub(crate) root: u32,
    pub(crate) service: u32,
    pub(crate) classes: Slab<Class>,
    pub(crate) cpus: Vec<CpuState>,
    /// Running worlds by the deadline they were picked by, latest last; only on hosts of so many CPUs that not all of them
    /// are compared.
    pub(crate) running: BTreeSet<(i64, Cpu)>,
    pub(crate) idle: CpuSet,
    pub(crate) pokes: CpuSet,
    /// Per core: the world that a thread wants to run though another thread's VM forbids it, and that thread.
    pub(crate) claims: Vec<Option<(Cpu, WorldId)>>,
    /// When limits are lifted.
    pub(crate) releases: BTreeSet<(u64, u32)>,
    /// When worlds may run again that used up their part of a limit.
    pub(crate) paced: BTreeSet<(u64, u32)>,
    pub(crate) refreshed_at: u64,
    /// Groups, parents first; empty when it must be made again.
    pub(crate) order: Vec<u32>,
}

impl Scheduler {
    /// Makes the scheduler of `host`, with an empty root pool and the host's own group, at TSC `now`.
    ///
    /// # Errors
    /// [`Error::BadHost`] without CPUs, above [`CPUS_MAX`] or with a TSC below 1 MHz; admission errors where the
    /// tuning reserves more for the host's own worlds than there is.
    pub fn new(host: Host, tuning: Tuning, now: u64) -> Result<Self, Error> {
        let count = host.topology.cpus();
        if count == 0 || count > CPUS_MAX || host.tsc_hz < 1_000_000 {
            return Err(Error::BadHost {
                cpus: count,
                tsc_hz: host.tsc_hz,
            });
        }
        let of_us = |us: u64| (us.saturating_mul(host.tsc_hz / 1_000_000)).max(1);
        let cycles = Cycles {
            slice: of_us(tuning.slice_us),
            slice_min: of_us(tuning.slice_us_min.min(tuning.slice_us)),
            turn: of_us(tuning.turn_us),
            skew: of_us(tuning.skew_us),
            refresh: of_us(tuning.refresh_us),
            limit: of_us(tuning.limit_us),
            remote: of_us(tuning.remote_us),
        };
        let mut groups = Slab::new();
        let mut top = Group::new(GroupKind::Pool, None, Settings::default());
        top.settings.expandable = false;
        top.reservation = count as u64 * RATE_ONE;
        top.held = top.reservation;
        let (root, _) = groups.insert(top);
        let cpu = CpuState {
            current: None,
            key: 0,
            next: None,
            classes: Vec::new(),
            settlers: 0,
            poked: false,
            poked_for: None,
        };
        let mut made = Self {
            claims: alloc::vec![None; count],
            cpus: alloc::vec![cpu; count],
            topology: host.topology,
            tsc_hz: host.tsc_hz,
            tuning,
            cycles,
            worlds: Slab::new(),
            groups,
            root,
            service: root,
            classes: Slab::new(),
            running: BTreeSet::new(),
            idle: CpuSet::EMPTY,
            pokes: CpuSet::EMPTY,
            releases: BTreeSet::new(),
            paced: BTreeSet::new(),
            refreshed_at: now,
            order: Vec::new(),
        };
        let settings = Settings {
            reservation: Amount::Percent(tuning.service_percent),
            shares: Shares::High,
            ..Settings::default()
        };
        made.service = made
            .create(made.root(), GroupKind::Service, settings, now)?
            .index;
        Ok(made)
    }

    /// Returns the pool that holds everything.
    #[must_use]
    pub fn root(&self) -> GroupId {
        self.group_id(self.root)
    }

    /// Returns the group for the host's own worlds.
    #[must_use]
    pub fn service(&self) -> GroupId {
        self.group_id(self.service)
    }

    /// Returns the times that the scheduler works with.
    #[must_use]
    pub fn tuning(&self) -> Tuning {
        self.tuning
    }

    /// Returns and forgets which CPUs are to ask again with [`Self::pick`], out of their world or their sleep.
    pub fn take_pokes(&mut self) -> CpuSet {
        core::mem::take(&mut self.pokes)
    }

    /// Returns where the time of `world` went until `now`.
    ///
    /// # Errors
    /// [`Error::UnknownWorld`].
    pub fn account(&self, world: WorldId, now: u64) -> Result<Account, Error> {
        let mut copy = self.worlds[self.world_index(world)?].clone();
        copy.book(now);
        Ok(copy.account)
    }

    /// Returns what `world` is doing.
    ///
    /// # Errors
    /// [`Error::UnknownWorld`].
    pub fn state(&self, world: WorldId) -> Result<WorldState, Error> {
        Ok(self.worlds[self.world_index(world)?].state)
    }

    /// Returns the world on `cpu`.
    #[must_use]
    pub fn current(&self, cpu: Cpu) -> Option<WorldId> {
        let index = self.cpus.get(cpu.index())?.current?;
        Some(self.world_id(index))
    }

    /// Returns the worlds of a VM or of the host's own group, in the order in which they were added.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn worlds_of(&self, group: GroupId) -> Result<Vec<WorldId>, Error> {
        let worlds = &self.groups[self.group_index(group)?].worlds;
        Ok(worlds.iter().map(|&world| self.world_id(world)).collect())
    }

    /// Tells whether [`Self::refresh`] should be called.
    #[must_use]
    pub fn is_stale(&self, now: u64) -> bool {
        now.saturating_sub(self.refreshed_at) >= self.cycles.refresh
    }

    /// Returns the rate that `world` is entitled to while it wants all it can get, of [`RATE_ONE`] for a CPU.
    ///
    /// # Errors
    /// [`Error::UnknownWorld`].
    pub fn rate(&self, world: WorldId) -> Result<u64, Error> {
        Ok(self.worlds[self.world_index(world)?].rate)
    }

    /// Returns what `world` was entitled to by its demand at the last refresh, of [`RATE_ONE`] for a CPU.
    ///
    /// # Errors
    /// [`Error::UnknownWorld`].
    pub fn entitled(&self, world: WorldId) -> Result<u64, Error> {
        Ok(self.worlds[self.world_index(world)?].entitled)
    }

    /// Returns the progress of `world` on the time scale that its VM's vCPUs share, in cycles.
    ///
    /// # Errors
    /// [`Error::UnknownWorld`].
    pub fn progress(&self, world: WorldId) -> Result<u64, Error> {
        Ok(self.worlds[self.world_index(world)?].progress)
    }

    /// Returns the settings of a pool or VM.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn settings(&self, group: GroupId) -> Result<Settings, Error> {
        Ok(self.groups[self.group_index(group)?].settings)
    }

    /// Returns what a group holds of its parent's reservation, and how much of that its children took: rates.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn reserved(&self, group: GroupId) -> Result<(u64, u64), Error> {
        let group = &self.groups[self.group_index(group)?];
        Ok((group.held, group.reserved_below))
    }

    /// Returns the pool that a pool or VM is in; the root is in none.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn parent(&self, group: GroupId) -> Result<Option<GroupId>, Error> {
        let parent = self.groups[self.group_index(group)?].parent;
        Ok(parent.map(|index| self.group_id(index)))
    }

    /// Returns how many VMs are in a pool, those in pools inside it not counted.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn vms_in(&self, pool: GroupId) -> Result<u32, Error> {
        let children = &self.groups[self.group_index(pool)?].groups;
        let vms = children
            .iter()
            .filter(|&&child| self.groups[child].kind == GroupKind::Vm);
        Ok(vms.count() as u32)
    }

    /// Returns the home node of a VM.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub fn home(&self, group: GroupId) -> Result<u16, Error> {
        Ok(self.groups[self.group_index(group)?].home)
    }

    pub(crate) fn world_id(&self, index: u32) -> WorldId {
        WorldId {
            index,
            generation: self.worlds.generation(index),
        }
    }

    pub(crate) fn group_id(&self, index: u32) -> GroupId {
        GroupId {
            index,
            generation: self.groups.generation(index),
        }
    }

    pub(crate) fn world_index(&self, world: WorldId) -> Result<u32, Error> {
        let held = self.worlds.holds(world.index, world.generation);
        held.then_some(world.index).ok_or(Error::UnknownWorld)
    }

    pub(crate) fn group_index(&self, group: GroupId) -> Result<u32, Error> {
        let held = self.groups.holds(group.index, group.generation);
        held.then_some(group.index).ok_or(Error::UnknownGroup)
    }
}
