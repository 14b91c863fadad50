//! Numbered records in a file: what `datastore test` writes, to see after a power failure what is left.

use super::{Mounted, find};
use alloc::format;
use alloc::string::String;
use api::block::Buffer;
use control::StorePath;
use lock::Mode;
use volume::{Error, File, Kind};

/// Bytes of a record: `record NNNNNNNNNN` with blanks behind it and a line end.
pub(super) const RECORD_BYTES: usize = 512;

/// Appends `count` records to a file and makes each durable before `told` gets its number, which counts on from what the
/// file has.
///
/// # Errors
/// A text that names the path.
pub async fn write_records(
    path: &StorePath,
    count: u32,
    mut told: impl AsyncFnMut(u64),
) -> Result<(), String> {
    let said = |error: Error| format!("{path}: {error}");
    let store = find(&path.store)?;
    let mut volume = store.turn().await?;
    let mut file = open(&mut volume, path).await.map_err(said)?;
    drop(volume);
    let mut result = Ok(());
    for _ in 0..count {
        let mut volume = store.turn().await?;
        let number = file.len() / RECORD_BYTES as u64;
        result = append(&mut volume, &mut file, number).await.map_err(said);
        drop(volume);
        if result.is_err() {
            break;
        }
        told(number).await;
    }
    store.turn().await?.close(file);
    result
}

async fn open(volume: &mut Mounted, path: &StorePath) -> Result<File, Error> {
    let (directory, name) = path.split().ok_or(Error::IsADirectory)?;
    let directory = volume.resolve(directory).await?;
    let id = match volume.lookup(directory, name).await {
        Err(Error::NotFound) => volume.create(directory, name, Kind::File).await?,
        found => found?,
    };
    volume.open(id, Mode::Exclusive).await
}

async fn append(volume: &mut Mounted, file: &mut File, number: u64) -> Result<(), Error> {
    let text = format!("record {number:010}");
    let mut buffer = Buffer::zeroed(RECORD_BYTES);
    buffer.fill(b' ');
    for (place, byte) in buffer.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    if let Some(last) = buffer.last_mut() {
        *last = b'\n';
    }
    let at = number * RECORD_BYTES as u64;
    volume.write(file, at, buffer).await.1?;
    volume.fsync(file).await
}
