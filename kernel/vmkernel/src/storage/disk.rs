//! A disk of the host, whichever driver has it.

use super::ahci::AhciQueue;
use super::ide::IdeQueue;
use super::nvme::NvmeQueue;
use super::queued::QueuedDisk;
use super::virtio::VirtioQueue;
use alloc::sync::Arc;
use api::block::{BlockDevice, BlockError, Buffer, Compared, Completion, Durability, Geometry};

/// A disk; its clones are the same disk.
#[derive(Clone, Debug)]
pub enum Disk {
    /// The first namespace of an NVMe controller.
    Nvme(Arc<QueuedDisk<NvmeQueue>>),
    /// A disk on a port of an AHCI controller.
    Ahci(Arc<QueuedDisk<AhciQueue>>),
    /// The first disk of an IDE channel.
    Ide(Arc<QueuedDisk<IdeQueue>>),
    /// A virtio block device.
    Virtio(Arc<QueuedDisk<VirtioQueue>>),
}

/// Does the same with every kind of disk.
macro_rules! each {
    ($self:ident, $disk:ident => $body:expr) => {
        match $self {
            Disk::Nvme($disk) => $body,
            Disk::Ahci($disk) => $body,
            Disk::Ide($disk) => $body,
            Disk::Virtio($disk) => $body,
        }
    };
}

impl BlockDevice for Disk {
    fn geometry(&self) -> Geometry {
        each!(self, disk => disk.geometry())
    }

    async fn read(&self, lba: u64, buffer: Buffer) -> Completion {
        each!(self, disk => disk.read(lba, buffer).await)
    }

    async fn write(&self, lba: u64, buffer: Buffer, durability: Durability) -> Completion {
        each!(self, disk => disk.write(lba, buffer, durability).await)
    }

    async fn flush(&self) -> Result<(), BlockError> {
        each!(self, disk => disk.flush().await)
    }

    async fn discard(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        each!(self, disk => disk.discard(lba, blocks).await)
    }

    async fn write_zeroes(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        each!(self, disk => disk.write_zeroes(lba, blocks).await)
    }

    async fn compare_and_write(
        &self,
        lba: u64,
        expected: Buffer,
        new: Buffer,
    ) -> Result<Compared, BlockError> {
        each!(self, disk => disk.compare_and_write(lba, expected, new).await)
    }

    async fn drain(&self) {
        each!(self, disk => disk.drain().await);
    }
}
