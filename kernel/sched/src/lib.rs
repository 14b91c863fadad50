//! The entitlement scheduler: which world runs next on a CPU, and for how long.
//!
//! A pure library: time comes in as TSC cycles, decisions come out, and CPUs that should look again are collected as
//! pokes. It deliberately knows no clock, lock, interrupt, future or instruction set, and it stores no names. Its user
//! serialises the calls. `docs/adr/0011-entitlement-scheduler.md` explains the algorithm and its bounds.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used)]

extern crate alloc;

mod account;
mod admission;
mod cosched;
mod entitle;
mod error;
mod fill;
mod group;
mod limit;
mod pick;
mod place;
mod queue;
mod scheduler;
mod settings;
mod slab;
mod topology;
mod tree;
mod wake;
mod world;

#[cfg(test)]
mod tests;

pub use account::Account;
pub use error::Error;
pub use group::GroupKind;
pub use scheduler::{Decision, Scheduler};
pub use settings::{Amount, Host, Settings, Shares, Tuning};
pub use slab::{GroupId, WorldId};
pub use topology::{CPUS_MAX, Cpu, CpuSet, Topology};
pub use world::WorldState;

/// The rate of one whole CPU; rates are fixed-point numbers of this scale.
pub const RATE_ONE: u64 = 1 << 24;
/// Most vCPUs of one VM.
pub const VCPUS_MAX: usize = 64;
/// Deepest nesting of pools, the root and the VM counted.
pub const DEPTH_MAX: usize = 10;
/// Most groups of worlds with equal placement that may compete for one CPU.
pub const CLASSES_PER_CPU_MAX: usize = 16;
