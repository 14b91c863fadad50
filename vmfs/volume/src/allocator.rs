//! Which blocks, units and sub-blocks are free: the search in clusters, and what was freed and must still wait.
//!
//! A host begins its search in a part of the volume that its slot decides, and passes over clusters that others keep:
//! so hosts do not meet. What an operation frees is not given out again before a commit has made that durable.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use zerocopy::byteorder::little_endian::{U16, U32};

use crate::bits;
use crate::error::Error;
use crate::format::{Cluster, MAGIC_CLUSTER, SUB_BLOCKS_PER_BLOCK};
use crate::layout::Layout;
use crate::locks::{LockMode, LockName};
use crate::volume::{Host, Volume};

/// Runs of at least this many blocks are looked for first: with them a 62 TiB file has a million extents at most.
const LARGE_RUN: u64 = 64;
/// Clusters of which the numbers of free things are remembered.
const HINTS_MAX: usize = 1 << 16;

/// What is looked for in a cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// A run of `want` blocks, of `least` at least, at `near` if that is free.
    Blocks { want: u64, least: u64, near: u64 },
    /// A unit for an inode, of this index or a higher one.
    Inode { from: u32 },
    /// A unit for a tree node.
    Node,
    /// A sub-block.
    SubBlock,
}

/// What was found, by numbers within the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Blocks {
        index: u64,
        count: u64,
    },
    Unit {
        index: u32,
    },
    /// A sub-block of an entry of the table of carved blocks.
    SubBlock {
        entry: usize,
        sub: u16,
    },
    /// A block to carve, and a free entry for it.
    Carve {
        entry: usize,
        index: u64,
    },
}

/// Something freed.
#[derive(Clone, Copy, Debug)]
enum Freed {
    Blocks(u64, u64),
    SubBlock(u64),
}

/// What this host remembers about free space.
#[derive(Debug)]
pub(crate) struct Allocator {
    /// Cluster where the search begins.
    cursor: u64,
    /// Free blocks and units of clusters when last seen.
    hints: BTreeMap<u64, (u32, u32)>,
    /// Everything freed that must not be given out yet: runs of blocks, sub-blocks.
    waiting_blocks: BTreeMap<u64, u64>,
    waiting_subs: BTreeSet<u64>,
    // The same by what it waits for.
    by_operation: Vec<Freed>,
    by_commit: Vec<Freed>,
    by_discard: VecDeque<(u64, u64)>,
}

impl Allocator {
    pub(crate) fn new(layout: &Layout, slot: u16) -> Self {
        let share = layout
            .clusters
            .checked_div(u64::from(layout.slots))
            .unwrap_or(0);
        let own = u64::from(slot)
            .saturating_mul(share.max(1))
            .checked_rem(layout.clusters)
            .unwrap_or(0);
        Self {
            cursor: own,
            hints: BTreeMap::new(),
            waiting_blocks: BTreeMap::new(),
            waiting_subs: BTreeSet::new(),
            by_operation: Vec::new(),
            by_commit: Vec::new(),
            by_discard: VecDeque::new(),
        }
    }

    /// The operation is undone: what it freed is in use.
    pub(crate) fn undo(&mut self) {
        for freed in self.by_operation.drain(..) {
            match freed {
                Freed::Blocks(block, _) => self.waiting_blocks.remove(&block).map(|_| ()),
                Freed::SubBlock(number) => self.waiting_subs.remove(&number).then_some(()),
            };
        }
    }

    /// The operation is part of the running transaction.
    pub(crate) fn merge(&mut self) {
        self.by_commit.append(&mut self.by_operation);
    }

    /// The running transaction is durable.
    pub(crate) fn committed(&mut self) {
        for freed in self.by_commit.drain(..) {
            match freed {
                Freed::Blocks(block, count) => self.by_discard.push_back((block, count)),
                Freed::SubBlock(number) => {
                    self.waiting_subs.remove(&number);
                }
            }
        }
    }

    /// Returns a run of blocks that the device may forget.
    pub(crate) fn to_discard(&self) -> Option<(u64, u64)> {
        self.by_discard.front().copied()
    }

    /// That run is free for new uses.
    pub(crate) fn discarded(&mut self) {
        if let Some((block, _)) = self.by_discard.pop_front() {
            self.waiting_blocks.remove(&block);
        }
    }

    fn is_waiting(&self) -> bool {
        !self.waiting_blocks.is_empty() || !self.waiting_subs.is_empty()
    }

    fn hint(&mut self, cluster: u64, head: &Cluster) {
        if self.hints.len() >= HINTS_MAX {
            self.hints.clear();
        }
        let free = (head.head.free_blocks.get(), head.head.free_units.get());
        self.hints.insert(cluster, free);
    }

    fn may_hold(&self, cluster: u64, need: Need) -> bool {
        let Some((blocks, units)) = self.hints.get(&cluster) else {
            return true;
        };
        match need {
            Need::Blocks { least, .. } => u64::from(*blocks) >= least,
            Need::Inode { .. } | Need::Node => *units > 0,
            // A carved block may have room when no block is free.
            Need::SubBlock => true,
        }
    }

    /// Looks for something in a cluster.
    fn find(&self, layout: &Layout, cluster: u64, head: &Cluster, need: Need) -> Option<Found> {
        match need {
            Need::Blocks { want, least, near } => {
                let (index, count) = self.find_blocks(layout, cluster, head, want, near)?;
                (count >= least).then_some(Found::Blocks { index, count })
            }
            Need::Inode { from } => {
                let end = u64::from(layout.inodes_per_cluster).saturating_add(1);
                let (index, _) = bits::find_run(&head.units, u64::from(from.max(1)), end, 1)?;
                let index = u32::try_from(index).ok()?;
                Some(Found::Unit { index })
            }
            Need::Node => find_node(layout, head),
            Need::SubBlock => self.find_sub_block(layout, cluster, head),
        }
    }

    fn find_blocks(
        &self,
        layout: &Layout,
        cluster: u64,
        head: &Cluster,
        want: u64,
        near: u64,
    ) -> Option<(u64, u64)> {
        let start = layout.cluster_start(cluster);
        let mut blocks = head.blocks;
        let end = start.saturating_add(layout.cluster_blocks);
        for (first, count) in self.waiting_blocks.range(start..end) {
            for block in *first..first.saturating_add(*count) {
                bits::put(&mut blocks, block.saturating_sub(start), true);
            }
        }
        if let Some(index) = near.checked_sub(start)
            && (layout.data_start()..layout.data_end()).contains(&index)
        {
            let run = bits::run_at(&blocks, index, layout.data_end(), want);
            if run > 0 {
                return Some((index, run));
            }
        }
        bits::find_run(&blocks, layout.data_start(), layout.data_end(), want)
    }

    fn find_sub_block(&self, layout: &Layout, cluster: u64, head: &Cluster) -> Option<Found> {
        let start = layout.cluster_start(cluster);
        let mut free_entry = None;
        for (entry, carved) in head.carved.iter().enumerate() {
            if carved.block.get() == 0 {
                free_entry = free_entry.or(Some(entry));
                continue;
            }
            let block = start.saturating_add(u64::from(carved.block.get()));
            for sub in 0..16_u16 {
                let number = sub_block(block, sub);
                if carved.used.get() & (1 << sub) == 0 && !self.waiting_subs.contains(&number) {
                    return Some(Found::SubBlock { entry, sub });
                }
            }
        }
        let entry = free_entry?;
        let (index, _) = self.find_blocks(layout, cluster, head, 1, 0)?;
        Some(Found::Carve { entry, index })
    }
}

/// Nodes come from the end, so that they take the place of inodes last.
fn find_node(layout: &Layout, head: &Cluster) -> Option<Found> {
    let mut index = u32::try_from(layout.units_per_cluster()).ok()?;
    while index > 1 {
        index = index.saturating_sub(1);
        if !bits::get(&head.units, u64::from(index)) {
            return Some(Found::Unit { index });
        }
    }
    None
}

/// Returns the number of a sub-block.
pub(crate) const fn sub_block(block: u64, sub: u16) -> u64 {
    block
        .saturating_mul(SUB_BLOCKS_PER_BLOCK)
        .saturating_add(sub as u64)
}

impl<H: Host> Volume<H> {
    /// Allocates a run of at most `want` blocks, at `near` if that block is free.
    pub(crate) async fn allocate_blocks(
        &mut self,
        want: u64,
        near: u64,
    ) -> Result<(u64, u64), Error> {
        let need = |least| Need::Blocks { want, least, near };
        let start = self.layout.cluster_of(near);
        let found = match self.search(need(want.min(LARGE_RUN)), start).await {
            Err(Error::NoSpace | Error::FreeingSpace) if want > 1 => {
                self.search(need(1), start).await?
            }
            other => other?,
        };
        let (cluster, Found::Blocks { index, count }) = found else {
            return Err(Error::NoSpace);
        };
        self.mark_blocks(cluster, index, count, true).await?;
        let block = self.layout.cluster_start(cluster).saturating_add(index);
        Ok((block, count))
    }

    /// Allocates a unit for a tree node of an inode.
    pub(crate) async fn allocate_node(&mut self, inode: u64) -> Result<u64, Error> {
        let start = self.layout.locate(inode).map(|(cluster, _)| cluster);
        let (cluster, Found::Unit { index }) = self.search(Need::Node, start).await? else {
            return Err(Error::NoSpace);
        };
        self.mark_unit(cluster, index, true).await?;
        Ok(self.layout.unit(cluster, index))
    }

    /// Allocates a unit for an inode and takes its lock. A unit whose lock another host still keeps is passed over.
    pub(crate) async fn allocate_inode(&mut self) -> Result<u64, Error> {
        let mut from = 1;
        let mut start = None;
        loop {
            let found = self.search(Need::Inode { from }, start).await?;
            let (cluster, Found::Unit { index }) = found else {
                return Err(Error::NoSpace);
            };
            let address = self.layout.unit(cluster, index);
            match self
                .lock(LockName::Unit(address), LockMode::Exclusive)
                .await
            {
                Ok(()) => {
                    self.mark_unit(cluster, index, true).await?;
                    return Ok(address);
                }
                Err(Error::Contended | Error::Busy) => {
                    from = index.saturating_add(1);
                    start = Some(cluster);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Allocates a sub-block; returns its number.
    pub(crate) async fn allocate_sub_block(&mut self) -> Result<u64, Error> {
        let (cluster, found) = self.search(Need::SubBlock, None).await?;
        let (entry, sub) = match found {
            Found::SubBlock { entry, sub } => (entry, sub),
            Found::Carve { entry, index } => {
                self.mark_blocks(cluster, index, 1, true).await?;
                let block = U16::new(u16::try_from(index).map_err(|_| Error::NoSpace)?);
                if let Some(carved) = self.change_head(cluster).await?.carved.get_mut(entry) {
                    carved.block = block;
                    carved.used = U16::new(0);
                }
                (entry, 0)
            }
            Found::Blocks { .. } | Found::Unit { .. } => return Err(Error::NoSpace),
        };
        let start = self.layout.cluster_start(cluster);
        let head = self.change_head(cluster).await?;
        let carved = head.carved.get_mut(entry).ok_or(Error::NoSpace)?;
        carved.used = U16::new(carved.used.get() | (1 << sub));
        let block = start.saturating_add(u64::from(carved.block.get()));
        Ok(sub_block(block, sub))
    }

    /// Frees blocks of one cluster.
    pub(crate) async fn free_blocks(&mut self, block: u64, count: u64) -> Result<(), Error> {
        let cluster = self
            .layout
            .cluster_of(block)
            .filter(|_| self.layout.is_data(block, count))
            .ok_or(Error::Damaged { address: 0 })?;
        self.lock_cluster(cluster).await?;
        let index = block.saturating_sub(self.layout.cluster_start(cluster));
        self.mark_blocks(cluster, index, count, false).await?;
        self.allocator.waiting_blocks.insert(block, count);
        self.allocator
            .by_operation
            .push(Freed::Blocks(block, count));
        Ok(())
    }

    /// Frees an inode, whose last image stays in the transaction.
    pub(crate) async fn free_inode(&mut self, address: u64) -> Result<(), Error> {
        let (cluster, index) = self
            .layout
            .locate(address)
            .ok_or(Error::Damaged { address })?;
        self.lock_cluster(cluster).await?;
        self.mark_unit(cluster, index, false).await
    }

    /// Frees a node of a tree.
    pub(crate) async fn free_unit(&mut self, address: u64) -> Result<(), Error> {
        let (cluster, index) = self
            .layout
            .locate(address)
            .ok_or(Error::Damaged { address })?;
        self.lock_cluster(cluster).await?;
        self.mark_unit(cluster, index, false).await?;
        self.overlay.remove(address);
        self.cache.remove(address);
        Ok(())
    }

    /// Frees a sub-block, and the block that it is in with its last one.
    pub(crate) async fn free_sub_block(&mut self, number: u64) -> Result<(), Error> {
        let block = number / SUB_BLOCKS_PER_BLOCK;
        let mask = 1_u16 << (number % SUB_BLOCKS_PER_BLOCK);
        let cluster = self
            .layout
            .cluster_of(block)
            .ok_or(Error::Damaged { address: 0 })?;
        self.lock_cluster(cluster).await?;
        let address = self.layout.head(cluster);
        let index = block.saturating_sub(self.layout.cluster_start(cluster));
        let head = self.change_head(cluster).await?;
        let carved = head
            .carved
            .iter_mut()
            .find(|carved| u64::from(carved.block.get()) == index && carved.used.get() & mask != 0)
            .ok_or(Error::Damaged { address })?;
        carved.used = U16::new(carved.used.get() & !mask);
        let empty = carved.used.get() == 0;
        if empty {
            carved.block = U16::new(0);
        }
        self.allocator.waiting_subs.insert(number);
        self.allocator.by_operation.push(Freed::SubBlock(number));
        if empty {
            self.free_blocks(block, 1).await?;
        }
        Ok(())
    }

    async fn lock_cluster(&mut self, cluster: u64) -> Result<(), Error> {
        let name = LockName::Unit(self.layout.head(cluster));
        self.lock(name, LockMode::Exclusive).await
    }

    /// Finds a cluster that has something free, locks it and says what it has.
    async fn search(&mut self, need: Need, start: Option<u64>) -> Result<(u64, Found), Error> {
        let start = start.unwrap_or(self.allocator.cursor);
        let mut contended = false;
        for by_hints in [true, false] {
            let mut need = need;
            for step in 0..self.layout.clusters {
                let cluster = start
                    .saturating_add(step)
                    .checked_rem(self.layout.clusters)
                    .unwrap_or(0);
                if let (Need::Inode { from }, true) = (&mut need, step > 0) {
                    *from = 1;
                }
                if by_hints && !self.allocator.may_hold(cluster, need) {
                    continue;
                }
                match self.search_cluster(cluster, need).await {
                    Ok(Some(found)) => {
                        self.allocator.cursor = cluster;
                        return Ok((cluster, found));
                    }
                    // A damaged head costs the space behind it, not the volume.
                    Ok(None) | Err(Error::Damaged { .. }) => {}
                    Err(Error::Contended | Error::Busy) => contended = true,
                    Err(error) => return Err(error),
                }
            }
        }
        if contended {
            return Err(Error::Contended);
        }
        if self.allocator.is_waiting() {
            return Err(Error::FreeingSpace);
        }
        Err(Error::NoSpace)
    }

    async fn search_cluster(&mut self, cluster: u64, need: Need) -> Result<Option<Found>, Error> {
        let address = self.layout.head(cluster);
        // A look without the lock saves taking locks of full clusters.
        let image = self.peek(address, MAGIC_CLUSTER).await?;
        let head = Cluster::of(&image);
        self.allocator.hint(cluster, head);
        if self
            .allocator
            .find(&self.layout, cluster, head, need)
            .is_none()
        {
            return Ok(None);
        }
        self.lock_cluster(cluster).await?;
        let image = self
            .load(address, MAGIC_CLUSTER, LockName::Unit(address))
            .await?;
        Ok(self
            .allocator
            .find(&self.layout, cluster, Cluster::of(&image), need))
    }

    async fn change_head(&mut self, cluster: u64) -> Result<&mut Cluster, Error> {
        let address = self.layout.head(cluster);
        let bytes = self
            .change(address, MAGIC_CLUSTER, LockName::Unit(address))
            .await?;
        Ok(Cluster::of_mut(bytes))
    }

    async fn mark_blocks(
        &mut self,
        cluster: u64,
        index: u64,
        count: u64,
        used: bool,
    ) -> Result<(), Error> {
        let address = self.layout.head(cluster);
        let head = self.change_head(cluster).await?;
        for block in index..index.saturating_add(count) {
            if !bits::put(&mut head.blocks, block, used) {
                return Err(Error::Damaged { address });
            }
        }
        let free = head.head.free_blocks.get();
        head.head.free_blocks = U32::new(moved(free, count, used));
        Ok(())
    }

    async fn mark_unit(&mut self, cluster: u64, index: u32, used: bool) -> Result<(), Error> {
        let address = self.layout.head(cluster);
        let head = self.change_head(cluster).await?;
        if !bits::put(&mut head.units, u64::from(index), used) {
            return Err(Error::Damaged { address });
        }
        head.head.free_units = U32::new(moved(head.head.free_units.get(), 1, used));
        Ok(())
    }
}

/// Returns a count of free things after `count` of them were used or freed.
fn moved(free: u32, count: u64, used: bool) -> u32 {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    if used {
        free.saturating_sub(count)
    } else {
        free.saturating_add(count)
    }
}
