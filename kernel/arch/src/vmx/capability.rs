//! What the capability MSRs allow (SDM vol. 3, appendix A), and the controls that follow from it.
//!
//! A control must be one where the MSR's low half has a one, and may be one where its high half has: "allowed-0" and
//! "allowed-1". The TRUE MSRs, where there are any, let some controls be zero that old software expects to be one.

use core::fmt;
use spec::vmx::{
    EntryControls, EptCapabilities, ExitControls, PinControls, PrimaryControls, SecondaryControls,
};

/// The two halves of a capability MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Allowed(pub(super) u64);

impl Allowed {
    const fn must(self) -> u32 {
        self.0 as u32
    }

    const fn may(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Returns the value with `needed` and as many of `wished` as there are; the missing bits of `needed` if there are any.
    pub(super) const fn settle(self, needed: u32, wished: u32) -> Result<u32, u32> {
        let missing = needed & !self.may();
        if missing == 0 {
            Ok((needed | wished | self.must()) & self.may())
        } else {
            Err(missing)
        }
    }

    /// Returns the bits of `value` that must not be as they are.
    pub(super) const fn violations(self, value: u32) -> u32 {
        value & !self.may() | !value & self.must()
    }
}

/// The capability MSRs that are used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Capabilities {
    pub(super) basic: u64,
    pub(super) misc: u64,
    pub(super) cr0_fixed0: u64,
    pub(super) cr4_fixed0: u64,
    pub(super) pin: Allowed,
    pub(super) primary: Allowed,
    pub(super) secondary: Allowed,
    pub(super) exit: Allowed,
    pub(super) entry: Allowed,
    pub(super) ept: EptCapabilities,
}

/// The controls of every vCPU here, before it asks for windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Controls {
    pub(super) pin: PinControls,
    pub(super) primary: PrimaryControls,
    pub(super) secondary: SecondaryControls,
    pub(super) exit: ExitControls,
    pub(super) entry: EntryControls,
}

/// What this CPU's VMX lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Extended page tables of four levels in write-back memory, with pages of 2 MiB and single-context invalidation.
    Ept,
    /// Real mode under extended page tables.
    UnrestrictedGuest,
    /// Another control, by the group's name and its bits.
    Controls(&'static str, u32),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ept => f.write_str("extended page tables (EPT)"),
            Self::UnrestrictedGuest => f.write_str("real mode in guests (unrestricted guest)"),
            Self::Controls(group, bits) => write!(f, "the {group} controls {bits:#x}"),
        }
    }
}

impl Capabilities {
    /// Chooses the controls.
    ///
    /// # Errors
    /// [`Lack`] where the CPU cannot do without which no VM runs.
    pub(super) fn controls(&self) -> Result<Controls, Lack> {
        let secondary = self.secondary()?;
        let pin_needed =
            PinControls::EXTERNAL_INTERRUPT | PinControls::NMI | PinControls::VIRTUAL_NMI;
        let pin = choose(
            "pin-based",
            self.pin,
            pin_needed.bits(),
            PinControls::PREEMPTION_TIMER.bits(),
        )?;
        let has_timer = pin & PinControls::PREEMPTION_TIMER.bits() != 0;
        let primary = PrimaryControls::from_bits_retain(choose(
            "primary",
            self.primary,
            Self::PRIMARY.bits(),
            PrimaryControls::TPR_SHADOW.bits(),
        )?);
        let cr8 = PrimaryControls::CR8_LOAD | PrimaryControls::CR8_STORE;
        let primary = if primary.contains(PrimaryControls::TPR_SHADOW) {
            primary - cr8
        } else {
            primary | cr8
        };
        let mut exit_needed = Self::EXIT;
        exit_needed.set(ExitControls::SAVE_PREEMPTION_TIMER, has_timer);
        let exit = choose("exit", self.exit, exit_needed.bits(), 0)?;
        let entry = choose("entry", self.entry, Self::ENTRY.bits(), 0)?;
        Ok(Controls {
            pin: PinControls::from_bits_retain(pin),
            primary,
            secondary,
            exit: ExitControls::from_bits_retain(exit),
            entry: EntryControls::from_bits_retain(entry),
        })
    }

    const PRIMARY: PrimaryControls = PrimaryControls::TSC_OFFSETTING
        .union(PrimaryControls::HLT)
        .union(PrimaryControls::MWAIT)
        .union(PrimaryControls::RDPMC)
        .union(PrimaryControls::UNCONDITIONAL_IO)
        .union(PrimaryControls::MSR_BITMAPS)
        .union(PrimaryControls::MONITOR)
        .union(PrimaryControls::SECONDARY);

    const EXIT: ExitControls = ExitControls::SAVE_DEBUG
        .union(ExitControls::HOST_64BIT)
        .union(ExitControls::SAVE_PAT)
        .union(ExitControls::LOAD_PAT)
        .union(ExitControls::SAVE_EFER)
        .union(ExitControls::LOAD_EFER);

    const ENTRY: EntryControls = EntryControls::LOAD_DEBUG
        .union(EntryControls::LOAD_PAT)
        .union(EntryControls::LOAD_EFER);

    fn secondary(&self) -> Result<SecondaryControls, Lack> {
        let may = SecondaryControls::from_bits_retain(self.secondary.may());
        let ept = self.ept;
        if !may.contains(SecondaryControls::EPT)
            || !ept.four_levels_write_back()
            || !ept.pages_2m()
            || !ept.invept_single()
        {
            return Err(Lack::Ept);
        }
        if !may.contains(SecondaryControls::UNRESTRICTED_GUEST) {
            return Err(Lack::UnrestrictedGuest);
        }
        let needed = SecondaryControls::EPT | SecondaryControls::UNRESTRICTED_GUEST;
        let mut wished = SecondaryControls::RDTSCP
            | SecondaryControls::INVPCID
            | SecondaryControls::WBINVD
            | SecondaryControls::PAUSE_LOOP;
        // A tag is of use only if what it marks can be dropped.
        wished.set(SecondaryControls::VPID, ept.invvpid_single());
        // The log is made of dirty bits that are set.
        wished.set(SecondaryControls::PML, ept.accessed_dirty());
        choose("secondary", self.secondary, needed.bits(), wished.bits())
            .map(SecondaryControls::from_bits_retain)
    }
}

fn choose(group: &'static str, allowed: Allowed, needed: u32, wished: u32) -> Result<u32, Lack> {
    allowed
        .settle(needed, wished)
        .map_err(|bits| Lack::Controls(group, bits))
}

#[cfg(test)]
mod tests {
    use super::{Allowed, Capabilities, Lack};
    use spec::vmx::{EptCapabilities, PinControls, PrimaryControls, SecondaryControls};

    /// A CPU with nearly everything, as its MSRs were read.
    fn generous() -> Capabilities {
        Capabilities {
            basic: 0x00d8_1000_0000_0004,
            misc: 0x6004_01e0,
            cr0_fixed0: 0x8000_0021,
            cr4_fixed0: 0x2000,
            pin: Allowed(0x7f_0000_0016),
            primary: Allowed(0xfff9_fffe_0400_6172),
            secondary: Allowed(0x0297_7fff_0000_0000),
            exit: Allowed(0x007f_ffff_0003_6dfb),
            entry: Allowed(0xffff_0000_11fb),
            ept: EptCapabilities(0x0f01_0633_4141),
        }
    }

    #[test]
    fn a_generous_cpu_gives_what_is_wished() {
        let controls = generous().controls().unwrap();
        assert!(controls.pin.contains(PinControls::PREEMPTION_TIMER));
        assert!(controls.primary.contains(PrimaryControls::TPR_SHADOW));
        assert!(!controls.primary.contains(PrimaryControls::CR8_LOAD));
        assert!(controls.secondary.contains(SecondaryControls::VPID));
        assert_eq!(generous().primary.violations(controls.primary.bits()), 0);
        assert_eq!(generous().exit.violations(controls.exit.bits()), 0);
        assert_eq!(generous().entry.violations(controls.entry.bits()), 0);
    }

    #[test]
    fn what_is_missing_is_named_or_done_without() {
        let without = |bit: u32| {
            let mut cpu = generous();
            cpu.secondary.0 &= !(1 << (32 + bit));
            cpu.controls()
        };
        assert_eq!(without(1), Err(Lack::Ept));
        assert_eq!(without(7), Err(Lack::UnrestrictedGuest));
        assert!(
            !without(5)
                .unwrap()
                .secondary
                .contains(SecondaryControls::VPID)
        );
        let mut cpu = generous();
        cpu.primary.0 &= !(1 << (32 + 21));
        let controls = cpu.controls().unwrap();
        assert!(
            controls
                .primary
                .contains(PrimaryControls::CR8_LOAD | PrimaryControls::CR8_STORE)
        );
        cpu.pin.0 &= !(1 << (32 + 5));
        assert_eq!(cpu.controls(), Err(Lack::Controls("pin-based", 1 << 5)));
    }

    #[test]
    fn violations_are_found_in_both_directions() {
        let allowed = Allowed(0x7f_0000_0016);
        assert_eq!(allowed.violations(0x16), 0);
        assert_eq!(allowed.violations(0x14), 2);
        assert_eq!(allowed.violations(0x96), 0x80);
    }
}
