//! What the host does with files of datastores: looks, copies, replaces, moves, removes.
//!
//! Long copies give other users a turn between two pieces.

use super::{Datastore, Mounted, default_store, find};
use crate::memory::LargeBytes;
use crate::vm::inventory;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use api::block::Buffer;
use control::{BOOT_STORE, FileEntry, StorePath};
use lock::Mode;
use volume::{Error, File, FileId, Kind, Stat};

/// Bytes copied at a time.
const PIECE: usize = 256 << 10;
/// Bytes of a block of a volume.
const BLOCK: u64 = 1 << 20;
/// Most bytes of a file that is read into memory.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Entries listed at a time.
const ENTRIES: usize = 128;

/// Says what went wrong with a path.
fn at<T>(path: &StorePath, result: Result<T, Error>) -> Result<T, String> {
    result.map_err(|error| format!("{path}: {error}"))
}

/// Finds the directory of a path, and the name in it.
async fn place<'a>(volume: &mut Mounted, path: &'a StorePath) -> Result<(FileId, &'a str), String> {
    let (directory, name) = path
        .split()
        .ok_or_else(|| format!("{path} is the root of a datastore"))?;
    let directory = at(path, volume.resolve(directory).await)?;
    Ok((directory, name))
}

/// Lists a directory, or a file alone.
///
/// # Errors
/// A text that names the path.
pub async fn list(path: &StorePath) -> Result<Vec<FileEntry>, String> {
    if path.store == BOOT_STORE {
        return Ok(list_boot(&path.path));
    }
    let store = find(&path.store)?;
    let mut volume = store.turn().await?;
    let id = at(path, volume.resolve(&path.path).await)?;
    let stat = at(path, volume.stat(id).await)?;
    if stat.kind == Kind::File {
        return Ok(Vec::from([entry(stat)]));
    }
    let stats = at(path, entries(&mut volume, id).await)?;
    let mut all: Vec<FileEntry> = stats.into_iter().map(entry).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Returns all entries of a directory.
pub(crate) async fn entries(volume: &mut Mounted, directory: FileId) -> Result<Vec<Stat>, Error> {
    let (mut all, mut from) = (Vec::new(), Some(0));
    while let Some(key) = from {
        let (mut some, next) = volume.list(directory, key, ENTRIES).await?;
        all.append(&mut some);
        from = next;
    }
    Ok(all)
}

fn entry(stat: Stat) -> FileEntry {
    FileEntry {
        name: stat.name,
        directory: stat.kind == Kind::Directory,
        size: stat.size,
        allocated_bytes: stat.blocks.saturating_mul(BLOCK),
        modified: stat.modified,
    }
}

/// Lists the files of the boot archive whose names begin with a path.
fn list_boot(path: &str) -> Vec<FileEntry> {
    let files = inventory::files();
    let inside = files.files().filter(|file| file.name.starts_with(path));
    inside
        .map(|file| FileEntry {
            name: file.name.to_string(),
            directory: false,
            size: file.data.len() as u64,
            allocated_bytes: 0,
            modified: 0,
        })
        .collect()
}

/// Makes a directory.
///
/// # Errors
/// A text that names the path.
pub async fn make_directory(path: &StorePath) -> Result<(), String> {
    let store = find(&path.store)?;
    let mut volume = store.turn().await?;
    let (directory, name) = place(&mut volume, path).await?;
    at(path, volume.create(directory, name, Kind::Directory).await)?;
    at(path, volume.sync().await)
}

/// Removes a file or an empty directory.
///
/// # Errors
/// A text that names the path.
pub async fn remove(path: &StorePath) -> Result<(), String> {
    let store = find(&path.store)?;
    let mut volume = store.turn().await?;
    let (directory, name) = place(&mut volume, path).await?;
    at(path, volume.remove(directory, name).await)?;
    at(path, volume.sync().await)
}

/// Moves a file or directory within its datastore.
///
/// # Errors
/// A text that names the path.
pub async fn rename(from: &StorePath, to: &StorePath) -> Result<(), String> {
    if from.store != to.store {
        return Err(String::from(
            "a move stays within its datastore; `datastore cp` copies to another one",
        ));
    }
    let store = find(&from.store)?;
    let mut volume = store.turn().await?;
    let (directory, name) = place(&mut volume, from).await?;
    let (target, new_name) = place(&mut volume, to).await?;
    at(to, volume.rename(directory, name, target, new_name).await)?;
    at(to, volume.sync().await)
}

/// Where a copy comes from.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each copy, and nearly all are of the large kind"
)]
enum Source {
    /// The boot archive.
    Memory(&'static [u8]),
    /// A file, and the datastore that it is in.
    File(alloc::sync::Arc<Datastore>, File),
}

impl Source {
    async fn open(path: &StorePath) -> Result<Self, String> {
        if path.store == BOOT_STORE {
            let found = inventory::files().find(&path.path);
            let data = found.ok_or_else(|| format!("{path}: no such file"))?;
            return Ok(Self::Memory(data));
        }
        let store = find(&path.store)?;
        let file = open(&store, path, Mode::Shared).await?;
        Ok(Self::File(store, file))
    }

    fn len(&self) -> u64 {
        match self {
            Self::Memory(data) => data.len() as u64,
            Self::File(_, file) => file.len(),
        }
    }

    /// Reads a piece; the source has it.
    async fn read(&mut self, path: &StorePath, offset: u64, len: usize) -> Result<Buffer, String> {
        match self {
            Self::Memory(data) => {
                let rest = data.get(offset as usize..).unwrap_or_default();
                Ok(Buffer::copied_from(rest.get(..len).unwrap_or(rest)))
            }
            Self::File(store, file) => {
                let mut volume = store.turn().await?;
                let (buffer, result) = volume.read(file, offset, Buffer::zeroed(len)).await;
                match at(path, result)? {
                    read if read == len => Ok(buffer),
                    _ => Err(format!("{path} ends early")),
                }
            }
        }
    }

    async fn close(self) {
        if let Self::File(store, file) = self {
            close(&store, file).await;
        }
    }
}

async fn open(store: &Datastore, path: &StorePath, mode: Mode) -> Result<File, String> {
    let mut volume = store.turn().await?;
    let id = at(path, volume.resolve(&path.path).await)?;
    at(path, volume.open(id, mode).await)
}

/// Gives a file back; where the datastore is gone, its locks are as well.
async fn close(store: &Datastore, file: File) {
    if let Ok(mut volume) = store.turn().await {
        volume.close(file);
    }
}

/// Copies a file to a place where nothing is; the copy is durable then. One that fails is removed.
///
/// # Errors
/// A text that names the path.
pub async fn copy(from: &StorePath, to: &StorePath) -> Result<u64, String> {
    let store = find(&to.store)?;
    let mut source = Source::open(from).await?;
    let result = copy_from(&mut source, from, &store, to).await;
    source.close().await;
    result
}

async fn copy_from(
    source: &mut Source,
    from: &StorePath,
    store: &Datastore,
    to: &StorePath,
) -> Result<u64, String> {
    let mut target = {
        let mut volume = store.turn().await?;
        let (directory, name) = place(&mut volume, to).await?;
        let id = at(to, volume.create(directory, name, Kind::File).await)?;
        at(to, volume.open(id, Mode::Exclusive).await)?
    };
    let result = fill(source, from, store, to, &mut target).await;
    let result = match result {
        Ok(()) => sync(store, to).await,
        failed => failed,
    };
    close(store, target).await;
    if result.is_err() {
        // What is left of it is of no use; why the copy failed is what counts.
        let _ = remove(to).await;
    }
    result.map(|()| source.len())
}

/// Copies all of a source, without pieces that are zero.
async fn fill(
    source: &mut Source,
    from: &StorePath,
    store: &Datastore,
    to: &StorePath,
    target: &mut File,
) -> Result<(), String> {
    let len = source.len();
    let mut offset = 0;
    while offset < len {
        let count = (len - offset).min(PIECE as u64);
        let buffer = source.read(from, offset, count as usize).await?;
        if buffer.iter().any(|byte| *byte != 0) {
            let mut volume = store.turn().await?;
            at(to, volume.write(target, offset, buffer).await.1)?;
        }
        offset += count;
    }
    if target.len() < len {
        let mut volume = store.turn().await?;
        at(to, volume.set_len(target, len).await)?;
    }
    Ok(())
}

async fn sync(store: &Datastore, path: &StorePath) -> Result<(), String> {
    let mut volume = store.turn().await?;
    at(path, volume.sync().await)
}

/// Reads a whole file.
///
/// # Errors
/// A text that names the path.
pub async fn read(path: &StorePath) -> Result<LargeBytes, String> {
    let mut source = Source::open(path).await?;
    let result = read_all(&mut source, path).await;
    source.close().await;
    result
}

async fn read_all(source: &mut Source, path: &StorePath) -> Result<LargeBytes, String> {
    let len = source.len();
    if len > FILE_BYTES_MAX {
        return Err(format!("{path} is too large to be loaded"));
    }
    let mut bytes = LargeBytes::with_capacity(len as usize).map_err(|e| format!("{path}: {e}"))?;
    while (bytes.len() as u64) < len {
        let offset = bytes.len() as u64;
        let count = (len - offset).min(PIECE as u64);
        bytes.push(&source.read(path, offset, count as usize).await?);
    }
    Ok(bytes)
}

/// Writes a small file in the place of what is there. After a crash the old or the new one is there, or the new one under
/// the name with `.new` behind.
///
/// # Errors
/// A text that names the path.
pub async fn replace(path: &StorePath, bytes: &[u8]) -> Result<(), String> {
    let store = match path.store.as_str() {
        "" => default_store().ok_or_else(|| String::from("no datastore is mounted"))?,
        name => find(name)?,
    };
    let mut volume = store.turn().await?;
    let (directory, name) = place(&mut volume, path).await?;
    let fresh = format!("{name}.new");
    let result = write_new(&mut volume, directory, &fresh, bytes).await;
    at(path, result)?;
    at(path, ignore_absence(volume.remove(directory, name).await))?;
    at(
        path,
        volume.rename(directory, &fresh, directory, name).await,
    )?;
    at(path, volume.sync().await)
}

fn ignore_absence(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::NotFound) => Ok(()),
        other => other,
    }
}

/// Makes a file with a content, durable.
async fn write_new(
    volume: &mut Mounted,
    directory: FileId,
    name: &str,
    bytes: &[u8],
) -> Result<(), Error> {
    ignore_absence(volume.remove(directory, name).await)?;
    let id = volume.create(directory, name, Kind::File).await?;
    let mut file = volume.open(id, Mode::Exclusive).await?;
    let (_, result) = volume.write(&mut file, 0, Buffer::copied_from(bytes)).await;
    let result = match result {
        Ok(()) => volume.fsync(&file).await,
        failed => failed,
    };
    volume.close(file);
    result
}
