//! Saved state of the I/O APIC.

use crate::ioapic::{
    ENTRY_DESTINATION, ENTRY_REMOTE_IRR, ENTRY_WRITABLE, Entry, ID_MASK, Ioapic, PIN_MASK, PINS,
};
use crate::layout::IOAPIC_PINS;
use api::device::{Device, RestoreError, SavedState};

/// State of the I/O APIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoapicSaved {
    /// ID register.
    pub id: u32,
    /// Selected register.
    pub select: u8,
    /// Redirection table, high half in the upper 32 bits, remote IRR included.
    pub entries: [u64; 24],
    /// Levels of the pins.
    pub lines: u32,
    /// Edges still to be sent.
    pub edges: u32,
}

impl SavedState for IoapicSaved {
    const KIND: &'static str = "ioapic";
    const VERSION: u16 = 1;
}

impl Device for Ioapic {
    type Saved = IoapicSaved;

    fn reset(&mut self) {
        // Lines are driven from outside; their drivers are reset on their own.
        *self = Self {
            lines: self.lines,
            ..Self::new()
        };
    }

    fn save(&self) -> IoapicSaved {
        let Self {
            id,
            select,
            entries,
            lines,
            edges,
            ready: _,
        } = self;
        IoapicSaved {
            id: *id,
            select: *select,
            entries: entries.map(|entry| u64::from(entry.high) << 32 | u64::from(entry.low)),
            lines: *lines,
            edges: *edges,
        }
    }

    fn restore(&mut self, saved: IoapicSaved) -> Result<(), RestoreError> {
        let bad = |field| RestoreError::Field {
            kind: IoapicSaved::KIND,
            field,
        };
        if saved.id & !ID_MASK != 0 {
            return Err(bad("id"));
        }
        if (saved.lines | saved.edges) & !PIN_MASK != 0 {
            return Err(bad("lines"));
        }
        let mut entries = [Entry::RESET; PINS];
        for (entry, raw) in entries.iter_mut().zip(saved.entries) {
            let [b0, b1, b2, b3, high @ ..] = raw.to_le_bytes();
            let low = u32::from_le_bytes([b0, b1, b2, b3]);
            let high = u32::from_le_bytes(high);
            let waits_as_edge = low & ENTRY_REMOTE_IRR != 0 && !Entry { low, high }.is_level();
            if low & !(ENTRY_WRITABLE | ENTRY_REMOTE_IRR) != 0
                || high & !ENTRY_DESTINATION != 0
                || waits_as_edge
            {
                return Err(bad("entries"));
            }
            *entry = Entry { low, high };
        }
        *self = Self {
            id: saved.id,
            select: saved.select,
            entries,
            lines: saved.lines,
            edges: saved.edges,
            ready: 0,
        };
        for pin in 0..IOAPIC_PINS {
            self.refresh(pin);
        }
        Ok(())
    }
}
