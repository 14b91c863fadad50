//! Pools of CPU time by name, and what settings in words mean to the scheduler.
//!
//! The tree itself is the scheduler's; here are the names. Pools do not outlive a restart of the host.

use crate::memory::ranks;
use crate::worlds;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use arch::sync::SpinLock;
use control::{CpuAmount, CpuShares, CpuTime, PoolInfo, PoolSetting, PoolTime, VmName};
use sched::{Amount, Error, GroupId, Scheduler, Settings, Shares};

/// A pool.
#[derive(Debug)]
struct Pool {
    name: VmName,
    parent: Option<VmName>,
    time: PoolTime,
    group: GroupId,
}

static POOLS: SpinLock<Vec<Pool>> = SpinLock::new(ranks::POOLS, Vec::new());

fn shares(shares: CpuShares) -> Shares {
    match shares {
        CpuShares::Low => Shares::Low,
        CpuShares::Normal => Shares::Normal,
        CpuShares::High => Shares::High,
        CpuShares::Number(number) => Shares::Number(number),
    }
}

fn amount(amount: CpuAmount) -> Amount {
    match amount {
        CpuAmount::Mhz(mhz) => Amount::Mhz(mhz),
        CpuAmount::Percent(percent) => Amount::Percent(percent),
    }
}

/// Returns what a VM's CPU time means to the scheduler.
#[must_use]
pub fn vm_settings(time: &CpuTime) -> Settings {
    Settings {
        reservation: time.reservation.map_or(Amount::ZERO, amount),
        limit: time.limit.map(amount),
        shares: shares(time.shares),
        expandable: false,
    }
}

fn pool_settings(time: &PoolTime) -> Settings {
    Settings {
        reservation: time.reservation.map_or(Amount::ZERO, amount),
        limit: time.limit.map(amount),
        shares: shares(time.shares),
        expandable: time.expandable,
    }
}

fn find<'a>(pools: &'a [Pool], name: &VmName) -> Result<&'a Pool, String> {
    let found = pools.iter().find(|pool| pool.name == *name);
    found.ok_or_else(|| format!("there is no pool named {name}; `sched pool list` shows all"))
}

/// Returns the pool that a VM with this CPU time is in; `None` is the host's own.
///
/// # Errors
/// A text when there is no pool of that name.
pub fn find_for(time: &CpuTime) -> Result<Option<GroupId>, String> {
    let Some(name) = &time.pool else {
        return Ok(None);
    };
    find(&POOLS.lock(), name).map(|pool| Some(pool.group))
}

/// Puts a refusal into words: with the name of the pool that has too little.
fn explain(pools: &[Pool], error: Error) -> String {
    let Error::Reserved { at, .. } = error else {
        return error.to_string();
    };
    match pools.iter().find(|pool| pool.group == at) {
        Some(pool) => format!("pool {}: {error}", pool.name),
        None => format!("the host: {error}"),
    }
}

/// As [`explain`], for callers that know no pools.
#[must_use]
pub fn refusal(error: Error) -> String {
    explain(&POOLS.lock(), error)
}

/// Makes the pool `name` in `parent`.
///
/// # Errors
/// A text that says what is in the way.
pub fn create(
    name: VmName,
    parent: Option<VmName>,
    settings: &[PoolSetting],
) -> Result<(), String> {
    let mut pools = POOLS.lock();
    if find(&pools, &name).is_ok() {
        return Err(format!("there is a pool named {name} already"));
    }
    let around = match &parent {
        Some(parent) => Some(find(&pools, parent)?.group),
        None => None,
    };
    let time = PoolTime::default().with(settings);
    let group = worlds::with_tree(|tree, now| {
        let around = around.unwrap_or(tree.root());
        tree.create_pool(around, pool_settings(&time), now)
    })
    .map_err(|error| explain(&pools, error))?;
    pools.push(Pool {
        name,
        parent,
        time,
        group,
    });
    Ok(())
}

/// Changes what the pool `name` is to get.
///
/// # Errors
/// A text that says what is in the way.
pub fn set(name: &VmName, settings: &[PoolSetting]) -> Result<(), String> {
    let mut pools = POOLS.lock();
    let pool = find(&pools, name)?;
    let (group, time) = (pool.group, pool.time.with(settings));
    worlds::with_tree(|tree, now| tree.set(group, pool_settings(&time), now))
        .map_err(|error| explain(&pools, error))?;
    if let Some(pool) = pools.iter_mut().find(|pool| pool.group == group) {
        pool.time = time;
    }
    Ok(())
}

/// Removes the pool `name`, which must be empty.
///
/// # Errors
/// A text that says what is in the way.
pub fn delete(name: &VmName) -> Result<(), String> {
    let mut pools = POOLS.lock();
    let group = find(&pools, name)?.group;
    worlds::with_tree(|tree, _| tree.delete(group))
        .map_err(|error| format!("pool {name}: {error}"))?;
    pools.retain(|pool| pool.group != group);
    Ok(())
}

/// Returns all pools.
#[must_use]
pub fn list() -> Vec<PoolInfo> {
    let pools = POOLS.lock();
    let info = |tree: &Scheduler, pool: &Pool| {
        let (held, reserved) = tree.reserved(pool.group).unwrap_or_default();
        PoolInfo {
            name: pool.name.to_string(),
            parent: pool.parent.as_ref().map(ToString::to_string),
            time: pool.time.clone(),
            held_mhz: tree.mhz(held),
            reserved_mhz: tree.mhz(reserved),
            vms_running: tree.vms_in(pool.group).unwrap_or(0),
        }
    };
    worlds::with_tree(|tree, _| pools.iter().map(|pool| info(tree, pool)).collect())
}
