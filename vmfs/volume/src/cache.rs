//! Units in memory: what was read, what a running operation changes, what waits for the journal and for its place.
//!
//! An operation's changes collect in an [`Overlay`]; dropping that undoes them. Merged, they are *running* until a
//! transaction of the journal holds them, then *committed* until written in place. Nothing here does I/O.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use zerocopy::byteorder::little_endian::U64;

use crate::format::{Bytes, Header};
use crate::locks::LockName;

/// A unit in memory.
#[derive(Debug)]
struct Cached {
    image: Arc<Bytes>,
    /// The lock that makes this copy true.
    owner: LockName,
    /// Looked at since the last round of eviction.
    recent: bool,
}

/// Changes of the operation under way.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    units: BTreeMap<u64, (Arc<Bytes>, LockName)>,
}

impl Overlay {
    pub(crate) fn get(&self, address: u64) -> Option<Arc<Bytes>> {
        self.units.get(&address).map(|(image, _)| Arc::clone(image))
    }

    /// Returns a unit to change; copies it if somebody still looks at it.
    pub(crate) fn get_mut(&mut self, address: u64) -> Option<&mut Bytes> {
        let (image, _) = self.units.get_mut(&address)?;
        Some(Arc::make_mut(image))
    }

    pub(crate) fn insert(&mut self, address: u64, image: Arc<Bytes>, owner: LockName) {
        self.units.insert(address, (image, owner));
    }

    /// Forgets a unit that the operation freed again.
    pub(crate) fn remove(&mut self, address: u64) {
        self.units.remove(&address);
    }

    pub(crate) fn len(&self) -> usize {
        self.units.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = u64> {
        self.units.keys().copied()
    }
}

/// All units in memory but those of the overlay.
#[derive(Debug)]
pub(crate) struct Cache {
    units: BTreeMap<u64, Cached>,
    /// The units by the locks that cover them.
    owned: BTreeSet<(LockName, u64)>,
    /// Candidates for eviction, oldest first; may name units that are gone.
    order: VecDeque<u64>,
    running: BTreeSet<u64>,
    committed: BTreeMap<u64, Arc<Bytes>>,
    capacity: usize,
    /// The highest version seen; a change gets the next one.
    stamp: u64,
}

impl Cache {
    /// Makes a cache that keeps about `capacity` units besides those that wait to be written.
    pub(crate) const fn new(capacity: usize) -> Self {
        Self {
            units: BTreeMap::new(),
            owned: BTreeSet::new(),
            order: VecDeque::new(),
            running: BTreeSet::new(),
            committed: BTreeMap::new(),
            capacity,
            stamp: 0,
        }
    }

    pub(crate) fn get(&mut self, address: u64) -> Option<Arc<Bytes>> {
        let cached = self.units.get_mut(&address)?;
        cached.recent = true;
        Some(Arc::clone(&cached.image))
    }

    pub(crate) fn len(&self) -> usize {
        self.units.len()
    }

    /// Keeps a unit that was read under `owner`.
    pub(crate) fn insert(&mut self, address: u64, image: Arc<Bytes>, owner: LockName) {
        self.see(&image);
        self.put(address, image, owner);
        self.evict();
    }

    /// Returns the version that the next merge gives, at least: no unit has it yet.
    pub(crate) const fn next_stamp(&self) -> u64 {
        self.stamp.saturating_add(1)
    }

    /// Notes the version of a unit that was read without being kept.
    pub(crate) fn see(&mut self, image: &Bytes) {
        self.stamp = self.stamp.max(Header::of(image).version.get());
    }

    fn put(&mut self, address: u64, image: Arc<Bytes>, owner: LockName) {
        let cached = Cached {
            image,
            owner,
            recent: true,
        };
        self.owned.insert((owner, address));
        match self.units.insert(address, cached) {
            None => self.enqueue(address),
            // A unit that was freed and is another file's now.
            Some(old) if old.owner != owner => {
                self.owned.remove(&(old.owner, address));
            }
            Some(_) => {}
        }
    }

    /// Queues a new unit for eviction. Units that were forgotten leave their place in the queue behind; at times it is
    /// cleaned of them.
    fn enqueue(&mut self, address: u64) {
        if self.order.len() > self.units.len().saturating_mul(2).saturating_add(64) {
            self.order = self.units.keys().copied().collect();
            return;
        }
        self.order.push_back(address);
    }

    fn evict(&mut self) {
        let mut tries = self.order.len();
        while self.units.len() > self.capacity && tries > 0 {
            tries = tries.saturating_sub(1);
            let Some(address) = self.order.pop_front() else {
                return;
            };
            let dirty = self.running.contains(&address) || self.committed.contains_key(&address);
            match self.units.get_mut(&address) {
                None => {}
                Some(cached) if cached.recent || dirty => {
                    cached.recent = false;
                    self.order.push_back(address);
                }
                Some(cached) => {
                    self.owned.remove(&(cached.owner, address));
                    self.units.remove(&address);
                }
            }
        }
    }

    /// Returns how many units would run if `overlay` were merged.
    pub(crate) fn running_with(&self, overlay: &Overlay) -> usize {
        let new = overlay
            .addresses()
            .filter(|address| !self.running.contains(address))
            .count();
        self.running.len().saturating_add(new)
    }

    /// Makes an operation's changes part of the running transaction.
    pub(crate) fn merge(&mut self, overlay: Overlay) {
        if overlay.is_empty() {
            return;
        }
        self.stamp = self.stamp.saturating_add(1);
        for (address, (mut image, owner)) in overlay.units {
            Header::of_mut(Arc::make_mut(&mut image)).version = U64::new(self.stamp);
            self.put(address, image, owner);
            self.running.insert(address);
        }
    }

    pub(crate) fn has_running(&self) -> bool {
        !self.running.is_empty()
    }

    pub(crate) fn has_committed(&self) -> bool {
        !self.committed.is_empty()
    }

    /// Returns the units of the running transaction, by rising address. Their checksums are old.
    pub(crate) fn running(&self) -> Vec<(u64, Arc<Bytes>)> {
        let cached = |address: &u64| Some((*address, Arc::clone(&self.units.get(address)?.image)));
        self.running.iter().filter_map(cached).collect()
    }

    /// Returns a unit as the journal has it, if it names the unit.
    pub(crate) fn in_journal(&self, address: u64) -> Option<&Bytes> {
        self.committed.get(&address).map(|image| &**image)
    }

    /// Returns how many units the journal would name if the running transaction were in it.
    pub(crate) fn in_journal_with_running(&self) -> usize {
        let new = self
            .running
            .iter()
            .filter(|address| !self.committed.contains_key(address))
            .count();
        self.committed.len().saturating_add(new)
    }

    /// The running transaction is in the journal.
    pub(crate) fn committed(&mut self, images: Vec<(u64, Arc<Bytes>)>) {
        for (address, image) in images {
            self.running.remove(&address);
            self.committed.insert(address, image);
        }
    }

    /// Returns what waits to be written in place, by rising address.
    pub(crate) fn to_write(&self) -> Vec<(u64, Arc<Bytes>)> {
        self.committed
            .iter()
            .map(|(address, image)| (*address, Arc::clone(image)))
            .collect()
    }

    /// What waited is in place.
    pub(crate) fn written(&mut self) {
        self.committed.clear();
        self.evict();
    }

    /// Forgets every unit that `owner` covers; none of them may wait to be written.
    pub(crate) fn forget(&mut self, owner: LockName) {
        let covered: Vec<u64> = self
            .owned
            .range((owner, 0)..=(owner, u64::MAX))
            .map(|(_, address)| *address)
            .collect();
        for address in covered {
            self.remove(address);
        }
    }

    /// Forgets a unit that was freed, unless it waits to be written: its image does no harm there, since the head that
    /// frees it is in the same transaction or a later one.
    pub(crate) fn remove(&mut self, address: u64) {
        if self.running.contains(&address) || self.committed.contains_key(&address) {
            return;
        }
        if let Some(cached) = self.units.remove(&address) {
            self.owned.remove(&(cached.owner, address));
        }
    }
}
