//! The format on disk as types: docs/formats/datastore.md says the same in words, and a test compares the two.
//!
//! Only layouts, constants and checks of one unit by itself stand here; where units stand is `layout`'s, what they
//! say about each other is the business of the code that reads them. All numbers are little-endian.

#![expect(
    missing_debug_implementations,
    reason = "zerocopy's derive makes hidden types of the fields; our own all implement it"
)]

mod cluster;
mod inode;
mod journal;
mod node;
mod slot;
mod superblock;

use checksum::Crc32c;
use core::mem::{offset_of, size_of};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use cluster::{
    CARVED_MAX, CLUSTER_BLOCKS_MAX, Carved, Cluster, ClusterHead, HEAD_UNIT, UNITS_MAX,
};
pub use inode::{
    INLINE_MAX, Inode, InodeHead, KIND_DIRECTORY, KIND_FILE, LAYOUT_INLINE, LAYOUT_SUB_BLOCK,
    LAYOUT_TREE, NAME_MAX, STATE_DELETING, STATE_LIVE,
};
pub use journal::{
    JOURNAL_UNITS_MAX, JournalHeader, RECORD_PARTS, RECORD_WHOLE, TRANSACTION_BYTES_MAX,
    TransactionHead, UnitRange, UnitRecord,
};
pub use node::{Entry, INODE_ENTRIES, LEVELS_MAX, NODE_ENTRIES, Node, NodeHead, UNWRITTEN};
pub use slot::{PENDING_MAX, SlotUnit};
pub use superblock::{
    FEATURES_KNOWN, FORMAT_VERSION, MEMBERS_MAX, Member, SUPERBLOCK_A, SUPERBLOCK_B, Superblock,
};

/// Bytes of a metadata unit.
pub const UNIT: usize = 4096;
/// Bytes of a metadata unit, as an address counts.
pub const UNIT_BYTES: u64 = 4096;
/// Bytes of a block, what allocation counts in.
pub const BLOCK_BYTES: u64 = 1 << 20;
/// Units of a block.
pub const UNITS_PER_BLOCK: u64 = BLOCK_BYTES / UNIT_BYTES;
/// Bytes of a sub-block, the room of a small file.
pub const SUB_BLOCK_BYTES: u64 = 1 << 16;
/// Sub-blocks of a block.
pub const SUB_BLOCKS_PER_BLOCK: u64 = BLOCK_BYTES / SUB_BLOCK_BYTES;

/// The bytes of a unit.
pub type Bytes = [u8; UNIT];

/// Declares a structure on the disk with its size, and the table of its fields for the test of the document.
macro_rules! on_disk {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: $size:literal {
            $( $(#[$field_meta:meta])* pub $field:ident: $type:ty, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone,
            Debug,
            ::zerocopy::FromBytes,
            ::zerocopy::IntoBytes,
            ::zerocopy::Immutable,
            ::zerocopy::KnownLayout,
        )]
        #[repr(C)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )*
        }

        const _: () = assert!(::core::mem::size_of::<$name>() == $size);

        impl $name {
            /// Name, offset and size of every field.
            pub const FIELDS: &'static [(&'static str, usize, usize)] = &[
                $( (
                    stringify!($field),
                    ::core::mem::offset_of!($name, $field),
                    ::core::mem::size_of::<$type>(),
                ), )*
            ];
        }
    };
}
pub(crate) use on_disk;

on_disk! {
    /// What every metadata unit begins with.
    pub struct Header: 32 {
        /// What kind of unit this is.
        pub magic: [u8; 4],
        /// CRC-32C of the whole unit with this field zero.
        pub crc: U32,
        /// Address of the unit's first copy, in units from the volume's start: finds writes that went astray.
        pub address: U64,
        /// Counts changes of the unit; replay never goes back.
        pub version: U64,
        /// First eight bytes of the volume's UUID: finds units of an earlier volume.
        pub volume: U64,
    }
}

/// Magic of a superblock.
pub const MAGIC_SUPERBLOCK: [u8; 4] = *b"BDS1";
/// Magic of a cluster's head.
pub const MAGIC_CLUSTER: [u8; 4] = *b"BDCL";
/// Magic of an inode.
pub const MAGIC_INODE: [u8; 4] = *b"BDIN";
/// Magic of a tree node.
pub const MAGIC_NODE: [u8; 4] = *b"BDTN";
/// Magic of a slot unit.
pub const MAGIC_SLOT: [u8; 4] = *b"BDSL";

/// Why a unit cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitFault {
    /// Its magic is not the one expected there.
    Magic,
    /// Its checksum is wrong.
    Checksum,
    /// It belongs at another address.
    Address,
    /// It belongs to another volume.
    Volume,
}

impl Header {
    /// Returns the header of a unit.
    #[must_use]
    pub fn of(bytes: &Bytes) -> &Self {
        let parts: &HeaderAndRest = zerocopy::transmute_ref!(bytes);
        &parts.header
    }

    /// Returns the header of a unit, to change it.
    pub fn of_mut(bytes: &mut Bytes) -> &mut Self {
        let parts: &mut HeaderAndRest = zerocopy::transmute_mut!(bytes);
        &mut parts.header
    }
}

/// A unit split behind its header.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct HeaderAndRest {
    header: Header,
    rest: [u8; UNIT - size_of::<Header>()],
}

/// Returns the checksum that a unit ought to carry.
#[must_use]
pub fn unit_crc(bytes: &Bytes) -> u32 {
    const FIELD: usize = offset_of!(Header, crc);
    let (before, rest) = bytes.split_at(FIELD);
    let (_, after) = rest.split_at(size_of::<U32>());
    Crc32c::new()
        .update(before)
        .update(&[0; size_of::<U32>()])
        .update(after)
        .finish()
}

/// Puts the right checksum into a unit.
pub fn seal(bytes: &mut Bytes) {
    let crc = unit_crc(bytes);
    Header::of_mut(bytes).crc = U32::new(crc);
}

/// Checks what a unit says about itself: kind (unless any will do), checksum, address, volume.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(
    bytes: &Bytes,
    magic: Option<[u8; 4]>,
    address: u64,
    volume: u64,
) -> Result<(), UnitFault> {
    let header = Header::of(bytes);
    if magic.is_some_and(|magic| magic != header.magic) {
        return Err(UnitFault::Magic);
    }
    if header.crc.get() != unit_crc(bytes) {
        return Err(UnitFault::Checksum);
    }
    if header.address.get() != address {
        return Err(UnitFault::Address);
    }
    if header.volume.get() != volume {
        return Err(UnitFault::Volume);
    }
    Ok(())
}

/// Begins a unit: all zero but its header.
#[must_use]
pub fn blank(magic: [u8; 4], address: u64, volume: u64) -> Bytes {
    let mut bytes = [0; UNIT];
    let header = Header::of_mut(&mut bytes);
    header.magic = magic;
    header.address = U64::new(address);
    header.volume = U64::new(volume);
    bytes
}

/// Views a unit as one of its kinds.
macro_rules! unit_views {
    ($name:ident) => {
        impl $name {
            /// Views a unit as this kind; whoever read it has checked the magic.
            #[must_use]
            pub fn of(bytes: &$crate::format::Bytes) -> &Self {
                zerocopy::transmute_ref!(bytes)
            }

            /// Views a unit as this kind, to change it.
            pub fn of_mut(bytes: &mut $crate::format::Bytes) -> &mut Self {
                zerocopy::transmute_mut!(bytes)
            }
        }
    };
}
pub(crate) use unit_views;

#[cfg(test)]
mod tests;
