//! Files and directories on one host, as a user sees them.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::support::{GIB, MIB, Random, made, mount, options, pattern, run};
use crate::ram::RamDisk;
use crate::{Error, Kind, LockMode, MkfsError, Provision, Run, mkfs, probe};

#[test]
fn a_volume_is_found_by_either_superblock() {
    let disk = made(256 * MIB);
    let layout = run(probe(&disk)).unwrap();
    for at in [crate::format::SUPERBLOCK_A, crate::format::SUPERBLOCK_B] {
        let copy = disk.copy();
        copy.poke(at + 100, &[0xff; 16]);
        assert_eq!(run(probe(&copy)).unwrap(), layout);
        copy.poke(crate::format::SUPERBLOCK_A, &[0; 4096]);
        copy.poke(crate::format::SUPERBLOCK_B, &[0; 4096]);
        assert_eq!(run(probe(&copy)), Err(Error::NotAVolume));
    }
    let small = RamDisk::new(3 * MIB, 512);
    assert_eq!(
        run(mkfs(&small, &options(), |_, _| {})),
        Err(MkfsError::TooSmall)
    );
}

#[test]
fn small_files_lie_in_the_inode_then_in_a_sub_block_then_in_blocks() {
    for logical in [512, 4096] {
        let disk = RamDisk::new(GIB, logical);
        run(mkfs(&disk, &options(), |_, _| {})).unwrap();
        let mut volume = mount(&disk);
        let mut file = volume.make("growing");
        let mut model = Vec::new();
        let mut random = Random(1);
        while model.len() < 3 * MIB as usize {
            let piece = pattern(
                random.next(),
                1 + random.below(1 + model.len() as u64) as usize,
            );
            volume.put(&mut file, model.len() as u64, &piece).unwrap();
            model.extend_from_slice(&piece);
            assert_eq!(file.len(), model.len() as u64);
            assert_eq!(volume.get(&mut file, 0, model.len() + 10), model);
        }
        run(volume.fsync(&file)).unwrap();
        volume.close(file);
        run(volume.unmount()).unwrap();
        let mut volume = mount(&disk);
        let mut file = volume.open_path("/growing").unwrap();
        assert_eq!(volume.get(&mut file, 0, model.len()), model);
    }
}

#[test]
fn a_file_with_random_writes_reads_as_its_model() {
    let disk = made(256 * MIB);
    let mut volume = mount(&disk);
    let mut file = volume.make("random");
    let mut model: Vec<u8> = Vec::new();
    let mut random = Random(7);
    for round in 0..600 {
        let offset = random.below(6 * MIB);
        let len = if round % 3 == 0 {
            random.below(2 * MIB)
        } else {
            random.below(9000)
        };
        let (start, end) = (offset as usize, (offset + len) as usize);
        match random.below(8) {
            0 => {
                run(volume.punch(&mut file, offset, len)).unwrap();
                let end = end.min(model.len());
                if start < end {
                    model[start..end].fill(0);
                }
            }
            1 => {
                run(volume.set_len(&mut file, offset)).unwrap();
                model.resize(start, 0);
            }
            2 => run(volume.allocate(&mut file, offset, len, Provision::Unwritten)).unwrap(),
            3 => run(volume.allocate(&mut file, offset, len, Provision::Zeroed)).unwrap(),
            _ => {
                let bytes = pattern(round, len as usize);
                volume.put(&mut file, offset, &bytes).unwrap();
                if len > 0 {
                    model.resize(model.len().max(end), 0);
                    model[start..end].copy_from_slice(&bytes);
                }
            }
        }
        assert_eq!(file.len(), model.len() as u64, "round {round}");
        let at = random.below(6 * MIB) as usize;
        let expected = model
            .get(at..model.len().min(at + 70_000))
            .unwrap_or_default();
        assert!(
            volume.get(&mut file, at as u64, 70_000) == expected,
            "round {round}"
        );
    }
    assert!(volume.get(&mut file, 0, model.len()) == model);
    volume.close(file);
    let root = volume.root();
    run(volume.remove(root, "random")).unwrap();
}

#[test]
fn directories_hold_thousands_of_names() {
    let disk = made(2 * GIB);
    let mut volume = mount(&disk);
    let root = volume.root();
    let directory = run(volume.create(root, "vms", Kind::Directory)).unwrap();
    let names: Vec<String> = (0..3000)
        .map(|index| format!("disk-{index}.vmdk"))
        .collect();
    for name in &names {
        run(volume.create(directory, name, Kind::File)).unwrap();
    }
    assert_eq!(
        run(volume.create(directory, "disk-77.vmdk", Kind::File)),
        Err(Error::Exists)
    );
    run(volume.give_back_locks()).unwrap();
    let mut found = Vec::new();
    let mut from = Some(0);
    while let Some(key) = from {
        let (stats, next) = run(volume.list(directory, key, 100)).unwrap();
        found.extend(stats.into_iter().map(|stat| stat.name));
        from = next;
    }
    let mut sorted = names.clone();
    sorted.sort();
    found.sort();
    assert_eq!(found, sorted);
    for name in &names {
        run(volume.lookup(directory, name)).unwrap();
        run(volume.remove(directory, name)).unwrap();
        assert_eq!(run(volume.lookup(directory, name)), Err(Error::NotFound));
    }
    let stat = run(volume.stat(directory)).unwrap();
    assert_eq!(stat.size, 0);
    run(volume.remove(root, "vms")).unwrap();
}

#[test]
fn names_move_but_not_into_themselves() {
    let disk = made(256 * MIB);
    let mut volume = mount(&disk);
    let root = volume.root();
    let a = run(volume.create(root, "a", Kind::Directory)).unwrap();
    let b = run(volume.create(a, "b", Kind::Directory)).unwrap();
    let file = run(volume.create(b, "file", Kind::File)).unwrap();
    assert_eq!(
        run(volume.rename(root, "a", b, "a")),
        Err(Error::IntoItself)
    );
    assert_eq!(
        run(volume.rename(root, "a", a, "a")),
        Err(Error::IntoItself)
    );
    run(volume.rename(b, "file", root, "moved")).unwrap();
    assert_eq!(volume.find("/moved"), Ok(file));
    assert_eq!(volume.find("/a/b/file"), Err(Error::NotFound));
    run(volume.rename(a, "b", root, "b")).unwrap();
    run(volume.rename(root, "a", b, "a")).unwrap();
    assert_eq!(volume.find("/b/a"), Ok(a));
    assert_eq!(
        run(volume.rename(root, "moved", root, "b")),
        Err(Error::Exists)
    );
    assert_eq!(run(volume.remove(root, "b")), Err(Error::NotEmpty));
    assert_eq!(
        run(volume.create(root, "a/b", Kind::File)),
        Err(Error::BadName)
    );
    assert_eq!(
        run(volume.create(file, "x", Kind::File)),
        Err(Error::NotADirectory)
    );
}

#[test]
fn handles_do_what_their_mode_allows() {
    let disk = made(256 * MIB);
    let mut volume = mount(&disk);
    let root = volume.root();
    let mut file = volume.make("disk");
    volume
        .put(&mut file, 0, &pattern(1, 2 * MIB as usize))
        .unwrap();
    let id = file.id();
    assert_eq!(
        run(volume.open(id, LockMode::Exclusive)).unwrap_err(),
        Error::Busy
    );
    assert_eq!(
        run(volume.open(id, LockMode::Shared)).unwrap_err(),
        Error::Busy
    );
    assert_eq!(run(volume.remove(root, "disk")), Err(Error::Busy));
    volume.close(file);
    let mut shared = run(volume.open(id, LockMode::Shared)).unwrap();
    let second = run(volume.open(id, LockMode::Shared)).unwrap();
    assert_eq!(volume.put(&mut shared, 0, b"no"), Err(Error::Mode));
    assert_eq!(volume.get(&mut shared, 0, 100), pattern(1, 100));
    volume.close(shared);
    assert_eq!(run(volume.remove(root, "disk")), Err(Error::Busy));
    volume.close(second);
    let mut many = run(volume.open(id, LockMode::MultiWriter)).unwrap();
    volume.put(&mut many, 5, b"written").unwrap();
    assert_eq!(volume.get(&mut many, 5, 7), b"written");
    assert_eq!(volume.put(&mut many, 2 * MIB - 1, b"no"), Err(Error::Mode));
    volume.close(many);
    run(volume.remove(root, "disk")).unwrap();
    assert_eq!(
        run(volume.open(id, LockMode::Shared)).unwrap_err(),
        Error::NotFound
    );
}

#[test]
fn a_full_volume_says_so_and_comes_back() {
    let disk = made(128 * MIB);
    let mut volume = mount(&disk);
    let root = volume.root();
    for round in 0..3 {
        let mut file = volume.make("big");
        let mut written = 0;
        let error = loop {
            match volume.put(&mut file, written, &pattern(round, MIB as usize)) {
                Ok(()) => written += MIB,
                Err(error) => break error,
            }
        };
        assert_eq!(error, Error::NoSpace);
        assert!(written > 80 * MIB, "{written} bytes fitted");
        assert_eq!(volume.get(&mut file, written - 100, 100).len(), 100);
        volume.close(file);
        run(volume.remove(root, "big")).unwrap();
    }
    run(volume.sync()).unwrap();
}

#[test]
fn a_large_file_maps_in_few_extents() {
    let disk = made(8 * GIB);
    let mut volume = mount(&disk);
    let mut file = volume.make("thick");
    run(volume.allocate(&mut file, 0, 6 * GIB, Provision::Unwritten)).unwrap();
    run(volume.set_len(&mut file, 6 * GIB)).unwrap();
    let (mut block, mut runs) = (0, 0);
    while block < 6 * 1024 {
        let run = run(volume.run(&mut file, block)).unwrap();
        assert!(matches!(run, Run::Unwritten { .. }));
        block += run.count();
        runs += 1;
    }
    // Clusters of 32 blocks have 29 for data.
    assert!(runs <= 6 * 1024 / 29 + 1, "{runs} runs");
    volume
        .put(&mut file, 3 * GIB + 12_345, b"in the middle")
        .unwrap();
    assert_eq!(
        volume.get(&mut file, 3 * GIB + 12_344, 15),
        b"\0in the middle\0"
    );
    volume.close(file);
    let root = volume.root();
    run(volume.remove(root, "thick")).unwrap();
    run(volume.sync()).unwrap();
}

#[test]
fn reading_behind_the_end_finds_nothing() {
    let disk = made(256 * MIB);
    let mut volume = mount(&disk);
    for (index, len) in [0, 100, 30_000, 2_000_000].into_iter().enumerate() {
        let mut file = volume.make(&format!("file-{index}"));
        volume.put(&mut file, 0, &pattern(1, len)).unwrap();
        for offset in [len as u64, len as u64 + 1, 5 * MIB] {
            assert!(volume.get(&mut file, offset, 100).is_empty());
        }
        volume.close(file);
    }
}
