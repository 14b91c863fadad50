//! Where the PC's parts are: ports, interrupt lines and addresses, as firmware tables and the wiring both need them.
//!
//! Only what is visible to a guest stands here; what a chip does at its ports is the chip's own file.

use api::device::Gsi;

/// First port of the master 8259 (command, data).
pub const PIC_MASTER: u16 = 0x20;
/// First port of the slave 8259 (command, data).
pub const PIC_SLAVE: u16 = 0xa0;
/// First of the two edge/level control ports (master, slave).
pub const PIC_ELCR: u16 = 0x4d0;
/// First of the four 8254 ports (counters 0 to 2, control).
pub const PIT: u16 = 0x40;
/// System control port B: gate and output of 8254 counter 2, speaker.
pub const PORT_61: u16 = 0x61;
/// Data port of the 8042.
pub const I8042_DATA: u16 = 0x60;
/// Command and status port of the 8042.
pub const I8042_COMMAND: u16 = 0x64;
/// Index port of the real-time clock; bit 7 masks NMIs.
pub const RTC_INDEX: u16 = 0x70;
/// Data port of the real-time clock.
pub const RTC_DATA: u16 = 0x71;
/// Power-on self-test codes; written by firmware and as an I/O delay.
pub const POST: u16 = 0x80;
/// System control port A: fast A20 and fast CPU reset.
pub const PORT_92: u16 = 0x92;
/// SMI command port; the FADT's `SMI_CMD`.
pub const SMI_COMMAND: u16 = 0xb2;
/// SMI status (scratch) port beside [`SMI_COMMAND`].
pub const SMI_STATUS: u16 = 0xb3;
/// Value written to [`SMI_COMMAND`] to set SCI_EN; the FADT's `ACPI_ENABLE`.
pub const ACPI_ENABLE: u8 = 0xf1;
/// Value written to [`SMI_COMMAND`] to clear SCI_EN; the FADT's `ACPI_DISABLE`.
pub const ACPI_DISABLE: u8 = 0xf0;
/// Debug console: writes are output, reads return E9h.
pub const DEBUGCON: u16 = 0xe9;
/// First of the eight ports of COM1.
pub const COM1: u16 = 0x3f8;
/// First of the eight ports of COM2.
pub const COM2: u16 = 0x2f8;
/// fw_cfg selector (word); the data port (byte) follows it.
pub const FW_CFG: u16 = 0x510;
/// fw_cfg DMA address register, two big-endian double words.
pub const FW_CFG_DMA: u16 = 0x514;
/// PCI configuration address (double word).
pub const PCI_ADDRESS: u16 = 0xcf8;
/// PCI configuration data, four ports.
pub const PCI_DATA: u16 = 0xcfc;
/// Reset control register of the PIIX3.
pub const RESET_CONTROL: u16 = 0xcf9;

/// Power-management ports at reset: the PIIX4's PMBASE before a guest moves it.
pub const PM_BASE: u16 = 0xb000;
/// Ports that the power-management block spans.
pub const PM_LEN: u16 = 64;
/// PM1a event block (status, enable), 4 bytes; the FADT's `PM1a_EVT_BLK`.
pub const PM1A_EVENT: u16 = PM_BASE;
/// PM1a control block, 2 bytes; the FADT's `PM1a_CNT_BLK`.
pub const PM1A_CONTROL: u16 = PM_BASE + 4;
/// PM timer, 4 bytes; the FADT's `PM_TMR_BLK`.
pub const PM_TIMER: u16 = PM_BASE + 8;
/// General-purpose event block 0 (2 bytes status, 2 bytes enable); the FADT's `GPE0_BLK`.
pub const GPE0: u16 = PM_BASE + 0xc;
/// Bytes of [`GPE0`]; the FADT's `GPE0_BLK_LEN`.
pub const GPE0_LEN: u8 = 4;
/// Counting bits of the PM timer: the FADT's flag `TMR_VAL_EXT` stays clear.
pub const PM_TIMER_BITS: u32 = 24;
/// SLP_TYP of S5 (soft off), for the DSDT's `_S5`: what QEMU's PIIX4 uses.
pub const SLEEP_TYPE_S5: u8 = 0;
/// SLP_TYP of S3 (suspend to RAM).
pub const SLEEP_TYPE_S3: u8 = 1;
/// SLP_TYP of S4 (suspend to disk).
pub const SLEEP_TYPE_S4: u8 = 2;

/// Line of the 8254's counter 0. It reaches the I/O APIC at pin 2 (interrupt source override in the MADT).
pub const GSI_PIT: Gsi = Gsi(0);
/// I/O APIC pin to which ISA interrupt 0 is wired.
pub const PIT_IOAPIC_PIN: u8 = 2;
/// Line of the 8042's keyboard.
pub const GSI_KEYBOARD: Gsi = Gsi(1);
/// Line of COM2.
pub const GSI_COM2: Gsi = Gsi(3);
/// Line of COM1.
pub const GSI_COM1: Gsi = Gsi(4);
/// Line of the real-time clock.
pub const GSI_RTC: Gsi = Gsi(8);
/// ACPI system control interrupt: level, active high in the MADT's override.
pub const GSI_SCI: Gsi = Gsi(9);

/// Character channel of COM1.
pub const CHANNEL_COM1: u8 = 0;
/// Character channel of COM2.
pub const CHANNEL_COM2: u8 = 1;
/// Character channel of the debug console.
pub const CHANNEL_DEBUG: u8 = 2;

/// Guest-physical address of the I/O APIC.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// Bytes that the I/O APIC's registers span.
pub const IOAPIC_LEN: u64 = 0x1000;
/// Pins of the I/O APIC; they carry GSI 0 to 23.
pub const IOAPIC_PINS: u8 = 24;
/// Guest-physical address of every local APIC at reset.
pub const LAPIC_BASE: u64 = 0xfee0_0000;
/// Bytes that a local APIC's registers span.
pub const LAPIC_LEN: u64 = 0x1000;
/// Input clock of the local APIC timer before its divider, in Hz.
pub const LAPIC_TIMER_HZ: u64 = 1_000_000_000;

/// Exit port of the test devices.
pub const TEST_EXIT: u16 = 0xf4;
/// First of the four latch ports of the test devices.
pub const TEST_LATCH: u16 = 0xe0;
/// Page-mapping port of the test devices.
pub const TEST_FLUSH: u16 = 0xe4;
/// First of the four byte-wise latch ports of the test devices.
pub const TEST_LATCH_BYTES: u16 = 0xe8;
/// First of the 24 interrupt-line ports of the test devices.
pub const TEST_IRQ: u16 = 0x2000;
/// Guest-physical address of the test devices' memory latch.
pub const TEST_MMIO_BASE: u64 = 0xff00_0000;
/// Bytes of the test devices' memory latch.
pub const TEST_MMIO_LEN: u64 = 0x1_0000;
