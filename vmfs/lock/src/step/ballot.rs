//! The ballot block of Disk Paxos: what one seat has promised and accepted, and what all ballots of a cell say together.
//!
//! A cell goes through *instances*; in each, one image is chosen to follow the one chosen before. After Gafni and
//! Lamport, "Disk Paxos", 2003, for a single disk: `promised` is their mbal, `accepted` their bal, `image` their inp.

use alloc::vec::Vec;

use checksum::crc32c;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::area::{Cell, SLOTS_MAX};
use crate::error::LockError;
use crate::image::{IMAGE_LEN, Image};

/// "BsBa", least significant byte first.
const MAGIC: u32 = u32::from_le_bytes(*b"BsBa");
/// The only version so far.
const VERSION: u16 = 1;
/// Bytes of a ballot; the rest of its block is zero.
pub(super) const BALLOT_LEN: usize = 512;
/// [`RawBallot::flags`]: the image was chosen in this instance.
const CHOSEN: u32 = 1;
/// [`RawBallot::flags`]: nothing is accepted, and the image is the one chosen in the instance before.
const BASE: u32 = 2;

/// The number of a ballot for which an image may be accepted without asking: only who made the image that was chosen
/// in the instance before may use it, and only once.
pub(super) const AUTHORS_BALLOT: u64 = 1;

/// What a seat has said last about a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ballot {
    /// The instance that it speaks of; 0 if it has said nothing yet.
    pub(super) instance: u64,
    /// It will accept nothing for a lower number.
    pub(super) promised: u64,
    /// The number for which it has accepted the image; 0 for none.
    pub(super) accepted: u64,
    /// The image is known to be chosen.
    pub(super) chosen: bool,
    /// The accepted image, or the one chosen in the instance before; `None` if neither is known.
    pub(super) image: Option<Image>,
}

/// A ballot on disk. All numbers are little-endian.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawBallot {
    /// Offset 0: "BsBa".
    magic: U32,
    /// Offset 4: format version, 1.
    version: U16,
    /// Offset 6: number of the seat, and of this block in its cell.
    seat: U16,
    /// Offset 8: first block of the cell.
    lba: U64,
    /// Offset 16: instance.
    instance: U64,
    /// Offset 24: promised number.
    promised: U64,
    /// Offset 32: accepted number, 0 for none.
    accepted: U64,
    /// Offset 40: bit 0 chosen, bit 1 the image is the one before.
    flags: U32,
    /// Offset 44: zero.
    zero: U32,
    /// Offset 48: image.
    image: [u8; IMAGE_LEN],
    /// Offset 432: zero.
    reserved: [u8; 76],
    /// Offset 508: CRC32C of all bytes before.
    checksum: U32,
}

const _: () = assert!(size_of::<RawBallot>() == BALLOT_LEN);
const _: () = assert!(core::mem::offset_of!(RawBallot, checksum) == BALLOT_LEN - 4);
const _: () = assert!(core::mem::offset_of!(RawBallot, image) == 48);

impl Ballot {
    /// Of a seat that has said nothing.
    const SILENT: Self = Self {
        instance: 0,
        promised: 0,
        accepted: 0,
        chosen: false,
        image: None,
    };

    /// Reads the ballot of `seat` on `cell` from its block.
    pub(super) fn decode(block: &[u8], seat: u16, cell: Cell) -> Result<Self, LockError> {
        let lba = cell.0.saturating_add(u64::from(seat));
        let corrupt = LockError::Corrupt { lba };
        let bytes = block.get(..BALLOT_LEN).ok_or(corrupt)?;
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(Self::SILENT);
        }
        let raw = RawBallot::ref_from_bytes(bytes).map_err(|_| corrupt)?;
        let body = bytes.get(..BALLOT_LEN - 4).ok_or(corrupt)?;
        let known = raw.magic == MAGIC
            && raw.version == VERSION
            && raw.seat == seat
            && raw.lba == cell.0
            && raw.checksum == crc32c(body);
        let has_image = raw.accepted != 0 || raw.flags.get() & BASE != 0;
        known
            .then(|| Self {
                instance: raw.instance.get(),
                promised: raw.promised.get(),
                accepted: raw.accepted.get(),
                chosen: raw.flags.get() & CHOSEN != 0,
                image: has_image.then(|| Image::from_block(&raw.image)),
            })
            .ok_or(corrupt)
    }

    /// Returns the head of the block that holds the ballot.
    pub(super) fn encode(&self, seat: u16, cell: Cell) -> [u8; BALLOT_LEN] {
        let mut raw = RawBallot::new_zeroed();
        raw.magic = MAGIC.into();
        raw.version = VERSION.into();
        raw.seat = seat.into();
        raw.lba = cell.0.into();
        raw.instance = self.instance.into();
        raw.promised = self.promised.into();
        raw.accepted = self.accepted.into();
        let mut flags = 0;
        if self.chosen {
            flags |= CHOSEN;
        }
        if let Some(image) = &self.image {
            raw.image = *image.as_bytes();
            if self.accepted == 0 {
                flags |= BASE;
            }
        }
        raw.flags = flags.into();
        let mut bytes: [u8; BALLOT_LEN] = zerocopy::transmute!(raw);
        let (body, checksum) = bytes.split_at_mut(BALLOT_LEN - 4);
        checksum.copy_from_slice(&crc32c(body).to_le_bytes());
        bytes
    }
}

/// All ballots of a cell, in order of their seats, as they were read.
#[derive(Debug)]
pub(super) struct Ballots(pub(super) Vec<Ballot>);

/// What the ballots say of a cell's image.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum View {
    /// This image is the last one chosen; `next` is the instance that chooses its successor.
    Settled { image: Image, next: u64 },
    /// This image may have been chosen in the instance, or may be overtaken.
    Pending { image: Image, instance: u64 },
}

impl Ballots {
    /// Judges the ballots; `None` if they contradict the protocol.
    pub(super) fn view(&self) -> Option<View> {
        let instance = self.0.iter().map(|ballot| ballot.instance).max()?;
        if instance == 0 {
            return Some(View::Settled {
                image: Image::UNUSED,
                next: 1,
            });
        }
        let last = || self.0.iter().filter(|ballot| ballot.instance == instance);
        if let Some(chosen) = last().find(|ballot| ballot.chosen) {
            return Some(View::Settled {
                image: chosen.image.clone()?,
                next: instance.checked_add(1)?,
            });
        }
        if let Some(image) = self.accepted(instance) {
            return Some(View::Pending { image, instance });
        }
        let base = last().find_map(|ballot| ballot.image.clone())?;
        Some(View::Settled {
            image: base,
            next: instance,
        })
    }

    /// Returns the image accepted in `instance` for the highest number.
    pub(super) fn accepted(&self, instance: u64) -> Option<Image> {
        let accepted = |ballot: &&Ballot| ballot.instance == instance && ballot.accepted != 0;
        let highest = self.0.iter().filter(accepted);
        highest
            .max_by_key(|ballot| ballot.accepted)
            .and_then(|ballot| ballot.image.clone())
    }

    /// Tells whether `seat` may go on with ballot `number` of `instance`: nobody has gone beyond.
    pub(super) fn leads(&self, seat: u16, instance: u64, number: u64) -> bool {
        (0..).zip(&self.0).all(|(other, ballot)| {
            other == seat
                || ballot.instance < instance
                || (ballot.instance == instance && ballot.promised < number && !ballot.chosen)
        })
    }

    /// Returns a number above all that were promised in `instance`, which only `seat` uses.
    pub(super) fn next_number(&self, seat: u16, instance: u64) -> Option<u64> {
        let speaking = self.0.iter().filter(|ballot| ballot.instance == instance);
        let highest = speaking.map(|ballot| ballot.promised).max().unwrap_or(0);
        let seats = u64::from(SLOTS_MAX);
        let round = highest.checked_div(seats)?.checked_add(1)?;
        round.checked_mul(seats)?.checked_add(u64::from(seat))
    }
}
