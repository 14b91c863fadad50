//! The ACPI tables that a hypervisor needs: MADT, FADT, SRAT, and the one AML object that matters, `\_S5`
//! (ACPI 6.4, chapters 5 and 16). No AML is run. A damaged table is skipped or cut, never trusted.

use alloc::vec;
use alloc::vec::Vec;
use thiserror::Error;

/// Longest table that is read; a longer length is damage.
const TABLE_MAX: usize = 1 << 20;
const HEADER_LEN: usize = 36;

/// Reads physical memory that firmware filled.
pub trait Physical {
    /// Fills `buf` from `address`; false when that is not readable.
    fn read(&mut self, address: u64, buf: &mut [u8]) -> bool;
}

/// Why there are no tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AcpiError {
    /// No root pointer was found.
    #[error("no ACPI root pointer found")]
    NoRoot,
    /// The root table is damaged.
    #[error("the ACPI root table is damaged")]
    BadRoot,
    /// A table that Basalt cannot do without is missing.
    #[error("the ACPI table {0} is missing or damaged")]
    Missing(&'static str),
}

/// A processor that may be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Local APIC ID.
    pub apic_id: u32,
    /// NUMA proximity domain, 0 where the firmware tells none.
    pub domain: u32,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApicInfo {
    /// Physical address of its registers.
    pub address: u64,
    /// First GSI.
    pub gsi_base: u32,
}

/// How an ISA interrupt is wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IsaRoute {
    /// ISA IRQ, 0 to 15.
    pub irq: u8,
    /// Global system interrupt.
    pub gsi: u32,
    /// Active low.
    pub active_low: bool,
    /// Level-triggered.
    pub level: bool,
}

/// A range of memory of a NUMA domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryAffinity {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Proximity domain.
    pub domain: u32,
}

/// Power registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Power {
    /// Port of PM1a control, 0 for none.
    pub pm1a_control: u16,
    /// Port of PM1b control, 0 for none.
    pub pm1b_control: u16,
    /// SLP_TYPa and SLP_TYPb of S5, where the DSDT or an SSDT names them.
    pub s5: Option<(u8, u8)>,
    /// Reset port and value, where the reset register is a port.
    pub reset: Option<(u16, u8)>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    /// Processors that are enabled, in the firmware's order.
    pub processors: Vec<Processor>,
    /// I/O APICs.
    pub io_apics: Vec<IoApicInfo>,
    /// ISA interrupts that are not at their own GSI, edge, active high.
    pub isa_routes: Vec<IsaRoute>,
    /// Physical address of the local APICs.
    pub local_apic: u64,
    /// Port of the PM timer.
    pub pm_timer: Option<u16>,
    /// Power registers.
    pub power: Power,
    /// Memory of the NUMA domains.
    pub memory: Vec<MemoryAffinity>,
}

impl Platform {
    /// Reads the tables. `root` is the loader's word on the root pointer; without it the BIOS area is searched.
    ///
    /// # Errors
    /// [`AcpiError`] when there is no root or no MADT.
    pub fn read(physical: &mut dyn Physical, root: Option<u64>) -> Result<Self, AcpiError> {
        let root = root
            .or_else(|| find_root(physical))
            .ok_or(AcpiError::NoRoot)?;
        let tables = table_addresses(physical, root)?;
        let mut platform = Self::default();
        let madt = find(physical, &tables, b"APIC").ok_or(AcpiError::Missing("MADT"))?;
        platform.read_madt(&madt);
        if let Some(srat) = find(physical, &tables, b"SRAT") {
            platform.read_srat(&srat);
        }
        if let Some(fadt) = find(physical, &tables, b"FACP") {
            platform.read_fadt(&fadt);
            let wide = u64_at(&fadt, 140).unwrap_or(0);
            let dsdt = if wide != 0 {
                wide
            } else {
                u64::from(u32_at(&fadt, 40).unwrap_or(0))
            };
            let first = read_table(physical, dsdt);
            // Some firmware puts the sleep states into a secondary table (SeaBIOS, when it makes the tables itself).
            let secondary = || find_all(physical, &tables, b"SSDT").find_map(|aml| find_s5(&aml));
            platform.power.s5 = first.and_then(|aml| find_s5(&aml)).or_else(secondary);
        }
        Ok(platform)
    }

    fn read_madt(&mut self, table: &[u8]) {
        self.local_apic = u64::from(u32_at(table, 36).unwrap_or(0));
        for entry in entries(table, 44) {
            let usable = |offset| u32_at(entry, offset).unwrap_or(0) & 1 != 0;
            match entry.first() {
                Some(0) if usable(4) => {
                    self.processors.push(Processor {
                        apic_id: u32::from(u8_at(entry, 3)),
                        domain: 0,
                    });
                }
                Some(1) => {
                    let (address, gsi_base) =
                        (u32_at(entry, 4).unwrap_or(0), u32_at(entry, 8).unwrap_or(0));
                    self.io_apics.push(IoApicInfo {
                        address: u64::from(address),
                        gsi_base,
                    });
                }
                Some(2) => {
                    let flags = u8_at(entry, 8);
                    self.isa_routes.push(IsaRoute {
                        irq: u8_at(entry, 3),
                        gsi: u32_at(entry, 4).unwrap_or(0),
                        active_low: flags & 3 == 3,
                        level: flags >> 2 & 3 == 3,
                    });
                }
                Some(5) => self.local_apic = u64_at(entry, 4).unwrap_or(self.local_apic),
                Some(9) if usable(8) => {
                    self.processors.push(Processor {
                        apic_id: u32_at(entry, 4).unwrap_or(0),
                        domain: 0,
                    });
                }
                _ => {}
            }
        }
    }

    fn read_srat(&mut self, table: &[u8]) {
        for entry in entries(table, 48) {
            let (apic_id, domain) = match entry.first() {
                Some(0) if u8_at(entry, 4) & 1 != 0 => {
                    (u32::from(u8_at(entry, 3)), u32::from(u8_at(entry, 2)))
                }
                Some(2) if u8_at(entry, 12) & 1 != 0 => {
                    (u32_at(entry, 8).unwrap_or(0), u32_at(entry, 4).unwrap_or(0))
                }
                Some(1) if u8_at(entry, 28) & 1 != 0 => {
                    let (start, len) = (
                        u64_at(entry, 8).unwrap_or(0),
                        u64_at(entry, 16).unwrap_or(0),
                    );
                    self.memory.push(MemoryAffinity {
                        start,
                        len,
                        domain: u32_at(entry, 2).unwrap_or(0),
                    });
                    continue;
                }
                _ => continue,
            };
            self.processors
                .iter_mut()
                .filter(|p| p.apic_id == apic_id)
                .for_each(|p| p.domain = domain);
        }
    }

    fn read_fadt(&mut self, table: &[u8]) {
        let port = |offset| {
            u32_at(table, offset)
                .and_then(|p| u16::try_from(p).ok())
                .unwrap_or(0)
        };
        self.pm_timer = Some(port(76)).filter(|p| *p != 0);
        self.power.pm1a_control = port(64);
        self.power.pm1b_control = port(68);
        let reset_supported = u32_at(table, 112).unwrap_or(0) & 1 << 10 != 0;
        if reset_supported && u8_at(table, 116) == 1 {
            let port = u64_at(table, 120).and_then(|p| u16::try_from(p).ok());
            self.power.reset = port.map(|port| (port, u8_at(table, 128)));
        }
    }

    /// Returns how ISA interrupt `irq` is wired.
    #[must_use]
    pub fn isa_route(&self, irq: u8) -> IsaRoute {
        let plain = IsaRoute {
            irq,
            gsi: u32::from(irq),
            active_low: false,
            level: false,
        };
        self.isa_routes
            .iter()
            .copied()
            .find(|r| r.irq == irq)
            .unwrap_or(plain)
    }
}

fn find_root(physical: &mut dyn Physical) -> Option<u64> {
    let mut pointer = [0; 2];
    let ebda = if physical.read(0x40e, &mut pointer) {
        u64::from(u16::from_le_bytes(pointer)) << 4
    } else {
        0
    };
    let areas = [(ebda, 1024_u64), (0xe_0000, 0x2_0000)];
    areas
        .into_iter()
        .filter(|(start, _)| *start != 0)
        .find_map(|(start, len)| {
            (start..start + len).step_by(16).find(|at| {
                let mut bytes = [0; 20];
                physical.read(*at, &mut bytes) && bytes.starts_with(b"RSD PTR ") && sum(&bytes) == 0
            })
        })
}

/// Returns the addresses in the root table, XSDT or RSDT.
fn table_addresses(physical: &mut dyn Physical, root: u64) -> Result<Vec<u64>, AcpiError> {
    let mut bytes = [0; 36];
    if !physical.read(root, &mut bytes) || !bytes.starts_with(b"RSD PTR ") {
        return Err(AcpiError::BadRoot);
    }
    let xsdt = if u8_at(&bytes, 15) >= 2 {
        u64_at(&bytes, 24).unwrap_or(0)
    } else {
        0
    };
    if let Some(table) = read_table(physical, xsdt) {
        let body = table.get(HEADER_LEN..).unwrap_or(&[]);
        return Ok(body.chunks_exact(8).filter_map(|c| u64_at(c, 0)).collect());
    }
    let rsdt = u64::from(u32_at(&bytes, 16).unwrap_or(0));
    let table = read_table(physical, rsdt).ok_or(AcpiError::BadRoot)?;
    let body = table.get(HEADER_LEN..).unwrap_or(&[]);
    Ok(body
        .chunks_exact(4)
        .filter_map(|c| u32_at(c, 0))
        .map(u64::from)
        .collect())
}

fn find(physical: &mut dyn Physical, tables: &[u64], signature: &[u8; 4]) -> Option<Vec<u8>> {
    find_all(physical, tables, signature).next()
}

fn find_all<'a>(
    physical: &'a mut dyn Physical,
    tables: &'a [u64],
    signature: &'a [u8; 4],
) -> impl Iterator<Item = Vec<u8>> + 'a {
    tables.iter().filter_map(|address| {
        let mut found = [0; 4];
        (physical.read(*address, &mut found) && found == *signature)
            .then(|| read_table(physical, *address))
            .flatten()
    })
}

/// Reads a whole table and checks its sum.
fn read_table(physical: &mut dyn Physical, address: u64) -> Option<Vec<u8>> {
    let mut header = [0; HEADER_LEN];
    if address == 0 || !physical.read(address, &mut header) {
        return None;
    }
    let len = usize::try_from(u32_at(&header, 4)?).ok()?;
    if !(HEADER_LEN..=TABLE_MAX).contains(&len) {
        return None;
    }
    let mut table = vec![0; len];
    (physical.read(address, &mut table) && sum(&table) == 0).then_some(table)
}

/// Yields the sub-tables from `offset` on: type, length, content. Stops at a length that makes no sense.
fn entries(table: &[u8], offset: usize) -> impl Iterator<Item = &[u8]> {
    let mut rest = table.get(offset..).unwrap_or(&[]);
    core::iter::from_fn(move || {
        let len = usize::from(*rest.get(1)?);
        let entry = rest.get(..len).filter(|e| e.len() >= 2)?;
        rest = rest.get(len..).unwrap_or(&[]);
        Some(entry)
    })
}

/// Finds `Name(_S5, Package { a, b, .. })` by its bytes (ACPI 6.4, 20.2.5.4).
fn find_s5(aml: &[u8]) -> Option<(u8, u8)> {
    const PACKAGE: u8 = 0x12;
    let at = aml
        .windows(5)
        .position(|w| w.starts_with(b"_S5_") && w.ends_with(&[PACKAGE]))?;
    let rest = aml.get(at + 5..)?;
    let length_bytes = usize::from(rest.first()? >> 6) + 1;
    let mut rest = rest.get(length_bytes + 1..)?;
    let mut value = || {
        let (value, used) = match *rest.first()? {
            0x0a => (*rest.get(1)?, 2),
            small @ (0 | 1) => (small, 1),
            _ => return None,
        };
        rest = rest.get(used..)?;
        Some(value)
    };
    let first = value()?;
    Some((first, value().unwrap_or(first)))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |a, b| a.wrapping_add(*b))
}

fn u8_at(bytes: &[u8], offset: usize) -> u8 {
    bytes.get(offset).copied().unwrap_or(0)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes
        .get(offset..)?
        .first_chunk()
        .map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes
        .get(offset..)?
        .first_chunk()
        .map(|b| u64::from_le_bytes(*b))
}

#[cfg(test)]
mod tests;
