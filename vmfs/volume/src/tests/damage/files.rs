//! Damage to inodes, trees, directories and locks, and what a check says of each.

use super::{Row, row, unit};
use crate::Finding;
use crate::format::{Entry, Inode, Node};

pub(super) const ROWS: &[Row] = &[
    row(
        "inode, first copy destroyed",
        |w| w.smash(w.plain, &[0]),
        |w| Finding::UnitCopy {
            address: w.plain,
            copy: 0,
        },
        true,
    ),
    row(
        "inode, second copy destroyed",
        |w| w.smash(w.plain, &[1]),
        |w| Finding::UnitCopy {
            address: w.plain,
            copy: 1,
        },
        true,
    ),
    row(
        "inode, lost",
        |w| w.smash(w.plain, &[0, 1]),
        |w| Finding::UnitLost { address: w.plain },
        false,
    ),
    row(
        "inode, of no kind",
        |w| w.edit_inode(w.plain, |inode| inode.head.kind.set(9)),
        |w| Finding::InodeFields { inode: w.plain },
        false,
    ),
    row(
        "inode, of no layout",
        |w| w.edit_inode(w.plain, |inode| inode.head.layout.set(9)),
        |w| Finding::InodeFields { inode: w.plain },
        false,
    ),
    row(
        "inode, no generation",
        |w| w.edit_inode(w.plain, |inode| inode.head.generation.set(0)),
        |w| Finding::InodeFields { inode: w.plain },
        false,
    ),
    row(
        "inode, name with a slash",
        |w| w.edit_inode(w.plain, |inode| inode.name[1] = b'/'),
        |w| Finding::InodeName { inode: w.plain },
        false,
    ),
    row(
        "inode, name too long",
        |w| w.edit_inode(w.plain, |inode| inode.head.name_len.set(700)),
        |w| Finding::InodeName { inode: w.plain },
        false,
    ),
    row(
        "inline file longer than an inode",
        |w| w.edit_inode(w.inline, |inode| inode.head.size.set(5000)),
        |w| Finding::InodeSize { inode: w.inline },
        false,
    ),
    row(
        "small file longer than a sub-block",
        |w| w.edit_inode(w.small, |inode| inode.head.size.set(70_000)),
        |w| Finding::InodeSize { inode: w.small },
        false,
    ),
    row(
        "sub-block outside",
        |w| w.edit_inode(w.small, |inode| inode.root[0].target.set(1)),
        |w| Finding::SubBlockOutside { inode: w.small },
        false,
    ),
    row(
        "sub-block of two files",
        |w| w.edit_inode(w.other_small, |inode| inode.root[0].target.set(w.small_sub)),
        |w| Finding::SubBlockShared {
            inode: w.other_small.max(w.small),
            number: w.small_sub,
        },
        false,
    ),
    row(
        "wrong count of a file's blocks",
        |w| w.edit_inode(w.plain, |inode| inode.head.blocks.set(77)),
        |w| Finding::BlocksCount { inode: w.plain },
        true,
    ),
    row(
        "wrong count of a tree's nodes",
        |w| w.edit_inode(w.fragmented, |inode| inode.head.nodes.set(77)),
        |w| Finding::NodesCount {
            inode: w.fragmented,
        },
        true,
    ),
    row(
        "file's node, first copy destroyed",
        |w| w.smash(w.fragmented_node, &[0]),
        |w| Finding::UnitCopy {
            address: w.fragmented_node,
            copy: 0,
        },
        true,
    ),
    row(
        "file's node, lost",
        |w| w.smash(w.fragmented_node, &[0, 1]),
        |w| Finding::UnitLost {
            address: w.fragmented_node,
        },
        false,
    ),
    row(
        "file's tree names a data block",
        |w| w.edit_inode(w.fragmented, |inode| inode.root[0].target.set(3)),
        |w| Finding::NodeOutside {
            inode: w.fragmented,
            address: 3,
        },
        false,
    ),
    row(
        "file's node of another file",
        |w| {
            w.edit(w.fragmented_node, |bytes| {
                Node::of_mut(bytes).head.owner.set(w.plain)
            })
        },
        |w| Finding::NodeForeign {
            inode: w.fragmented,
            address: w.fragmented_node,
        },
        false,
    ),
    row(
        "file's node of another level",
        |w| {
            w.edit(w.fragmented_node, |bytes| {
                Node::of_mut(bytes).head.level.set(3)
            })
        },
        |w| Finding::NodeForeign {
            inode: w.fragmented,
            address: w.fragmented_node,
        },
        false,
    ),
    row(
        "file's node twice in the tree",
        |w| {
            w.edit_inode(w.fragmented, |inode| {
                inode.root[1].target = inode.root[0].target
            })
        },
        |w| Finding::NodeShared {
            inode: w.fragmented,
            address: w.fragmented_node,
        },
        false,
    ),
    row(
        "file's node of too many entries",
        |w| {
            w.edit(w.fragmented_node, |bytes| {
                Node::of_mut(bytes).head.entries.set(169)
            })
        },
        |w| Finding::NodeCount {
            inode: w.fragmented,
            address: w.fragmented_node,
        },
        false,
    ),
    row(
        "file's tree too deep",
        |w| w.edit_inode(w.fragmented, |inode| inode.head.level.set(40)),
        |w| Finding::NodeCount {
            inode: w.fragmented,
            address: w.fragmented,
        },
        false,
    ),
    row(
        "file's keys out of order",
        |w| {
            w.edit(w.fragmented_node, |bytes| {
                Node::of_mut(bytes).entries.swap(0, 1)
            })
        },
        |w| Finding::KeyOrder {
            inode: w.fragmented,
            address: w.fragmented_node,
        },
        false,
    ),
    row(
        "extent beyond the volume",
        |w| w.edit_inode(w.plain, |inode| inode.root[0].target.set(1 << 40)),
        |w| Finding::ExtentOutside {
            inode: w.plain,
            first: 0,
        },
        false,
    ),
    row(
        "extent over units",
        |w| {
            w.edit_inode(w.plain, |inode| {
                inode.root[0].target.set(w.layout.cluster_start(0) + 1)
            })
        },
        |w| Finding::ExtentOutside {
            inode: w.plain,
            first: 0,
        },
        false,
    ),
    row(
        "extent of no length",
        |w| w.edit_inode(w.plain, |inode| inode.root[0].detail.set(0)),
        |w| Finding::ExtentOutside {
            inode: w.plain,
            first: 0,
        },
        false,
    ),
    row(
        "extents that overlap",
        |w| {
            w.edit_inode(w.plain, |inode| {
                inode.root[1] = Entry::new(1, w.last_block(), 1);
                inode.head.entries.set(2);
            })
        },
        |w| Finding::ExtentOverlap {
            inode: w.plain,
            first: 1,
        },
        false,
    ),
    row(
        "block of two files",
        |w| {
            w.edit_inode(w.other_plain, |inode| {
                inode.root[0].target.set(w.first_block(w.plain))
            })
        },
        |w| Finding::BlockShared {
            inode: w.other_plain.max(w.plain),
            block: w.first_block(w.plain),
        },
        false,
    ),
    row(
        "entry of nothing",
        |w| {
            w.edit_entry(w.directory, w.inline, |entry| {
                entry.target.set(w.last_unit())
            })
        },
        |w| Finding::EntryDangling {
            directory: w.directory,
            inode: w.last_unit(),
        },
        true,
    ),
    row(
        "entry of an inode elsewhere",
        |w| {
            w.edit_entry(w.directory, w.inline, |entry| {
                entry.target.set(w.fragmented)
            })
        },
        |w| Finding::EntryElsewhere {
            directory: w.directory,
            inode: w.fragmented,
        },
        true,
    ),
    row(
        "entry of a wrong hash",
        |w| {
            w.edit_entry(w.directory, w.inline, |entry| {
                entry.detail.set(entry.detail.get() ^ (1 << 40))
            })
        },
        |w| Finding::EntryHash {
            directory: w.directory,
            inode: w.inline,
        },
        true,
    ),
    row(
        "entry of a wrong kind",
        |w| {
            w.edit_entry(w.directory, w.inline, |entry| {
                entry.detail.set(entry.detail.get() ^ 3)
            })
        },
        |w| Finding::EntryKind {
            directory: w.directory,
            inode: w.inline,
        },
        true,
    ),
    row(
        "entry twice",
        |w| {
            w.edit_inode(w.directory, |inode| {
                let mut copy = inode.root[0].clone();
                copy.key.set(copy.key.get() + 1);
                inode.root[1..7].rotate_right(1);
                inode.root[1] = copy;
                inode.head.entries.set(6);
            })
        },
        |w| Finding::EntryTwice {
            directory: w.directory,
            inode: Inode::of(&unit(&w.disk, w.directory)).root[0].target.get(),
        },
        true,
    ),
    row(
        "wrong count of entries",
        |w| w.edit_inode(w.directory, |inode| inode.head.size.set(3)),
        |w| Finding::DirectorySize {
            directory: w.directory,
        },
        true,
    ),
    row(
        "entry missing",
        |w| {
            w.edit_inode(w.directory, |inode| {
                inode.root[..5].rotate_left(1);
                inode.head.entries.set(4);
                inode.head.size.set(4);
            })
        },
        |w| Finding::Orphan {
            inode: Inode::of(&unit(&w.disk, w.directory)).root[4].target.get(),
        },
        true,
    ),
    row(
        "two inodes of one name",
        |w| {
            let name = Inode::of(&unit(&w.disk, w.inline)).name;
            w.edit_inode(w.small, |inode| {
                inode.name = name;
                inode.head.name_len.set(6);
            });
        },
        |w| Finding::NameTwice {
            directory: w.directory,
            inode: w.inline.max(w.small),
        },
        false,
    ),
    row(
        "directory's node, lost",
        |w| w.smash(w.crowd_node, &[0, 1]),
        |w| Finding::NodeForeign {
            inode: w.crowd,
            address: w.crowd_node,
        },
        false,
    ),
    row(
        "directory's node of another inode",
        |w| {
            w.edit(w.crowd_node, |bytes| {
                Node::of_mut(bytes).head.owner.set(w.plain)
            })
        },
        |w| Finding::NodeForeign {
            inode: w.crowd,
            address: w.crowd_node,
        },
        true,
    ),
    row(
        "directory's keys out of order",
        |w| w.edit(w.crowd_node, |bytes| Node::of_mut(bytes).entries.swap(3, 4)),
        |w| Finding::KeyOrder {
            inode: w.crowd,
            address: w.crowd_node,
        },
        true,
    ),
    row(
        "directory inside itself",
        |w| w.edit_inode(w.directory, |inode| inode.head.parent.set(w.directory)),
        |w| Finding::DirectoryLoop {
            directory: w.directory,
        },
        false,
    ),
    row(
        "root directory, free",
        |w| w.edit_inode(w.layout.root, |inode| inode.head.state.set(0)),
        |_| Finding::RootLost,
        true,
    ),
    row(
        "root directory, a file",
        |w| w.edit_inode(w.layout.root, |inode| inode.head.kind.set(1)),
        |_| Finding::RootLost,
        true,
    ),
    row(
        "root directory, lost",
        |w| w.smash(w.layout.root, &[0, 1]),
        |_| Finding::RootLost,
        true,
    ),
    row(
        "lock of a file, garbage",
        |w| w.disk.poke(w.layout.lock_area(w.plain).unwrap(), &[9; 512]),
        |w| Finding::LockDamaged { address: w.plain },
        true,
    ),
    row(
        "lock of a cluster, garbage",
        |w| {
            w.disk
                .poke(w.layout.lock_area(w.layout.head(3)).unwrap(), &[9; 512])
        },
        |w| Finding::LockDamaged {
            address: w.layout.head(3),
        },
        true,
    ),
];
