//! `mkfs` and `grow`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use lock::Backend;
use serde_json::json;
use volume::MkfsOptions;

use crate::clock::{HostClock, block_on};
use crate::file_disk::FileDisk;
use crate::output::Output;
use crate::session;

/// Arguments of `mkfs`.
#[derive(Debug, Args)]
pub(crate) struct Mkfs {
    /// The image; made if it is not there.
    image: PathBuf,
    /// Its size, as 64G or 1T; a block device has one.
    #[arg(long, value_parser = size)]
    size: Option<u64>,
    /// A name for people, at most 64 bytes.
    #[arg(long, default_value = "")]
    label: String,
    /// How locks change: what the device can do, all hosts alike.
    #[arg(long, value_enum, default_value = "compare-and-write")]
    locks: LockKind,
    /// Bytes of a logical block of the LUN: 512 or 4096.
    #[arg(long, default_value_t = 512)]
    sector: u32,
    /// Hosts that can mount at once; chosen by the size if not given.
    #[arg(long, default_value_t = 0)]
    slots: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LockKind {
    /// The device compares and writes.
    CompareAndWrite,
    /// The device only reads and writes.
    Paxos,
    /// One host alone sees the device.
    Local,
}

/// Arguments of `grow`.
#[derive(Debug, Args)]
pub(crate) struct Grow {
    /// The image.
    image: PathBuf,
    /// Makes the last LUN's file that large first, as 64G or 1T.
    #[arg(long, value_parser = size)]
    size: Option<u64>,
    /// Adds a LUN: an image that is there, or one of --size.
    #[arg(long)]
    add: Option<PathBuf>,
}

/// Reads a size: a number of bytes, or one with K, M, G or T.
fn size(text: &str) -> Result<u64, String> {
    let shift = match text.as_bytes().last() {
        Some(b'K') => 10,
        Some(b'M') => 20,
        Some(b'G') => 30,
        Some(b'T') => 40,
        _ => 0,
    };
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
    let number: u64 = digits.parse().map_err(|_| format!("{text} is no size"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is too large"))
}

pub(crate) fn mkfs(options: &Mkfs, output: &Output) -> Result<()> {
    if !matches!(options.sector, 512 | 4096) {
        bail!("a logical block has 512 or 4096 bytes");
    }
    let disk = FileDisk::create(&options.image, options.size, options.sector)?;
    let (mut uuid, mut key) = ([0; 16], [0; 16]);
    session::random(&mut uuid)?;
    session::random(&mut key)?;
    let mut made = MkfsOptions::new(uuid, key);
    made.label.clone_from(&options.label);
    made.now = HostClock::new().unix_seconds_at_zero();
    made.slots = options.slots;
    made.backend = match options.locks {
        LockKind::CompareAndWrite => Backend::CompareAndWrite,
        LockKind::Paxos => Backend::Paxos,
        LockKind::Local => Backend::Local,
    };
    let bar = output.progress("clusters", 0);
    let layout = block_on(volume::mkfs(&disk, &made, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    }))
    .with_context(|| format!("no volume in {}", options.image.display()))?;
    bar.finish_and_clear();
    let value = json!({
        "uuid": hex(&layout.uuid),
        "blocks": layout.end_block(),
        "clusters": layout.clusters,
        "slots": layout.slots,
        "overhead_bytes": layout.overhead_bytes(),
    });
    output.result(&value, || {
        format!(
            "volume {}: {} MiB in {} clusters, for {} hosts\n",
            hex(&layout.uuid),
            layout.end_block(),
            layout.clusters,
            layout.slots
        )
    });
    Ok(())
}

pub(crate) fn grow(options: &Grow, members: &[PathBuf], output: &Output) -> Result<()> {
    if options.add.is_none()
        && let Some(size) = options.size
    {
        let last = members.last().unwrap_or(&options.image);
        FileDisk::open(last)?.set_len(size)?;
    }
    let gained = session::mounted(&options.image, members, async |volume, span| {
        if let Some(path) = &options.add {
            let device = FileDisk::create(path, options.size, volume.layout().logical_block)?;
            let mut uuid = [0; 16];
            session::random(&mut uuid)?;
            span.add(device, uuid, volume.layout()).await?;
        }
        let bar = output.progress("clusters", 0);
        let gained = volume
            .grow(
                |end| Some(span.members(end)),
                |done, all| {
                    bar.set_length(all);
                    bar.set_position(done);
                },
            )
            .await?;
        bar.finish_and_clear();
        Ok(gained)
    })?;
    output.result(&json!({ "gained_blocks": gained }), || {
        format!("{gained} MiB more\n")
    });
    Ok(())
}

/// Writes bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("64G"), Ok(64 << 30));
        assert!(size("G").is_err() && size("99999999999T").is_err() && size("-1").is_err());
    }
}
