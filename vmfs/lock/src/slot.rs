//! The heartbeat slot: one per host, the place where a host is alive, and through which all its locks can be freed at
//! once.
//!
//! Only the format stands here. Who may change a slot and when stands in `join.rs`, `beat.rs` and `takeover.rs`.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::area::SLOTS_MAX;
use crate::error::LockError;
use crate::image::{CHECKSUM_AT, IMAGE_LEN, Image, RawToken, Token};

/// "BsHb", least significant byte first.
const MAGIC: u32 = u32::from_le_bytes(*b"BsHb");
/// The only version so far.
const VERSION: u16 = 1;
/// Bytes of a host's name in its slot.
pub const NAME_LEN: usize = 64;

/// A host at one time of its life: which slot it has, and the how-manieth owner of that slot it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The slot's number.
    pub slot: u16,
    /// The slot's generation while it owns it; never 0.
    pub generation: u32,
}

/// Where a host's journal lies; what is in it is the volume's concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Journal {
    /// Its first block.
    pub lba: u64,
    /// Its length in logical blocks; 0 if there is none.
    pub blocks: u64,
}

/// Who has a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Nobody; the next host may take it.
    Free,
    /// A host, which must beat.
    Live,
    /// A host that died; this one replays its journal. The dead host's locks still hold.
    Replaying(Member),
}

/// A heartbeat slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its own number; a slot that was written to a wrong place is not taken for another.
    pub number: u16,
    /// Who has it.
    pub state: SlotState,
    /// Of its owner, or of the next one while it is free. A lock of another generation is void.
    pub generation: u32,
    /// Unique to this image.
    pub token: Token,
    /// Counts the beats of this generation.
    pub counter: u64,
    /// The owner's UUID, which it keeps across restarts.
    pub uuid: [u8; 16],
    /// The owner's journal.
    pub journal: Journal,
    /// The first block of a lock's cell that the owner waits for; 0 if it waits for none.
    pub wanted: u64,
    /// The owner's name for people, UTF-8, filled up with zeros.
    pub name: [u8; NAME_LEN],
}

/// Values of [`RawSlot::state`].
mod state {
    pub(super) const FREE: u32 = 1;
    pub(super) const LIVE: u32 = 2;
    pub(super) const REPLAYING: u32 = 3;
}

/// A slot on disk. All numbers are little-endian.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSlot {
    /// Offset 0: "BsHb".
    magic: U32,
    /// Offset 4: format version, 1.
    version: U16,
    /// Offset 6: the slot's number.
    number: U16,
    /// Offset 8: 1 free, 2 live, 3 being replayed.
    state: U32,
    /// Offset 12: generation.
    generation: U32,
    /// Offset 16: token.
    token: RawToken,
    /// Offset 32: beats of this generation.
    counter: U64,
    /// Offset 40: the host's UUID.
    uuid: [u8; 16],
    /// Offset 56: first block of the journal.
    journal_lba: U64,
    /// Offset 64: blocks of the journal.
    journal_blocks: U64,
    /// Offset 72: generation of the host that replays; 0 in other states.
    replayer_generation: U32,
    /// Offset 76: slot of the host that replays; 0 in other states.
    replayer_slot: U16,
    /// Offset 78: zero.
    zero: U16,
    /// Offset 80: first block of the cell that the host waits for.
    wanted: U64,
    /// Offset 88: name.
    name: [u8; NAME_LEN],
    /// Offset 152: zero.
    reserved: [u8; 228],
    /// Offset 380: CRC32C of all bytes before.
    checksum: U32,
}

const _: () = assert!(size_of::<RawSlot>() == IMAGE_LEN);
const _: () = assert!(core::mem::offset_of!(RawSlot, checksum) == CHECKSUM_AT);
const _: () = assert!(core::mem::offset_of!(RawSlot, wanted) == 80);

impl Slot {
    /// Makes the slot that an unused cell stands for.
    #[must_use]
    pub const fn unused(number: u16) -> Self {
        Self {
            number,
            state: SlotState::Free,
            generation: 1,
            token: Token::UNUSED,
            counter: 0,
            uuid: [0; 16],
            journal: Journal { lba: 0, blocks: 0 },
            wanted: 0,
            name: [0; NAME_LEN],
        }
    }

    /// Returns the owner as locks name it.
    #[must_use]
    pub const fn member(&self) -> Member {
        Member {
            slot: self.number,
            generation: self.generation,
        }
    }

    /// Returns the slot as it is when its owner has no locks any more: free, for the next generation.
    pub(crate) fn freed(&self, token: Token) -> Result<Self, LockError> {
        let generation = self.generation.checked_add(1);
        Ok(Self {
            state: SlotState::Free,
            generation: generation.ok_or(LockError::NoSlot)?,
            token,
            ..self.clone()
        })
    }

    /// Reads slot `number` from the image of its cell at block `lba`.
    ///
    /// # Errors
    ///
    /// Returns [`LockError::Corrupt`] for an image that is none of that slot.
    pub fn decode(image: &Image, number: u16, lba: u64) -> Result<Self, LockError> {
        if image.is_unused() {
            return Ok(Self::unused(number));
        }
        Self::parse(image)
            .filter(|slot| slot.number == number)
            .ok_or(LockError::Corrupt { lba })
    }

    fn parse(image: &Image) -> Option<Self> {
        let raw = RawSlot::ref_from_bytes(image.as_bytes()).ok()?;
        let known = raw.magic == MAGIC && raw.version == VERSION && image.is_sealed();
        let replayer = Member {
            slot: raw.replayer_slot.get(),
            generation: raw.replayer_generation.get(),
        };
        let state = match raw.state.get() {
            state::FREE => SlotState::Free,
            state::LIVE => SlotState::Live,
            state::REPLAYING if replayer.slot < SLOTS_MAX => SlotState::Replaying(replayer),
            _ => return None,
        };
        (known && raw.generation != 0).then(|| Self {
            number: raw.number.get(),
            state,
            generation: raw.generation.get(),
            token: raw.token.into(),
            counter: raw.counter.get(),
            uuid: raw.uuid,
            journal: Journal {
                lba: raw.journal_lba.get(),
                blocks: raw.journal_blocks.get(),
            },
            wanted: raw.wanted.get(),
            name: raw.name,
        })
    }

    /// Returns the image of the slot.
    #[must_use]
    pub fn encode(&self) -> Image {
        let mut raw = RawSlot::new_zeroed();
        raw.magic = MAGIC.into();
        raw.version = VERSION.into();
        raw.number = self.number.into();
        raw.state = U32::new(match self.state {
            SlotState::Free => state::FREE,
            SlotState::Live => state::LIVE,
            SlotState::Replaying(_) => state::REPLAYING,
        });
        if let SlotState::Replaying(replayer) = self.state {
            raw.replayer_generation = replayer.generation.into();
            raw.replayer_slot = replayer.slot.into();
        }
        raw.generation = self.generation.into();
        raw.token = self.token.into();
        raw.counter = self.counter.into();
        raw.uuid = self.uuid;
        raw.journal_lba = self.journal.lba.into();
        raw.journal_blocks = self.journal.blocks.into();
        raw.wanted = self.wanted.into();
        raw.name = self.name;
        Image::sealed(zerocopy::transmute!(raw))
    }

    /// Returns the host's name as far as it is text.
    #[must_use]
    pub fn name(&self) -> &str {
        let end = self.name.iter().position(|&byte| byte == 0);
        let used = self.name.get(..end.unwrap_or(NAME_LEN)).unwrap_or_default();
        match core::str::from_utf8(used) {
            Ok(name) => name,
            Err(error) => {
                let valid = used.get(..error.valid_up_to()).unwrap_or_default();
                core::str::from_utf8(valid).unwrap_or_default()
            }
        }
    }
}
