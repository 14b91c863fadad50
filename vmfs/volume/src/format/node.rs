//! Nodes of the trees that files and directories are made of.

use zerocopy::byteorder::little_endian::{U16, U64};

use super::{Header, on_disk, unit_views};

/// Entries of a root, in an inode.
pub const INODE_ENTRIES: usize = 149;
/// Entries of a node.
pub const NODE_ENTRIES: usize = 168;
/// Levels of a tree, the root's counted.
pub const LEVELS_MAX: u16 = 5;
/// Flag in [`Entry::detail`] of an extent: allocated, but never written; it reads as zeros.
pub const UNWRITTEN: u64 = 1 << 32;

on_disk! {
    /// An entry of a tree, by level and by what owns the tree.
    pub struct Entry: 24 {
        /// Extent: first block in the file. Name: hash of the name. Interior: lowest key below.
        pub key: U64,
        /// Extent: first block in the volume. Name: the inode. Interior: the child.
        pub target: U64,
        /// Extent: number of blocks in bits 0 to 31, bit 32 if unwritten. Name: kind in bits 0 to 15, bits 16 to 63
        /// more of the hash. Interior: zero.
        pub detail: U64,
    }
}

on_disk! {
    /// The numbers in a node.
    pub struct NodeHead: 32 {
        /// Inode whose tree this node is part of.
        pub owner: U64,
        /// Generation of that inode.
        pub generation: U64,
        /// Level; 0 is a leaf.
        pub level: U16,
        /// Entries in use.
        pub entries: U16,
        /// Zero.
        pub reserved: [u8; 12],
    }
}

on_disk! {
    /// A node.
    pub struct Node: 4096 {
        /// Magic `BDTN`.
        pub header: Header,
        /// Numbers.
        pub head: NodeHead,
        /// Entries, by rising key.
        pub entries: [Entry; NODE_ENTRIES],
    }
}

unit_views!(Node);

impl Entry {
    /// Makes an entry.
    #[must_use]
    pub const fn new(key: u64, target: u64, detail: u64) -> Self {
        Self {
            key: U64::new(key),
            target: U64::new(target),
            detail: U64::new(detail),
        }
    }

    /// Returns the number of blocks of an extent.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.detail.get() & 0xffff_ffff
    }

    /// Tells whether an extent was never written.
    #[must_use]
    pub const fn is_unwritten(&self) -> bool {
        self.detail.get() & UNWRITTEN != 0
    }
}
