//! The superblock: what a volume is and where its regions lie.

use zerocopy::byteorder::little_endian::{U32, U64};

use super::{BLOCK_BYTES, Header, UNIT_BYTES, on_disk, unit_views};

/// Version of the format that this code writes.
pub const FORMAT_VERSION: u32 = 2;
/// Incompatible and read-only-compatible features that this code knows: none yet.
pub const FEATURES_KNOWN: u64 = 0;
/// Most members (LUNs) of a volume.
pub const MEMBERS_MAX: usize = 32;
/// Byte address of the superblock on each member. The unit before it stays free for partition tables and boot code.
pub const SUPERBLOCK_A: u64 = UNIT_BYTES;
/// Byte address of its second copy.
pub const SUPERBLOCK_B: u64 = BLOCK_BYTES + UNIT_BYTES;

on_disk! {
    /// One LUN of a volume.
    pub struct Member: 32 {
        /// Names the LUN.
        pub uuid: [u8; 16],
        /// First block of the volume that lies on it.
        pub first_block: U64,
        /// Blocks of the volume that lie on it.
        pub blocks: U64,
    }
}

on_disk! {
    /// The superblock. Its header's address is 1 in both copies and on every member.
    pub struct Superblock: 4096 {
        /// Magic `BDS1`.
        pub header: Header,
        /// Version of the format: 1.
        pub format: U32,
        /// Which member this copy lies on: an index into `members`.
        pub member: U32,
        /// Features without which a reader must not mount at all.
        pub incompatible: U64,
        /// Features without which a reader must not write.
        pub read_only: U64,
        /// Features that may be ignored.
        pub compatible: U64,
        /// Names the volume.
        pub uuid: [u8; 16],
        /// A name for people, UTF-8, zero-padded.
        pub label: [u8; 64],
        /// Key of the hash of names.
        pub hash_key: [u8; 16],
        /// When the volume was made, in seconds since 1970.
        pub created: U64,
        /// Bytes of a logical block of the devices, 512 or 4096: the size of a lock's or heartbeat's sector.
        pub logical_block: U32,
        /// Hosts that can mount at once: heartbeat slots, journals.
        pub slots: U32,
        /// Milliseconds after which a heartbeat that stands still is a dead host's.
        pub lease_ms: U32,
        /// Milliseconds to wait beyond the lease before a dead host's journal is replayed.
        pub reclaim_ms: U32,
        /// Milliseconds between two heartbeats.
        pub beat_ms: U32,
        /// Milliseconds before the end of its lease when a host stops writing.
        pub margin_ms: U32,
        /// Byte address of the heartbeat slots.
        pub heartbeat: U64,
        /// Byte address of the global lock areas: 0 the superblock's, 1 that of directory moves.
        pub locks: U64,
        /// Bytes of a lock area.
        pub lock_bytes: U32,
        /// The atomic step of the locks: 1 compare-and-write, 2 Disk Paxos, 3 local.
        pub lock_backend: U32,
        /// Bytes of a heartbeat slot.
        pub slot_bytes: U32,
        /// Number of members.
        pub member_count: U32,
        /// Address of slot 0's unit; second copies follow behind all first ones.
        pub slot_units: U64,
        /// First block of slot 0's journal.
        pub journals: U64,
        /// Blocks of a journal.
        pub journal_blocks: U32,
        /// Blocks of a cluster.
        pub cluster_blocks: U32,
        /// Blocks of units at a cluster's start, and again, as second copies, at its end.
        pub unit_blocks: U32,
        /// Blocks of lock areas before a cluster's units.
        pub lock_blocks: U32,
        /// Units 1 to this number of a cluster have a lock area and may be inodes.
        pub inodes_per_cluster: U32,
        /// Zero.
        pub padding: U32,
        /// First block of cluster 0.
        pub first_cluster: U64,
        /// Number of clusters.
        pub clusters: U64,
        /// Address of the root directory's inode.
        pub root: U64,
        /// The members.
        pub members: [Member; MEMBERS_MAX],
        /// Zero.
        pub reserved: [u8; 2784],
    }
}

unit_views!(Superblock);
