//! Open files: opening, closing, and the part of a file's mapping that a handle remembers.

use api::time::HostInstant;

use crate::directory::{FileId, check_generation};
use crate::error::Error;
use crate::format::{BLOCK_BYTES, Entry, Inode, KIND_FILE, LAYOUT_TREE, MAGIC_INODE};
use crate::locks::{LockMode, LockName};
use crate::volume::{Host, Volume, operate};

/// Extents that a handle remembers.
const REMEMBERED: usize = 8;
/// Most bytes of a file.
pub const FILE_BYTES_MAX: u64 = 1 << 50;

/// An open file. It must be given back to [`Volume::close`]; a handle that is dropped keeps the file locked until the
/// volume is unmounted.
#[derive(Debug)]
pub struct File {
    pub(crate) id: FileId,
    pub(crate) mode: LockMode,
    pub(crate) size: u64,
    pub(crate) layout: u16,
    extents: [Entry; REMEMBERED],
    /// Which extent the next one replaces.
    next: usize,
}

/// What a range of blocks of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Blocks of the volume that hold data.
    Written {
        /// First block in the volume.
        block: u64,
        /// Number of blocks.
        count: u64,
    },
    /// Blocks that were allocated and never written; they read as zeros.
    Unwritten {
        /// First block in the volume.
        block: u64,
        /// Number of blocks.
        count: u64,
    },
    /// Nothing is allocated; it reads as zeros.
    Hole {
        /// Number of blocks.
        count: u64,
    },
}

impl Run {
    /// Returns the number of blocks.
    #[must_use]
    pub const fn count(&self) -> u64 {
        match self {
            Self::Written { count, .. } | Self::Unwritten { count, .. } | Self::Hole { count } => {
                *count
            }
        }
    }

    /// Returns what an extent is from one of its blocks on; `None` if the extent does not reach that block.
    pub(crate) fn of_extent(extent: &Entry, at: u64) -> Option<Self> {
        let skip = at.checked_sub(extent.key.get())?;
        let count = extent
            .blocks()
            .checked_sub(skip)
            .filter(|count| *count > 0)?;
        let block = extent.target.get().saturating_add(skip);
        Some(if extent.is_unwritten() {
            Self::Unwritten { block, count }
        } else {
            Self::Written { block, count }
        })
    }
}

impl File {
    /// Returns which file this is.
    #[must_use]
    pub const fn id(&self) -> FileId {
        self.id
    }

    /// Returns the bytes of the file.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.size
    }

    /// Tells whether the file holds no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Returns where `len` bytes from `offset` on lie on the device, as a byte address, if they lie in one run that is
    /// written and that the handle remembers: then they can be read and written past the volume.
    #[must_use]
    pub fn mapped(&self, offset: u64, len: u64) -> Option<u64> {
        let end = offset.checked_add(len)?;
        if self.layout != LAYOUT_TREE || end > self.size {
            return None;
        }
        let block = offset / BLOCK_BYTES;
        self.extents.iter().find_map(|extent| {
            let Run::Written { block: at, count } = Run::of_extent(extent, block)? else {
                return None;
            };
            let limit = block.checked_add(count)?.checked_mul(BLOCK_BYTES)?;
            let start = at.checked_mul(BLOCK_BYTES)?;
            (end <= limit).then(|| start.saturating_add(offset % BLOCK_BYTES))
        })
    }

    pub(crate) fn remember(&mut self, extent: &Entry) {
        if let Some(slot) = self.extents.get_mut(self.next) {
            *slot = extent.clone();
        }
        self.next = self
            .next
            .saturating_add(1)
            .checked_rem(REMEMBERED)
            .unwrap_or(0);
    }

    /// Forgets the mapping, because it is about to change.
    pub(crate) fn forget(&mut self) {
        self.extents = core::array::from_fn(|_| Entry::new(0, 0, 0));
    }

    pub(crate) fn check_exclusive(&self) -> Result<(), Error> {
        if self.mode == LockMode::Exclusive {
            Ok(())
        } else {
            Err(Error::Mode)
        }
    }
}

impl<H: Host> Volume<H> {
    /// Opens a file. Exclusive handles may do everything; shared ones read; multi-writer ones read and write what is
    /// allocated and written already, and several hosts may have them at a time.
    ///
    /// # Errors
    /// [`Error::Busy`] if another handle here excludes it, [`Error::LockTimeout`] if one on another host does,
    /// [`Error::NotFound`], [`Error::IsADirectory`], or the device's.
    pub async fn open(&mut self, id: FileId, mode: LockMode) -> Result<File, Error> {
        let name = LockName::Unit(id.inode);
        if !self.layout.is_inode(id.inode) {
            return Err(Error::NotFound);
        }
        let (size, layout) = operate!(self, |volume| {
            volume.lock_for_open(name, mode).await?;
            let bytes = volume.load(id.inode, MAGIC_INODE, name).await?;
            let inode = Inode::of(&bytes);
            check_generation(inode, id)?;
            if inode.head.kind.get() != KIND_FILE {
                return Err(Error::IsADirectory);
            }
            Ok((inode.head.size.get(), inode.head.layout.get()))
        })?;
        if let Some(kept) = self.kept.get_mut(name) {
            kept.pins = kept.pins.saturating_add(1);
        }
        Ok(File {
            id,
            mode,
            size,
            layout,
            extents: core::array::from_fn(|_| Entry::new(0, 0, 0)),
            next: 0,
        })
    }

    /// Takes a lock in exactly this mode: a stronger one would keep other hosts out for as long as the file is open.
    async fn lock_for_open(&mut self, name: LockName, mode: LockMode) -> Result<(), Error> {
        if let Some(kept) = self.kept.get_mut(name)
            && kept.pins > 0
        {
            let compatible = kept.mode == mode && mode != LockMode::Exclusive;
            return if compatible { Ok(()) } else { Err(Error::Busy) };
        }
        if self.kept.mode(name).is_some_and(|kept| kept != mode) {
            self.give_back_one(name).await?;
        }
        self.lock(name, mode).await
    }

    /// Closes a file. What was not synced is not durable yet.
    pub fn close(&mut self, file: File) {
        let used = self.clock_now();
        if let Some(kept) = self.kept.get_mut(LockName::Unit(file.id.inode)) {
            kept.pins = kept.pins.saturating_sub(1);
            kept.used = used;
        }
    }

    fn clock_now(&self) -> HostInstant {
        api::time::Clock::now(&self.clock)
    }

    /// Makes all data and metadata of a file durable, and everything else that was done on this volume by this host.
    ///
    /// # Errors
    /// [`Error::Failed`]: then nothing is known about what was written since the last sync.
    pub async fn fsync(&mut self, _file: &File) -> Result<(), Error> {
        self.sync().await
    }

    /// Returns what a file is from a block on, and remembers it in the handle.
    ///
    /// # Errors
    /// The device's, or damage.
    pub async fn run(&mut self, file: &mut File, block: u64) -> Result<Run, Error> {
        if file.layout != LAYOUT_TREE {
            return Ok(Run::Hole { count: 1 });
        }
        let inode = file.id.inode;
        if let Some(extent) = self.tree_floor(inode, block).await?
            && let Some(run) = Run::of_extent(&extent, block)
        {
            self.check_extent(inode, &extent)?;
            file.remember(&extent);
            return Ok(run);
        }
        let next = match block.checked_add(1) {
            Some(above) => self.tree_ceiling(inode, above).await?,
            None => None,
        };
        let end = next.map_or(u64::MAX, |extent| extent.key.get());
        Ok(Run::Hole {
            count: end.saturating_sub(block).max(1),
        })
    }

    /// Checks that an extent names data blocks: nothing else is ever read or written for a file.
    pub(crate) fn check_extent(&self, inode: u64, extent: &Entry) -> Result<(), Error> {
        if self.layout.is_data(extent.target.get(), extent.blocks()) {
            Ok(())
        } else {
            Err(Error::Damaged { address: inode })
        }
    }
}
