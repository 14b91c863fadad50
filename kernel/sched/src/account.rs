//! Where a world's time went, in TSC cycles.
//!
//! The states exclude each other, so the sums of all fields but `system` and `remote` grow with the clock. Percentages
//! and rates over an interval are the reader's to form from two copies.

/// A world's time since it was added, in TSC cycles, and its counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// On a CPU, and charged for it.
    pub run: u64,
    /// Runnable, and waiting for a CPU.
    pub ready: u64,
    /// Stopped because it ran too far ahead of a sibling vCPU.
    pub co_stop: u64,
    /// Held back by a limit of its VM or of a pool.
    pub limited: u64,
    /// Blocked: halted, or waiting for an event.
    pub wait: u64,
    /// Spent by others on its behalf; a part of no other field.
    pub system: u64,
    /// The part of `run` on CPUs outside its home node.
    pub remote: u64,
    /// How often it was put on a CPU.
    pub dispatches: u64,
    /// How often that was another CPU than the last time.
    pub migrations: u64,
    /// How often it gave its slice away after a spin-wait hint.
    pub yields: u64,
    /// The longest time that it was ready without a break.
    pub ready_max: u64,
}
