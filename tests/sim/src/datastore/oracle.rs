//! The oracle of the volume: what each host did to its files, and what may therefore be found of it.
//!
//! After an acknowledged sync everything stands as it was; of what was done since, some first part does, and of data
//! that was written since, each sector is old or new. Each host has names of its own, in its own directory and in the
//! shared one.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::world::World;

/// Bytes that one write writes, and that are judged together.
pub const CHUNK: usize = 4096;
/// Bytes that are never torn.
const SECTOR: usize = 512;

/// What stands at the head of every sector of a file.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
struct Tag {
    serial: U64,
    chunk: U64,
    version: U64,
}

/// Makes version `version` of a chunk of file `serial`.
#[must_use]
pub fn fill(serial: u64, chunk: u64, version: u64) -> Vec<u8> {
    let tag = Tag {
        serial: U64::new(serial),
        chunk: U64::new(chunk),
        version: U64::new(version),
    };
    let mut bytes = vec![0; CHUNK];
    for sector in bytes.chunks_mut(SECTOR) {
        sector[..size_of::<Tag>()].copy_from_slice(tag.as_bytes());
    }
    bytes
}

/// Something that a host did to its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Made one.
    Create(String),
    /// Gave one another name.
    Rename(String, String),
    /// Removed one.
    Remove(String),
}

/// What a chunk may hold.
#[derive(Clone, Copy, Debug, Default)]
struct Versions {
    /// At least this one, which is on disk.
    floor: u64,
    /// The last one that was acknowledged.
    acknowledged: u64,
    /// At most this one, the last that was begun.
    latest: u64,
}

/// What is known of a host's names and files.
#[derive(Debug, Default)]
struct Model {
    durable: BTreeSet<String>,
    deeds: Vec<Deed>,
    files: BTreeMap<u64, BTreeMap<u64, Versions>>,
    serials: u64,
}

/// The oracle.
#[derive(Debug)]
pub struct Oracle {
    world: Rc<World>,
    models: RefCell<Vec<Model>>,
}

/// Returns the serial number of the file that has this name, whatever it was called before.
#[must_use]
pub fn serial_of(name: &str) -> u64 {
    let digits = name.rsplit('-').next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

impl Oracle {
    /// Makes the oracle of `hosts` hosts that have done nothing yet.
    #[must_use]
    pub fn new(world: Rc<World>, hosts: usize) -> Self {
        Self {
            world,
            models: RefCell::new((0..hosts).map(|_| Model::default()).collect()),
        }
    }

    /// Returns a serial number for the host's next file.
    pub fn next_serial(&self, host: usize) -> u64 {
        let model = &mut self.models.borrow_mut()[host];
        model.serials += 1;
        model.serials
    }

    /// A host begins to do something.
    pub fn begins(&self, host: usize, deed: Deed) {
        self.models.borrow_mut()[host].deeds.push(deed);
    }

    /// What the host began last has not happened, and never will.
    pub fn takes_back(&self, host: usize) {
        self.models.borrow_mut()[host].deeds.pop();
    }

    /// Begins a write and returns the version to write.
    pub fn writes(&self, host: usize, serial: u64, chunk: u64) -> u64 {
        let model = &mut self.models.borrow_mut()[host];
        let file = model.files.entry(serial).or_default();
        let versions = file.entry(chunk).or_default();
        versions.latest += 1;
        versions.latest
    }

    /// A write was acknowledged.
    pub fn wrote(&self, host: usize, serial: u64, chunk: u64, version: u64) {
        let model = &mut self.models.borrow_mut()[host];
        let file = model.files.entry(serial).or_default();
        file.entry(chunk).or_default().acknowledged = version;
    }

    /// A sync was acknowledged: all that was acknowledged before is on disk.
    pub fn synced(&self, host: usize) {
        let model = &mut self.models.borrow_mut()[host];
        model.durable = model.names(model.deeds.len());
        model.deeds.clear();
        for file in model.files.values_mut() {
            for versions in file.values_mut() {
                versions.floor = versions.floor.max(versions.acknowledged);
            }
        }
    }

    /// These are all names that are there, as whoever may look at them found.
    pub fn finds_names(&self, host: usize, names: &BTreeSet<String>) {
        let model = &mut self.models.borrow_mut()[host];
        let fits = (0..=model.deeds.len())
            .rev()
            .find(|&count| model.names(count) == *names);
        if fits.is_none() {
            self.world.condemn(|| {
                format!(
                    "of host {host} there are {names:?}, not {:?} and a first part of {:?}",
                    model.durable, model.deeds
                )
            });
        }
        model.durable.clone_from(names);
        model.deeds.clear();
        let there: BTreeSet<u64> = names.iter().map(|name| serial_of(name)).collect();
        model.files.retain(|serial, _| there.contains(serial));
    }

    /// Returns the chunks of a file that were ever written.
    pub fn chunks(&self, host: usize, serial: u64) -> Vec<u64> {
        let models = self.models.borrow();
        let file = models[host].files.get(&serial);
        file.map(|file| file.keys().copied().collect())
            .unwrap_or_default()
    }

    /// A chunk was read and holds this.
    pub fn finds(&self, host: usize, serial: u64, chunk: u64, bytes: &[u8]) {
        let model = &mut self.models.borrow_mut()[host];
        let Some(versions) = model
            .files
            .get_mut(&serial)
            .and_then(|file| file.get_mut(&chunk))
        else {
            return;
        };
        let mut least = u64::MAX;
        for at in (0..CHUNK).step_by(SECTOR) {
            let sector = bytes.get(at..at + size_of::<Tag>()).unwrap_or_default();
            let tag = Tag::read_from_bytes(sector).unwrap_or_else(|_| Tag::new_zeroed());
            let version = tag.version.get();
            let own = tag.serial == serial && tag.chunk == chunk && version != 0;
            let nothing = tag == Tag::new_zeroed();
            let fits = (own || nothing) && (versions.floor..=versions.latest).contains(&version);
            if !fits {
                let Versions { floor, latest, .. } = *versions;
                self.world.condemn(|| {
                    format!(
                        "host {host}'s file {serial}, chunk {chunk}, sector {}: version {version} of \
                         chunk {} of file {}, not {floor} to {latest}",
                        at / SECTOR,
                        tag.chunk,
                        tag.serial
                    )
                });
                return;
            }
            least = least.min(version);
        }
        // What is found is not on disk for that: it may be in the disk's cache until the next sync. Sectors may differ
        // until the chunk is written anew, so the next sync saves the oldest of them at least.
        versions.acknowledged = least;
    }
}

impl Model {
    /// Returns the names after the first `count` deeds.
    fn names(&self, count: usize) -> BTreeSet<String> {
        let mut names = self.durable.clone();
        for deed in self.deeds.iter().take(count) {
            match deed {
                Deed::Create(name) => {
                    names.insert(name.clone());
                }
                Deed::Rename(from, to) => {
                    names.remove(from);
                    names.insert(to.clone());
                }
                Deed::Remove(name) => {
                    names.remove(name);
                }
            }
        }
        names
    }
}
