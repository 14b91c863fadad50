//! Inodes and their trees.

use alloc::sync::Arc;
use alloc::vec::Vec;

use api::block::BlockDevice;

use super::{Checker, Finding};
use crate::directory::check_name;
use crate::error::Error;
use crate::format::{
    Bytes, Entry, INLINE_MAX, Inode, KIND_DIRECTORY, KIND_FILE, LAYOUT_INLINE, LAYOUT_SUB_BLOCK,
    LAYOUT_TREE, LEVELS_MAX, MAGIC_INODE, MAGIC_NODE, Node, STATE_DELETING, STATE_LIVE,
    SUB_BLOCK_BYTES,
};
use crate::tree::Page;

/// A node to look at, and what its parent says of it.
struct Visit {
    address: u64,
    level: u16,
    /// Lowest key that may stand there.
    low: u64,
    /// Key that may not be reached.
    high: Option<u64>,
}

/// What was counted on the way through a tree.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) nodes: u64,
    pub(super) blocks: u64,
    /// Entries of leaves.
    pub(super) entries: u64,
    /// Behind the last extent, in the file.
    end: u64,
}

impl<D: BlockDevice> Checker<'_, D> {
    /// Checks every inode in use.
    pub(super) async fn check_inodes(&mut self) -> Result<(), Error> {
        let mut addresses: Vec<u64> = self.inodes.keys().rev().copied().collect();
        // The way through directories may find inodes whose mark is lost; they join.
        while let Some(address) = addresses.pop().or_else(|| self.late.pop()) {
            if let Some(bytes) = self.unit(address, Some(MAGIC_INODE)).await? {
                self.check_inode(address, &bytes).await?;
            }
        }
        self.check_pending();
        Ok(())
    }

    async fn check_inode(&mut self, address: u64, bytes: &Bytes) -> Result<(), Error> {
        let inode = Inode::of(bytes);
        let head = &inode.head;
        let kind_fits = match head.kind.get() {
            KIND_FILE => head.layout.get() <= LAYOUT_TREE,
            KIND_DIRECTORY => head.layout.get() == LAYOUT_TREE,
            _ => false,
        };
        let state_fits = matches!(head.state.get(), STATE_LIVE | STATE_DELETING);
        if !kind_fits || !state_fits || head.generation.get() == 0 {
            self.find(Finding::InodeFields { inode: address });
            self.blind = true;
            return Ok(());
        }
        self.check_own_name(address, inode);
        match head.layout.get() {
            LAYOUT_INLINE if head.size.get() > INLINE_MAX as u64 => {
                self.find(Finding::InodeSize { inode: address });
            }
            LAYOUT_SUB_BLOCK => self.check_sub_block(address, inode),
            LAYOUT_TREE => {
                let counted = self.check_tree(address, bytes).await?;
                self.check_counts(address, inode, &counted);
            }
            _ => {}
        }
        if head.kind.get() == KIND_DIRECTORY {
            self.report.directories = self.report.directories.saturating_add(1);
        } else {
            self.report.files = self.report.files.saturating_add(1);
        }
        Ok(())
    }

    fn check_own_name(&mut self, address: u64, inode: &Inode) {
        let name = inode.name();
        let good = if address == self.layout.root {
            name.is_empty()
        } else {
            usize::from(inode.head.name_len.get()) == name.len()
                && core::str::from_utf8(name).is_ok_and(|name| check_name(name).is_ok())
        };
        if !good {
            self.find(Finding::InodeName { inode: address });
        }
    }

    fn check_sub_block(&mut self, address: u64, inode: &Inode) {
        if inode.head.size.get() > SUB_BLOCK_BYTES {
            self.find(Finding::InodeSize { inode: address });
        }
        let number = inode.root.first().map_or(0, |entry| entry.target.get());
        if !self.layout.is_sub_block(number) {
            self.find(Finding::SubBlockOutside { inode: address });
            self.blind = true;
        } else if !self.claims.claim_sub_block(number) {
            self.find(Finding::SubBlockShared {
                inode: address,
                number,
            });
        }
    }

    /// Walks a tree. Every node counts once, so this ends on whatever a volume holds.
    async fn check_tree(&mut self, inode: u64, root: &Bytes) -> Result<Counted, Error> {
        let mut counted = Counted::default();
        let mut visits = alloc::vec![Visit {
            address: inode,
            level: Inode::of(root).head.level.get(),
            low: 0,
            high: None,
        }];
        if Inode::of(root).head.level.get() >= LEVELS_MAX {
            self.tree_finding(
                inode,
                Finding::NodeCount {
                    inode,
                    address: inode,
                },
            );
            return Ok(counted);
        }
        while let Some(visit) = visits.pop() {
            let Some(bytes) = self.tree_node(inode, &visit, root).await? else {
                continue;
            };
            self.find_unmarked(inode, &bytes).await?;
            if visit.address != inode {
                counted.nodes = counted.nodes.saturating_add(1);
            }
            self.check_node(inode, &visit, &bytes, &mut visits, &mut counted);
        }
        Ok(counted)
    }

    /// Counts what one tree holds; `None` if it is not sound.
    pub(super) async fn count_tree(&mut self, inode: u64) -> Result<Option<Counted>, Error> {
        let Some(root) = self.unit(inode, Some(MAGIC_INODE)).await? else {
            return Ok(None);
        };
        self.take_inode(inode, Inode::of(&root));
        let counted = self.check_tree(inode, &root).await?;
        Ok((!self.blind).then_some(counted))
    }

    /// Something about a tree is wrong: a directory can be rebuilt, a file's mapping cannot.
    fn tree_finding(&mut self, inode: u64, finding: Finding) {
        self.find(finding);
        if self.is_directory(inode) {
            self.rebuild.insert(inode);
        } else {
            self.blind = true;
        }
    }

    /// Returns the unit of a visit if it is what the parent takes it for.
    async fn tree_node(
        &mut self,
        inode: u64,
        visit: &Visit,
        root: &Bytes,
    ) -> Result<Option<Arc<Bytes>>, Error> {
        let address = visit.address;
        if address == inode {
            return Ok(Some(Arc::new(*root)));
        }
        if self
            .layout
            .locate(address)
            .is_none_or(|(_, index)| index == 0)
        {
            self.tree_finding(inode, Finding::NodeOutside { inode, address });
            return Ok(None);
        }
        let Some(bytes) = self.unit(address, Some(MAGIC_NODE)).await? else {
            self.tree_finding(inode, Finding::NodeForeign { inode, address });
            return Ok(None);
        };
        let head = &Node::of(&bytes).head;
        if head.owner.get() != inode
            || head.level.get() != visit.level
            || head.generation.get() != Inode::of(root).head.generation.get()
        {
            self.tree_finding(inode, Finding::NodeForeign { inode, address });
            return Ok(None);
        }
        if self.nodes.insert(address, true) == Some(true) {
            self.tree_finding(inode, Finding::NodeShared { inode, address });
            return Ok(None);
        }
        Ok(Some(bytes))
    }

    /// Takes inodes as used that a directory's leaf names and that say so, too, though no map marks them.
    async fn find_unmarked(&mut self, directory: u64, bytes: &Bytes) -> Result<(), Error> {
        let Some(page) = Page::of(bytes).filter(|page| page.level == 0) else {
            return Ok(());
        };
        if !self.is_directory(directory) {
            return Ok(());
        }
        for entry in page.entries {
            let address = entry.target.get();
            let known = self.inodes.contains_key(&address) || self.freed.contains(&address);
            if known || !self.layout.is_inode(address) {
                continue;
            }
            if let Some(found) = self.unit(address, Some(MAGIC_INODE)).await? {
                let inode = Inode::of(&found);
                if inode.head.state.get() == STATE_LIVE && inode.head.parent.get() == directory {
                    self.take_inode(address, inode);
                    self.late.push(address);
                }
            }
        }
        Ok(())
    }

    fn is_directory(&self, inode: u64) -> bool {
        self.inodes
            .get(&inode)
            .is_some_and(|known| known.kind == KIND_DIRECTORY)
    }

    fn check_node(
        &mut self,
        inode: u64,
        visit: &Visit,
        bytes: &Bytes,
        visits: &mut Vec<Visit>,
        counted: &mut Counted,
    ) {
        let address = visit.address;
        let page = Page::of(bytes).filter(|page| page.level == 0 || !page.entries.is_empty());
        let Some(page) = page else {
            self.tree_finding(inode, Finding::NodeCount { inode, address });
            return;
        };
        let in_order = page
            .entries
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a.key.get() < b.key.get()));
        // An inner node's first key may be above the keys in its first child.
        let low_enough = |entry: &Entry| page.level > 0 || entry.key.get() >= visit.low;
        let fits = |entry: &Entry| visit.high.is_none_or(|high| entry.key.get() < high);
        let bounded =
            page.entries.first().is_none_or(low_enough) && page.entries.last().is_none_or(fits);
        if !in_order || !bounded {
            self.tree_finding(inode, Finding::KeyOrder { inode, address });
        }
        if page.level == 0 {
            let is_directory = self.is_directory(inode);
            self.check_leaf(inode, &page, is_directory, counted);
            return;
        }
        for (index, entry) in page.entries.iter().enumerate().rev() {
            let next = page.entries.get(index.saturating_add(1));
            visits.push(Visit {
                address: entry.target.get(),
                level: page.level.saturating_sub(1),
                low: if index == 0 {
                    visit.low
                } else {
                    entry.key.get()
                },
                high: next.map_or(visit.high, |next| Some(next.key.get())),
            });
        }
    }

    fn check_leaf(&mut self, inode: u64, page: &Page<'_>, names: bool, counted: &mut Counted) {
        let count = page.entries.len() as u64;
        counted.entries = counted.entries.saturating_add(count);
        for entry in page.entries {
            if names {
                self.check_entry(inode, entry);
            } else {
                self.check_extent(inode, entry, counted);
            }
        }
    }

    fn check_extent(&mut self, inode: u64, extent: &Entry, counted: &mut Counted) {
        let (first, block, count) = (extent.key.get(), extent.target.get(), extent.blocks());
        if !self.layout.is_data(block, count) {
            self.tree_finding(inode, Finding::ExtentOutside { inode, first });
            return;
        }
        if first < counted.end {
            self.find(Finding::ExtentOverlap { inode, first });
        }
        counted.end = counted.end.max(first.saturating_add(count));
        counted.blocks = counted.blocks.saturating_add(count);
        if let Some(block) = self.claims.claim(self.layout, block, count) {
            self.find(Finding::BlockShared { inode, block });
        }
    }

    fn check_counts(&mut self, address: u64, inode: &Inode, counted: &Counted) {
        if self.rebuild.contains(&address) || self.blind {
            return;
        }
        if inode.head.nodes.get() != counted.nodes {
            self.find(Finding::NodesCount { inode: address });
        }
        if inode.head.kind.get() == KIND_DIRECTORY {
            if inode.head.size.get() != counted.entries {
                self.find(Finding::DirectorySize { directory: address });
            }
        } else if inode.head.blocks.get() != counted.blocks {
            self.find(Finding::BlocksCount { inode: address });
        }
    }

    /// Compares what slots are to delete with what is being deleted.
    fn check_pending(&mut self) {
        for (&inode, &slot) in &self.pending.clone() {
            if !self.inodes.get(&inode).is_some_and(|known| known.deleting) {
                self.find(Finding::PendingStale { slot, inode });
            }
        }
        let deleting: Vec<u64> = self
            .inodes
            .iter()
            .filter(|(_, known)| known.deleting)
            .map(|(address, _)| *address)
            .collect();
        for inode in deleting {
            if !self.pending.contains_key(&inode) {
                self.find(Finding::DeletingForgotten { inode });
            }
        }
    }
}
