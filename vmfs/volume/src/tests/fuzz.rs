//! Images changed at random: nothing that a disk may hold makes this code panic, loop or reach outside.
//!
//! Whole bytes change, and fields with a right checksum, so that the checks behind the checksums are reached, too. The
//! disk refuses requests beyond its end, and an executor with a limit finds loops.

use alloc::format;

use super::damage::{World, world};
use super::support::{MIB, Random, TestClock, pattern, run, settings};
use crate::format::{self, UNIT, UNIT_BYTES};
use crate::ram::RamDisk;
use crate::{Action, FileId, Kind, LocalLocks, LockMode, Provision, Volume, fsck, probe, replay};

/// Changes a few places of an image; returns where metadata stands, to choose among.
fn mutate(disk: &RamDisk, chunks: &[u64], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = chunks[random.below(chunks.len() as u64) as usize];
        let mut bytes = [0; UNIT];
        disk.peek(at, &mut bytes);
        for _ in 0..=random.below(3) {
            // Most fields stand at the start of a unit.
            let range = if random.below(3) == 0 {
                UNIT as u64
            } else {
                640
            };
            let offset = random.below(range) as usize;
            let width = [1, 2, 4, 8][random.below(4) as usize];
            let value = match random.below(6) {
                0 => 0,
                1 => u64::MAX,
                2 => 1 << random.below(64),
                3 => random.below(70_000),
                4 => random.below(1 << 20),
                _ => random.next(),
            };
            let end = (offset + width).min(UNIT);
            bytes[offset..end].copy_from_slice(&value.to_le_bytes()[..end - offset]);
        }
        if random.below(8) != 0 {
            format::seal(&mut bytes);
        }
        disk.poke(at, &bytes);
    }
}

/// Everything that a host does with a volume it does not know.
fn use_volume(disk: &RamDisk, slot_files: &[u64]) {
    let Ok(layout) = run(probe(disk)) else {
        return;
    };
    let _replayed = run(replay(disk, &layout, 1));
    let _report = run(fsck(disk, Action::Check, |_, _| {}));
    let locks = LocalLocks::default();
    let clock = TestClock::default();
    let mounted = run(Volume::mount(
        disk.clone(),
        layout,
        locks,
        clock,
        settings(),
    ));
    let Ok(mut volume) = mounted else {
        return;
    };
    let root = volume.root();
    if let Ok((stats, _)) = run(volume.list(root, 0, 1000)) {
        for stat in stats {
            let _inside = run(volume.list(stat.id, 0, 50));
        }
    }
    for &inode in slot_files {
        let Ok(stat) = run(volume.stat(FileId {
            inode,
            generation: generation(disk, inode),
        })) else {
            continue;
        };
        if let Ok(mut file) = run(volume.open(stat.id, LockMode::Exclusive)) {
            let (_, _read) =
                run(volume.read(&mut file, stat.size / 2, api::block::Buffer::zeroed(5000)));
            let _written = volume.put(&mut file, 100_000, &pattern(1, 5000));
            let _allocated = run(volume.allocate(&mut file, MIB, 5 * MIB, Provision::Unwritten));
            let _shrunk = run(volume.set_len(&mut file, 700));
            volume.close(file);
        }
    }
    for index in 0..3 {
        let _made = run(volume.create(root, &format!("new-{index}"), Kind::File));
    }
    let _moved = run(volume.rename(root, "fragmented", root, "moved"));
    let _removed = run(volume.remove(root, "moved"));
    let _gone = run(volume.remove(root, "fragmented"));
    let _synced = run(volume.sync());
    let _unmounted = run(volume.unmount());
    let _repaired = run(fsck(disk, Action::Repair, |_, _| {}));
}

fn generation(disk: &RamDisk, inode: u64) -> u64 {
    let mut bytes = [0; UNIT];
    disk.peek(inode.saturating_mul(UNIT_BYTES), &mut bytes);
    format::Inode::of(&bytes).head.generation.get()
}

/// The stored chunks that hold metadata: what lies behind the data blocks' starts is left out.
fn metadata(world: &World) -> alloc::vec::Vec<u64> {
    let mut chunks = alloc::vec::Vec::new();
    world.disk.for_chunks(|at| {
        let block = at / format::BLOCK_BYTES;
        if !world.layout.is_data(block, 1) {
            chunks.push(at);
        }
    });
    chunks
}

fn fuzz(rounds: u64, seed: u64) {
    let world = world();
    let chunks = metadata(&world);
    let files = world.files();
    let mut random = Random(seed);
    for _ in 0..rounds {
        let disk = world.disk.copy();
        mutate(&disk, &chunks, &mut random);
        use_volume(&disk, &files);
    }
}

#[test]
fn mutated_images_do_no_harm() {
    fuzz(400, 1);
}

#[test]
fn more_mutated_images_do_no_harm() {
    fuzz(600, 2);
}
