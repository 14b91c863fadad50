//! Memory-type range registers: kept and checked, without effect, since nested paging gives RAM its type.

use super::{MTRR_CAP, MTRR_DEF_TYPE, MTRR_FIRST};
use crate::Gp;

/// Variable ranges.
const VARIABLE: usize = 8;
/// Fixed-range registers: one of 64 KiB, two of 16 KiB and eight of 4 KiB units.
const FIXED: usize = 11;
/// MTRRcap: variable ranges, fixed ranges, write-combining (AMD APM vol. 2, 7.7.4).
const CAP: u64 = VARIABLE as u64 | 1 << 8 | 1 << 10;
/// MTRRdefType: default type, fixed ranges enabled, ranges enabled.
const DEF_TYPE_KNOWN: u64 = 0xff | FIXED_ENABLED | ENABLED;
const FIXED_ENABLED: u64 = 1 << 10;
const ENABLED: u64 = 1 << 11;
/// Bit 11 of a mask: the range is in use.
const MASK_VALID: u64 = 1 << 11;
/// Memory types.
const UNCACHED: u64 = 0;
const WRITE_BACK: u64 = 6;
/// Eight units of write-back memory.
const WRITE_BACK_UNITS: u64 = 0x0606_0606_0606_0606;
/// Eight units of write-protected memory, as firmware areas are.
const WRITE_PROTECT_UNITS: u64 = 0x0505_0505_0505_0505;
/// Ends of the variable ranges and of the register groups of fixed ranges.
const VARIABLE_LAST: u32 = 0x20f;
const FIXED_64K: u32 = 0x250;
const FIXED_16K: u32 = 0x258;
const FIXED_16K_LAST: u32 = 0x259;
const FIXED_4K: u32 = 0x268;
const FIXED_4K_LAST: u32 = 0x26f;

/// The registers of one vCPU.
#[derive(Clone, Debug, Default)]
pub(super) struct Mtrr {
    def_type: u64,
    fixed: [u64; FIXED],
    /// Base and mask in turn.
    variable: [u64; VARIABLE * 2],
}

impl Mtrr {
    /// Returns registers that make all memory write-back but the VGA window and what lies from `window` to 4 GiB.
    pub(super) fn after_firmware(window: u32, phys_bits: u8) -> Self {
        let mut variable = [0; VARIABLE * 2];
        // The largest power of two that ends at 4 GiB and starts at or above `window`.
        let size = (1u64 << 32).saturating_sub(u64::from(window));
        let size = 1u64 << size.max(1).ilog2();
        variable[0] = (1u64 << 32).saturating_sub(size) | UNCACHED;
        variable[1] = address_mask(phys_bits) & !size.wrapping_sub(1) | MASK_VALID;
        let mut fixed = [WRITE_PROTECT_UNITS; FIXED];
        fixed[0] = WRITE_BACK_UNITS;
        fixed[1] = WRITE_BACK_UNITS;
        // A0000h to BFFFFh, the VGA window.
        fixed[2] = 0;
        Self {
            def_type: ENABLED | FIXED_ENABLED | WRITE_BACK,
            fixed,
            variable,
        }
    }

    /// Returns a register, or nothing if there is none of this number.
    pub(super) fn read(&self, msr: u32) -> Option<u64> {
        match msr {
            MTRR_CAP => Some(CAP),
            MTRR_DEF_TYPE => Some(self.def_type),
            MTRR_FIRST..=VARIABLE_LAST => self.variable.get(index(msr, MTRR_FIRST)).copied(),
            _ => self.fixed.get(fixed_index(msr)?).copied(),
        }
    }

    /// Stores a valid value.
    pub(super) fn write(&mut self, msr: u32, value: u64, phys_bits: u8) -> Result<(), Gp> {
        match msr {
            MTRR_DEF_TYPE => {
                let is_valid = value & !DEF_TYPE_KNOWN == 0 && is_type(value.to_le_bytes()[0]);
                self.def_type = valid(is_valid, value)?;
            }
            MTRR_FIRST..=VARIABLE_LAST => {
                let is_mask = msr & 1 != 0;
                let low = value & 0xfff;
                let is_valid = value >> phys_bits == 0
                    && if is_mask {
                        low & !MASK_VALID == 0
                    } else {
                        low <= 0xff && is_type(value.to_le_bytes()[0])
                    };
                let register = self.variable.get_mut(index(msr, MTRR_FIRST));
                *register.ok_or(Gp)? = valid(is_valid, value)?;
            }
            _ => {
                let is_valid = value.to_le_bytes().iter().all(|kind| is_type(*kind));
                let register = fixed_index(msr).and_then(|at| self.fixed.get_mut(at));
                *register.ok_or(Gp)? = valid(is_valid, value)?;
            }
        }
        Ok(())
    }
}

/// Returns the place of a fixed-range register.
fn fixed_index(msr: u32) -> Option<usize> {
    match msr {
        FIXED_64K => Some(0),
        FIXED_16K..=FIXED_16K_LAST => index(msr, FIXED_16K).checked_add(1),
        FIXED_4K..=FIXED_4K_LAST => index(msr, FIXED_4K).checked_add(3),
        _ => None,
    }
}

fn index(msr: u32, first: u32) -> usize {
    msr.saturating_sub(first) as usize
}

fn address_mask(phys_bits: u8) -> u64 {
    1u64.checked_shl(u32::from(phys_bits))
        .unwrap_or(0)
        .wrapping_sub(1)
}

/// UC, WC, WT, WP and WB.
fn is_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6)
}

fn valid(is_valid: bool, value: u64) -> Result<u64, Gp> {
    if is_valid { Ok(value) } else { Err(Gp) }
}
