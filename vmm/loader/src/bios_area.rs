//! What old guests read from the BIOS data area: serial ports, size of conventional memory, place of the EBDA.
//!
//! There is no BIOS: the interrupt vectors stay as they are.

use crate::arena::Arena;
use crate::error::LoadError;
use crate::ram::EBDA_START;

/// Port numbers of COM1 to COM4, four words.
const SERIAL_PORTS: u64 = 0x400;
/// Segment of the EBDA.
const EBDA_SEGMENT: u64 = 0x40e;
/// Equipment word.
const EQUIPMENT: u64 = 0x410;
/// KiB of conventional memory.
const CONVENTIONAL_KIB: u64 = 0x413;
/// Values of the two.
const SEGMENT: u16 = 0x9fc0;
const KIB: u16 = 639;
const _: () = assert!(SEGMENT as u64 == EBDA_START >> 4 && KIB as u64 == EBDA_START >> 10);
/// Equipment: a floating-point unit, an 80x25 colour display, two serial ports.
const EQUIPMENT_WORD: u16 = 1 << 1 | 2 << 4 | 2 << 9;

/// Writes the fields of the BIOS data area, and the EBDA's first byte, its size in KiB.
pub(crate) fn write(arena: &Arena<'_>) -> Result<(), LoadError> {
    arena.write(SERIAL_PORTS, &[0xf8, 0x03, 0xf8, 0x02])?;
    arena.write(EBDA_SEGMENT, &SEGMENT.to_le_bytes())?;
    arena.write(EQUIPMENT, &EQUIPMENT_WORD.to_le_bytes())?;
    arena.write(CONVENTIONAL_KIB, &KIB.to_le_bytes())?;
    arena.write(EBDA_START, &[1])
}
