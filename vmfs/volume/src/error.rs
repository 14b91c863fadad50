//! What can go wrong with a volume.

use api::block::BlockError;
use thiserror::Error as ThisError;

use crate::locks::LockError;

/// Why a request to a volume failed. After an error the volume is as it was before, unless the text says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
pub enum Error {
    /// The device failed on file data or on a read.
    #[error("the device failed: {0}")]
    Block(#[from] BlockError),
    /// The lock service failed: this host's lease is gone, or the device.
    #[error("the locks failed: {0}")]
    Lock(LockError),
    /// No superblock of a volume is there.
    #[error("there is no datastore on this device")]
    NotAVolume,
    /// The volume uses features that this code does not know.
    #[error("the datastore uses features that this version does not know")]
    Unsupported,
    /// A unit contradicts itself or another; fsck says more.
    #[error("the datastore is damaged at unit {address}")]
    Damaged {
        /// Address of the unit.
        address: u64,
    },
    /// A write of metadata failed or went unanswered: this mount has ended, a new one replays its journal.
    #[error("a write of metadata failed; the datastore must be mounted anew")]
    Failed,
    /// Nothing has that name, or the file was deleted.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name exists already")]
    Exists,
    /// The directory holds something.
    #[error("the directory is not empty")]
    NotEmpty,
    /// A file stands where a directory is needed.
    #[error("not a directory")]
    NotADirectory,
    /// A directory stands where a file is needed.
    #[error("is a directory")]
    IsADirectory,
    /// Empty, longer than 255 bytes, `.`, `..`, or with a slash or zero byte.
    #[error("not a valid name")]
    BadName,
    /// A directory cannot move into itself.
    #[error("a directory cannot move into itself")]
    IntoItself,
    /// No block, sub-block or unit is free.
    #[error("the datastore is full")]
    NoSpace,
    /// Another open file, here or on another host, excludes this.
    #[error("the file is in use")]
    Busy,
    /// Another host kept a directory or a part of the allocation map locked for too long.
    #[error("another host keeps a lock for too long")]
    LockTimeout,
    /// The file was opened in a mode that does not allow this.
    #[error("the file is not open for this")]
    Mode,
    /// A file cannot be as long as this.
    #[error("beyond the longest file")]
    TooLong,
    /// Internal to an attempt: a lock is held by another host. The attempt is repeated; callers never see it.
    #[error("locked by another host")]
    Contended,
    /// Internal to an attempt: space is freed by the transaction that runs. The attempt is repeated after its commit.
    #[error("space is being freed")]
    FreeingSpace,
}

impl From<LockError> for Error {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Held => Self::Contended,
            other => Self::Lock(other),
        }
    }
}
