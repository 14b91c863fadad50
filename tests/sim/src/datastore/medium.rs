//! The medium under the simulated disk: sectors that cannot be read or written, and bits that flip by themselves.
//!
//! Metadata stands on it twice, and a schedule hits one copy of a unit only: which one follows from its address. What
//! stands once (journals, slots, locks) cannot be written for a while, and is otherwise left alone: what the format
//! promises ends there. Of data a sector may become unreadable; then the request that reads it fails, and no other.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use volume::Layout;
use volume::format::{UNIT_BYTES, UNITS_PER_BLOCK};

use super::broken::Rule;
use super::disk::Disk;
use super::world::{Event, MS, SECOND, World};

/// Places that are tried for one that holds something.
const TRIES: u32 = 30;
/// Blocks in a row that cannot be written.
const RUN: u64 = 64;

/// What happens to the medium.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// A sector of metadata cannot be read until it is written.
    UnreadableUnit,
    /// A sector of data cannot be read until it is written.
    UnreadableData,
    /// Bits of a unit flip.
    Rot,
    /// Some sectors cannot be written for so many nanoseconds.
    Unwritable(u64),
}

/// Where the medium fails.
#[derive(Debug)]
pub struct Medium {
    /// Blocks that cannot be read until they are written.
    unreadable: RefCell<BTreeSet<u64>>,
    /// First and last block that cannot be written, and until when.
    unwritable: Cell<(u64, u64, u64)>,
    /// Units of which a copy was hit.
    harmed: RefCell<BTreeSet<u64>>,
    /// Decides which copy of a unit is hit.
    salt: u64,
    /// Mean nanoseconds between two harms; 0 for none.
    between: u64,
    /// Either copy of a unit may be hit.
    both: bool,
}

impl Medium {
    /// A medium on which nothing fails.
    #[must_use]
    pub fn sound() -> Self {
        Self {
            unreadable: RefCell::default(),
            unwritable: Cell::new((0, 0, 0)),
            harmed: RefCell::default(),
            salt: 0,
            between: 0,
            both: false,
        }
    }

    /// Draws the medium of a schedule.
    #[must_use]
    pub fn draw(world: &World, rule: Option<Rule>) -> Self {
        Self {
            salt: world.bits(),
            between: [SECOND / 2, 3 * SECOND, 10 * SECOND][world.below(3) as usize],
            both: rule == Some(Rule::BothCopiesFail),
            ..Self::sound()
        }
    }

    /// Makes a block unreadable until it is written.
    pub fn spoil(&self, lba: u64) {
        self.unreadable.borrow_mut().insert(lba);
    }

    /// Returns the first of some blocks that cannot be read.
    #[must_use]
    pub fn first_unreadable(&self, lba: u64, blocks: u64) -> Option<u64> {
        let unreadable = self.unreadable.borrow();
        unreadable.range(lba..lba + blocks).next().copied()
    }

    /// A block is about to be written: tells whether the medium takes it.
    pub fn takes(&self, lba: u64, now: u64) -> bool {
        let (first, last, until) = self.unwritable.get();
        if now < until && (first..=last).contains(&lba) {
            return false;
        }
        let mut unreadable = self.unreadable.borrow_mut();
        if !unreadable.is_empty() {
            unreadable.remove(&lba);
        }
        true
    }

    /// Every block can be written again.
    pub fn mend_writes(&self) {
        self.unwritable.set((0, 0, 0));
    }

    /// Tells whether a copy of a unit was hit; address 1 stands for the superblock.
    #[must_use]
    pub fn was_harmed(&self, address: u64) -> bool {
        self.harmed.borrow().contains(&address)
    }

    /// Schedules the next harm.
    pub fn brew(&self, world: &World) {
        if self.between > 0 {
            world.schedule(world.below(2 * self.between), Event::Decay);
        }
    }

    /// Lets something happen to the medium of a volume.
    pub fn decay(&self, world: &World, disk: &Disk, layout: &Layout) {
        let harm = match world.below(10) {
            0..3 => Harm::UnreadableUnit,
            3 => Harm::UnreadableData,
            4..9 => Harm::Rot,
            _ => Harm::Unwritable(world.between(100 * MS, 3 * SECOND)),
        };
        match harm {
            Harm::UnreadableUnit | Harm::Rot => self.harm_unit(world, disk, layout, harm),
            Harm::UnreadableData => {
                let places = (0..TRIES).map(|_| any_block(world, layout));
                let mut data = places.filter(|block| layout.is_data(*block, 1));
                if let Some(block) = data.next() {
                    let sector = u64::from(layout.logical_block);
                    // Files are written from their blocks' starts, or a chunk behind.
                    let lba = ((block << 20) + world.below(2) * UNIT_BYTES) / sector;
                    world.note(|| format!("medium  block {lba}, data, cannot be read"));
                    self.spoil(lba);
                }
            }
            Harm::Unwritable(nanos) => {
                // Few hosts have low slots, and journals begin at their starts.
                let slot = world.below(4) as u16;
                let byte = match world.below(4) {
                    0 => layout.heartbeat + u64::from(slot) * layout.slot_bytes,
                    1 | 2 => layout.journal(slot) + (world.below(60) << 12),
                    _ => any_unit(world, layout) << 12,
                };
                let first = byte / u64::from(layout.logical_block);
                let last = first + world.below(RUN);
                let until = world.now() + nanos;
                world.note(|| format!("medium  blocks {first} to {last} cannot be written"));
                self.unwritable.set((first, last, until));
            }
        }
    }

    /// Hits the one copy of a unit in use that may be hit.
    fn harm_unit(&self, world: &World, disk: &Disk, layout: &Layout, harm: Harm) {
        let sectors = UNIT_BYTES / u64::from(layout.logical_block);
        for _ in 0..TRIES {
            let (address, copies) = any_copies(world, layout);
            let mixed = (address ^ self.salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let chosen = if self.both {
                world.below(2)
            } else {
                mixed >> 63
            };
            let copy = copies[chosen as usize];
            let is_unit = disk.peek(copy * sectors).starts_with(b"BD");
            if !is_unit {
                continue;
            }
            self.harmed.borrow_mut().insert(address);
            let lba = copy * sectors + world.below(sectors);
            world.note(|| format!("medium  {harm:?}: block {lba} of unit {address}, copy {copy}"));
            match harm {
                Harm::Rot => {
                    let bits = world.between(1, 3);
                    disk.flip(lba, bits);
                }
                _ => self.spoil(lba),
            }
            return;
        }
    }
}

fn any_block(world: &World, layout: &Layout) -> u64 {
    let cluster = world.below(layout.clusters);
    // Hosts fill clusters from their starts.
    layout.cluster_start(cluster) + layout.data_start() + world.below(6)
}

fn any_unit(world: &World, layout: &Layout) -> u64 {
    let cluster = world.below(layout.clusters);
    let last = layout.unit_blocks * UNITS_PER_BLOCK - 1;
    let index = match world.below(4) {
        0 => 0,
        1 => last - world.below(6),
        _ => 1 + world.below(24),
    };
    layout.unit(cluster, index as u32)
}

/// Returns the address of a unit and where its copies stand.
fn any_copies(world: &World, layout: &Layout) -> (u64, [u64; 2]) {
    let address = match world.below(20) {
        0 => return (1, [1, UNITS_PER_BLOCK + 1]),
        1 => layout.slot_unit(world.below(u64::from(layout.slots)) as u16),
        _ => any_unit(world, layout),
    };
    let mirror = layout.mirror(address).unwrap_or(address);
    (address, [address, mirror])
}
