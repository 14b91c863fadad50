//! Saved state of the whole chipset: that of its chips, and the levels of its lines.

use crate::chipset::{Attention, Chipset};
use alloc::boxed::Box;
use api::device::{Device, RestoreError, SavedState};
use devices::fw_cfg::saved::FwCfgSaved;
use devices::i8042::saved::I8042Saved;
use devices::ioapic::saved::IoapicSaved;
use devices::layout::IOAPIC_PINS;
use devices::pci::saved::PciBusSaved;
use devices::pic::saved::PicSaved;
use devices::pit::saved::PitSaved;
use devices::pm::saved::PmSaved;
use devices::reset::ResetPortsSaved;
use devices::rtc::saved::RtcSaved;
use devices::testdev::TestDevicesSaved;
use devices::uart::saved::UartSaved;

/// State of the chipset. What waits for the caller (output, actions) is not part of it: take it first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "one field per chip, named after it")]
pub struct ChipsetSaved {
    pub pic: PicSaved,
    pub pit: PitSaved,
    pub ioapic: IoapicSaved,
    pub rtc: RtcSaved,
    pub pm: PmSaved,
    pub pci: Box<PciBusSaved>,
    pub reset_ports: ResetPortsSaved,
    pub i8042: I8042Saved,
    pub com1: UartSaved,
    pub com2: UartSaved,
    pub fw_cfg: FwCfgSaved,
    /// Present exactly when the machine has test devices.
    pub test_devices: Option<TestDevicesSaved>,
    pub post_code: u8,
    /// Levels of the interrupt lines; bit n is GSI n.
    pub levels: u32,
}

impl SavedState for ChipsetSaved {
    const KIND: &'static str = "chipset";
    const VERSION: u16 = 1;
}

fn bad(field: &'static str) -> RestoreError {
    RestoreError::Field {
        kind: ChipsetSaved::KIND,
        field,
    }
}

impl Device for Chipset {
    type Saved = ChipsetSaved;

    /// Resets every chip, as a platform reset does. The clock keeps its time and its memory; what waits for the caller
    /// stays.
    fn reset(&mut self) {
        for gsi in 0..IOAPIC_PINS {
            self.drive(gsi, false);
        }
        self.outbox.restore_levels(0);
        self.pic.reset();
        self.pit.reset();
        self.ioapic.reset();
        self.rtc.reset();
        self.pm.reset();
        self.pci.reset();
        self.reset_ports.reset();
        self.i8042.reset();
        self.com1.reset();
        self.com2.reset();
        self.fw_cfg.reset();
        if let Some(devices) = &mut self.test_devices {
            devices.reset();
        }
        self.post_code = 0;
        self.derive();
    }

    fn save(&self) -> ChipsetSaved {
        let Self {
            pic,
            pit,
            ioapic,
            rtc,
            pm,
            pci,
            reset_ports,
            i8042,
            com1,
            com2,
            debug_console: _,
            fw_cfg,
            test_devices,
            post_code,
            outbox,
            attention: _,
            pm_base: _,
            intr: _,
            deadline: _,
            timer_masked: _,
            timer_due: _,
        } = self;
        ChipsetSaved {
            pic: pic.save(),
            pit: pit.save(),
            ioapic: ioapic.save(),
            rtc: rtc.save(),
            pm: pm.save(),
            pci: Box::new(pci.save()),
            reset_ports: reset_ports.save(),
            i8042: i8042.save(),
            com1: com1.save(),
            com2: com2.save(),
            fw_cfg: fw_cfg.save(),
            test_devices: test_devices.as_ref().map(|devices| devices.save()),
            post_code: *post_code,
            levels: outbox.levels(),
        }
    }

    fn restore(&mut self, saved: ChipsetSaved) -> Result<(), RestoreError> {
        if saved.levels >> IOAPIC_PINS != 0 {
            return Err(bad("levels"));
        }
        if saved.test_devices.is_some() != self.test_devices.is_some() {
            return Err(bad("test_devices"));
        }
        let before = self.save();
        let restored = self.restore_chips(saved);
        if restored.is_err() {
            // Own state restores; a chip may have taken over its part before another refused.
            self.restore_chips(before)?;
        }
        self.derive();
        self.attention |= Attention::INPUT;
        restored
    }
}

impl Chipset {
    fn restore_chips(&mut self, saved: ChipsetSaved) -> Result<(), RestoreError> {
        self.pic.restore(saved.pic)?;
        self.pit.restore(saved.pit)?;
        self.ioapic.restore(saved.ioapic)?;
        self.rtc.restore(saved.rtc)?;
        self.pm.restore(saved.pm)?;
        self.pci.restore(*saved.pci)?;
        self.reset_ports.restore(saved.reset_ports)?;
        self.i8042.restore(saved.i8042)?;
        self.com1.restore(saved.com1)?;
        self.com2.restore(saved.com2)?;
        self.fw_cfg.restore(saved.fw_cfg)?;
        if let (Some(devices), Some(saved)) = (&mut self.test_devices, saved.test_devices) {
            devices.restore(saved)?;
        }
        self.post_code = saved.post_code;
        self.outbox.restore_levels(saved.levels);
        Ok(())
    }
}
