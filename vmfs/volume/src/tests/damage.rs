//! Damage of every kind, planted: a check finds it, a repair repairs it where that takes no guess.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use super::support::{GIB, MIB, Random, made, mount, pattern, run};
use crate::format::{
    self, Bytes, Cluster, Entry, Header, Inode, JournalHeader, Node, SUPERBLOCK_A, SUPERBLOCK_B,
    SlotUnit, Superblock, UNIT, UNIT_BYTES,
};
use crate::ram::RamDisk;
use crate::{Action, Finding, Kind, Layout, LockMode, Provision, fsck, probe};

/// A volume with something of everything.
pub(super) struct World {
    pub(super) disk: RamDisk,
    pub(super) layout: Layout,
    directory: u64,
    /// A directory with nodes, and the first of them.
    crowd: u64,
    crowd_node: u64,
    inline: u64,
    small: u64,
    small_sub: u64,
    other_small: u64,
    plain: u64,
    other_plain: u64,
    /// A file whose tree has nodes, and the first of them.
    fragmented: u64,
    fragmented_node: u64,
}

pub(super) fn world() -> World {
    let disk = made(GIB);
    let layout = run(probe(&disk)).unwrap();
    let mut volume = mount(&disk);
    let root = volume.root();
    let directory = run(volume.create(root, "vms", Kind::Directory)).unwrap();
    let crowd = run(volume.create(root, "crowd", Kind::Directory)).unwrap();
    for index in 0..400 {
        run(volume.create(crowd, &format!("member-{index}"), Kind::File)).unwrap();
    }
    let mut made = Vec::new();
    let sizes = [
        ("inline", 1000),
        ("small", 30_000),
        ("other_small", 60_000),
        ("plain", 3_000_000),
        ("other_plain", 1_200_000),
    ];
    for (name, size) in sizes {
        let id = run(volume.create(directory, name, Kind::File)).unwrap();
        let mut file = run(volume.open(id, LockMode::Exclusive)).unwrap();
        volume
            .put(&mut file, 0, &pattern(size as u64, size))
            .unwrap();
        volume.close(file);
        made.push(id.inode());
    }
    let mut file = volume.make("fragmented");
    for block in 0..180 {
        run(volume.allocate(&mut file, block * 2 * MIB, MIB, Provision::Unwritten)).unwrap();
    }
    let fragmented = file.id().inode();
    volume.close(file);
    run(volume.unmount()).unwrap();
    let first_child = |address| Inode::of(&unit(&disk, address)).root[0].target.get();
    World {
        directory: directory.inode(),
        crowd: crowd.inode(),
        crowd_node: first_child(crowd.inode()),
        inline: made[0],
        small: made[1],
        small_sub: first_child(made[1]),
        other_small: made[2],
        plain: made[3],
        other_plain: made[4],
        fragmented,
        fragmented_node: first_child(fragmented),
        disk,
        layout,
    }
}

fn unit(disk: &RamDisk, address: u64) -> Box<Bytes> {
    let mut bytes = Box::new([0; UNIT]);
    disk.peek(address * UNIT_BYTES, &mut *bytes);
    bytes
}

impl World {
    /// The files by their inodes.
    pub(super) fn files(&self) -> [u64; 6] {
        [
            self.inline,
            self.small,
            self.other_small,
            self.plain,
            self.other_plain,
            self.fragmented,
        ]
    }

    /// Changes both copies of a unit, with a right checksum.
    fn edit(&self, address: u64, edit: impl FnOnce(&mut Bytes)) {
        let mut bytes = unit(&self.disk, address);
        edit(&mut bytes);
        format::seal(&mut bytes);
        for copy in [address, self.layout.mirror(address).unwrap()] {
            self.disk.poke(copy * UNIT_BYTES, &*bytes);
        }
    }

    fn edit_inode(&self, address: u64, edit: impl FnOnce(&mut Inode)) {
        self.edit(address, |bytes| edit(Inode::of_mut(bytes)));
    }

    fn edit_head(&self, cluster: u64, edit: impl FnOnce(&mut Cluster)) {
        self.edit(self.layout.head(cluster), |bytes| {
            edit(Cluster::of_mut(bytes))
        });
    }

    /// Destroys copies of a unit.
    fn smash(&self, address: u64, copies: &[u8]) {
        for copy in copies {
            let at = if *copy == 0 {
                address
            } else {
                self.layout.mirror(address).unwrap()
            };
            self.disk.poke(at * UNIT_BYTES + 600, &[0xaa; 40]);
        }
    }

    /// The entry of an inode in a directory whose tree is its root.
    fn edit_entry(&self, directory: u64, inode: u64, edit: impl FnOnce(&mut Entry)) {
        self.edit_inode(directory, |bytes| {
            let count = usize::from(bytes.head.entries.get());
            let entry = bytes.root[..count]
                .iter_mut()
                .find(|entry| entry.target.get() == inode);
            edit(entry.unwrap());
        });
    }

    fn cluster_of_unit(&self, address: u64) -> (u64, u64) {
        let (cluster, index) = self.layout.locate(address).unwrap();
        (cluster, u64::from(index))
    }

    fn first_block(&self, inode: u64) -> u64 {
        Inode::of(&unit(&self.disk, inode)).root[0].target.get()
    }

    fn block_in_cluster(&self, block: u64) -> (u64, u64) {
        let cluster = self.layout.cluster_of(block).unwrap();
        (cluster, block - self.layout.cluster_start(cluster))
    }

    /// A block and a unit that nothing uses.
    fn last_block(&self) -> u64 {
        self.layout.cluster_start(self.layout.clusters - 1) + self.layout.data_end() - 1
    }

    fn last_unit(&self) -> u64 {
        self.layout.unit(self.layout.clusters - 1, 200)
    }

    /// Changes the entry of the block that is carved for small files.
    fn edit_carved(&self, edit: impl FnOnce(&mut Cluster, usize)) {
        let (cluster, index) = self.block_in_cluster(self.small_sub / 16);
        self.edit_head(cluster, |head| {
            let entry = head
                .carved
                .iter()
                .position(|carved| u64::from(carved.block.get()) == index);
            edit(head, entry.unwrap());
        });
    }

    fn carved_cluster(&self) -> u64 {
        self.block_in_cluster(self.small_sub / 16).0
    }

    fn toggle_block(&self, block: u64) {
        let (cluster, index) = self.block_in_cluster(block);
        self.edit_head(cluster, |head| {
            head.blocks[(index / 8) as usize] ^= 1 << (index % 8)
        });
    }

    fn toggle_unit(&self, address: u64) {
        let (cluster, index) = self.cluster_of_unit(address);
        self.edit_head(cluster, |head| {
            head.units[(index / 8) as usize] ^= 1 << (index % 8)
        });
    }
}

/// A kind of damage.
struct Row {
    name: &'static str,
    damage: fn(&World),
    finds: fn(&World) -> Finding,
    repaired: bool,
}

const fn row(
    name: &'static str,
    damage: fn(&World),
    finds: fn(&World) -> Finding,
    repaired: bool,
) -> Row {
    Row {
        name,
        damage,
        finds,
        repaired,
    }
}

const ROWS: &[Row] = &[
    row(
        "superblock, first copy zeroed",
        |w| w.disk.poke(SUPERBLOCK_A, &[0; UNIT]),
        |_| Finding::SuperblockCopy { copy: 0 },
        true,
    ),
    row(
        "superblock, second copy zeroed",
        |w| w.disk.poke(SUPERBLOCK_B, &[0; UNIT]),
        |_| Finding::SuperblockCopy { copy: 1 },
        true,
    ),
    row(
        "superblock, a bit flipped",
        |w| w.disk.poke(SUPERBLOCK_A + 90, &[0x55]),
        |_| Finding::SuperblockCopy { copy: 0 },
        true,
    ),
    row(
        "superblock, second copy of another label",
        |w| {
            let mut bytes = unit(&w.disk, SUPERBLOCK_B / UNIT_BYTES);
            Superblock::of_mut(&mut bytes).label[0] = b'x';
            format::seal(&mut bytes);
            w.disk.poke(SUPERBLOCK_B, &*bytes);
        },
        |_| Finding::SuperblocksDiffer,
        true,
    ),
    row(
        "journal, header destroyed",
        |w| w.disk.poke(w.layout.journal(1), &[7; 64]),
        |_| Finding::JournalHeader { slot: 1 },
        true,
    ),
    row(
        "journal, header of another slot",
        |w| {
            let header = JournalHeader::new(w.layout.tag, 3, 0, 1);
            w.disk
                .poke(w.layout.journal(2), zerocopy::IntoBytes::as_bytes(&header));
        },
        |_| Finding::JournalHeader { slot: 2 },
        true,
    ),
    row(
        "journal, tail beyond the ring",
        |w| {
            let header = JournalHeader::new(w.layout.tag, 2, 5000, 1);
            w.disk
                .poke(w.layout.journal(2), zerocopy::IntoBytes::as_bytes(&header));
        },
        |_| Finding::JournalHeader { slot: 2 },
        true,
    ),
    row(
        "journal, image of no unit",
        plant_transaction,
        |w| Finding::JournalImage {
            slot: 3,
            address: w.layout.journals * 256 + 9,
        },
        false,
    ),
    row(
        "slot unit, first copy destroyed",
        |w| w.smash(w.layout.slot_unit(1), &[0]),
        |w| Finding::UnitCopy {
            address: w.layout.slot_unit(1),
            copy: 0,
        },
        true,
    ),
    row(
        "slot unit, lost",
        |w| w.smash(w.layout.slot_unit(1), &[0, 1]),
        |_| Finding::SlotUnit { slot: 1 },
        true,
    ),
    row(
        "slot unit, too many pending",
        |w| {
            w.edit(w.layout.slot_unit(1), |bytes| {
                SlotUnit::of_mut(bytes).count.set(9999)
            })
        },
        |_| Finding::SlotUnit { slot: 1 },
        true,
    ),
    row(
        "slot unit, another slot's number",
        |w| {
            w.edit(w.layout.slot_unit(1), |bytes| {
                SlotUnit::of_mut(bytes).slot.set(2)
            })
        },
        |_| Finding::SlotUnit { slot: 1 },
        true,
    ),
    row(
        "pending deletion of a live file",
        |w| {
            w.edit(w.layout.slot_unit(0), |bytes| {
                let slot = SlotUnit::of_mut(bytes);
                slot.count.set(1);
                slot.pending[0].set(w.plain);
            })
        },
        |w| Finding::PendingStale {
            slot: 0,
            inode: w.plain,
        },
        true,
    ),
    row(
        "pending deletion of nothing",
        |w| {
            w.edit(w.layout.slot_unit(0), |bytes| {
                let slot = SlotUnit::of_mut(bytes);
                slot.count.set(1);
                slot.pending[0].set(u64::MAX);
            })
        },
        |_| Finding::PendingStale {
            slot: 0,
            inode: u64::MAX,
        },
        true,
    ),
    row(
        "deletion that nobody goes on with",
        |w| {
            // A member of the crowd that lost its name.
            let inode = Node::of(&unit(&w.disk, w.crowd_node)).entries[0]
                .target
                .get();
            w.edit(w.crowd_node, |bytes| {
                let node = Node::of_mut(bytes);
                node.entries.rotate_left(1);
                node.head.entries.set(node.head.entries.get() - 1);
            });
            w.edit_inode(w.crowd, |inode| inode.head.size.set(399));
            w.edit_inode(inode, |inode| inode.head.state.set(2));
        },
        |w| Finding::DeletingForgotten {
            inode: deleting_inode(w),
        },
        true,
    ),
    row(
        "head, first copy destroyed",
        |w| w.smash(w.layout.head(0), &[0]),
        |w| Finding::UnitCopy {
            address: w.layout.head(0),
            copy: 0,
        },
        true,
    ),
    row(
        "head, second copy destroyed",
        |w| w.smash(w.layout.head(0), &[1]),
        |w| Finding::UnitCopy {
            address: w.layout.head(0),
            copy: 1,
        },
        true,
    ),
    row(
        "head, lost",
        |w| w.smash(w.layout.head(0), &[0, 1]),
        |_| Finding::HeadLost { cluster: 0 },
        true,
    ),
    row(
        "head, zeroed",
        |w| {
            for copy in [w.layout.head(1), w.layout.mirror(w.layout.head(1)).unwrap()] {
                w.disk.poke(copy * UNIT_BYTES, &[0; UNIT]);
            }
        },
        |_| Finding::HeadLost { cluster: 1 },
        true,
    ),
    row(
        "head, of an earlier volume",
        |w| {
            w.edit(w.layout.head(1), |bytes| {
                Header::of_mut(bytes).volume.set(1)
            })
        },
        |_| Finding::HeadLost { cluster: 1 },
        true,
    ),
    row(
        "head, another cluster's",
        |w| {
            let bytes = unit(&w.disk, w.layout.head(2));
            for copy in [w.layout.head(1), w.layout.mirror(w.layout.head(1)).unwrap()] {
                w.disk.poke(copy * UNIT_BYTES, &*bytes);
            }
        },
        |_| Finding::HeadLost { cluster: 1 },
        true,
    ),
    row(
        "head, second copy older",
        |w| {
            let mut bytes = unit(&w.disk, w.layout.head(0));
            Header::of_mut(&mut bytes).version.set(1);
            Cluster::of_mut(&mut bytes).head.free_blocks.set(1);
            format::seal(&mut bytes);
            w.disk.poke(
                w.layout.mirror(w.layout.head(0)).unwrap() * UNIT_BYTES,
                &*bytes,
            );
        },
        |w| Finding::UnitCopiesDiffer {
            address: w.layout.head(0),
        },
        true,
    ),
    row(
        "head, wrong number",
        |w| w.edit_head(1, |head| head.head.index.set(7)),
        |_| Finding::HeadIndex { cluster: 1 },
        true,
    ),
    row(
        "head, wrong count of blocks",
        |w| w.edit_head(0, |head| head.head.free_blocks.set(1000)),
        |_| Finding::FreeCounts { cluster: 0 },
        true,
    ),
    row(
        "head, wrong count of units",
        |w| w.edit_head(0, |head| head.head.free_units.set(77)),
        |_| Finding::FreeCounts { cluster: 0 },
        true,
    ),
    row(
        "block marked, unused",
        |w| w.toggle_block(w.last_block()),
        |w| Finding::BlockLeaked {
            block: w.last_block(),
        },
        true,
    ),
    row(
        "block used, unmarked",
        |w| w.toggle_block(w.first_block(w.plain)),
        |w| Finding::BlockUnmarked {
            block: w.first_block(w.plain),
        },
        true,
    ),
    row(
        "blocks of locks and units unmarked",
        |w| w.edit_head(0, |head| head.blocks[0] &= !1),
        |w| Finding::BlockUnmarked {
            block: w.layout.cluster_start(0),
        },
        true,
    ),
    row(
        "unit marked, never written",
        |w| w.toggle_unit(w.last_unit()),
        |w| Finding::UnitLost {
            address: w.last_unit(),
        },
        false,
    ),
    row(
        "unit marked, a node of nobody",
        |w| {
            let mut bytes = format::blank(format::MAGIC_NODE, w.last_unit(), w.layout.tag);
            Node::of_mut(&mut bytes).head.owner.set(w.plain);
            format::seal(&mut bytes);
            w.edit(w.last_unit(), |unit| *unit = bytes);
            w.toggle_unit(w.last_unit());
        },
        |w| Finding::UnitLeaked {
            address: w.last_unit(),
        },
        true,
    ),
    row(
        "unit marked, an inode that is free",
        |w| {
            let inode = w.layout.unit(w.layout.clusters - 1, 5);
            let bytes = format::blank(format::MAGIC_INODE, inode, w.layout.tag);
            w.edit(inode, |unit| *unit = bytes);
            w.toggle_unit(inode);
        },
        |w| Finding::UnitLeaked {
            address: w.layout.unit(w.layout.clusters - 1, 5),
        },
        true,
    ),
    row(
        "node used, unmarked",
        |w| w.toggle_unit(w.fragmented_node),
        |w| Finding::UnitUnmarked {
            address: w.fragmented_node,
        },
        true,
    ),
    row(
        "inode used, unmarked",
        |w| w.toggle_unit(w.inline),
        |w| Finding::UnitUnmarked { address: w.inline },
        true,
    ),
    row(
        "sub-block marked, unused",
        |w| {
            w.edit_carved(|head, entry| {
                let used = head.carved[entry].used.get();
                head.carved[entry].used.set(used | 0x8000);
            })
        },
        |w| Finding::SubBlockLeaked {
            number: w.small_sub / 16 * 16 + 15,
        },
        true,
    ),
    row(
        "sub-block used, unmarked",
        |w| {
            w.edit_carved(|head, entry| {
                let used = head.carved[entry].used.get();
                head.carved[entry].used.set(used & !1);
            })
        },
        |w| Finding::SubBlockUnmarked {
            number: w.small_sub,
        },
        true,
    ),
    row(
        "carved block that is a file's",
        |w| {
            let (cluster, index) = w.block_in_cluster(w.first_block(w.plain));
            w.edit_head(cluster, |head| {
                head.carved[9].block.set(index as u16);
                head.carved[9].used.set(1);
            });
        },
        |w| Finding::CarvedEntry {
            cluster: w.block_in_cluster(w.first_block(w.plain)).0,
            entry: 9,
        },
        true,
    ),
    row(
        "carved block among the locks",
        |w| {
            w.edit_head(0, |head| {
                head.carved[9].block.set(1);
                head.carved[9].used.set(1);
            })
        },
        |_| Finding::CarvedEntry {
            cluster: 0,
            entry: 9,
        },
        true,
    ),
    row(
        "carved block listed twice",
        |w| w.edit_carved(|head, entry| head.carved[5] = head.carved[entry].clone()),
        |w| Finding::CarvedEntry {
            cluster: w.carved_cluster(),
            entry: 5,
        },
        true,
    ),
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

/// A transaction that is whole and names the journal itself.
fn plant_transaction(w: &World) {
    let address = w.layout.journals * 256 + 9;
    let mut image = format::blank(format::MAGIC_NODE, address, w.layout.tag);
    format::seal(&mut image);
    let reference = format::ImageRef {
        address: address.into(),
        crc: Header::of(&image).crc,
        reserved: 0.into(),
    };
    let head = format::TransactionUnit::build(w.layout.tag, 3, 1, &[reference]);
    w.disk.poke(w.layout.journal(3) + UNIT_BYTES, &head);
    w.disk.poke(w.layout.journal(3) + 2 * UNIT_BYTES, &image);
}

fn deleting_inode(w: &World) -> u64 {
    let mut found = 0;
    for cluster in 0..w.layout.clusters {
        for index in 1..=w.layout.inodes_per_cluster {
            let address = w.layout.unit(cluster, index);
            let bytes = unit(&w.disk, address);
            if Header::of(&bytes).magic == format::MAGIC_INODE
                && Inode::of(&bytes).head.state.get() == 2
            {
                found = address;
            }
        }
    }
    found
}

#[test]
fn every_kind_of_damage_is_found_and_repaired_where_nothing_is_guessed() {
    let sound = world();
    let report = run(fsck(&sound.disk, Action::Check, |_, _| {})).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    assert_eq!((report.files, report.directories), (406, 3));
    assert!(ROWS.len() >= 40);
    let mut failures = Vec::new();
    for row in ROWS {
        let world = World {
            disk: sound.disk.copy(),
            layout: sound.layout.clone(),
            ..sound
        };
        (row.damage)(&world);
        let expected = (row.finds)(&world);
        let report = run(fsck(&world.disk, Action::Check, |_, _| {})).unwrap();
        if !report.findings.contains(&expected) {
            failures.push(format!(
                "{}: {:?} not in {:?}",
                row.name, expected, report.findings
            ));
            continue;
        }
        let repair = run(fsck(&world.disk, Action::Repair, |_, _| {})).unwrap();
        if repair.is_clean() != row.repaired {
            failures.push(format!("{}: after repair {:?}", row.name, repair.findings));
            continue;
        }
        if row.repaired && !content_is_whole(&world) {
            failures.push(format!("{}: content", row.name));
        }
        let again = run(fsck(&world.disk, Action::Check, |_, _| {})).unwrap();
        if again.findings != repair.findings {
            failures.push(format!(
                "{}: another look finds {:?}",
                row.name, again.findings
            ));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Tells whether all files of the world are there with their content, and new ones can be made.
fn content_is_whole(world: &World) -> bool {
    let mut volume = mount(&world.disk);
    for (name, size) in [
        ("inline", 1000),
        ("small", 30_000),
        ("other_small", 60_000),
        ("plain", 3_000_000),
        ("other_plain", 1_200_000),
    ] {
        let Ok(mut file) = volume.open_path(&format!("/vms/{name}")) else {
            return false;
        };
        if volume.get(&mut file, 0, size + 1) != pattern(size as u64, size) {
            return false;
        }
        volume.close(file);
    }
    let members = (0..400)
        .filter(|index| volume.find(&format!("/crowd/member-{index}")).is_ok())
        .count();
    let mut file = volume.make("new");
    let written = volume.put(&mut file, 0, &pattern(1, 200_000)).is_ok();
    volume.close(file);
    run(volume.unmount()).unwrap();
    let report = run(fsck(&world.disk, Action::Check, |_, _| {})).unwrap();
    members >= 399 && written && report.is_clean()
}

#[test]
fn a_repair_may_be_cut_anywhere_and_begun_again() {
    let sound = world();
    sound.smash(sound.layout.head(0), &[0, 1]);
    sound.smash(sound.layout.root, &[0, 1]);
    sound.edit_entry(sound.directory, sound.inline, |entry| entry.target.set(1));
    for stop in 0..60 {
        let disk = sound.disk.copy();
        disk.stop_after(stop);
        let cut = run(fsck(&disk, Action::Repair, |_, _| {}));
        let mut random = Random(stop);
        disk.lose_power(|_| random.below(2) == 0);
        let report = run(fsck(&disk, Action::Repair, |_, _| {})).unwrap();
        assert!(
            report.is_clean(),
            "stop {stop}, {cut:?}: {:?}",
            report.findings
        );
    }
}
