//! Power failures at every write: what was acknowledged stays, the rest happened or did not, and nothing leaks.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::support::{MIB, Random, made, mount, pattern, run, try_mount};
use crate::ram::RamDisk;
use crate::{Action, Error, Kind, LockMode, Provision, fsck};

/// Files by path: seed and length of their pattern.
type Model = BTreeMap<String, (u64, usize)>;

/// Runs a script of operations with syncs; returns what the last sync acknowledged, and what came after it.
fn script(disk: &RamDisk, seed: u64, steps: u64) -> (Model, Vec<Model>) {
    let mut random = Random(seed);
    let mut now = Model::new();
    let mut acknowledged = Model::new();
    let mut since = Vec::new();
    let Ok(mut volume) = try_mount(disk) else {
        return (acknowledged, since);
    };
    for step in 0..steps {
        let name = format!("file-{}", random.below(12));
        let choice = random.below(10);
        let len = [100, 3000, 20_000, 200_000, 1_500_000][random.below(5) as usize];
        let root = volume.root();
        let result: Result<(), Error> = run(async {
            match choice {
                0..5 => {
                    if now.contains_key(&name) {
                        volume.remove(root, &name).await?;
                        now.remove(&name);
                        since.push(now.clone());
                    }
                    let id = volume.create(root, &name, Kind::File).await?;
                    now.insert(name.clone(), (step, 0));
                    since.push(now.clone());
                    let mut file = volume.open(id, LockMode::Exclusive).await?;
                    let bytes = api::block::Buffer::copied_from(&pattern(step, len));
                    let (_, result) = volume.write(&mut file, 0, bytes).await;
                    volume.close(file);
                    result?;
                    now.insert(name, (step, len));
                    since.push(now.clone());
                }
                5 | 6 => {
                    let to = format!("file-{}", random.below(12));
                    if now.contains_key(&name) && !now.contains_key(&to) {
                        volume.rename(root, &name, root, &to).await?;
                        let content = now.remove(&name).unwrap();
                        now.insert(to, content);
                        since.push(now.clone());
                    }
                }
                7 => {
                    if now.contains_key(&name) {
                        volume.remove(root, &name).await?;
                        now.remove(&name);
                        since.push(now.clone());
                    }
                }
                8 => volume.give_back_locks().await?,
                _ => {
                    volume.sync().await?;
                    acknowledged = now.clone();
                    since.clear();
                }
            }
            Ok(())
        });
        if result.is_err() {
            break;
        }
    }
    (acknowledged, since)
}

/// What is on the volume: names, and whether content is the pattern of the model's or a part of it.
fn check_content(disk: &RamDisk, acknowledged: &Model, since: &[Model], what: &str) {
    let mut volume = mount(disk);
    let root = volume.root();
    let (stats, _) = run(volume.list(root, 0, 100)).unwrap();
    let names: Vec<&String> = stats.iter().map(|stat| &stat.name).collect();
    let states = core::iter::once(acknowledged).chain(since);
    let fits = |model: &Model| {
        model.len() == stats.len() && names.iter().all(|name| model.contains_key(*name))
    };
    let fitting: Vec<&Model> = states.filter(|model| fits(model)).collect();
    assert!(
        !fitting.is_empty(),
        "{what}: {names:?} was never on the volume"
    );
    for stat in &stats {
        let mut file = run(volume.open(stat.id, LockMode::Exclusive)).unwrap();
        let content = volume.get(&mut file, 0, stat.size as usize);
        let good = fitting.iter().any(|model| {
            let (seed, len) = model[&stat.name];
            content == pattern(seed, len)
        });
        // A file that was not synced may be longer or shorter than any state, by pieces of its own pattern.
        let part = since.iter().chain([acknowledged]).any(|model| {
            model.get(&stat.name).is_some_and(|(seed, len)| {
                content.len() <= *len && content == pattern(*seed, content.len())
            })
        });
        let unchanged = since
            .iter()
            .all(|model| model.get(&stat.name) == acknowledged.get(&stat.name));
        assert!(if unchanged { good } else { part }, "{what}: {}", stat.name);
        volume.close(file);
    }
}

fn check_clean(disk: &RamDisk, what: &str) {
    let report = run(fsck(disk, Action::Check, |_, _| {})).unwrap();
    assert!(report.is_clean(), "{what}: {:?}", report.findings);
}

#[test]
fn power_may_fail_at_every_write() {
    let fresh = made(256 * MIB);
    let disk = fresh.copy();
    script(&disk, 3, 60);
    let writes = disk.writes();
    assert!(writes > 100, "{writes} writes");
    for stop in 0..writes {
        let disk = fresh.copy();
        disk.stop_after(stop);
        let (acknowledged, since) = script(&disk, 3, 60);
        let mut random = Random(stop);
        disk.lose_power(|_| random.below(2) == 0);
        let what = format!("stop after {stop} writes");
        check_clean(&disk, &what);
        check_content(&disk, &acknowledged, &since, &what);
        check_clean(&disk, &what);
    }
}

#[test]
fn many_scripts_survive_a_power_failure_each() {
    for seed in 0..150 {
        let fresh = made(128 * MIB);
        let disk = fresh.copy();
        script(&disk, seed, 40);
        let mut random = Random(seed);
        let stop = random.below(disk.writes());
        let disk = fresh.copy();
        disk.stop_after(stop);
        let (acknowledged, since) = script(&disk, seed, 40);
        disk.lose_power(|_| random.below(3) == 0);
        let what = format!("seed {seed}, stop after {stop}");
        check_clean(&disk, &what);
        // The replay may be cut, too, and begun again.
        disk.stop_after(random.below(12));
        drop(try_mount(&disk));
        disk.lose_power(|_| random.below(2) == 0);
        check_clean(&disk, &what);
        check_content(&disk, &acknowledged, &since, &what);
    }
}

#[test]
fn a_deletion_that_was_cut_is_ended_by_the_next_mount() {
    let fresh = made(256 * MIB);
    {
        let mut volume = mount(&fresh);
        let mut file = volume.make("fragmented");
        for block in 0..60 {
            run(volume.allocate(&mut file, block * 2 * MIB, MIB, Provision::Unwritten)).unwrap();
        }
        volume.close(file);
        run(volume.unmount()).unwrap();
    }
    let before = run(fsck(&fresh, Action::Check, |_, _| {})).unwrap();
    assert_eq!((before.blocks, before.findings.len()), (60, 0));
    let mut cut_short = 0;
    for stop in 0..100 {
        let disk = fresh.copy();
        let mut volume = mount(&disk);
        // The commit's first write is the transaction; the journal is small enough for several of them.
        let root = volume.root();
        disk.stop_after(stop);
        let removed = run(async {
            volume.remove(root, "fragmented").await?;
            volume.sync().await
        });
        drop(volume);
        disk.lose_power(|_| false);
        check_clean(&disk, "after the cut");
        run(mount(&disk).unmount()).unwrap();
        let after = run(fsck(&disk, Action::Check, |_, _| {})).unwrap();
        assert!(
            after.is_clean() && matches!(after.blocks, 0 | 60),
            "{after:?}"
        );
        cut_short += u32::from(removed.is_err());
        assert!(
            removed.is_err() || after.blocks == 0,
            "an acknowledged removal stays"
        );
    }
    assert!(cut_short > 0);
}

#[test]
fn a_dropped_future_changes_nothing() {
    use core::future::Future;
    use core::task::{Context, Waker};
    // The disk in memory answers at once, so a future is dropped at its only stop: before it was polled, or whole. The
    // simulator drops them everywhere; here is the contract that an operation which was begun and failed is undone.
    let disk = made(128 * MIB);
    let mut volume = mount(&disk);
    let root = volume.root();
    run(volume.create(root, "kept", Kind::File)).unwrap();
    drop(volume.create(root, "never polled", Kind::File));
    let mut context = Context::from_waker(Waker::noop());
    let mut whole = alloc::boxed::Box::pin(volume.create(root, "whole", Kind::File));
    assert!(whole.as_mut().poll(&mut context).is_ready());
    drop(whole);
    let (stats, _) = run(volume.list(root, 0, 10)).unwrap();
    assert_eq!(stats.len(), 2);
}
