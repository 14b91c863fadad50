//! A mounted volume: its state, reading and changing units, locks, and how an operation becomes a transaction.
//!
//! An operation reads units under locks, collects its changes in an overlay and merges them at its end, in one step
//! without waiting. If it fails or its future is dropped, the overlay goes and nothing has happened. If another host
//! holds a lock that it needs, it is undone, this host gives back every lock that it does not need for an open file,
//! and the operation begins anew: so no host waits while it keeps another waiting. What operations exist stands in the
//! modules beside this one.

use alloc::boxed::Box;
use alloc::sync::Arc;

use api::block::{BlockDevice, BlockError};
use api::time::{Clock, HostInstant};

use crate::allocator::Allocator;
use crate::cache::{Cache, Overlay};
use crate::disk::Disk;
use crate::error::Error;
use crate::format::{self, Bytes, MAGIC_SLOT, UNIT_BYTES};
use crate::journal::Journal;
use crate::layout::Layout;
use crate::locks::{Kept, KeptLocks, LockError, LockMode, LockName, LockService};
use crate::replay;

/// Nanoseconds of a millisecond.
const MS: u64 = 1_000_000;
/// Locks kept at most; beyond, idle ones are given back.
const LOCKS_MAX: usize = 8192;
/// Times that a unit is read again, when another host may be writing it, before it counts as damaged.
const READ_TRIES: u32 = 4;

/// What a volume stands on.
pub trait Host {
    /// The device; for a volume that hosts share, the lock service's gate before it.
    type Device: BlockDevice;
    /// The locks.
    type Locks: LockService;
    /// The clock.
    type Clock: Clock;
}

impl<D: BlockDevice, L: LockService, C: Clock> Host for (D, L, C) {
    type Device = D;
    type Locks = L;
    type Clock = C;
}

/// How a volume behaves on this host.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Units kept in memory, 4 KiB each; those that wait to be written come on top, at most as many again or as one
    /// transaction may have.
    pub cache_units: usize,
    /// Milliseconds after which [`Volume::tick`] commits what no fsync asked for.
    pub commit_ms: u64,
    /// Milliseconds after which [`Volume::tick`] gives back a lock that was not used.
    pub idle_lock_ms: u64,
    /// Milliseconds to go on trying for a lock that another host keeps.
    pub lock_wait_ms: u64,
    /// Seconds since 1970 at the zero of the host's clock, for the times in inodes.
    pub unix_seconds_at_zero: u64,
    /// Tell the device what was freed.
    pub discard: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cache_units: 4096,
            commit_ms: 1000,
            idle_lock_ms: 200,
            lock_wait_ms: 10_000,
            unix_seconds_at_zero: 0,
            discard: true,
        }
    }
}

/// Runs an operation until no other host's lock is in its way, and makes its changes part of the running transaction.
/// A macro, not a method: a future that holds an `AsyncFnMut` closure over a generic volume is not known to be `Send`.
macro_rules! operate {
    ($self:ident, |$volume:ident| $operation:expr) => {
        async {
            let mut attempts = $self.attempts();
            loop {
                $self.begin_attempt().await?;
                let result = async {
                    let $volume = &mut *$self;
                    $operation
                }
                .await;
                if let Some(value) = $self.end_attempt(&mut attempts, result).await? {
                    break Ok::<_, $crate::error::Error>(value);
                }
            }
        }
        .await
    };
}
pub(crate) use operate;

/// The attempts of an operation.
#[derive(Debug)]
pub(crate) struct Attempts {
    start: HostInstant,
    /// Nanoseconds to wait before the next one.
    pause: u64,
    /// Freed space was waited for.
    freed: bool,
    /// The size of the volume was looked at.
    refreshed: bool,
}

type TokenOf<H> = <<H as Host>::Locks as LockService>::Token;

/// A volume as one host has mounted it.
pub struct Volume<H: Host> {
    // Fixed from the mount on, but for the number of clusters.
    pub(crate) disk: Disk<H::Device>,
    pub(crate) layout: Layout,
    pub(crate) settings: Settings,
    pub(crate) locks: H::Locks,
    pub(crate) clock: H::Clock,
    pub(crate) slot: u16,
    // What is in memory of it.
    pub(crate) cache: Cache,
    pub(crate) overlay: Overlay,
    pub(crate) journal: Journal,
    pub(crate) allocator: Allocator,
    pub(crate) kept: KeptLocks<TokenOf<H>>,
    /// A lock whose release was begun and not seen to end.
    releasing: Option<TokenOf<H>>,
    /// Since when something runs uncommitted.
    pub(crate) running_since: Option<HostInstant>,
    /// A write of metadata failed.
    pub(crate) failed: bool,
}

impl<H: Host> core::fmt::Debug for Volume<H> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Volume")
            .field("layout", &self.layout)
            .field("slot", &self.slot)
            .field("units", &self.cache.len())
            .field("locks", &self.kept.len())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl<H: Host> Volume<H> {
    /// Mounts the volume that `layout` describes (see [`crate::probe`]). The locks have a slot of it, and with it the
    /// slot's journal, which is replayed first.
    ///
    /// # Errors
    /// The device's, or damage in the host's own region.
    pub async fn mount(
        device: H::Device,
        layout: Layout,
        locks: H::Locks,
        clock: H::Clock,
        settings: Settings,
    ) -> Result<Self, Error> {
        let mut volume = Self::attach(device, layout, locks, clock, settings).await?;
        volume.finish_pending().await?;
        Ok(volume)
    }

    /// Mounts without going on with what an earlier host of the slot was deleting.
    pub(crate) async fn attach(
        device: H::Device,
        layout: Layout,
        locks: H::Locks,
        clock: H::Clock,
        settings: Settings,
    ) -> Result<Self, Error> {
        let disk = Disk::new(device);
        let slot = locks.slot();
        if u32::from(slot) >= layout.slots {
            return Err(Error::Unsupported);
        }
        while let Some((dead, claim)) = locks.inherited() {
            replay::replay_on(&disk, &layout, dead).await?;
            locks.clear(claim).await.map_err(Error::Lock)?;
        }
        let replayed = replay::replay_on(&disk, &layout, slot).await?;
        disk.flush_all().await?;
        let mut journal = Journal::new(&layout, slot, replayed.position, replayed.sequence);
        journal.limit_units(settings.cache_units);
        Ok(Self {
            journal,
            allocator: Allocator::new(&layout, slot),
            disk,
            settings,
            locks,
            clock,
            slot,
            cache: Cache::new(settings.cache_units),
            overlay: Overlay::default(),
            kept: KeptLocks::new(),
            releasing: None,
            running_since: None,
            failed: false,
            layout,
        })
    }

    /// Commits everything and gives back all locks. The lock service still has the slot.
    ///
    /// # Errors
    /// As [`Self::sync`]; then the journal keeps what was not written in place, for the next mount or another host.
    pub async fn unmount(mut self) -> Result<H::Locks, Error> {
        self.sync().await?;
        self.give_back(HostInstant::from_nanos(u64::MAX)).await?;
        Ok(self.locks)
    }

    /// Returns where things stand on the volume.
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the device.
    pub fn device(&self) -> &H::Device {
        self.disk.device()
    }

    /// Returns the lock service.
    pub const fn lock_service(&self) -> &H::Locks {
        &self.locks
    }

    /// Returns how many units and how many locks are in memory.
    #[must_use]
    pub fn in_memory(&self) -> (usize, usize) {
        (self.cache.len(), self.kept.len())
    }

    /// Does what time asks for: commits what ran long enough, gives back locks that nobody used. To be called several
    /// times a second; a future that was dropped on the way is made up for by the next call.
    ///
    /// # Errors
    /// The device's, or [`Error::Failed`].
    pub async fn tick(&mut self) -> Result<(), Error> {
        self.begin().await?;
        let now = self.clock.now();
        let due =
            |since: HostInstant, ms: u64| now.saturating_since(since) >= ms.saturating_mul(MS);
        if self
            .running_since
            .is_some_and(|since| due(since, self.settings.commit_ms))
        {
            self.commit().await?;
        }
        let idle = self.settings.idle_lock_ms.saturating_mul(MS);
        let Some(until) = now.as_nanos().checked_sub(idle) else {
            return Ok(());
        };
        self.give_back(HostInstant::from_nanos(until)).await
    }

    /// Gives back every lock that no open file relies on, with all that it covers written in place.
    ///
    /// # Errors
    /// The device's, or [`Error::Failed`].
    pub async fn give_back_locks(&mut self) -> Result<(), Error> {
        self.begin().await?;
        self.give_back(HostInstant::from_nanos(u64::MAX)).await
    }

    /// Seconds since 1970.
    pub(crate) fn unix_seconds(&self) -> u64 {
        let since_zero = self.clock.now().as_nanos() / 1_000_000_000;
        self.settings
            .unix_seconds_at_zero
            .saturating_add(since_zero)
    }

    // Operations.

    /// Ends whatever an earlier call left half-done.
    pub(crate) async fn begin(&mut self) -> Result<(), Error> {
        if self.failed {
            return Err(Error::Failed);
        }
        self.overlay = Overlay::default();
        self.allocator.undo();
        self.disk.settle().await;
        if let Some(token) = self.releasing.take() {
            self.locks.release(token).await.map_err(Error::from)?;
        }
        Ok(())
    }

    /// Begins to count the attempts of an operation.
    pub(crate) fn attempts(&self) -> Attempts {
        Attempts {
            start: self.clock.now(),
            pause: MS,
            freed: false,
            refreshed: false,
        }
    }

    /// Begins an attempt.
    pub(crate) async fn begin_attempt(&mut self) -> Result<(), Error> {
        self.begin().await?;
        if self.kept.len() > LOCKS_MAX {
            self.give_back(HostInstant::from_nanos(u64::MAX)).await?;
        }
        Ok(())
    }

    /// Makes an attempt's changes part of the running transaction, or clears away what was in its way. `None`: try anew.
    pub(crate) async fn end_attempt<T>(
        &mut self,
        attempts: &mut Attempts,
        result: Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let error = match result {
            Ok(value) => {
                self.merge().await?;
                return Ok(Some(value));
            }
            Err(error) => error,
        };
        match error {
            Error::FreeingSpace if !attempts.freed => {
                attempts.freed = true;
                self.begin().await?;
                self.checkpoint().await?;
            }
            Error::FreeingSpace => return Err(self.undone(Error::NoSpace)),
            Error::Damaged { .. } | Error::NoSpace if !attempts.refreshed => {
                // Another host may have made the volume larger.
                attempts.refreshed = true;
                if !self.refresh().await? {
                    return Err(self.undone(error));
                }
            }
            Error::Lock(LockError::Dead { slot }) => self.recover(slot).await?,
            Error::Contended => self.step_aside(attempts).await?,
            error => return Err(self.undone(error)),
        }
        Ok(None)
    }

    /// Gives back what other hosts may wait for, and waits a little.
    async fn step_aside(&mut self, attempts: &mut Attempts) -> Result<(), Error> {
        self.begin().await?;
        self.give_back(HostInstant::from_nanos(u64::MAX)).await?;
        let now = self.clock.now();
        let wait = self.settings.lock_wait_ms.saturating_mul(MS);
        if now.saturating_since(attempts.start) >= wait {
            return Err(Error::LockTimeout);
        }
        // Hosts with different slots come back at different times.
        let apart = u64::from(self.slot).saturating_mul(MS / 7);
        self.clock
            .sleep_until(now.saturating_add(attempts.pause.saturating_add(apart)))
            .await;
        attempts.pause = attempts.pause.saturating_mul(2).min(MS.saturating_mul(100));
        Ok(())
    }

    /// Undoes an operation that failed.
    fn undone(&mut self, error: Error) -> Error {
        self.overlay = Overlay::default();
        self.allocator.undo();
        error
    }

    /// Merges the overlay; commits first what runs, if both would not fit one transaction.
    async fn merge(&mut self) -> Result<(), Error> {
        if self.overlay.is_empty() {
            return Ok(());
        }
        if self.cache.running_with(&self.overlay) > self.journal.units_max() {
            self.commit().await?;
        }
        if self.overlay.len() > self.journal.units_max() {
            // Operations are cut so that this does not happen; a damaged volume may make it happen.
            return Err(Error::NoSpace);
        }
        let overlay = core::mem::take(&mut self.overlay);
        self.cache.merge(overlay);
        self.allocator.merge();
        if self.running_since.is_none() {
            self.running_since = Some(self.clock.now());
        }
        Ok(())
    }

    /// Replays a dead host's journal and frees its locks.
    async fn recover(&mut self, slot: u16) -> Result<(), Error> {
        self.begin().await?;
        let claim = match self.locks.claim(slot).await {
            Ok(claim) => claim,
            // Somebody else is at it, or it lives again: the operation will find out.
            Err(LockError::Held) => return Ok(()),
            Err(error) => return Err(Error::Lock(error)),
        };
        replay::replay_on(&self.disk, &self.layout, slot).await?;
        self.disk.flush_all().await?;
        self.locks.clear(claim).await.map_err(Error::from)
    }

    // Locks.

    /// Takes a lock in a mode that allows `mode`, unless this host keeps it already.
    pub(crate) async fn lock(&mut self, name: LockName, mode: LockMode) -> Result<(), Error> {
        let now = self.clock.now();
        if let Some(kept) = self.kept.get_mut(name) {
            if kept.mode == mode || (kept.mode == LockMode::Exclusive && mode == LockMode::Shared) {
                kept.used = now;
                return Ok(());
            }
            if kept.pins > 0 {
                return Err(Error::Busy);
            }
            // What was read under the weaker lock may change before the stronger one is there.
            self.give_back_one(name).await?;
        }
        let area = match name {
            LockName::Superblock => self.layout.global_lock(0),
            LockName::Moves => self.layout.global_lock(1),
            LockName::Unit(address) => self
                .layout
                .lock_area(address)
                .ok_or(Error::Damaged { address })?,
        };
        let lba = area
            .checked_div(u64::from(self.layout.logical_block))
            .unwrap_or(0);
        let token = self.locks.acquire(lba, mode).await.map_err(Error::from)?;
        let kept = Kept {
            token,
            mode,
            pins: 0,
            used: now,
        };
        self.kept.insert(name, kept);
        Ok(())
    }

    /// Gives back the locks that nobody used since `until`.
    pub(crate) async fn give_back(&mut self, until: HostInstant) -> Result<(), Error> {
        let idle = self.kept.idle(until);
        if idle.is_empty() {
            return Ok(());
        }
        // Once another host may change what a lock covers, this host's journal must not name it any more.
        self.checkpoint().await?;
        for name in idle {
            self.give_back_one(name).await?;
        }
        Ok(())
    }

    /// Gives back one lock under which nothing waits to be written.
    pub(crate) async fn give_back_one(&mut self, name: LockName) -> Result<(), Error> {
        if self.kept.mode(name) == Some(LockMode::Exclusive)
            && (self.cache.has_running() || self.cache.has_committed())
        {
            self.checkpoint().await?;
        }
        self.cache.forget(name);
        let Some(kept) = self.kept.remove(name) else {
            return Ok(());
        };
        self.release(kept.token).await
    }

    async fn release(&mut self, token: TokenOf<H>) -> Result<(), Error> {
        if let Some(earlier) = self.releasing.take() {
            self.locks.release(earlier).await.map_err(Error::from)?;
        }
        self.locks.release(token).await.map_err(Error::from)
    }

    // Units.

    /// Returns the lock that covers a unit which is its own lock's: a cluster's head or an inode.
    fn covered(&self, address: u64) -> bool {
        self.kept.mode(LockName::Unit(address)).is_some()
    }

    /// Returns a unit that `owner`'s lock, which this host keeps, covers.
    pub(crate) async fn load(
        &mut self,
        address: u64,
        magic: [u8; 4],
        owner: LockName,
    ) -> Result<Arc<Bytes>, Error> {
        if let Some(bytes) = self.overlay.get(address) {
            return Ok(bytes);
        }
        if let Some(image) = self.cache.get(address) {
            return Ok(image);
        }
        let image = Arc::from(self.read_copies(address, magic).await?);
        self.cache.insert(address, Arc::clone(&image), owner);
        Ok(image)
    }

    /// Returns an inode or cluster head as it is on the disk, or in memory where this host keeps its lock. Without the
    /// lock it may be old by the time the caller looks at it.
    pub(crate) async fn peek(&mut self, address: u64, magic: [u8; 4]) -> Result<Arc<Bytes>, Error> {
        if self.covered(address) {
            return self.load(address, magic, LockName::Unit(address)).await;
        }
        let mut tries = READ_TRIES;
        loop {
            match self.read_copies(address, magic).await {
                Ok(bytes) => {
                    self.cache.see(&bytes);
                    return Ok(Arc::from(bytes));
                }
                Err(Error::Damaged { .. }) if tries > 1 => tries = tries.saturating_sub(1),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the first good copy of a unit.
    async fn read_copies(&self, address: u64, magic: [u8; 4]) -> Result<Box<Bytes>, Error> {
        read_copies(&self.disk, &self.layout, address, Some(magic)).await
    }

    /// Returns a unit to change, in the overlay; `owner`'s lock is kept exclusively.
    pub(crate) async fn change(
        &mut self,
        address: u64,
        magic: [u8; 4],
        owner: LockName,
    ) -> Result<&mut Bytes, Error> {
        debug_assert!(
            magic == MAGIC_SLOT || self.kept.mode(owner) == Some(LockMode::Exclusive),
            "units change under an exclusive lock"
        );
        if self.overlay.get(address).is_none() {
            let image = self.load(address, magic, owner).await?;
            self.overlay.insert(address, image, owner);
        }
        self.overlay
            .get_mut(address)
            .ok_or(Error::Damaged { address })
    }
}

/// Reads the first good copy of a unit of a volume.
pub(crate) async fn read_copies<D: BlockDevice>(
    disk: &Disk<D>,
    layout: &Layout,
    address: u64,
    magic: Option<[u8; 4]>,
) -> Result<Box<Bytes>, Error> {
    let mirror = layout.mirror(address).ok_or(Error::Damaged { address })?;
    let mut failure = Error::Damaged { address };
    for copy in [address, mirror] {
        match read_copy(disk, copy).await {
            Ok(bytes) if format::check(&bytes, magic, address, layout.tag).is_ok() => {
                return Ok(bytes);
            }
            Ok(_) | Err(BlockError::Medium { .. }) => {}
            Err(error) => failure = Error::Block(error),
        }
    }
    Err(failure)
}

/// Reads what stands at the address of a unit.
pub(crate) async fn read_copy<D: BlockDevice>(
    disk: &Disk<D>,
    address: u64,
) -> Result<Box<Bytes>, BlockError> {
    let buffer = api::block::Buffer::zeroed(format::UNIT);
    let (buffer, result) = disk.read(address.saturating_mul(UNIT_BYTES), buffer).await;
    result?;
    crate::disk::unit_of(&buffer).ok_or(BlockError::Invalid)
}
