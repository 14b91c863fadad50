//! Clusters: first what they say is in use, at last whether that is so.

use alloc::boxed::Box;

use api::block::{BlockDevice, Buffer};
use zerocopy::byteorder::little_endian::{U16, U32, U64};

use super::{Checker, Finding, Known};
use crate::bits;
use crate::error::Error;
use crate::format::{
    Bytes, Carved, Cluster, Header, Inode, MAGIC_CLUSTER, MAGIC_INODE, MAGIC_NODE, STATE_DELETING,
};
use crate::mkfs;

impl<D: BlockDevice> Checker<'_, D> {
    /// Reads every unit that a cluster says is in use; all units, if its head is lost.
    pub(super) async fn read_cluster(&mut self, cluster: u64) -> Result<(), Error> {
        let head = self
            .unit(self.layout.head(cluster), Some(MAGIC_CLUSTER))
            .await?;
        let units = u32::try_from(self.layout.units_per_cluster()).unwrap_or(0);
        match head {
            Some(bytes) => {
                let head = Cluster::of(&bytes);
                if head.head.index.get() != cluster {
                    self.find(Finding::HeadIndex { cluster });
                }
                for index in 1..units {
                    if bits::get(&head.units, u64::from(index)) {
                        self.read_unit(self.layout.unit(cluster, index), true)
                            .await?;
                    }
                }
            }
            None => {
                self.find(Finding::HeadLost { cluster });
                for index in 1..units {
                    self.read_unit(self.layout.unit(cluster, index), false)
                        .await?;
                }
            }
        }
        self.check_lock(self.layout.head(cluster)).await
    }

    /// Sorts a unit in. One that cannot be read is lost only if it is known to be in use.
    async fn read_unit(&mut self, address: u64, marked: bool) -> Result<(), Error> {
        let Some(bytes) = self.unit(address, None).await? else {
            if marked {
                self.find(Finding::UnitLost { address });
                self.blind = true;
            }
            return Ok(());
        };
        match Header::of(&bytes).magic {
            MAGIC_NODE => {
                self.nodes.insert(address, false);
            }
            MAGIC_INODE if self.layout.is_inode(address) => {
                self.take_inode(address, Inode::of(&bytes));
                self.check_lock(address).await?;
            }
            _ => {
                self.freed.insert(address);
            }
        }
        Ok(())
    }

    pub(super) fn take_inode(&mut self, address: u64, inode: &Inode) {
        let state = inode.head.state.get();
        if state == 0 {
            self.freed.insert(address);
            return;
        }
        let known = Known {
            kind: inode.head.kind.get(),
            deleting: state == STATE_DELETING,
            parent: inode.head.parent.get(),
            name: inode.name().to_vec(),
            named: 0,
        };
        self.inodes.insert(address, known);
    }

    /// Checks the lock of a cluster or inode, as far as that is one sector.
    async fn check_lock(&mut self, address: u64) -> Result<(), Error> {
        let sector = u64::from(self.layout.logical_block);
        let Some(at) = self.layout.lock_area(address) else {
            return Ok(());
        };
        if self.layout.lock_bytes != sector {
            return Ok(());
        }
        let lba = at.checked_div(sector).unwrap_or(0);
        let len = usize::try_from(sector).unwrap_or(512);
        let (buffer, result) = self.disk.read(at, Buffer::zeroed(len)).await;
        let good = result.is_ok() && (is_lock(&buffer, lba));
        if !good {
            self.find(Finding::LockDamaged { address });
        }
        Ok(())
    }

    /// Compares every cluster's head with what was found in use.
    pub(super) async fn check_clusters(&mut self) -> Result<(), Error> {
        for (&address, &used) in &self.nodes.clone() {
            if !used && !self.blind {
                self.find(Finding::UnitLeaked { address });
            }
        }
        for &address in &self.freed.clone() {
            self.find(Finding::UnitLeaked { address });
        }
        for cluster in 0..self.layout.clusters {
            let address = self.layout.head(cluster);
            let expected = self.expected_head(cluster);
            let Some(bytes) = self.unit(address, Some(MAGIC_CLUSTER)).await? else {
                continue;
            };
            self.compare_head(cluster, Cluster::of(&bytes), Cluster::of(&expected));
        }
        Ok(())
    }

    /// Makes the head that a cluster ought to have by what was found.
    pub(super) fn expected_head(&mut self, cluster: u64) -> Box<Bytes> {
        let mut bytes = Box::new(mkfs::empty_head(self.layout, cluster));
        let head = Cluster::of_mut(&mut bytes);
        let mut free_units = self.layout.units_per_cluster().saturating_sub(1);
        head.units = [0; 128];
        bits::put(&mut head.units, 0, true);
        let first = self.layout.head(cluster);
        let range = first..first.saturating_add(self.layout.units_per_cluster());
        let used = self.nodes.range(range.clone()).filter(|(_, used)| **used);
        let inodes = self.inodes.range(range).map(|(address, _)| address);
        for address in used.map(|(address, _)| address).chain(inodes) {
            bits::put(&mut head.units, address.saturating_sub(first), true);
            free_units = free_units.saturating_sub(1);
        }
        let start = self.layout.cluster_start(cluster);
        let mut free_blocks = u64::from(head.head.free_blocks.get());
        let carved = self
            .claims
            .carved(start, start.saturating_add(self.layout.cluster_blocks));
        for (slot, block) in head.carved.iter_mut().zip(&carved) {
            let index = u16::try_from(block.saturating_sub(start)).unwrap_or(0);
            *slot = Carved {
                block: U16::new(index),
                used: U16::new(self.claims.sub_blocks(*block)),
            };
        }
        for index in self.layout.data_start()..self.layout.data_end() {
            let block = start.saturating_add(index);
            if self.claims.is_claimed(cluster, index) || carved.contains(&block) {
                bits::put(&mut head.blocks, index, true);
                free_blocks = free_blocks.saturating_sub(1);
            }
        }
        head.head.index = U64::new(cluster);
        head.head.free_blocks = U32::new(u32::try_from(free_blocks).unwrap_or(0));
        head.head.free_units = U32::new(u32::try_from(free_units).unwrap_or(0));
        let data = self
            .layout
            .data_end()
            .saturating_sub(self.layout.data_start());
        let in_use = data.saturating_sub(free_blocks);
        self.report.blocks = self.report.blocks.saturating_add(in_use);
        let units = self.layout.units_per_cluster().saturating_sub(free_units);
        self.report.units = self.report.units.saturating_add(units);
        bytes
    }

    fn compare_head(&mut self, cluster: u64, head: &Cluster, expected: &Cluster) {
        self.compare_blocks(cluster, head, expected);
        self.compare_units(cluster, head, expected);
        self.compare_carved(cluster, head);
        // Bits that are wrong make counts wrong; counts are compared with the bits beside them.
        let clear =
            |bits: &[u8], end: u64| (0..end).filter(|index| !bits::get(bits, *index)).count();
        let blocks = clear(&head.blocks, self.layout.cluster_blocks);
        let units = clear(&head.units, self.layout.units_per_cluster());
        if usize::try_from(head.head.free_blocks.get()) != Ok(blocks)
            || usize::try_from(head.head.free_units.get()) != Ok(units)
        {
            self.find(Finding::FreeCounts { cluster });
        }
    }

    fn compare_blocks(&mut self, cluster: u64, head: &Cluster, expected: &Cluster) {
        let start = self.layout.cluster_start(cluster);
        for index in 0..self.layout.cluster_blocks {
            let block = start.saturating_add(index);
            match (
                bits::get(&head.blocks, index),
                bits::get(&expected.blocks, index),
            ) {
                (true, false) if !self.blind => self.find(Finding::BlockLeaked { block }),
                (false, true) => self.find(Finding::BlockUnmarked { block }),
                _ => {}
            }
        }
    }

    fn compare_units(&mut self, cluster: u64, head: &Cluster, expected: &Cluster) {
        for index in 0..self.layout.units_per_cluster() {
            if bits::get(&expected.units, index) && !bits::get(&head.units, index) {
                let address = self.layout.head(cluster).saturating_add(index);
                self.find(Finding::UnitUnmarked { address });
            }
        }
    }

    fn compare_carved(&mut self, cluster: u64, head: &Cluster) {
        let start = self.layout.cluster_start(cluster);
        let mut seen = alloc::collections::BTreeSet::new();
        for (entry, carved) in head.carved.iter().enumerate() {
            let (index, used) = (u64::from(carved.block.get()), carved.used.get());
            let block = start.saturating_add(index);
            if index == 0 && used == 0 {
                continue;
            }
            let twice = !seen.insert(block);
            if twice
                || used == 0
                || !self.layout.is_data(block, 1)
                || self.claims.is_claimed(cluster, index)
            {
                let entry = u16::try_from(entry).unwrap_or(u16::MAX);
                self.find(Finding::CarvedEntry { cluster, entry });
                continue;
            }
            let found = self.claims.sub_blocks(block);
            self.compare_sub_blocks(block, used, found);
        }
        let end = start.saturating_add(self.layout.cluster_blocks);
        for block in self.claims.carved(start, end) {
            if !seen.contains(&block) {
                let found = self.claims.sub_blocks(block);
                self.compare_sub_blocks(block, 0, found);
            }
        }
    }

    fn compare_sub_blocks(&mut self, block: u64, marked: u16, found: u16) {
        for sub in 0..16_u16 {
            let number = crate::allocator::sub_block(block, sub);
            match (marked & (1 << sub) != 0, found & (1 << sub) != 0) {
                (true, false) if !self.blind => self.find(Finding::SubBlockLeaked { number }),
                (false, true) => self.find(Finding::SubBlockUnmarked { number }),
                _ => {}
            }
        }
    }
}

/// Tells whether a sector holds a lock's record, or was never used.
fn is_lock(sector: &[u8], lba: u64) -> bool {
    lock::Record::decode(&lock::Image::from_block(sector), lba).is_ok()
}
