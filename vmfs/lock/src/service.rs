//! The service that a host has for each volume it has mounted: its place among the hosts, and the locks it holds.
//!
//! Here is what all operations share; each has a file of its own beside. Its futures may run beside each other, on one
//! CPU or on several: what they share is behind spin locks that are held for a look or a change, never over an await, and
//! never two at a time.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use api::block::BlockDevice;
use api::time::{Clock, HostInstant};
use spin::Mutex;

use crate::area::{Area, Cell};
use crate::error::LockError;
use crate::gate::Gate;
use crate::image::{Image, Token};
use crate::lease::Lease;
use crate::record::Mode;
use crate::slot::{Journal, Member, Slot};
use crate::step::Step;
use crate::takeover::Watch;

/// Locks that one host can hold at a time; each takes about half a kilobyte of memory.
pub const LOCKS_MAX: usize = 65_536;

/// How often an operation looks again at a cell that others changed meanwhile.
pub(crate) const ROUNDS: u32 = 16;

/// The locks of one volume, as one of its hosts has them.
#[derive(Debug)]
pub struct Locks<D: BlockDevice, C: Clock> {
    pub(crate) device: D,
    pub(crate) clock: C,
    pub(crate) area: Area,
    pub(crate) lease: Arc<Lease>,
    pub(crate) step: Step<D, C>,
    pub(crate) me: Member,
    pub(crate) tokens: Tokens,
    pub(crate) own: Mutex<Own>,
    /// A change of the own slot is under way.
    pub(crate) own_busy: AtomicBool,
    /// The slot still stands for the dead host from which this one has it.
    pub(crate) inherits: AtomicBool,
    pub(crate) table: Mutex<BTreeMap<Cell, Entry>>,
    pub(crate) watch: Mutex<Watch>,
    pub(crate) wanted: AtomicU64,
    /// By slot, a bit: a claim on it is in hand.
    pub(crate) claimed: Arc<AtomicU64>,
}

/// Makes tokens, never one twice.
#[derive(Debug)]
pub(crate) struct Tokens {
    nonce: u64,
    sequence: AtomicU64,
}

impl Tokens {
    pub(crate) const fn new(nonce: u64) -> Self {
        Self {
            nonce,
            sequence: AtomicU64::new(0),
        }
    }

    pub(crate) fn next(&self) -> Token {
        // 64 bits do not run out: at a million tokens a second they last half a million years.
        let before = self.sequence.fetch_add(1, Ordering::Relaxed);
        let sequence = before.wrapping_add(1);
        Token {
            nonce: self.nonce,
            sequence,
        }
    }

    /// Tells whether `token` was made here.
    pub(crate) const fn made(&self, token: Token) -> bool {
        token.nonce == self.nonce
    }
}

/// This host's slot as it was last written.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) slot: Slot,
    pub(crate) image: Image,
}

/// What this host knows about a lock that it has to do with.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all entries are of the large kind"
)]
pub(crate) enum Entry {
    /// It holds the lock, by this image or a later one of another holder.
    Held(Mode, Image),
    /// An operation is under way.
    Changing,
    /// An operation was left in the middle. The lock counts as not held; `mend` makes it so.
    Doubt,
}

impl<D: BlockDevice, C: Clock> Locks<D, C> {
    /// Returns this host's slot and generation.
    #[must_use]
    pub const fn me(&self) -> Member {
        self.me
    }

    /// Returns the area that the volume described.
    #[must_use]
    pub const fn area(&self) -> &Area {
        &self.area
    }

    /// Returns this host's journal.
    #[must_use]
    pub fn journal(&self) -> Journal {
        self.own.lock().slot.journal
    }

    /// Returns the lease, for whoever wants to know how long it lasts.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Tells how this host holds the lock at `cell`.
    #[must_use]
    pub fn holds(&self, cell: Cell) -> Option<Mode> {
        match self.table.lock().get(&cell) {
            Some(Entry::Held(mode, _)) => Some(*mode),
            _ => None,
        }
    }

    /// Publishes with the next beat that this host waits for the lock at `cell`; `None` takes it back.
    pub fn want(&self, cell: Option<Cell>) {
        let lba = cell.map_or(0, |cell| cell.0);
        self.wanted.store(lba, Ordering::Relaxed);
    }

    /// Waits until no write of unknown fate of this host can take effect any more. Whoever gives up a right to write
    /// waits for this first.
    pub(crate) async fn quiesce(&self) {
        while let Some(unsettled) = self.lease.undrained() {
            self.device.drain().await;
            self.lease.note_drained(unsettled);
        }
    }

    /// Waits for the reclaim window from now on, in which writes that a dead host sent may still take effect.
    pub(crate) async fn wait_reclaim(&self) {
        let end = self.after(self.area.terms.reclaim_nanos());
        self.clock.sleep_until(end).await;
    }

    pub(crate) fn after(&self, nanos: u64) -> HostInstant {
        self.clock.now().saturating_add(nanos)
    }

    /// Begins to clean up behind an operation that was left in the middle, if there was one.
    pub(crate) fn begin_doubtful(&self) -> Option<Change<'_>> {
        let mut table = self.table.lock();
        let doubtful = table
            .iter_mut()
            .find(|(_, entry)| matches!(entry, Entry::Doubt));
        let (cell, entry) = doubtful?;
        *entry = Entry::Changing;
        Some(Change {
            table: &self.table,
            cell: *cell,
            before: Some(Entry::Doubt),
            sent: false,
        })
    }

    /// Begins an operation on a lock.
    pub(crate) fn begin(&self, cell: Cell) -> Result<Change<'_>, LockError> {
        let mut table = self.table.lock();
        if table.len() >= LOCKS_MAX && !table.contains_key(&cell) {
            return Err(LockError::TooMany);
        }
        let before = match table.insert(cell, Entry::Changing) {
            Some(Entry::Changing) => return Err(LockError::Contended { lba: cell.0 }),
            before => before,
        };
        Ok(Change {
            table: &self.table,
            cell,
            before,
            sent: false,
        })
    }
}

impl<D: BlockDevice + Clone, C: Clock + Clone> Locks<D, C> {
    /// Returns the device through which this host's writes to the volume go.
    #[must_use]
    pub fn gate(&self) -> Gate<D, C> {
        Gate::new(
            self.device.clone(),
            self.clock.clone(),
            Arc::clone(&self.lease),
        )
    }
}

impl<D: BlockDevice, C: Clock> Drop for Locks<D, C> {
    fn drop(&mut self) {
        // Nobody renews the lease any more; gates that live on must not rely on what is left of it.
        self.lease.end();
    }
}

/// An operation on a lock that is under way. Left in the middle, it puts the lock in doubt once something was sent.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    table: &'a Mutex<BTreeMap<Cell, Entry>>,
    cell: Cell,
    before: Option<Entry>,
    /// A swap was begun of which it is not known that it can have no effect any more.
    pub(crate) sent: bool,
}

impl Change<'_> {
    pub(crate) const fn cell(&self) -> Cell {
        self.cell
    }

    /// Returns how the lock was held before, and the image by which it was.
    pub(crate) const fn held(&self) -> Option<(Mode, &Image)> {
        match &self.before {
            Some(Entry::Held(mode, image)) => Some((*mode, image)),
            _ => None,
        }
    }

    /// Ends with the lock held by `image`.
    pub(crate) fn end_held(mut self, mode: Mode, image: Image) {
        self.before = Some(Entry::Held(mode, image));
        self.sent = false;
    }

    /// The lock is not held, and nothing is in doubt, whenever the operation ends from now on.
    pub(crate) fn freed(&mut self) {
        self.before = None;
        self.sent = false;
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let after = if self.sent {
            Some(Entry::Doubt)
        } else {
            self.before.take()
        };
        let mut table = self.table.lock();
        match after {
            Some(entry) => table.insert(self.cell, entry),
            None => table.remove(&self.cell),
        };
    }
}
