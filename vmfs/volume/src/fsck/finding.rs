//! What a check can find.

use thiserror::Error;

/// A contradiction on the volume. Addresses are those of units, blocks and sub-blocks are numbers in the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
pub enum Finding {
    /// A copy of the superblock is damaged.
    #[error("copy {copy} of the superblock is damaged")]
    SuperblockCopy {
        /// 0 or 1.
        copy: u8,
    },
    /// The copies of the superblock are sound and say different things.
    #[error("the two copies of the superblock differ")]
    SuperblocksDiffer,
    /// A journal's header is damaged.
    #[error("the header of slot {slot}'s journal is damaged")]
    JournalHeader {
        /// The slot.
        slot: u16,
    },
    /// A transaction names a place where no unit can stand, or an image does not fit its place.
    #[error("slot {slot}'s journal names unit {address}, which cannot be")]
    JournalImage {
        /// The slot.
        slot: u16,
        /// What it names.
        address: u64,
    },
    /// One copy of a unit is damaged.
    #[error("copy {copy} of unit {address} is damaged")]
    UnitCopy {
        /// The unit.
        address: u64,
        /// 0 or 1.
        copy: u8,
    },
    /// The copies of a unit are sound and differ.
    #[error("the two copies of unit {address} differ")]
    UnitCopiesDiffer {
        /// The unit.
        address: u64,
    },
    /// Both copies of a unit in use are damaged.
    #[error("unit {address} is lost: both copies are damaged")]
    UnitLost {
        /// The unit.
        address: u64,
    },
    /// A slot's unit contradicts itself.
    #[error("the unit of slot {slot} makes no sense")]
    SlotUnit {
        /// The slot.
        slot: u16,
    },
    /// A slot is to go on deleting a file that is not being deleted.
    #[error("slot {slot} is to delete inode {inode}, which is not being deleted")]
    PendingStale {
        /// The slot.
        slot: u16,
        /// The inode.
        inode: u64,
    },
    /// A file is being deleted and no slot goes on with that.
    #[error("inode {inode} is being deleted by nobody")]
    DeletingForgotten {
        /// The inode.
        inode: u64,
    },
    /// Both copies of a cluster's head are damaged.
    #[error("the head of cluster {cluster} is lost")]
    HeadLost {
        /// The cluster.
        cluster: u64,
    },
    /// A cluster's head has another cluster's number.
    #[error("the head of cluster {cluster} has another number")]
    HeadIndex {
        /// The cluster.
        cluster: u64,
    },
    /// A cluster's count of free blocks or units is wrong.
    #[error("the counts of cluster {cluster} are wrong")]
    FreeCounts {
        /// The cluster.
        cluster: u64,
    },
    /// A block is marked as used, and nothing uses it.
    #[error("block {block} is marked as used, but nothing uses it")]
    BlockLeaked {
        /// The block.
        block: u64,
    },
    /// A block is used and marked as free.
    #[error("block {block} is used, but marked as free")]
    BlockUnmarked {
        /// The block.
        block: u64,
    },
    /// A unit is marked as used, and nothing uses it.
    #[error("unit {address} is marked as used, but nothing uses it")]
    UnitLeaked {
        /// The unit.
        address: u64,
    },
    /// A unit is used and marked as free.
    #[error("unit {address} is used, but marked as free")]
    UnitUnmarked {
        /// The unit.
        address: u64,
    },
    /// The table of carved blocks contradicts itself or names no data block.
    #[error("entry {entry} of cluster {cluster}'s table of carved blocks makes no sense")]
    CarvedEntry {
        /// The cluster.
        cluster: u64,
        /// The entry.
        entry: u16,
    },
    /// A sub-block is marked as used, and nothing uses it.
    #[error("sub-block {number} is marked as used, but nothing uses it")]
    SubBlockLeaked {
        /// The sub-block.
        number: u64,
    },
    /// A sub-block is used and marked as free.
    #[error("sub-block {number} is used, but marked as free")]
    SubBlockUnmarked {
        /// The sub-block.
        number: u64,
    },
    /// An inode's kind, state, layout or generation is none that exists, or they do not go together.
    #[error("inode {inode} makes no sense")]
    InodeFields {
        /// The inode.
        inode: u64,
    },
    /// An inode's name is not a name.
    #[error("the name of inode {inode} is not a name")]
    InodeName {
        /// The inode.
        inode: u64,
    },
    /// A file is longer than its room.
    #[error("inode {inode} is longer than its room")]
    InodeSize {
        /// The inode.
        inode: u64,
    },
    /// An inode counts its blocks wrongly.
    #[error("inode {inode} counts its blocks wrongly")]
    BlocksCount {
        /// The inode.
        inode: u64,
    },
    /// An inode counts its nodes wrongly.
    #[error("inode {inode} counts its nodes wrongly")]
    NodesCount {
        /// The inode.
        inode: u64,
    },
    /// A tree names a node where none can stand.
    #[error("the tree of inode {inode} names unit {address}, where no node can be")]
    NodeOutside {
        /// The inode.
        inode: u64,
        /// What it names.
        address: u64,
    },
    /// What a tree takes for its node is another inode's, of another level, or no node.
    #[error("unit {address} is not the node that the tree of inode {inode} takes it for")]
    NodeForeign {
        /// The inode.
        inode: u64,
        /// The unit.
        address: u64,
    },
    /// Two places of trees name the same node.
    #[error("unit {address} is in trees twice, one of them inode {inode}'s")]
    NodeShared {
        /// The inode of the second place.
        inode: u64,
        /// The unit.
        address: u64,
    },
    /// A node or root says that it has more entries than fit, or an inner one has none.
    #[error("unit {address} of the tree of inode {inode} has an impossible number of entries")]
    NodeCount {
        /// The inode.
        inode: u64,
        /// The unit.
        address: u64,
    },
    /// Keys do not rise, or lie outside what the parent says.
    #[error("the keys in unit {address} of the tree of inode {inode} are out of order")]
    KeyOrder {
        /// The inode.
        inode: u64,
        /// The unit.
        address: u64,
    },
    /// An extent does not lie in the data blocks of one cluster, or is empty.
    #[error("inode {inode} maps its block {first} to where no data can be")]
    ExtentOutside {
        /// The inode.
        inode: u64,
        /// First block in the file.
        first: u64,
    },
    /// An extent overlaps the one before it in the file.
    #[error("inode {inode} maps its block {first} twice")]
    ExtentOverlap {
        /// The inode.
        inode: u64,
        /// First block in the file.
        first: u64,
    },
    /// Two files, or two places of one, use the same block.
    #[error("block {block} is used twice, once by inode {inode}")]
    BlockShared {
        /// The inode of the second use.
        inode: u64,
        /// The block.
        block: u64,
    },
    /// A file's sub-block does not lie in a data block.
    #[error("the sub-block of inode {inode} is where none can be")]
    SubBlockOutside {
        /// The inode.
        inode: u64,
    },
    /// Two files use the same sub-block.
    #[error("sub-block {number} is used twice, once by inode {inode}")]
    SubBlockShared {
        /// The inode of the second use.
        inode: u64,
        /// The sub-block.
        number: u64,
    },
    /// A directory names an inode that is none or not in use.
    #[error("directory {directory} names inode {inode}, which is not in use")]
    EntryDangling {
        /// The directory.
        directory: u64,
        /// What it names.
        inode: u64,
    },
    /// A directory names an inode that belongs into another one.
    #[error("directory {directory} names inode {inode}, which says that it is elsewhere")]
    EntryElsewhere {
        /// The directory.
        directory: u64,
        /// What it names.
        inode: u64,
    },
    /// A directory's entry has another hash than the name.
    #[error("the entry of inode {inode} in directory {directory} has a wrong hash")]
    EntryHash {
        /// The directory.
        directory: u64,
        /// What it names.
        inode: u64,
    },
    /// A directory's entry has another kind than the inode.
    #[error("the entry of inode {inode} in directory {directory} has a wrong kind")]
    EntryKind {
        /// The directory.
        directory: u64,
        /// What it names.
        inode: u64,
    },
    /// A directory names the same inode twice.
    #[error("inode {inode} is in directory {directory} twice")]
    EntryTwice {
        /// The directory.
        directory: u64,
        /// What it names.
        inode: u64,
    },
    /// A directory counts its entries wrongly.
    #[error("directory {directory} counts its entries wrongly")]
    DirectorySize {
        /// The directory.
        directory: u64,
    },
    /// Two inodes of a directory have the same name.
    #[error("directory {directory} has the name of inode {inode} twice")]
    NameTwice {
        /// The directory.
        directory: u64,
        /// The second inode.
        inode: u64,
    },
    /// A live inode is in no directory.
    #[error("inode {inode} is in no directory")]
    Orphan {
        /// The inode.
        inode: u64,
    },
    /// Directories lie inside each other, away from the root.
    #[error("directory {directory} lies inside itself")]
    DirectoryLoop {
        /// The directory.
        directory: u64,
    },
    /// The root directory's inode is lost or not a directory.
    #[error("the root directory is lost")]
    RootLost,
    /// What stands in a lock's place is no lock.
    #[error("the lock of unit {address} is damaged")]
    LockDamaged {
        /// The unit that the lock covers.
        address: u64,
    },
}
