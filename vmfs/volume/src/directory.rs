//! Directories: finding, adding, removing and moving names.
//!
//! A directory is a tree whose keys are hashes of names. The name itself stands in the inode that it names, together
//! with the directory's address, so that a directory can be rebuilt from inodes.

use alloc::string::String;
use alloc::vec::Vec;
use core::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};
use zerocopy::byteorder::little_endian::{U16, U64};

use crate::error::Error;
use crate::format::{
    Entry, Inode, KIND_DIRECTORY, KIND_FILE, LAYOUT_INLINE, LAYOUT_TREE, MAGIC_INODE, NAME_MAX,
    STATE_LIVE, blank,
};
use crate::locks::{LockMode, LockName};
use crate::volume::{Host, Volume, operate};

/// The low bits of a key tell names of equal hash apart.
const PROBES: u64 = 0xff;
/// Directories that may lie inside each other.
const DEPTH_MAX: usize = 64;

/// A file or directory, as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Address of its inode.
    pub(crate) inode: u64,
    /// Tells it from earlier and later users of that inode.
    pub(crate) generation: u64,
}

impl FileId {
    /// Returns the address of the inode.
    #[must_use]
    pub const fn inode(&self) -> u64 {
        self.inode
    }
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
}

impl Kind {
    const fn number(self) -> u16 {
        match self {
            Self::File => KIND_FILE,
            Self::Directory => KIND_DIRECTORY,
        }
    }

    pub(crate) const fn of(number: u16) -> Option<Self> {
        match number {
            KIND_FILE => Some(Self::File),
            KIND_DIRECTORY => Some(Self::Directory),
            _ => None,
        }
    }
}

/// What is known of a file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Which one.
    pub id: FileId,
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Bytes of a file, entries of a directory.
    pub size: u64,
    /// Blocks of 1 MiB allocated to it.
    pub blocks: u64,
    /// Seconds since 1970 when it was made.
    pub created: u64,
    /// Seconds since 1970 when its size or mapping last changed.
    pub modified: u64,
}

/// The hash of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameHash {
    /// Lowest key of names with this hash.
    pub(crate) first: u64,
    /// More bits of the hash, as they stand in an entry's detail.
    pub(crate) rest: u64,
}

impl NameHash {
    /// Hashes a name: SipHash-2-4 with 128 bits of result under the volume's key.
    pub(crate) fn new(key: &[u8; 16], name: &[u8]) -> Self {
        let mut hasher = SipHasher24::new_with_key(key);
        hasher.write(name);
        let hash = hasher.finish128();
        Self {
            first: hash.h1 & !PROBES,
            rest: hash.h2 & !0xffff,
        }
    }

    pub(crate) const fn last(self) -> u64 {
        self.first | PROBES
    }

    fn detail(self, kind: Kind) -> u64 {
        self.rest | u64::from(kind.number())
    }
}

/// Checks a name.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let good = !name.is_empty()
        && name.len() <= NAME_MAX
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0']);
    if good { Ok(()) } else { Err(Error::BadName) }
}

impl<H: Host> Volume<H> {
    /// Returns the root directory.
    pub const fn root(&self) -> FileId {
        FileId {
            inode: self.layout.root,
            generation: 1,
        }
    }

    /// Finds a path of names separated by slashes, from the root.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotADirectory`], [`Error::BadName`], or the device's.
    pub async fn resolve(&mut self, path: &str) -> Result<FileId, Error> {
        let mut at = self.root();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = self.lookup(at, name).await?;
        }
        Ok(at)
    }

    /// Finds a name in a directory.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotADirectory`], [`Error::BadName`], or the device's.
    pub async fn lookup(&mut self, directory: FileId, name: &str) -> Result<FileId, Error> {
        check_name(name)?;
        operate!(self, |volume| {
            volume.lock_directory(directory, LockMode::Shared).await?;
            let entry = volume.find_name(directory, name).await?;
            let inode = entry.ok_or(Error::NotFound)?.target.get();
            let bytes = volume.peek(inode, MAGIC_INODE).await?;
            Ok(FileId {
                inode,
                generation: Inode::of(&bytes).head.generation.get(),
            })
        })
    }

    /// Returns at most `count` entries of a directory and where to go on: 0 to begin with, `None` at the end. Names
    /// come in no order; those added or removed meanwhile may or may not be among them, all others are once.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotADirectory`], or the device's.
    pub async fn list(
        &mut self,
        directory: FileId,
        from: u64,
        count: usize,
    ) -> Result<(Vec<Stat>, Option<u64>), Error> {
        operate!(self, |volume| {
            volume.lock_directory(directory, LockMode::Shared).await?;
            let mut stats = Vec::new();
            let mut next = Some(from);
            while let Some(key) = next.filter(|_| stats.len() < count) {
                let Some(entry) = volume.tree_ceiling(directory.inode, key).await? else {
                    return Ok((stats, None));
                };
                next = entry.key.get().checked_add(1);
                if !volume.layout.is_inode(entry.target.get()) {
                    return Err(Error::Damaged {
                        address: directory.inode,
                    });
                }
                let bytes = volume.peek(entry.target.get(), MAGIC_INODE).await?;
                stats.extend(stat_of(entry.target.get(), Inode::of(&bytes)));
            }
            Ok((stats, next))
        })
    }

    /// Returns what is known of a file or directory. Another host that has it open may know better.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the device's.
    pub async fn stat(&mut self, id: FileId) -> Result<Stat, Error> {
        self.begin().await?;
        let bytes = self.peek(id.inode, MAGIC_INODE).await?;
        let inode = Inode::of(&bytes);
        check_generation(inode, id)?;
        stat_of(id.inode, inode).ok_or(Error::Damaged { address: id.inode })
    }

    /// Makes a file or directory.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::BadName`], [`Error::NotADirectory`], [`Error::NoSpace`], or the device's.
    pub async fn create(
        &mut self,
        directory: FileId,
        name: &str,
        kind: Kind,
    ) -> Result<FileId, Error> {
        check_name(name)?;
        operate!(self, |volume| {
            volume
                .lock_directory(directory, LockMode::Exclusive)
                .await?;
            if volume.find_name(directory, name).await?.is_some() {
                return Err(Error::Exists);
            }
            let address = volume.allocate_inode().await?;
            let id = volume.new_inode(address, directory, name, kind);
            volume.add_name(directory, name, kind, address).await?;
            Ok(id)
        })
    }

    /// Moves a file or directory to another name, in the same directory or another one.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Exists`], [`Error::IntoItself`], [`Error::Busy`] if another host has it open, or the
    /// device's.
    pub async fn rename(
        &mut self,
        from: FileId,
        name: &str,
        to: FileId,
        new_name: &str,
    ) -> Result<(), Error> {
        check_name(name)?;
        check_name(new_name)?;
        operate!(self, |volume| volume
            .rename_once(from, name, to, new_name)
            .await)
    }

    async fn rename_once(
        &mut self,
        from: FileId,
        name: &str,
        to: FileId,
        new_name: &str,
    ) -> Result<(), Error> {
        self.lock_directory(from, LockMode::Exclusive).await?;
        self.lock_directory(to, LockMode::Exclusive).await?;
        let entry = self.find_name(from, name).await?.ok_or(Error::NotFound)?;
        let address = entry.target.get();
        if from == to && name == new_name {
            return Ok(());
        }
        if self.find_name(to, new_name).await?.is_some() {
            return Err(Error::Exists);
        }
        self.lock_for_change(address).await?;
        let bytes = self
            .load(address, MAGIC_INODE, LockName::Unit(address))
            .await?;
        let kind = Kind::of(Inode::of(&bytes).head.kind.get()).ok_or(Error::Damaged { address })?;
        if kind == Kind::Directory && from != to {
            self.lock(LockName::Moves, LockMode::Exclusive).await?;
            self.check_outside(address, to).await?;
        }
        self.tree_remove(from.inode, entry.key.get()).await?;
        self.count_entries(from, false).await?;
        self.add_name(to, new_name, kind, address).await?;
        let inode = self.change_inode(address).await?;
        inode.head.parent = U64::new(to.inode);
        set_name(inode, new_name);
        Ok(())
    }

    /// Checks that a directory is not `inode` and does not lie in it.
    async fn check_outside(&mut self, inode: u64, directory: FileId) -> Result<(), Error> {
        let mut at = directory.inode;
        for _ in 0..DEPTH_MAX {
            if at == inode {
                return Err(Error::IntoItself);
            }
            if at == self.layout.root {
                return Ok(());
            }
            if !self.layout.is_inode(at) {
                return Err(Error::Damaged { address: at });
            }
            let bytes = self.peek(at, MAGIC_INODE).await?;
            at = Inode::of(&bytes).head.parent.get();
        }
        Err(Error::Damaged { address: at })
    }

    /// Takes the lock of an inode that an operation changes; a host that keeps it has the file open.
    pub(crate) async fn lock_for_change(&mut self, inode: u64) -> Result<(), Error> {
        self.lock(LockName::Unit(inode), LockMode::Exclusive).await
    }

    /// Takes a directory's lock and checks that it is still that directory.
    pub(crate) async fn lock_directory(
        &mut self,
        directory: FileId,
        mode: LockMode,
    ) -> Result<(), Error> {
        let owner = LockName::Unit(directory.inode);
        self.lock(owner, mode).await?;
        let bytes = self.load(directory.inode, MAGIC_INODE, owner).await?;
        let inode = Inode::of(&bytes);
        check_generation(inode, directory)?;
        if inode.head.kind.get() == KIND_DIRECTORY {
            Ok(())
        } else {
            Err(Error::NotADirectory)
        }
    }

    /// Finds a name in a directory whose lock is kept.
    pub(crate) async fn find_name(
        &mut self,
        directory: FileId,
        name: &str,
    ) -> Result<Option<Entry>, Error> {
        let hash = NameHash::new(&self.layout.hash_key, name.as_bytes());
        let mut key = hash.first;
        while let Some(entry) = self.tree_ceiling(directory.inode, key).await? {
            if entry.key.get() > hash.last() {
                break;
            }
            if entry.detail.get() & !0xffff == hash.rest {
                let address = entry.target.get();
                if !self.layout.is_inode(address) {
                    return Err(Error::Damaged {
                        address: directory.inode,
                    });
                }
                let bytes = self.peek(address, MAGIC_INODE).await?;
                let inode = Inode::of(&bytes);
                if inode.name() == name.as_bytes() && inode.head.parent.get() == directory.inode {
                    return Ok(Some(entry));
                }
            }
            let Some(next) = entry.key.get().checked_add(1) else {
                break;
            };
            key = next;
        }
        Ok(None)
    }

    /// Adds an entry for a name that the directory does not have.
    pub(crate) async fn add_name(
        &mut self,
        directory: FileId,
        name: &str,
        kind: Kind,
        inode: u64,
    ) -> Result<(), Error> {
        let hash = NameHash::new(&self.layout.hash_key, name.as_bytes());
        let mut key = hash.first;
        while let Some(entry) = self.tree_ceiling(directory.inode, key).await? {
            if entry.key.get() != key {
                break;
            }
            if key == hash.last() {
                return Err(Error::NoSpace);
            }
            key = key.saturating_add(1);
        }
        self.tree_insert(directory.inode, Entry::new(key, inode, hash.detail(kind)))
            .await?;
        self.count_entries(directory, true).await
    }

    pub(crate) async fn count_entries(
        &mut self,
        directory: FileId,
        more: bool,
    ) -> Result<(), Error> {
        let now = self.unix_seconds();
        let head = &mut self.change_inode(directory.inode).await?.head;
        let size = head.size.get();
        head.size.set(if more {
            size.saturating_add(1)
        } else {
            size.saturating_sub(1)
        });
        head.modified.set(now);
        Ok(())
    }

    /// Begins an inode in the overlay.
    fn new_inode(&mut self, address: u64, directory: FileId, name: &str, kind: Kind) -> FileId {
        // No version was given out twice, so none of an earlier user of this inode is the same.
        let generation = self.cache.next_stamp();
        let now = self.unix_seconds();
        let mut bytes = blank(MAGIC_INODE, address, self.layout.tag);
        let inode = Inode::of_mut(&mut bytes);
        inode.head.state = U16::new(STATE_LIVE);
        inode.head.kind = U16::new(kind.number());
        inode.head.layout = U16::new(match kind {
            Kind::File => LAYOUT_INLINE,
            Kind::Directory => LAYOUT_TREE,
        });
        inode.head.generation = U64::new(generation);
        inode.head.parent = U64::new(directory.inode);
        inode.head.created = U64::new(now);
        inode.head.modified = U64::new(now);
        set_name(inode, name);
        let owner = LockName::Unit(address);
        self.overlay
            .insert(address, alloc::sync::Arc::new(bytes), owner);
        FileId {
            inode: address,
            generation,
        }
    }
}

/// Checks that an inode is live and still the one that was meant.
pub(crate) fn check_generation(inode: &Inode, id: FileId) -> Result<(), Error> {
    if inode.head.state.get() == STATE_LIVE && inode.head.generation.get() == id.generation {
        Ok(())
    } else {
        Err(Error::NotFound)
    }
}

fn set_name(inode: &mut Inode, name: &str) {
    inode.name = [0; 256];
    if let Some(target) = inode.name.get_mut(..name.len()) {
        target.copy_from_slice(name.as_bytes());
    }
    inode.head.name_len = U16::new(u16::try_from(name.len()).unwrap_or(0));
}

pub(crate) fn stat_of(address: u64, inode: &Inode) -> Option<Stat> {
    Some(Stat {
        id: FileId {
            inode: address,
            generation: inode.head.generation.get(),
        },
        kind: Kind::of(inode.head.kind.get())?,
        name: String::from_utf8_lossy(inode.name()).into_owned(),
        size: inode.head.size.get(),
        blocks: inode.head.blocks.get(),
        created: inode.head.created.get(),
        modified: inode.head.modified.get(),
    })
}
