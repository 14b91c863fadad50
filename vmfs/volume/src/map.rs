//! The mapping of a file's blocks: replacing ranges, allocating ahead, punching holes, changing the length.
//!
//! Long changes are cut into steps, each a transaction of its own that leaves a sound file; the length follows step by
//! step. Blocks beyond the length are sound, too: they are allocated ahead.

use alloc::vec::Vec;

use zerocopy::byteorder::little_endian::{U16, U64};

use crate::directory::FileId;
use crate::error::Error;
use crate::file::{FILE_BYTES_MAX, File, Run};
use crate::format::{
    BLOCK_BYTES, Entry, INLINE_MAX, Inode, LAYOUT_INLINE, LAYOUT_SUB_BLOCK, LAYOUT_TREE,
    MAGIC_INODE, SUB_BLOCK_BYTES, UNWRITTEN,
};
use crate::locks::LockName;
use crate::volume::{Host, Volume, operate};

/// Extents that one step frees at most, so that a step fits the smallest journal.
pub(crate) const EXTENTS_PER_STEP: usize = 8;

/// How blocks are allocated ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provision {
    /// As unwritten: they read as zeros without having been zeroed (lazily zeroed thick disks).
    Unwritten,
    /// Zeroed on the device, so that later writes change no metadata (eagerly zeroed thick disks).
    Zeroed,
}

/// Makes an extent.
pub(crate) const fn extent(first: u64, block: u64, count: u64, unwritten: bool) -> Entry {
    Entry::new(first, block, count | if unwritten { UNWRITTEN } else { 0 })
}

impl<H: Host> Volume<H> {
    /// Allocates the holes among `len` bytes from `offset` on; the length stays.
    ///
    /// # Errors
    /// [`Error::NoSpace`] with a part allocated, [`Error::Mode`], [`Error::TooLong`], or the device's.
    pub async fn allocate(
        &mut self,
        file: &mut File,
        offset: u64,
        len: u64,
        provision: Provision,
    ) -> Result<(), Error> {
        file.check_exclusive()?;
        let end = end_of(offset, len)?.div_ceil(BLOCK_BYTES);
        self.make_tree(file).await?;
        let mut block = offset / BLOCK_BYTES;
        while block < end {
            let run = self.run(file, block).await?;
            let Run::Hole { count } = run else {
                block = block.saturating_add(run.count());
                continue;
            };
            let want = count.min(end.saturating_sub(block));
            let id = file.id;
            file.forget();
            let done = operate!(self, |volume| volume
                .allocate_step(id, block, want, provision)
                .await)?;
            block = block.saturating_add(done);
        }
        Ok(())
    }

    async fn allocate_step(
        &mut self,
        id: FileId,
        first: u64,
        want: u64,
        provision: Provision,
    ) -> Result<u64, Error> {
        let near = self.block_after(id.inode, first).await?;
        let (block, count) = self.allocate_blocks(want, near).await?;
        if provision == Provision::Zeroed {
            let at = block.saturating_mul(BLOCK_BYTES);
            self.disk
                .zero(at, count.saturating_mul(BLOCK_BYTES))
                .await?;
        }
        let unwritten = provision == Provision::Unwritten;
        self.map(id.inode, &extent(first, block, count, unwritten))
            .await?;
        self.count_blocks(id.inode, count, true).await?;
        Ok(count)
    }

    /// Frees the whole blocks among `len` bytes from `offset` on and zeroes the rest of them; the length stays.
    ///
    /// # Errors
    /// [`Error::Mode`], [`Error::TooLong`], or the device's; then a part may be punched.
    pub async fn punch(&mut self, file: &mut File, offset: u64, len: u64) -> Result<(), Error> {
        file.check_exclusive()?;
        let end = end_of(offset, len)?;
        if file.layout != LAYOUT_TREE {
            let end = end.min(file.size);
            let zeros = end.saturating_sub(offset);
            return self.write_zeros_small(file, offset, zeros).await;
        }
        let first = offset.div_ceil(BLOCK_BYTES);
        let last = (end / BLOCK_BYTES).max(first);
        let inner = first.saturating_mul(BLOCK_BYTES);
        let outer = last.saturating_mul(BLOCK_BYTES);
        self.zero_written(file, offset, inner.min(end)).await?;
        self.zero_written(file, outer.max(offset), end).await?;
        file.forget();
        let id = file.id;
        while operate!(self, |volume| volume.free_step(id, first, last).await)? {}
        Ok(())
    }

    /// Writes zeros over a part of one block where it is written.
    pub(crate) async fn zero_written(
        &mut self,
        file: &mut File,
        from: u64,
        to: u64,
    ) -> Result<(), Error> {
        if from >= to {
            return Ok(());
        }
        if let Run::Written { block, .. } = self.run(file, from / BLOCK_BYTES).await? {
            let at = block
                .saturating_mul(BLOCK_BYTES)
                .saturating_add(from % BLOCK_BYTES);
            self.disk.zero(at, to.saturating_sub(from)).await?;
        }
        Ok(())
    }

    /// Changes the length of a file; what is added reads as zeros.
    ///
    /// # Errors
    /// [`Error::Mode`], [`Error::TooLong`], or the device's; then the length may be between the old and the new one.
    pub async fn set_len(&mut self, file: &mut File, len: u64) -> Result<(), Error> {
        file.check_exclusive()?;
        end_of(len, 0)?;
        if len > capacity(file.layout) {
            self.make_tree(file).await?;
        }
        if len > file.size {
            self.zero_gap(file, len).await?;
        } else if file.layout == LAYOUT_TREE {
            self.shrink(file, len).await?;
        }
        self.set_size(file, len).await
    }

    /// Zeroes what lies behind the end of a file in its last block, before the length grows over it.
    pub(crate) async fn zero_gap(&mut self, file: &mut File, to: u64) -> Result<(), Error> {
        let from = file.size;
        let to = to.min(from.next_multiple_of(BLOCK_BYTES));
        if file.layout == LAYOUT_TREE {
            return self.zero_written(file, from, to).await;
        }
        self.write_zeros_small(
            file,
            from,
            to.min(capacity(file.layout)).saturating_sub(from),
        )
        .await
    }

    async fn shrink(&mut self, file: &mut File, len: u64) -> Result<(), Error> {
        file.forget();
        let id = file.id;
        let keep = len.div_ceil(BLOCK_BYTES);
        loop {
            let more = operate!(self, |volume| {
                let more = volume.free_step(id, keep, u64::MAX).await?;
                let left = volume.tree_floor(id.inode, u64::MAX).await?;
                let end = left.map_or(0, |extent| extent.key.get().saturating_add(extent.blocks()));
                let size = &mut volume.change_inode(id.inode).await?.head.size;
                let reached = end.saturating_mul(BLOCK_BYTES).max(len);
                size.set(size.get().min(reached));
                Ok(more)
            })?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Puts a new length into the inode.
    pub(crate) async fn set_size(&mut self, file: &mut File, len: u64) -> Result<(), Error> {
        let id = file.id;
        operate!(self, |volume| {
            let now = volume.unix_seconds();
            let head = &mut volume.change_inode(id.inode).await?.head;
            head.size.set(len);
            head.modified.set(now);
            Ok(())
        })?;
        file.size = len;
        Ok(())
    }

    /// Frees the last few extents of a file's blocks from `first` to `last`; returns whether there may be more.
    pub(crate) async fn free_step(
        &mut self,
        id: FileId,
        first: u64,
        last: u64,
    ) -> Result<bool, Error> {
        for _ in 0..EXTENTS_PER_STEP {
            let Some(below) = last.checked_sub(1) else {
                return Ok(false);
            };
            let Some(found) = self.tree_floor(id.inode, below).await? else {
                return Ok(false);
            };
            let start = found.key.get().max(first);
            let end = found.key.get().saturating_add(found.blocks()).min(last);
            if start >= end {
                return Ok(false);
            }
            let skip = start.saturating_sub(found.key.get());
            let block = found.target.get().saturating_add(skip);
            let count = end.saturating_sub(start);
            self.check_extent(id.inode, &found)?;
            self.unmap(id.inode, start, count).await?;
            self.free_blocks(block, count).await?;
            self.count_blocks(id.inode, count, false).await?;
        }
        Ok(true)
    }

    /// Returns the block behind the one that the file's block before `first` is mapped to, 0 if there is none.
    pub(crate) async fn block_after(&mut self, inode: u64, first: u64) -> Result<u64, Error> {
        let Some(before) = first.checked_sub(1) else {
            return Ok(0);
        };
        let extent = self.tree_floor(inode, before).await?;
        Ok(extent.map_or(0, |extent| {
            let skip = first.saturating_sub(extent.key.get());
            extent
                .target
                .get()
                .saturating_add(skip.min(extent.blocks()))
        }))
    }

    /// Maps a range to an extent, whatever it was mapped to before.
    pub(crate) async fn map(&mut self, inode: u64, new: &Entry) -> Result<(), Error> {
        let mut first = new.key.get();
        let mut block = new.target.get();
        let mut count = new.blocks();
        let unwritten = new.is_unwritten();
        self.unmap(inode, first, count).await?;
        // Neighbours that continue in the volume become one with it.
        if let Some(below) = first.checked_sub(1)
            && let Some(before) = self.tree_floor(inode, below).await?
            && joins(&before, first, block, unwritten)
        {
            self.tree_remove(inode, before.key.get()).await?;
            first = before.key.get();
            block = before.target.get();
            count = count.saturating_add(before.blocks());
        }
        let end = first.saturating_add(count);
        if let Some(after) = self.tree_ceiling(inode, end).await?
            && after.key.get() == end
            && joins(
                &extent(first, block, count, unwritten),
                end,
                after.target.get(),
                after.is_unwritten(),
            )
        {
            self.tree_remove(inode, end).await?;
            count = count.saturating_add(after.blocks());
        }
        self.tree_insert(inode, extent(first, block, count, unwritten))
            .await
    }

    /// Takes a range out of the mapping; extents that reach over its edges are cut.
    pub(crate) async fn unmap(&mut self, inode: u64, first: u64, count: u64) -> Result<(), Error> {
        let end = first.saturating_add(count);
        let mut cut: Vec<Entry> = Vec::new();
        while let Some(found) = self.tree_floor(inode, end.saturating_sub(1)).await? {
            let key = found.key.get();
            let found_end = key.saturating_add(found.blocks());
            if found_end <= first {
                break;
            }
            self.tree_remove(inode, key).await?;
            let target = found.target.get();
            if key < first {
                let kept = first.saturating_sub(key);
                cut.push(extent(key, target, kept, found.is_unwritten()));
            }
            if found_end > end {
                let skip = end.saturating_sub(key);
                let kept = found_end.saturating_sub(end);
                let block = target.saturating_add(skip);
                cut.push(extent(end, block, kept, found.is_unwritten()));
            }
            if key < first {
                break;
            }
        }
        for part in cut {
            self.tree_insert(inode, part).await?;
        }
        Ok(())
    }

    pub(crate) async fn count_blocks(
        &mut self,
        inode: u64,
        count: u64,
        more: bool,
    ) -> Result<(), Error> {
        let now = self.unix_seconds();
        let head = &mut self.change_inode(inode).await?.head;
        let blocks = head.blocks.get();
        head.blocks.set(if more {
            blocks.saturating_add(count)
        } else {
            blocks.saturating_sub(count)
        });
        head.modified.set(now);
        Ok(())
    }

    /// Gives a file blocks of its own, if it lies in its inode or in a sub-block.
    pub(crate) async fn make_tree(&mut self, file: &mut File) -> Result<(), Error> {
        if file.layout == LAYOUT_TREE {
            return Ok(());
        }
        let id = file.id;
        operate!(self, |volume| volume.make_tree_once(id).await)?;
        file.layout = LAYOUT_TREE;
        Ok(())
    }

    async fn make_tree_once(&mut self, id: FileId) -> Result<(), Error> {
        let owner = LockName::Unit(id.inode);
        let image = self.load(id.inode, MAGIC_INODE, owner).await?;
        let (content, sub_block) = self.small_content(id.inode, Inode::of(&image)).await?;
        let mut root = None;
        if !content.is_empty() {
            let (block, count) = self.allocate_blocks(1, 0).await?;
            let at = block.saturating_mul(BLOCK_BYTES);
            self.disk.write_bytes(at, &content).await?;
            let used = content.len() as u64;
            self.disk
                .zero(at.saturating_add(used), BLOCK_BYTES.saturating_sub(used))
                .await?;
            root = Some(extent(0, block, count, false));
        }
        let inode = self.change_inode(id.inode).await?;
        inode.root = core::array::from_fn(|_| Entry::new(0, 0, 0));
        inode.head.layout = U16::new(LAYOUT_TREE);
        inode.head.entries = U16::new(u16::from(root.is_some()));
        inode.head.blocks = U64::new(u64::from(root.is_some()));
        if let (Some(slot), Some(extent)) = (inode.root.first_mut(), root) {
            *slot = extent;
        }
        match sub_block {
            Some(number) => self.free_sub_block(number).await,
            None => Ok(()),
        }
    }

    /// Returns the bytes of a small file, and its sub-block if it has one.
    pub(crate) async fn small_content(
        &self,
        address: u64,
        inode: &Inode,
    ) -> Result<(Vec<u8>, Option<u64>), Error> {
        let size = inode.head.size.get();
        let len = usize::try_from(size).map_err(|_| Error::Damaged { address })?;
        if inode.head.layout.get() == LAYOUT_SUB_BLOCK {
            let number = self.sub_block_of(address, inode)?;
            if size > SUB_BLOCK_BYTES {
                return Err(Error::Damaged { address });
            }
            let mut content = alloc::vec![0; len];
            let at = number.saturating_mul(SUB_BLOCK_BYTES);
            self.disk.read_bytes(at, &mut content).await?;
            return Ok((content, Some(number)));
        }
        let bytes = zerocopy::IntoBytes::as_bytes(&inode.root);
        let content = bytes.get(..len).ok_or(Error::Damaged { address })?;
        Ok((content.to_vec(), None))
    }

    /// Returns the number of the sub-block of a file that has one.
    pub(crate) fn sub_block_of(&self, address: u64, inode: &Inode) -> Result<u64, Error> {
        let number = inode.root.first().map_or(0, |entry| entry.target.get());
        if self.layout.is_sub_block(number) {
            Ok(number)
        } else {
            Err(Error::Damaged { address })
        }
    }
}

/// Tells whether an extent goes on where another begins, in the file and in the volume.
fn joins(before: &Entry, first: u64, block: u64, unwritten: bool) -> bool {
    before.is_unwritten() == unwritten
        && before.key.get().saturating_add(before.blocks()) == first
        && before.target.get().saturating_add(before.blocks()) == block
        && before.blocks() < u64::from(u32::MAX) / 2
}

/// Returns the bytes that a file of a layout can hold.
pub(crate) const fn capacity(layout: u16) -> u64 {
    match layout {
        LAYOUT_INLINE => INLINE_MAX as u64,
        LAYOUT_SUB_BLOCK => SUB_BLOCK_BYTES,
        _ => FILE_BYTES_MAX,
    }
}

/// Returns the end of a range of a file.
pub(crate) fn end_of(offset: u64, len: u64) -> Result<u64, Error> {
    offset
        .checked_add(len)
        .filter(|end| *end <= FILE_BYTES_MAX)
        .ok_or(Error::TooLong)
}
