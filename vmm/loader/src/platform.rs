//! Addresses and interrupt numbers of the chips that the tables name. They must agree with `vmm/devices`.

/// The IOAPIC's registers.
pub(crate) const IOAPIC_BASE: u32 = 0xfec0_0000;
/// The IOAPIC's identifier, its reset value.
pub(crate) const IOAPIC_ID: u8 = 0;
/// The local APICs' registers.
pub(crate) const LAPIC_BASE: u32 = 0xfee0_0000;
/// Highest APIC id that fits the 8-bit fields of xAPIC; 255 is the broadcast address.
pub(crate) const XAPIC_ID_MAX: u32 = 254;
/// PM1a event block; the control block and the timer follow.
pub(crate) const PM1_EVENT: u16 = 0xb000;
/// PM1a control block.
pub(crate) const PM1_CONTROL: u16 = 0xb004;
/// Power management timer.
pub(crate) const PM_TIMER: u16 = 0xb008;
/// General-purpose events: status, then enable.
pub(crate) const GPE0: u16 = 0xb00c;
/// Bytes of [`GPE0`].
pub(crate) const GPE0_LEN: u8 = 4;
/// Ports of the power management block.
pub(crate) const PM_PORTS: u8 = 0x40;
/// SMI command port.
pub(crate) const SMI_COMMAND: u8 = 0xb2;
/// Command that hands power management to the operating system.
pub(crate) const ACPI_ENABLE: u8 = 0xf1;
/// Command that takes it back.
pub(crate) const ACPI_DISABLE: u8 = 0xf0;
/// System control interrupt: level, active high.
pub(crate) const SCI_IRQ: u8 = 9;
/// The ISA timer's interrupt arrives at this input of the IOAPIC.
pub(crate) const PIT_GSI: u8 = 2;
/// Reset control register.
pub(crate) const RESET_PORT: u16 = 0xcf9;
/// Value that resets the machine.
pub(crate) const RESET_VALUE: u8 = 6;
/// Slots of the PCI bus.
pub(crate) const PCI_SLOTS: u8 = 32;
/// Interrupt pins of a slot.
pub(crate) const PCI_PINS: u8 = 4;

/// Returns the interrupt of a slot's pin, 0 to 3 for INTA to INTD: the four PIIX3 links, rotated by slot, go to two
/// ISA interrupts, which work with and without the IOAPIC.
pub(crate) const fn pci_irq(slot: u8, pin: u8) -> u8 {
    match slot.wrapping_add(pin).wrapping_sub(1) % PCI_PINS {
        0 | 1 => 10,
        _ => 11,
    }
}

/// Tells whether ISA interrupt `irq` is level-triggered.
pub(crate) const fn is_level(irq: u8) -> bool {
    matches!(irq, SCI_IRQ | 10 | 11)
}
