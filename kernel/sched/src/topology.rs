//! CPUs, sets of them, and how they form cores and NUMA nodes.
//!
//! Only what placement needs: no caches, no APIC numbers.

use alloc::vec::Vec;

/// Most CPUs of a host.
pub const CPUS_MAX: usize = 512;

/// A CPU's number, from 0 without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpu(pub u16);

impl Cpu {
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A set of CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuSet([u64; CPUS_MAX / 64]);

impl CpuSet {
    /// The empty set.
    pub const EMPTY: Self = Self([0; CPUS_MAX / 64]);

    /// Returns the set of the CPUs 0 to `count - 1`.
    #[must_use]
    pub fn first(count: usize) -> Self {
        (0..count.min(CPUS_MAX))
            .map(|cpu| Cpu(cpu as u16))
            .collect()
    }

    /// Adds `cpu`; numbers of [`CPUS_MAX`] and above are ignored.
    pub fn insert(&mut self, cpu: Cpu) {
        if let Some(word) = self.0.get_mut(cpu.index() / 64) {
            *word |= 1 << (cpu.index() % 64);
        }
    }

    /// Removes `cpu`.
    pub fn remove(&mut self, cpu: Cpu) {
        if let Some(word) = self.0.get_mut(cpu.index() / 64) {
            *word &= !(1 << (cpu.index() % 64));
        }
    }

    /// Tells whether `cpu` is a member.
    #[must_use]
    pub fn contains(&self, cpu: Cpu) -> bool {
        self.0
            .get(cpu.index() / 64)
            .is_some_and(|word| word >> (cpu.index() % 64) & 1 != 0)
    }

    /// Returns how many CPUs are members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Tells whether no CPU is a member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// Returns the members of both sets.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    /// Returns the members of this set that are not in `other`.
    #[must_use]
    pub fn except(&self, other: &Self) -> Self {
        Self(core::array::from_fn(|word| self.0[word] & !other.0[word]))
    }

    /// Returns the member with the lowest number.
    #[must_use]
    pub fn lowest(&self) -> Option<Cpu> {
        self.iter().next()
    }

    /// Returns the members in rising order.
    pub fn iter(&self) -> impl Iterator<Item = Cpu> + use<> {
        let words = self.0;
        (0..words.len()).flat_map(move |word| {
            let mut bits = words[word];
            core::iter::from_fn(move || {
                if bits == 0 {
                    return None;
                }
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                Some(Cpu((word * 64) as u16 + bit as u16))
            })
        })
    }
}

impl FromIterator<Cpu> for CpuSet {
    fn from_iter<I: IntoIterator<Item = Cpu>>(cpus: I) -> Self {
        let mut set = Self::EMPTY;
        for cpu in cpus {
            set.insert(cpu);
        }
        set
    }
}

/// The core and the NUMA node of each CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    cores: Vec<CpuSet>,
    nodes: Vec<CpuSet>,
    core_of: Vec<u16>,
    node_of: Vec<u16>,
}

impl Topology {
    /// Makes a host of `cpus` CPUs with one thread a core and one node.
    #[must_use]
    pub fn flat(cpus: usize) -> Self {
        Self::regular(1, cpus, 1)
    }

    /// Makes a host of `nodes` nodes of `cores` cores of `threads` threads each; a core's threads are neighbours.
    #[must_use]
    pub fn regular(nodes: usize, cores: usize, threads: usize) -> Self {
        let cpus = nodes * cores * threads;
        let places: Vec<(u16, u16)> = (0..cpus)
            .map(|cpu| ((cpu / threads) as u16, (cpu / threads / cores) as u16))
            .collect();
        Self::new(&places)
    }

    /// Makes a host from each CPU's core and node, numbered from 0 over the whole host; gaps are harmless.
    #[must_use]
    pub fn new(places: &[(u16, u16)]) -> Self {
        let count = |part: fn(&(u16, u16)) -> u16| {
            places
                .iter()
                .map(|place| usize::from(part(place)) + 1)
                .max()
        };
        let mut cores = alloc::vec![CpuSet::EMPTY; count(|place| place.0).unwrap_or(0)];
        let mut nodes = alloc::vec![CpuSet::EMPTY; count(|place| place.1).unwrap_or(0)];
        for (cpu, &(core, node)) in places.iter().enumerate() {
            cores[usize::from(core)].insert(Cpu(cpu as u16));
            nodes[usize::from(node)].insert(Cpu(cpu as u16));
        }
        Self {
            cores,
            nodes,
            core_of: places.iter().map(|place| place.0).collect(),
            node_of: places.iter().map(|place| place.1).collect(),
        }
    }

    /// Returns how many CPUs there are.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.core_of.len()
    }

    /// Returns how many node numbers there are.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Returns the CPUs of the core that `cpu` belongs to.
    #[must_use]
    pub fn core(&self, cpu: Cpu) -> CpuSet {
        self.cores[usize::from(self.core_of[cpu.index()])]
    }

    pub(crate) fn core_number(&self, cpu: Cpu) -> usize {
        usize::from(self.core_of[cpu.index()])
    }

    /// Returns the node that `cpu` belongs to.
    #[must_use]
    pub fn node_of(&self, cpu: Cpu) -> u16 {
        self.node_of[cpu.index()]
    }

    /// Returns the CPUs of `node`.
    #[must_use]
    pub fn node(&self, node: u16) -> CpuSet {
        self.nodes
            .get(usize::from(node))
            .copied()
            .unwrap_or_default()
    }
}
