//! A host's journal: a header, and a ring of transactions made of parts of units.

use checksum::Crc32c;
use zerocopy::byteorder::little_endian::{U16, U32, U64};

use super::{Bytes, UNIT, on_disk};

/// Most bytes of a transaction.
pub const TRANSACTION_BYTES_MAX: u32 = 4 << 20;
/// Most units that a journal's transactions may name, and that whoever replays it keeps in memory: this, or four times
/// the units of the ring if that is less.
pub const JOURNAL_UNITS_MAX: u64 = 16_384;
/// `kind` of a record: bytes outside its ranges are zero.
pub const RECORD_WHOLE: u16 = 1;
/// `kind` of a record: bytes outside its ranges are as they were.
pub const RECORD_PARTS: u16 = 2;
/// Magic of a journal's header.
const MAGIC_JOURNAL: [u8; 4] = *b"BDJH";
/// Magic of a transaction.
const MAGIC_TRANSACTION: [u8; 4] = *b"BDJT";

on_disk! {
    /// A journal's header: the first 64 bytes of its first unit, so that no sector size can tear it.
    pub struct JournalHeader: 64 {
        /// Magic `BDJH`.
        pub magic: [u8; 4],
        /// CRC-32C of these 64 bytes with this field zero.
        pub crc: U32,
        /// First eight bytes of the volume's UUID.
        pub volume: U64,
        /// Slot whose journal this is.
        pub slot: U32,
        /// Unit of the ring at which the oldest transaction begins; 0 is the unit behind the header.
        pub tail: U32,
        /// Sequence number of that transaction; they rise by one and never repeat.
        pub sequence: U64,
        /// Zero.
        pub reserved: [u8; 32],
    }
}

on_disk! {
    /// What a transaction begins with.
    pub struct TransactionHead: 64 {
        /// Magic `BDJT`.
        pub magic: [u8; 4],
        /// CRC-32C of the transaction's bytes with this field zero.
        pub crc: U32,
        /// First eight bytes of the volume's UUID.
        pub volume: U64,
        /// Slot of the host that wrote it.
        pub slot: U32,
        /// Number of records.
        pub count: U32,
        /// Sequence number.
        pub sequence: U64,
        /// Bytes of the transaction: this head and all records.
        pub bytes: U32,
        /// Zero.
        pub reserved: [u8; 28],
    }
}

on_disk! {
    /// What a transaction says of a unit: its ranges follow, then the bytes of all ranges, then zeros to a multiple of 8.
    pub struct UnitRecord: 16 {
        /// Address of the unit.
        pub address: U64,
        /// 1: bytes outside the ranges are zero; 2: they are as the record of this unit before left them.
        pub kind: U16,
        /// Number of ranges.
        pub ranges: U16,
        /// Bytes of all ranges.
        pub data: U32,
    }
}

on_disk! {
    /// A range of a unit's bytes.
    pub struct UnitRange: 4 {
        /// First byte in the unit.
        pub offset: U16,
        /// Number of bytes.
        pub len: U16,
    }
}

/// The checksum of a structure whose second four bytes are its checksum.
fn own_crc(bytes: &[u8]) -> u32 {
    let (before, rest) = bytes.split_at(4);
    let (_, after) = rest.split_at(4);
    Crc32c::new()
        .update(before)
        .update(&[0; 4])
        .update(after)
        .finish()
}

impl JournalHeader {
    /// Makes the header of a journal whose oldest transaction would be `sequence`, at unit `tail` of the ring.
    #[must_use]
    pub fn new(volume: u64, slot: u16, tail: u32, sequence: u64) -> Self {
        let mut header = Self {
            magic: MAGIC_JOURNAL,
            crc: U32::new(0),
            volume: U64::new(volume),
            slot: U32::new(u32::from(slot)),
            tail: U32::new(tail),
            sequence: U64::new(sequence),
            reserved: [0; 32],
        };
        header.crc = U32::new(own_crc(zerocopy::IntoBytes::as_bytes(&header)));
        header
    }

    /// Reads a header from the start of a journal; `None` if it is not one of `slot` on `volume`.
    #[must_use]
    pub fn read(bytes: &[u8], volume: u64, slot: u16) -> Option<Self> {
        let (header, _) = <Self as zerocopy::FromBytes>::read_from_prefix(bytes).ok()?;
        let good = header.magic == MAGIC_JOURNAL
            && header.crc.get() == own_crc(zerocopy::IntoBytes::as_bytes(&header))
            && header.volume.get() == volume
            && header.slot.get() == u32::from(slot);
        good.then_some(header)
    }
}

impl TransactionHead {
    /// Puts the head of transaction `sequence` and the checksum into bytes that begin with room for it; `count` records
    /// follow there.
    pub fn seal(bytes: &mut [u8], volume: u64, slot: u16, sequence: u64, count: u32) {
        let head = Self {
            magic: MAGIC_TRANSACTION,
            crc: U32::new(0),
            volume: U64::new(volume),
            slot: U32::new(u32::from(slot)),
            count: U32::new(count),
            sequence: U64::new(sequence),
            bytes: U32::new(u32::try_from(bytes.len()).unwrap_or(0)),
            reserved: [0; 28],
        };
        if let Some(place) = bytes.first_chunk_mut::<64>() {
            *place = zerocopy::transmute!(head);
        }
        let crc = own_crc(bytes);
        if let Some(place) = bytes.get_mut(4..8) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
    }

    /// Reads the head of the transaction `sequence` of that slot from the start of a unit; `None` if it is not one.
    /// Whether the transaction is whole is not known yet.
    #[must_use]
    pub fn read(unit: &Bytes, volume: u64, slot: u16, sequence: u64) -> Option<Self> {
        let head = Self::read_any(unit, volume, slot)?;
        (head.sequence.get() == sequence).then_some(head)
    }

    /// Reads the head of any transaction of that slot.
    #[must_use]
    pub fn read_any(unit: &Bytes, volume: u64, slot: u16) -> Option<Self> {
        let (head, _) = <Self as zerocopy::FromBytes>::read_from_prefix(unit).ok()?;
        let good = head.magic == MAGIC_TRANSACTION
            && head.volume.get() == volume
            && head.slot.get() == u32::from(slot)
            && (64..=TRANSACTION_BYTES_MAX).contains(&head.bytes.get());
        good.then_some(head)
    }

    /// Tells whether the bytes of a transaction are all that were written.
    #[must_use]
    pub fn is_whole(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == u64::from(self.bytes.get()) && own_crc(bytes) == self.crc.get()
    }

    /// Returns the number of units that the transaction takes in the ring.
    #[must_use]
    pub const fn units(&self) -> u64 {
        (self.bytes.get() as u64).div_ceil(UNIT as u64)
    }
}
