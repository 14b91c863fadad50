//! Commands (ACS-3, chapter 7).

use requests::{Operation, Request};

pub(crate) const IDENTIFY: u8 = 0xec;
const READ_DMA_EXT: u8 = 0x25;
const WRITE_DMA_EXT: u8 = 0x35;
const WRITE_DMA_FUA_EXT: u8 = 0x3d;
const FLUSH_CACHE_EXT: u8 = 0xea;
const DATA_SET_MANAGEMENT: u8 = 0x06;
/// Data set management: the ranges may be forgotten.
const TRIM: u8 = 1;
/// Most blocks of a range.
const RANGE_BLOCKS_MAX: u64 = 0xffff;

/// Bytes of the ranges of a discard.
pub(crate) const RANGES_BYTES: usize = 512;

/// A command with 48-bit address, as its registers are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) code: u8,
    pub(crate) features: u8,
    pub(crate) lba: u64,
    /// Zero stands for 65,536.
    pub(crate) count: u16,
    /// Data goes to the device.
    pub(crate) writes: bool,
}

impl Command {
    pub(crate) const fn identify() -> Self {
        Self {
            code: IDENTIFY,
            features: 0,
            lba: 0,
            count: 0,
            writes: false,
        }
    }

    /// Makes the command of a request; `None` for what no ATA disk can do.
    pub(crate) const fn new(request: &Request) -> Option<Self> {
        let (code, writes) = match request.operation {
            Operation::Read => (READ_DMA_EXT, false),
            Operation::Write { fua: false } => (WRITE_DMA_EXT, true),
            Operation::Write { fua: true } => (WRITE_DMA_FUA_EXT, true),
            Operation::Flush => (FLUSH_CACHE_EXT, false),
            Operation::Discard => {
                return Some(Self {
                    code: DATA_SET_MANAGEMENT,
                    features: TRIM,
                    lba: 0,
                    // Blocks of 512 bytes with ranges.
                    count: 1,
                    writes: true,
                });
            }
            Operation::WriteZeroes => return None,
        };
        Some(Self {
            code,
            features: 0,
            lba: request.lba,
            count: request.blocks as u16,
            writes,
        })
    }
}

/// Returns the ranges of a discard of at most 65,536 blocks, as 64-bit numbers: two at most, the rest being zero.
pub(crate) fn ranges(request: &Request) -> [u64; 2] {
    const COUNT_SHIFT: u32 = 48;
    let blocks = u64::from(request.blocks);
    let first = blocks.min(RANGE_BLOCKS_MAX);
    let rest = blocks - first;
    let range = |lba: u64, count: u64| match count {
        0 => 0,
        _ => lba & ((1 << COUNT_SHIFT) - 1) | count << COUNT_SHIFT,
    };
    [
        range(request.lba, first),
        range(request.lba.wrapping_add(first), rest),
    ]
}
