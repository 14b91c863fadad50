//! Disks of the machines that Basalt runs on: images with a known content, and datastores made and looked at from outside.
//!
//! Which machine has which disk is the caller's choice.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Deserialize;
use tempfile::NamedTempFile;

use crate::gpt::{self, Guid, Partition};
use crate::workspace::Workspace;

/// Blocks of the images that tests have.
const BLOCKS: usize = 1 << 17;
const BLOCK_BYTES: usize = gpt::SECTOR_SIZE;
/// Bytes of a blank image.
const BLANK_BYTES: u64 = 256 << 20;
/// Type of a partition for Linux' file systems; any will do.
const DATA: Guid = Guid::new(0x0fc6_3daf, 0x8483, 0x4772, 0x8e79_3d69_d847_7de4);
/// Identifiers of the disk and its partitions.
const DISK_ID: Guid = Guid::new(0xba5a_1700, 0, 0, 1);
const PARTITION_IDS: [Guid; 2] = [
    Guid::new(0xba5a_1700, 0, 0, 2),
    Guid::new(0xba5a_1700, 0, 0, 3),
];

/// What a test's disk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Content {
    /// 64 MiB of blocks that say what they are.
    Numbered,
    /// The same, divided into partitions.
    Partitioned,
    /// 256 MiB of nothing.
    Blank,
}

/// How a disk is connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bus {
    /// An NVMe controller.
    #[default]
    Nvme,
    /// A port of an AHCI controller.
    Ahci,
    /// The first device of the second IDE channel.
    Ide,
    /// A virtio block device with as many queues as there are CPUs.
    Virtio,
}

/// A disk of a machine.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    /// Its image.
    pub(crate) path: PathBuf,
    /// How it is connected.
    pub(crate) bus: Bus,
    /// Whether what is written stays in the image.
    pub(crate) keep: bool,
}

/// Makes an image, which vanishes with the returned value.
pub(crate) fn make(workspace: &Workspace, content: Content) -> Result<NamedTempFile> {
    let mut file = NamedTempFile::new_in(workspace.target())?;
    let mut bytes = vec![0; BLOCKS * BLOCK_BYTES];
    for (number, block) in bytes.chunks_exact_mut(BLOCK_BYTES).enumerate() {
        let text = format!("this is block {number:06}");
        block[..text.len()].copy_from_slice(text.as_bytes());
    }
    match content {
        Content::Numbered => file.write_all(&bytes)?,
        Content::Blank => file.as_file().set_len(BLANK_BYTES)?,
        Content::Partitioned => {
            gpt::write(&mut bytes, DISK_ID, &partitions())?;
            file.write_all(&bytes)?;
        }
    }
    Ok(file)
}

fn partitions() -> [Partition; 2] {
    let [first, second] = PARTITION_IDS;
    let partition = |id, start, count, name| Partition {
        kind: DATA,
        id,
        start,
        count,
        name,
    };
    [
        partition(first, 2048, 1000, "small"),
        partition(second, 4096, 120_000, "large"),
    ]
}

/// The tool for datastores.
#[derive(Debug)]
pub(crate) struct Tool {
    path: PathBuf,
}

impl Tool {
    /// Builds it.
    pub(crate) fn build(workspace: &Workspace) -> Result<Self> {
        let status = workspace
            .cargo()
            .args(["build", "--quiet", "--release", "--package", "vmfs_tool"])
            .status()
            .context("cannot run cargo")?;
        ensure!(status.success(), "vmfs_tool does not build");
        Ok(Self {
            path: workspace.target().join("release/vmfs_tool"),
        })
    }

    /// Runs it; what it says on stdout.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        let Output {
            status,
            stdout,
            stderr,
        } = Command::new(&self.path)
            .args(arguments)
            .output()
            .context("cannot run vmfs_tool")?;
        let said = String::from_utf8_lossy(&stdout).into_owned();
        let errors = String::from_utf8_lossy(&stderr);
        let line = arguments.join(" ");
        ensure!(status.success(), "vmfs_tool {line}: {said}{errors}");
        Ok(said)
    }

    /// Makes a datastore named `label` in a sparse image of `bytes` bytes that only one host will mount.
    pub(crate) fn make_datastore(&self, image: &Path, label: &str, bytes: u64) -> Result<()> {
        let (image, size) = (text(image)?, bytes.to_string());
        self.run(&[
            "mkfs", image, "--size", &size, "--label", label, "--locks", "local",
        ])?;
        Ok(())
    }

    /// Checks that nothing is wrong with a datastore.
    pub(crate) fn check(&self, image: &Path) -> Result<()> {
        self.run(&["fsck", text(image)?]).map(drop)
    }

    /// Copies a file into a datastore.
    pub(crate) fn put(&self, image: &Path, from: &Path, to: &str) -> Result<()> {
        self.run(&["put", text(image)?, text(from)?, to]).map(drop)
    }

    /// Makes a directory in a datastore.
    pub(crate) fn mkdir(&self, image: &Path, path: &str) -> Result<()> {
        self.run(&["mkdir", text(image)?, path]).map(drop)
    }

    /// Copies a file out of a datastore.
    pub(crate) fn get(&self, image: &Path, path: &str, to: &Path) -> Result<()> {
        self.run(&["get", text(image)?, path, text(to)?]).map(drop)
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// Copies an image, without its holes.
pub(crate) fn copy_sparse(from: &Path, to: &File) -> Result<()> {
    const PIECE: usize = 1 << 20;
    let source = File::open(from)?;
    let len = source.metadata()?.len();
    to.set_len(0)?;
    to.set_len(len)?;
    let zeros = vec![0; PIECE];
    let mut piece = zeros.clone();
    let mut at = 0;
    while at < len {
        let count = usize::try_from(len - at).unwrap_or(PIECE).min(PIECE);
        source.read_exact_at(&mut piece[..count], at)?;
        if piece[..count] != zeros[..count] {
            to.write_all_at(&piece[..count], at)?;
        }
        at += count as u64;
    }
    Ok(())
}
