//! Damage of every kind, planted: a check finds it, a repair repairs it where that takes no guess.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

mod files;
mod space;

use super::support::{GIB, MIB, Random, made, mount, pattern, run};
use crate::format::{self, Bytes, Cluster, Entry, Header, Inode, UNIT, UNIT_BYTES};
use crate::ram::RamDisk;
use crate::{Action, Finding, Kind, Layout, LockMode, Provision, fsck, probe};

/// A volume with something of everything.
pub(super) struct World {
    pub(super) disk: RamDisk,
    pub(super) layout: Layout,
    directory: u64,
    /// A directory with nodes, and the first of them.
    crowd: u64,
    crowd_node: u64,
    inline: u64,
    small: u64,
    small_sub: u64,
    other_small: u64,
    plain: u64,
    other_plain: u64,
    /// A file whose tree has nodes, and the first of them.
    fragmented: u64,
    fragmented_node: u64,
}

pub(super) fn world() -> World {
    let disk = made(GIB);
    let layout = run(probe(&disk)).unwrap();
    let mut volume = mount(&disk);
    let root = volume.root();
    let directory = run(volume.create(root, "vms", Kind::Directory)).unwrap();
    let crowd = run(volume.create(root, "crowd", Kind::Directory)).unwrap();
    for index in 0..400 {
        run(volume.create(crowd, &format!("member-{index}"), Kind::File)).unwrap();
    }
    let mut made = Vec::new();
    let sizes = [
        ("inline", 1000),
        ("small", 30_000),
        ("other_small", 60_000),
        ("plain", 3_000_000),
        ("other_plain", 1_200_000),
    ];
    for (name, size) in sizes {
        let id = run(volume.create(directory, name, Kind::File)).unwrap();
        let mut file = run(volume.open(id, LockMode::Exclusive)).unwrap();
        volume
            .put(&mut file, 0, &pattern(size as u64, size))
            .unwrap();
        volume.close(file);
        made.push(id.inode());
    }
    let mut file = volume.make("fragmented");
    for block in 0..180 {
        run(volume.allocate(&mut file, block * 2 * MIB, MIB, Provision::Unwritten)).unwrap();
    }
    let fragmented = file.id().inode();
    volume.close(file);
    run(volume.unmount()).unwrap();
    let first_child = |address| Inode::of(&unit(&disk, address)).root[0].target.get();
    World {
        directory: directory.inode(),
        crowd: crowd.inode(),
        crowd_node: first_child(crowd.inode()),
        inline: made[0],
        small: made[1],
        small_sub: first_child(made[1]),
        other_small: made[2],
        plain: made[3],
        other_plain: made[4],
        fragmented,
        fragmented_node: first_child(fragmented),
        disk,
        layout,
    }
}

fn unit(disk: &RamDisk, address: u64) -> Box<Bytes> {
    let mut bytes = Box::new([0; UNIT]);
    disk.peek(address * UNIT_BYTES, &mut *bytes);
    bytes
}

impl World {
    /// The files by their inodes.
    pub(super) fn files(&self) -> [u64; 6] {
        [
            self.inline,
            self.small,
            self.other_small,
            self.plain,
            self.other_plain,
            self.fragmented,
        ]
    }

    /// Changes both copies of a unit, with a right checksum.
    fn edit(&self, address: u64, edit: impl FnOnce(&mut Bytes)) {
        let mut bytes = unit(&self.disk, address);
        edit(&mut bytes);
        format::seal(&mut bytes);
        for copy in [address, self.layout.mirror(address).unwrap()] {
            self.disk.poke(copy * UNIT_BYTES, &*bytes);
        }
    }

    fn edit_inode(&self, address: u64, edit: impl FnOnce(&mut Inode)) {
        self.edit(address, |bytes| edit(Inode::of_mut(bytes)));
    }

    fn edit_head(&self, cluster: u64, edit: impl FnOnce(&mut Cluster)) {
        self.edit(self.layout.head(cluster), |bytes| {
            edit(Cluster::of_mut(bytes))
        });
    }

    /// Destroys copies of a unit.
    fn smash(&self, address: u64, copies: &[u8]) {
        for copy in copies {
            let at = if *copy == 0 {
                address
            } else {
                self.layout.mirror(address).unwrap()
            };
            self.disk.poke(at * UNIT_BYTES + 600, &[0xaa; 40]);
        }
    }

    /// The entry of an inode in a directory whose tree is its root.
    fn edit_entry(&self, directory: u64, inode: u64, edit: impl FnOnce(&mut Entry)) {
        self.edit_inode(directory, |bytes| {
            let count = usize::from(bytes.head.entries.get());
            let entry = bytes.root[..count]
                .iter_mut()
                .find(|entry| entry.target.get() == inode);
            edit(entry.unwrap());
        });
    }

    fn cluster_of_unit(&self, address: u64) -> (u64, u64) {
        let (cluster, index) = self.layout.locate(address).unwrap();
        (cluster, u64::from(index))
    }

    fn first_block(&self, inode: u64) -> u64 {
        Inode::of(&unit(&self.disk, inode)).root[0].target.get()
    }

    fn block_in_cluster(&self, block: u64) -> (u64, u64) {
        let cluster = self.layout.cluster_of(block).unwrap();
        (cluster, block - self.layout.cluster_start(cluster))
    }

    /// A block and a unit that nothing uses.
    fn last_block(&self) -> u64 {
        self.layout.cluster_start(self.layout.clusters - 1) + self.layout.data_end() - 1
    }

    fn last_unit(&self) -> u64 {
        self.layout.unit(self.layout.clusters - 1, 200)
    }

    /// Changes the entry of the block that is carved for small files.
    fn edit_carved(&self, edit: impl FnOnce(&mut Cluster, usize)) {
        let (cluster, index) = self.block_in_cluster(self.small_sub / 16);
        self.edit_head(cluster, |head| {
            let entry = head
                .carved
                .iter()
                .position(|carved| u64::from(carved.block.get()) == index);
            edit(head, entry.unwrap());
        });
    }

    fn carved_cluster(&self) -> u64 {
        self.block_in_cluster(self.small_sub / 16).0
    }

    fn toggle_block(&self, block: u64) {
        let (cluster, index) = self.block_in_cluster(block);
        self.edit_head(cluster, |head| {
            head.blocks[(index / 8) as usize] ^= 1 << (index % 8)
        });
    }

    fn toggle_unit(&self, address: u64) {
        let (cluster, index) = self.cluster_of_unit(address);
        self.edit_head(cluster, |head| {
            head.units[(index / 8) as usize] ^= 1 << (index % 8)
        });
    }
}

fn deleting_inode(w: &World) -> u64 {
    let mut found = 0;
    for cluster in 0..w.layout.clusters {
        for index in 1..=w.layout.inodes_per_cluster {
            let address = w.layout.unit(cluster, index);
            let bytes = unit(&w.disk, address);
            if Header::of(&bytes).magic == format::MAGIC_INODE
                && Inode::of(&bytes).head.state.get() == 2
            {
                found = address;
            }
        }
    }
    found
}

/// A kind of damage.
struct Row {
    name: &'static str,
    damage: fn(&World),
    finds: fn(&World) -> Finding,
    /// Whether a repair makes the volume whole.
    repaired: bool,
}

const fn row(
    name: &'static str,
    damage: fn(&World),
    finds: fn(&World) -> Finding,
    repaired: bool,
) -> Row {
    Row {
        name,
        damage,
        finds,
        repaired,
    }
}

#[test]
fn every_kind_of_damage_is_found_and_repaired_where_nothing_is_guessed() {
    let sound = world();
    let report = run(fsck(&sound.disk, Action::Check, |_, _| {})).unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    assert_eq!((report.files, report.directories), (406, 3));
    let rows = space::ROWS.iter().chain(files::ROWS);
    assert!(rows.clone().count() >= 40);
    let mut failures = Vec::new();
    for row in rows {
        let world = World {
            disk: sound.disk.copy(),
            layout: sound.layout.clone(),
            ..sound
        };
        (row.damage)(&world);
        let expected = (row.finds)(&world);
        let report = run(fsck(&world.disk, Action::Check, |_, _| {})).unwrap();
        if !report.findings.contains(&expected) {
            failures.push(format!(
                "{}: {:?} not in {:?}",
                row.name, expected, report.findings
            ));
            continue;
        }
        let repair = run(fsck(&world.disk, Action::Repair, |_, _| {})).unwrap();
        if repair.is_clean() != row.repaired {
            failures.push(format!("{}: after repair {:?}", row.name, repair.findings));
            continue;
        }
        if row.repaired && !content_is_whole(&world) {
            failures.push(format!("{}: content", row.name));
        }
        let again = run(fsck(&world.disk, Action::Check, |_, _| {})).unwrap();
        if again.findings != repair.findings {
            failures.push(format!(
                "{}: another look finds {:?}",
                row.name, again.findings
            ));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Tells whether all files of the world are there with their content, and new ones can be made.
fn content_is_whole(world: &World) -> bool {
    let mut volume = mount(&world.disk);
    for (name, size) in [
        ("inline", 1000),
        ("small", 30_000),
        ("other_small", 60_000),
        ("plain", 3_000_000),
        ("other_plain", 1_200_000),
    ] {
        let Ok(mut file) = volume.open_path(&format!("/vms/{name}")) else {
            return false;
        };
        if volume.get(&mut file, 0, size + 1) != pattern(size as u64, size) {
            return false;
        }
        volume.close(file);
    }
    let members = (0..400)
        .filter(|index| volume.find(&format!("/crowd/member-{index}")).is_ok())
        .count();
    let mut file = volume.make("new");
    let written = volume.put(&mut file, 0, &pattern(1, 200_000)).is_ok();
    volume.close(file);
    run(volume.unmount()).unwrap();
    let report = run(fsck(&world.disk, Action::Check, |_, _| {})).unwrap();
    members >= 399 && written && report.is_clean()
}

#[test]
fn a_repair_may_be_cut_anywhere_and_begun_again() {
    let sound = world();
    sound.smash(sound.layout.head(0), &[0, 1]);
    sound.smash(sound.layout.root, &[0, 1]);
    sound.edit_entry(sound.directory, sound.inline, |entry| entry.target.set(1));
    for stop in 0..60 {
        let disk = sound.disk.copy();
        disk.stop_after(stop);
        let cut = run(fsck(&disk, Action::Repair, |_, _| {}));
        let mut random = Random(stop);
        disk.lose_power(|_| random.below(2) == 0);
        let report = run(fsck(&disk, Action::Repair, |_, _| {})).unwrap();
        assert!(
            report.is_clean(),
            "stop {stop}, {cut:?}: {:?}",
            report.findings
        );
    }
}
