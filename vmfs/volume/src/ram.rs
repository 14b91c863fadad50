//! A disk in memory: for tests, measurements and tools that need no disk; it stores only what was written.
//!
//! It can forget what was not flushed, stop taking writes after a number of them, and fail by blocks. Delays, several
//! hosts and lost replies are the simulator's, tests/sim.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use api::block::{BlockDevice, BlockError, Buffer, Compared, Completion, Durability, Geometry};
use spin::Mutex;

/// Bytes kept together.
const CHUNK: usize = 4096;
type Chunks = BTreeMap<u64, Box<[u8; CHUNK]>>;

/// A disk in memory; its clones are the same disk.
#[derive(Clone, Debug)]
pub struct RamDisk {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    geometry: Mutex<Geometry>,
    /// What reads see.
    now: Mutex<Chunks>,
    /// What a power failure leaves of the chunks that were written since the last flush.
    before: Mutex<BTreeMap<u64, Option<Box<[u8; CHUNK]>>>>,
    /// Writes left until the disk is gone.
    writes_left: AtomicU64,
    writes: AtomicU64,
    reads: AtomicU64,
}

impl RamDisk {
    /// Makes a disk of `bytes` bytes with logical blocks of 512 or 4096 bytes.
    #[must_use]
    pub fn new(bytes: u64, logical_block: u32) -> Self {
        let geometry = Geometry {
            logical_block,
            physical_block: 4096,
            blocks: bytes.checked_div(u64::from(logical_block)).unwrap_or(0),
            max_blocks: (4_u32 << 20).checked_div(logical_block).unwrap_or(1),
            volatile_cache: true,
            fua: true,
            discard: true,
            compare_and_write_blocks: 1,
        };
        Self {
            state: Arc::new(State {
                geometry: Mutex::new(geometry),
                now: Mutex::default(),
                before: Mutex::default(),
                writes_left: AtomicU64::new(u64::MAX),
                writes: AtomicU64::new(0),
                reads: AtomicU64::new(0),
            }),
        }
    }

    /// Changes the size.
    pub fn resize(&self, bytes: u64) {
        let mut geometry = self.state.geometry.lock();
        geometry.blocks = bytes
            .checked_div(u64::from(geometry.logical_block))
            .unwrap_or(0);
    }

    /// Changes what the disk says of itself.
    pub fn set_geometry(&self, geometry: Geometry) {
        *self.state.geometry.lock() = geometry;
    }

    /// Lets `count` more writes, flushes and discards happen; then everything fails with [`BlockError::Gone`].
    pub fn stop_after(&self, count: u64) {
        self.state.writes_left.store(count, Ordering::Relaxed);
    }

    /// Returns how many writes, flushes and discards happened.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.state.writes.load(Ordering::Relaxed)
    }

    /// Returns how many reads happened.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.state.reads.load(Ordering::Relaxed)
    }

    /// Returns the bytes of memory that the content takes.
    #[must_use]
    pub fn bytes_stored(&self) -> u64 {
        (self.state.now.lock().len() as u64).saturating_mul(CHUNK as u64)
    }

    /// Makes an independent copy of what is on the disk.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self {
            state: Arc::new(State {
                geometry: Mutex::new(self.geometry_now()),
                now: Mutex::new(self.state.now.lock().clone()),
                before: Mutex::new(self.state.before.lock().clone()),
                writes_left: AtomicU64::new(u64::MAX),
                writes: AtomicU64::new(0),
                reads: AtomicU64::new(0),
            }),
        }
    }

    /// The power fails and comes back: of the chunks written since the last flush, those that `keep` chooses stay.
    pub fn lose_power(&self, mut keep: impl FnMut(u64) -> bool) {
        let before = core::mem::take(&mut *self.state.before.lock());
        let mut now = self.state.now.lock();
        for (chunk, old) in before {
            if keep(chunk) {
                continue;
            }
            match old {
                Some(old) => now.insert(chunk, old),
                None => now.remove(&chunk),
            };
        }
        self.state.writes_left.store(u64::MAX, Ordering::Relaxed);
    }

    /// Copies bytes out, past all failures.
    pub fn peek(&self, at: u64, bytes: &mut [u8]) {
        let now = self.state.now.lock();
        for_parts(at, bytes.len(), |chunk, offset, range| {
            let Some(target) = bytes.get_mut(range) else {
                return;
            };
            let source = now
                .get(&chunk)
                .and_then(|chunk| chunk.get(offset..))
                .and_then(|rest| rest.get(..target.len()));
            match source {
                Some(source) => target.copy_from_slice(source),
                None => target.fill(0),
            }
        });
    }

    /// Copies bytes in, past all failures, durably.
    pub fn poke(&self, at: u64, bytes: &[u8]) {
        let mut now = self.state.now.lock();
        for_parts(at, bytes.len(), |chunk, offset, range| {
            let entry = now.entry(chunk).or_insert_with(|| Box::new([0; CHUNK]));
            let source = bytes.get(range).unwrap_or_default();
            if let Some(target) = entry
                .get_mut(offset..)
                .and_then(|rest| rest.get_mut(..source.len()))
            {
                target.copy_from_slice(source);
            }
        });
    }

    /// Calls `visit` with the byte address of every stored chunk of 4096 bytes.
    pub fn for_chunks(&self, mut visit: impl FnMut(u64)) {
        for chunk in self.state.now.lock().keys() {
            visit(chunk.saturating_mul(CHUNK as u64));
        }
    }

    fn geometry_now(&self) -> Geometry {
        *self.state.geometry.lock()
    }

    fn remember(&self, at: u64, len: usize) {
        if !self.geometry_now().volatile_cache {
            return;
        }
        let now = self.state.now.lock();
        let mut before = self.state.before.lock();
        for_parts(at, len, |chunk, _, _| {
            before
                .entry(chunk)
                .or_insert_with(|| now.get(&chunk).cloned());
        });
    }

    fn forget(&self, at: u64, len: usize) {
        let mut before = self.state.before.lock();
        for_parts(at, len, |chunk, _, _| {
            before.remove(&chunk);
        });
    }

    fn count_write(&self) -> Result<(), BlockError> {
        let left = self.state.writes_left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(BlockError::Gone);
        }
        if left != u64::MAX {
            let left = left.saturating_sub(1);
            self.state.writes_left.store(left, Ordering::Relaxed);
        }
        self.state.writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn range(&self, lba: u64, bytes: u64) -> Result<u64, BlockError> {
        let geometry = self.geometry_now();
        let logical = u64::from(geometry.logical_block);
        let at = lba.checked_mul(logical).ok_or(BlockError::Invalid)?;
        let end = at.checked_add(bytes).ok_or(BlockError::Invalid)?;
        let whole = bytes.checked_rem(logical) == Some(0);
        if !whole || end > geometry.bytes() {
            return Err(BlockError::Invalid);
        }
        Ok(at)
    }

    fn write_now(&self, lba: u64, bytes: &[u8], durability: Durability) -> Result<(), BlockError> {
        let at = self.range(lba, bytes.len() as u64)?;
        self.count_write()?;
        self.remember(at, bytes.len());
        self.poke(at, bytes);
        if durability == Durability::Fua {
            self.forget(at, bytes.len());
        }
        Ok(())
    }

    fn drop_chunks(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        let logical = u64::from(self.geometry_now().logical_block);
        let len = blocks.checked_mul(logical).ok_or(BlockError::Invalid)?;
        let at = self.range(lba, len)?;
        self.count_write()?;
        let end = at.saturating_add(len);
        let chunk_bytes = CHUNK as u64;
        let first = at.div_ceil(chunk_bytes);
        let last = end.checked_div(chunk_bytes).unwrap_or(0).max(first);
        let mut now = self.state.now.lock();
        let stored: alloc::vec::Vec<u64> =
            now.range(first..last).map(|(chunk, _)| *chunk).collect();
        for chunk in stored {
            let old = now.remove(&chunk);
            if self.geometry_now().volatile_cache {
                self.state.before.lock().entry(chunk).or_insert(old);
            }
        }
        drop(now);
        // Parts of chunks at the edges.
        let zeros = [0; CHUNK];
        for (from, to) in [
            (at, first.saturating_mul(chunk_bytes).min(end)),
            (last.saturating_mul(chunk_bytes).max(at), end),
        ] {
            let len = usize::try_from(to.saturating_sub(from)).unwrap_or(0);
            if let Some(bytes) = zeros.get(..len) {
                self.remember(from, len);
                self.poke(from, bytes);
            }
        }
        Ok(())
    }
}

/// Calls `visit` with chunk, offset in the chunk and range in the request for every chunk of a request.
fn for_parts(at: u64, len: usize, mut visit: impl FnMut(u64, usize, core::ops::Range<usize>)) {
    let chunk_bytes = CHUNK as u64;
    let mut done = 0;
    while done < len {
        let address = at.saturating_add(done as u64);
        let chunk = address.checked_div(chunk_bytes).unwrap_or(0);
        let offset = usize::try_from(address.checked_rem(chunk_bytes).unwrap_or(0)).unwrap_or(0);
        let part = CHUNK.saturating_sub(offset).min(len.saturating_sub(done));
        let end = done.saturating_add(part);
        visit(chunk, offset, done..end);
        done = end;
    }
}

impl BlockDevice for RamDisk {
    fn geometry(&self) -> Geometry {
        self.geometry_now()
    }

    async fn read(&self, lba: u64, mut buffer: Buffer) -> Completion {
        let at = match self.range(lba, buffer.len() as u64) {
            Ok(at) => at,
            Err(error) => return (buffer, Err(error)),
        };
        if self.state.writes_left.load(Ordering::Relaxed) == 0 {
            return (buffer, Err(BlockError::Gone));
        }
        self.state.reads.fetch_add(1, Ordering::Relaxed);
        self.peek(at, &mut buffer);
        (buffer, Ok(()))
    }

    async fn write(&self, lba: u64, buffer: Buffer, durability: Durability) -> Completion {
        let result = self.write_now(lba, &buffer, durability);
        (buffer, result)
    }

    async fn flush(&self) -> Result<(), BlockError> {
        self.count_write()?;
        self.state.before.lock().clear();
        Ok(())
    }

    async fn discard(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        self.drop_chunks(lba, blocks)
    }

    async fn write_zeroes(&self, lba: u64, blocks: u64) -> Result<(), BlockError> {
        self.drop_chunks(lba, blocks)
    }

    async fn compare_and_write(
        &self,
        lba: u64,
        expected: Buffer,
        new: Buffer,
    ) -> Result<Compared, BlockError> {
        let at = self.range(lba, expected.len() as u64)?;
        let mut found = Buffer::zeroed(expected.len());
        self.peek(at, &mut found);
        if *found != *expected {
            return Ok(Compared::Differed);
        }
        self.write_now(lba, &new, Durability::Fua)?;
        Ok(Compared::Written)
    }

    async fn drain(&self) {}
}
