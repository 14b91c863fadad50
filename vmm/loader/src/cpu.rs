//! The state in which a vCPU starts: after reset, after a startup IPI, or as a boot protocol demands.

use crate::arena::Arena;
use crate::error::LoadError;
use alloc::vec::Vec;
use api::backend::VcpuState;
use api::cpu::{DescriptorTable, Segment, SegmentAttributes as Attr, cr0, cr4, efer, segment};

/// Operating mode of a starting vCPU, for the record; the registers say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuMode {
    /// Real mode.
    Real,
    /// Protected mode without paging, 32-bit flat segments.
    Protected32,
    /// 64-bit mode with identity-mapped low 4 GiB.
    Long64,
}

/// A starting vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuState {
    /// What the registers amount to.
    pub mode: CpuMode,
    /// The registers; interrupts are off.
    pub registers: VcpuState,
}

/// Selector of the flat code segment, `__BOOT_CS` of Linux.
const CODE_SELECTOR: u16 = 0x10;
/// Selector of the flat data segment, `__BOOT_DS` of Linux.
const DATA_SELECTOR: u16 = 0x18;
/// Selector of the task state segment.
const TSS_SELECTOR: u16 = 0x20;
/// Size of a task state segment without an I/O map.
const TSS_SIZE: usize = 104;
/// Entries of the boot GDT: two null, code, data, TSS (two, as in long mode).
const GDT_ENTRIES: usize = 6;
/// Size of the boot GDT in bytes; the TSS follows it.
const GDT_SIZE: usize = GDT_ENTRIES * 8;
/// Size of the two together.
const TABLES_SIZE: usize = GDT_SIZE + TSS_SIZE;
/// Size of the page tables that map 4 GiB: one of each upper level and four directories.
const IDENTITY_MAP_SIZE: u64 = 6 * 4096;
/// Limit of the boot GDT.
const GDT_LIMIT: u16 = 47;
/// Limit of the TSS.
const TSS_LIMIT: u32 = 103;
const _: () = assert!(GDT_SIZE == GDT_LIMIT as usize + 1 && TSS_SIZE == TSS_LIMIT as usize + 1);

impl CpuState {
    /// Returns the state after power-on reset (AMD APM vol. 2, table 14-1); RDX is left 0 for the caller to fill with
    /// the processor's signature.
    #[must_use]
    pub const fn reset() -> Self {
        Self {
            mode: CpuMode::Real,
            registers: VcpuState {
                gpr: [0; 16],
                tr: Segment::real_mode(0, Attr::TSS16_BUSY),
                ..VcpuState::after_init()
            },
        }
    }

    /// Returns the state in which an application processor starts on a startup IPI with `vector`.
    #[must_use]
    pub const fn startup(vector: u8) -> Self {
        let mut state = Self::reset();
        let selector = (vector as u16) << 8;
        let [es, _, ss, ds, fs, gs] = state.registers.segments;
        let code = Segment::real_mode(selector, Attr::CODE16);
        state.registers.segments = [es, code, ss, ds, fs, gs];
        state.registers.rip = 0;
        state
    }

    /// Returns flat 32-bit protected mode at `entry`, with a GDT put into guest memory.
    pub(crate) fn protected32(arena: &mut Arena<'_>, entry: u32) -> Result<Self, LoadError> {
        let table = put_tables(arena, Attr::CODE32)?;
        Ok(Self {
            mode: CpuMode::Protected32,
            registers: VcpuState {
                cr0: cr0::PE | cr0::ET,
                rip: u64::from(entry),
                segments: flat_segments(Attr::CODE32),
                ..with_tables(table)
            },
        })
    }

    /// Returns 64-bit mode at `entry` with the low 4 GiB identity-mapped, with GDT and page tables put into guest
    /// memory.
    pub(crate) fn long64(arena: &mut Arena<'_>, entry: u64) -> Result<Self, LoadError> {
        let table = put_tables(arena, Attr::CODE64)?;
        let root = arena.place_boot("the boot page tables", IDENTITY_MAP_SIZE)?;
        arena.write(root, &identity_map(root))?;
        Ok(Self {
            mode: CpuMode::Long64,
            registers: VcpuState {
                cr0: cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::PG,
                cr3: root,
                cr4: cr4::PAE,
                efer: efer::LME | efer::LMA,
                rip: entry,
                segments: flat_segments(Attr::CODE64),
                ..with_tables(table)
            },
        })
    }

    /// Sets general-purpose register `index` (`api::cpu::gpr`).
    pub(crate) fn with_gpr(mut self, index: usize, value: u64) -> Self {
        if let Some(register) = self.registers.gpr.get_mut(index) {
            *register = value;
        }
        self
    }
}

/// Returns the reset state with the boot GDT and TSS at `table`.
fn with_tables(table: u64) -> VcpuState {
    VcpuState {
        gdtr: DescriptorTable {
            base: table,
            limit: GDT_LIMIT,
        },
        // No interrupt may arrive before the kernel has its own table.
        idtr: DescriptorTable::default(),
        tr: Segment {
            selector: TSS_SELECTOR,
            attributes: Attr::TSS_BUSY,
            limit: TSS_LIMIT,
            base: table.saturating_add(GDT_SIZE as u64),
        },
        ..CpuState::reset().registers
    }
}

fn flat_segments(code: Attr) -> [Segment; 6] {
    let mut segments = [Segment::flat(DATA_SELECTOR, Attr::DATA32); 6];
    if let Some(cs) = segments.get_mut(segment::CS) {
        *cs = Segment::flat(CODE_SELECTOR, code);
    }
    segments
}

/// Puts the boot GDT and a zeroed TSS into guest memory.
fn put_tables(arena: &mut Arena<'_>, code: Attr) -> Result<u64, LoadError> {
    let base = arena.place_boot("the boot gdt", TABLES_SIZE as u64)?;
    let tss_base = base.saturating_add(GDT_SIZE as u64);
    let gdt: [u64; GDT_ENTRIES] = [
        0,
        0,
        descriptor(0, 0xf_ffff, code),
        descriptor(0, 0xf_ffff, Attr::DATA32),
        descriptor(tss_base, u64::from(TSS_LIMIT), Attr::TSS_BUSY),
        tss_base >> 32,
    ];
    let mut bytes: Vec<u8> = gdt.iter().flat_map(|d| d.to_le_bytes()).collect();
    bytes.resize(TABLES_SIZE, 0);
    arena.write(base, &bytes)?;
    Ok(base)
}

/// Encodes a segment descriptor; `limit` is in the unit that `attributes` gives (AMD APM vol. 2, 4.7).
const fn descriptor(base: u64, limit: u64, attributes: Attr) -> u64 {
    let attributes = attributes.0 as u64;
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | (attributes & 0xff) << 40
        | (limit >> 16 & 0xf) << 48
        | (attributes >> 8 & 0xf) << 52
        | (base >> 24 & 0xff) << 56
}

/// Builds four-level page tables at `base` that map the low 4 GiB to itself by 2 MiB pages.
fn identity_map(base: u64) -> Vec<u8> {
    /// Present and writable.
    const TABLE: u64 = 3;
    /// Present, writable, accessed, dirty, 2 MiB.
    const PAGE: u64 = 0xe3;
    const DIRECTORIES: u64 = 4;
    let table_at = |index: u64| base.saturating_add(index << 12) | TABLE;
    let mut entries: Vec<u64> = Vec::with_capacity(6 * 512);
    entries.push(table_at(1));
    entries.resize(512, 0);
    entries.extend((0..DIRECTORIES).map(|i| table_at(i.saturating_add(2))));
    entries.resize(2 * 512, 0);
    entries.extend((0..DIRECTORIES * 512).map(|i| i << 21 | PAGE));
    entries.iter().flat_map(|e| e.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Attr, CpuState, descriptor, identity_map};
    use api::cpu::segment;

    #[test]
    fn descriptors_have_the_layout_of_the_manual() {
        assert_eq!(descriptor(0, 0xf_ffff, Attr::CODE64), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(0, 0xf_ffff, Attr::DATA32), 0x00cf_9300_0000_ffff);
        assert_eq!(
            descriptor(0x1234_5678, 0x67, Attr::TSS_BUSY),
            0x1200_8b34_5678_0067
        );
    }

    #[test]
    fn the_identity_map_covers_4_gib() {
        let tables = identity_map(0x9000);
        assert_eq!(tables.len(), 6 * 4096);
        let entry = |i: usize| u64::from_le_bytes(tables[i * 8..][..8].try_into().unwrap());
        assert_eq!(entry(0), 0xa003);
        assert_eq!(entry(512), 0xb003);
        assert_eq!(entry(515), 0xe003);
        assert_eq!(entry(516), 0);
        assert_eq!(entry(1024 + 2047), 0xffe0_00e3);
    }

    #[test]
    fn a_startup_ipi_starts_at_its_page() {
        let state = CpuState::startup(0x9f);
        assert_eq!(state.registers.segments[segment::CS].base, 0x9_f000);
        assert_eq!(state.registers.segments[segment::CS].selector, 0x9f00);
        assert_eq!(state.registers.rip, 0);
    }
}
