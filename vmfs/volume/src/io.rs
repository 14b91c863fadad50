//! Reading and writing files.
//!
//! What is mapped and written goes straight to the device. Everything else takes the way of an operation: data first,
//! then the transaction that makes it part of the file.

use api::block::{Buffer, Durability};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U16;

use crate::directory::FileId;
use crate::error::Error;
use crate::file::{File, Run};
use crate::format::{
    BLOCK_BYTES, Entry, Inode, LAYOUT_INLINE, LAYOUT_SUB_BLOCK, LAYOUT_TREE, MAGIC_INODE,
    SUB_BLOCK_BYTES,
};
use crate::locks::{LockMode, LockName};
use crate::map::{capacity, end_of, extent};
use crate::volume::{Host, Volume, operate};

/// Blocks that one step writes where nothing was written before.
const BLOCKS_PER_STEP: u64 = 64;

impl<H: Host> Volume<H> {
    /// Reads from a file at `offset`; returns the buffer and how many bytes of it the file had.
    pub async fn read(
        &mut self,
        file: &mut File,
        offset: u64,
        buffer: Buffer,
    ) -> (Buffer, Result<usize, Error>) {
        if self.failed {
            return (buffer, Err(Error::Failed));
        }
        if let Some(at) = self.direct(file, offset, buffer.len()) {
            let len = buffer.len();
            let (buffer, result) = self.disk.read(at, buffer).await;
            return (buffer, result.map(|()| len).map_err(Error::Block));
        }
        let mut buffer = buffer;
        let result = self.read_pieces(file, offset, &mut buffer).await;
        (buffer, result)
    }

    /// Writes to a file at `offset`; it grows if needed. Durable after the next [`Self::fsync`].
    pub async fn write(
        &mut self,
        file: &mut File,
        offset: u64,
        buffer: Buffer,
    ) -> (Buffer, Result<(), Error>) {
        if self.failed {
            return (buffer, Err(Error::Failed));
        }
        if file.mode == LockMode::Shared {
            return (buffer, Err(Error::Mode));
        }
        if let Some(at) = self.direct(file, offset, buffer.len()) {
            // An earlier write whose future was dropped must not land after this one.
            self.disk.settle().await;
            let (buffer, result) = self.disk.write(at, buffer, Durability::Cached).await;
            return (buffer, result.map_err(Error::Block));
        }
        let result = self.write_pieces(file, offset, &buffer).await;
        (buffer, result)
    }

    /// Returns the byte address of a request that one request to the device serves.
    fn direct(&self, file: &File, offset: u64, len: usize) -> Option<u64> {
        let sector = u64::from(self.disk.geometry().logical_block);
        let whole =
            offset.checked_rem(sector) == Some(0) && (len as u64).checked_rem(sector) == Some(0);
        if whole {
            file.mapped(offset, len as u64)
        } else {
            None
        }
    }

    async fn read_pieces(
        &mut self,
        file: &mut File,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, Error> {
        let len = file.size.saturating_sub(offset).min(buffer.len() as u64);
        let len = usize::try_from(len).map_err(|_| Error::TooLong)?;
        let target = buffer.get_mut(..len).unwrap_or_default();
        if target.is_empty() {
            return Ok(0);
        }
        if file.layout != LAYOUT_TREE {
            self.read_small(file, offset, target).await?;
            return Ok(len);
        }
        let mut at = offset;
        let mut rest = target;
        while !rest.is_empty() {
            let run = self.run(file, at / BLOCK_BYTES).await?;
            let (piece, after) = rest.split_at_mut(piece_len(at, run.count(), rest.len()));
            match run {
                Run::Written { block, .. } => {
                    let from = block
                        .saturating_mul(BLOCK_BYTES)
                        .saturating_add(at % BLOCK_BYTES);
                    self.disk.read_bytes(from, piece).await?;
                }
                Run::Unwritten { .. } | Run::Hole { .. } => piece.fill(0),
            }
            at = at.saturating_add(piece.len() as u64);
            rest = after;
        }
        Ok(len)
    }

    async fn read_small(
        &mut self,
        file: &File,
        offset: u64,
        target: &mut [u8],
    ) -> Result<(), Error> {
        let address = file.id.inode;
        let image = self
            .load(address, MAGIC_INODE, LockName::Unit(address))
            .await?;
        let (content, _) = self.small_content(address, Inode::of(&image)).await?;
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let source = content
            .get(skip..)
            .and_then(|rest| rest.get(..target.len()));
        target.copy_from_slice(source.ok_or(Error::Damaged { address })?);
        Ok(())
    }

    async fn write_pieces(
        &mut self,
        file: &mut File,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let end = end_of(offset, bytes.len() as u64)?;
        if bytes.is_empty() {
            return Ok(());
        }
        if file.mode == LockMode::Exclusive {
            if file.layout != LAYOUT_TREE && end > capacity(file.layout) {
                self.outgrow(file, end).await?;
            }
            if file.layout != LAYOUT_TREE {
                return self.write_small(file, offset, bytes).await;
            }
            if offset > file.size {
                self.zero_gap(file, offset).await?;
            }
        } else if end > file.size || file.layout != LAYOUT_TREE {
            return Err(Error::Mode);
        }
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let run = self.run(file, at / BLOCK_BYTES).await?;
            let (piece, _) = rest.split_at(piece_len(at, run.count(), rest.len()));
            let done = self.write_piece(file, at, piece, run).await?;
            at = at.saturating_add(done as u64);
            rest = rest.get(done..).unwrap_or_default();
        }
        if end > file.size {
            self.set_size(file, end).await?;
        }
        Ok(())
    }

    /// Writes a part of a run; returns how many bytes.
    async fn write_piece(
        &mut self,
        file: &mut File,
        at: u64,
        piece: &[u8],
        run: Run,
    ) -> Result<usize, Error> {
        if let Run::Written { block, .. } = run {
            self.disk.settle().await;
            let to = block
                .saturating_mul(BLOCK_BYTES)
                .saturating_add(at % BLOCK_BYTES);
            self.disk.write_bytes(to, piece).await?;
            return Ok(piece.len());
        }
        file.check_exclusive()?;
        file.forget();
        let id = file.id;
        operate!(self, |volume| volume.fill(id, at, piece, run).await)
    }

    /// Writes into blocks that hold nothing yet, and makes them part of the file; returns how many bytes.
    async fn fill(&mut self, id: FileId, at: u64, piece: &[u8], run: Run) -> Result<usize, Error> {
        let first = at / BLOCK_BYTES;
        let end = at.saturating_add(piece.len() as u64).div_ceil(BLOCK_BYTES);
        let want = end.saturating_sub(first).min(BLOCKS_PER_STEP);
        let (block, count) = match run {
            Run::Hole { .. } => {
                let near = self.block_after(id.inode, first).await?;
                let (block, count) = self.allocate_blocks(want, near).await?;
                self.count_blocks(id.inode, count, true).await?;
                (block, count)
            }
            Run::Unwritten { block, count } | Run::Written { block, count } => {
                (block, count.min(want))
            }
        };
        let len = piece_len(at, count, piece.len());
        let piece = piece.get(..len).unwrap_or_default();
        let start = block.saturating_mul(BLOCK_BYTES);
        let before = at % BLOCK_BYTES;
        let used = before.saturating_add(len as u64);
        let all = count.saturating_mul(BLOCK_BYTES);
        self.disk.zero(start, before).await?;
        self.disk
            .zero(start.saturating_add(used), all.saturating_sub(used))
            .await?;
        self.disk
            .write_bytes(start.saturating_add(before), piece)
            .await?;
        self.map(id.inode, &extent(first, block, count, false))
            .await?;
        Ok(len)
    }

    /// Moves a small file to where `end` bytes have room.
    async fn outgrow(&mut self, file: &mut File, end: u64) -> Result<(), Error> {
        if end > SUB_BLOCK_BYTES {
            return self.make_tree(file).await;
        }
        let id = file.id;
        operate!(self, |volume| volume.make_sub_block(id).await)?;
        file.layout = LAYOUT_SUB_BLOCK;
        Ok(())
    }

    async fn make_sub_block(&mut self, id: FileId) -> Result<(), Error> {
        let owner = LockName::Unit(id.inode);
        let image = self.load(id.inode, MAGIC_INODE, owner).await?;
        let (content, _) = self.small_content(id.inode, Inode::of(&image)).await?;
        let number = self.allocate_sub_block().await?;
        let mut buffer = Buffer::zeroed(usize::try_from(SUB_BLOCK_BYTES).unwrap_or(0));
        if let Some(target) = buffer.get_mut(..content.len()) {
            target.copy_from_slice(&content);
        }
        let at = number.saturating_mul(SUB_BLOCK_BYTES);
        let (_, result) = self.disk.write(at, buffer, Durability::Cached).await;
        result?;
        let inode = self.change_inode(id.inode).await?;
        inode.root = core::array::from_fn(|_| Entry::new(0, 0, 0));
        inode.head.layout = U16::new(LAYOUT_SUB_BLOCK);
        if let Some(slot) = inode.root.first_mut() {
            *slot = Entry::new(0, number, 0);
        }
        Ok(())
    }

    /// Writes into an inode or a sub-block, which has the room.
    async fn write_small(
        &mut self,
        file: &mut File,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let end = offset.saturating_add(bytes.len() as u64);
        let size = file.size.max(end);
        let gap = offset.saturating_sub(file.size);
        let id = file.id;
        let address = id.inode;
        if file.layout == LAYOUT_INLINE {
            operate!(self, |volume| volume
                .write_inline(id, offset, gap, bytes, size)
                .await)?;
            file.size = size;
            return Ok(());
        }
        let image = self
            .load(address, MAGIC_INODE, LockName::Unit(address))
            .await?;
        let number = self.sub_block_of(address, Inode::of(&image))?;
        let start = number.saturating_mul(SUB_BLOCK_BYTES);
        self.disk.settle().await;
        self.disk.zero(start.saturating_add(file.size), gap).await?;
        self.disk
            .write_bytes(start.saturating_add(offset), bytes)
            .await?;
        if size > file.size {
            self.set_size(file, size).await?;
        }
        Ok(())
    }

    async fn write_inline(
        &mut self,
        id: FileId,
        offset: u64,
        gap: u64,
        bytes: &[u8],
        size: u64,
    ) -> Result<(), Error> {
        let now = self.unix_seconds();
        let damaged = Error::Damaged { address: id.inode };
        let inode = self.change_inode(id.inode).await?;
        let from = usize::try_from(offset).map_err(|_| damaged)?;
        let gap = usize::try_from(gap).map_err(|_| damaged)?;
        let content = inode.root.as_mut_bytes();
        let zeros = content
            .get_mut(from.saturating_sub(gap)..from)
            .ok_or(damaged)?;
        zeros.fill(0);
        let target = content
            .get_mut(from..)
            .and_then(|rest| rest.get_mut(..bytes.len()))
            .ok_or(damaged)?;
        target.copy_from_slice(bytes);
        inode.head.size.set(size);
        inode.head.modified.set(now);
        Ok(())
    }

    /// Writes zeros into a small file's room without changing its length.
    pub(crate) async fn write_zeros_small(
        &mut self,
        file: &mut File,
        from: u64,
        len: u64,
    ) -> Result<(), Error> {
        let len = usize::try_from(len).map_err(|_| Error::TooLong)?;
        if len == 0 {
            return Ok(());
        }
        let size = file.size;
        self.write_small(file, from, &alloc::vec![0; len]).await?;
        if file.size != size {
            self.set_size(file, size).await?;
        }
        Ok(())
    }
}

/// Returns how many of `len` bytes at `at` lie in the `count` blocks that begin with the one of `at`.
fn piece_len(at: u64, count: u64, len: usize) -> usize {
    let room = count
        .saturating_mul(BLOCK_BYTES)
        .saturating_sub(at % BLOCK_BYTES);
    usize::try_from(room).unwrap_or(usize::MAX).min(len)
}
