//! The trees of files and directories: entries of fixed size by rising key, the root in the inode.
//!
//! Interior entries hold the lowest key that their child may hold. Full nodes split on the way down, empty ones go;
//! nodes that are not empty are not merged. Every loop here ends by the level or by the key that moves one way, also on
//! a damaged volume.

use alloc::sync::Arc;
use alloc::vec::Vec;

use zerocopy::byteorder::little_endian::{U16, U64};

use crate::error::Error;
use crate::format::{
    Bytes, Entry, Header, Inode, LEVELS_MAX, MAGIC_INODE, MAGIC_NODE, NODE_ENTRIES, Node, blank,
};
use crate::locks::LockName;
use crate::volume::{Host, Volume};

/// The entries of an inode or node.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    pub(crate) level: u16,
    pub(crate) entries: &'a [Entry],
}

impl<'a> Page<'a> {
    /// Views the entries of a unit; `None` if it says that it has more than fit.
    pub(crate) fn of(bytes: &'a Bytes) -> Option<Self> {
        let (level, count, slots): (_, _, &[Entry]) = if Header::of(bytes).magic == MAGIC_INODE {
            let inode = Inode::of(bytes);
            (inode.head.level, inode.head.entries, &inode.root)
        } else {
            let node = Node::of(bytes);
            (node.head.level, node.head.entries, &node.entries)
        };
        Some(Self {
            level: level.get(),
            entries: slots.get(..usize::from(count.get()))?,
        })
    }

    /// Returns how many entries have a key that is not above `key`.
    fn rank(&self, key: u64) -> usize {
        self.entries.partition_point(|entry| entry.key.get() <= key)
    }

    /// Returns the index of the child whose range holds `key`; keys before the first child's are its, too.
    fn child(&self, key: u64) -> usize {
        self.rank(key).saturating_sub(1)
    }
}

/// The entries of a unit that is changed.
struct PageMut<'a> {
    count: &'a mut U16,
    slots: &'a mut [Entry],
}

impl<'a> PageMut<'a> {
    fn of(bytes: &'a mut Bytes) -> Self {
        if Header::of(bytes).magic == MAGIC_INODE {
            let inode = Inode::of_mut(bytes);
            Self {
                count: &mut inode.head.entries,
                slots: &mut inode.root,
            }
        } else {
            let node = Node::of_mut(bytes);
            Self {
                count: &mut node.head.entries,
                slots: &mut node.entries,
            }
        }
    }

    /// Puts an entry at an index; false if there is no room.
    fn insert(&mut self, index: usize, entry: Entry) -> bool {
        let count = usize::from(self.count.get());
        let Some(tail) = self.slots.get_mut(index..=count) else {
            return false;
        };
        tail.rotate_right(1);
        if let Some(first) = tail.first_mut() {
            *first = entry;
        }
        self.count.set(self.count.get().saturating_add(1));
        true
    }

    fn remove(&mut self, index: usize) {
        let count = usize::from(self.count.get());
        if let Some(tail) = self.slots.get_mut(index..count) {
            tail.rotate_left(1);
            if let Some(last) = tail.last_mut() {
                *last = Entry::new(0, 0, 0);
            }
            self.count.set(self.count.get().saturating_sub(1));
        }
    }

    /// Takes all entries from an index on.
    fn split_off(&mut self, index: usize) -> Vec<Entry> {
        let count = usize::from(self.count.get());
        let Some(tail) = self.slots.get_mut(index..count) else {
            return Vec::new();
        };
        let taken = tail.to_vec();
        tail.fill(Entry::new(0, 0, 0));
        self.count.set(u16::try_from(index).unwrap_or(0));
        taken
    }

    /// Fills an empty page.
    fn fill(&mut self, entries: &[Entry]) {
        for (slot, entry) in self.slots.iter_mut().zip(entries) {
            *slot = entry.clone();
        }
        let count = entries.len().min(self.slots.len());
        self.count.set(u16::try_from(count).unwrap_or(0));
    }
}

/// A node on the way from the root, and the entry taken in it.
type Step = (u64, usize);

impl<H: Host> Volume<H> {
    /// Returns the last entry whose key is not above `key`.
    pub(crate) async fn tree_floor(
        &mut self,
        inode: u64,
        key: u64,
    ) -> Result<Option<Entry>, Error> {
        let mut key = key;
        loop {
            let mut before = None;
            let mut page = self.tree_root(inode).await?;
            loop {
                let view = page_of(&page, inode)?;
                if view.level == 0 {
                    let index = view.rank(key).checked_sub(1);
                    if let Some(entry) = index.and_then(|index| view.entries.get(index)) {
                        return Ok(Some(entry.clone()));
                    }
                    break;
                }
                let index = view.child(key);
                let Some(entry) = view.entries.get(index) else {
                    return Ok(None);
                };
                if index > 0 {
                    before = entry.key.get().checked_sub(1);
                }
                page = self.tree_child(inode, &view, index).await?;
            }
            // The leaf has nothing that low: what precedes it is left of the last turn that had a left.
            match before {
                Some(lower) if lower < key => key = lower,
                _ => return Ok(None),
            }
        }
    }

    /// Returns the first entry whose key is not below `key`.
    pub(crate) async fn tree_ceiling(
        &mut self,
        inode: u64,
        key: u64,
    ) -> Result<Option<Entry>, Error> {
        let mut key = key;
        loop {
            let mut after = None;
            let mut page = self.tree_root(inode).await?;
            loop {
                let view = page_of(&page, inode)?;
                if view.level == 0 {
                    let index = key.checked_sub(1).map_or(0, |below| view.rank(below));
                    if let Some(entry) = view.entries.get(index) {
                        return Ok(Some(entry.clone()));
                    }
                    break;
                }
                let index = view.child(key);
                if let Some(next) = view.entries.get(index.saturating_add(1)) {
                    after = Some(next.key.get());
                }
                page = self.tree_child(inode, &view, index).await?;
            }
            match after {
                Some(higher) if higher > key => key = higher,
                _ => return Ok(None),
            }
        }
    }

    /// Puts an entry into the tree, in place of one with the same key.
    pub(crate) async fn tree_insert(&mut self, inode: u64, entry: Entry) -> Result<(), Error> {
        let key = entry.key.get();
        let root = self.tree_root(inode).await?;
        if Page::of(&root).is_some_and(|page| is_full(&root, page.entries.len())) {
            self.tree_deepen(inode).await?;
        }
        let mut at = inode;
        loop {
            let bytes = self.tree_unit(inode, at).await?;
            let view = page_of(&bytes, inode)?;
            if view.level == 0 {
                return self.tree_insert_leaf(inode, at, entry).await;
            }
            let index = view.child(key);
            let child = self.tree_child(inode, &view, index).await?;
            let below = page_of(&child, inode)?;
            let target = view
                .entries
                .get(index)
                .map_or(0, |entry| entry.target.get());
            if is_full(&child, below.entries.len()) {
                let middle = below.entries.len() / 2;
                let bounds = (below.level, middle);
                drop((bytes, child));
                self.tree_split(inode, at, index, target, bounds).await?;
                continue;
            }
            at = target;
        }
    }

    async fn tree_insert_leaf(&mut self, inode: u64, at: u64, entry: Entry) -> Result<(), Error> {
        let page = PageMut::of(self.tree_change(inode, at).await?);
        let count = usize::from(page.count.get());
        let key = entry.key.get();
        let entries = page.slots.get(..count).unwrap_or_default();
        let index = entries.partition_point(|other| other.key.get() < key);
        let mut page = page;
        if let Some(same) = page
            .slots
            .get_mut(..count)
            .and_then(|slots| slots.get_mut(index))
            && same.key.get() == key
        {
            *same = entry;
            return Ok(());
        }
        if page.insert(index, entry) {
            Ok(())
        } else {
            Err(Error::Damaged { address: at })
        }
    }

    /// Removes the entry with a key; returns whether there was one.
    pub(crate) async fn tree_remove(&mut self, inode: u64, key: u64) -> Result<bool, Error> {
        let mut path: Vec<Step> = Vec::new();
        let mut at = inode;
        loop {
            let bytes = self.tree_unit(inode, at).await?;
            let view = page_of(&bytes, inode)?;
            if view.level == 0 {
                let index = view.rank(key).checked_sub(1);
                let Some(index) = index.filter(|index| {
                    view.entries
                        .get(*index)
                        .is_some_and(|entry| entry.key.get() == key)
                }) else {
                    return Ok(false);
                };
                path.push((at, index));
                break;
            }
            let index = view.child(key);
            let child = self.tree_child(inode, &view, index).await?;
            path.push((at, index));
            at = Header::of(&child).address.get();
        }
        self.tree_prune(inode, path).await?;
        Ok(true)
    }

    /// Removes the entry at a path's end, and every node that this leaves empty.
    async fn tree_prune(&mut self, inode: u64, mut path: Vec<Step>) -> Result<(), Error> {
        while let Some((at, index)) = path.pop() {
            let mut page = PageMut::of(self.tree_change(inode, at).await?);
            page.remove(index);
            if page.count.get() > 0 {
                return Ok(());
            }
            if at == inode {
                self.change_inode(inode).await?.head.level = U16::new(0);
                return Ok(());
            }
            self.free_unit(at).await?;
            self.count_nodes(inode, false).await?;
        }
        Ok(())
    }

    /// Moves the root's entries into a new node below it.
    async fn tree_deepen(&mut self, inode: u64) -> Result<(), Error> {
        let level = Inode::of(&*self.tree_root(inode).await?).head.level.get();
        if level.saturating_add(1) >= LEVELS_MAX {
            return Err(Error::NoSpace);
        }
        let node = self.tree_new_node(inode, level).await?;
        let root = self.change_inode(inode).await?;
        root.head.level = U16::new(level.saturating_add(1));
        let mut page = PageMut {
            count: &mut root.head.entries,
            slots: &mut root.root,
        };
        let moved = page.split_off(0);
        let lowest = moved.first().map_or(0, |entry| entry.key.get());
        page.insert(0, Entry::new(lowest, node, 0));
        PageMut::of(self.tree_change(inode, node).await?).fill(&moved);
        Ok(())
    }

    /// Moves the upper half of a full child into a new node beside it.
    async fn tree_split(
        &mut self,
        inode: u64,
        parent: u64,
        index: usize,
        child: u64,
        (level, middle): (u16, usize),
    ) -> Result<(), Error> {
        let node = self.tree_new_node(inode, level).await?;
        let moved = PageMut::of(self.tree_change(inode, child).await?).split_off(middle);
        let lowest = moved.first().map_or(0, |entry| entry.key.get());
        PageMut::of(self.tree_change(inode, node).await?).fill(&moved);
        let mut page = PageMut::of(self.tree_change(inode, parent).await?);
        if page.insert(index.saturating_add(1), Entry::new(lowest, node, 0)) {
            Ok(())
        } else {
            Err(Error::Damaged { address: parent })
        }
    }

    async fn tree_new_node(&mut self, inode: u64, level: u16) -> Result<u64, Error> {
        let address = self.allocate_node(inode).await?;
        let generation = self.count_nodes(inode, true).await?;
        let mut bytes = blank(MAGIC_NODE, address, self.layout.tag);
        let node = Node::of_mut(&mut bytes);
        node.head.owner = U64::new(inode);
        node.head.generation = U64::new(generation);
        node.head.level = U16::new(level);
        self.overlay
            .insert(address, Arc::new(bytes), LockName::Unit(inode));
        Ok(address)
    }

    /// Counts a node of a tree; returns the inode's generation.
    async fn count_nodes(&mut self, inode: u64, more: bool) -> Result<u64, Error> {
        let head = &mut self.change_inode(inode).await?.head;
        let nodes = head.nodes.get();
        head.nodes.set(if more {
            nodes.saturating_add(1)
        } else {
            nodes.saturating_sub(1)
        });
        Ok(head.generation.get())
    }

    // Units of trees.

    async fn tree_root(&mut self, inode: u64) -> Result<Arc<Bytes>, Error> {
        self.load(inode, MAGIC_INODE, LockName::Unit(inode)).await
    }

    async fn tree_unit(&mut self, inode: u64, at: u64) -> Result<Arc<Bytes>, Error> {
        let magic = if at == inode { MAGIC_INODE } else { MAGIC_NODE };
        self.load(at, magic, LockName::Unit(inode)).await
    }

    async fn tree_change(&mut self, inode: u64, at: u64) -> Result<&mut Bytes, Error> {
        let magic = if at == inode { MAGIC_INODE } else { MAGIC_NODE };
        self.change(at, magic, LockName::Unit(inode)).await
    }

    /// Returns the inode of a lock that is kept exclusively, to change it.
    pub(crate) async fn change_inode(&mut self, inode: u64) -> Result<&mut Inode, Error> {
        let bytes = self
            .change(inode, MAGIC_INODE, LockName::Unit(inode))
            .await?;
        Ok(Inode::of_mut(bytes))
    }

    /// Reads a child and checks that it is one: its owner, and its level, which ends every descent.
    async fn tree_child(
        &mut self,
        inode: u64,
        parent: &Page<'_>,
        index: usize,
    ) -> Result<Arc<Bytes>, Error> {
        let damaged = Error::Damaged { address: inode };
        let address = parent.entries.get(index).ok_or(damaged)?.target.get();
        if self.layout.locate(address).is_none() || parent.level >= LEVELS_MAX {
            return Err(damaged);
        }
        let child = self
            .load(address, MAGIC_NODE, LockName::Unit(inode))
            .await?;
        let head = &Node::of(&child).head;
        let good = Header::of(&child).magic == MAGIC_NODE
            && head.owner.get() == inode
            && head.level.get().saturating_add(1) == parent.level;
        if good {
            Ok(child)
        } else {
            Err(Error::Damaged { address })
        }
    }
}

fn page_of(bytes: &Bytes, inode: u64) -> Result<Page<'_>, Error> {
    Page::of(bytes).ok_or(Error::Damaged { address: inode })
}

fn is_full(bytes: &Bytes, count: usize) -> bool {
    let room = if Header::of(bytes).magic == MAGIC_INODE {
        crate::format::INODE_ENTRIES
    } else {
        NODE_ENTRIES
    };
    count >= room
}
