//! What the volume asks of the lock service, and which locks this host keeps.
//!
//! A lock's name is the address of the unit that it covers: a cluster's head, or an inode with its whole tree. Locks
//! stay taken over many operations; how they are taken on the disk is the lock service's business.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::future::Future;
use core::sync::atomic::{AtomicU64, Ordering};

use api::block::BlockError;
use api::time::HostInstant;
pub use lock::Mode as LockMode;
use thiserror::Error as ThisError;

mod shared;

/// Why a lock was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
pub enum LockError {
    /// A live host holds it in a mode that excludes this one.
    #[error("another host holds the lock")]
    Held,
    /// The holder is dead: its journal must be replayed before its locks are free.
    #[error("the host of slot {slot} is dead")]
    Dead {
        /// The dead host's slot.
        slot: u16,
    },
    /// This host's lease is gone, and with it every lock.
    #[error("this host's lease is gone")]
    Lost,
    /// This host has as many locks as it can remember.
    #[error("too many locks are held")]
    TooMany,
    /// What stands in the lock's place is no lock.
    #[error("the lock at logical block {lba} is damaged")]
    Damaged {
        /// The lock's logical block.
        lba: u64,
    },
    /// The device failed.
    #[error("the device failed: {0}")]
    Block(BlockError),
}

/// Locks that all hosts on the disk respect. Taking a lock that this host holds already succeeds: so a future that was
/// dropped on the way leaves nothing behind that the next attempt would stumble over.
pub trait LockService {
    /// Proof of a lock, given back to release it.
    type Token;
    /// A dead host's slot, taken over to replay its journal.
    type Claim;

    /// Returns the slot of this host.
    fn slot(&self) -> u16;

    /// Returns the slot of a dead host that came with this host's own: its journal is replayed and the claim cleared
    /// before any lock is taken.
    fn inherited(&self) -> Option<(u16, Self::Claim)>;

    /// Tries to take the lock whose area begins at logical block `lba`; does not wait for its holder.
    fn acquire(
        &self,
        lba: u64,
        mode: LockMode,
    ) -> impl Future<Output = Result<Self::Token, LockError>>;

    /// Gives a lock back.
    fn release(&self, token: Self::Token) -> impl Future<Output = Result<(), LockError>>;

    /// Takes over a dead host's slot; waits as long as writes of that host may still arrive.
    fn claim(&self, slot: u16) -> impl Future<Output = Result<Self::Claim, LockError>>;

    /// Frees a dead host's slot and with it all its locks, after the replay of its journal.
    fn clear(&self, claim: Self::Claim) -> impl Future<Output = Result<(), LockError>>;
}

/// Locks of a volume that only one host mounts: every lock is free.
#[derive(Debug, Default)]
pub struct LocalLocks {
    taken: AtomicU64,
}

impl LocalLocks {
    /// Returns how many locks were taken since the start.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

impl LockService for LocalLocks {
    type Token = ();
    type Claim = ();

    fn slot(&self) -> u16 {
        0
    }

    fn inherited(&self) -> Option<(u16, ())> {
        None
    }

    async fn acquire(&self, _lba: u64, _mode: LockMode) -> Result<(), LockError> {
        self.taken.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn release(&self, (): ()) -> Result<(), LockError> {
        Ok(())
    }

    async fn claim(&self, _slot: u16) -> Result<(), LockError> {
        Ok(())
    }

    async fn clear(&self, (): ()) -> Result<(), LockError> {
        Ok(())
    }
}

/// Name of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LockName {
    /// The superblock's.
    Superblock,
    /// That of moves of directories.
    Moves,
    /// That of the cluster or inode whose unit stands at this address.
    Unit(u64),
}

/// A lock that this host keeps.
#[derive(Debug)]
pub(crate) struct Kept<T> {
    pub(crate) token: T,
    pub(crate) mode: LockMode,
    /// Open files that rely on it.
    pub(crate) pins: u32,
    pub(crate) used: HostInstant,
}

/// All locks that this host keeps.
#[derive(Debug)]
pub(crate) struct KeptLocks<T> {
    kept: BTreeMap<LockName, Kept<T>>,
}

impl<T> KeptLocks<T> {
    pub(crate) const fn new() -> Self {
        Self {
            kept: BTreeMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Returns the mode in which a lock is kept.
    pub(crate) fn mode(&self, name: LockName) -> Option<LockMode> {
        self.kept.get(&name).map(|kept| kept.mode)
    }

    pub(crate) fn get_mut(&mut self, name: LockName) -> Option<&mut Kept<T>> {
        self.kept.get_mut(&name)
    }

    pub(crate) fn insert(&mut self, name: LockName, kept: Kept<T>) {
        self.kept.insert(name, kept);
    }

    pub(crate) fn remove(&mut self, name: LockName) -> Option<Kept<T>> {
        self.kept.remove(&name)
    }

    /// Returns the locks that no open file relies on and that were last used at `until` or before.
    pub(crate) fn idle(&self, until: HostInstant) -> Vec<LockName> {
        self.kept
            .iter()
            .filter(|(_, kept)| kept.pins == 0 && kept.used <= until)
            .map(|(name, _)| *name)
            .collect()
    }
}
