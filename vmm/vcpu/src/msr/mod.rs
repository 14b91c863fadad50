//! Model-specific registers that the VM answers itself, and the validity of writes to those that the hardware holds.
//!
//! Not here: IA32_APIC_BASE, the TSC deadline and the x2APIC range, which are the local APIC's; and registers of hidden
//! features, which fault like any unknown number.

mod mca;
mod mtrr;
mod numbers;
#[cfg(test)]
mod tests;

use crate::Gp;
use crate::control::{Changed, Control, is_canonical};
use crate::cpuid::{Capabilities, Vendor};
use api::cpu::cr4;
use mca::Mca;
use mtrr::Mtrr;

pub use numbers::*;

/// A register that the processor or the VMCB holds while the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// EFER, without what the monitor adds.
    Efer,
    /// Selectors and 32-bit target of SYSCALL.
    Star,
    /// 64-bit target of SYSCALL.
    Lstar,
    /// Compatibility-mode target of SYSCALL.
    Cstar,
    /// Flags that SYSCALL clears.
    Sfmask,
    /// Code segment of SYSENTER.
    SysenterCs,
    /// Stack of SYSENTER.
    SysenterEsp,
    /// Target of SYSENTER.
    SysenterEip,
    /// Base of FS.
    FsBase,
    /// Base of GS.
    GsBase,
    /// What SWAPGS exchanges with the base of GS.
    KernelGsBase,
    /// What RDTSCP and RDPID return.
    TscAux,
    /// Speculation control.
    SpecCtrl,
    /// Prediction command: write-only.
    PredCmd,
}

/// Answer to RDMSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The value.
    Value(u64),
    /// The value is in this register.
    Register(Register),
}

/// Consequence of a valid WRMSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// All is done.
    Done,
    /// Store the value in this register.
    Register(Register, u64),
    /// Store the new EFER, and flush if it says so.
    Efer(Changed),
    /// The page-attribute table changed: store it where the guest's page walks find it.
    Pat(u64),
    /// Add this to the guest's TSC offset, modulo 2^64.
    ShiftTsc(u64),
}

/// State of the vCPU that MSRs depend on. It is asked for only what the write at hand needs.
pub trait Moment {
    /// The guest's TSC at this moment.
    fn guest_tsc(&self) -> u64;
    /// The control registers.
    fn control(&self) -> Control;
}

/// MSRs of one vCPU.
#[derive(Clone, Debug)]
pub struct Msrs {
    capabilities: Capabilities,
    tsc_adjust: u64,
    pat: u64,
    misc_enable: u64,
    hwcr: u64,
    syscfg: u64,
    top_mem: [u64; 2],
    mtrr: Mtrr,
    mca: Mca,
}

/// PAT after reset: WB, WT, UC-, UC, twice (AMD APM vol. 2, 7.8.1).
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// IA32_MISC_ENABLE: bits that a write leaves alone: performance monitoring, branch trace and PEBS unavailable.
const MISC_ENABLE_READ_ONLY: u64 = 1 << 7 | 1 << 11 | 1 << 12;
/// IA32_MISC_ENABLE after reset: fast strings; no branch trace, no PEBS.
const MISC_ENABLE_RESET: u64 = 1 << 0 | 1 << 11 | 1 << 12;
/// IA32_MISC_ENABLE: bits that exist (Intel SDM vol. 4, table 2-2).
const MISC_ENABLE_KNOWN: u64 =
    1 << 0 | 1 << 3 | 1 << 7 | 1 << 11 | 1 << 12 | 1 << 16 | 1 << 18 | 1 << 22 | 1 << 23 | 1 << 34;
/// HWCR: bits that guests set by habit and that have no effect here (AMD PPR): TLB cache, FFDIS, IGNNE port.
const HWCR_IGNORED: u64 = 1 << 3 | 1 << 6 | 1 << 8;
/// HWCR: the status registers of machine-check banks may be written.
const HWCR_MC_STATUS_WRITE: u64 = 1 << 18;
/// HWCR: the TSC runs at the frequency of P0.
const HWCR_TSC_AT_P0: u64 = 1 << 24;
/// SYSCFG: the bits about MTRRs and the top of memory.
const SYSCFG_KNOWN: u64 = 0b1_1111 << 18;
/// DE_CFG: LFENCE waits for all earlier instructions.
const DE_CFG_LFENCE: u64 = 1 << 1;
/// VM_CR: SVM is disabled, and locked so.
const VM_CR_DISABLED: u64 = 1 << 3 | 1 << 4;
/// A microcode revision as AMD numbers them, and as Intel does, in the upper half.
const PATCH_LEVEL_AMD: u64 = 0x0100_0065;
const PATCH_LEVEL_INTEL: u64 = 1 << 32;
/// DEBUGCTL: last-branch recording and single-stepping of branches, accepted without effect.
const DEBUGCTL_IGNORED: u64 = 0b11;

impl Msrs {
    /// Returns the registers after power-on.
    #[must_use]
    pub fn new(capabilities: &Capabilities) -> Self {
        Self {
            capabilities: *capabilities,
            tsc_adjust: 0,
            pat: PAT_RESET,
            misc_enable: MISC_ENABLE_RESET,
            hwcr: HWCR_TSC_AT_P0,
            syscfg: 0,
            top_mem: [0; 2],
            mtrr: Mtrr::default(),
            mca: Mca::default(),
        }
    }

    /// Returns the registers as firmware leaves them to an operating system: memory types are set up, with RAM cached
    /// and the window from `pci_window` to 4 GiB not.
    #[must_use]
    pub fn after_firmware(capabilities: &Capabilities, pci_window: u32) -> Self {
        Self {
            mtrr: Mtrr::after_firmware(pci_window, capabilities.phys_bits),
            ..Self::new(capabilities)
        }
    }

    /// Returns the page-attribute table.
    #[must_use]
    pub fn pat(&self) -> u64 {
        self.pat
    }

    /// Answers RDMSR; `guest_tsc` is asked for the guest's TSC if that is what is read.
    ///
    /// # Errors
    /// [`Gp`] when the register does not exist or cannot be read.
    #[inline(always)]
    pub fn read(&self, msr: u32, guest_tsc: impl FnOnce() -> u64) -> Result<Read, Gp> {
        if let Some(register) = self.register(msr) {
            return match register {
                Register::PredCmd => Err(Gp),
                register => Ok(Read::Register(register)),
            };
        }
        let value = match msr {
            TSC => guest_tsc(),
            TSC_ADJUST => self.tsc_adjust,
            PAT => self.pat,
            MISC_ENABLE => self.misc_enable,
            PATCH_LEVEL => match self.capabilities.vendor {
                Vendor::Amd => PATCH_LEVEL_AMD,
                Vendor::Intel => PATCH_LEVEL_INTEL,
            },
            DEBUGCTL | LAST_BRANCH_FROM..=LAST_EXCEPTION_TO => 0,
            MTRR_FIRST..=MTRR_LAST | MTRR_CAP | MTRR_DEF_TYPE => self.mtrr.read(msr).ok_or(Gp)?,
            MCG_CAP..=MCG_CTL | MC_FIRST..=MC_LAST => self.mca.read(msr).ok_or(Gp)?,
            AMD_FIRST..=AMD_LAST if self.capabilities.vendor == Vendor::Amd => {
                self.read_amd(msr)?
            }
            PLATFORM_ID | EBL_CR_POWERON if self.capabilities.vendor == Vendor::Intel => 0,
            _ => return Err(Gp),
        };
        Ok(Read::Value(value))
    }

    fn read_amd(&self, msr: u32) -> Result<u64, Gp> {
        Ok(match msr {
            SYSCFG => self.syscfg,
            HWCR => self.hwcr,
            TOP_MEM => self.top_mem[0],
            TOP_MEM2 => self.top_mem[1],
            VM_CR => VM_CR_DISABLED,
            DE_CFG => DE_CFG_LFENCE,
            K7_EVNTSEL0..=K7_PERFCTR3
            | NB_CFG
            | INT_PENDING
            | LS_CFG
            | IC_CFG
            | DC_CFG
            | BU_CFG2 => 0,
            _ => return Err(Gp),
        })
    }

    /// Performs WRMSR, or says what the caller has to do.
    ///
    /// # Errors
    /// [`Gp`] when the register does not exist, cannot be written, or not with this value.
    #[inline(always)]
    pub fn write(&mut self, msr: u32, value: u64, now: &impl Moment) -> Result<Write, Gp> {
        if let Some(register) = self.register(msr) {
            return self.write_register(register, value, &now.control());
        }
        match msr {
            TSC => {
                let shift = value.wrapping_sub(now.guest_tsc());
                self.tsc_adjust = self.tsc_adjust.wrapping_add(shift);
                return Ok(Write::ShiftTsc(shift));
            }
            TSC_ADJUST => {
                let shift = value.wrapping_sub(self.tsc_adjust);
                self.tsc_adjust = value;
                return Ok(Write::ShiftTsc(shift));
            }
            PAT => {
                self.pat = check_pat(value)?;
                return Ok(Write::Pat(value));
            }
            MISC_ENABLE => self.misc_enable = self.check_misc_enable(value)?,
            // A microcode update: nothing to update.
            PATCH_LEVEL | BIOS_UPDATE => {}
            DEBUGCTL if value & !DEBUGCTL_IGNORED == 0 => {}
            MTRR_FIRST..=MTRR_LAST | MTRR_DEF_TYPE => {
                self.mtrr.write(msr, value, self.capabilities.phys_bits)?;
            }
            MCG_STATUS | MCG_CTL | MC_FIRST..=MC_LAST => {
                let may_set_status = self.hwcr & HWCR_MC_STATUS_WRITE != 0;
                self.mca.write(msr, value, may_set_status)?;
            }
            AMD_FIRST..=AMD_LAST if self.capabilities.vendor == Vendor::Amd => {
                self.write_amd(msr, value)?;
            }
            EBL_CR_POWERON if self.capabilities.vendor == Vendor::Intel => {}
            _ => return Err(Gp),
        }
        Ok(Write::Done)
    }

    fn write_amd(&mut self, msr: u32, value: u64) -> Result<(), Gp> {
        let only = |allowed: u64| {
            if value & !allowed == 0 {
                Ok(value)
            } else {
                Err(Gp)
            }
        };
        let address = |bits: u8| {
            if value >> bits == 0 {
                Ok(value)
            } else {
                Err(Gp)
            }
        };
        match msr {
            SYSCFG => self.syscfg = only(SYSCFG_KNOWN)?,
            HWCR => {
                let kept = HWCR_MC_STATUS_WRITE | HWCR_TSC_AT_P0;
                self.hwcr = only(kept | HWCR_IGNORED)? & kept;
            }
            TOP_MEM => self.top_mem[0] = address(self.capabilities.phys_bits)?,
            TOP_MEM2 => self.top_mem[1] = address(self.capabilities.phys_bits)?,
            // LFENCE stays serialising whatever the guest prefers.
            DE_CFG => drop(only(DE_CFG_LFENCE)?),
            // The lock bit is set: writes have no effect.
            VM_CR => drop(only(VM_CR_DISABLED)?),
            K7_EVNTSEL0..=K7_PERFCTR3
            | NB_CFG
            | INT_PENDING
            | LS_CFG
            | IC_CFG
            | DC_CFG
            | BU_CFG2
            | PATCH_LOADER => {}
            _ => return Err(Gp),
        }
        Ok(())
    }

    /// Returns the register that `msr` stands for, if this processor has it.
    #[inline(always)]
    fn register(&self, msr: u32) -> Option<Register> {
        let c = &self.capabilities;
        let register = match msr {
            EFER => Register::Efer,
            STAR => Register::Star,
            LSTAR => Register::Lstar,
            CSTAR => Register::Cstar,
            SFMASK => Register::Sfmask,
            SYSENTER_CS => Register::SysenterCs,
            SYSENTER_ESP => Register::SysenterEsp,
            SYSENTER_EIP => Register::SysenterEip,
            FS_BASE => Register::FsBase,
            GS_BASE => Register::GsBase,
            KERNEL_GS_BASE => Register::KernelGsBase,
            TSC_AUX if c.has_tsc_aux => Register::TscAux,
            SPEC_CTRL if c.spec_ctrl != 0 => Register::SpecCtrl,
            PRED_CMD if c.pred_cmd != 0 => Register::PredCmd,
            _ => return None,
        };
        let needs_long_mode = matches!(msr, LSTAR..=SFMASK | FS_BASE..=KERNEL_GS_BASE);
        (c.has_long_mode || !needs_long_mode).then_some(register)
    }

    fn write_register(
        &self,
        register: Register,
        value: u64,
        control: &Control,
    ) -> Result<Write, Gp> {
        let c = &self.capabilities;
        let is_intel = c.vendor == Vendor::Intel;
        let linear_bits = if c.cr4 & cr4::LA57 != 0 { 57 } else { 48 };
        let mut value = value;
        let is_valid = match register {
            Register::Efer => return Ok(Write::Efer(control.write_efer(value, c)?)),
            Register::Star => true,
            Register::Lstar
            | Register::Cstar
            | Register::FsBase
            | Register::GsBase
            | Register::KernelGsBase => is_canonical(value, linear_bits),
            Register::SysenterEsp | Register::SysenterEip => {
                !is_intel || is_canonical(value, linear_bits)
            }
            Register::Sfmask => value >> 32 == 0,
            Register::SysenterCs | Register::TscAux => {
                // AMD ignores the upper half (APM vol. 2, A.2 and 3.2.9).
                let is_valid = value >> 32 == 0 || !is_intel || register == Register::SysenterCs;
                value &= 0xffff_ffff;
                is_valid
            }
            Register::SpecCtrl => value & !c.spec_ctrl == 0,
            Register::PredCmd => value & !c.pred_cmd == 0,
        };
        if is_valid {
            Ok(Write::Register(register, value))
        } else {
            Err(Gp)
        }
    }

    fn check_misc_enable(&self, value: u64) -> Result<u64, Gp> {
        if value & !MISC_ENABLE_KNOWN != 0 {
            return Err(Gp);
        }
        Ok(value & !MISC_ENABLE_READ_ONLY | self.misc_enable & MISC_ENABLE_READ_ONLY)
    }
}

/// Judges a page-attribute table: each byte is UC, WC, WT, WP, WB or UC- (AMD APM vol. 2, 7.8.1).
///
/// # Errors
/// [`Gp`] when a byte is of an unknown type.
pub fn check_pat(value: u64) -> Result<u64, Gp> {
    let is_valid = value
        .to_le_bytes()
        .iter()
        .all(|kind| matches!(kind, 0 | 1 | 4..=7));
    if is_valid { Ok(value) } else { Err(Gp) }
}
