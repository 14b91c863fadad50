//! CRC32C (Castagnoli), as iSCSI and NVMe use it: RFC 3720, section 12.1 and appendix B.4.
//!
//! Eight tables, eight bytes a step. The CPU's own instruction is left out: it would need unsafe code here.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used)]

/// The generator polynomial 1EDC6F41h with its bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Entry `[k][b]`: what byte `b` adds to the remainder when `k` zero bytes follow it.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            let carry = remainder & 1 != 0;
            remainder >>= 1;
            if carry {
                remainder ^= POLYNOMIAL;
            }
            bit += 1;
        }
        tables[0][byte] = remainder;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut byte = 0;
        while byte < 256 {
            let shorter = tables[zeros - 1][byte];
            tables[zeros][byte] = (shorter >> 8) ^ tables[0][(shorter & 0xff) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

/// Returns the CRC32C of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    Crc32c::new().update(bytes).finish()
}

/// A CRC32C that is computed piece by piece.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c(u32);

impl Crc32c {
    /// Starts with no bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self(!0)
    }

    /// Adds `bytes` to the end.
    #[must_use]
    pub fn update(self, bytes: &[u8]) -> Self {
        let mut remainder = self.0;
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            let [a, b, c, d, e, f, g, h] = *word;
            let low = u32::from_le_bytes([a, b, c, d]) ^ remainder;
            let [a, b, c, d] = low.to_le_bytes();
            remainder = entry(7, a)
                ^ entry(6, b)
                ^ entry(5, c)
                ^ entry(4, d)
                ^ entry(3, e)
                ^ entry(2, f)
                ^ entry(1, g)
                ^ entry(0, h);
        }
        for &byte in rest {
            let [low, ..] = remainder.to_le_bytes();
            remainder = (remainder >> 8) ^ entry(0, low ^ byte);
        }
        Self(remainder)
    }

    /// Returns the checksum of all bytes so far.
    #[must_use]
    pub const fn finish(self) -> u32 {
        !self.0
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

fn entry(zeros: usize, byte: u8) -> u32 {
    TABLES[zeros][usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use super::{Crc32c, POLYNOMIAL, crc32c};

    /// One bit at a time, as the definition says.
    fn slow(bytes: &[u8]) -> u32 {
        let mut remainder = !0;
        for &byte in bytes {
            remainder ^= u32::from(byte);
            for _ in 0..8 {
                let carry = remainder & 1;
                remainder = (remainder >> 1) ^ (POLYNOMIAL * carry);
            }
        }
        !remainder
    }

    #[test]
    fn the_examples_of_rfc_3720_come_out() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let rising: [u8; 32] = core::array::from_fn(|i| i as u8);
        assert_eq!(crc32c(&rising), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn pieces_of_any_length_give_what_the_whole_gives() {
        let bytes: [u8; 67] = core::array::from_fn(|i| (i * 37) as u8);
        for split in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(split);
            let pieces = Crc32c::new().update(head).update(tail).finish();
            assert_eq!(pieces, slow(&bytes));
        }
    }
}
