//! Hosts that use a whole volume: the real code of vmfs/volume over the real locks, with files, names and syncs.
//!
//! Every host works in a directory of its own and, now and then, in one that all share. What may be found afterwards
//! the oracle knows; whether the volume is whole fsck says.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use api::block::{BlockError, Buffer};
use lock::{Gate, Host, Life, LockError, Locks};
use volume::{Action, Error, FileId, Finding, Kind, Layout, LockMode, Provision, Settings, Volume};

use super::disk::HostDisk;
use super::judge::name;
use super::oracle::{CHUNK, Deed, Oracle, fill, serial_of};
use super::world::{HostClock, MS, SECOND, abandon_after, race};

/// The lock service as hosts use it.
type HostLocks = Locks<HostDisk, HostClock>;
/// The volume as hosts mount it.
type Mounted = Volume<(Gate<HostDisk, HostClock>, Rc<HostLocks>, HostClock)>;

/// The directory that all hosts use.
pub const SHARED: &str = "shared";
/// Chunks of a file that hosts write, at most this many, some a block apart.
const CHUNKS: u64 = 6;
/// Tries of the examiner, which nothing disturbs.
const TRIES: u32 = 40;

/// Returns the name of a host's own directory.
#[must_use]
pub fn home(host: usize) -> String {
    format!("home{host}")
}

/// A host with a volume.
#[derive(Clone, Debug)]
pub struct FileHost {
    /// The disk it shares, and who it is.
    pub device: HostDisk,
    /// Who knows what it did.
    pub oracle: Rc<Oracle>,
    /// Where things lie on the disk.
    pub layout: Layout,
    /// When it stops working and leaves, in true time.
    pub end: u64,
    /// It makes large files until the volume is full.
    pub crowded: bool,
}

/// The directories of a mounted volume.
#[derive(Clone, Copy, Debug)]
struct Places {
    home: FileId,
    shared: FileId,
}

impl FileHost {
    /// Lives until the end: joins, mounts, works, and does so again when the mount has failed.
    pub async fn live(self) {
        let clock = self.device.clock();
        while self.device.world().now() < self.end {
            match self.join().await {
                Ok(locks) => self.serve(Rc::new(locks)).await,
                Err(error) => self.device.note(|| format!("cannot join: {error}")),
            }
            clock
                .sleep(self.device.world().between(MS, 2 * SECOND))
                .await;
        }
    }

    /// Makes and removes files in its own directory as fast as it can, and counts what it did.
    ///
    /// # Errors
    /// Whatever goes wrong on a disk on which nothing goes wrong.
    pub async fn hammer(self, done: Rc<Cell<u64>>) -> Result<(), Error> {
        let locks = Rc::new(self.join().await.map_err(|_| Error::Failed)?);
        let alive = async {
            locks.keep_alive().await;
            Err(Error::Failed)
        };
        let work = async {
            let mut volume = self.mount(&locks).await?;
            let places = self.places(&mut volume).await?;
            for number in 0_u64.. {
                let name = format!("{}-a-{number}", self.device.host);
                volume.create(places.home, &name, Kind::File).await?;
                if number % 2 == 1 {
                    volume.remove(places.home, &name).await?;
                    done.set(done.get() + 1);
                }
                done.set(done.get() + 1);
                if number % 8 == 0 {
                    volume.sync().await?;
                }
                volume.tick().await?;
            }
            Ok(())
        };
        race(alive, work).await
    }

    async fn join(&self) -> Result<HostLocks, LockError> {
        let area = self.layout.lock_terms().map_err(|_| LockError::NoSlot)?;
        let host = Host {
            uuid: [self.device.host as u8; 16],
            name: "simulated",
            nonce: self.device.world().bits(),
        };
        let journal = |slot| self.layout.slot_journal(slot);
        let locks = Locks::join(
            self.device.clone(),
            self.device.clock(),
            area,
            host,
            journal,
        )
        .await?;
        self.device
            .note(|| format!("has joined as {}", name(locks.me())));
        Ok(locks)
    }

    async fn serve(&self, locks: Rc<HostLocks>) {
        let work = async {
            let result = self.mount_and_work(&locks).await;
            self.device.note(|| format!("has stopped: {result:?}"));
            result.is_ok()
        };
        let alive = async {
            let error = locks.keep_alive().await;
            self.device.note(|| format!("is out: {error}"));
            false
        };
        let orderly = race(alive, work).await;
        match Rc::try_unwrap(locks) {
            Ok(locks) if orderly => {
                let left = locks.leave().await;
                self.device.note(|| format!("leaves: {left:?}"));
            }
            _ => {}
        }
    }

    async fn mount(&self, locks: &Rc<HostLocks>) -> Result<Mounted, Error> {
        let (gate, locks) = (locks.gate(), Rc::clone(locks));
        let settings = Settings {
            cache_units: 256,
            discard: false,
            ..Settings::default()
        };
        Volume::mount(
            gate,
            self.layout.clone(),
            locks,
            self.device.clock(),
            settings,
        )
        .await
    }

    async fn places(&self, volume: &mut Mounted) -> Result<Places, Error> {
        let root = volume.root();
        Ok(Places {
            home: volume.lookup(root, &home(self.device.host)).await?,
            shared: volume.lookup(root, SHARED).await?,
        })
    }

    async fn mount_and_work(&self, locks: &Rc<HostLocks>) -> Result<(), Error> {
        let mut volume = self.mount(locks).await?;
        self.device.note(|| "has mounted".to_owned());
        let places = self.places(&mut volume).await?;
        let names = loop {
            match self.observe(&mut volume, places, self.device.host).await {
                Err(Error::LockTimeout) => self.device.note(|| "cannot look yet".to_owned()),
                names => break names?,
            }
        };
        self.device.note(|| format!("finds {names:?}"));
        let mut names: Vec<String> = names.into_iter().collect();
        while self.device.world().now() < self.end {
            self.act(&mut volume, places, &mut names).await?;
            volume.tick().await?;
            let nap = self.device.world().between(MS, 400 * MS);
            self.device.clock().sleep(nap).await;
        }
        let synced = volume.sync().await;
        self.device.note(|| format!("syncs at the end: {synced:?}"));
        synced?;
        self.oracle.synced(self.device.host);
        volume.unmount().await.map(drop)
    }

    /// Looks at all names and files of `owner`, and has the oracle judge them.
    async fn observe(
        &self,
        volume: &mut Mounted,
        places: Places,
        owner: usize,
    ) -> Result<BTreeSet<String>, Error> {
        let mut names = BTreeSet::new();
        let mut files = Vec::new();
        for (prefix, directory) in [("home/", places.home), ("shared/", places.shared)] {
            let mut from = Some(0);
            while let Some(key) = from {
                let (stats, next) = volume.list(directory, key, 16).await?;
                for stat in stats {
                    if stat.name.starts_with(&format!("{owner}-")) {
                        names.insert(format!("{prefix}{}", stat.name));
                        files.push((serial_of(&stat.name), stat.id));
                    }
                }
                from = next;
            }
        }
        let mut contents = Vec::new();
        for (serial, id) in files {
            let mut file = volume.open(id, LockMode::Exclusive).await?;
            for chunk in self.oracle.chunks(owner, serial) {
                let buffer = Buffer::zeroed(CHUNK);
                let (buffer, read) = volume.read(&mut file, offset(chunk), buffer).await;
                let mut bytes = buffer.to_vec();
                match read {
                    // Data stands once: where the medium cannot read it, the host is told so.
                    Err(Error::Block(BlockError::Medium { lba })) if self.is_unreadable(lba) => {
                        self.device
                            .note(|| format!("cannot read chunk {chunk} of {serial}"));
                        continue;
                    }
                    read => bytes.truncate(read?),
                }
                bytes.resize(CHUNK, 0);
                contents.push((serial, chunk, bytes));
            }
            volume.close(file);
        }
        self.oracle.finds_names(owner, &names);
        for (serial, chunk, bytes) in contents {
            self.oracle.finds(owner, serial, chunk, &bytes);
        }
        Ok(names)
    }

    /// Does one thing.
    async fn act(
        &self,
        volume: &mut Mounted,
        places: Places,
        names: &mut Vec<String>,
    ) -> Result<(), Error> {
        let dice = self.device.world().below(12);
        let chosen = match names.len() {
            0 => None,
            count => Some(self.device.world().below(count as u64) as usize),
        };
        match (dice, chosen) {
            (0..3, _) | (_, None) => self.create(volume, places, names).await,
            (3, Some(at)) if names.len() > 3 => self.remove(volume, places, names, at).await,
            (4, Some(at)) => self.rename(volume, places, names, at).await,
            (5, _) => {
                volume.sync().await?;
                self.device.note(|| "has synced".to_owned());
                self.oracle.synced(self.device.host);
                Ok(())
            }
            (6, _) => self.visit(volume, places).await,
            (7 | 8, _) if self.crowded => self.fill_up(volume, places, names).await,
            (_, Some(at)) => self.write(volume, places, &names[at]).await,
        }
    }

    /// Settles what became of a deed that was begun: whether the host can go on, and whether it has happened.
    fn done(&self, result: Option<Result<(), Error>>) -> Result<bool, Error> {
        match result {
            Some(Ok(())) => Ok(true),
            // What was left in the middle, and what was refused, has not happened.
            None | Some(Err(Error::LockTimeout | Error::NoSpace | Error::Busy)) => {
                self.device.note(|| format!("has not done it: {result:?}"));
                self.oracle.takes_back(self.device.host);
                Ok(false)
            }
            Some(Err(error)) => Err(error),
        }
    }

    /// How many polls the next operation gets; mostly enough.
    fn patience(&self) -> u64 {
        if self.device.world().chance(50) {
            self.device.world().between(1, 12)
        } else {
            u64::MAX
        }
    }

    async fn create(
        &self,
        volume: &mut Mounted,
        places: Places,
        names: &mut Vec<String>,
    ) -> Result<(), Error> {
        let serial = self.oracle.next_serial(self.device.host);
        let place = if self.device.world().chance(250) {
            "shared"
        } else {
            "home"
        };
        let path = format!("{place}/{}-a-{serial}", self.device.host);
        self.device.note(|| format!("creates {path}"));
        self.oracle
            .begins(self.device.host, Deed::Create(path.clone()));
        let (directory, name) = places.of(&path);
        let create = async { volume.create(directory, name, Kind::File).await.map(drop) };
        let result = abandon_after(self.patience(), create).await;
        if self.done(result)? {
            names.push(path);
        }
        Ok(())
    }

    async fn remove(
        &self,
        volume: &mut Mounted,
        places: Places,
        names: &mut Vec<String>,
        at: usize,
    ) -> Result<(), Error> {
        let path = names[at].clone();
        self.device.note(|| format!("removes {path}"));
        self.oracle
            .begins(self.device.host, Deed::Remove(path.clone()));
        let (directory, name) = places.of(&path);
        let remove = volume.remove(directory, name);
        let result = abandon_after(self.patience(), remove).await;
        if self.done(result)? {
            names.remove(at);
        }
        Ok(())
    }

    async fn rename(
        &self,
        volume: &mut Mounted,
        places: Places,
        names: &mut [String],
        at: usize,
    ) -> Result<(), Error> {
        let path = names[at].clone();
        let place = if self.device.world().chance(250) {
            "shared"
        } else {
            "home"
        };
        let letter = char::from(b'b' + self.device.world().below(20) as u8);
        let new = format!("{place}/{}-{letter}-{}", self.device.host, serial_of(&path));
        if new == path {
            return Ok(());
        }
        self.device.note(|| format!("renames {path} to {new}"));
        let deed = Deed::Rename(path.clone(), new.clone());
        self.oracle.begins(self.device.host, deed);
        let ((from, name), (to, new_name)) = (places.of(&path), places.of(&new));
        let rename = volume.rename(from, name, to, new_name);
        let result = abandon_after(self.patience(), rename).await;
        if self.done(result)? {
            names[at] = new;
        }
        Ok(())
    }

    /// Looks into the shared directory, at whatever is there.
    async fn visit(&self, volume: &mut Mounted, places: Places) -> Result<(), Error> {
        match volume.list(places.shared, 0, 8).await {
            Ok(_) | Err(Error::LockTimeout) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, volume: &mut Mounted, places: Places, path: &str) -> Result<(), Error> {
        let (directory, name) = places.of(path);
        let opened = match volume.lookup(directory, name).await {
            Ok(id) => volume.open(id, LockMode::Exclusive).await,
            Err(error) => Err(error),
        };
        let mut file = match opened {
            Err(Error::LockTimeout | Error::Busy) => return Ok(()),
            file => file?,
        };
        let serial = serial_of(path);
        let mut result = Ok(());
        for _ in 0..self.device.world().between(1, 3) {
            let chunk = self.device.world().below(CHUNKS);
            let version = self.oracle.writes(self.device.host, serial, chunk);
            self.device
                .note(|| format!("writes {path}, chunk {chunk}, version {version}"));
            let data = Buffer::copied_from(&fill(serial, chunk, version));
            let write = volume.write(&mut file, offset(chunk), data);
            result = match abandon_after(self.patience(), write).await {
                Some((_, result)) => result,
                None => break,
            };
            if result.is_err() {
                break;
            }
            self.oracle.wrote(self.device.host, serial, chunk, version);
        }
        if result.is_ok() && self.device.world().chance(300) {
            result = volume.fsync(&file).await;
            if result.is_ok() {
                self.device.note(|| format!("has synced {path}"));
                self.oracle.synced(self.device.host);
            }
        }
        volume.close(file);
        match result {
            Err(Error::LockTimeout | Error::NoSpace) => Ok(()),
            // The medium refused a request for data; the file is as sound as before.
            Err(Error::Block(BlockError::Medium { .. })) => Ok(()),
            result => result,
        }
    }

    /// Makes a file and allocates room for it until there is none, or some tens of blocks.
    async fn fill_up(
        &self,
        volume: &mut Mounted,
        places: Places,
        names: &mut Vec<String>,
    ) -> Result<(), Error> {
        let before = names.len();
        self.create(volume, places, names).await?;
        let Some(path) = names.get(before) else {
            return Ok(());
        };
        let (directory, name) = places.of(path);
        let id = volume.lookup(directory, name).await?;
        let mut file = volume.open(id, LockMode::Exclusive).await?;
        let len = self.device.world().between(1, 80) << 20;
        let filled = volume
            .allocate(&mut file, 8 << 20, len, Provision::Unwritten)
            .await;
        volume.close(file);
        self.device
            .note(|| format!("fills up with {path}: {filled:?}"));
        match filled {
            Err(Error::NoSpace | Error::LockTimeout) => Ok(()),
            filled => filled,
        }
    }

    /// Tells whether the medium cannot read at a block, or in the request from there on.
    fn is_unreadable(&self, lba: u64) -> bool {
        let sectors = CHUNK as u64 / u64::from(self.layout.logical_block);
        let medium = self.device.disk.medium();
        medium.first_unreadable(lba, sectors).is_some()
    }

    /// Looks at everything when all others have stopped: is the volume whole, does recovery lose nothing, and is the
    /// volume whole after it?
    pub async fn examine(self) {
        if let Err(error) = self.try_to_examine().await {
            self.device
                .world()
                .condemn(|| format!("what the hosts left cannot be examined: {error}"));
        }
    }

    async fn try_to_examine(&self) -> Result<(), Error> {
        self.check("before recovery").await?;
        let locks = Rc::new(self.join().await.map_err(|_| Error::Failed)?);
        let alive = async {
            locks.keep_alive().await;
            Err(Error::Failed)
        };
        race(alive, self.look(&locks)).await?;
        let locks = Rc::try_unwrap(locks).map_err(|_| Error::Failed)?;
        locks.leave().await.map_err(|_| Error::Failed)?;
        self.check("after recovery").await?;
        self.repair().await
    }

    async fn look(&self, locks: &Rc<HostLocks>) -> Result<(), Error> {
        let mut volume = self.mount(locks).await?;
        self.recover_all(locks).await?;
        let shared = self.places(&mut volume).await?.shared;
        for owner in 0..self.device.host {
            let home = volume.lookup(volume.root(), &home(owner)).await?;
            let places = Places { home, shared };
            let names = self.observe(&mut volume, places, owner).await?;
            self.device
                .note(|| format!("finds of host {owner} {names:?}"));
        }
        volume.unmount().await.map(drop)
    }

    async fn recover_all(&self, locks: &Rc<HostLocks>) -> Result<(), Error> {
        for _ in 0..TRIES {
            let others = locks.survey().await.map_err(|_| Error::Failed)?;
            let over = |life| matches!(life, Life::Free | Life::Me);
            if others.iter().all(|other| over(other.life)) {
                return Ok(());
            }
            for dead in others.iter().filter(|other| other.life == Life::Dead) {
                let slot = dead.slot.number;
                if let Ok(claim) = locks.claim(slot).await {
                    // Once more than needed: a replay that was done before changes nothing.
                    volume::replay(locks.gate(), &self.layout, slot).await?;
                    volume::replay(locks.gate(), &self.layout, slot).await?;
                    locks.clear(claim).await.map_err(|_| Error::Failed)?;
                }
            }
            self.device.clock().sleep(SECOND).await;
        }
        Err(Error::LockTimeout)
    }

    async fn check(&self, when: &str) -> Result<(), Error> {
        let report = volume::fsck(&self.device.clone(), Action::Check, |_, _| {}).await?;
        let medium = self.device.disk.medium();
        let wrong: Vec<_> = report
            .findings
            .iter()
            .filter(|finding| match finding {
                // The medium lost one copy, and the other one serves.
                Finding::UnitCopy { address, .. } => !medium.was_harmed(*address),
                Finding::SuperblockCopy { .. } => !medium.was_harmed(1),
                _ => true,
            })
            .collect();
        if !wrong.is_empty() {
            let world = self.device.world();
            world.condemn(|| format!("fsck {when}: {wrong:?}"));
        }
        Ok(())
    }

    /// Repairs what the medium lost, and finds nothing afterwards.
    async fn repair(&self) -> Result<(), Error> {
        let report = volume::fsck(&self.device.clone(), Action::Repair, |_, _| {}).await?;
        if !report.is_clean() {
            let world = self.device.world();
            world.condemn(|| format!("fsck cannot repair {:?}", report.findings));
        }
        Ok(())
    }
}

impl Places {
    /// Takes a name of the oracle apart: its directory, and the name in it.
    fn of<'a>(&self, path: &'a str) -> (FileId, &'a str) {
        match path.split_once('/') {
            Some(("shared", name)) => (self.shared, name),
            Some((_, name)) => (self.home, name),
            None => (self.home, path),
        }
    }
}

/// Where a chunk lies in its file: the first ones side by side, later ones blocks apart.
const fn offset(chunk: u64) -> u64 {
    if chunk < CHUNKS / 2 {
        chunk * CHUNK as u64
    } else {
        (chunk - CHUNKS / 2 + 1) * (1 << 20) + CHUNK as u64
    }
}
