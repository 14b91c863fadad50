//! The table of Intel's MultiProcessor Specification 1.4, for guests older than ACPI.

use crate::MachineShape;
use crate::acpi::checksum;
use crate::arena::Arena;
use crate::error::LoadError;
use crate::platform::{
    IOAPIC_BASE, IOAPIC_ID, LAPIC_BASE, PCI_PINS, PCI_SLOTS, PIT_GSI, XAPIC_ID_MAX, is_level,
    pci_irq,
};
use alloc::vec::Vec;

/// The floating pointer, on a 16-byte boundary between F0000h and FFFFFh.
const POINTER_AT: u64 = 0xf_0040;
/// The configuration table.
const TABLE_AT: u32 = 0xf_0050;
/// Version 1.4 of the specification.
const SPEC_REVISION: u8 = 4;
/// Size of the table's header.
const HEADER_SIZE: usize = 44;
/// Offset of the checksum in the table.
const TABLE_CHECKSUM_AT: usize = 7;
/// Offset of the checksum in the floating pointer.
const POINTER_CHECKSUM_AT: usize = 10;
/// Processor flags: usable, and the one that boots.
const ENABLED: u8 = 1 << 0;
const BOOT: u8 = 1 << 1;
/// Bus numbers as the table uses them.
const PCI_BUS: u8 = 0;
const ISA_BUS: u8 = 1;
/// Interrupt entry types.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;
/// Interrupt flags: active high and level-triggered; zero is what the bus does by default.
const LEVEL_HIGH: u8 = 0x0d;
/// All local APICs.
const EVERY_LAPIC: u8 = 0xff;

/// Writes the table, unless there are APIC ids that it cannot express.
pub(crate) fn write(arena: &Arena<'_>, machine: &MachineShape) -> Result<(), LoadError> {
    let Some(last) = machine
        .vcpus
        .checked_sub(1)
        .filter(|&id| id <= XAPIC_ID_MAX)
    else {
        return Ok(());
    };
    let mut entries = Entries::default();
    entries.processors(u8::try_from(last).unwrap_or(u8::MAX));
    entries.push(&[1, PCI_BUS, b'P', b'C', b'I', b' ', b' ', b' ']);
    entries.push(&[1, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a, b, c, d] = IOAPIC_BASE.to_le_bytes();
    entries.push(&[2, IOAPIC_ID, 0x11, 1, a, b, c, d]);
    entries.interrupts();
    arena.write(u64::from(TABLE_AT), &table(&entries))?;
    arena.write(POINTER_AT, &pointer())
}

/// The entries that follow the header.
#[derive(Default)]
struct Entries {
    bytes: Vec<u8>,
    count: u16,
}

impl Entries {
    fn push(&mut self, entry: &[u8]) {
        self.bytes.extend_from_slice(entry);
        self.count = self.count.saturating_add(1);
    }

    fn processors(&mut self, last: u8) {
        /// Version register of an integrated APIC.
        const APIC_VERSION: u8 = 0x14;
        /// Family 6; guests ask CPUID for the rest.
        const SIGNATURE: [u8; 4] = [0, 6, 0, 0];
        /// FPU and APIC, as in CPUID leaf 1.
        const FEATURES: [u8; 4] = [1, 2, 0, 0];
        for id in 0..=last {
            let flags = if id == 0 { ENABLED | BOOT } else { ENABLED };
            let mut entry = [0; 20];
            let fields = [0, id, APIC_VERSION, flags].into_iter();
            let fields = fields.chain(SIGNATURE).chain(FEATURES);
            for (to, from) in entry.iter_mut().zip(fields) {
                *to = from;
            }
            self.push(&entry);
        }
    }

    fn interrupts(&mut self) {
        // Input 0 of the IOAPIC and ISA interrupt 2 (the cascade) do not exist.
        for irq in (0..16).filter(|&irq| irq != 2) {
            let input = if irq == 0 { PIT_GSI } else { irq };
            let flags = if is_level(irq) { LEVEL_HIGH } else { 0 };
            self.push(&[3, INT, flags, 0, ISA_BUS, irq, IOAPIC_ID, input]);
        }
        for slot in 0..PCI_SLOTS {
            for pin in 0..PCI_PINS {
                let source = slot << 2 | pin;
                let input = pci_irq(slot, pin);
                self.push(&[3, INT, LEVEL_HIGH, 0, PCI_BUS, source, IOAPIC_ID, input]);
            }
        }
        self.push(&[4, EXT_INT, 0, 0, ISA_BUS, 0, 0, 0]);
        self.push(&[4, NMI, 0, 0, ISA_BUS, 0, EVERY_LAPIC, 1]);
    }
}

fn table(entries: &Entries) -> Vec<u8> {
    let size = HEADER_SIZE.saturating_add(entries.bytes.len());
    let size = u16::try_from(size).unwrap_or(u16::MAX);
    let mut table = Vec::with_capacity(usize::from(size));
    table.extend_from_slice(b"PCMP");
    table.extend_from_slice(&size.to_le_bytes());
    table.extend_from_slice(&[SPEC_REVISION, 0]);
    table.extend_from_slice(b"BASALT  BASALT-PC   ");
    // No OEM table.
    table.extend_from_slice(&[0; 6]);
    table.extend_from_slice(&entries.count.to_le_bytes());
    table.extend_from_slice(&LAPIC_BASE.to_le_bytes());
    // No extended table.
    table.extend_from_slice(&[0; 4]);
    table.extend_from_slice(&entries.bytes);
    seal(&mut table, TABLE_CHECKSUM_AT);
    table
}

fn pointer() -> Vec<u8> {
    let mut pointer = b"_MP_".to_vec();
    pointer.extend_from_slice(&TABLE_AT.to_le_bytes());
    // Length in paragraphs, revision, checksum, and five feature bytes: a table is present, no IMCR.
    pointer.extend_from_slice(&[1, SPEC_REVISION, 0, 0, 0, 0, 0, 0]);
    seal(&mut pointer, POINTER_CHECKSUM_AT);
    pointer
}

/// Sets the byte at `at` so that all bytes add up to zero.
fn seal(bytes: &mut [u8], at: usize) {
    let sum = checksum(bytes);
    if let Some(byte) = bytes.get_mut(at) {
        *byte = sum;
    }
}
