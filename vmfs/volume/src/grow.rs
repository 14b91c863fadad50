//! Growing a mounted volume, and noticing that another host has.
//!
//! New clusters are written first, then the superblock's second copy, then its first: until then nothing refers to them.
//! Other hosts learn of them when they meet an address that they do not know, or when their part is full.

use alloc::vec::Vec;

use api::block::BlockDevice;
use zerocopy::byteorder::little_endian::{U32, U64};

use crate::error::Error;
use crate::format::{self, Header, Member, SUPERBLOCK_A, SUPERBLOCK_B, Superblock};
use crate::layout::Layout;
use crate::locks::{LockMode, LockName};
use crate::mkfs;
use crate::volume::{Host, Volume, operate};

impl<H: Host> Volume<H> {
    /// Takes what the device has gained, while files are open; returns how many blocks that is. A device of several
    /// LUNs gives its table of members ([`crate::Span::members`]) for an end of the volume; others `None`.
    ///
    /// # Errors
    /// [`Error::Failed`] if a superblock could not be written, the device's, or the locks'.
    pub async fn grow(
        &mut self,
        members: impl Fn(u64) -> Option<Vec<Member>>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<u64, Error> {
        operate!(self, |volume| volume
            .lock(LockName::Superblock, LockMode::Exclusive)
            .await)?;
        self.refresh().await?;
        let old = self.layout.clusters;
        let mut layout = self.layout.clone();
        layout.clusters = layout
            .clusters_within(&self.disk.device().geometry())
            .max(old);
        for cluster in old..layout.clusters {
            mkfs::write_cluster(&self.disk, &layout, cluster).await?;
            progress(
                cluster.saturating_sub(old),
                layout.clusters.saturating_sub(old),
            );
        }
        self.disk.flush().await?;
        if layout.clusters > old {
            let written = self
                .write_superblocks(&layout, members(layout.end_block()))
                .await;
            if written.is_err() {
                self.failed = true;
                return Err(Error::Failed);
            }
        }
        let gained = layout.end_block().saturating_sub(self.layout.end_block());
        self.layout = layout;
        self.give_back_one(LockName::Superblock).await?;
        Ok(gained)
    }

    async fn write_superblocks(
        &self,
        layout: &Layout,
        members: Option<Vec<Member>>,
    ) -> Result<(), Error> {
        let mut bytes = self.read_superblock().await?;
        let superblock = Superblock::of_mut(&mut bytes);
        superblock.clusters = U64::new(layout.clusters);
        match members {
            Some(members) => {
                for (slot, member) in superblock.members.iter_mut().zip(&members) {
                    *slot = member.clone();
                }
                let count = u32::try_from(members.len()).map_err(|_| Error::Unsupported)?;
                superblock.member_count = U32::new(count);
            }
            None => {
                if let Some(member) = superblock.members.first_mut() {
                    member.blocks = U64::new(layout.end_block());
                }
            }
        }
        let header = Header::of_mut(&mut bytes);
        header.version.set(header.version.get().saturating_add(1));
        format::seal(&mut bytes);
        for at in [SUPERBLOCK_B, SUPERBLOCK_A] {
            mkfs::write(&self.disk, at, &bytes).await?;
            self.disk.flush().await?;
        }
        Ok(())
    }

    async fn read_superblock(&self) -> Result<alloc::boxed::Box<format::Bytes>, Error> {
        for at in [SUPERBLOCK_A, SUPERBLOCK_B] {
            let bytes = crate::disk::read_unit(self.disk.device(), at).await?;
            if Layout::read(&bytes, u64::MAX).is_ok() {
                return Ok(bytes);
            }
        }
        Err(Error::NotAVolume)
    }

    /// Looks whether the volume has grown; returns whether it has.
    pub(crate) async fn refresh(&mut self) -> Result<bool, Error> {
        let layout = crate::probe(self.disk.device()).await?;
        let same =
            layout.uuid == self.layout.uuid && layout.first_cluster == self.layout.first_cluster;
        if !same || layout.clusters <= self.layout.clusters {
            return Ok(false);
        }
        self.layout.clusters = layout.clusters;
        Ok(true)
    }
}
