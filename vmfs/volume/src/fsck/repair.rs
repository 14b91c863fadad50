//! Repairs, each of which follows from what was found without a guess.
//!
//! Copies of units and superblocks were made good on the way. Here: locks that are none are free, what was being deleted
//! goes, trees of damaged directories are emptied, counts and maps become what was found, and inodes that their
//! directory does not name are put back under the name that they carry. Everything may be interrupted and begun anew.

use alloc::string::String;
use alloc::vec::Vec;

use api::block::BlockDevice;
use api::time::{Clock, HostInstant};
use zerocopy::byteorder::little_endian::{U16, U32, U64};

use super::{Action, Checker, Finding};
use crate::bits;
use crate::directory::{FileId, Kind};
use crate::disk::Disk;
use crate::error::Error;
use crate::format::{
    Bytes, Carved, Cluster, Entry, Header, Inode, KIND_DIRECTORY, LAYOUT_TREE, MAGIC_CLUSTER,
    MAGIC_INODE, MAGIC_SLOT, STATE_LIVE, SlotUnit, blank, seal,
};
use crate::layout::Layout;
use crate::locks::{LocalLocks, LockMode};
use crate::mkfs;
use crate::volume::{Settings, Volume, operate};

/// Repairs what a check has found.
pub(super) async fn repair<D: BlockDevice>(checker: Checker<'_, D>) -> Result<(), Error> {
    let (disk, layout) = (checker.disk, checker.layout);
    let findings = checker.report.findings.clone();
    if findings
        .iter()
        .any(|finding| matches!(finding, Finding::JournalImage { .. }))
    {
        // What that host committed is not known; nothing may be changed under it.
        return Ok(());
    }
    for finding in &findings {
        repair_unit(disk, layout, finding).await?;
    }
    forget_pending(disk, layout, &findings).await?;
    for directory in &checker.rebuild {
        empty_directory(disk, layout, *directory).await?;
    }
    disk.flush().await?;
    repair_heads(disk, layout, &findings).await?;
    put_back(disk, layout).await
}

/// Repairs what one unit or lock needs by itself.
async fn repair_unit<D: BlockDevice>(
    disk: &Disk<&D>,
    layout: &Layout,
    finding: &Finding,
) -> Result<(), Error> {
    match *finding {
        Finding::LockDamaged { address } => {
            // No host has the volume mounted, so nobody has this lock.
            if let Some(at) = layout.lock_area(address) {
                disk.zero(at, layout.lock_bytes).await?;
            }
        }
        Finding::SlotUnit { slot } => {
            // What it listed is found again by the inodes' state.
            let unit = mkfs::slot_unit(layout, slot);
            mkfs::write_unit(disk, layout, &unit, layout.slot_unit(slot)).await?;
        }
        Finding::RootLost => {
            let mut look = Checker::new(disk, layout, Action::Check);
            look.check(&mut |_, _| {}).await?;
            let root = blank_root(layout, look.newest);
            mkfs::write_unit(disk, layout, &root, layout.root).await?;
        }
        _ => {}
    }
    Ok(())
}

fn blank_root(layout: &Layout, newest: u64) -> Bytes {
    let mut bytes = blank(MAGIC_INODE, layout.root, layout.tag);
    let inode = Inode::of_mut(&mut bytes);
    inode.head.state = U16::new(STATE_LIVE);
    inode.head.kind = U16::new(KIND_DIRECTORY);
    inode.head.layout = U16::new(LAYOUT_TREE);
    inode.head.generation = U64::new(1);
    inode.head.parent = U64::new(layout.root);
    inode.header.version = U64::new(newest.saturating_add(1));
    seal(&mut bytes);
    bytes
}

/// Changes a unit in place, both copies.
async fn change<D: BlockDevice>(
    disk: &Disk<&D>,
    layout: &Layout,
    address: u64,
    magic: [u8; 4],
    edit: impl FnOnce(&mut Bytes),
) -> Result<(), Error> {
    let mut bytes = crate::volume::read_copies(disk, layout, address, Some(magic)).await?;
    edit(&mut bytes);
    let header = Header::of_mut(&mut bytes);
    header.version.set(header.version.get().saturating_add(1));
    seal(&mut bytes);
    Ok(mkfs::write_unit(disk, layout, &bytes, address).await?)
}

/// Ends deletions that nobody goes on with, and takes stale ones off the slots' lists.
async fn forget_pending<D: BlockDevice>(
    disk: &Disk<&D>,
    layout: &Layout,
    findings: &[Finding],
) -> Result<(), Error> {
    for finding in findings {
        match *finding {
            // Free by its own state: the heads follow from that.
            Finding::DeletingForgotten { inode } => {
                change(disk, layout, inode, MAGIC_INODE, |bytes| {
                    Inode::of_mut(bytes).head.state = U16::new(0);
                })
                .await?;
            }
            Finding::PendingStale { slot, inode } => {
                let address = layout.slot_unit(slot);
                change(disk, layout, address, MAGIC_SLOT, |bytes| {
                    drop_pending(SlotUnit::of_mut(bytes), inode);
                })
                .await?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn drop_pending(unit: &mut SlotUnit, inode: u64) {
    let count = usize::try_from(unit.count.get()).unwrap_or(0);
    let kept: Vec<U64> = unit
        .pending
        .iter()
        .take(count)
        .filter(|pending| pending.get() != inode)
        .copied()
        .collect();
    unit.pending = [U64::new(0); crate::format::PENDING_MAX];
    for (slot, inode) in unit.pending.iter_mut().zip(&kept) {
        *slot = *inode;
    }
    unit.count = U32::new(u32::try_from(kept.len()).unwrap_or(0));
}

async fn empty_directory<D: BlockDevice>(
    disk: &Disk<&D>,
    layout: &Layout,
    directory: u64,
) -> Result<(), Error> {
    change(disk, layout, directory, MAGIC_INODE, |bytes| {
        let inode = Inode::of_mut(bytes);
        inode.root = core::array::from_fn(|_| Entry::new(0, 0, 0));
        inode.head.entries = U16::new(0);
        inode.head.level = U16::new(0);
        inode.head.size = U64::new(0);
        inode.head.nodes = U64::new(0);
    })
    .await
}

/// Looks again with what was repaired, corrects inodes' counts, and makes every head what was found.
async fn repair_heads<D: BlockDevice>(
    disk: &Disk<&D>,
    layout: &Layout,
    findings: &[Finding],
) -> Result<(), Error> {
    correct_counts(disk, layout, findings).await?;
    let mut look = Checker::new(disk, layout, Action::Check);
    look.check(&mut |_, _| {}).await?;
    let shared = look.report.findings.iter().any(|finding| {
        matches!(
            finding,
            Finding::BlockShared { .. }
                | Finding::SubBlockShared { .. }
                | Finding::NodeShared { .. }
        )
    });
    let careful = look.blind || shared;
    for cluster in 0..layout.clusters {
        let address = layout.head(cluster);
        let mut expected = look.expected_head(cluster);
        let found = look.unit(address, Some(MAGIC_CLUSTER)).await?;
        if careful {
            let found = found.as_deref().map(Cluster::of);
            keep_marks(layout, Cluster::of_mut(&mut expected), found);
        }
        if found.is_some_and(|found| same_maps(Cluster::of(&found), Cluster::of(&expected))) {
            continue;
        }
        Header::of_mut(&mut expected).version = U64::new(look.newest.saturating_add(1));
        seal(&mut expected);
        mkfs::write_unit(disk, layout, &expected, address).await?;
    }
    Ok(disk.flush().await?)
}

/// Frees nothing that a head marks as used; a head that is lost may have marked everything.
fn keep_marks(layout: &Layout, expected: &mut Cluster, found: Option<&Cluster>) {
    match found {
        Some(found) => {
            let maps = expected.units.iter_mut().zip(&found.units);
            for (bits, kept) in maps.chain(expected.blocks.iter_mut().zip(&found.blocks)) {
                *bits |= kept;
            }
            keep_carved(expected, found);
        }
        None => {
            expected.units = [0xff; 128];
            expected.blocks = [0xff; 1024];
        }
    }
    let free = |bits: &[u8], end: u64| {
        let count = (0..end).filter(|index| !bits::get(bits, *index)).count();
        U32::new(u32::try_from(count).unwrap_or(0))
    };
    expected.head.free_blocks = free(&expected.blocks, layout.cluster_blocks);
    expected.head.free_units = free(&expected.units, layout.units_per_cluster());
}

/// Keeps marks of sub-blocks of blocks that are known to be carved.
fn keep_carved(expected: &mut Cluster, found: &Cluster) {
    for kept in found.carved.iter().filter(|kept| kept.used.get() != 0) {
        let same = |entry: &&mut Carved| entry.block == kept.block || entry.used.get() == 0;
        if let Some(entry) = expected.carved.iter_mut().find(same) {
            entry.block = kept.block;
            entry.used = U16::new(entry.used.get() | kept.used.get());
        }
    }
}

/// Tells whether two heads say the same, whatever the order of carved blocks.
fn same_maps(a: &Cluster, b: &Cluster) -> bool {
    let carved = |head: &Cluster| -> Vec<(u16, u16)> {
        let pairs = head.carved.iter();
        let mut pairs: Vec<(u16, u16)> = pairs
            .map(|carved| (carved.block.get(), carved.used.get()))
            .filter(|pair| *pair != (0, 0))
            .collect();
        pairs.sort_unstable();
        pairs
    };
    let counts = |head: &Cluster| (head.head.free_blocks.get(), head.head.free_units.get());
    a.units == b.units
        && a.blocks == b.blocks
        && carved(a) == carved(b)
        && counts(a) == counts(b)
        && a.head.index.get() == b.head.index.get()
}

async fn correct_counts<D: BlockDevice>(
    disk: &Disk<&D>,
    layout: &Layout,
    findings: &[Finding],
) -> Result<(), Error> {
    for finding in findings {
        let inode = match *finding {
            Finding::BlocksCount { inode } | Finding::NodesCount { inode } => inode,
            Finding::DirectorySize { directory } => directory,
            _ => continue,
        };
        let mut look = Checker::new(disk, layout, Action::Check);
        if let Some(counts) = look.count_tree(inode).await? {
            change(disk, layout, inode, MAGIC_INODE, |bytes| {
                let head = &mut Inode::of_mut(bytes).head;
                head.nodes = U64::new(counts.nodes);
                if head.kind.get() == KIND_DIRECTORY {
                    head.size = U64::new(counts.entries);
                } else {
                    head.blocks = U64::new(counts.blocks);
                }
            })
            .await?;
        }
    }
    Ok(())
}

/// A clock for a volume that nobody shares: nothing waits for anybody.
struct NoClock;

impl Clock for NoClock {
    fn now(&self) -> HostInstant {
        HostInstant::default()
    }

    async fn sleep_until(&self, _deadline: HostInstant) {}
}

/// Puts inodes that no directory names back into the one that they say they are in, if that is there and has nothing of
/// that name.
async fn put_back<D: BlockDevice>(disk: &Disk<&D>, layout: &Layout) -> Result<(), Error> {
    let mut look = Checker::new(disk, layout, Action::Check);
    look.check(&mut |_, _| {}).await?;
    let orphans: Vec<u64> = look
        .report
        .findings
        .iter()
        .filter_map(|finding| match finding {
            Finding::Orphan { inode } => Some(*inode),
            _ => None,
        })
        .collect();
    if orphans.is_empty() {
        return Ok(());
    }
    let device: &D = disk.device();
    let mut volume: Volume<(&D, LocalLocks, NoClock)> = Volume::attach(
        device,
        layout.clone(),
        LocalLocks::default(),
        NoClock,
        Settings::default(),
    )
    .await?;
    for inode in orphans {
        let Some(known) = look.inodes.get(&inode) else {
            continue;
        };
        let parent_is_directory = look
            .inodes
            .get(&known.parent)
            .is_some_and(|parent| parent.kind == KIND_DIRECTORY && !parent.deleting);
        let (Ok(name), Some(kind), true) = (
            String::from_utf8(known.name.clone()),
            Kind::of(known.kind),
            parent_is_directory,
        ) else {
            continue;
        };
        volume.put_back(known.parent, &name, kind, inode).await?;
    }
    volume.unmount().await?;
    Ok(())
}

impl<H: crate::volume::Host> Volume<H> {
    /// Adds an entry for an inode that has lost it; a name that is taken stays as it is.
    async fn put_back(
        &mut self,
        parent: u64,
        name: &str,
        kind: Kind,
        inode: u64,
    ) -> Result<(), Error> {
        operate!(self, |volume| {
            let bytes = volume.peek(parent, MAGIC_INODE).await?;
            let directory = FileId {
                inode: parent,
                generation: Inode::of(&bytes).head.generation.get(),
            };
            volume
                .lock_directory(directory, LockMode::Exclusive)
                .await?;
            if volume.find_name(directory, name).await?.is_some() {
                return Ok(());
            }
            volume.add_name(directory, name, kind, inode).await
        })
    }
}
