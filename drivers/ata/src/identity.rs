//! What a disk says of itself: the answer to IDENTIFY DEVICE (ACS-3, 7.12.7).

use alloc::string::String;
use alloc::vec::Vec;

/// Bytes of the answer.
pub(crate) const IDENTITY_BYTES: usize = 512;

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The maker's name for it.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// Bytes of a physical block.
    pub physical_bytes: u32,
    /// Blocks.
    pub blocks: u64,
    /// There is a volatile write cache.
    pub has_cache: bool,
    /// Writes can go past the cache.
    pub has_fua: bool,
    /// Blocks can be discarded.
    pub can_discard: bool,
}

impl Identity {
    /// Reads the answer; `None` for a disk without 48-bit addresses, or with blocks of no use here.
    pub(crate) fn parse(bytes: &[u8; IDENTITY_BYTES]) -> Option<Self> {
        let word = |index: usize| u16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]);
        let number = |index: usize, words: usize| {
            let words = (0..words).rev().map(|n| u64::from(word(index + n)));
            words.fold(0, |number, word| number << 16 | word)
        };
        // Words 83 and 106 are valid where bit 14 is set and bit 15 clear.
        let valid = |word: u16| word >> 14 == 1;
        let has_48_bits = valid(word(83)) && word(83) & 1 << 10 != 0;
        let sizes = if valid(word(106)) { word(106) } else { 0 };
        let block_bytes = match sizes & 1 << 12 {
            0 => 512,
            _ => number(117, 2).checked_mul(2)?,
        };
        let block_bytes = u32::try_from(block_bytes).ok()?;
        let usable = has_48_bits
            && (512..=4096).contains(&block_bytes)
            && block_bytes.is_power_of_two()
            && number(100, 4) != 0;
        let shift = match sizes & 1 << 13 {
            0 => 0,
            _ => u32::from(sizes & 0xf),
        };
        usable.then(|| Self {
            model: text(&bytes[54..94]),
            serial: text(&bytes[20..40]),
            block_bytes,
            physical_bytes: block_bytes.checked_shl(shift).unwrap_or(block_bytes),
            // 48 bits of address.
            blocks: number(100, 4).min(1 << 48),
            has_cache: word(85) & 1 << 5 != 0,
            has_fua: valid(word(84)) && word(84) & 1 << 6 != 0,
            can_discard: word(169) & 1 != 0,
        })
    }
}

/// Text whose characters are swapped in pairs, padded with blanks; what is no printable ASCII becomes a dot.
fn text(bytes: &[u8]) -> String {
    let swapped: Vec<u8> = bytes
        .chunks(2)
        .flat_map(|pair| pair.iter().rev().copied())
        .collect();
    let printable = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '.',
    };
    let text: String = swapped.iter().map(printable).collect();
    String::from(text.trim_matches([' ', '.']))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{IDENTITY_BYTES, Identity};

    /// What a disk of 256 blocks with all features says.
    pub(crate) fn answer() -> [u8; IDENTITY_BYTES] {
        let mut bytes = [0; IDENTITY_BYTES];
        let mut put = |word: usize, value: u16| {
            bytes[2 * word..2 * word + 2].copy_from_slice(&value.to_le_bytes());
        };
        put(10, u16::from_be_bytes(*b"SE"));
        put(11, u16::from_be_bytes(*b"R "));
        put(27, u16::from_be_bytes(*b"Fa"));
        put(28, u16::from_be_bytes(*b"ke"));
        put(83, 1 << 14 | 1 << 10);
        put(84, 1 << 14 | 1 << 6);
        put(85, 1 << 5);
        put(100, 256);
        put(106, 1 << 14 | 1 << 13 | 3);
        put(169, 1);
        bytes
    }

    #[test]
    fn a_disk_says_what_it_is() {
        let identity = Identity::parse(&answer()).unwrap();
        assert_eq!((&*identity.model, &*identity.serial), ("Fake", "SER"));
        assert_eq!((identity.block_bytes, identity.physical_bytes), (512, 4096));
        assert_eq!(identity.blocks, 256);
        assert!(identity.has_cache && identity.has_fua && identity.can_discard);
    }

    #[test]
    fn disks_of_no_use_are_refused() {
        let mut no_48_bits = answer();
        no_48_bits[167] = 0;
        assert_eq!(Identity::parse(&no_48_bits), None);
        let mut large_blocks = answer();
        large_blocks[213] |= 0x10;
        large_blocks[235] = 0x10;
        assert_eq!(Identity::parse(&large_blocks), None);
        assert_eq!(Identity::parse(&[0; IDENTITY_BYTES]), None);
        assert_eq!(Identity::parse(&[0xff; IDENTITY_BYTES]), None);
    }
}
