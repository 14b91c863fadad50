//! Saved state of the 8259A pair.

use crate::pic::chip::{Chip, Init};
use crate::pic::{ELCR_MASTER, ELCR_SLAVE, Pic};
use api::device::{Device, RestoreError, SavedState};

/// State of both chips.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PicSaved {
    /// Interrupts 0 to 7.
    pub master: PicChipSaved,
    /// Interrupts 8 to 15.
    pub slave: PicChipSaved,
}

/// State of one chip; bit n of a register is input n.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "registers and command bits by their names in the data sheet"
)]
pub struct PicChipSaved {
    pub lines: u8,
    /// Edges not yet acknowledged.
    pub edges: u8,
    pub elcr: u8,
    pub in_service: u8,
    pub mask: u8,
    /// Upper five bits of the vector.
    pub base: u8,
    /// Input of lowest priority, 0 to 7.
    pub lowest: u8,
    /// Initialization command word that is expected: 0 (none), 2, 3 or 4.
    pub init: u8,
    pub expect_icw4: bool,
    pub single: bool,
    pub auto_eoi: bool,
    pub rotate_on_auto_eoi: bool,
    pub fully_nested: bool,
    pub special_mask: bool,
    pub read_in_service: bool,
    pub poll: bool,
}

impl SavedState for PicSaved {
    const KIND: &'static str = "i8259";
    const VERSION: u16 = 1;
}

impl Device for Pic {
    type Saved = PicSaved;

    fn reset(&mut self) {
        let (master, slave) = (self.master.lines, self.slave.lines);
        *self = Self::new();
        // Lines are driven from outside; their drivers are reset on their own.
        self.master.lines = master;
        self.slave.lines = slave;
        self.update();
    }

    fn save(&self) -> PicSaved {
        let Self {
            master,
            slave,
            intr: _,
        } = self;
        PicSaved {
            master: save_chip(master),
            slave: save_chip(slave),
        }
    }

    fn restore(&mut self, saved: PicSaved) -> Result<(), RestoreError> {
        let master = restore_chip(&saved.master, ELCR_MASTER)?;
        let slave = restore_chip(&saved.slave, ELCR_SLAVE)?;
        *self = Self {
            master,
            slave,
            intr: false,
        };
        self.update();
        Ok(())
    }
}

fn save_chip(chip: &Chip) -> PicChipSaved {
    let Chip {
        lines,
        edges,
        elcr,
        cascade: _,
        in_service,
        mask,
        base,
        lowest,
        init,
        expect_icw4,
        single,
        auto_eoi,
        rotate_on_auto_eoi,
        fully_nested,
        special_mask,
        read_in_service,
        poll,
    } = *chip;
    PicChipSaved {
        lines,
        edges,
        elcr,
        in_service,
        mask,
        base,
        lowest,
        init: match init {
            Init::Done => 0,
            Init::Icw2 => 2,
            Init::Icw3 => 3,
            Init::Icw4 => 4,
        },
        expect_icw4,
        single,
        auto_eoi,
        rotate_on_auto_eoi,
        fully_nested,
        special_mask,
        read_in_service,
        poll,
    }
}

fn restore_chip(saved: &PicChipSaved, elcr_mask: u8) -> Result<Chip, RestoreError> {
    let bad = |field| RestoreError::Field {
        kind: PicSaved::KIND,
        field,
    };
    if saved.elcr & !elcr_mask != 0 {
        return Err(bad("elcr"));
    }
    if saved.edges & saved.elcr != 0 {
        return Err(bad("edges"));
    }
    if saved.base & 7 != 0 {
        return Err(bad("base"));
    }
    if saved.lowest > 7 {
        return Err(bad("lowest"));
    }
    let init = match saved.init {
        0 => Init::Done,
        2 => Init::Icw2,
        3 => Init::Icw3,
        4 => Init::Icw4,
        _ => return Err(bad("init")),
    };
    Ok(Chip {
        lines: saved.lines,
        edges: saved.edges,
        elcr: saved.elcr,
        cascade: false,
        in_service: saved.in_service,
        mask: saved.mask,
        base: saved.base,
        lowest: saved.lowest,
        init,
        expect_icw4: saved.expect_icw4,
        single: saved.single,
        auto_eoi: saved.auto_eoi,
        rotate_on_auto_eoi: saved.rotate_on_auto_eoi,
        fully_nested: saved.fully_nested,
        special_mask: saved.special_mask,
        read_in_service: saved.read_in_service,
        poll: saved.poll,
    })
}
