//! The lock record: who holds a lock and how.
//!
//! Pure: what a record allows, and the record that comes next. Whether a holder that it names still lives is not
//! written in it; that is asked of the holder's slot.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::area::SLOTS_MAX;
use crate::error::LockError;
use crate::image::{CHECKSUM_AT, IMAGE_LEN, Image, RawToken, Token};
use crate::slot::Member;

/// "BsLk", least significant byte first.
const MAGIC: u32 = u32::from_le_bytes(*b"BsLk");
/// The only version so far.
const VERSION: u16 = 1;
/// Hosts that a record can name.
const HOLDERS: usize = SLOTS_MAX as usize;

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// By one host, which may write.
    Exclusive,
    /// By any number of hosts, which only read.
    Shared,
    /// By any number of hosts that have agreed among themselves who writes what (a guest cluster's disk, for example).
    MultiWriter,
}

/// A lock record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// First block of the cell; a record that was written to a wrong place is not taken for another.
    pub lba: u64,
    /// How it is held; without meaning while it has no holder.
    pub mode: Mode,
    /// Unique to this image.
    pub token: Token,
    /// Who wrote this image.
    pub author: Member,
    /// By slot: the generation of the holder, 0 for none.
    holders: [u32; HOLDERS],
}

/// Values of [`RawRecord::mode`].
mod mode {
    pub(super) const EXCLUSIVE: u16 = 1;
    pub(super) const SHARED: u16 = 2;
    pub(super) const MULTI_WRITER: u16 = 3;
}

/// A lock record on disk. All numbers are little-endian.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRecord {
    /// Offset 0: "BsLk".
    magic: U32,
    /// Offset 4: format version, 1.
    version: U16,
    /// Offset 6: 1 exclusive, 2 shared, 3 multi-writer.
    mode: U16,
    /// Offset 8: first block of this cell.
    lba: U64,
    /// Offset 16: token.
    token: RawToken,
    /// Offset 32: generation of the host that wrote this image.
    author_generation: U32,
    /// Offset 36: slot of the host that wrote this image.
    author_slot: U16,
    /// Offset 38: zero.
    zero: [u8; 26],
    /// Offset 64: by slot, the generation of the holder, 0 for none.
    holders: [U32; HOLDERS],
    /// Offset 320: zero.
    reserved: [u8; 60],
    /// Offset 380: CRC32C of all bytes before.
    checksum: U32,
}

const _: () = assert!(size_of::<RawRecord>() == IMAGE_LEN);
const _: () = assert!(core::mem::offset_of!(RawRecord, checksum) == CHECKSUM_AT);
const _: () = assert!(core::mem::offset_of!(RawRecord, holders) == 64);

impl Record {
    /// Makes the record that an unused cell stands for: free.
    #[must_use]
    pub const fn unused(lba: u64) -> Self {
        Self {
            lba,
            mode: Mode::Exclusive,
            token: Token::UNUSED,
            author: Member {
                slot: 0,
                generation: 0,
            },
            holders: [0; HOLDERS],
        }
    }

    /// Reads the record of the cell at block `lba` from its image.
    ///
    /// # Errors
    ///
    /// Returns [`LockError::Corrupt`] for an image that is none of that lock.
    pub fn decode(image: &Image, lba: u64) -> Result<Self, LockError> {
        if image.is_unused() {
            return Ok(Self::unused(lba));
        }
        Self::parse(image)
            .filter(|record| record.lba == lba)
            .ok_or(LockError::Corrupt { lba })
    }

    fn parse(image: &Image) -> Option<Self> {
        let raw = RawRecord::ref_from_bytes(image.as_bytes()).ok()?;
        let mode = match raw.mode.get() {
            mode::EXCLUSIVE => Mode::Exclusive,
            mode::SHARED => Mode::Shared,
            mode::MULTI_WRITER => Mode::MultiWriter,
            _ => return None,
        };
        let record = Self {
            lba: raw.lba.get(),
            mode,
            token: raw.token.into(),
            author: Member {
                slot: raw.author_slot.get(),
                generation: raw.author_generation.get(),
            },
            holders: raw.holders.map(U32::get),
        };
        let known = raw.magic == MAGIC && raw.version == VERSION && image.is_sealed();
        let sole = mode != Mode::Exclusive || record.holders().count() <= 1;
        (known && sole).then_some(record)
    }

    /// Returns the image of the record.
    #[must_use]
    pub fn encode(&self) -> Image {
        let mut raw = RawRecord::new_zeroed();
        raw.magic = MAGIC.into();
        raw.version = VERSION.into();
        raw.mode = U16::new(match self.mode {
            Mode::Exclusive => mode::EXCLUSIVE,
            Mode::Shared => mode::SHARED,
            Mode::MultiWriter => mode::MULTI_WRITER,
        });
        raw.lba = self.lba.into();
        raw.token = self.token.into();
        raw.author_generation = self.author.generation.into();
        raw.author_slot = self.author.slot.into();
        raw.holders = self.holders.map(U32::new);
        Image::sealed(zerocopy::transmute!(raw))
    }

    /// Returns all hosts that the record names, void ones too, in order of their slots.
    pub fn holders(&self) -> impl Iterator<Item = Member> {
        (0..)
            .zip(self.holders)
            .filter(|&(_, generation)| generation != 0)
            .map(|(slot, generation)| Member { slot, generation })
    }

    /// Tells whether `member` is named as a holder.
    #[must_use]
    pub fn names(&self, member: Member) -> bool {
        self.holders().any(|holder| holder == member)
    }

    /// Returns the hosts other than `me` that stand against `me` having the lock in `mode`.
    pub fn obstacles(&self, me: Member, mode: Mode) -> impl Iterator<Item = Member> {
        let compatible = self.mode == mode && mode != Mode::Exclusive;
        self.holders()
            .filter(move |holder| holder.slot != me.slot && !compatible)
    }

    /// Returns the record in which `me`, beside the holders of the same mode that stand in no one's way, has the lock
    /// in `mode`. The caller has found every obstacle to be void.
    #[must_use]
    pub fn granted(&self, me: Member, mode: Mode, token: Token) -> Self {
        let mut next = self.clone();
        if self.mode != mode || mode == Mode::Exclusive {
            next.holders = [0; HOLDERS];
        }
        next.set(me.slot, me.generation);
        next.mode = mode;
        next.token = token;
        next.author = me;
        next
    }

    /// Returns the record in which `me` does not hold the lock.
    #[must_use]
    pub fn released(&self, me: Member, token: Token) -> Self {
        let mut next = self.clone();
        next.set(me.slot, 0);
        next.token = token;
        next.author = me;
        next
    }

    fn set(&mut self, slot: u16, generation: u32) {
        if let Some(holder) = self.holders.get_mut(usize::from(slot)) {
            *holder = generation;
        }
    }
}
