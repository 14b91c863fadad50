//! What a controller and a namespace say of themselves (NVM Express 1.4, 5.15.2).

use crate::{PAGE, PAGES_MAX};
use alloc::string::String;

/// Controller and namespace 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The maker's name for it.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Blocks.
    pub blocks: u64,
    /// Most pages of one request.
    pub pages_max: usize,
    /// There is a volatile write cache.
    pub has_cache: bool,
    /// Blocks can be discarded.
    pub can_discard: bool,
    /// Blocks can be zeroed without data.
    pub can_zero: bool,
}

/// What a controller said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ControllerData {
    model: String,
    serial: String,
    pages_max: usize,
    optional: u16,
    has_cache: bool,
}

impl ControllerData {
    /// Reads the controller's data structure (figure 247).
    pub(crate) fn parse(data: &[u8; PAGE]) -> Self {
        // In pages of the smallest size, as a power of two; 0 is no limit.
        let pages_max = match data[77] {
            0 => PAGES_MAX,
            shift => 1_usize
                .checked_shl(u32::from(shift))
                .unwrap_or(PAGES_MAX)
                .min(PAGES_MAX),
        };
        Self {
            serial: text(&data[4..24]),
            model: text(&data[24..64]),
            pages_max,
            optional: u16::from_le_bytes([data[520], data[521]]),
            has_cache: data[525] & 1 != 0,
        }
    }

    /// Joins the namespace's data structure (figure 245). `None` if its blocks are of no use here: no power of two from 512
    /// to 4096 bytes, or with metadata between them.
    pub(crate) fn with_namespace(self, data: &[u8; PAGE]) -> Option<Identity> {
        let mut blocks = [0; 8];
        blocks.copy_from_slice(&data[..8]);
        let format = 128 + 4 * usize::from(data[26] & 0xf);
        let metadata = u16::from_le_bytes([data[format], data[format + 1]]);
        let shift = data[format + 2];
        if metadata != 0 || !(9..=12).contains(&shift) {
            return None;
        }
        Some(Identity {
            model: self.model,
            serial: self.serial,
            block_bytes: 1 << shift,
            blocks: u64::from_le_bytes(blocks),
            pages_max: self.pages_max,
            has_cache: self.has_cache,
            can_discard: self.optional & 1 << 2 != 0,
            can_zero: self.optional & 1 << 3 != 0,
        })
    }
}

/// Text padded with blanks; what is no printable ASCII becomes a dot.
fn text(bytes: &[u8]) -> String {
    let printable = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '.',
    };
    let text: String = bytes.iter().map(printable).collect();
    String::from(text.trim_matches([' ', '.']))
}
