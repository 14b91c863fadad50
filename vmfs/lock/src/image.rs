//! The image of a cell: what one atomic step replaces by another, and the token that makes every image unique.
//!
//! What the bytes mean stands in `slot.rs` and `record.rs`.

use core::fmt;

use checksum::crc32c;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of an image. A block is longer; its rest is zero.
pub const IMAGE_LEN: usize = 384;

/// Where the checksum of an image stands: its last four bytes, over all bytes before.
pub const CHECKSUM_AT: usize = IMAGE_LEN - 4;

/// Where the token of an image stands.
const TOKEN_AT: usize = 16;

/// What a cell holds at one time.
#[derive(Clone, PartialEq, Eq)]
pub struct Image([u8; IMAGE_LEN]);

impl Image {
    /// The image of a cell that was never used.
    pub const UNUSED: Self = Self([0; IMAGE_LEN]);

    /// Takes the image out of a block; bytes that are missing count as zero.
    #[must_use]
    pub fn from_block(block: &[u8]) -> Self {
        let mut image = Self::UNUSED;
        for (byte, &read) in image.0.iter_mut().zip(block) {
            *byte = read;
        }
        image
    }

    /// Wraps bytes and writes their checksum.
    pub(crate) fn sealed(mut bytes: [u8; IMAGE_LEN]) -> Self {
        let (body, checksum) = bytes.split_at_mut(CHECKSUM_AT);
        checksum.copy_from_slice(&crc32c(body).to_le_bytes());
        Self(bytes)
    }

    /// Tells whether the checksum fits.
    pub(crate) fn is_sealed(&self) -> bool {
        let (body, checksum) = self.0.split_at(CHECKSUM_AT);
        checksum == crc32c(body).to_le_bytes()
    }

    /// Returns the token; it stands at the same place in all images.
    pub(crate) fn token(&self) -> Token {
        let raw = self.0.get(TOKEN_AT..).unwrap_or_default();
        RawToken::ref_from_prefix(raw).map_or(Token::UNUSED, |(raw, _)| (*raw).into())
    }

    /// Returns all bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; IMAGE_LEN] {
        &self.0
    }

    /// Tells whether the cell was never used.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        *self == Self::UNUSED
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unused() {
            f.write_str("Image(unused)")
        } else {
            write!(f, "Image({:08x})", crc32c(&self.0))
        }
    }
}

/// What makes an image unique among all that any host ever writes: no late or repeated compare-and-write of it can
/// take effect twice, because what it expects never comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Token {
    /// Random, one for each time that a host joins.
    pub nonce: u64,
    /// Counts the images that this host made since it joined.
    pub sequence: u64,
}

impl Token {
    /// The token of a cell that was never used.
    pub const UNUSED: Self = Self {
        nonce: 0,
        sequence: 0,
    };
}

/// A token on disk.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawToken {
    /// Offset 0: [`Token::nonce`].
    nonce: U64,
    /// Offset 8: [`Token::sequence`].
    sequence: U64,
}

const _: () = assert!(size_of::<RawToken>() == 16);

impl From<Token> for RawToken {
    fn from(token: Token) -> Self {
        Self {
            nonce: U64::new(token.nonce),
            sequence: U64::new(token.sequence),
        }
    }
}

impl From<RawToken> for Token {
    fn from(raw: RawToken) -> Self {
        Self {
            nonce: raw.nonce.get(),
            sequence: raw.sequence.get(),
        }
    }
}
