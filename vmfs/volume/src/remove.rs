//! Removing files and directories.
//!
//! What one transaction can free goes with the name. A larger file first loses its name and is noted in the slot's unit;
//! then its blocks go step by step, and if this host dies on the way, the next one with this slot goes on.

use zerocopy::byteorder::little_endian::{U16, U32, U64};

use crate::directory::FileId;
use crate::error::Error;
use crate::format::{
    Inode, KIND_DIRECTORY, LAYOUT_SUB_BLOCK, LAYOUT_TREE, MAGIC_INODE, MAGIC_SLOT, STATE_DELETING,
    SlotUnit,
};
use crate::locks::LockName;
use crate::map::EXTENTS_PER_STEP;
use crate::volume::{Host, Volume, operate};

impl<H: Host> Volume<H> {
    /// Removes a file, or a directory that is empty.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotEmpty`], [`Error::Busy`] if it is open, or the device's.
    pub async fn remove(&mut self, directory: FileId, name: &str) -> Result<(), Error> {
        crate::directory::check_name(name)?;
        let rest = operate!(self, |volume| volume.remove_once(directory, name).await)?;
        match rest {
            Some(id) => self.finish_delete(id).await,
            None => Ok(()),
        }
    }

    /// Takes the name away; returns the file if it is too large to be freed at once.
    async fn remove_once(
        &mut self,
        directory: FileId,
        name: &str,
    ) -> Result<Option<FileId>, Error> {
        self.lock_directory(directory, crate::locks::LockMode::Exclusive)
            .await?;
        let entry = self
            .find_name(directory, name)
            .await?
            .ok_or(Error::NotFound)?;
        let address = entry.target.get();
        let owner = LockName::Unit(address);
        self.lock_for_change(address).await?;
        if self.kept.get_mut(owner).is_some_and(|kept| kept.pins > 0) {
            return Err(Error::Busy);
        }
        let image = self.load(address, MAGIC_INODE, owner).await?;
        let inode = Inode::of(&image);
        if inode.head.kind.get() == KIND_DIRECTORY && inode.head.entries.get() != 0 {
            return Err(Error::NotEmpty);
        }
        self.tree_remove(directory.inode, entry.key.get()).await?;
        self.count_entries(directory, false).await?;
        let id = FileId {
            inode: address,
            generation: inode.head.generation.get(),
        };
        let is_tree = inode.head.layout.get() == LAYOUT_TREE;
        let small =
            inode.head.level.get() == 0 && usize::from(inode.head.entries.get()) < EXTENTS_PER_STEP;
        if !is_tree || small {
            self.free_file_step(id).await?;
            return Ok(None);
        }
        self.change_inode(address).await?.head.state = U16::new(STATE_DELETING);
        self.add_pending(address).await?;
        Ok(Some(id))
    }

    /// Frees what is left of a file without a name.
    async fn finish_delete(&mut self, id: FileId) -> Result<(), Error> {
        while operate!(self, |volume| {
            volume.lock_for_change(id.inode).await?;
            let more = volume.free_file_step(id).await?;
            if !more {
                volume.remove_pending(id.inode).await?;
            }
            Ok(more)
        })? {}
        Ok(())
    }

    /// Frees some of a file's blocks, and its inode when none is left; returns whether something is left.
    async fn free_file_step(&mut self, id: FileId) -> Result<bool, Error> {
        let image = self
            .load(id.inode, MAGIC_INODE, LockName::Unit(id.inode))
            .await?;
        let inode = Inode::of(&image);
        let is_file = inode.head.kind.get() != KIND_DIRECTORY;
        match inode.head.layout.get() {
            LAYOUT_TREE if is_file && self.free_step(id, 0, u64::MAX).await? => return Ok(true),
            LAYOUT_SUB_BLOCK => {
                let number = self.sub_block_of(id.inode, inode)?;
                self.free_sub_block(number).await?;
            }
            _ => {}
        }
        drop(image);
        // The image says that it is free, too: so nobody takes an old address for a file.
        let inode = self.change_inode(id.inode).await?;
        inode.head.state = U16::new(0);
        inode.head.size = U64::new(0);
        self.free_inode(id.inode).await?;
        Ok(false)
    }

    async fn slot_unit(&mut self) -> Result<&mut SlotUnit, Error> {
        let address = self.layout.slot_unit(self.slot);
        let bytes = self
            .change(address, MAGIC_SLOT, LockName::Unit(address))
            .await?;
        Ok(SlotUnit::of_mut(bytes))
    }

    async fn add_pending(&mut self, inode: u64) -> Result<(), Error> {
        let unit = self.slot_unit().await?;
        let count = usize::try_from(unit.count.get()).unwrap_or(usize::MAX);
        let slot = unit.pending.get_mut(count).ok_or(Error::NoSpace)?;
        *slot = U64::new(inode);
        unit.count.set(unit.count.get().saturating_add(1));
        Ok(())
    }

    async fn remove_pending(&mut self, inode: u64) -> Result<(), Error> {
        let unit = self.slot_unit().await?;
        let count = usize::try_from(unit.count.get()).unwrap_or(usize::MAX);
        let Some(pending) = unit.pending.get_mut(..count) else {
            return Ok(());
        };
        let Some(index) = pending.iter().position(|other| other.get() == inode) else {
            return Ok(());
        };
        if let Some(tail) = pending.get_mut(index..) {
            tail.rotate_left(1);
        }
        if let Some(last) = pending.last_mut() {
            *last = U64::new(0);
        }
        unit.count = U32::new(unit.count.get().saturating_sub(1));
        Ok(())
    }

    /// Goes on deleting what an earlier host of this slot did not end.
    pub(crate) async fn finish_pending(&mut self) -> Result<(), Error> {
        let address = self.layout.slot_unit(self.slot);
        let image = self
            .load(address, MAGIC_SLOT, LockName::Unit(address))
            .await?;
        let unit = SlotUnit::of(&image);
        let count = usize::try_from(unit.count.get()).unwrap_or(usize::MAX);
        let pending = unit
            .pending
            .get(..count)
            .ok_or(Error::Damaged { address })?;
        for inode in pending {
            let inode = inode.get();
            if !self.layout.is_inode(inode) {
                return Err(Error::Damaged { address });
            }
            let bytes = self.peek(inode, MAGIC_INODE).await?;
            let head = &Inode::of(&bytes).head;
            if head.state.get() == STATE_DELETING {
                let generation = head.generation.get();
                self.finish_delete(FileId { inode, generation }).await?;
            }
        }
        Ok(())
    }
}
