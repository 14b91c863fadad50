//! What a host answers: values, with a form in JSON. How they look to people stands in `render.rs`.
//!
//! Field names are the JSON names and stay what they are; units stand last in them.

use crate::definition::VmDefinition;
use crate::usage::{PoolInfo, TopPage, VmStats};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use serde::Serialize;

/// How grave a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something failed that somebody has to look at.
    Error,
    /// Something is odd, and was coped with.
    Warn,
    /// What an administrator wants to see.
    Info,
    /// What a developer wants to see.
    Debug,
}

impl LogLevel {
    /// All levels, the gravest first.
    pub const ALL: [Self; 4] = [Self::Error, Self::Warn, Self::Info, Self::Debug];

    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// Returns the level of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// What a VM is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VmState {
    /// Defined, not started or ended by itself.
    Stopped,
    /// Its guest runs.
    Running,
    /// Its time stands still.
    Paused,
    /// It was asked to switch itself off and has not yet.
    Stopping,
    /// It was stopped for a fault; the last stop says which.
    Failed,
}

impl VmState {
    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
        }
    }
}

/// A VM in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmSummary {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: VmState,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// RAM that its guest sees.
    pub memory_bytes: u64,
    /// Since its start; `None` when it does not run.
    pub uptime_ns: Option<u64>,
    /// CPU time since its start, in thousandths of one CPU.
    pub cpu_permille: Option<u32>,
    /// A line for people.
    pub description: String,
}

/// All about a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmDetails {
    /// What a list shows.
    pub summary: VmSummary,
    /// What it is defined by.
    pub definition: VmDefinition,
    /// RAM of the host that it holds now.
    pub memory_backed_bytes: u64,
    /// Its virtual CPUs, as they are or were at the stop.
    pub vcpus: Vec<VcpuDetails>,
    /// How it ended last.
    pub last_stop: Option<StopRecord>,
}

/// How much memory a VM writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WritesReport {
    /// How long it was looked at.
    pub time_ns: u64,
    /// Rounds in that time; a page counts once in each.
    pub rounds: u64,
    /// What tells of writes: faults, or the CPU's log.
    pub noticed_by: String,
    /// Pages written in all rounds together, in bytes.
    pub written_bytes: u64,
    /// Pages written at all, in bytes.
    pub distinct_bytes: u64,
    /// RAM of the host that the VM holds.
    pub backed_bytes: u64,
    /// With a check: pages that changed and were not noticed. Anything but 0 is a fault of Basalt.
    pub unnoticed_pages: Option<u64>,
}

/// A virtual CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VcpuDetails {
    /// Its number, from 0.
    pub index: u32,
    /// What it is doing, in a word: running, halted, waiting, stopped.
    pub state: String,
    /// Time inside the guest and on its behalf.
    pub cpu_time_ns: u64,
    /// Instruction pointer at the last exit.
    pub rip: u64,
    /// Exits since the start.
    pub exits: u64,
    /// Exits by reason, the most frequent first.
    pub exits_by_reason: Vec<ExitCount>,
}

/// How often a vCPU left its guest for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExitCount {
    /// The reason, in the manual's word.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StopRecord {
    /// In a sentence.
    pub reason: String,
    /// Whether it was a fault.
    pub fault: bool,
    /// Host time of it.
    pub at_ns: u64,
    /// The vCPU that caused it.
    pub vcpu: Option<u32>,
    /// Where that vCPU was.
    pub rip: Option<u64>,
    /// Further facts, one per line: registers, instruction bytes.
    pub details: Vec<String>,
}

/// What a host is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostInfo {
    /// Basalt's version.
    pub version: String,
    /// How it was booted: multiboot2, multiboot1, pvh.
    pub boot_protocol: String,
    /// The CPU's name for itself.
    pub cpu_model: String,
    /// CPUs that run.
    pub cpus_online: u32,
    /// CPUs that firmware told of.
    pub cpus_present: u32,
    /// Ticks of the time-stamp counter per second.
    pub tsc_hz: u64,
    /// What carries VMs: SVM or VMX, with what the CPU offers.
    pub virtualization: String,
    /// RAM.
    pub memory_total_bytes: u64,
    /// RAM that nobody holds.
    pub memory_free_bytes: u64,
    /// Since the kernel's start.
    pub uptime_ns: u64,
    /// VMs that are defined.
    pub vms_defined: u32,
    /// VMs that run.
    pub vms_running: u32,
}

/// A storage device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// Where it is on PCI.
    pub address: String,
    /// The maker's name for it.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// How it interrupts.
    pub interrupts: String,
    /// What is on it: a partition table, a datastore, or empty if nothing is known.
    pub content: String,
}

/// A datastore in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatastoreSummary {
    /// Its name on this host.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// The devices that it is on.
    pub devices: Vec<String>,
    /// Whether it can be used; why not, otherwise.
    pub state: String,
    /// Bytes for files.
    pub capacity_bytes: u64,
    /// Bytes of it that are free.
    pub free_bytes: u64,
}

/// All about a datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatastoreDetails {
    /// What a list shows.
    #[serde(flatten)]
    pub summary: DatastoreSummary,
    /// How locks change on it.
    pub locks: String,
    /// Hosts that can mount it at once.
    pub hosts_max: u32,
    /// This host's slot.
    pub slot: u16,
    /// Most inodes and tree nodes that it can have.
    pub units: u64,
    /// Those that are free.
    pub free_units: u64,
    /// Units in memory.
    pub units_cached: usize,
    /// Locks that this host keeps.
    pub locks_kept: usize,
}

/// A file or directory of a datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileEntry {
    /// Its name.
    pub name: String,
    /// Whether it is a directory.
    pub directory: bool,
    /// Bytes of a file, entries of a directory.
    pub size: u64,
    /// Bytes that it takes.
    pub allocated_bytes: u64,
    /// Seconds since 1970 when it last changed.
    pub modified: u64,
}

/// How a check of a datastore ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Which datastore.
    pub name: String,
    /// Whether nothing is wrong.
    pub clean: bool,
    /// What is wrong.
    pub findings: Vec<String>,
    /// Files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Bytes that files take.
    pub used_bytes: u64,
}

/// A block of a storage device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockContent {
    /// The device.
    pub device: String,
    /// The block's number.
    pub block: u64,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// A CPU of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CpuInfo {
    /// Its number, from 0.
    pub index: u32,
    /// Number of its local APIC.
    pub apic_id: u32,
    /// Memory node that it belongs to.
    pub node: u32,
    /// Worlds that live on it.
    pub worlds: u32,
    /// Time that it was busy since its start, in thousandths.
    pub busy_permille: u32,
    /// Interrupts that it took.
    pub interrupts: u64,
    /// Exits of guests that it handled.
    pub exits: u64,
}

/// How things stand with one leak of speculative execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LeakState {
    /// The CPU does not have it.
    Absent,
    /// What guards against it is done.
    Guarded,
    /// It could be guarded against, and is not.
    Open,
    /// The CPU offers nothing against it.
    Defenceless,
}

impl LeakState {
    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Guarded => "guarded",
            Self::Open => "open",
            Self::Defenceless => "defenceless",
        }
    }
}

/// A leak of speculative execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mitigation {
    /// What leaks.
    pub leak: String,
    /// How things stand.
    pub state: LeakState,
    /// What guards against it; empty where nothing is needed or nothing helps.
    pub guard: String,
    /// Why: what the CPU says.
    pub reason: String,
}

/// Where a host's memory is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryInfo {
    /// RAM.
    pub total_bytes: u64,
    /// RAM that nobody holds.
    pub free_bytes: u64,
    /// Image, page tables, and what the frame allocator needs for itself.
    pub kernel_bytes: u64,
    /// RAM given to the heap.
    pub heap_bytes: u64,
    /// RAM that guests hold.
    pub guests_bytes: u64,
    /// The same by node.
    pub nodes: Vec<NodeMemory>,
}

/// Memory of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeMemory {
    /// Its number.
    pub node: u32,
    /// RAM.
    pub total_bytes: u64,
    /// RAM that nobody holds.
    pub free_bytes: u64,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// Since the kernel's start.
    pub at_ns: u64,
    /// How grave.
    pub level: LogLevel,
    /// What happened.
    pub text: String,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// It was done; a sentence says what.
    Done(String),
    /// A text that is only for people, such as help.
    Text(String),
    /// To `vm list`.
    Vms(Vec<VmSummary>),
    /// To `vm info`.
    Vm(Box<VmDetails>),
    /// To `vm writes`.
    Writes(WritesReport),
    /// To `host info`.
    Host(HostInfo),
    /// To `host cpus`.
    Cpus(Vec<CpuInfo>),
    /// To `storage device list`.
    Devices(Vec<DeviceInfo>),
    /// To `storage device read`.
    Block(BlockContent),
    /// To `datastore list`.
    Datastores(Vec<DatastoreSummary>),
    /// To `datastore info`.
    Datastore(DatastoreDetails),
    /// To `datastore ls`.
    Files(Vec<FileEntry>),
    /// To `datastore check`.
    Check(CheckReport),
    /// To `host mitigations`.
    Mitigations(Vec<Mitigation>),
    /// To `host memory`.
    Memory(MemoryInfo),
    /// To `host log`.
    Log(Vec<LogLine>),
    /// To `host top`.
    Top(TopPage),
    /// To `vm stats`.
    Stats(VmStats),
    /// To `sched pool list`.
    Pools(Vec<PoolInfo>),
}
