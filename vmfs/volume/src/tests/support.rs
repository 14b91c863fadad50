//! What the tests stand on: an executor, a clock that jumps, a random number generator, and a volume that is mounted.

use alloc::sync::Arc;
use core::future::Future;
use core::pin::pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};

use api::block::Buffer;
use api::time::{Clock, HostInstant};

use crate::ram::RamDisk;
use crate::{
    Error, File, FileId, Kind, LocalLocks, LockMode, MkfsOptions, Settings, Volume, mkfs, probe,
};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// Runs a future to its end.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
    panic!("a future makes no progress");
}

/// A clock that jumps to wherever somebody sleeps to.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestClock(Arc<AtomicU64>);

impl Clock for TestClock {
    fn now(&self) -> HostInstant {
        HostInstant::from_nanos(self.0.load(Ordering::Relaxed))
    }

    async fn sleep_until(&self, deadline: HostInstant) {
        self.0.fetch_max(deadline.as_nanos(), Ordering::Relaxed);
    }
}

/// Numbers that look random and are the same every time (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

pub(crate) type Local = (RamDisk, LocalLocks, TestClock);

pub(crate) fn options() -> MkfsOptions {
    MkfsOptions::new(*b"a test's volume!", *b"0123456789abcdef")
}

/// Makes a volume with small clusters.
pub(crate) fn made(bytes: u64) -> RamDisk {
    let disk = RamDisk::new(bytes, 512);
    let mut options = options();
    options.slots = 4;
    options.cluster_blocks = 32;
    run(mkfs(&disk, &options, |_, _| {})).unwrap();
    disk
}

pub(crate) fn settings() -> Settings {
    Settings {
        cache_units: 64,
        ..Settings::default()
    }
}

pub(crate) fn try_mount(disk: &RamDisk) -> Result<Volume<Local>, Error> {
    run(async {
        let layout = probe(disk).await?;
        let locks = LocalLocks::default();
        Volume::mount(
            disk.clone(),
            layout,
            locks,
            TestClock::default(),
            settings(),
        )
        .await
    })
}

pub(crate) fn mount(disk: &RamDisk) -> Volume<Local> {
    try_mount(disk).unwrap()
}

impl Volume<Local> {
    pub(crate) fn make(&mut self, name: &str) -> File {
        let root = self.root();
        run(async {
            let id = self.create(root, name, Kind::File).await?;
            self.open(id, LockMode::Exclusive).await
        })
        .unwrap()
    }

    pub(crate) fn put(&mut self, file: &mut File, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let (_, result) = run(self.write(file, offset, Buffer::copied_from(bytes)));
        result
    }

    pub(crate) fn get(&mut self, file: &mut File, offset: u64, len: usize) -> alloc::vec::Vec<u8> {
        let (buffer, result) = run(self.read(file, offset, Buffer::zeroed(len)));
        buffer[..result.unwrap()].to_vec()
    }

    pub(crate) fn find(&mut self, path: &str) -> Result<FileId, Error> {
        run(self.resolve(path))
    }

    pub(crate) fn open_path(&mut self, path: &str) -> Result<File, Error> {
        let id = self.find(path)?;
        run(self.open(id, LockMode::Exclusive))
    }
}

/// Bytes that tell where they belong.
pub(crate) fn pattern(seed: u64, len: usize) -> alloc::vec::Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = alloc::vec::Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
