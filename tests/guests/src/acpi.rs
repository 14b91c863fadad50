//! The three facts of ACPI that a guest needs: the PM timer's port, and how to switch off.
//!
//! Tables are found by the legacy search (ACPI 6.5, 5.2.5.1); AML is not interpreted, `_S5_` is found by its name.

use crate::cpu;

/// Names in memory order.
const FADT: u32 = u32::from_le_bytes(*b"FACP");
const S5: u32 = u32::from_le_bytes(*b"_S5_");
/// Offsets of FADT fields (ACPI 6.5, table 5.9).
const FADT_DSDT: u32 = 40;
const FADT_PM1A_CONTROL: u32 = 64;
const FADT_PM_TIMER: u32 = 76;
/// Sizes of an RSDP structure, by revision.
const RSDP_SIZE: u32 = 20;
/// Where the body of a table starts.
const HEADER_SIZE: u32 = 36;

/// What the fixed description table says.
#[derive(Debug, Clone, Copy)]
pub struct Fixed {
    /// Port of the 24- or 32-bit timer that counts at 3.579545 MHz.
    pub pm_timer: u16,
    /// Port of the PM1a control register.
    pub pm1a_control: u16,
    /// Value of SLP_TYP that means "off".
    pub off: u16,
}

/// Finds the fixed description table.
pub fn fixed() -> Option<Fixed> {
    let root = root_table()?;
    let count = (cpu::read32(root + 4).checked_sub(HEADER_SIZE)?) / 4;
    let fadt = (0..count)
        .map(|index| cpu::read32(root + HEADER_SIZE + index * 4))
        .find(|table| cpu::read32(*table) == FADT)?;
    Some(Fixed {
        pm_timer: cpu::read32(fadt + FADT_PM_TIMER) as u16,
        pm1a_control: cpu::read32(fadt + FADT_PM1A_CONTROL) as u16,
        off: sleep_type_off(cpu::read32(fadt + FADT_DSDT)).unwrap_or(0),
    })
}

/// Finds the RSDT through the RSDP in the extended BIOS data area or the BIOS' own.
fn root_table() -> Option<u32> {
    let extended = (cpu::read32(0x40e) & 0xffff) << 4;
    let areas = [extended..extended.saturating_add(1024), 0xe_0000..0x10_0000];
    for area in areas {
        for address in area.step_by(16) {
            let signature = [
                cpu::read32(address).to_le_bytes(),
                cpu::read32(address + 4).to_le_bytes(),
            ];
            if signature == [*b"RSD ", *b"PTR "] && sums_to_zero(address, RSDP_SIZE) {
                return Some(cpu::read32(address + 16));
            }
        }
    }
    None
}

fn sums_to_zero(start: u32, size: u32) -> bool {
    (start..start + size).fold(0u8, |sum, address| sum.wrapping_add(cpu::read8(address))) == 0
}

/// Reads the first element of the package `_S5_`: PackageOp, length, count, then a byte or a constant.
fn sleep_type_off(dsdt: u32) -> Option<u16> {
    let size = cpu::read32(dsdt + 4);
    let name = (dsdt + HEADER_SIZE..dsdt + size.checked_sub(8)?)
        .find(|address| cpu::read32(*address) == S5)?;
    // The two high bits of the first length byte say how many more follow.
    let length_size = 1 + u32::from(cpu::read8(name + 5) >> 6);
    let element = name + 5 + length_size + 1;
    let value = match cpu::read8(element) {
        0x0a => cpu::read8(element + 1),
        constant => constant,
    };
    Some(u16::from(value & 7))
}
