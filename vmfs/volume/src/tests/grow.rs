//! Growing, volumes over several LUNs, sizes up to 64 TiB, and what is told to the device about freed space.

use api::block::BlockDevice;

use super::support::{GIB, MIB, TestClock, made, mount, options, pattern, run, settings};
use crate::ram::RamDisk;
use crate::{
    Action, Error, Kind, LocalLocks, LockMode, Provision, Span, Volume, fsck, mkfs, probe,
};

const TIB: u64 = 1 << 40;

#[test]
fn a_mounted_volume_grows_with_its_lun() {
    let disk = made(256 * MIB);
    let mut volume = mount(&disk);
    let mut file = volume.make("disk");
    volume.put(&mut file, 0, &pattern(1, 100_000)).unwrap();
    disk.resize(GIB);
    let gained = run(volume.grow(|_| None, |_, _| {})).unwrap();
    assert!(gained >= 700, "{gained} blocks");
    run(volume.allocate(&mut file, 0, 800 * MIB, Provision::Unwritten)).unwrap();
    volume.close(file);
    run(volume.unmount()).unwrap();
    let report = run(fsck(&disk, Action::Check, |_, _| {})).unwrap();
    assert!(report.is_clean() && report.blocks == 800, "{report:?}");
}

#[test]
fn growing_may_be_cut_anywhere() {
    for stop in 0..80 {
        let disk = made(256 * MIB);
        let mut volume = mount(&disk);
        let old = volume.layout().clusters;
        disk.resize(GIB);
        disk.stop_after(stop);
        let grown = run(volume.grow(|_| None, |_, _| {}));
        drop(volume);
        disk.lose_power(|chunk| (chunk + stop) % 3 == 0);
        let layout = run(probe(&disk)).unwrap();
        assert!(grown.is_err() || layout.clusters > old);
        let report = run(fsck(&disk, Action::Repair, |_, _| {})).unwrap();
        assert!(report.is_clean(), "{stop}: {:?}", report.findings);
    }
}

type OverSpan = (alloc::rc::Rc<Span<RamDisk>>, LocalLocks, TestClock);

fn mount_span(span: &alloc::rc::Rc<Span<RamDisk>>) -> Volume<OverSpan> {
    run(async {
        let layout = probe(span).await?;
        let locks = LocalLocks::default();
        Volume::mount(
            span.clone(),
            layout,
            locks,
            TestClock::default(),
            settings(),
        )
        .await
    })
    .unwrap()
}

#[test]
fn a_volume_spans_luns() {
    let first = made(256 * MIB);
    let (second, third) = (RamDisk::new(512 * MIB, 512), RamDisk::new(300 * MIB, 512));
    let span = alloc::rc::Rc::new(run(Span::open(alloc::vec![first.clone()])).unwrap());
    let mut volume = mount_span(&span);
    let root = volume.root();
    let id = run(volume.create(root, "disk", Kind::File)).unwrap();
    let mut file = run(volume.open(id, LockMode::Exclusive)).unwrap();
    for (index, device) in [second.clone(), third.clone()].into_iter().enumerate() {
        run(span.add(device, [index as u8 + 1; 16], volume.layout())).unwrap();
        let table = |end| Some(span.members(end));
        assert!(run(volume.grow(table, |_, _| {})).unwrap() > 200);
    }
    run(volume.allocate(&mut file, 0, 850 * MIB, Provision::Unwritten)).unwrap();
    let content = pattern(2, 3 * MIB as usize);
    for at in [0, 200 * MIB, 500 * MIB, 840 * MIB] {
        let buffer = api::block::Buffer::copied_from(&content);
        run(volume.write(&mut file, at, buffer)).1.unwrap();
    }
    volume.close(file);
    run(volume.unmount()).unwrap();
    assert!(second.bytes_stored() > MIB && third.bytes_stored() > MIB);
    drop(span);
    // In any order, but all of them.
    let missing = run(Span::open(alloc::vec![first.clone(), third.clone()]));
    assert_eq!(missing.unwrap_err(), Error::NotAVolume);
    let twice = run(Span::open(alloc::vec![
        first.clone(),
        third.clone(),
        third.clone()
    ]));
    assert_eq!(twice.unwrap_err(), Error::NotAVolume);
    let span = alloc::rc::Rc::new(run(Span::open(alloc::vec![third, first, second])).unwrap());
    let mut volume = mount_span(&span);
    let mut file = run(volume.open(id, LockMode::Shared)).unwrap();
    run(volume.allocate(&mut file, 0, 1, Provision::Zeroed)).unwrap_err();
    run(volume.run(&mut file, 840)).unwrap();
    volume.close(file);
    let report = run(fsck(&span, Action::Check, |_, _| {})).unwrap();
    assert!(report.is_clean() && report.blocks == 850, "{report:?}");
}

#[test]
fn metadata_takes_a_five_hundredth_of_large_volumes() {
    for (bytes, logical) in [(TIB, 512), (TIB, 4096), (64 * TIB, 512), (64 * TIB, 4096)] {
        for backend in [lock::Backend::CompareAndWrite, lock::Backend::Paxos] {
            let disk = RamDisk::new(bytes, logical);
            let mut options = options();
            options.backend = backend;
            let layout = run(mkfs(&disk, &options, |_, _| {})).unwrap();
            let share = layout.overhead_bytes() as f64 / bytes as f64;
            assert!(
                share <= 0.002,
                "{bytes} bytes, {logical}, {backend:?}: {share}"
            );
            assert_eq!(layout.slots, 64);
            let written = disk.bytes_stored() as f64 / bytes as f64;
            assert!(written <= 0.0001, "mkfs wrote {written}");
        }
    }
}

#[test]
fn a_file_of_62_tib_maps_in_few_steps() {
    let disk = RamDisk::new(64 * TIB, 512);
    run(mkfs(&disk, &options(), |_, _| {})).unwrap();
    let mut volume = mount(&disk);
    let mut file = volume.make("huge");
    run(volume.allocate(&mut file, 0, 62 * TIB, Provision::Unwritten)).unwrap();
    run(volume.set_len(&mut file, 62 * TIB)).unwrap();
    volume.close(file);
    run(volume.unmount()).unwrap();
    let mut volume = mount(&disk);
    let mut file = volume.open_path("/huge").unwrap();
    let before = disk.reads();
    run(volume.run(&mut file, 31 << 20)).unwrap();
    let steps = disk.reads() - before;
    assert!(steps <= 2, "{steps} reads from the inode to the block");
    volume.put(&mut file, 61 * TIB + 5, b"far out").unwrap();
    assert_eq!(volume.get(&mut file, 61 * TIB + 4, 9), b"\0far out\0");
}

#[test]
fn freed_blocks_are_discarded_after_the_commit_that_frees_them() {
    let disk = made(256 * MIB);
    let mut volume = mount(&disk);
    let empty = disk.bytes_stored();
    let mut file = volume.make("disk");
    volume
        .put(&mut file, 0, &pattern(1, 20 * MIB as usize))
        .unwrap();
    run(volume.sync()).unwrap();
    let full = disk.bytes_stored();
    assert!(full > empty + 20 * MIB);
    run(volume.punch(&mut file, 5 * MIB, 10 * MIB)).unwrap();
    assert!(
        disk.bytes_stored() >= full,
        "nothing is discarded before it is durably free"
    );
    run(volume.give_back_locks()).unwrap();
    assert!(disk.bytes_stored() < full - 9 * MIB);
    assert_eq!(
        volume.get(&mut file, 4 * MIB, 100),
        pattern(1, 20 * MIB as usize)[4 * MIB as usize..][..100]
    );
    volume.close(file);
    assert!(disk.geometry().discard);
}
