//! 256 bytes of configuration space with per-byte write masks: all that the board's own functions need.

use crate::pci::PciFunction;

/// Bytes of a configuration space.
pub(super) const LEN: usize = 256;

/// A configuration space whose registers have no side effects of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConfigSpace {
    bytes: [u8; LEN],
    writable: [u8; LEN],
}

impl ConfigSpace {
    /// Makes a space of zeroes, then the `initial` bytes from their registers on. Each entry of `writable` gives a
    /// range of registers, both ends included, and the bits of them that hold what is written.
    ///
    /// # Panics
    /// When an entry leaves the space; all callers are constants.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "evaluated at compile time for constant tables; const fns have no iterators"
    )]
    pub(super) const fn new(initial: &[(u8, &[u8])], writable: &[(u8, u8, u8)]) -> Self {
        let mut space = Self {
            bytes: [0; LEN],
            writable: [0; LEN],
        };
        let mut entry = 0;
        while entry < initial.len() {
            let (first, values) = initial[entry];
            let mut offset = 0;
            while offset < values.len() {
                space.bytes[first as usize + offset] = values[offset];
                offset += 1;
            }
            entry += 1;
        }
        let mut entry = 0;
        while entry < writable.len() {
            let (first, last, mask) = writable[entry];
            let mut register = first as usize;
            while register <= last as usize {
                space.writable[register] = mask;
                register += 1;
            }
            entry += 1;
        }
        space
    }

    pub(super) const fn bytes(&self) -> [u8; LEN] {
        self.bytes
    }

    /// Takes over `bytes`, or tells `None` when a read-only bit differs from what it is at reset.
    pub(super) fn restored(self, bytes: [u8; LEN]) -> Option<Self> {
        let read_only = self.bytes.iter().zip(self.writable);
        let same = read_only
            .zip(bytes)
            .all(|((reset, writable), new)| (reset ^ new) & !writable == 0);
        same.then_some(Self { bytes, ..self })
    }
}

impl PciFunction for ConfigSpace {
    fn config_read(&self, register: u8) -> u8 {
        self.bytes
            .get(usize::from(register))
            .copied()
            .unwrap_or(0xff)
    }

    fn config_write(&mut self, register: u8, value: u8) {
        let index = usize::from(register);
        let slot = self.bytes.get_mut(index).zip(self.writable.get(index));
        if let Some((byte, mask)) = slot {
            *byte = *byte & !mask | value & mask;
        }
    }
}
