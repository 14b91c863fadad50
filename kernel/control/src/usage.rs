//! Reports on who uses the host's CPUs: pages of `host top`, the accounts of a VM, pools.
//!
//! Field names are the JSON names, as in `report`. How they look to people stands in `render/usage.rs`.

use crate::cpu_time::PoolTime;
use crate::report::ExitCount;
use alloc::string::String;
use alloc::vec::Vec;
use serde::Serialize;

/// One page of `host top`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopPage {
    /// Since the kernel's start.
    pub uptime_ns: u64,
    /// Time that was measured.
    pub interval_ns: u64,
    /// The host's CPUs.
    pub cpus: Vec<CpuUse>,
    /// Virtual CPUs, in the order that was asked for.
    pub vcpus: Vec<VcpuUse>,
    /// What works for VMs and for the host.
    pub services: Vec<ServiceUse>,
}

/// How busy a CPU was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CpuUse {
    /// Its number.
    pub index: u32,
    /// In thousandths.
    pub busy_permille: u32,
}

/// Where the time of a world went, in thousandths of the interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TimeUse {
    /// On a CPU.
    pub run_permille: u32,
    /// Waiting for a CPU.
    pub ready_permille: u32,
    /// Stopped for being ahead of a sibling.
    pub co_stop_permille: u32,
    /// Held back by a limit.
    pub limited_permille: u32,
    /// Waiting for an event.
    pub wait_permille: u32,
    /// Spent by others on its behalf.
    pub system_permille: u32,
}

/// How busy a virtual CPU was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VcpuUse {
    /// Its VM.
    pub vm: String,
    /// Its number.
    pub index: u32,
    /// The CPU that it is or was on.
    pub cpu: u32,
    /// In thousandths of a CPU, inside the guest and on its behalf.
    pub busy_permille: u32,
    /// Where its time went.
    pub time: TimeUse,
    /// How often it went to another CPU.
    pub migrations: u64,
    /// Exits per second.
    pub exits_per_s: u64,
    /// Exits in the interval by reason, the most frequent first.
    pub exits_by_reason: Vec<ExitCount>,
}

/// How busy a service world was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceUse {
    /// What it is for: the devices of a VM, or the service tasks of a CPU.
    pub name: String,
    /// Where its time went.
    pub time: TimeUse,
    /// How often it went to another CPU.
    pub migrations: u64,
}

/// Where the time of a world went since its start, in TSC cycles, and its counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorldStats {
    /// `vcpu 0` and so on, or `devices`.
    pub name: String,
    /// What it is doing, in a word.
    pub state: String,
    /// On a CPU.
    pub run_cycles: u64,
    /// Waiting for a CPU.
    pub ready_cycles: u64,
    /// The longest time that it waited for a CPU without a break.
    pub ready_cycles_max: u64,
    /// Stopped for being ahead of a sibling.
    pub co_stop_cycles: u64,
    /// Held back by a limit.
    pub limited_cycles: u64,
    /// Waiting for an event.
    pub wait_cycles: u64,
    /// Spent by others on its behalf.
    pub system_cycles: u64,
    /// How often it was put on a CPU.
    pub dispatches: u64,
    /// How often that was another CPU than before.
    pub migrations: u64,
    /// How often it gave its turn away because its guest was spinning.
    pub yields: u64,
    /// Exits by reason, the most frequent first.
    pub exits_by_reason: Vec<ExitCount>,
}

/// The accounts of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmStats {
    /// The VM.
    pub name: String,
    /// TSC cycles per second.
    pub tsc_hz: u64,
    /// Its vCPUs in their order, then what works for them.
    pub worlds: Vec<WorldStats>,
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolInfo {
    /// Its name.
    pub name: String,
    /// The pool that it is in; none is the host's own.
    pub parent: Option<String>,
    /// What it is to get.
    #[serde(flatten)]
    pub time: PoolTime,
    /// What it holds of the reservation of the pool around it, in MHz.
    pub held_mhz: u64,
    /// What is reserved by what is in it, in MHz.
    pub reserved_mhz: u64,
    /// VMs that run in it, those in pools inside it not counted.
    pub vms_running: u32,
}
