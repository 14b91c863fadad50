//! The host's I/O APICs: one register window each, edge-triggered routing to one CPU.

/// One I/O APIC.
#[derive(Debug)]
pub struct IoApic {
    /// Where its registers are mapped.
    base: u64,
    /// First GSI.
    gsi_base: u32,
    pins: u32,
}

/// How a line signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Active low instead of high.
    pub active_low: bool,
    /// Level instead of edge.
    pub level: bool,
}

impl IoApic {
    /// Takes over the I/O APIC mapped (uncached) at `base` and masks all its pins.
    ///
    /// # Safety
    /// An I/O APIC's registers are mapped at `base` for ever, and nothing else drives it.
    #[must_use]
    pub unsafe fn new(base: u64, gsi_base: u32) -> Self {
        let mut this = Self {
            base,
            gsi_base,
            pins: 0,
        };
        this.pins = (this.read(1) >> 16 & 0xff) + 1;
        for pin in 0..this.pins {
            this.write(0x10 + pin * 2, 1 << 16);
        }
        this
    }

    /// Tells whether `gsi` is one of its pins.
    #[must_use]
    pub fn has(&self, gsi: u32) -> bool {
        gsi >= self.gsi_base && gsi - self.gsi_base < self.pins
    }

    /// Routes `gsi` to `vector` on the CPU with `apic_id` (0 to 254).
    pub fn route(&mut self, gsi: u32, vector: u8, apic_id: u32, signal: Signal) {
        let pin = gsi - self.gsi_base;
        let low =
            u32::from(vector) | u32::from(signal.active_low) << 13 | u32::from(signal.level) << 15;
        self.write(0x11 + pin * 2, apic_id << 24);
        self.write(0x10 + pin * 2, low);
    }

    fn read(&self, register: u32) -> u32 {
        let (select, window) = (self.base as *mut u32, (self.base + 0x10) as *const u32);
        // SAFETY: the window is mapped by `new`'s contract; selecting a register has no other effect.
        unsafe { select.write_volatile(register) };
        // SAFETY: as above.
        unsafe { window.read_volatile() }
    }

    fn write(&mut self, register: u32, value: u32) {
        let (select, window) = (self.base as *mut u32, (self.base + 0x10) as *mut u32);
        // SAFETY: as in `read`.
        unsafe { select.write_volatile(register) };
        // SAFETY: as in `read`; routing an interrupt to a vector with a stub cannot break memory safety.
        unsafe { window.write_volatile(value) };
    }
}
