//! Where things stand on a volume: the superblock's numbers, checked once, and the arithmetic over them.
//!
//! [`Layout::read`] proves that every region lies inside the volume and that no sum here can overflow; so the rest of
//! the crate may compute addresses. It reads nothing and knows no content.

use api::block::Geometry;

use crate::format::{
    self, BLOCK_BYTES, Bytes, CLUSTER_BLOCKS_MAX, FEATURES_KNOWN, FORMAT_VERSION, HEAD_UNIT,
    MAGIC_SUPERBLOCK, MEMBERS_MAX, SUB_BLOCKS_PER_BLOCK, SUPERBLOCK_A, Superblock, UNIT_BYTES,
    UNITS_MAX, UNITS_PER_BLOCK, UnitFault,
};

/// Most hosts of a volume.
pub(crate) const SLOTS_MAX: u32 = 64;
/// Most clusters of a volume: 2^24 clusters of 16 blocks and more.
pub(crate) const CLUSTERS_MAX: u64 = 1 << 24;
/// Fewest blocks of a cluster.
pub(crate) const CLUSTER_BLOCKS_MIN: u32 = 16;
/// Most blocks of a host's journal.
pub(crate) const JOURNAL_BLOCKS_MAX: u32 = 256;
/// Most bytes of a lock area.
pub(crate) const LOCK_BYTES_MAX: u64 = 2 << 20;
/// Number of global lock areas.
pub(crate) const GLOBAL_LOCKS: u64 = 2;

/// Why a superblock is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutFault {
    /// It is not a superblock, or a damaged one.
    Unit(UnitFault),
    /// It needs a newer version of this code.
    Features,
    /// A number is out of its range, or regions overlap; the text names the field.
    Number(&'static str),
    /// The device is smaller than the volume.
    Device,
}

/// The numbers of a superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// UUID of the volume.
    pub uuid: [u8; 16],
    /// Its first eight bytes, as units carry it.
    pub tag: u64,
    /// Key of the hash of names.
    pub hash_key: [u8; 16],
    /// Bytes of a device's logical block.
    pub logical_block: u32,
    /// Hosts that can mount at once.
    pub slots: u32,
    /// Lease in milliseconds.
    pub lease_ms: u32,
    /// Wait beyond the lease in milliseconds.
    pub reclaim_ms: u32,
    /// Milliseconds between two heartbeats.
    pub beat_ms: u32,
    /// Milliseconds before the end of its lease when a host stops writing.
    pub margin_ms: u32,
    /// Byte address of the heartbeat slots.
    pub heartbeat: u64,
    /// Bytes of a heartbeat slot.
    pub slot_bytes: u64,
    /// Byte address of the global lock areas.
    pub locks: u64,
    /// Bytes of a lock area.
    pub lock_bytes: u64,
    /// The atomic step of the locks, as the superblock numbers it.
    pub lock_backend: u32,
    /// Address of slot 0's unit.
    pub slot_units: u64,
    /// First block of slot 0's journal.
    pub journals: u64,
    /// Blocks of a journal.
    pub journal_blocks: u64,
    /// Blocks of a cluster.
    pub cluster_blocks: u64,
    /// Blocks of units, at the start of a cluster and again at its end.
    pub unit_blocks: u64,
    /// Blocks of lock areas of a cluster.
    pub lock_blocks: u64,
    /// Units 1 to this may be inodes.
    pub inodes_per_cluster: u32,
    /// First block of cluster 0.
    pub first_cluster: u64,
    /// Number of clusters.
    pub clusters: u64,
    /// Inode of the root directory.
    pub root: u64,
}

impl Layout {
    /// Reads and checks a superblock of a device of `device_bytes`.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(bytes: &Bytes, device_bytes: u64) -> Result<Self, LayoutFault> {
        let superblock = Superblock::of(bytes);
        let tag = tag_of(&superblock.uuid);
        format::check(
            bytes,
            Some(MAGIC_SUPERBLOCK),
            SUPERBLOCK_A / UNIT_BYTES,
            tag,
        )
        .map_err(LayoutFault::Unit)?;
        let unknown =
            (superblock.incompatible.get() | superblock.read_only.get()) & !FEATURES_KNOWN;
        if superblock.format.get() != FORMAT_VERSION || unknown != 0 {
            return Err(LayoutFault::Features);
        }
        let layout = Self::of_superblock(superblock, tag);
        layout.check_numbers(superblock)?;
        layout.check_regions()?;
        // A volume of several members is larger than the member that the superblock stands on; the wrapper that joins
        // members reports the sum.
        if superblock.member_count.get() == 1 && layout.end_block() > device_bytes / BLOCK_BYTES {
            return Err(LayoutFault::Device);
        }
        Ok(layout)
    }

    fn of_superblock(superblock: &Superblock, tag: u64) -> Self {
        Self {
            uuid: superblock.uuid,
            tag,
            hash_key: superblock.hash_key,
            logical_block: superblock.logical_block.get(),
            slots: superblock.slots.get(),
            lease_ms: superblock.lease_ms.get(),
            reclaim_ms: superblock.reclaim_ms.get(),
            beat_ms: superblock.beat_ms.get(),
            margin_ms: superblock.margin_ms.get(),
            heartbeat: superblock.heartbeat.get(),
            slot_bytes: u64::from(superblock.slot_bytes.get()),
            locks: superblock.locks.get(),
            lock_bytes: u64::from(superblock.lock_bytes.get()),
            lock_backend: superblock.lock_backend.get(),
            slot_units: superblock.slot_units.get(),
            journals: superblock.journals.get(),
            journal_blocks: u64::from(superblock.journal_blocks.get()),
            cluster_blocks: u64::from(superblock.cluster_blocks.get()),
            unit_blocks: u64::from(superblock.unit_blocks.get()),
            lock_blocks: u64::from(superblock.lock_blocks.get()),
            inodes_per_cluster: superblock.inodes_per_cluster.get(),
            first_cluster: superblock.first_cluster.get(),
            clusters: superblock.clusters.get(),
            root: superblock.root.get(),
        }
    }

    fn check_numbers(&self, superblock: &Superblock) -> Result<(), LayoutFault> {
        let members = superblock.member_count.get();
        let units = self.unit_blocks.saturating_mul(UNITS_PER_BLOCK);
        let lock_room = self.lock_blocks.saturating_mul(BLOCK_BYTES);
        let lock_areas = u64::from(self.inodes_per_cluster).saturating_add(1);
        let used = self
            .unit_blocks
            .saturating_mul(2)
            .saturating_add(self.lock_blocks);
        let rules = [
            ("logical_block", matches!(self.logical_block, 512 | 4096)),
            ("slots", (1..=SLOTS_MAX).contains(&self.slots)),
            ("lock_bytes", self.is_whole(self.lock_bytes)),
            ("slot_bytes", self.is_whole(self.slot_bytes)),
            (
                "cluster_blocks",
                (u64::from(CLUSTER_BLOCKS_MIN)..=u64::from(CLUSTER_BLOCKS_MAX))
                    .contains(&self.cluster_blocks),
            ),
            (
                "unit_blocks",
                self.unit_blocks >= 1 && units <= u64::from(UNITS_MAX),
            ),
            (
                "lock_blocks",
                used < self.cluster_blocks
                    && lock_areas.saturating_mul(self.lock_bytes) <= lock_room,
            ),
            (
                "inodes_per_cluster",
                self.inodes_per_cluster >= 1 && u64::from(self.inodes_per_cluster) < units,
            ),
            (
                "journal_blocks",
                (1..=u64::from(JOURNAL_BLOCKS_MAX)).contains(&self.journal_blocks),
            ),
            ("clusters", (1..=CLUSTERS_MAX).contains(&self.clusters)),
            (
                "member_count",
                members >= 1 && usize::try_from(members).is_ok_and(|count| count <= MEMBERS_MAX),
            ),
            ("first_cluster", self.first_cluster < 1 << 24),
        ];
        match rules.iter().find(|(_, good)| !good) {
            Some((name, _)) => Err(LayoutFault::Number(name)),
            None => Ok(()),
        }
    }

    /// Tells whether a number of bytes can be that of a lock area or heartbeat slot.
    fn is_whole(&self, bytes: u64) -> bool {
        let sector = u64::from(self.logical_block);
        (sector..=LOCK_BYTES_MAX).contains(&bytes) && bytes.checked_rem(sector) == Some(0)
    }

    /// Checks that the regions before cluster 0 lie there, one behind the other.
    fn check_regions(&self) -> Result<(), LayoutFault> {
        let slots = u64::from(self.slots);
        let journals = slots.saturating_mul(self.journal_blocks);
        let regions = [
            (self.heartbeat, slots.saturating_mul(self.slot_bytes)),
            (self.locks, self.lock_bytes.saturating_mul(GLOBAL_LOCKS)),
            (
                self.slot_units.saturating_mul(UNIT_BYTES),
                slots.saturating_mul(UNIT_BYTES.saturating_mul(2)),
            ),
            (
                self.journals.saturating_mul(BLOCK_BYTES),
                journals.saturating_mul(BLOCK_BYTES),
            ),
        ];
        let mut free_from = BLOCK_BYTES.saturating_mul(2);
        for (start, len) in regions {
            if start < free_from || start.checked_rem(u64::from(self.logical_block)) != Some(0) {
                return Err(LayoutFault::Number("regions"));
            }
            free_from = start.saturating_add(len);
        }
        if free_from > self.first_cluster.saturating_mul(BLOCK_BYTES) {
            return Err(LayoutFault::Number("first_cluster"));
        }
        if self.root != self.unit(0, 1) {
            return Err(LayoutFault::Number("root"));
        }
        Ok(())
    }

    /// Returns the block behind the last cluster.
    #[must_use]
    pub const fn end_block(&self) -> u64 {
        self.first_cluster
            .saturating_add(self.clusters.saturating_mul(self.cluster_blocks))
    }

    /// Returns the first block of a cluster.
    #[must_use]
    pub const fn cluster_start(&self, cluster: u64) -> u64 {
        self.first_cluster
            .saturating_add(cluster.saturating_mul(self.cluster_blocks))
    }

    /// Returns the number of units of a cluster.
    #[must_use]
    pub const fn units_per_cluster(&self) -> u64 {
        self.unit_blocks.saturating_mul(UNITS_PER_BLOCK)
    }

    /// Returns the address of unit `index` of a cluster.
    #[must_use]
    pub const fn unit(&self, cluster: u64, index: u32) -> u64 {
        self.cluster_start(cluster)
            .saturating_add(self.lock_blocks)
            .saturating_mul(UNITS_PER_BLOCK)
            .saturating_add(index as u64)
    }

    /// Returns the address of a cluster's head.
    #[must_use]
    pub const fn head(&self, cluster: u64) -> u64 {
        self.unit(cluster, HEAD_UNIT)
    }

    /// Returns cluster and index of the unit at an address, `None` if no unit of a cluster can stand there.
    #[must_use]
    pub fn locate(&self, address: u64) -> Option<(u64, u32)> {
        let cluster = self.cluster_of(address.checked_div(UNITS_PER_BLOCK)?)?;
        let index = address.checked_sub(self.head(cluster))?;
        if index >= self.units_per_cluster() {
            return None;
        }
        Some((cluster, u32::try_from(index).ok()?))
    }

    /// Tells whether an inode can stand at an address.
    #[must_use]
    pub fn is_inode(&self, address: u64) -> bool {
        self.locate(address)
            .is_some_and(|(_, index)| (1..=self.inodes_per_cluster).contains(&index))
    }

    /// Returns the cluster of a block.
    #[must_use]
    pub fn cluster_of(&self, block: u64) -> Option<u64> {
        let cluster = block
            .checked_sub(self.first_cluster)?
            .checked_div(self.cluster_blocks)?;
        (cluster < self.clusters).then_some(cluster)
    }

    /// Returns the first data block of a cluster, counted from its start.
    #[must_use]
    pub const fn data_start(&self) -> u64 {
        self.lock_blocks.saturating_add(self.unit_blocks)
    }

    /// Returns the block behind the last data block of a cluster, counted from its start.
    #[must_use]
    pub const fn data_end(&self) -> u64 {
        self.cluster_blocks.saturating_sub(self.unit_blocks)
    }

    /// Tells whether `count` blocks from `block` on are data blocks of one cluster.
    #[must_use]
    pub fn is_data(&self, block: u64, count: u64) -> bool {
        let Some(cluster) = self.cluster_of(block) else {
            return false;
        };
        let index = block.saturating_sub(self.cluster_start(cluster));
        count >= 1 && index >= self.data_start() && index.saturating_add(count) <= self.data_end()
    }

    /// Tells whether a number is one of a sub-block in a data block.
    #[must_use]
    pub fn is_sub_block(&self, number: u64) -> bool {
        number
            .checked_div(SUB_BLOCKS_PER_BLOCK)
            .is_some_and(|block| self.is_data(block, 1))
    }

    /// Returns the address of the second copy of a unit, `None` if no unit can stand at that address.
    #[must_use]
    pub fn mirror(&self, address: u64) -> Option<u64> {
        if self.slot_of_unit(address).is_some() {
            return Some(address.saturating_add(u64::from(self.slots)));
        }
        self.locate(address)?;
        let blocks = self
            .cluster_blocks
            .saturating_sub(self.unit_blocks)
            .saturating_sub(self.lock_blocks);
        Some(address.saturating_add(blocks.saturating_mul(UNITS_PER_BLOCK)))
    }

    /// Returns the address of a slot's unit.
    #[must_use]
    pub const fn slot_unit(&self, slot: u16) -> u64 {
        self.slot_units.saturating_add(slot as u64)
    }

    fn slot_of_unit(&self, address: u64) -> Option<u64> {
        let slot = address.checked_sub(self.slot_units)?;
        (slot < u64::from(self.slots)).then_some(slot)
    }

    /// Returns the byte address of a slot's journal.
    #[must_use]
    pub const fn journal(&self, slot: u16) -> u64 {
        self.journals
            .saturating_add(self.journal_blocks.saturating_mul(slot as u64))
            .saturating_mul(BLOCK_BYTES)
    }

    /// Returns the number of units in a journal's ring, its header's not counted.
    #[must_use]
    pub const fn ring_units(&self) -> u64 {
        self.journal_blocks
            .saturating_mul(UNITS_PER_BLOCK)
            .saturating_sub(1)
    }

    /// Returns the most units that the transactions of a journal may name.
    #[must_use]
    pub fn journal_units_max(&self) -> u64 {
        self.ring_units()
            .saturating_mul(4)
            .min(format::JOURNAL_UNITS_MAX)
    }

    /// Returns the byte address of the lock area of the cluster or inode whose unit is at `address`.
    #[must_use]
    pub fn lock_area(&self, address: u64) -> Option<u64> {
        let (cluster, index) = self.locate(address)?;
        if index > self.inodes_per_cluster {
            return None;
        }
        let start = self.cluster_start(cluster).saturating_mul(BLOCK_BYTES);
        Some(start.saturating_add(u64::from(index).saturating_mul(self.lock_bytes)))
    }

    /// Returns the byte address of a global lock area.
    #[must_use]
    pub const fn global_lock(&self, index: u64) -> u64 {
        self.locks
            .saturating_add(index.saturating_mul(self.lock_bytes))
    }

    /// Returns the bytes that are not for files: regions before cluster 0, locks and units of clusters.
    #[must_use]
    pub const fn overhead_bytes(&self) -> u64 {
        let per_cluster = self
            .unit_blocks
            .saturating_mul(2)
            .saturating_add(self.lock_blocks);
        self.first_cluster
            .saturating_add(self.clusters.saturating_mul(per_cluster))
            .saturating_mul(BLOCK_BYTES)
    }

    /// Returns how many clusters of this volume fit a device of that size.
    #[must_use]
    pub fn clusters_within(&self, geometry: &Geometry) -> u64 {
        geometry
            .bytes()
            .checked_div(BLOCK_BYTES)
            .and_then(|blocks| blocks.checked_sub(self.first_cluster))
            .and_then(|blocks| blocks.checked_div(self.cluster_blocks))
            .unwrap_or(0)
            .min(CLUSTERS_MAX)
    }
}

/// Returns what units carry of a volume's UUID.
#[must_use]
pub(crate) fn tag_of(uuid: &[u8; 16]) -> u64 {
    let (first, _) = uuid.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    u64::from_le_bytes(*first)
}
