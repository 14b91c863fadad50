//! What old guests read from the BIOS data area: serial ports, size of conventional memory, place of the EBDA.
//!
//! There is no BIOS: the interrupt vectors stay as they are. Only the way back after an INIT of the first CPU is there.

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

/// What runs after an INIT of the first CPU, at F000:FFC0: if the CMOS shutdown byte asks for it (0Ah), it jumps through
/// the vector at 40:67 without touching the interrupt controllers, as a PC's firmware does; else it resets the machine.
const AFTER_INIT: [u8; 31] = [
    0xfa, // cli
    0xb0, 0x0f, 0xe6, 0x70, // out 70h, 0Fh
    0xe4, 0x71, // in al, 71h
    0x3c, 0x0a, 0x75, 0x08, // cmp al, 0Ah; jne reset
    0x31, 0xc0, 0x8e, 0xd8, // xor ax, ax; mov ds, ax
    0xff, 0x2e, 0x67, 0x04, // jmp far [467h]
    0xba, 0xf9, 0x0c, // reset: mov dx, 0CF9h
    0xb0, 0x02, 0xee, // out dx, 2: the reset bit is edge-triggered
    0xb0, 0x06, 0xee, // out dx, 6
    0xf4, 0xeb, 0xfd, // hlt; jmp hlt
];
const AFTER_INIT_AT: u64 = 0xf_ffc0;
/// The reset vector: jmp F000:FFC0.
const RESET_VECTOR: [u8; 5] = [0xea, 0xc0, 0xff, 0x00, 0xf0];
const RESET_VECTOR_AT: u64 = 0xf_fff0;

/// Writes the fields of the BIOS data area, and the EBDA's first byte, its size in KiB.
pub(crate) fn write(arena: &Arena<'_>) -> Result<(), LoadError> {
    arena.write(SERIAL_PORTS, &[0xf8, 0x03, 0xf8, 0x02])?;
    arena.write(EBDA_SEGMENT, &SEGMENT.to_le_bytes())?;
    arena.write(EQUIPMENT, &EQUIPMENT_WORD.to_le_bytes())?;
    arena.write(CONVENTIONAL_KIB, &KIB.to_le_bytes())?;
    arena.write(AFTER_INIT_AT, &AFTER_INIT)?;
    arena.write(RESET_VECTOR_AT, &RESET_VECTOR)?;
    arena.write(EBDA_START, &[1])
}
