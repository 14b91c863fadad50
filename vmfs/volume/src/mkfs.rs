//! Making a volume on a device.
//!
//! The sizes of regions follow from the device's size unless told; whatever is not written here reads as anything and
//! is never read before it is written.

use api::block::{BlockDevice, BlockError, Buffer, Durability, Geometry};
use lock::{Area, Backend, Terms};
use thiserror::Error as ThisError;
use zerocopy::byteorder::little_endian::{U16, U32, U64};

use crate::disk::Disk;
use crate::format::{
    BLOCK_BYTES, Bytes, Cluster, FORMAT_VERSION, HEAD_UNIT, Inode, JournalHeader, KIND_DIRECTORY,
    LAYOUT_TREE, MAGIC_CLUSTER, MAGIC_INODE, MAGIC_SLOT, MAGIC_SUPERBLOCK, STATE_LIVE,
    SUPERBLOCK_A, SUPERBLOCK_B, SlotUnit, Superblock, UNIT_BYTES, UNITS_PER_BLOCK, blank, seal,
};
use crate::layout::{GLOBAL_LOCKS, Layout, LayoutFault, SLOTS_MAX, tag_of};

/// Bytes of a gibibyte.
const GIB: u64 = 1 << 30;

/// What a new volume shall be. Zero means: choose by the size of the device.
#[derive(Clone, Debug)]
pub struct MkfsOptions {
    /// Names the volume; unique in the world.
    pub uuid: [u8; 16],
    /// Key of the hash of names; random.
    pub hash_key: [u8; 16],
    /// A name for people, at most 64 bytes.
    pub label: alloc::string::String,
    /// Seconds since 1970.
    pub now: u64,
    /// Hosts that can mount at once.
    pub slots: u32,
    /// The atomic step of the locks.
    pub backend: Backend,
    /// Times of the locks; [`Terms::DEFAULT`] unless there is a reason.
    pub terms: Terms,
    /// Blocks of a host's journal.
    pub journal_blocks: u32,
    /// Blocks of a cluster.
    pub cluster_blocks: u32,
    /// Blocks of units of a cluster: 1 to 4.
    pub unit_blocks: u32,
}

impl MkfsOptions {
    /// Options that choose by size.
    #[must_use]
    pub fn new(uuid: [u8; 16], hash_key: [u8; 16]) -> Self {
        Self {
            uuid,
            hash_key,
            label: alloc::string::String::new(),
            now: 0,
            slots: 0,
            backend: Backend::CompareAndWrite,
            terms: Terms::DEFAULT,
            journal_blocks: 0,
            cluster_blocks: 0,
            unit_blocks: 0,
        }
    }
}

/// Why no volume was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
pub enum MkfsError {
    /// The device failed.
    #[error("the device failed: {0}")]
    Block(#[from] BlockError),
    /// The device is too small for these options.
    #[error("the device is too small")]
    TooSmall,
    /// An option is out of its range.
    #[error("the option {0} is out of its range")]
    Option(&'static str),
}

/// Makes a volume; `progress` is told how many clusters of how many are done.
///
/// # Errors
/// The device's, or options that do not fit it.
pub async fn mkfs<D: BlockDevice>(
    device: &D,
    options: &MkfsOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<Layout, MkfsError> {
    let (superblock, layout) = plan(&device.geometry(), options)?;
    let disk = Disk::new(device);
    // The old volume, if any, ends first; the superblock comes last: a half-made volume is none.
    disk.zero(SUPERBLOCK_A, UNIT_BYTES).await?;
    disk.zero(SUPERBLOCK_B, UNIT_BYTES).await?;
    disk.flush().await?;
    write_host_region(&disk, &layout).await?;
    for cluster in 0..layout.clusters {
        write_cluster(&disk, &layout, cluster).await?;
        progress(cluster.saturating_add(1), layout.clusters);
    }
    write_root(&disk, &layout, options.now).await?;
    disk.flush().await?;
    for at in [SUPERBLOCK_A, SUPERBLOCK_B] {
        write(&disk, at, &superblock).await?;
    }
    disk.flush().await?;
    Ok(layout)
}

/// Chooses all sizes.
fn plan(geometry: &Geometry, options: &MkfsOptions) -> Result<(Bytes, Layout), MkfsError> {
    let bytes = geometry.bytes();
    let sizes = Sizes::choose(geometry, options);
    let mut image = blank(
        MAGIC_SUPERBLOCK,
        SUPERBLOCK_A / UNIT_BYTES,
        tag_of(&options.uuid),
    );
    let superblock = Superblock::of_mut(&mut image);
    superblock.format = U32::new(FORMAT_VERSION);
    superblock.uuid = options.uuid;
    superblock.hash_key = options.hash_key;
    superblock.created = U64::new(options.now);
    superblock.lease_ms = U32::new(options.terms.lease_ms);
    superblock.reclaim_ms = U32::new(options.terms.reclaim_ms);
    superblock.beat_ms = U32::new(options.terms.beat_ms);
    superblock.margin_ms = U32::new(options.terms.margin_ms);
    superblock.lock_backend = U32::new(match options.backend {
        Backend::CompareAndWrite => 1,
        Backend::Paxos => 2,
        Backend::Local => 3,
    });
    let label = superblock
        .label
        .get_mut(..options.label.len())
        .ok_or(MkfsError::Option("label"))?;
    label.copy_from_slice(options.label.as_bytes());
    sizes.store(superblock, geometry.logical_block);
    let first = superblock.first_cluster.get();
    let room = (bytes / BLOCK_BYTES)
        .checked_sub(first)
        .ok_or(MkfsError::TooSmall)?;
    let clusters = room
        .checked_div(u64::from(sizes.cluster_blocks))
        .unwrap_or(0);
    if clusters == 0 {
        return Err(MkfsError::TooSmall);
    }
    superblock.clusters = U64::new(clusters);
    superblock.member_count = U32::new(1);
    if let Some(member) = superblock.members.first_mut() {
        member.uuid = options.uuid;
        member.blocks = U64::new(
            clusters
                .saturating_mul(u64::from(sizes.cluster_blocks))
                .saturating_add(first),
        );
    }
    let root = first
        .saturating_add(u64::from(sizes.lock_blocks))
        .saturating_mul(UNITS_PER_BLOCK)
        .saturating_add(1);
    superblock.root = U64::new(root);
    seal(&mut image);
    let layout = Layout::read(&image, bytes).map_err(|fault| match fault {
        LayoutFault::Number(name) => MkfsError::Option(name),
        _ => MkfsError::TooSmall,
    })?;
    Ok((image, layout))
}

/// The sizes that options or the device's size decide.
struct Sizes {
    slots: u32,
    lock_bytes: u32,
    slot_bytes: u32,
    journal_blocks: u32,
    cluster_blocks: u32,
    unit_blocks: u32,
    lock_blocks: u32,
}

impl Sizes {
    fn choose(geometry: &Geometry, options: &MkfsOptions) -> Self {
        let bytes = geometry.bytes();
        let or = |given: u32, chosen: u32| if given == 0 { chosen } else { given };
        let slots = match bytes / GIB {
            0 => 4,
            1..4 => 8,
            4..64 => 16,
            _ => SLOTS_MAX,
        };
        // Journals together take a part in 2048 of the volume, within 1 to 16 MiB each.
        let slots = or(options.slots, slots);
        let share = (bytes / BLOCK_BYTES / 2048)
            .checked_div(u64::from(slots))
            .unwrap_or(1);
        let journal = u32::try_from(share.clamp(1, 16)).unwrap_or(1);
        // About 256 clusters, so that hosts find one of their own; at most 8 GiB each.
        let share = (bytes / BLOCK_BYTES / 256).clamp(32, 8192);
        let cluster = u32::try_from(prev_power_of_two(share)).unwrap_or(32);
        let cluster_blocks = or(options.cluster_blocks, cluster);
        let area = Area {
            slots_lba: 0,
            slots: u16::try_from(slots).unwrap_or(u16::MAX),
            slot_stride: 0,
            backend: options.backend,
            terms: options.terms,
        };
        let lock_bytes = area.cell_blocks().saturating_mul(geometry.logical_block);
        let slot_bytes = area.slot_blocks().saturating_mul(geometry.logical_block);
        // Lock areas take a part in 2048 of the cluster; those of a sector each need less.
        let small = u64::from(lock_bytes).saturating_mul(256) <= BLOCK_BYTES;
        Self {
            slots,
            lock_bytes,
            slot_bytes: slot_bytes.next_multiple_of(4096),
            journal_blocks: or(options.journal_blocks, journal),
            cluster_blocks,
            unit_blocks: or(
                options.unit_blocks,
                if cluster_blocks >= 4096 { 2 } else { 1 },
            ),
            lock_blocks: if small {
                1
            } else {
                (cluster_blocks / 2048).max(1)
            },
        }
    }

    /// Puts sizes and the regions that follow from them into a superblock.
    fn store(&self, superblock: &mut Superblock, logical_block: u32) {
        let slots = u64::from(self.slots);
        let lock_bytes = u64::from(self.lock_bytes.max(1));
        let heartbeat = BLOCK_BYTES.saturating_mul(2);
        let slots_bytes = slots.saturating_mul(u64::from(self.slot_bytes));
        let locks = heartbeat.saturating_add(slots_bytes);
        let slot_units = locks
            .saturating_add(lock_bytes.saturating_mul(GLOBAL_LOCKS))
            .div_ceil(UNIT_BYTES);
        let units_end = slot_units.saturating_add(slots.saturating_mul(2));
        let journals = units_end.div_ceil(UNITS_PER_BLOCK);
        let journal_blocks = slots.saturating_mul(u64::from(self.journal_blocks));
        let areas = u64::from(self.lock_blocks)
            .saturating_mul(BLOCK_BYTES)
            .checked_div(lock_bytes)
            .unwrap_or(0);
        let units = u64::from(self.unit_blocks).saturating_mul(UNITS_PER_BLOCK);
        let inodes = areas.min(units).saturating_sub(1);
        superblock.logical_block = U32::new(logical_block);
        superblock.slots = U32::new(self.slots);
        superblock.heartbeat = U64::new(heartbeat);
        superblock.locks = U64::new(locks);
        superblock.lock_bytes = U32::new(self.lock_bytes);
        superblock.slot_bytes = U32::new(self.slot_bytes);
        superblock.slot_units = U64::new(slot_units);
        superblock.journals = U64::new(journals);
        superblock.journal_blocks = U32::new(self.journal_blocks);
        superblock.cluster_blocks = U32::new(self.cluster_blocks);
        superblock.unit_blocks = U32::new(self.unit_blocks);
        superblock.lock_blocks = U32::new(self.lock_blocks);
        superblock.inodes_per_cluster = U32::new(u32::try_from(inodes).unwrap_or(0));
        superblock.first_cluster = U64::new(journals.saturating_add(journal_blocks));
    }
}

fn prev_power_of_two(value: u64) -> u64 {
    1 << (63_u32.saturating_sub(value.max(1).leading_zeros()))
}

/// Writes heartbeat slots and locks as free, slot units and journals as empty.
async fn write_host_region<D: BlockDevice>(
    disk: &Disk<D>,
    layout: &Layout,
) -> Result<(), BlockError> {
    let locks_end = layout.global_lock(GLOBAL_LOCKS);
    disk.zero(layout.heartbeat, locks_end.saturating_sub(layout.heartbeat))
        .await?;
    for slot in 0..layout.slots {
        let slot = u16::try_from(slot).unwrap_or(u16::MAX);
        write_unit(
            disk,
            layout,
            &slot_unit(layout, slot),
            layout.slot_unit(slot),
        )
        .await?;
        let header = JournalHeader::new(layout.tag, slot, 0, 1);
        let mut unit = [0; crate::format::UNIT];
        if let Some(target) = unit.first_chunk_mut::<64>() {
            *target = zerocopy::transmute!(header);
        }
        write(disk, layout.journal(slot), &unit).await?;
    }
    Ok(())
}

/// Makes the unit of a slot without anything pending.
pub(crate) fn slot_unit(layout: &Layout, slot: u16) -> Bytes {
    let mut unit = blank(MAGIC_SLOT, layout.slot_unit(slot), layout.tag);
    SlotUnit::of_mut(&mut unit).slot = U32::new(u32::from(slot));
    seal(&mut unit);
    unit
}

/// Writes locks and head of an empty cluster.
pub(crate) async fn write_cluster<D: BlockDevice>(
    disk: &Disk<D>,
    layout: &Layout,
    cluster: u64,
) -> Result<(), BlockError> {
    let areas = u64::from(layout.inodes_per_cluster).saturating_add(1);
    let locks = layout.cluster_start(cluster).saturating_mul(BLOCK_BYTES);
    disk.zero(locks, areas.saturating_mul(layout.lock_bytes))
        .await?;
    write_unit(
        disk,
        layout,
        &empty_head(layout, cluster),
        layout.head(cluster),
    )
    .await
}

/// Makes the head of an empty cluster; the first one holds the root directory's inode.
pub(crate) fn empty_head(layout: &Layout, cluster: u64) -> Bytes {
    let mut unit = blank(MAGIC_CLUSTER, layout.head(cluster), layout.tag);
    let head = Cluster::of_mut(&mut unit);
    head.head.index = U64::new(cluster);
    let mut units = 0_u32;
    let in_use = if cluster == 0 { 2 } else { 1 };
    for index in HEAD_UNIT..in_use {
        set_bit(&mut head.units, u64::from(index));
        units = units.saturating_add(1);
    }
    for block in (0..layout.data_start()).chain(layout.data_end()..layout.cluster_blocks) {
        set_bit(&mut head.blocks, block);
    }
    let data = layout.data_end().saturating_sub(layout.data_start());
    head.head.free_blocks = U32::new(u32::try_from(data).unwrap_or(0));
    let all = u32::try_from(layout.units_per_cluster()).unwrap_or(0);
    head.head.free_units = U32::new(all.saturating_sub(units));
    seal(&mut unit);
    unit
}

fn set_bit(bits: &mut [u8], index: u64) {
    let byte = usize::try_from(index / 8).unwrap_or(usize::MAX);
    if let Some(byte) = bits.get_mut(byte) {
        *byte |= 1 << (index % 8);
    }
}

async fn write_root<D: BlockDevice>(
    disk: &Disk<D>,
    layout: &Layout,
    now: u64,
) -> Result<(), BlockError> {
    let mut unit = blank(MAGIC_INODE, layout.root, layout.tag);
    let inode = Inode::of_mut(&mut unit);
    inode.head.state = U16::new(STATE_LIVE);
    inode.head.kind = U16::new(KIND_DIRECTORY);
    inode.head.layout = U16::new(LAYOUT_TREE);
    inode.head.generation = U64::new(1);
    inode.head.parent = U64::new(layout.root);
    inode.head.created = U64::new(now);
    inode.head.modified = U64::new(now);
    seal(&mut unit);
    write_unit(disk, layout, &unit, layout.root).await
}

/// Writes both copies of a unit.
pub(crate) async fn write_unit<D: BlockDevice>(
    disk: &Disk<D>,
    layout: &Layout,
    unit: &Bytes,
    address: u64,
) -> Result<(), BlockError> {
    write(disk, address.saturating_mul(UNIT_BYTES), unit).await?;
    let mirror = layout.mirror(address).ok_or(BlockError::Invalid)?;
    write(disk, mirror.saturating_mul(UNIT_BYTES), unit).await
}

pub(crate) async fn write<D: BlockDevice>(
    disk: &Disk<D>,
    at: u64,
    unit: &Bytes,
) -> Result<(), BlockError> {
    let (_, result) = disk
        .write(at, Buffer::copied_from(unit), Durability::Cached)
        .await;
    result
}
