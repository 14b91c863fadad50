//! Times of one program run: a volume in an image beside the file system of a directory on the same kind of memory.
//!
//! Both sides do the same work through the same number of system calls per request as they need; each figure is the best
//! of several rounds that alternate between the sides. Only `cargo xtask bench vmfs` calls this.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use api::block::{BlockDevice, Buffer, Durability};
use clap::Args;
use volume::{
    Action, FileId, Kind, LocalLocks, LockMode, MkfsOptions, Provision, Settings, Volume, fsck,
    mkfs, probe, ram::RamDisk,
};

use crate::clock::{HostClock, block_on};
use crate::file_disk::FileDisk;

/// Names made, moved and removed in one round.
const NAMES: u64 = 4000;
/// Rounds of which the best counts.
const ROUNDS: usize = 5;
/// Bytes of a block of the volume.
const BLOCK: u64 = 1 << 20;
/// Blocks that a file grows by.
const GROWTH: u64 = 256;
/// Spreads numbers over a range (2^64 divided by the golden ratio).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// Reads or writes of a round.
const REQUESTS: u64 = 20_000;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// The image; made anew.
    image: PathBuf,
    /// A directory of the file system to compare with; without one, what is compared with the device alone.
    #[arg(long)]
    beside: Option<PathBuf>,
}

type OnRam = Volume<(RamDisk, LocalLocks, HostClock)>;
type OnFile = Volume<(Rc<FileDisk>, LocalLocks, HostClock)>;

/// Both sides of a comparison in seconds, the best of their rounds.
struct Best {
    ours: f64,
    theirs: f64,
}

/// Runs rounds of both sides in turn.
fn compare(
    mut ours: impl FnMut() -> Result<f64>,
    mut theirs: impl FnMut() -> Result<f64>,
) -> Result<Best> {
    let mut best = Best {
        ours: f64::INFINITY,
        theirs: f64::INFINITY,
    };
    for _ in 0..ROUNDS {
        best.ours = best.ours.min(ours()?);
        best.theirs = best.theirs.min(theirs()?);
    }
    Ok(best)
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

fn print(name: &str, value: f64) {
    println!("bench {name} {value}");
}

/// Prints the milliseconds since `start`.
fn print_ms(name: &str, start: Instant) {
    print(name, start.elapsed().as_secs_f64() * 1000.0);
}

fn print_ratio(name: &str, best: &Best) {
    print(name, best.ours / best.theirs);
}

pub(crate) fn bench(options: &Bench) -> Result<()> {
    let disk = Rc::new(FileDisk::create(&options.image, Some(4 << 30), 512)?);
    let mut made = MkfsOptions::new(*b"measured volume!", [7; 16]);
    made.unit_blocks = 4;
    made.journal_blocks = 16;
    block_on(mkfs(&disk, &made, |_, _| {}))?;
    let layout = block_on(probe(&disk))?;
    let settings = Settings {
        cache_units: 16_384,
        ..Settings::default()
    };
    let clock = HostClock::new();
    let locks = LocalLocks::default();
    let mounted = Volume::mount(Rc::clone(&disk), layout, locks, clock, settings);
    let mut volume: OnFile = block_on(mounted)?;
    if let Some(beside) = &options.beside {
        names(&mut volume, beside)?;
        growth(&mut volume, beside)?;
        look_ups(&mut volume, beside)?;
    }
    mapping(&mut volume, &disk)?;
    block_on(volume.unmount())?;
    sizes()
}

/// Creating, moving and removing names in one directory, each with a sync at its end.
fn names(volume: &mut OnFile, beside: &Path) -> Result<()> {
    let root = volume.root();
    let ours = block_on(volume.create(root, "names", Kind::Directory))?;
    let theirs = beside.join("names");
    fs::create_dir(&theirs)?;
    let mut best: [Best; 3] = std::array::from_fn(|_| Best {
        ours: f64::INFINITY,
        theirs: f64::INFINITY,
    });
    for _ in 0..ROUNDS {
        let both = our_names(volume, ours)?
            .into_iter()
            .zip(their_names(&theirs)?);
        for (best, (ours, theirs)) in best.iter_mut().zip(both) {
            best.ours = best.ours.min(ours);
            best.theirs = best.theirs.min(theirs);
        }
    }
    for (name, best) in ["create", "rename", "remove"].iter().zip(&best) {
        print_ratio(name, best);
    }
    Ok(())
}

fn our_names(volume: &mut OnFile, directory: FileId) -> Result<[f64; 3]> {
    let create = timed(|| {
        for index in 0..NAMES {
            block_on(volume.create(directory, &format!("name-{index}"), Kind::File))?;
        }
        Ok(block_on(volume.sync())?)
    })?;
    let rename = timed(|| {
        for index in 0..NAMES {
            let (from, to) = (format!("name-{index}"), format!("moved-{index}"));
            block_on(volume.rename(directory, &from, directory, &to))?;
        }
        Ok(block_on(volume.sync())?)
    })?;
    let remove = timed(|| {
        for index in 0..NAMES {
            block_on(volume.remove(directory, &format!("moved-{index}")))?;
        }
        Ok(block_on(volume.sync())?)
    })?;
    Ok([create, rename, remove])
}

fn their_names(directory: &Path) -> Result<[f64; 3]> {
    let sync = || -> Result<()> { Ok(File::open(directory)?.sync_all()?) };
    let create = timed(|| {
        for index in 0..NAMES {
            File::create(directory.join(format!("name-{index}")))?;
        }
        sync()
    })?;
    let rename = timed(|| {
        for index in 0..NAMES {
            let from = directory.join(format!("name-{index}"));
            fs::rename(from, directory.join(format!("moved-{index}")))?;
        }
        sync()
    })?;
    let remove = timed(|| {
        for index in 0..NAMES {
            fs::remove_file(directory.join(format!("moved-{index}")))?;
        }
        sync()
    })?;
    Ok([create, rename, remove])
}

/// A file that grows by writes of a block each, synced at its end.
fn growth(volume: &mut OnFile, beside: &Path) -> Result<()> {
    let root = volume.root();
    let piece = vec![0x5a_u8; usize::try_from(BLOCK)?];
    let path = beside.join("growing");
    let best = compare(
        || {
            let id = block_on(volume.create(root, "growing", Kind::File))?;
            let mut file = block_on(volume.open(id, LockMode::Exclusive))?;
            let mut buffer = Buffer::copied_from(&piece);
            let time = timed(|| {
                for block in 0..GROWTH {
                    let (back, result) = block_on(volume.write(&mut file, block * BLOCK, buffer));
                    result?;
                    buffer = back;
                }
                Ok(block_on(volume.fsync(&file))?)
            })?;
            volume.close(file);
            block_on(volume.remove(root, "growing"))?;
            block_on(volume.give_back_locks())?;
            Ok(time)
        },
        || {
            let file = File::create(&path)?;
            let time = timed(|| {
                for block in 0..GROWTH {
                    file.write_all_at(&piece, block * BLOCK)?;
                }
                Ok(file.sync_all()?)
            })?;
            fs::remove_file(&path)?;
            Ok(time)
        },
    )?;
    print_ratio("grow", &best);
    Ok(())
}

/// Reads at random places of a file of 1 TiB with a thousand extents and holes between them: what a look-up costs.
fn look_ups(volume: &mut OnFile, beside: &Path) -> Result<()> {
    let root = volume.root();
    let far = |index: u64| index * 1000 * BLOCK;
    let id = block_on(volume.create(root, "large", Kind::File))?;
    let mut ours = block_on(volume.open(id, LockMode::Exclusive))?;
    let path = beside.join("large");
    let theirs = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    theirs.set_len(1 << 40)?;
    for index in 0..1000 {
        block_on(volume.allocate(&mut ours, far(index), BLOCK, Provision::Unwritten))?;
        theirs.write_all_at(&[1], far(index))?;
    }
    block_on(volume.set_len(&mut ours, 1 << 40))?;
    theirs.sync_all()?;
    let places = || (0..REQUESTS).map(|index| index.wrapping_mul(GOLDEN) % (1 << 28) * 4096);
    let best = compare(
        || {
            let mut buffer = Buffer::zeroed(512);
            timed(|| {
                for at in places() {
                    let (back, result) = block_on(volume.read(&mut ours, at, buffer));
                    result?;
                    buffer = back;
                }
                Ok(())
            })
        },
        || {
            let mut buffer = [0; 512];
            timed(|| {
                for at in places() {
                    theirs.read_exact_at(&mut buffer, at)?;
                }
                Ok(())
            })
        },
    )?;
    print_ratio("look_up", &best);
    volume.close(ours);
    Ok(())
}

/// Reads and writes through a file's mapping, beside the same requests to the device.
fn mapping(volume: &mut OnFile, disk: &Rc<FileDisk>) -> Result<()> {
    let root = volume.root();
    let id = block_on(volume.create(root, "mapped", Kind::File))?;
    let mut file = block_on(volume.open(id, LockMode::Exclusive))?;
    let len = 64 * BLOCK;
    block_on(volume.allocate(&mut file, 0, len, Provision::Zeroed))?;
    block_on(volume.set_len(&mut file, len))?;
    let first = block_on(volume.run(&mut file, 0))?;
    let volume::Run::Written { block, .. } = first else {
        return Err(anyhow!("the file is not written"));
    };
    for pattern in PATTERNS {
        let best = compare(
            || timed(|| block_on(through_file(volume, &mut file, pattern, len))),
            || timed(|| block_on(to_device(disk, block, pattern, len))),
        )?;
        print_ratio(pattern.name, &best);
    }
    volume.close(file);
    Ok(())
}

/// A way to go over a file.
struct Pattern {
    name: &'static str,
    /// Bytes of a request.
    piece: u64,
    requests: u64,
    random: bool,
    write: bool,
}

const fn pattern(name: &'static str, random: bool, write: bool) -> Pattern {
    Pattern {
        name,
        piece: if random { 4096 } else { BLOCK },
        requests: if random { REQUESTS } else { 400 },
        random,
        write,
    }
}

const PATTERNS: &[Pattern] = &[
    pattern("seq_read", false, false),
    pattern("seq_write", false, true),
    pattern("random_read", true, false),
    pattern("random_write", true, true),
];

impl Pattern {
    /// Where in a file of that length the request of a number goes.
    fn place(&self, index: u64, len: u64) -> u64 {
        let index = if self.random {
            index.wrapping_mul(GOLDEN) >> 20
        } else {
            index
        };
        index % (len / self.piece) * self.piece
    }
}

async fn through_file(
    volume: &mut OnFile,
    file: &mut volume::File,
    pattern: &Pattern,
    len: u64,
) -> Result<()> {
    let mut buffer = Buffer::zeroed(usize::try_from(pattern.piece)?);
    for index in 0..pattern.requests {
        let at = pattern.place(index, len);
        if pattern.write {
            let (back, result) = volume.write(file, at, buffer).await;
            result?;
            buffer = back;
        } else {
            let (back, result) = volume.read(file, at, buffer).await;
            result?;
            buffer = back;
        }
    }
    Ok(())
}

async fn to_device(disk: &FileDisk, block: u64, pattern: &Pattern, len: u64) -> Result<()> {
    let mut buffer = Buffer::zeroed(usize::try_from(pattern.piece)?);
    for index in 0..pattern.requests {
        let lba = (block * BLOCK + pattern.place(index, len)) / 512;
        let (back, result) = if pattern.write {
            disk.write(lba, buffer, Durability::Cached).await
        } else {
            disk.read(lba, buffer).await
        };
        result?;
        buffer = back;
    }
    Ok(())
}

/// How mount, check and recovery grow with a volume: requests to the device, which repeat to the digit, and the time that
/// they take on a disk in memory.
fn sizes() -> Result<()> {
    for (name, bytes) in [("1g", 1_u64 << 30), ("1t", 1 << 40), ("64t", 1 << 46)] {
        let disk = RamDisk::new(bytes, 512);
        let layout = block_on(mkfs(&disk, &MkfsOptions::new([3; 16], [4; 16]), |_, _| {}))?;
        let requests = |from: (u64, u64)| (disk.reads() - from.0 + disk.writes() - from.1) as f64;
        let now = || (disk.reads(), disk.writes());
        let clock = HostClock::new();
        let mount = || {
            let (disk, layout) = (disk.clone(), layout.clone());
            OnRam::mount(
                disk,
                layout,
                LocalLocks::default(),
                clock,
                Settings::default(),
            )
        };
        let before = now();
        let start = Instant::now();
        let mut volume = block_on(mount())?;
        print_ms(&format!("mount_ms_{name}"), start);
        print(&format!("mount_requests_{name}"), requests(before));
        let root = volume.root();
        for index in 0..200 {
            block_on(volume.create(root, &format!("file-{index}"), Kind::File))?;
        }
        block_on(volume.sync())?;
        // As if the host had died: what it committed is in its journal only.
        drop(volume);
        let before = now();
        let start = Instant::now();
        let volume = block_on(mount())?;
        print_ms(&format!("recovery_ms_{name}"), start);
        print(&format!("recovery_requests_{name}"), requests(before));
        block_on(volume.unmount())?;
        let before = now();
        let start = Instant::now();
        let report = block_on(fsck(&disk, Action::Check, |_, _| {}))?;
        print_ms(&format!("fsck_ms_{name}"), start);
        print(&format!("fsck_requests_{name}"), requests(before));
        if !report.is_clean() {
            return Err(anyhow!("the measured volume is damaged"));
        }
        print(
            &format!("overhead_{name}"),
            layout.overhead_bytes() as f64 * 1000.0 / bytes as f64,
        );
    }
    Ok(())
}
