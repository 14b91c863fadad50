//! Reads the firmware's tables through windows of the kernel's address space, and tells memory's NUMA nodes.
#![expect(unsafe_code, reason = "reads tables at addresses that firmware gave")]

use addr::Hpa;
use alloc::vec::Vec;
use bus::acpi::{MemoryAffinity, Physical};
use mem::NodeId;

/// Physical memory by the entry code's map of the first 4 GiB, before the kernel's own tables stand.
#[derive(Clone, Copy, Debug)]
pub struct EarlyMemory;

impl Physical for EarlyMemory {
    fn read(&mut self, address: u64, buf: &mut [u8]) -> bool {
        let end = address.saturating_add(buf.len() as u64);
        if end > 1 << 32 {
            return false;
        }
        // SAFETY: the entry code mapped the first 4 GiB; reading firmware's tables there has no side effect.
        unsafe { arch::physmem::read(Hpa::new_truncate(address), buf) };
        true
    }
}

/// NUMA nodes of memory.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    ranges: Vec<MemoryAffinity>,
    /// Proximity domains in the order of their node numbers.
    domains: Vec<u32>,
}

impl Nodes {
    /// Numbers the domains of `ranges` from 0.
    #[must_use]
    pub fn new(ranges: &[MemoryAffinity]) -> Self {
        let mut domains: Vec<u32> = ranges.iter().map(|r| r.domain).collect();
        domains.sort_unstable();
        domains.dedup();
        Self {
            ranges: ranges.to_vec(),
            domains,
        }
    }

    /// Returns the node of the memory at `hpa`; 0 where the firmware tells none.
    #[must_use]
    pub fn node_of(&self, hpa: Hpa) -> NodeId {
        let holds = |r: &&MemoryAffinity| r.start <= hpa.as_u64() && hpa.as_u64() - r.start < r.len;
        let domain = self.ranges.iter().find(holds).map_or(0, |r| r.domain);
        let index = self.domains.iter().position(|d| *d == domain).unwrap_or(0);
        NodeId(u8::try_from(index).unwrap_or(u8::MAX))
    }
}
