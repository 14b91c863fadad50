//! Pools, VMs and worlds: made, changed, moved and removed.
//!
//! These are an administrator's operations: they validate everything first, may cost O(n), and show their effect on
//! who runs by the next refresh.

use crate::error::Error;
use crate::group::{Group, GroupKind};
use crate::queue::{Class, Placement};
use crate::scheduler::Scheduler;
use crate::settings::Settings;
use crate::slab::{GroupId, WorldId};
use crate::topology::{Cpu, CpuSet};
use crate::world::{World, WorldState};
use crate::{CLASSES_PER_CPU_MAX, DEPTH_MAX, VCPUS_MAX};

impl Scheduler {
    /// Makes a pool in `parent`.
    ///
    /// # Errors
    /// An unknown or unsuitable parent, settings that make no sense, too deep a nesting, or a reservation that is
    /// not there to be given.
    pub fn create_pool(
        &mut self,
        parent: GroupId,
        settings: Settings,
        now: u64,
    ) -> Result<GroupId, Error> {
        self.create(parent, GroupKind::Pool, settings, now)
    }

    /// Makes a VM without vCPUs in `parent`, at home on the node with the fewest worlds for its size.
    ///
    /// # Errors
    /// As [`Self::create_pool`].
    pub fn create_vm(
        &mut self,
        parent: GroupId,
        settings: Settings,
        now: u64,
    ) -> Result<GroupId, Error> {
        self.create(parent, GroupKind::Vm, settings, now)
    }

    pub(crate) fn create(
        &mut self,
        parent: GroupId,
        kind: GroupKind,
        settings: Settings,
        now: u64,
    ) -> Result<GroupId, Error> {
        let parent = self.group_index(parent)?;
        if self.groups[parent].kind != GroupKind::Pool {
            return Err(Error::WrongKind);
        }
        check_depth(self.depth(parent) + 1)?;
        let (reservation, limit) = self.rates_of(&settings)?;
        self.admit(Some(parent), 0, reservation)?;
        let mut group = Group::new(kind, Some(parent), settings);
        group.reservation = reservation;
        group.held = reservation;
        group.limit = limit;
        group.home = self.roomiest_node();
        let (index, generation) = self.groups.insert(group);
        self.groups[parent].groups.push(index);
        self.order.clear();
        self.reset_bucket(index, now);
        Ok(GroupId { index, generation })
    }

    /// Changes the settings of a pool or VM, running or not.
    ///
    /// # Errors
    /// As [`Self::create_pool`]; the root keeps its settings.
    pub fn set(&mut self, group: GroupId, settings: Settings, now: u64) -> Result<(), Error> {
        let index = self.group_index(group)?;
        if index == self.root {
            return Err(Error::BuiltIn);
        }
        let (reservation, limit) = self.rates_of(&settings)?;
        let group = &self.groups[index];
        let below = group.reserved_below;
        let (kind, parent, old) = (group.kind, group.parent, group.held);
        let expandable = settings.expandable;
        if kind == GroupKind::Pool && !expandable && below > reservation {
            return Err(Error::Reserved {
                at: self.group_id(index),
                asked: 0,
                capacity: self.mhz(reservation),
                reserved: self.mhz(below),
            });
        }
        let held = Self::would_hold(kind, expandable, reservation, below);
        if let Some(limit) = limit
            && held > limit
        {
            return Err(self.above_limit(held, limit));
        }
        self.admit(parent, old, held)?;
        let group = &mut self.groups[index];
        let relimited = group.limit != limit;
        group.settings = settings;
        group.reservation = reservation;
        group.limit = limit;
        group.held = held;
        if relimited {
            self.reset_bucket(index, now);
        }
        Ok(())
    }

    /// Moves a pool or VM into another pool.
    ///
    /// # Errors
    /// [`Error::Cycle`] if the new parent lies inside it, and as [`Self::create_pool`].
    pub fn move_group(&mut self, group: GroupId, parent: GroupId, now: u64) -> Result<(), Error> {
        let index = self.group_index(group)?;
        let target = self.group_index(parent)?;
        let Some(source) = self.groups[index].parent else {
            return Err(Error::BuiltIn);
        };
        if index == self.service {
            return Err(Error::BuiltIn);
        }
        if self.groups[target].kind != GroupKind::Pool {
            return Err(Error::WrongKind);
        }
        if self.is_within(target, index) {
            return Err(Error::Cycle);
        }
        check_depth(self.depth(target) + self.height(index))?;
        let held = self.groups[index].held;
        // Giving back first makes room that the new place may need; it never fails, and is undone on refusal.
        self.admit(Some(source), held, 0)?;
        if let Err(error) = self.admit(Some(target), 0, held) {
            self.admit(Some(source), 0, held)?;
            return Err(error);
        }
        // Worlds set aside by a limit of the old place must not wait for it any more.
        self.lift_upwards(source, now);
        self.count_moved(index, source, target);
        self.groups[source].groups.retain(|&child| child != index);
        self.groups[target].groups.push(index);
        self.groups[index].parent = Some(target);
        self.order.clear();
        Ok(())
    }

    fn lift_upwards(&mut self, group: u32, now: u64) {
        let mut at = Some(group);
        while let Some(index) = at {
            self.lift(index, now);
            at = self.groups[index].parent;
        }
    }

    fn count_moved(&mut self, index: u32, source: u32, target: u32) {
        let running = self.groups[index].running;
        let mut at = Some(source);
        while let Some(group) = at {
            self.groups[group].running -= running;
            at = self.groups[group].parent;
        }
        at = Some(target);
        while let Some(group) = at {
            self.groups[group].running += running;
            at = self.groups[group].parent;
        }
    }

    /// Removes an empty pool or VM.
    ///
    /// # Errors
    /// [`Error::NotEmpty`], [`Error::BuiltIn`], [`Error::UnknownGroup`].
    pub fn delete(&mut self, group: GroupId) -> Result<(), Error> {
        let index = self.group_index(group)?;
        let group = &self.groups[index];
        if index == self.service {
            return Err(Error::BuiltIn);
        }
        let Some(parent) = group.parent else {
            return Err(Error::BuiltIn);
        };
        if !group.groups.is_empty() || !group.worlds.is_empty() {
            return Err(Error::NotEmpty {
                children: group.groups.len(),
                worlds: group.worlds.len(),
            });
        }
        let (held, release) = (group.held, group.release_at);
        self.admit(Some(parent), held, 0)?;
        if let Some(at) = release {
            self.releases.remove(&(at, index));
        }
        self.groups[parent].groups.retain(|&child| child != index);
        self.groups.remove(index);
        self.order.clear();
        Ok(())
    }

    /// Says that no core may run this VM and another at the same time, or that it may.
    ///
    /// # Errors
    /// [`Error::NotEmpty`] once the VM has vCPUs: what already runs beside it cannot be taken back.
    pub fn set_exclusive(&mut self, vm: GroupId, exclusive: bool) -> Result<(), Error> {
        let index = self.group_index(vm)?;
        let group = &mut self.groups[index];
        if !group.worlds.is_empty() {
            return Err(Error::NotEmpty {
                children: 0,
                worlds: group.worlds.len(),
            });
        }
        group.exclusive = exclusive;
        Ok(())
    }

    /// Adds a blocked world to a VM or to the host's own group. `affinity` restricts it to some CPUs; a CPU that it
    /// shall keep away from is one that is left out.
    ///
    /// # Errors
    /// [`Error::WrongKind`] for a pool, [`Error::TooManyVcpus`], [`Error::NoCpu`], [`Error::TooManyPlacements`].
    pub fn add_world(
        &mut self,
        group: GroupId,
        affinity: Option<CpuSet>,
        now: u64,
    ) -> Result<WorldId, Error> {
        let index = self.group_index(group)?;
        let group = &self.groups[index];
        match group.kind {
            GroupKind::Pool => return Err(Error::WrongKind),
            GroupKind::Vm if group.vcpus() as usize >= VCPUS_MAX => {
                return Err(Error::TooManyVcpus { most: VCPUS_MAX });
            }
            GroupKind::Vm | GroupKind::Service => {}
        }
        let class = self.class_for(index, affinity)?;
        Ok(self.insert_world(index, class, now))
    }

    /// Adds a blocked world that works for the vCPUs of `vm`, such as for its devices: it runs on the VM's entitlement,
    /// adds nothing to it, and is no sibling whose skew is bounded.
    ///
    /// # Errors
    /// [`Error::WrongKind`] for anything but a VM, [`Error::TooManyPlacements`].
    pub fn add_helper(&mut self, vm: GroupId, now: u64) -> Result<WorldId, Error> {
        let index = self.group_index(vm)?;
        if self.groups[index].kind != GroupKind::Vm {
            return Err(Error::WrongKind);
        }
        let class = self.class_for(index, None)?;
        let world = self.insert_world(index, class, now);
        self.worlds[world.index].helper = true;
        self.groups[index].helpers += 1;
        Ok(world)
    }

    fn insert_world(&mut self, group: u32, class: u32, now: u64) -> WorldId {
        self.classes[class].members += 1;
        let mut world = World::new(group, class, now, self.cycles.slice_min);
        // Until the first refresh: an even part of what the group may have.
        let parts = self.groups[group].worlds.len() as u64 + 1;
        world.rate =
            (self.groups[group].potential / parts).clamp(crate::RATE_ONE / 100, crate::RATE_ONE);
        world.next_rate = world.rate;
        let (index, generation) = self.worlds.insert(world);
        self.groups[group].worlds.push(index);
        WorldId { index, generation }
    }

    /// Removes a world, whatever it does; if it was on a CPU, that CPU must [`Self::pick`] next.
    ///
    /// # Errors
    /// [`Error::UnknownWorld`].
    pub fn remove_world(&mut self, world: WorldId, now: u64) -> Result<(), Error> {
        self.block(world, now)?;
        let index = world.index;
        let (group, class) = (self.worlds[index].group, self.worlds[index].class);
        self.groups[group].worlds.retain(|&member| member != index);
        self.groups[group].helpers -= u32::from(self.worlds[index].helper);
        if let Some(last) = self.worlds[index].last_cpu {
            self.cpus[last.index()].settlers -= 1;
        }
        self.worlds.remove(index);
        self.leave_placement(class);
        Ok(())
    }

    /// Restricts a world to some CPUs, or frees it. A world on a CPU that it must leave stays for its slice; that
    /// CPU is poked.
    ///
    /// # Errors
    /// [`Error::UnknownWorld`], [`Error::NoCpu`], [`Error::TooManyPlacements`].
    pub fn set_affinity(
        &mut self,
        world: WorldId,
        affinity: Option<CpuSet>,
        now: u64,
    ) -> Result<(), Error> {
        let index = self.world_index(world)?;
        let new = self.class_for(self.worlds[index].group, affinity)?;
        self.classes[new].members += 1;
        self.change_class(index, new, now);
        Ok(())
    }

    /// Moves a world to a class that already counts it as a member.
    fn change_class(&mut self, index: u32, new: u32, now: u64) {
        let old = self.worlds[index].class;
        let state = self.worlds[index].state;
        if state == WorldState::Ready {
            self.unqueue(index);
        }
        if let WorldState::Running(_) = state {
            self.charge_world(index, now);
        }
        let runnable = matches!(state, WorldState::Ready | WorldState::Running(_));
        if runnable {
            self.leave_class(index);
        }
        self.worlds[index].class = new;
        if runnable {
            self.join_class(index, now);
        }
        match state {
            WorldState::Ready => {
                self.queue(index);
                self.find_cpu(index, true);
            }
            WorldState::Running(cpu) => {
                self.pokes.insert(cpu);
            }
            WorldState::Blocked | WorldState::CoStopped | WorldState::Limited => {}
        }
        self.leave_placement(old);
    }

    fn leave_placement(&mut self, index: u32) {
        self.classes[index].members -= 1;
        if self.classes[index].members == 0 {
            for cpu in self.classes[index].placement.allowed.iter() {
                self.cpus[cpu.index()]
                    .classes
                    .retain(|&class| class != index);
            }
            self.classes.remove(index);
        }
    }

    /// Returns the class for a world of `group`, made if there is none yet.
    fn class_for(&mut self, group: u32, affinity: Option<CpuSet>) -> Result<u32, Error> {
        let all = CpuSet::first(self.cpus.len());
        let allowed = affinity.map_or(all, |set| set.and(&all));
        let Some(first) = allowed.lowest() else {
            return Err(Error::NoCpu);
        };
        let group = &self.groups[group];
        let at_home = allowed.and(&self.topology.node(group.home)).lowest();
        let placement = Placement {
            allowed,
            // A world that may not run at home is at home where it may.
            home: self.topology.node_of(at_home.unwrap_or(first)),
            exclusive: group.exclusive,
        };
        let known = self
            .classes
            .indices()
            .find(|&class| self.classes[class].placement == placement);
        if let Some(class) = known {
            return Ok(class);
        }
        let full = |cpu: &Cpu| self.cpus[cpu.index()].classes.len() >= CLASSES_PER_CPU_MAX;
        if let Some(cpu) = allowed.iter().find(full) {
            return Err(Error::TooManyPlacements {
                cpu: cpu.0,
                most: CLASSES_PER_CPU_MAX,
            });
        }
        let (index, _) = self.classes.insert(Class::new(placement, 0));
        for cpu in allowed.iter() {
            self.cpus[cpu.index()].classes.push(index);
        }
        Ok(index)
    }

    /// Returns the node with the fewest worlds at home for each of its CPUs.
    fn roomiest_node(&self) -> u16 {
        let load = |node: u16| -> u64 {
            let cpus = self.topology.node(node).len() as u64;
            let homed = self.groups.indices().filter(|&group| {
                self.groups[group].kind == GroupKind::Vm && self.groups[group].home == node
            });
            let worlds: u64 = homed
                .map(|group| 1 + self.groups[group].worlds.len() as u64)
                .sum();
            worlds * 1024 / cpus.max(1)
        };
        (0..self.topology.nodes() as u16)
            .filter(|&node| !self.topology.node(node).is_empty())
            .min_by_key(|&node| load(node))
            .unwrap_or(0)
    }

    /// Returns how many groups there are from the root to `group`, both counted.
    fn depth(&self, group: u32) -> usize {
        let mut depth = 1;
        let mut at = self.groups[group].parent;
        while let Some(index) = at {
            depth += 1;
            at = self.groups[index].parent;
        }
        depth
    }

    fn height(&self, group: u32) -> usize {
        let below = self.groups[group]
            .groups
            .iter()
            .map(|&child| self.height(child))
            .max();
        1 + below.unwrap_or(0)
    }

    fn is_within(&self, group: u32, outer: u32) -> bool {
        let mut at = Some(group);
        while let Some(index) = at {
            if index == outer {
                return true;
            }
            at = self.groups[index].parent;
        }
        false
    }
}

fn check_depth(depth: usize) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(Error::TooDeep {
            depth,
            most: DEPTH_MAX,
        });
    }
    Ok(())
}
