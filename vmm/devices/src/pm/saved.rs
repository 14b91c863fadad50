//! Saved state of the power-management block.

use crate::pm::{CONTROL_WRITABLE, Event, Pm};
use api::device::{Device, RestoreError, SavedState};

/// State of the power-management block, registers by their ACPI names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the block's registers")]
pub struct PmSaved {
    pub status: u16,
    pub enable: u16,
    pub control: u16,
    pub gpe_status: u16,
    pub gpe_enable: u16,
    pub smi_command: u8,
    pub smi_status: u8,
    /// Half-period of the PM timer up to which TMR_STS was looked for.
    pub checked_half: u64,
    /// Level last driven on the SCI.
    pub line_level: bool,
}

impl SavedState for PmSaved {
    const KIND: &'static str = "piix4-pm";
    const VERSION: u16 = 1;
}

impl Device for Pm {
    type Saved = PmSaved;

    fn reset(&mut self) {
        // The timer's past is not an event of the new life.
        *self = Self {
            checked_half: self.checked_half,
            ..Self::new()
        };
    }

    fn save(&self) -> PmSaved {
        let Self {
            status,
            enable,
            control,
            gpe_status,
            gpe_enable,
            smi_command,
            smi_status,
            checked_half,
            line_level,
        } = self;
        PmSaved {
            status: status.bits(),
            enable: enable.bits(),
            control: *control,
            gpe_status: *gpe_status,
            gpe_enable: *gpe_enable,
            smi_command: *smi_command,
            smi_status: *smi_status,
            checked_half: *checked_half,
            line_level: *line_level,
        }
    }

    fn restore(&mut self, saved: PmSaved) -> Result<(), RestoreError> {
        let bad = |field| RestoreError::Field {
            kind: PmSaved::KIND,
            field,
        };
        let enable = Event::from_bits(saved.enable).ok_or(bad("enable"))?;
        if !Event::ENABLES.contains(enable) {
            return Err(bad("enable"));
        }
        if saved.control & !CONTROL_WRITABLE != 0 {
            return Err(bad("control"));
        }
        *self = Self {
            status: Event::from_bits(saved.status).ok_or(bad("status"))?,
            enable,
            control: saved.control,
            gpe_status: saved.gpe_status,
            gpe_enable: saved.gpe_enable,
            smi_command: saved.smi_command,
            smi_status: saved.smi_status,
            checked_half: saved.checked_half,
            line_level: saved.line_level,
        };
        Ok(())
    }
}
