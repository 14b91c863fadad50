//! A file, or a block device of this host, as the volume's device.
//!
//! Compare-and-write is atomic among the programs of this host, by a lock on the file; hosts that reach the same LUN in
//! another way do not see that lock.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use api::block::{BlockDevice, BlockError, Buffer, Compared, Completion, Durability, Geometry};

/// Most bytes of one request.
const REQUEST_BYTES: u64 = 4 << 20;
/// Where the size of logical blocks stands in a superblock, and in which of its copies.
const LOGICAL_BLOCK_AT: [u64; 2] = [4096 + 168, (1 << 20) + 4096 + 168];

/// An image.
#[derive(Debug)]
pub(crate) struct FileDisk {
    file: File,
    logical_block: u32,
}

impl FileDisk {
    /// Opens the image of a volume.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let logical_block = LOGICAL_BLOCK_AT
            .iter()
            .filter_map(|at| {
                let mut bytes = [0; 4];
                file.read_exact_at(&mut bytes, *at).ok()?;
                Some(u32::from_le_bytes(bytes)).filter(|size| matches!(size, 512 | 4096))
            })
            .next()
            .unwrap_or(512);
        Ok(Self {
            file,
            logical_block,
        })
    }

    /// Makes an image, or takes what is there, with that size if one is given.
    pub(crate) fn create(path: &Path, bytes: Option<u64>, logical_block: u32) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        if let Some(bytes) = bytes {
            file.set_len(bytes)?;
        }
        let disk = Self {
            file,
            logical_block,
        };
        ensure!(disk.len() > 0, "{} is empty; give --size", path.display());
        Ok(disk)
    }

    /// Makes the image longer.
    pub(crate) fn set_len(&self, bytes: u64) -> Result<()> {
        ensure!(bytes >= self.len(), "an image only grows");
        Ok(self.file.set_len(bytes)?)
    }

    fn len(&self) -> u64 {
        use std::io::{Seek, SeekFrom};
        (&self.file).seek(SeekFrom::End(0)).unwrap_or(0)
    }

    fn at(&self, lba: u64, len: u64) -> Result<u64, BlockError> {
        let at = lba.checked_mul(u64::from(self.logical_block));
        let end = at.and_then(|at| at.checked_add(len));
        match (at, end) {
            (Some(at), Some(end)) if end <= self.len() => Ok(at),
            _ => Err(BlockError::Invalid),
        }
    }

    fn bytes(&self, blocks: u64) -> u64 {
        blocks.saturating_mul(u64::from(self.logical_block))
    }

    /// Writes zeros where something else stands; holes of the file stay holes.
    fn zero(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        let len = self.bytes(blocks);
        let mut at = self.at(lba, len)?;
        let end = at.saturating_add(len);
        let zeros = vec![0; 1 << 20];
        let mut found = vec![0; 1 << 20];
        while at < end {
            let part = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(zeros.len());
            let there = &mut found[..part];
            self.file
                .read_exact_at(there, at)
                .map_err(|error| failed(&error, lba))?;
            if there.iter().any(|byte| *byte != 0) {
                let written = self.file.write_all_at(&zeros[..part], at);
                written.map_err(|error| failed(&error, lba))?;
            }
            at += part as u64;
        }
        Ok(())
    }

    fn compare(&self, lba: u64, expected: &[u8], new: &[u8]) -> Result<Compared, BlockError> {
        let at = self.at(lba, new.len() as u64)?;
        let mut found = vec![0; expected.len()];
        let read = self.file.read_exact_at(&mut found, at);
        read.map_err(|error| failed(&error, lba))?;
        if found != expected {
            return Ok(Compared::Differed);
        }
        let written = self
            .file
            .write_all_at(new, at)
            .and_then(|()| self.file.sync_data());
        written.map_err(|error| failed(&error, lba))?;
        Ok(Compared::Written)
    }
}

fn failed(error: &io::Error, lba: u64) -> BlockError {
    match error.kind() {
        io::ErrorKind::StorageFull => BlockError::NoSpace,
        _ => BlockError::Medium { lba },
    }
}

impl BlockDevice for FileDisk {
    fn geometry(&self) -> Geometry {
        let blocks = self.len().checked_div(u64::from(self.logical_block));
        let most = REQUEST_BYTES.checked_div(u64::from(self.logical_block));
        Geometry {
            logical_block: self.logical_block,
            physical_block: 4096,
            blocks: blocks.unwrap_or(0),
            max_blocks: u32::try_from(most.unwrap_or(1)).unwrap_or(1),
            volatile_cache: true,
            fua: false,
            discard: false,
            compare_and_write_blocks: 1,
        }
    }

    async fn read(&self, lba: u64, mut buffer: Buffer) -> Completion {
        let result = self.at(lba, buffer.len() as u64).and_then(|at| {
            let read = self.file.read_exact_at(&mut buffer, at);
            read.map_err(|error| failed(&error, lba))
        });
        (buffer, result)
    }

    async fn write(&self, lba: u64, buffer: Buffer, _durability: Durability) -> Completion {
        let result = self.at(lba, buffer.len() as u64).and_then(|at| {
            let written = self.file.write_all_at(&buffer, at);
            written.map_err(|error| failed(&error, lba))
        });
        (buffer, result)
    }

    async fn flush(&self) -> Result<(), BlockError> {
        self.file.sync_data().map_err(|error| failed(&error, 0))
    }

    async fn discard(&self, _lba: u64, _blocks: u64) -> Result<(), BlockError> {
        Ok(())
    }

    async fn write_zeroes(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        self.zero(lba, blocks)
    }

    async fn compare_and_write(
        &self,
        lba: u64,
        expected: Buffer,
        new: Buffer,
    ) -> Result<Compared, BlockError> {
        self.file.lock().map_err(|error| failed(&error, lba))?;
        let result = self.compare(lba, &expected, &new);
        self.file.unlock().map_err(|error| failed(&error, lba))?;
        result
    }

    async fn drain(&self) {}
}
