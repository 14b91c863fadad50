//! Bringing a device up (3.1.1), and once more when it has stopped answering. All of it polls with pauses.

use crate::queue::{AVAILABLE, BlkQueue, DESCRIPTORS, PAGES_MAX, SLOTS_MAX, USED};
use crate::{PAGE, SECTOR, Windows};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use api::port::{NarrowRegisters, SharedMemory};
use api::time::Clock;
use thiserror::Error;

/// The common configuration (4.1.4.3).
mod common {
    pub(super) const FEATURE_SELECT: u32 = 0x00;
    pub(super) const FEATURES: u32 = 0x04;
    pub(super) const OUR_FEATURE_SELECT: u32 = 0x08;
    pub(super) const OUR_FEATURES: u32 = 0x0c;
    pub(super) const STATUS: u32 = 0x14;
    pub(super) const GENERATION: u32 = 0x15;
    pub(super) const QUEUE_SELECT: u32 = 0x16;
    pub(super) const QUEUE_SIZE: u32 = 0x18;
    pub(super) const QUEUE_MESSAGE: u32 = 0x1a;
    pub(super) const QUEUE_ENABLE: u32 = 0x1c;
    pub(super) const QUEUE_NOTIFY: u32 = 0x1e;
    pub(super) const QUEUE_DESCRIPTORS: u32 = 0x20;
    pub(super) const QUEUE_AVAILABLE: u32 = 0x28;
    pub(super) const QUEUE_USED: u32 = 0x30;
}

/// The configuration of block devices (5.2.4).
mod config {
    pub(super) const CAPACITY: u32 = 0;
    pub(super) const SEGMENTS_MAX: u32 = 12;
    pub(super) const BLOCK_BYTES: u32 = 20;
    pub(super) const PHYSICAL_SHIFT: u32 = 24;
    pub(super) const QUEUES: u32 = 34;
    pub(super) const DISCARD_SECTORS_MAX: u32 = 36;
    pub(super) const ZERO_SECTORS_MAX: u32 = 48;
}

bitflags::bitflags! {
    /// Features (5.2.3, 6).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Features: u64 {
        const SEGMENTS_MAX = 1 << 2;
        const READ_ONLY = 1 << 5;
        const BLOCK_BYTES = 1 << 6;
        const FLUSH = 1 << 9;
        const TOPOLOGY = 1 << 10;
        const QUEUES = 1 << 12;
        const DISCARD = 1 << 13;
        const WRITE_ZEROES = 1 << 14;
        const INDIRECT = 1 << 28;
        const VERSION_1 = 1 << 32;
    }
}

/// Status bits (2.1).
const ACKNOWLEDGED: u8 = 1;
const HAS_DRIVER: u8 = 2;
const RUNS: u8 = 4;
const FEATURES_AGREED: u8 = 8;
/// A queue without a message.
const NO_MESSAGE: u16 = 0xffff;
/// Between two looks, in nanoseconds, and longest waits for a reset and for an answer, in looks.
const PAUSE_NANOS: u64 = 1_000_000;
const RESET_LOOKS: u32 = 1_000;
const ANSWER_LOOKS: u32 = 5_000;
/// Times that the configuration is read again because it changes meanwhile.
const READ_TRIES: u32 = 16;

/// Why a device cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StartError {
    /// It did not come out of its reset, or not answer, in time.
    #[error("the device does not answer")]
    Silent,
    /// It lacks version 1 or indirect tables, or does not agree to what was chosen of its features.
    #[error("the device lacks features that this driver needs")]
    Features,
    /// Its queues are too small, or do not interrupt by messages.
    #[error("the device's queues are of no use here")]
    Queues,
    /// Its blocks are of no use here.
    #[error("the device has no blocks of 512 to 4096 bytes, or none at all")]
    Blocks,
}

/// What a disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its identifier, where it gives one.
    pub serial: String,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// Bytes of a physical block.
    pub physical_bytes: u32,
    /// Blocks.
    pub blocks: u64,
    /// Most pages of one request.
    pub pages_max: usize,
    /// Writes go to a volatile cache.
    pub has_cache: bool,
    /// Blocks can be discarded.
    pub can_discard: bool,
    /// Blocks can be zeroed without data.
    pub can_zero: bool,
    /// Queues that it has.
    pub queues: u16,
}

/// A device that runs.
#[derive(Debug)]
pub struct Device<R, M> {
    windows: Arc<Windows<R>>,
    /// The memory of its queues.
    queues: Vec<Arc<M>>,
    features: Features,
    identity: Identity,
}

/// Tells whether a device is not there any more: then nothing answers reads.
pub(crate) fn is_gone(common: &impl NarrowRegisters) -> bool {
    common.read8(common::STATUS) == u8::MAX
}

async fn pause(clock: &impl Clock) {
    let later = clock.now().saturating_add(PAUSE_NANOS);
    clock.sleep_until(later).await;
}

impl<R: NarrowRegisters, M: SharedMemory> Device<R, M> {
    /// Resets the device, agrees on features and reads what the disk is; it has no queues yet.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(windows: Windows<R>, clock: &impl Clock) -> Result<Self, StartError> {
        reset(&windows.common, clock).await?;
        let offered = read_features(&windows.common);
        let needed = Features::VERSION_1 | Features::INDIRECT;
        if !offered.contains(needed) {
            return Err(StartError::Features);
        }
        let features = offered & !Features::READ_ONLY;
        agree(&windows.common, features)?;
        let identity = read_config(&windows, features)?;
        Ok(Self {
            windows: Arc::new(windows),
            queues: Vec::new(),
            features,
            identity,
        })
    }

    /// Returns what the disk is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Makes a queue in each of `memories`, of [`crate::QUEUE_BYTES`], or as many as the device has. Queue n interrupts by
    /// message n. The disk's identifier is known after this.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn make_queues(
        &mut self,
        memories: Vec<M>,
        clock: &impl Clock,
    ) -> Result<Vec<BlkQueue<R, M>>, StartError> {
        self.queues = memories.into_iter().map(Arc::new).collect();
        self.queues.truncate(usize::from(self.identity.queues));
        let mut queues = self.run()?;
        if let Some(first) = queues.first_mut() {
            first.ask_id();
            self.identity.serial = answer(first, clock).await?;
        }
        Ok(queues)
    }

    /// Resets the device, and makes all its queues anew. Nothing that it was sent before takes effect after this, and it
    /// uses no memory of that.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn restart(&mut self, clock: &impl Clock) -> Result<Vec<BlkQueue<R, M>>, StartError> {
        reset(&self.windows.common, clock).await?;
        agree(&self.windows.common, self.features)?;
        for memory in &self.queues {
            for at in (DESCRIPTORS..PAGE / 2).step_by(4) {
                memory.write32(at, 0);
            }
        }
        self.run()
    }

    /// Makes the queues and lets the device run.
    fn run(&self) -> Result<Vec<BlkQueue<R, M>>, StartError> {
        let mut queues = Vec::new();
        for (number, memory) in (0_u16..).zip(&self.queues) {
            queues.push(self.make_queue(number, Arc::clone(memory))?);
        }
        add_status(&self.windows.common, RUNS);
        Ok(queues)
    }

    fn make_queue(&self, number: u16, memory: Arc<M>) -> Result<BlkQueue<R, M>, StartError> {
        let common = &self.windows.common;
        common.write16(common::QUEUE_SELECT, number);
        let most = common.read16(common::QUEUE_SIZE);
        if most == 0 {
            return Err(StartError::Queues);
        }
        // Sizes are powers of two; what is between them is rounded down.
        let size = SLOTS_MAX.min(1 << most.ilog2());
        common.write16(common::QUEUE_SIZE, size);
        common.write16(common::QUEUE_MESSAGE, number);
        if common.read16(common::QUEUE_MESSAGE) == NO_MESSAGE {
            return Err(StartError::Queues);
        }
        let base = memory.bus_address();
        for (register, offset) in [
            (common::QUEUE_DESCRIPTORS, DESCRIPTORS),
            (common::QUEUE_AVAILABLE, AVAILABLE),
            (common::QUEUE_USED, USED),
        ] {
            let address = base + offset as u64;
            common.write32(register, address as u32);
            common.write32(register + 4, (address >> 32) as u32);
        }
        let notify = u32::from(common.read16(common::QUEUE_NOTIFY));
        common.write16(common::QUEUE_ENABLE, 1);
        Ok(BlkQueue::new(
            Arc::clone(&self.windows),
            memory,
            number,
            notify.wrapping_mul(self.windows.notify.1),
            size,
            self.identity.block_bytes,
        ))
    }
}

async fn reset(common: &impl NarrowRegisters, clock: &impl Clock) -> Result<(), StartError> {
    common.write8(common::STATUS, 0);
    for _ in 0..RESET_LOOKS {
        if common.read8(common::STATUS) == 0 {
            add_status(common, ACKNOWLEDGED);
            add_status(common, HAS_DRIVER);
            return Ok(());
        }
        pause(clock).await;
    }
    Err(StartError::Silent)
}

fn add_status(common: &impl NarrowRegisters, bit: u8) {
    let status = common.read8(common::STATUS);
    common.write8(common::STATUS, status | bit);
}

fn read_features(common: &impl NarrowRegisters) -> Features {
    let half = |number| {
        common.write32(common::FEATURE_SELECT, number);
        u64::from(common.read32(common::FEATURES))
    };
    Features::from_bits_truncate(half(0) | half(1) << 32)
}

fn agree(common: &impl NarrowRegisters, features: Features) -> Result<(), StartError> {
    for (number, half) in [(0, features.bits()), (1, features.bits() >> 32)] {
        common.write32(common::OUR_FEATURE_SELECT, number);
        common.write32(common::OUR_FEATURES, half as u32);
    }
    add_status(common, FEATURES_AGREED);
    let agreed = common.read8(common::STATUS) & FEATURES_AGREED != 0;
    agreed.then_some(()).ok_or(StartError::Features)
}

fn read_config<R: NarrowRegisters>(
    windows: &Windows<R>,
    features: Features,
) -> Result<Identity, StartError> {
    let device = &windows.device;
    let generation = || windows.common.read8(common::GENERATION);
    let mut sectors = 0;
    for _ in 0..READ_TRIES {
        let before = generation();
        let (low, high) = (
            device.read32(config::CAPACITY),
            device.read32(config::CAPACITY + 4),
        );
        sectors = u64::from(low) | u64::from(high) << 32;
        if generation() == before {
            break;
        }
    }
    let has = |feature| features.contains(feature);
    let block_bytes = match has(Features::BLOCK_BYTES) {
        true => device.read32(config::BLOCK_BYTES),
        false => SECTOR,
    };
    let good = block_bytes.is_power_of_two() && (SECTOR..=PAGE as u32).contains(&block_bytes);
    let blocks = sectors / u64::from((block_bytes / SECTOR).max(1));
    if !good || blocks == 0 {
        return Err(StartError::Blocks);
    }
    let shift = match has(Features::TOPOLOGY) {
        true => u32::from(device.read8(config::PHYSICAL_SHIFT)),
        false => 0,
    };
    let segments = match has(Features::SEGMENTS_MAX) {
        true => device.read32(config::SEGMENTS_MAX).max(1) as usize,
        false => PAGES_MAX,
    };
    // A request has 65,536 blocks at most; a device that takes fewer is treated as one that takes none.
    let takes_all = |register| device.read32(register) >= (1 << 16) * (block_bytes / SECTOR);
    Ok(Identity {
        serial: String::new(),
        block_bytes,
        physical_bytes: block_bytes.checked_shl(shift.min(8)).unwrap_or(block_bytes),
        blocks,
        pages_max: PAGES_MAX.min(segments),
        has_cache: has(Features::FLUSH),
        can_discard: has(Features::DISCARD) && takes_all(config::DISCARD_SECTORS_MAX),
        can_zero: has(Features::WRITE_ZEROES) && takes_all(config::ZERO_SECTORS_MAX),
        queues: match has(Features::QUEUES) {
            true => device.read16(config::QUEUES).max(1),
            false => 1,
        },
    })
}

/// Waits for the device's identifier; text up to the first zero, what is no printable ASCII being a dot.
async fn answer<R: NarrowRegisters, M: SharedMemory>(
    queue: &mut BlkQueue<R, M>,
    clock: &impl Clock,
) -> Result<String, StartError> {
    for _ in 0..ANSWER_LOOKS {
        if let Some(id) = queue.take_id() {
            let id = id.unwrap_or_default();
            let text = id.iter().take_while(|byte| **byte != 0);
            let printable = text.map(|byte| match byte {
                b' '..=b'~' => char::from(*byte),
                _ => '.',
            });
            return Ok(printable.collect());
        }
        pause(clock).await;
    }
    Err(StartError::Silent)
}
