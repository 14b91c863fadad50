//! Which writes to CR0, CR3, CR4, EFER and XCR0 are valid, and what they lead to.
//!
//! The functions only judge: loading page-directory pointers, flushing translations and storing the value is up to the
//! caller. Rules are those of AMD APM vol. 2, chapter 3 and 14.5, and Intel SDM vol. 3, 2.5 and 4.1.

use crate::Gp;
use crate::cpuid::{AVX, AVX512, Capabilities, SSE, X87};
use api::cpu::{SegmentAttributes, cr0, cr4, efer};

/// CR3 bits 11:0: the process-context identifier when CR4.PCIDE is one.
const PCID_MASK: u64 = 0xfff;
/// Bit 63 of a value written to CR3 with CR4.PCIDE: keep translations; it is not stored.
const CR3_NO_FLUSH: u64 = 1 << 63;
/// Bits of CR0 that exist; others read as zero and ignore writes below bit 32.
const CR0_KNOWN: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;
/// Bits of CR0 and CR4 whose change makes PAE paging load its four page-directory pointers.
const CR0_RELOAD: u64 = cr0::CD | cr0::NW | cr0::PG;
const CR4_RELOAD: u64 = cr4::PSE | cr4::PAE | cr4::PGE | cr4::SMEP;

/// The control registers of a vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER, as the guest sees it: without SVME.
    pub efer: u64,
}

/// A valid new state, and what has to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The registers to store.
    pub control: Control,
    /// PAE paging: the four page-directory pointers must be loaded from memory, which may fault.
    pub reload_pdptes: bool,
    /// Translations cached for the guest may be wrong.
    pub flush: bool,
}

impl Control {
    /// Tells whether the vCPU is in long mode (64-bit or compatibility).
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// Tells whether PAE paging outside long mode is in use.
    #[must_use]
    pub const fn is_pae(&self) -> bool {
        self.cr0 & cr0::PG != 0 && self.cr4 & cr4::PAE != 0 && !self.is_long()
    }

    /// Judges a write of `value` to CR0 by code in a segment with attributes `cs`.
    ///
    /// # Errors
    /// [`Gp`] when the combination is invalid.
    pub fn write_cr0(&self, value: u64, cs: SegmentAttributes) -> Result<Changed, Gp> {
        if value >> 32 != 0 {
            return Err(Gp);
        }
        let value = value & CR0_KNOWN | cr0::ET;
        let paging_without_protection = value & cr0::PG != 0 && value & cr0::PE == 0;
        let write_through_without_disable = value & cr0::NW != 0 && value & cr0::CD == 0;
        if paging_without_protection || write_through_without_disable {
            return Err(Gp);
        }
        let changed = value ^ self.cr0;
        let mut new = *self;
        new.cr0 = value;
        if changed & cr0::PG != 0 {
            new.efer = self.efer_after_paging_change(value & cr0::PG != 0, cs)?;
        }
        Ok(Changed {
            reload_pdptes: new.is_pae() && changed & CR0_RELOAD != 0,
            flush: changed & (cr0::PG | cr0::WP) != 0,
            control: new,
        })
    }

    /// Long mode begins and ends with paging.
    fn efer_after_paging_change(&self, on: bool, cs: SegmentAttributes) -> Result<u64, Gp> {
        let is_64_bit_code = cs.has(SegmentAttributes::LONG);
        if on {
            if self.efer & efer::LME == 0 {
                return Ok(self.efer);
            }
            if self.cr4 & cr4::PAE == 0 || is_64_bit_code {
                return Err(Gp);
            }
            Ok(self.efer | efer::LMA)
        } else {
            let in_64_bit_mode = self.is_long() && is_64_bit_code;
            if in_64_bit_mode || self.cr4 & cr4::PCIDE != 0 {
                return Err(Gp);
            }
            Ok(self.efer & !efer::LMA)
        }
    }

    /// Judges a write of `value` to CR3.
    ///
    /// # Errors
    /// [`Gp`] when an address bit beyond the vCPU's width is set in long mode.
    pub fn write_cr3(&self, value: u64, capabilities: &Capabilities) -> Result<Changed, Gp> {
        let has_pcid = self.cr4 & cr4::PCIDE != 0;
        let keeps_translations = has_pcid && value & CR3_NO_FLUSH != 0;
        let value = if has_pcid {
            value & !CR3_NO_FLUSH
        } else {
            value
        };
        if self.is_long() && value >> capabilities.phys_bits != 0 {
            return Err(Gp);
        }
        let mut control = *self;
        control.cr3 = value;
        Ok(Changed {
            control,
            reload_pdptes: self.is_pae(),
            flush: !keeps_translations,
        })
    }

    /// Judges a write of `value` to CR4.
    ///
    /// # Errors
    /// [`Gp`] when a bit is reserved or the combination is invalid.
    pub fn write_cr4(&self, value: u64, capabilities: &Capabilities) -> Result<Changed, Gp> {
        if value & !capabilities.cr4 != 0 {
            return Err(Gp);
        }
        let changed = value ^ self.cr4;
        let sets_pcide = changed & value & cr4::PCIDE != 0;
        if self.is_long() && (value & cr4::PAE == 0 || changed & cr4::LA57 != 0) {
            return Err(Gp);
        }
        if sets_pcide && (!self.is_long() || self.cr3 & PCID_MASK != 0) {
            return Err(Gp);
        }
        let mut control = *self;
        control.cr4 = value;
        // Clearing PCIDE and setting SMEP flush as well (Intel SDM vol. 3, 4.10.4.1).
        let flushing =
            cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::SMEP | cr4::SMAP | cr4::LA57;
        Ok(Changed {
            reload_pdptes: control.is_pae() && changed & CR4_RELOAD != 0,
            flush: changed & flushing != 0,
            control,
        })
    }

    /// Judges a write of `value` to EFER. LMA is read-only and keeps its value.
    ///
    /// # Errors
    /// [`Gp`] when a bit is reserved, or LME changes while paging is on.
    pub fn write_efer(&self, value: u64, capabilities: &Capabilities) -> Result<Changed, Gp> {
        if value & !(capabilities.efer | efer::LMA) != 0 {
            return Err(Gp);
        }
        let changed = value ^ self.efer;
        if changed & efer::LME != 0 && self.cr0 & cr0::PG != 0 {
            return Err(Gp);
        }
        let mut control = *self;
        control.efer = value & !efer::LMA | self.efer & efer::LMA;
        Ok(Changed {
            control,
            reload_pdptes: false,
            flush: changed & efer::NXE != 0,
        })
    }
}

/// Why XSETBV or XGETBV fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XcrFault {
    /// The instruction does not exist: CR4.OSXSAVE is zero.
    #[error("undefined opcode")]
    UndefinedOpcode,
    /// Wrong register number, reserved bits, or not at privilege level 0.
    #[error(transparent)]
    GeneralProtection(#[from] Gp),
}

/// Judges XSETBV: returns the value for XCR0.
///
/// `index` is ECX (the upper half of RCX is ignored), `cpl` the current privilege level.
///
/// # Errors
/// [`XcrFault`] names the exception.
pub fn xsetbv(
    index: u32,
    value: u64,
    control: &Control,
    cpl: u8,
    capabilities: &Capabilities,
) -> Result<u64, XcrFault> {
    if control.cr4 & cr4::OSXSAVE == 0 {
        return Err(XcrFault::UndefinedOpcode);
    }
    if cpl != 0 || index != 0 {
        return Err(Gp.into());
    }
    Ok(check_xcr0(value, capabilities)?)
}

/// Judges a value for XCR0 (Intel SDM vol. 1, 13.3; AMD APM vol. 2, 11.5.2).
///
/// # Errors
/// [`Gp`] when a bit is not supported, or a component lacks one that it builds on.
pub const fn check_xcr0(value: u64, capabilities: &Capabilities) -> Result<u64, Gp> {
    let avx512 = value & AVX512;
    let is_valid = value & !capabilities.xcr0 == 0
        && value & X87 != 0
        && (value & AVX == 0 || value & SSE != 0)
        && (avx512 == 0 || (avx512 == AVX512 && value & AVX != 0));
    if is_valid { Ok(value) } else { Err(Gp) }
}

/// Tells whether `address` is canonical in `linear_bits` (48 or 57) bits.
#[must_use]
pub const fn is_canonical(address: u64, linear_bits: u8) -> bool {
    let spare = 64u32.saturating_sub(linear_bits as u32);
    let shifted = address.wrapping_shl(spare).cast_signed();
    shifted.wrapping_shr(spare).cast_unsigned() == address
}

#[cfg(test)]
mod tests {
    use super::{Control, XcrFault, check_xcr0, is_canonical, xsetbv};
    use crate::Gp;
    use crate::cpuid::{Capabilities, Vendor};
    use api::cpu::{SegmentAttributes as Attr, cr0, cr4, efer};

    fn capabilities() -> Capabilities {
        Capabilities {
            vendor: Vendor::Amd,
            phys_bits: 40,
            cr4: cr4::PAE | cr4::PSE | cr4::PGE | cr4::PCIDE | cr4::LA57 | cr4::OSXSAVE,
            efer: efer::SCE | efer::LME | efer::LMA | efer::NXE,
            xcr0: 0xe7,
            spec_ctrl: 0,
            pred_cmd: 0,
            has_tsc_aux: true,
            has_long_mode: true,
        }
    }

    fn long() -> Control {
        Control {
            cr0: cr0::PE | cr0::ET | cr0::PG,
            cr3: 0x1000,
            cr4: cr4::PAE,
            efer: efer::LME | efer::LMA,
        }
    }

    #[test]
    fn long_mode_begins_with_paging() {
        let mut control = Control {
            cr0: cr0::PE | cr0::ET,
            cr4: cr4::PAE,
            efer: efer::LME,
            ..Control::default()
        };
        let changed = control
            .write_cr0(control.cr0 | cr0::PG, Attr::CODE32)
            .unwrap();
        assert!(changed.control.is_long());
        assert!(!changed.reload_pdptes);
        assert_eq!(
            control.write_cr0(control.cr0 | cr0::PG, Attr::CODE64),
            Err(Gp)
        );
        control.cr4 = 0;
        assert_eq!(
            control.write_cr0(control.cr0 | cr0::PG, Attr::CODE32),
            Err(Gp)
        );
    }

    #[test]
    fn long_mode_ends_with_paging_but_not_in_64_bit_code() {
        assert_eq!(long().write_cr0(cr0::PE, Attr::CODE64), Err(Gp));
        let changed = long().write_cr0(cr0::PE, Attr::CODE32).unwrap();
        assert_eq!(changed.control.efer, efer::LME);
        assert!(changed.flush);
    }

    #[test]
    fn cr0_combinations_that_make_no_sense_fault() {
        let real = Control::default();
        for bad in [cr0::PG, cr0::NW, 1 << 32, 1 << 63] {
            assert_eq!(real.write_cr0(bad, Attr::CODE16), Err(Gp));
        }
        let changed = real
            .write_cr0(0xffff_0000 & !cr0::PG, Attr::CODE16)
            .unwrap();
        assert_eq!(
            changed.control.cr0,
            cr0::CD | cr0::NW | cr0::WP | cr0::AM | cr0::ET
        );
    }

    #[test]
    fn pae_paging_reloads_its_pointers() {
        let pae = Control {
            cr0: cr0::PE | cr0::ET,
            cr4: cr4::PAE,
            ..Control::default()
        };
        let on = pae.write_cr0(pae.cr0 | cr0::PG, Attr::CODE32).unwrap();
        assert!(on.reload_pdptes);
        assert!(
            on.control
                .write_cr3(0x20, &capabilities())
                .unwrap()
                .reload_pdptes
        );
        let toggled = on
            .control
            .write_cr4(cr4::PAE | cr4::PGE, &capabilities())
            .unwrap();
        assert!(toggled.reload_pdptes);
    }

    #[test]
    fn cr3_is_checked_against_the_address_width_only_in_long_mode() {
        let c = capabilities();
        assert_eq!(long().write_cr3(1 << 40, &c), Err(Gp));
        assert_eq!(long().write_cr3(1 << 63, &c), Err(Gp));
        let pcid = Control {
            cr4: cr4::PAE | cr4::PCIDE,
            ..long()
        };
        let changed = pcid.write_cr3(1 << 63 | 0x2001, &c).unwrap();
        assert_eq!((changed.control.cr3, changed.flush), (0x2001, false));
        assert!(pcid.write_cr3(0x2001, &c).unwrap().flush);
    }

    #[test]
    fn cr4_guards_long_mode() {
        let c = capabilities();
        assert_eq!(long().write_cr4(0, &c), Err(Gp));
        assert_eq!(long().write_cr4(cr4::PAE | cr4::LA57, &c), Err(Gp));
        assert_eq!(long().write_cr4(cr4::PAE | cr4::SMEP, &c), Err(Gp));
        assert!(long().write_cr4(cr4::PAE | cr4::PCIDE, &c).is_ok());
        let used = Control {
            cr3: 0x1001,
            ..long()
        };
        assert_eq!(used.write_cr4(cr4::PAE | cr4::PCIDE, &c), Err(Gp));
        let real = Control::default();
        assert_eq!(real.write_cr4(cr4::PCIDE, &c), Err(Gp));
    }

    #[test]
    fn efer_keeps_lma_and_guards_lme() {
        let c = capabilities();
        assert_eq!(long().write_efer(0, &c), Err(Gp));
        assert_eq!(long().write_efer(efer::LME | efer::SVME, &c), Err(Gp));
        let changed = long().write_efer(efer::LME | efer::SCE, &c).unwrap();
        assert_eq!(changed.control.efer, efer::LME | efer::LMA | efer::SCE);
    }

    #[test]
    fn xcr0_components_build_on_each_other() {
        let c = capabilities();
        for good in [1, 3, 7, 0xe7] {
            assert_eq!(check_xcr0(good, &c), Ok(good));
        }
        for bad in [0, 2, 4, 5, 0x27, 0xe3, 0x207] {
            assert_eq!(check_xcr0(bad, &c), Err(Gp));
        }
        let off = long();
        assert_eq!(xsetbv(0, 1, &off, 0, &c), Err(XcrFault::UndefinedOpcode));
        let on = Control {
            cr4: cr4::PAE | cr4::OSXSAVE,
            ..off
        };
        assert_eq!(xsetbv(0, 7, &on, 0, &c), Ok(7));
        assert_eq!(xsetbv(1, 7, &on, 0, &c), Err(Gp.into()));
        assert_eq!(xsetbv(0, 7, &on, 3, &c), Err(Gp.into()));
    }

    #[test]
    fn canonical_addresses_repeat_their_top_bit() {
        assert!(is_canonical(0x7fff_ffff_ffff, 48));
        assert!(!is_canonical(0x8000_0000_0000, 48));
        assert!(is_canonical(0x8000_0000_0000, 57));
        assert!(is_canonical(0xffff_8000_0000_0000, 48));
        assert!(!is_canonical(0x0100_0000_0000_0000, 57));
    }
}
