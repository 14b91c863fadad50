//! Gathers what the shell's reports show.

use crate::vm::inventory::{self, Record};
use crate::vm::vcpu::EXIT_REASONS;
use crate::{exec, heap, log, memory, startup, timer};
use addr::PAGE_SIZE;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use control::{
    CpuInfo, ExitCount, HostInfo, LogLevel, LogLine, MemoryInfo, NodeMemory, VcpuDetails,
    VmDetails, VmState, VmSummary,
};
use core::sync::atomic::Ordering;

pub(super) fn permille(part: u64, whole: u64) -> u32 {
    u32::try_from(u128::from(part) * 1000 / u128::from(whole.max(1))).unwrap_or(u32::MAX)
}

fn summary(record: &Record) -> VmSummary {
    let definition = &record.definition;
    let uptime = record
        .running
        .as_ref()
        .map(|r| timer::host_nanos().saturating_sub(r.started_nanos));
    let busy = record.running.as_ref().map(|r| {
        let ticks =
            r.vm.links
                .iter()
                .map(|l| l.busy_ticks.load(Ordering::Relaxed))
                .sum();
        timer::clock().nanos(ticks)
    });
    VmSummary {
        name: definition.name.to_string(),
        state: state(record),
        vcpus: definition.cpus,
        memory_bytes: definition.memory.bytes(),
        uptime_ns: uptime,
        cpu_permille: busy
            .zip(uptime)
            .map(|(busy, uptime)| permille(busy, uptime)),
        description: definition.description.clone(),
    }
}

fn state(record: &Record) -> VmState {
    match &record.running {
        Some(r) if r.vm.take_stop().is_some() => VmState::Stopping,
        Some(r) if r.vm.is_paused() => VmState::Paused,
        Some(_) => VmState::Running,
        None if record.last_stop.as_ref().is_some_and(|s| s.fault) => VmState::Failed,
        None => VmState::Stopped,
    }
}

/// Returns all VMs.
pub(super) fn vms() -> Vec<VmSummary> {
    inventory::with_records(|records| records.iter().map(summary).collect())
}

/// Returns all about one VM.
///
/// # Errors
/// A text when there is none of that name.
pub(super) fn vm(name: &str) -> Result<VmDetails, String> {
    inventory::with_record(name, |record| {
        let vm = record.running.as_ref().map(|r| &r.vm);
        let vcpus = vm.map_or_else(Vec::new, |vm| {
            (0_u32..).zip(&vm.links).map(|(i, l)| vcpu(i, l)).collect()
        });
        Ok(VmDetails {
            summary: summary(record),
            definition: record.definition.clone(),
            memory_backed_bytes: vm.map_or(0, |vm| vm.ram.bytes_backed()),
            vcpus,
            last_stop: record.last_stop.clone(),
        })
    })
}

fn vcpu(index: u32, link: &crate::vm::link::VcpuLink) -> VcpuDetails {
    let counts: Vec<u64> = link
        .exits
        .iter()
        .map(|c| c.load(Ordering::Relaxed))
        .collect();
    let mut by_reason: Vec<ExitCount> = EXIT_REASONS
        .iter()
        .zip(&counts)
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| ExitCount {
            reason: (*reason).to_string(),
            count: *count,
        })
        .collect();
    by_reason.sort_by_key(|e| core::cmp::Reverse(e.count));
    VcpuDetails {
        index,
        state: format!("on CPU {}", link.cpu()),
        cpu_time_ns: timer::clock().nanos(link.busy_ticks.load(Ordering::Relaxed)),
        rip: link.rip.load(Ordering::Relaxed),
        exits: counts.iter().sum(),
        exits_by_reason: by_reason,
    }
}

/// Returns what the host is.
pub(super) fn host() -> HostInfo {
    let stats = memory::stats();
    let (defined, running) = inventory::with_records(|r| {
        (
            r.len(),
            r.iter().filter(|record| record.running.is_some()).count(),
        )
    });
    HostInfo {
        version: env!("CARGO_PKG_VERSION").to_string(),
        boot_protocol: startup::boot_protocol().to_string(),
        cpu_model: arch::cpu::brand(),
        cpus_online: arch::percpu::online(),
        cpus_present: startup::platform().processors.len() as u32,
        tsc_hz: timer::clock().tsc_hz(),
        virtualization: arch::virt::describe(),
        memory_total_bytes: stats.total * PAGE_SIZE,
        memory_free_bytes: stats.free * PAGE_SIZE,
        uptime_ns: timer::host_nanos(),
        vms_defined: defined as u32,
        vms_running: running as u32,
    }
}

/// Returns the host's CPUs.
pub(super) fn cpus() -> Vec<CpuInfo> {
    let uptime = timer::clock().ticks(timer::host_nanos());
    let on_cpu = |cpu: u32| {
        inventory::with_records(|records| {
            let links = records
                .iter()
                .filter_map(|r| r.running.as_ref())
                .flat_map(|r| r.vm.links.iter());
            let here = links.filter(|l| l.cpu() == cpu);
            here.fold((0, 0), |(n, exits), l| (n + 1, exits + l.exits_total()))
        })
    };
    let blocks = (0..arch::percpu::online()).filter_map(arch::percpu::of);
    blocks
        .map(|block| {
            let (worlds, exits) = on_cpu(block.index());
            let processors = &startup::platform().processors;
            let domain = processors
                .iter()
                .find(|p| p.apic_id == block.apic_id())
                .map_or(0, |p| p.domain);
            CpuInfo {
                index: block.index(),
                apic_id: block.apic_id(),
                node: domain,
                worlds,
                busy_permille: permille(exec::busy_ticks(block.index()), uptime),
                interrupts: exec::interrupts(block.index()),
                exits,
            }
        })
        .collect()
}

/// Returns where the host's memory is.
pub(super) fn memory() -> MemoryInfo {
    let stats = memory::stats();
    let guests = inventory::with_records(|records| {
        records
            .iter()
            .filter_map(|r| r.running.as_ref())
            .map(|r| r.vm.ram.bytes_backed())
            .sum()
    });
    let image = arch::paging::image_range();
    MemoryInfo {
        total_bytes: stats.total * PAGE_SIZE,
        free_bytes: stats.free * PAGE_SIZE,
        kernel_bytes: image.end - image.start + stats.metadata * PAGE_SIZE,
        heap_bytes: heap::bytes_claimed(),
        guests_bytes: guests,
        nodes: memory::nodes()
            .map(|(node, total, free)| NodeMemory {
                node,
                total_bytes: total * PAGE_SIZE,
                free_bytes: free * PAGE_SIZE,
            })
            .collect(),
    }
}

/// Returns log lines of `level` and graver, the newest `last` of them.
pub(super) fn log(level: LogLevel, last: Option<usize>) -> Vec<LogLine> {
    let ring = log::ring();
    let level_of = |number: u8| {
        LogLevel::ALL
            .get(usize::from(number))
            .copied()
            .unwrap_or(LogLevel::Debug)
    };
    let lines = (ring.oldest_ticket()..ring.next_ticket()).filter_map(|t| ring.get(t));
    let mut lines: Vec<LogLine> = lines
        .map(|l| LogLine {
            at_ns: l.time,
            level: level_of(l.level),
            text: l.text().to_string(),
        })
        .filter(|l| l.level <= level)
        .collect();
    let skip = last.map_or(0, |n| lines.len().saturating_sub(n));
    lines.drain(..skip);
    lines
}
