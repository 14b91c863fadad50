//! The one door to a host: typed requests, what a VM is defined by, and the console shell's language for both.
//!
//! Everything here is values: a line of text becomes a [`Request`], the kernel's core answers with a [`Response`], and
//! that becomes text or JSON. Not here: doing any of it, roles and the audit log (they come with the network), and
//! any device the text travels over.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::indexing_slicing
    )
)]

extern crate alloc;

mod command;
mod complete;
mod cpu_time;
mod datastore;
mod definition;
mod editor;
mod error;
mod grammar;
mod help;
mod history;
mod render;
mod report;
mod settings;
mod suggest;
mod table;
mod units;
mod usage;
mod words;

pub use command::{
    Command, PoolAction, Request, TopOptions, TopOrder, VmAction, WritesOptions, parse,
};
pub use complete::{Names, complete};
pub use cpu_time::{CpuAmount, CpuShares, CpuTime, CpuTimeError, PoolTime};
pub use datastore::{BOOT_STORE, DatastoreRequest, StoreName, StorePath};
pub use definition::{
    CMDLINE_LEN_MAX, CPUS_MAX, DefinitionError, MEMORY_MAX, MEMORY_MIN, Mode, SerialTarget,
    VmDefinition, VmName,
};
pub use editor::{Completion, Event, LINE_LEN_MAX, LineEditor};
pub use error::CommandError;
pub use help::help;
pub use render::{Style, render, render_error};
pub use report::{
    BlockContent, CheckReport, CpuInfo, DatastoreDetails, DatastoreSummary, DeviceInfo, ExitCount,
    FileEntry, HostInfo, LeakState, LogLevel, LogLine, MemoryInfo, Mitigation, NodeMemory,
    Response, StopRecord, VcpuDetails, VmDetails, VmState, VmSummary, WritesReport,
};
pub use settings::{PoolSetting, Setting};
pub use units::{MemorySize, UnitError, format_bytes, format_nanos, format_permille};
pub use usage::{CpuUse, PoolInfo, ServiceUse, TimeUse, TopPage, VcpuUse, VmStats, WorldStats};

#[cfg(test)]
mod testing;
