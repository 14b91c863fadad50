//! The head of a resource cluster: which of its blocks, units and sub-blocks are in use.

use zerocopy::byteorder::little_endian::{U16, U32, U64};

use super::{Header, on_disk, unit_views};

/// Index of the head among the units of its cluster.
pub const HEAD_UNIT: u32 = 0;
/// Most blocks of a cluster.
pub const CLUSTER_BLOCKS_MAX: u32 = 8192;
/// Most units of a cluster.
pub const UNITS_MAX: u32 = 1024;
/// Most blocks of a cluster that are carved into sub-blocks at a time.
pub const CARVED_MAX: usize = 256;

on_disk! {
    /// A block that is carved into 16 sub-blocks. Both fields are zero where the entry is free.
    pub struct Carved: 4 {
        /// The block, counted from the cluster's start.
        pub block: U16,
        /// A bit for each sub-block in use, the lowest for the first.
        pub used: U16,
    }
}

on_disk! {
    /// The numbers in a cluster's head.
    pub struct ClusterHead: 32 {
        /// Number of the cluster.
        pub index: U64,
        /// Blocks not in use.
        pub free_blocks: U32,
        /// Units not in use.
        pub free_units: U32,
        /// Zero.
        pub reserved: [u8; 16],
    }
}

on_disk! {
    /// The head of a cluster, unit 0 of it.
    pub struct Cluster: 4096 {
        /// Magic `BDCL`.
        pub header: Header,
        /// Numbers.
        pub head: ClusterHead,
        /// A bit for each unit in use; the head's own is set.
        pub units: [u8; 128],
        /// Blocks carved into sub-blocks.
        pub carved: [Carved; CARVED_MAX],
        /// A bit for each block in use; those of locks and units are set.
        pub blocks: [u8; 1024],
        /// Zero.
        pub reserved: [u8; 1856],
    }
}

unit_views!(Cluster);
