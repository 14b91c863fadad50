//! Files and directories: `ls`, `mkdir`, `put`, `get`, `mv`, `rm`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use api::block::Buffer;
use lock::Mode;
use serde_json::json;
use volume::{FileId, Kind, Run, Stat};

use crate::output::Output;
use crate::session::{self, Mounted};

/// Bytes copied at a time.
const PIECE: usize = 4 << 20;
/// Bytes of a block of the volume.
const BLOCK: u64 = 1 << 20;

/// Finds the directory of a path, and the name in it.
async fn place<'a>(volume: &mut Mounted, path: &'a str) -> Result<(FileId, &'a str)> {
    let path = path.trim_end_matches('/');
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let directory = volume.resolve(parent).await;
    let directory = directory.with_context(|| format!("no directory /{parent}"))?;
    Ok((directory, name))
}

pub(crate) fn ls(image: &Path, members: &[PathBuf], path: &str, output: &Output) -> Result<()> {
    let mut all: Vec<Stat> = session::mounted(image, members, async |volume, _| {
        let id = volume.resolve(path).await.context(path.to_owned())?;
        let stat = volume.stat(id).await?;
        if stat.kind == Kind::File {
            return Ok(vec![stat]);
        }
        let (mut all, mut from) = (Vec::new(), Some(0));
        while let Some(key) = from {
            let (mut some, next) = volume.list(id, key, 256).await?;
            all.append(&mut some);
            from = next;
        }
        Ok(all)
    })?;
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let kind = |stat: &Stat| match stat.kind {
        Kind::File => "file",
        Kind::Directory => "directory",
    };
    let entries: Vec<_> = all
        .iter()
        .map(|stat| {
            json!({
                "name": stat.name,
                "kind": kind(stat),
                "size": stat.size,
                "blocks": stat.blocks,
                "modified": stat.modified,
                "inode": stat.id.inode(),
            })
        })
        .collect();
    output.result(&json!({ "entries": entries }), || {
        all.iter()
            .map(|stat| {
                let slash = if stat.kind == Kind::Directory {
                    "/"
                } else {
                    ""
                };
                format!(
                    "{:>16} {:>9} MiB  {}{slash}\n",
                    stat.size, stat.blocks, stat.name
                )
            })
            .collect()
    });
    Ok(())
}

pub(crate) fn mkdir(image: &Path, members: &[PathBuf], path: &str) -> Result<()> {
    session::mounted(image, members, async |volume, _| {
        let (directory, name) = place(volume, path).await?;
        volume.create(directory, name, Kind::Directory).await?;
        Ok(())
    })
}

pub(crate) fn put(
    image: &Path,
    members: &[PathBuf],
    from: &Path,
    path: &str,
    output: &Output,
) -> Result<()> {
    let source = File::open(from).with_context(|| from.display().to_string())?;
    let len = source.metadata()?.len();
    let bar = output.progress("copying", len);
    session::mounted(image, members, async |volume, _| {
        let (directory, name) = place(volume, path).await?;
        let id = volume.create(directory, name, Kind::File).await?;
        let mut file = volume.open(id, Mode::Exclusive).await?;
        let mut at = 0;
        while at < len {
            let part = usize::try_from(len - at).unwrap_or(PIECE).min(PIECE);
            let mut buffer = Buffer::zeroed(part);
            source.read_exact_at(&mut buffer, at)?;
            if buffer.iter().any(|byte| *byte != 0) {
                let (_, result) = volume.write(&mut file, at, buffer).await;
                result?;
            }
            at += part as u64;
            bar.set_position(at);
        }
        if file.len() < len {
            volume.set_len(&mut file, len).await?;
        }
        volume.fsync(&file).await?;
        volume.close(file);
        Ok(())
    })?;
    bar.finish_and_clear();
    output.result(&json!({ "bytes": len }), String::new);
    Ok(())
}

pub(crate) fn get(
    image: &Path,
    members: &[PathBuf],
    path: &str,
    to: &Path,
    output: &Output,
) -> Result<()> {
    let target = File::create(to).with_context(|| to.display().to_string())?;
    let bytes = session::mounted(image, members, async |volume, _| {
        let id = volume.resolve(path).await.context(path.to_owned())?;
        let mut file = volume.open(id, Mode::Shared).await?;
        let len = file.len();
        let bar = output.progress("copying", len);
        let mut at = 0;
        while at < len {
            // Large files lie in blocks; holes among them are passed over.
            if len > PIECE as u64
                && let Run::Hole { count } | Run::Unwritten { count, .. } =
                    volume.run(&mut file, at / BLOCK).await?
                && at.is_multiple_of(BLOCK)
            {
                at = at.saturating_add(count.saturating_mul(BLOCK)).min(len);
                continue;
            }
            let left = usize::try_from(len - at).unwrap_or(PIECE);
            let (buffer, result) = volume
                .read(&mut file, at, Buffer::zeroed(left.min(PIECE)))
                .await;
            let read = result?;
            if read == 0 {
                bail!("{path} ends early");
            }
            target.write_all_at(&buffer[..read], at)?;
            at += read as u64;
            bar.set_position(at);
        }
        bar.finish_and_clear();
        volume.close(file);
        Ok(len)
    })?;
    target.set_len(bytes)?;
    output.result(&json!({ "bytes": bytes }), String::new);
    Ok(())
}

pub(crate) fn mv(image: &Path, members: &[PathBuf], from: &str, to: &str) -> Result<()> {
    session::mounted(image, members, async |volume, _| {
        let (directory, name) = place(volume, from).await?;
        let (target, new_name) = place(volume, to).await?;
        let moved = volume.rename(directory, name, target, new_name).await;
        moved.with_context(|| format!("cannot move {from} to {to}"))
    })
}

pub(crate) fn rm(image: &Path, members: &[PathBuf], path: &str) -> Result<()> {
    session::mounted(image, members, async |volume, _| {
        let (directory, name) = place(volume, path).await?;
        let removed = volume.remove(directory, name).await;
        removed.with_context(|| format!("cannot remove {path}"))
    })
}
