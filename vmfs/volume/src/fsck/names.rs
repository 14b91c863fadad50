//! Directories against the inodes that they name.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use api::block::BlockDevice;

use super::{Checker, Finding};
use crate::directory::NameHash;
use crate::error::Error;
use crate::format::{Entry, KIND_DIRECTORY};

impl<D: BlockDevice> Checker<'_, D> {
    /// Checks an entry of a directory.
    pub(super) fn check_entry(&mut self, directory: u64, entry: &Entry) {
        let inode = entry.target.get();
        let kind = u16::try_from(entry.detail.get() & 0xffff).unwrap_or(0);
        let key = &self.layout.hash_key;
        let finding = match self.inodes.get_mut(&inode) {
            Some(known) if !known.deleting => {
                let hash = NameHash::new(key, &known.name);
                let in_place = (hash.first..=hash.last()).contains(&entry.key.get());
                if known.parent != directory {
                    Some(Finding::EntryElsewhere { directory, inode })
                } else if !in_place || hash.rest != entry.detail.get() & !0xffff {
                    Some(Finding::EntryHash { directory, inode })
                } else if known.kind != kind {
                    Some(Finding::EntryKind { directory, inode })
                } else if known.named > 0 {
                    Some(Finding::EntryTwice { directory, inode })
                } else {
                    known.named = 1;
                    None
                }
            }
            _ => Some(Finding::EntryDangling { directory, inode }),
        };
        if let Some(finding) = finding {
            self.find(finding);
            self.rebuild.insert(directory);
        }
    }

    /// Finds inodes that no directory names, names that are there twice, and directories that the root does not reach.
    pub(super) async fn check_names(&mut self) -> Result<(), Error> {
        let root = self.layout.root;
        match self.inodes.get(&root) {
            Some(known) if known.kind == KIND_DIRECTORY && known.parent == root => {}
            _ => self.find(Finding::RootLost),
        }
        let live: Vec<(u64, super::Known)> = self
            .inodes
            .iter()
            .filter(|(address, known)| **address != root && !known.deleting)
            .map(|(address, known)| (*address, known.clone()))
            .collect();
        let mut names = BTreeSet::new();
        for (inode, known) in &live {
            if !names.insert((known.parent, known.name.clone())) {
                let directory = known.parent;
                self.find(Finding::NameTwice {
                    directory,
                    inode: *inode,
                });
            }
            // A directory that is rebuilt names all that say that they are in it.
            if known.named == 0 && !self.rebuild.contains(&known.parent) {
                self.find(Finding::Orphan { inode: *inode });
            }
        }
        self.check_loops(&live);
        Ok(())
    }

    /// Follows every directory's parents to the root.
    fn check_loops(&mut self, live: &[(u64, super::Known)]) {
        let parents: BTreeMap<u64, u64> = live
            .iter()
            .filter(|(_, known)| known.kind == KIND_DIRECTORY)
            .map(|(inode, known)| (*inode, known.parent))
            .collect();
        let mut sound = BTreeSet::from([self.layout.root]);
        for &start in parents.keys() {
            let mut way = Vec::new();
            let mut at = start;
            while !sound.contains(&at) && !way.contains(&at) {
                way.push(at);
                match parents.get(&at) {
                    Some(parent) => at = *parent,
                    // Its parent is lost; that it is an orphan was said already.
                    None => break,
                }
            }
            if way.contains(&at) && parents.contains_key(&at) {
                self.find(Finding::DirectoryLoop { directory: at });
            }
            sound.extend(way);
        }
    }
}
