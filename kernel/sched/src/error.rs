//! Why a request was refused, with the arithmetic.
//!
//! Names are not known here; whoever shows an error to a person puts the names of pools and VMs beside it.

use crate::slab::GroupId;

/// A refused request; nothing was changed. Amounts are in MHz, rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The host has no CPU, too many, or no usable clock.
    #[error("the host's description is unusable: {cpus} CPUs, TSC at {tsc_hz} Hz")]
    BadHost {
        /// CPUs of the description.
        cpus: usize,
        /// TSC frequency of the description.
        tsc_hz: u64,
    },
    /// The pool or VM does not exist (any more).
    #[error("no such pool or VM")]
    UnknownGroup,
    /// The world does not exist (any more).
    #[error("no such world")]
    UnknownWorld,
    /// Pools and VMs were put in a place where only the other may be.
    #[error("a pool holds pools and VMs, and a VM holds worlds")]
    WrongKind,
    /// The pool or VM still has children, or worlds.
    #[error("it is not empty: {children} children, {worlds} worlds")]
    NotEmpty {
        /// Child pools and VMs.
        children: usize,
        /// Worlds.
        worlds: usize,
    },
    /// The root and the host's own group stay what they are.
    #[error("this group is the host's own and stays")]
    BuiltIn,
    /// A pool would contain itself.
    #[error("the new parent lies inside the pool that is to be moved")]
    Cycle,
    /// Pools are nested too deeply.
    #[error("nested {depth} deep, at most {most} are possible")]
    TooDeep {
        /// What the nesting would be.
        depth: usize,
        /// What it may be.
        most: usize,
    },
    /// A VM has too many vCPUs.
    #[error("a VM has at most {most} vCPUs")]
    TooManyVcpus {
        /// What is possible.
        most: usize,
    },
    /// Shares of zero or above the maximum.
    #[error("shares of {number} are not between 1 and {most}")]
    BadShares {
        /// What was asked for.
        number: u32,
        /// The maximum.
        most: u32,
    },
    /// A limit of zero: nothing would ever run.
    #[error("a limit of 0 would never let it run; stop it instead")]
    ZeroLimit,
    /// The reservation, or what children reserve, is above the limit.
    #[error("{reserved} MHz would be reserved, but the limit is {limit} MHz")]
    AboveLimit {
        /// What would be reserved, with what children take.
        reserved: u64,
        /// The limit.
        limit: u64,
    },
    /// More than is free is to be reserved.
    #[error(
        "{asked} MHz more would be reserved here, but of {capacity} MHz there are {reserved} MHz reserved already \
         and {} MHz free: {} MHz are missing", capacity.saturating_sub(*reserved),
        asked.saturating_sub(capacity.saturating_sub(*reserved))
    )]
    Reserved {
        /// The pool that has too little: a fixed one, or the root.
        at: GroupId,
        /// What the request adds at that pool.
        asked: u64,
        /// What that pool has to give.
        capacity: u64,
        /// What its children have reserved already.
        reserved: u64,
    },
    /// The affinity names no CPU of the host.
    #[error("the affinity allows no CPU of this host")]
    NoCpu,
    /// Too many different affinities meet on one CPU.
    #[error("CPU {cpu} would serve more than {most} different placements")]
    TooManyPlacements {
        /// The CPU.
        cpu: u16,
        /// What is possible.
        most: usize,
    },
    /// The world is not on a CPU.
    #[error("the world is not running")]
    NotRunning,
}
