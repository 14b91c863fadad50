//! Saved state of fw_cfg. Its items are configuration and are not part of it.

use crate::fw_cfg::{FwCfg, KEY_MASK};
use api::device::{Device, RestoreError, SavedState};

/// What the guest's last accesses left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FwCfgSaved {
    /// Selected key.
    pub selected: u16,
    /// Offset of the next byte in its item.
    pub offset: u32,
    /// High half of the DMA address.
    pub dma_high: u32,
}

impl SavedState for FwCfgSaved {
    const KIND: &'static str = "fw_cfg";
    const VERSION: u16 = 1;
}

impl Device for FwCfg {
    type Saved = FwCfgSaved;

    fn reset(&mut self) {
        self.select(0);
        self.dma_high = 0;
    }

    fn save(&self) -> FwCfgSaved {
        let Self {
            items: _,
            names: _,
            selected,
            offset,
            dma_high,
        } = self;
        FwCfgSaved {
            selected: *selected,
            offset: *offset,
            dma_high: *dma_high,
        }
    }

    fn restore(&mut self, saved: FwCfgSaved) -> Result<(), RestoreError> {
        if saved.selected & !KEY_MASK != 0 {
            return Err(RestoreError::Field {
                kind: FwCfgSaved::KIND,
                field: "selected",
            });
        }
        self.selected = saved.selected;
        self.offset = saved.offset;
        self.dma_high = saved.dma_high;
        Ok(())
    }
}
