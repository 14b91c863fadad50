//! Damage to superblocks, journals, slots and the clusters' maps, and what a check says of each.

use super::{Row, World, deleting_inode, row, unit};
use crate::Finding;
use crate::format::{
    self, Cluster, Header, JournalHeader, Node, SUPERBLOCK_A, SUPERBLOCK_B, SlotUnit, Superblock,
    UNIT, UNIT_BYTES,
};
use crate::record::Draft;

pub(super) const ROWS: &[Row] = &[
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
];

/// A transaction that is whole and names the journal itself.
fn plant_transaction(w: &World) {
    let address = w.layout.journals * 256 + 9;
    let image = format::blank(format::MAGIC_NODE, address, w.layout.tag);
    let mut draft = Draft::new();
    draft.add(address, None, &image);
    let bytes = draft.finish(w.layout.tag, 3, 1);
    w.disk.poke(w.layout.journal(3) + UNIT_BYTES, &bytes);
}
