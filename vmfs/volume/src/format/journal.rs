//! A host's journal: a header, and a ring of transactions made of whole images of units.

use checksum::Crc32c;
use zerocopy::byteorder::little_endian::{U32, U64};

use super::{Bytes, UNIT, on_disk, unit_views};

/// Most images of a transaction.
pub const TRANSACTION_UNITS_MAX: usize = 250;
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
    /// The address of an image and its checksum.
    pub struct ImageRef: 16 {
        /// Address of the unit.
        pub address: U64,
        /// The checksum in the image's header.
        pub crc: U32,
        /// Zero.
        pub reserved: U32,
    }
}

on_disk! {
    /// What a transaction begins with.
    pub struct TransactionHead: 64 {
        /// Magic `BDJT`.
        pub magic: [u8; 4],
        /// CRC-32C of this unit with this field zero.
        pub crc: U32,
        /// First eight bytes of the volume's UUID.
        pub volume: U64,
        /// Slot of the host that wrote it.
        pub slot: U32,
        /// Number of images; they follow this unit in the ring, which wraps.
        pub count: U32,
        /// Sequence number.
        pub sequence: U64,
        /// Zero.
        pub reserved: [u8; 32],
    }
}

on_disk! {
    /// The unit before the images of a transaction.
    pub struct TransactionUnit: 4096 {
        /// Numbers.
        pub head: TransactionHead,
        /// The images.
        pub images: [ImageRef; TRANSACTION_UNITS_MAX],
        /// Zero.
        pub reserved: [u8; 32],
    }
}

unit_views!(TransactionUnit);

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

impl TransactionUnit {
    /// Makes the unit before the images whose addresses and checksums `images` gives, at most
    /// [`TRANSACTION_UNITS_MAX`] of them.
    #[must_use]
    pub fn build(volume: u64, slot: u16, sequence: u64, images: &[ImageRef]) -> Bytes {
        let mut bytes = [0; UNIT];
        let unit = Self::of_mut(&mut bytes);
        unit.head.magic = MAGIC_TRANSACTION;
        unit.head.volume = U64::new(volume);
        unit.head.slot = U32::new(u32::from(slot));
        unit.head.sequence = U64::new(sequence);
        let mut count = 0_u32;
        for (to, from) in unit.images.iter_mut().zip(images) {
            *to = from.clone();
            count = count.saturating_add(1);
        }
        unit.head.count = U32::new(count);
        let crc = own_crc(&bytes);
        Self::of_mut(&mut bytes).head.crc = U32::new(crc);
        bytes
    }

    /// Returns the references of a transaction, `None` if the unit is not the transaction `sequence` of that slot.
    #[must_use]
    pub fn images(bytes: &Bytes, volume: u64, slot: u16, sequence: u64) -> Option<&[ImageRef]> {
        let unit = Self::of(bytes);
        let good = unit.head.magic == MAGIC_TRANSACTION
            && unit.head.volume.get() == volume
            && unit.head.slot.get() == u32::from(slot)
            && unit.head.sequence.get() == sequence
            && unit.head.crc.get() == own_crc(bytes);
        if !good {
            return None;
        }
        unit.images
            .get(..usize::try_from(unit.head.count.get()).ok()?)
    }

    /// Tells whether an image is the one that a reference means.
    #[must_use]
    pub fn is_image(bytes: &Bytes, image: &ImageRef) -> bool {
        let header = super::Header::of(bytes);
        header.address.get() == image.address.get()
            && header.crc.get() == image.crc.get()
            && super::unit_crc(bytes) == image.crc.get()
    }
}
