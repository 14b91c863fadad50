//! Pools and VMs: the inner nodes of the tree, whose leaves are worlds.
//!
//! Plain state; the rules about it stand in `tree.rs`, `admission.rs`, `entitle.rs` and `limit.rs`.

use crate::RATE_ONE;
use crate::settings::Settings;
use alloc::vec::Vec;

/// What a group holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// Pools and VMs.
    Pool,
    /// vCPUs, whose skew is bounded.
    Vm,
    /// The host's own worlds.
    Service,
}

#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) kind: GroupKind,
    pub(crate) parent: Option<u32>,
    pub(crate) settings: Settings,
    pub(crate) groups: Vec<u32>,
    pub(crate) worlds: Vec<u32>,
    /// How many of the worlds are no vCPUs but work for them.
    pub(crate) helpers: u32,

    /// Rates, from the settings.
    pub(crate) reservation: u64,
    pub(crate) limit: Option<u64>,
    /// What the children hold, and what this holds of its parent: more than `reservation` where it expanded.
    pub(crate) reserved_below: u64,
    pub(crate) held: u64,

    /// Placement of a VM's worlds.
    pub(crate) home: u16,
    pub(crate) exclusive: bool,

    /// What worlds below would use, what is guaranteed to them, and what the group may have: rates.
    pub(crate) demand: u64,
    pub(crate) guaranteed: u64,
    pub(crate) potential: u64,
    /// A limit at or above it leaves less than is wanted.
    pub(crate) squeezed: bool,

    /// The limit's bucket in cycles, when it was last filled, and who waits for it.
    pub(crate) tokens: i64,
    pub(crate) filled_at: u64,
    pub(crate) release_at: Option<u64>,
    pub(crate) parked: Vec<u32>,
    pub(crate) running: u32,

    /// How many of its worlds are co-stopped.
    pub(crate) co_stopped: u32,
}

impl Group {
    pub(crate) fn new(kind: GroupKind, parent: Option<u32>, settings: Settings) -> Self {
        Self {
            kind,
            parent,
            settings,
            groups: Vec::new(),
            worlds: Vec::new(),
            helpers: 0,
            reservation: 0,
            limit: None,
            reserved_below: 0,
            held: 0,
            home: 0,
            exclusive: false,
            demand: 0,
            guaranteed: 0,
            potential: RATE_ONE,
            squeezed: false,
            tokens: 0,
            filled_at: 0,
            release_at: None,
            parked: Vec::new(),
            running: 0,
            co_stopped: 0,
        }
    }

    /// Returns the weight among its siblings.
    pub(crate) fn weight(&self) -> u64 {
        let vcpus = match self.kind {
            GroupKind::Pool => 4,
            GroupKind::Service => 1,
            GroupKind::Vm => self.vcpus(),
        };
        self.settings.shares.number(vcpus)
    }

    /// Returns how many of the worlds are vCPUs.
    pub(crate) fn vcpus(&self) -> u32 {
        self.worlds.len() as u32 - self.helpers
    }

    /// Tells whether the skew between its worlds is bounded.
    pub(crate) fn co_scheduled(&self) -> bool {
        self.kind == GroupKind::Vm && self.vcpus() > 1
    }
}
