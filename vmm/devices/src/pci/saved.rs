//! Saved state of the PCI bus.

use crate::pci::{ADDRESS_WRITABLE, PciBus};
use api::device::{Device, RestoreError, SavedState};

/// State of configuration address and functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciBusSaved {
    /// Configuration address port.
    pub address: u32,
    /// Configuration space of the host bridge.
    pub host_bridge: [u8; 256],
    /// Configuration space of the ISA bridge.
    pub isa_bridge: [u8; 256],
    /// Configuration space of the power-management function.
    pub power_management: [u8; 256],
}

impl SavedState for PciBusSaved {
    const KIND: &'static str = "i440fx-pci";
    const VERSION: u16 = 1;
}

impl Device for PciBus {
    type Saved = PciBusSaved;

    fn reset(&mut self) {
        *self = Self::new();
    }

    fn save(&self) -> PciBusSaved {
        let Self {
            address,
            host_bridge,
            isa_bridge,
            power_management,
        } = self;
        PciBusSaved {
            address: *address,
            host_bridge: host_bridge.bytes(),
            isa_bridge: isa_bridge.bytes(),
            power_management: power_management.bytes(),
        }
    }

    fn restore(&mut self, saved: PciBusSaved) -> Result<(), RestoreError> {
        let bad = |field| RestoreError::Field {
            kind: PciBusSaved::KIND,
            field,
        };
        if saved.address & !ADDRESS_WRITABLE != 0 {
            return Err(bad("address"));
        }
        let reset = Self::new();
        *self = Self {
            address: saved.address,
            host_bridge: reset
                .host_bridge
                .restored(saved.host_bridge)
                .ok_or(bad("host_bridge"))?,
            isa_bridge: reset
                .isa_bridge
                .restored(saved.isa_bridge)
                .ok_or(bad("isa_bridge"))?,
            power_management: reset
                .power_management
                .restored(saved.power_management)
                .ok_or(bad("power_management"))?,
        };
        Ok(())
    }
}
