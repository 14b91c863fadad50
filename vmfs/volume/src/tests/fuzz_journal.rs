//! Images with journals in use, changed at random: replay, mount, check and repair do no harm whatever a journal says.
//!
//! Two hosts have died with something in their journals, on top of a few files. Bytes change everywhere in the journals and
//! in the units that they name; the checksums of transactions and units are mostly made right again, so that what is
//! behind them is reached. The disk refuses requests beyond its end, and an executor with a limit finds loops.

use alloc::format;
use alloc::vec::Vec;

use api::block::Buffer;

use super::support::{MIB, Random, TestClock, made, pattern, run, settings};
use crate::format::{self, JournalHeader, TransactionHead, UNIT, UNIT_BYTES};
use crate::ram::RamDisk;
use crate::{
    Action, Error, Kind, Layout, LocalLocks, LockError, LockMode, LockService, Provision, Volume,
    fsck, probe, replay,
};

/// Locks that are all free, for a host with any slot.
#[derive(Debug)]
struct Seat(u16, LocalLocks);

impl LockService for Seat {
    type Token = ();
    type Claim = ();

    fn slot(&self) -> u16 {
        self.0
    }

    fn inherited(&self) -> Option<(u16, ())> {
        None
    }

    async fn acquire(&self, lba: u64, mode: LockMode) -> Result<(), LockError> {
        self.1.acquire(lba, mode).await
    }

    async fn release(&self, (): ()) -> Result<(), LockError> {
        Ok(())
    }

    async fn claim(&self, _slot: u16) -> Result<(), LockError> {
        Ok(())
    }

    async fn clear(&self, (): ()) -> Result<(), LockError> {
        Ok(())
    }
}

type OfSlot = Volume<(RamDisk, Seat, TestClock)>;

async fn mount(disk: &RamDisk, layout: Layout, slot: u16) -> Result<OfSlot, Error> {
    let seat = Seat(slot, LocalLocks::default());
    Volume::mount(disk.clone(), layout, seat, TestClock::default(), settings()).await
}

/// A disk with two journals in use, and where what is worth changing stands: chunks of the journals, and units.
struct World {
    disk: RamDisk,
    layout: Layout,
    journal: Vec<u64>,
    units: Vec<u64>,
}

/// Works as the host of a slot in a directory of its own, commits, and dies.
async fn work_and_die(disk: &RamDisk, layout: &Layout, slot: u16) -> Result<(), Error> {
    let mut volume = mount(disk, layout.clone(), slot).await?;
    let root = volume.root();
    let home = volume
        .create(root, &format!("home-{slot}"), Kind::Directory)
        .await?;
    for round in 0..6_u64 {
        for index in 0..12 {
            let name = format!("{round}-{index}");
            volume.create(home, &name, Kind::File).await?;
        }
        let id = volume.lookup(home, &format!("{round}-3")).await?;
        let mut file = volume.open(id, LockMode::Exclusive).await?;
        let bytes = Buffer::copied_from(&pattern(round, 3000 << round));
        volume.write(&mut file, 0, bytes).await.1?;
        volume
            .allocate(&mut file, 9 * MIB, 3 * MIB, Provision::Unwritten)
            .await?;
        volume.close(file);
        volume.remove(home, &format!("{round}-5")).await?;
        volume
            .rename(home, &format!("{round}-6"), home, &format!("moved-{round}"))
            .await?;
        volume.sync().await?;
        if round == 2 && slot == 1 {
            // The ring's tail moves, and old transactions stay behind it.
            volume.give_back_locks().await?;
        }
    }
    Ok(())
}

fn world() -> World {
    let disk = made(256 * MIB);
    let layout = run(probe(&disk)).unwrap();
    for slot in [1, 2] {
        run(work_and_die(&disk, &layout, slot)).unwrap();
        if slot == 1 {
            // The next host must find what the first one did: its locks are not simulated here.
            let copy = disk.copy();
            assert!(run(replay(copy, &layout, 1)).unwrap().transactions > 2);
            run(replay(disk.clone(), &layout, 1)).unwrap();
            let kept = JournalHeader::new(layout.tag, 1, 0, 1);
            disk.poke(layout.journal(1), zerocopy::IntoBytes::as_bytes(&kept));
        }
    }
    let mut journal = Vec::new();
    let mut units = Vec::new();
    disk.for_chunks(|at| {
        let block = at / format::BLOCK_BYTES;
        if (layout.journals..layout.first_cluster).contains(&block) {
            journal.push(at);
        } else if !layout.is_data(block, 1) {
            units.push(at);
        }
    });
    World {
        disk,
        layout,
        journal,
        units,
    }
}

/// Makes the checksums of a journal's chunk right: of a header, or of a transaction with all its units.
fn seal_journal(disk: &RamDisk, layout: &Layout, at: u64) {
    for slot in 0..layout.slots as u16 {
        let start = layout.journal(slot);
        let mut unit = [0; UNIT];
        disk.peek(start, &mut unit);
        if at == start {
            let (header, _) =
                <JournalHeader as zerocopy::FromBytes>::read_from_prefix(&unit).unwrap();
            let sealed =
                JournalHeader::new(layout.tag, slot, header.tail.get(), header.sequence.get());
            disk.poke(start, zerocopy::IntoBytes::as_bytes(&sealed));
        }
        for position in 0..layout.ring_units() {
            let place = start + (position + 1) * UNIT_BYTES;
            disk.peek(place, &mut unit);
            let Some(head) = TransactionHead::read_any(&unit, layout.tag, slot) else {
                continue;
            };
            let mut bytes = alloc::vec![0; head.bytes.get() as usize];
            let end = place + bytes.len() as u64;
            if !(place..end).contains(&at) || end > start + layout.journal_blocks * MIB {
                continue;
            }
            disk.peek(place, &mut bytes);
            TransactionHead::seal(
                &mut bytes,
                layout.tag,
                slot,
                head.sequence.get(),
                head.count.get(),
            );
            disk.poke(place, &bytes);
        }
    }
}

fn mutate(world: &World, disk: &RamDisk, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let in_journal = random.below(4) != 0;
        let chunks = if in_journal {
            &world.journal
        } else {
            &world.units
        };
        let at = chunks[random.below(chunks.len() as u64) as usize];
        let mut bytes = [0; UNIT];
        disk.peek(at, &mut bytes);
        for _ in 0..=random.below(3) {
            let range = [96, 400, UNIT as u64][random.below(3) as usize];
            let offset = random.below(range) as usize;
            let width = [1, 2, 4, 8][random.below(4) as usize];
            let value = match random.below(7) {
                0 => 0,
                1 => u64::MAX,
                2 => 1 << random.below(64),
                3 => random.below(70_000),
                4 => random.below(300),
                // An address that is a unit's.
                5 => world.units[random.below(world.units.len() as u64) as usize] / UNIT_BYTES,
                _ => random.next(),
            };
            let end = (offset + width).min(UNIT);
            bytes[offset..end].copy_from_slice(&value.to_le_bytes()[..end - offset]);
        }
        if !in_journal && random.below(8) != 0 {
            format::seal(&mut bytes);
        }
        disk.poke(at, &bytes);
        if in_journal && random.below(8) != 0 {
            seal_journal(disk, &world.layout, at);
        }
    }
}

/// Everything that hosts do with a volume whose journals they do not know.
fn use_volume(disk: &RamDisk, random: &mut Random) {
    let Ok(layout) = run(probe(disk)) else {
        return;
    };
    let _report = run(fsck(disk, Action::Check, |_, _| {}));
    if random.below(2) == 0 {
        disk.stop_after(random.below(40));
        let _begun = run(replay(disk, &layout, 1));
        disk.lose_power(|chunk| chunk % 3 == 0);
    }
    if random.below(3) != 0 {
        let _replayed = run(replay(disk, &layout, 1));
    }
    if let Ok(mut volume) = run(mount(disk, layout, 2)) {
        let root = volume.root();
        if let Ok((stats, _)) = run(volume.list(root, 0, 1000)) {
            for stat in stats {
                if let Ok((inside, _)) = run(volume.list(stat.id, 0, 20)) {
                    for stat in inside {
                        let Ok(mut file) = run(volume.open(stat.id, LockMode::Exclusive)) else {
                            continue;
                        };
                        let buffer = Buffer::zeroed(3000);
                        let _read = run(volume.read(&mut file, stat.size / 2, buffer));
                        volume.close(file);
                    }
                }
            }
        }
        for index in 0..3 {
            let _made = run(volume.create(root, &format!("new-{index}"), Kind::File));
        }
        let _removed = run(volume.remove(root, "new-1"));
        let _unmounted = run(volume.unmount());
    }
    let _repaired = run(fsck(disk, Action::Repair, |_, _| {}));
}

fn fuzz(rounds: u64, seed: u64) {
    let world = world();
    let mut random = Random(seed);
    for _ in 0..rounds {
        let disk = world.disk.copy();
        mutate(&world, &disk, &mut random);
        use_volume(&disk, &mut random);
    }
}

#[test]
fn mutated_images_with_journals_in_use_do_no_harm() {
    fuzz(600, 11);
}

/// `cargo test --release -p volume long -- --ignored`
#[test]
#[ignore = "takes minutes"]
fn long_mutated_images_with_journals_in_use_do_no_harm() {
    fuzz(60_000, 12);
}

#[test]
fn unharmed_journals_of_two_hosts_are_replayed_and_leave_a_sound_volume() {
    let world = world();
    let before = run(fsck(&world.disk, Action::Check, |_, _| {})).unwrap();
    assert!(before.transactions > 6, "{}", before.transactions);
    assert_eq!(before.findings, []);
    for slot in [1, 2] {
        let replayed = run(replay(&world.disk, &world.layout, slot)).unwrap();
        assert!(
            replayed.transactions > 2 && replayed.images > 5,
            "{replayed:?}"
        );
    }
    let mut volume = run(mount(&world.disk, world.layout, 3)).unwrap();
    for slot in [1, 2] {
        let home = run(volume.resolve(&format!("home-{slot}"))).unwrap();
        let (stats, _) = run(volume.list(home, 0, 100)).unwrap();
        assert_eq!(stats.len(), 66);
    }
    run(volume.unmount()).unwrap();
    let after = run(fsck(&world.disk, Action::Check, |_, _| {})).unwrap();
    assert_eq!(after.findings, []);
}
