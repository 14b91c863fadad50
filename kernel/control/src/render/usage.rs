//! Who uses the host's CPUs, as text for people.

use crate::cpu_time::CpuTime;
use crate::table::{Align, Table};
use crate::units::{format_nanos, format_permille};
use crate::usage::{PoolInfo, TimeUse, TopPage, VmStats};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

pub(super) fn top(page: &TopPage) -> String {
    let cpus: Vec<String> = page
        .cpus
        .iter()
        .map(|cpu| format!("{} {}", cpu.index, format_permille(cpu.busy_permille)))
        .collect();
    let mut text = format!(
        "up {}, CPUs busy over {}:",
        format_nanos(page.uptime_ns),
        format_nanos(page.interval_ns)
    );
    for line in cpus.chunks(6) {
        text.push_str("\n  ");
        text.push_str(&line.join(", "));
    }
    text.push('\n');
    let mut table = Table::new(&[
        ("VM", Align::Left),
        ("VCPU", Align::Right),
        ("CPU", Align::Right),
        ("USED", Align::Right),
        ("READY", Align::Right),
        ("COSTOP", Align::Right),
        ("LIMIT", Align::Right),
        ("SYSTEM", Align::Right),
        ("MIGR", Align::Right),
        ("EXITS/S", Align::Right),
    ]);
    for vcpu in &page.vcpus {
        let head = [
            vcpu.vm.clone(),
            vcpu.index.to_string(),
            vcpu.cpu.to_string(),
        ];
        let counts = [vcpu.migrations.to_string(), vcpu.exits_per_s.to_string()];
        table.row(head.into_iter().chain(times(&vcpu.time)).chain(counts));
    }
    for service in &page.services {
        let head = [service.name.clone(), String::new(), String::new()];
        let counts = [service.migrations.to_string()];
        table.row(head.into_iter().chain(times(&service.time)).chain(counts));
    }
    text.push_str(&table.to_text());
    text
}

fn times(time: &TimeUse) -> [String; 5] {
    [
        time.run_permille,
        time.ready_permille,
        time.co_stop_permille,
        time.limited_permille,
        time.system_permille,
    ]
    .map(format_permille)
}

pub(super) fn stats(stats: &VmStats) -> String {
    let mut table = Table::new(&[
        ("WORLD", Align::Left),
        ("STATE", Align::Left),
        ("RUN", Align::Right),
        ("READY", Align::Right),
        ("COSTOP", Align::Right),
        ("LIMIT", Align::Right),
        ("WAIT", Align::Right),
        ("MIGR", Align::Right),
    ]);
    let hz = u128::from(stats.tsc_hz.max(1));
    let nanos = |cycles: u64| {
        let nanos = u128::from(cycles)
            .saturating_mul(1_000_000_000)
            .div_euclid(hz);
        format_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    };
    for world in &stats.worlds {
        table.row([
            world.name.clone(),
            world.state.clone(),
            nanos(world.run_cycles),
            nanos(world.ready_cycles),
            nanos(world.co_stop_cycles),
            nanos(world.limited_cycles),
            nanos(world.wait_cycles),
            world.migrations.to_string(),
        ]);
    }
    let mut text = table.to_text();
    for world in &stats.worlds {
        text.push_str(&format!(
            "{}: longest wait for a CPU {}, dispatched {} times, {} turns given away\n",
            world.name,
            nanos(world.ready_cycles_max),
            world.dispatches,
            world.yields
        ));
        for exit in &world.exits_by_reason {
            text.push_str(&format!("  {} exits: {}\n", exit.reason, exit.count));
        }
    }
    text
}

pub(super) fn pools(pools: &[PoolInfo]) -> String {
    if pools.is_empty() {
        return "no pools; `help sched pool create` tells how to make one\n".to_string();
    }
    let mut table = Table::new(&[
        ("POOL", Align::Left),
        ("IN", Align::Left),
        ("SHARES", Align::Right),
        ("RESERVED", Align::Right),
        ("LIMIT", Align::Right),
        ("EXPANDS", Align::Left),
        ("HOLDS", Align::Right),
        ("GIVEN", Align::Right),
        ("VMS", Align::Right),
    ]);
    let none = || "none".to_string();
    for pool in pools {
        table.row([
            pool.name.clone(),
            pool.parent.clone().unwrap_or_else(|| "host".to_string()),
            pool.time.shares.to_string(),
            pool.time.reservation.map_or_else(none, |a| a.to_string()),
            pool.time.limit.map_or_else(none, |a| a.to_string()),
            if pool.time.expandable { "yes" } else { "no" }.to_string(),
            format!("{}MHz", pool.held_mhz),
            format!("{}MHz", pool.reserved_mhz),
            pool.vms_running.to_string(),
        ]);
    }
    table.to_text()
}

/// Returns in words what CPU time a VM is to get.
pub(super) fn cpu_time(cpu: &CpuTime) -> String {
    let mut text = format!("{} shares", cpu.shares);
    if let Some(amount) = cpu.reservation {
        text.push_str(&format!(", {amount} reserved"));
    }
    if let Some(amount) = cpu.limit {
        text.push_str(&format!(", at most {amount}"));
    }
    if let Some(pool) = &cpu.pool {
        text.push_str(&format!(", in pool {pool}"));
    }
    text
}
