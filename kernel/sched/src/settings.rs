//! What an administrator asks for, and how the scheduler is tuned to a host.
//!
//! Amounts are kept as they were given and turned into rates once, when they are set.

use crate::RATE_ONE;
use crate::topology::Topology;

/// An amount of CPU time per time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Megahertz: millions of TSC cycles a second.
    Mhz(u32),
    /// Per cent of one CPU: 250 is two and a half CPUs.
    Percent(u32),
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self::Percent(0);

    /// Returns the amount as a rate on a host whose TSC runs at `tsc_hz`.
    #[must_use]
    pub fn rate(self, tsc_hz: u64) -> u64 {
        let one = u128::from(RATE_ONE);
        let rate = match self {
            Self::Mhz(mhz) => u128::from(mhz) * 1_000_000 * one / u128::from(tsc_hz.max(1)),
            Self::Percent(percent) => u128::from(percent) * one / 100,
        };
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

/// Relative weight among the children of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shares {
    /// Half of normal.
    Low,
    /// 1000 a vCPU; 4000 for a pool, as for a VM of four vCPUs.
    Normal,
    /// Twice normal.
    High,
    /// That many in all, from 1 to [`Shares::NUMBER_MAX`].
    Number(u32),
}

impl Shares {
    /// The largest number that may be asked for.
    pub const NUMBER_MAX: u32 = 1_000_000;

    /// Returns the number for something that counts as `vcpus` vCPUs.
    #[must_use]
    pub fn number(self, vcpus: u32) -> u64 {
        let vcpus = u64::from(vcpus.max(1));
        match self {
            Self::Low => 500 * vcpus,
            Self::Normal => 1000 * vcpus,
            Self::High => 2000 * vcpus,
            Self::Number(number) => u64::from(number),
        }
    }
}

/// The resource settings of a VM or a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Guaranteed whenever it is wanted.
    pub reservation: Amount,
    /// Never exceeded, also when CPUs are idle. `None` is no limit.
    pub limit: Option<Amount>,
    /// Weight in the division of what is not reserved.
    pub shares: Shares,
    /// A pool may take what its children reserve beyond its own reservation from its parent. No meaning for VMs.
    pub expandable: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            reservation: Amount::ZERO,
            limit: None,
            shares: Shares::Normal,
            expandable: true,
        }
    }
}

/// The host that is scheduled.
#[derive(Clone, Debug)]
pub struct Host {
    /// CPUs, cores, nodes; at least one CPU and at most [`crate::CPUS_MAX`].
    pub topology: Topology,
    /// The TSC's frequency in hertz, at least a million.
    pub tsc_hz: u64,
}

/// Times in microseconds that trade latency against the cost of switching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Longest slice while others wait.
    pub slice_us: u64,
    /// Shortest slice, and the smallest request that a world of short bursts is scheduled by.
    pub slice_us_min: u64,
    /// Everybody's turn comes about so often: slices of those with a low rate are shortened for it, to the shortest.
    pub turn_us: u64,
    /// How far a vCPU may run ahead of a sibling that waits for a CPU before it is stopped.
    pub skew_us: u64,
    /// How often [`crate::Scheduler::refresh`] is to be called.
    pub refresh_us: u64,
    /// A limit's bucket: how much of a limit may be used in one go.
    pub limit_us: u64,
    /// How long a world may be behind before a CPU of another node takes it though it has other work.
    pub remote_us: u64,
    /// What the host's own worlds have reserved together, in per cent of one CPU.
    pub service_percent: u32,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            slice_us: 3_000,
            slice_us_min: 200,
            turn_us: 40_000,
            skew_us: 3_000,
            refresh_us: 10_000,
            limit_us: 10_000,
            remote_us: 3_000,
            service_percent: 10,
        }
    }
}
