//! Who uses the host's CPUs: accounts of the scheduler and counters of vCPUs, at a moment and between two moments.

use super::reports::permille;
use crate::vm::inventory;
use crate::vm::link::VcpuLink;
use crate::vm::vcpu::EXIT_REASONS;
use crate::{exec, timer, worlds};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use control::{
    CpuUse, ExitCount, ServiceUse, TimeUse, TopOrder, TopPage, VcpuUse, VmStats, WorldStats,
};
use core::sync::atomic::Ordering;
use sched::{Account, WorldState};

type Exits = [u64; EXIT_REASONS.len()];

fn exits(link: &VcpuLink) -> Exits {
    core::array::from_fn(|reason| link.exits[reason].load(Ordering::Relaxed))
}

/// Names the reasons that counted, the most frequent first.
fn named(counts: &Exits) -> Vec<ExitCount> {
    let mut named: Vec<ExitCount> = EXIT_REASONS
        .iter()
        .zip(counts)
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| ExitCount {
            reason: (*reason).to_string(),
            count: *count,
        })
        .collect();
    named.sort_by_key(|exit| core::cmp::Reverse(exit.count));
    named
}

fn state_name(state: WorldState) -> String {
    match state {
        WorldState::Blocked => "waiting".to_string(),
        WorldState::Ready => "ready".to_string(),
        WorldState::Running(cpu) => format!("on CPU {}", cpu.0),
        WorldState::CoStopped => "co-stopped".to_string(),
        WorldState::Limited => "limited".to_string(),
    }
}

/// Returns where the time of the running VM `name` went.
///
/// # Errors
/// A text when it does not run.
pub(super) fn stats(name: &str) -> Result<VmStats, String> {
    let vm = inventory::running(name)?.vm;
    let accounts = vm.group.accounts();
    let of = |(place, (state, account)): (usize, &(WorldState, Account))| {
        let link = vm.links.get(place);
        WorldStats {
            name: link.map_or_else(|| "devices".to_string(), |_| format!("vcpu {place}")),
            state: state_name(*state),
            run_cycles: account.run,
            ready_cycles: account.ready,
            ready_cycles_max: account.ready_max,
            co_stop_cycles: account.co_stop,
            limited_cycles: account.limited,
            wait_cycles: account.wait,
            system_cycles: account.system,
            dispatches: account.dispatches,
            migrations: account.migrations,
            yields: account.yields,
            exits_by_reason: link.map_or_else(Vec::new, |link| named(&exits(link))),
        }
    };
    Ok(VmStats {
        name: name.to_string(),
        tsc_hz: timer::clock().tsc_hz(),
        worlds: accounts.iter().enumerate().map(of).collect(),
    })
}

/// A world of a VM at one moment.
struct World {
    vm: String,
    /// Its number among the VM's worlds: vCPUs, then what works for them.
    place: usize,
    account: Account,
    /// CPU and exits of a vCPU.
    vcpu: Option<(u32, Exits)>,
}

/// Counters at one moment, for `host top`.
pub(super) struct Sample {
    nanos: u64,
    cpus: Vec<u64>,
    worlds: Vec<World>,
    services: Vec<Account>,
}

impl Sample {
    /// Reads all counters.
    pub(super) fn take() -> Self {
        let machines: Vec<_> = inventory::with_records(|records| {
            let running = records.iter().filter_map(|r| r.running.as_ref());
            running.map(|r| alloc::sync::Arc::clone(&r.vm)).collect()
        });
        let mut all = Vec::new();
        for vm in &machines {
            for (place, (_, account)) in vm.group.accounts().into_iter().enumerate() {
                let link = vm.links.get(place);
                all.push(World {
                    vm: vm.name.clone(),
                    place,
                    account,
                    vcpu: link.map(|link| (link.cpu(), exits(link))),
                });
            }
        }
        Self {
            nanos: timer::host_nanos(),
            cpus: (0..arch::percpu::online()).map(exec::busy_ticks).collect(),
            worlds: all,
            services: worlds::service_accounts(),
        }
    }

    /// Returns what happened since `before`.
    pub(super) fn since(&self, before: &Self, order: TopOrder) -> TopPage {
        let interval = self.nanos.saturating_sub(before.nanos).max(1);
        let ticks = timer::clock().ticks(interval);
        let (mut vcpus, mut services) = (Vec::new(), Vec::new());
        for now in &self.worlds {
            let same = |old: &&World| old.vm == now.vm && old.place == now.place;
            let Some(old) = before.worlds.iter().find(same) else {
                continue;
            };
            let time = time_between(&old.account, &now.account, ticks);
            let migrations = now
                .account
                .migrations
                .saturating_sub(old.account.migrations);
            match (&now.vcpu, &old.vcpu) {
                (Some((cpu, exits)), Some((_, exits_before))) => {
                    let counts: Exits =
                        core::array::from_fn(|n| exits[n].saturating_sub(exits_before[n]));
                    vcpus.push(VcpuUse {
                        vm: now.vm.clone(),
                        index: now.place as u32,
                        cpu: *cpu,
                        busy_permille: time.run_permille,
                        time,
                        migrations,
                        exits_per_s: counts.iter().sum::<u64>().saturating_mul(1_000_000_000)
                            / interval,
                        exits_by_reason: named(&counts),
                    });
                }
                _ => services.push(ServiceUse {
                    name: format!("{}'s devices", now.vm),
                    time,
                    migrations,
                }),
            }
        }
        sort(&mut vcpus, order);
        let of_cpus = self.services.iter().zip(&before.services).enumerate();
        services.extend(of_cpus.map(|(cpu, (now, old))| ServiceUse {
            name: format!("service {cpu}"),
            time: TimeUse {
                run_permille: permille(now.system.saturating_sub(old.system), ticks),
                ..TimeUse::default()
            },
            migrations: 0,
        }));
        let cpus = (0_u32..).zip(self.cpus.iter().zip(&before.cpus));
        TopPage {
            uptime_ns: self.nanos,
            interval_ns: interval,
            cpus: cpus
                .map(|(index, (now, old))| CpuUse {
                    index,
                    busy_permille: permille(now.saturating_sub(*old), ticks),
                })
                .collect(),
            vcpus,
            services,
        }
    }
}

fn time_between(old: &Account, now: &Account, ticks: u64) -> TimeUse {
    let part = |old: u64, now: u64| permille(now.saturating_sub(old), ticks);
    TimeUse {
        run_permille: part(old.run, now.run),
        ready_permille: part(old.ready, now.ready),
        co_stop_permille: part(old.co_stop, now.co_stop),
        limited_permille: part(old.limited, now.limited),
        wait_permille: part(old.wait, now.wait),
        system_permille: part(old.system, now.system),
    }
}

fn sort(vcpus: &mut [VcpuUse], order: TopOrder) {
    use core::cmp::Reverse;
    match order {
        TopOrder::Used => vcpus.sort_by_key(|v| Reverse(v.busy_permille)),
        TopOrder::Ready => vcpus.sort_by_key(|v| Reverse(v.time.ready_permille)),
        TopOrder::Exits => vcpus.sort_by_key(|v| Reverse(v.exits_per_s)),
        TopOrder::Name => vcpus.sort_by(|a, b| (&a.vm, a.index).cmp(&(&b.vm, b.index))),
    }
}
