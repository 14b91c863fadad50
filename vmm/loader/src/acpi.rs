//! ACPI tables (ACPI 6.5): RSDP, RSDT, XSDT, FADT, FACS, MADT; the DSDT comes from `dsdt`.
//!
//! There is no SRAT, HPET or MCFG table: the machine has one memory node, no HPET and no memory-mapped configuration.

use crate::MachineShape;
use crate::arena::{Arena, align_up};
use crate::dsdt;
use crate::error::LoadError;
use crate::platform::{
    ACPI_DISABLE, ACPI_ENABLE, GPE0, GPE0_LEN, IOAPIC_BASE, IOAPIC_ID, LAPIC_BASE, PIT_GSI,
    PM_TIMER, PM1_CONTROL, PM1_EVENT, RESET_PORT, RESET_VALUE, SCI_IRQ, SMI_COMMAND, XAPIC_ID_MAX,
    is_level,
};
use crate::ram::FIRMWARE_START;
use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::sdt::Sdt;
use addr::Gpa;
use alloc::vec::Vec;

/// Name of the maker in every table.
pub(crate) const OEM_ID: [u8; 6] = *b"BASALT";
/// Name of the machine in every table.
pub(crate) const OEM_TABLE_ID: [u8; 8] = *b"BASALTPC";
/// Revision of the machine.
pub(crate) const OEM_REVISION: u32 = 1;
/// The root pointer, on a 16-byte boundary between E0000h and FFFFFh.
const RSDP_AT: u64 = 0xf_0000;
/// Size of the header that all tables but the FACS share.
const HEADER_SIZE: u32 = 36;
/// Tables that RSDT and XSDT list.
const LISTED: usize = 2;

/// Writes all tables below the RSDP and returns the address of the RSDP.
pub(crate) fn write(arena: &Arena<'_>, machine: &MachineShape) -> Result<Gpa, LoadError> {
    let mut area = Area {
        arena,
        next: FIRMWARE_START,
    };
    // The FACS wants a 64-byte boundary: it is first.
    let facs = area.put(&bytes_of(&FACS::new()))?;
    let dsdt = area.put(dsdt::build(machine).as_slice())?;
    let fadt = area.put(&fadt(machine, facs, dsdt))?;
    let madt = area.put(madt(machine).as_slice())?;
    let listed = [fadt, madt];
    let mut rsdt = sdt(*b"RSDT", 1);
    rsdt.append_slice(&flatten(listed.map(u32::to_le_bytes)));
    let rsdt = area.put(rsdt.as_slice())?;
    let mut xsdt = sdt(*b"XSDT", 1);
    xsdt.append_slice(&flatten(listed.map(|at| u64::from(at).to_le_bytes())));
    let xsdt = area.put(xsdt.as_slice())?;
    arena.write(RSDP_AT, &rsdp(rsdt, xsdt))?;
    Ok(Gpa::new_truncate(RSDP_AT))
}

/// The part of the firmware area below the RSDP.
struct Area<'a> {
    arena: &'a Arena<'a>,
    next: u64,
}

impl Area<'_> {
    fn put(&mut self, table: &[u8]) -> Result<u32, LoadError> {
        let start = self.next;
        let size = table.len() as u64;
        let end = start.saturating_add(size);
        let does_not_fit = LoadError::DoesNotFit {
            what: "an acpi table",
            size,
            limit: RSDP_AT,
        };
        if end > RSDP_AT {
            return Err(does_not_fit);
        }
        self.arena.write(start, table)?;
        self.next = align_up(end, 16);
        u32::try_from(start).map_err(|_| does_not_fit)
    }
}

/// Starts a table with the common header.
pub(crate) fn sdt(signature: [u8; 4], revision: u8) -> Sdt {
    Sdt::new(
        signature,
        HEADER_SIZE,
        revision,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    )
}

/// Returns the byte that makes the bytes of a table add up to zero, when its own place holds zero.
pub(crate) fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0, |sum: u8, byte| sum.wrapping_sub(*byte))
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn flatten<const N: usize>(addresses: [[u8; N]; LISTED]) -> Vec<u8> {
    addresses.concat()
}

/// Root System Description Pointer (ACPI 6.5, 5.2.5.3); the first checksum covers the 20 bytes of revision 1.
fn rsdp(rsdt: u32, xsdt: u32) -> Vec<u8> {
    let mut bytes = b"RSD PTR ".to_vec();
    bytes.push(0);
    bytes.extend_from_slice(&OEM_ID);
    bytes.push(2);
    bytes.extend_from_slice(&rsdt.to_le_bytes());
    let first = checksum(&bytes);
    if let Some(byte) = bytes.get_mut(8) {
        *byte = first;
    }
    bytes.extend_from_slice(&36u32.to_le_bytes());
    bytes.extend_from_slice(&u64::from(xsdt).to_le_bytes());
    bytes.push(checksum(&bytes));
    // The reserved bytes are zero and do not change the sum.
    bytes.extend_from_slice(&[0; 3]);
    bytes
}

/// Fixed ACPI Description Table (ACPI 6.5, 5.2.9).
fn fadt(machine: &MachineShape, facs: u32, dsdt: u32) -> Vec<u8> {
    /// IA-PC boot architecture: user-accessible devices on the ISA bus.
    const LEGACY_DEVICES: u16 = 1 << 0;
    /// IA-PC boot architecture: a keyboard controller.
    const KEYBOARD: u16 = 1 << 1;
    /// IA-PC boot architecture: the VGA ports must not be probed.
    const NO_VGA: u16 = 1 << 2;
    /// CMOS register that holds the century.
    const CENTURY: u8 = 0x32;
    /// C2 and C3 are not supported when the latencies exceed 100 and 1000 microseconds.
    const NO_C2: u16 = 101;
    const NO_C3: u16 = 1001;
    let mut arch = LEGACY_DEVICES;
    if machine.has_keyboard_controller {
        arch |= KEYBOARD;
    }
    if !machine.has_vga {
        arch |= NO_VGA;
    }
    let mut table = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .firmware_ctrl_32(facs)
        .dsdt_32(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    table.sci_int = u16::from(SCI_IRQ).into();
    table.smi_cmd = u32::from(SMI_COMMAND).into();
    table.acpi_enable = ACPI_ENABLE;
    table.acpi_disable = ACPI_DISABLE;
    table.pm1a_evt_blk = u32::from(PM1_EVENT).into();
    table.pm1a_cnt_blk = u32::from(PM1_CONTROL).into();
    table.pm_tmr_blk = u32::from(PM_TIMER).into();
    table.gpe0_blk = u32::from(GPE0).into();
    table.gpe0_blk_len = GPE0_LEN;
    table.pm1_evt_len = 4;
    table.pm1_cnt_len = 2;
    table.pm_tmr_len = 4;
    table.p_lvl2_lat = NO_C2.into();
    table.p_lvl3_lat = NO_C3.into();
    table.century = CENTURY;
    table.iapc_boot_arch = arch.into();
    table.reset_reg = GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        u64::from(RESET_PORT),
    );
    table.reset_value = RESET_VALUE;
    table.hypervisor_vendor_identity = u64::from_le_bytes(*b"Basalt\0\0").into();
    bytes_of(&table.finalize())
}

/// Multiple APIC Description Table (ACPI 6.5, 5.2.12).
fn madt(machine: &MachineShape) -> Sdt {
    /// The machine also has two 8259s.
    const PCAT_COMPAT: u32 = 1;
    /// MPS INTI flags: active high, level-triggered.
    const LEVEL_HIGH: u8 = 0x0d;
    const ENABLED: u8 = 1;
    const NMI_LINT: u8 = 1;
    let mut body = Vec::new();
    body.extend_from_slice(&LAPIC_BASE.to_le_bytes());
    body.extend_from_slice(&PCAT_COMPAT.to_le_bytes());
    for id in 0..machine.vcpus {
        match u8::try_from(id) {
            Ok(short) if id <= XAPIC_ID_MAX => {
                body.extend_from_slice(&[0, 8, short, short, ENABLED, 0, 0, 0]);
            }
            _ => {
                body.extend_from_slice(&[9, 16, 0, 0]);
                body.extend_from_slice(&id.to_le_bytes());
                body.extend_from_slice(&[ENABLED, 0, 0, 0]);
                body.extend_from_slice(&id.to_le_bytes());
            }
        }
    }
    body.extend_from_slice(&[1, 12, IOAPIC_ID, 0]);
    body.extend_from_slice(&IOAPIC_BASE.to_le_bytes());
    body.extend_from_slice(&0u32.to_le_bytes());
    body.extend_from_slice(&[2, 10, 0, 0, PIT_GSI, 0, 0, 0, 0, 0]);
    for irq in (0..16).filter(|&irq| is_level(irq)) {
        body.extend_from_slice(&[2, 10, 0, irq, irq, 0, 0, 0, LEVEL_HIGH, 0]);
    }
    body.extend_from_slice(&[4, 6, 0xff, 0, 0, NMI_LINT]);
    if machine.vcpus > XAPIC_ID_MAX.saturating_add(1) {
        body.extend_from_slice(&[0xa, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, NMI_LINT, 0, 0, 0]);
    }
    let mut table = sdt(*b"APIC", 4);
    table.append_slice(&body);
    table
}
