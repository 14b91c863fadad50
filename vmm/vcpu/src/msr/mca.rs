//! Machine-check registers: a few banks that never report an error.

use super::{MC_FIRST, MCG_CAP, MCG_CTL, MCG_STATUS};
use crate::Gp;

/// Number of banks.
const BANKS: usize = 4;
/// Registers of a bank: control, status, address, miscellaneous.
const BANK_REGISTERS: usize = 4;
/// MCG_CAP: number of banks, and MCG_CTL is present.
const CAP: u64 = BANKS as u64 | 1 << 8;
/// MCG_STATUS: restart IP valid, error IP valid, machine check in progress.
const STATUS_KNOWN: u64 = 0b111;
const CONTROL: usize = 0;
const STATUS: usize = 1;

/// The registers of one vCPU.
#[derive(Clone, Debug)]
pub(super) struct Mca {
    status: u64,
    control: u64,
    banks: [u64; BANKS * BANK_REGISTERS],
}

impl Default for Mca {
    fn default() -> Self {
        Self {
            status: 0,
            control: u64::MAX,
            banks: [0; BANKS * BANK_REGISTERS],
        }
    }
}

impl Mca {
    /// Returns a register, or nothing if there is none of this number.
    pub(super) fn read(&self, msr: u32) -> Option<u64> {
        match msr {
            MCG_CAP => Some(CAP),
            MCG_STATUS => Some(self.status),
            MCG_CTL => Some(self.control),
            _ => self.banks.get(bank_index(msr)).copied(),
        }
    }

    /// Stores a valid value; `may_set_status` is HWCR.McStatusWrEn.
    pub(super) fn write(&mut self, msr: u32, value: u64, may_set_status: bool) -> Result<(), Gp> {
        let all_or_nothing = value == 0 || value == u64::MAX;
        let (register, is_valid) = match msr {
            MCG_STATUS => (Some(&mut self.status), value & !STATUS_KNOWN == 0),
            MCG_CTL => (Some(&mut self.control), all_or_nothing),
            _ => {
                let index = bank_index(msr);
                let is_valid = match index % BANK_REGISTERS {
                    CONTROL => all_or_nothing,
                    STATUS => value == 0 || may_set_status,
                    _ => true,
                };
                (self.banks.get_mut(index), is_valid)
            }
        };
        match register {
            Some(register) if is_valid => {
                *register = value;
                Ok(())
            }
            _ => Err(Gp),
        }
    }
}

fn bank_index(msr: u32) -> usize {
    msr.wrapping_sub(MC_FIRST) as usize
}
