//! An inode: a file or a directory, with its own name, so that directories can be rebuilt from inodes.

use zerocopy::byteorder::little_endian::{U16, U32, U64};

use super::node::{Entry, INODE_ENTRIES};
use super::{Header, on_disk, unit_views};

/// Most bytes of a name.
pub const NAME_MAX: usize = 255;
/// Most bytes of a file that lies in its inode.
pub const INLINE_MAX: usize = 3576;

/// `state`: in use and reachable by its name.
pub const STATE_LIVE: u16 = 1;
/// `state`: has no name any more; its blocks are being freed.
pub const STATE_DELETING: u16 = 2;
/// `kind`: a file.
pub const KIND_FILE: u16 = 1;
/// `kind`: a directory.
pub const KIND_DIRECTORY: u16 = 2;
/// `layout`: the payload is the file's bytes.
pub const LAYOUT_INLINE: u16 = 0;
/// `layout`: the payload's first entry names a sub-block.
pub const LAYOUT_SUB_BLOCK: u16 = 1;
/// `layout`: the payload is the root of a tree.
pub const LAYOUT_TREE: u16 = 2;

on_disk! {
    /// The numbers in an inode.
    pub struct InodeHead: 96 {
        /// 1 live, 2 being deleted.
        pub state: U16,
        /// 1 file, 2 directory.
        pub kind: U16,
        /// What the payload is: 0 the bytes themselves, 1 a sub-block, 2 the root of a tree.
        pub layout: U16,
        /// Level of the tree's root; 0 is a leaf.
        pub level: U16,
        /// Entries in the root.
        pub entries: U16,
        /// Bytes of the name.
        pub name_len: U16,
        /// Zero.
        pub flags: U32,
        /// Tells users of this inode's address apart; never zero.
        pub generation: U64,
        /// Bytes of a file, entries of a directory.
        pub size: U64,
        /// Inode of the directory that holds it; its own for the root directory.
        pub parent: U64,
        /// Blocks that the tree maps.
        pub blocks: U64,
        /// Units that the tree uses besides this one.
        pub nodes: U64,
        /// When it was made, in seconds since 1970.
        pub created: U64,
        /// When its size or mapping last changed, in seconds since 1970.
        pub modified: U64,
        /// Zero.
        pub reserved: [u8; 24],
    }
}

on_disk! {
    /// An inode.
    pub struct Inode: 4096 {
        /// Magic `BDIN`.
        pub header: Header,
        /// Numbers.
        pub head: InodeHead,
        /// The name, UTF-8, zero-padded; empty for the root directory.
        pub name: [u8; 256],
        /// Zero.
        pub reserved: [u8; 128],
        /// The file's bytes, its sub-block, or the root's entries.
        pub root: [Entry; INODE_ENTRIES],
        /// Zero.
        pub tail: [u8; 8],
    }
}

unit_views!(Inode);

impl Inode {
    /// Returns the name; empty if its length is beyond all bounds.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.name
            .get(..usize::from(self.head.name_len.get()))
            .unwrap_or_default()
    }
}
