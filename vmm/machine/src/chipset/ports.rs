//! Which chip answers which port.
//!
//! Most chips have byte registers and wider accesses are split, low byte first. The exceptions take an access whole:
//! the PM timer, PCI configuration, fw_cfg's selector and DMA address, and the test devices. Where no chip answers,
//! reads are all ones and writes are lost.

use crate::chipset::{Attention, Chipset, Env};
use api::device::{PortIo, Width};
use devices::layout::{
    COM1, COM2, DEBUGCON, FW_CFG, FW_CFG_DMA, I8042_COMMAND, I8042_DATA, PCI_ADDRESS, PCI_DATA,
    PIC_ELCR, PIC_MASTER, PIC_SLAVE, PIT, PM_LEN, PORT_61, PORT_92, POST, RESET_CONTROL, RTC_DATA,
    RTC_INDEX, SMI_COMMAND, SMI_STATUS, TEST_EXIT, TEST_FLUSH, TEST_IRQ, TEST_LATCH,
    TEST_LATCH_BYTES,
};
use devices::pm::{Pm, TIMER_OFFSET};
use devices::testdev::TestDevices;

const PIC_MASTER_DATA: u16 = PIC_MASTER + 1;
const PIC_SLAVE_DATA: u16 = PIC_SLAVE + 1;
const PIC_ELCR_LAST: u16 = PIC_ELCR + 1;
const PIT_LAST: u16 = PIT + 3;
const COM1_LAST: u16 = COM1 + 7;
const COM2_LAST: u16 = COM2 + 7;
const FW_CFG_DATA: u16 = FW_CFG + 1;
const FW_CFG_DMA_LOW: u16 = FW_CFG_DMA + 4;
const PCI_DATA_LAST: u16 = PCI_DATA + 3;
const TEST_LATCH_LAST: u16 = TEST_LATCH + 3;
const TEST_LATCH_BYTES_LAST: u16 = TEST_LATCH_BYTES + 3;
const TEST_IRQ_LAST: u16 = TEST_IRQ + 23;

impl Chipset {
    /// Reads `width` bytes (at most 4) at `port`. Bits above the width are 0.
    #[inline]
    pub fn port_read(&mut self, port: u16, width: Width, env: &Env<'_>) -> u32 {
        match width {
            Width::Byte => self.read_byte(port, env).into(),
            Width::Word | Width::Dword | Width::Qword => self.read_wide(port, width, env),
        }
    }

    /// Writes the low `width` bytes (at most 4) of `value` at `port`.
    #[inline]
    pub fn port_write(&mut self, port: u16, width: Width, value: u32, env: &Env<'_>) {
        let [byte, ..] = value.to_le_bytes();
        match width {
            Width::Byte => self.write_byte(port, byte, env),
            Width::Word | Width::Dword | Width::Qword => self.write_wide(port, width, value, env),
        }
    }

    fn read_wide(&mut self, port: u16, width: Width, env: &Env<'_>) -> u32 {
        let dword = width != Width::Word;
        match port {
            PCI_DATA..=PCI_DATA_LAST => self.pci.read_data(port, width),
            PCI_ADDRESS if dword => self.pci.read_address(),
            FW_CFG_DMA if dword => self.fw_cfg.read_dma(true),
            FW_CFG_DMA_LOW if dword => self.fw_cfg.read_dma(false),
            _ if dword && self.pm_offset(port) == Some(TIMER_OFFSET) => Pm::read_timer(env.now),
            _ => {
                if let Some(devices) = &self.test_devices
                    && is_latch(port)
                {
                    return devices.read_latch(port, width);
                }
                self.read_split(port, width, env)
            }
        }
    }

    fn read_split(&mut self, port: u16, width: Width, env: &Env<'_>) -> u32 {
        let mut bytes = [0; 4];
        for (index, byte) in (0..).zip(bytes.iter_mut().take(len_of(width))) {
            // Nothing is beyond port FFFFh.
            *byte = match port.checked_add(index) {
                Some(port) => self.read_byte(port, env),
                None => 0xff,
            };
        }
        u32::from_le_bytes(bytes)
    }

    fn write_wide(&mut self, port: u16, width: Width, value: u32, env: &Env<'_>) {
        let dword = width != Width::Word;
        match port {
            PCI_DATA..=PCI_DATA_LAST => self.write_pci_data(port, width, value),
            PCI_ADDRESS if dword => self.pci.write_address(value),
            FW_CFG if !dword => {
                let [low, high, ..] = value.to_le_bytes();
                self.fw_cfg.select(u16::from_le_bytes([low, high]));
            }
            FW_CFG_DMA | FW_CFG_DMA_LOW if dword => {
                let mut cx = Self::cx(&mut self.outbox, env);
                self.fw_cfg.write_dma(port == FW_CFG_DMA, value, &mut cx);
            }
            _ => {
                if self.write_test_port(port, width, value) {
                    self.carry_lines();
                    return;
                }
                let bytes = value.to_le_bytes();
                for (index, byte) in (0..).zip(bytes.iter().take(len_of(width))) {
                    if let Some(port) = port.checked_add(index) {
                        self.write_byte(port, *byte, env);
                    }
                }
            }
        }
    }

    fn read_byte(&mut self, port: u16, env: &Env<'_>) -> u8 {
        let value = if (COM1..=COM1_LAST).contains(&port) {
            // Kernels without interrupts for it read the line status before each character.
            let mut cx = Self::cx(&mut self.outbox, env);
            let value = self.com1.read_u8(port & 7, &mut cx);
            self.after_uart_read(port);
            value
        } else {
            self.read_other_byte(port, env)
        };
        self.carry_lines();
        value
    }

    fn read_other_byte(&mut self, port: u16, env: &Env<'_>) -> u8 {
        match port {
            PIC_MASTER | PIC_SLAVE => self.read_pic_command(port, env),
            PIC_MASTER_DATA | PIC_SLAVE_DATA | PIC_ELCR..=PIC_ELCR_LAST => self.pic.read(port),
            COM2..=COM2_LAST => {
                let mut cx = Self::cx(&mut self.outbox, env);
                let value = self.com2.read_u8(port & 7, &mut cx);
                self.after_uart_read(port);
                value
            }
            PIT..=PIT_LAST => {
                let mut cx = Self::cx(&mut self.outbox, env);
                self.pit.read_u8(port & 3, &mut cx)
            }
            PORT_61 => self.pit.read_port_61(env.now),
            I8042_DATA => self.i8042.read_data(&mut self.outbox),
            I8042_COMMAND => self.i8042.read_status(),
            RTC_DATA => {
                let mut cx = Self::cx(&mut self.outbox, env);
                let value = self.rtc.read_data(&mut cx);
                self.update_deadline();
                value
            }
            POST => self.post_code,
            PORT_92 => self.reset_ports.read_port_a(),
            SMI_COMMAND..=SMI_STATUS => self.pm.read_smi(port & 1),
            RESET_CONTROL => self.reset_ports.read_control(),
            DEBUGCON => self.debug_console.read(),
            FW_CFG_DATA => self.fw_cfg.read_data(),
            PCI_DATA..=PCI_DATA_LAST => {
                let [byte, ..] = self.pci.read_data(port, Width::Byte).to_le_bytes();
                byte
            }
            _ => self.read_movable(port, env),
        }
    }

    fn write_byte(&mut self, port: u16, value: u8, env: &Env<'_>) {
        match port {
            PIC_MASTER..=PIC_MASTER_DATA | PIC_SLAVE..=PIC_SLAVE_DATA => {
                self.catch_up_timer(env.now);
                self.pic.write(port, value);
                self.update_intr();
                self.update_timer_mask();
            }
            PIC_ELCR..=PIC_ELCR_LAST => {
                self.pic.write(port, value);
                self.update_intr();
            }
            COM1..=COM1_LAST => {
                let mut cx = Self::cx(&mut self.outbox, env);
                self.com1.write_u8(port & 7, value, &mut cx);
                self.after_uart_write(port);
            }
            COM2..=COM2_LAST => {
                let mut cx = Self::cx(&mut self.outbox, env);
                self.com2.write_u8(port & 7, value, &mut cx);
                self.after_uart_write(port);
            }
            PIT..=PIT_LAST => {
                let mut cx = Self::cx(&mut self.outbox, env);
                self.pit.write_u8(port & 3, value, &mut cx);
                self.update_deadline();
            }
            PORT_61 => self.pit.write_port_61(value, env.now),
            I8042_DATA => self.i8042.write_data(value, &mut self.outbox),
            I8042_COMMAND => self.i8042.write_command(value, &mut self.outbox),
            RTC_INDEX => self.rtc.write_index(value),
            RTC_DATA => {
                let mut cx = Self::cx(&mut self.outbox, env);
                self.rtc.write_data(value, &mut cx);
                self.update_deadline();
            }
            POST => self.post_code = value,
            PORT_92 => self.reset_ports.write_port_a(value, &mut self.outbox),
            SMI_COMMAND..=SMI_STATUS => {
                self.pm.write_smi(port & 1, value, &mut self.outbox);
                self.update_deadline();
            }
            RESET_CONTROL => self.reset_ports.write_control(value, &mut self.outbox),
            DEBUGCON => self.debug_console.write(value, &mut self.outbox),
            PCI_DATA..=PCI_DATA_LAST => self.write_pci_data(port, Width::Byte, value.into()),
            _ => self.write_movable(port, value, env),
        }
        self.carry_lines();
    }

    fn read_pic_command(&mut self, port: u16, env: &Env<'_>) -> u8 {
        self.catch_up_timer(env.now);
        let value = self.pic.read(port);
        // A read may be a poll, which acknowledges.
        self.update_intr();
        value
    }

    /// A character was taken from the receiver.
    #[inline]
    fn after_uart_read(&mut self, port: u16) {
        if port & 7 == 0 {
            self.attention |= Attention::INPUT;
        }
    }

    /// FIFO and modem control may empty the receiver or connect it.
    #[inline]
    fn after_uart_write(&mut self, port: u16) {
        if matches!(port & 7, 2 | 4) {
            self.attention |= Attention::INPUT;
        }
    }

    fn write_pci_data(&mut self, port: u16, width: Width, value: u32) {
        self.pci.write_data(port, width, value);
        self.pm_base = self.pci.pm_base();
    }

    /// Ports whose place is programmable, or that exist only in some machines.
    fn read_movable(&mut self, port: u16, env: &Env<'_>) -> u8 {
        if let Some(offset) = self.pm_offset(port) {
            let mut cx = Self::cx(&mut self.outbox, env);
            return self.pm.read_u8(offset, &mut cx);
        }
        match &self.test_devices {
            Some(devices) if is_latch(port) => {
                let [byte, ..] = devices.read_latch(port, Width::Byte).to_le_bytes();
                byte
            }
            _ => 0xff,
        }
    }

    fn write_movable(&mut self, port: u16, value: u8, env: &Env<'_>) {
        if let Some(offset) = self.pm_offset(port) {
            let mut cx = Self::cx(&mut self.outbox, env);
            self.pm.write_u8(offset, value, &mut cx);
            self.update_deadline();
        } else {
            self.write_test_port(port, Width::Byte, value.into());
        }
    }

    /// Writes a port of the test devices, and tells whether they exist and it is one.
    fn write_test_port(&mut self, port: u16, width: Width, value: u32) -> bool {
        let Some(devices) = &mut self.test_devices else {
            return false;
        };
        match port {
            TEST_EXIT => TestDevices::write_exit(value, &mut self.outbox),
            TEST_FLUSH => TestDevices::write_flush(value, &mut self.outbox),
            TEST_IRQ..=TEST_IRQ_LAST => TestDevices::write_line(port, value, &mut self.outbox),
            _ if is_latch(port) => devices.write_latch(port, width, value),
            _ => return false,
        }
        true
    }

    /// The offset of `port` in the power-management block, if that is decoded and holds it.
    #[inline]
    fn pm_offset(&self, port: u16) -> Option<u16> {
        let offset = port.wrapping_sub(self.pm_base?);
        (offset < PM_LEN).then_some(offset)
    }
}

/// Both groups of latch ports; a byte access to E9h never comes here, it is the debug console's.
const fn is_latch(port: u16) -> bool {
    matches!(
        port,
        TEST_LATCH..=TEST_LATCH_LAST | TEST_LATCH_BYTES..=TEST_LATCH_BYTES_LAST
    )
}

const fn len_of(width: Width) -> usize {
    match width {
        Width::Byte => 1,
        Width::Word => 2,
        Width::Dword | Width::Qword => 4,
    }
}
