//! The pair of 8259A interrupt controllers of a PC with the edge/level control registers (ELCR) of the PIIX.
//!
//! The pair is wired as ever: the slave's INT is the master's input 2. Left out: the 8080 mode of the chip, buffered
//! mode and the LTIM bit, which the PIIX ignores in favour of the ELCR.

use crate::layout::{PIC_ELCR, PIC_MASTER, PIC_SLAVE};
use crate::pic::chip::Chip;

mod chip;
pub mod saved;
#[cfg(test)]
mod tests;

/// Input of the master that the slave drives.
const CASCADE: u8 = 2;
/// Input whose vector stands for a request that went away.
const SPURIOUS: u8 = 7;
/// Inputs of the master that can be level-triggered: not timer, keyboard and cascade.
const ELCR_MASTER: u8 = 0xf8;
/// Inputs of the slave that can be level-triggered: not clock and coprocessor.
const ELCR_SLAVE: u8 = 0xde;

/// The two controllers; ISA interrupts 0 to 7 are on the master, 8 to 15 on the slave.
#[derive(Debug)]
pub struct Pic {
    master: Chip,
    slave: Chip,
    /// The master's INT, kept because every entry of a CPU asks for it.
    intr: bool,
}

impl Default for Pic {
    fn default() -> Self {
        Self::new()
    }
}

impl Pic {
    /// Makes the pair in its power-on state: uninitialised, nothing requested.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            master: Chip::POWER_ON,
            slave: Chip::POWER_ON,
            intr: false,
        }
    }

    /// Does what PC firmware leaves behind, for guests that start without it: vectors 08h and 70h, and only the
    /// cascade and the interrupts of PCI devices (10, 11) unmasked.
    pub fn initialize_as_firmware(&mut self) {
        for (port, icw2, icw3, mask) in [
            (PIC_MASTER, 0x08, 0x04, 0xfb),
            (PIC_SLAVE, 0x70, 0x02, 0xf3),
        ] {
            self.write(port, 0x11);
            for data in [icw2, icw3, 0x01, mask] {
                self.write(port | 1, data);
            }
        }
    }

    /// Drives ISA interrupt `irq`, 0 to 15; 2 is the cascade and has no line.
    pub fn set_line(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE => return,
            0..=7 => self.master.set_line(irq, level),
            8..=15 => self.slave.set_line(irq & 7, level),
            _ => return,
        }
        self.update();
    }

    /// Returns the level of INTR: whether a vector can be had from [`Pic::acknowledge`].
    #[inline]
    #[must_use]
    pub const fn intr(&self) -> bool {
        self.intr
    }

    /// Tells whether `irq` is masked, 0 to 15.
    #[must_use]
    pub fn is_masked(&self, irq: u8) -> bool {
        let chip = if irq < 8 { &self.master } else { &self.slave };
        chip.is_masked(irq & 7)
    }

    /// Answers the CPU's interrupt acknowledge with a vector. If the request went away, it is that of the spurious
    /// interrupt, input 7 of the chip that was asked.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.master.request() {
            None => self.master.vector(SPURIOUS),
            Some(CASCADE) => {
                self.master.take(CASCADE);
                self.acknowledge_slave()
            }
            Some(input) => {
                self.master.take(input);
                self.master.vector(input)
            }
        };
        self.update();
        vector
    }

    fn acknowledge_slave(&mut self) -> u8 {
        match self.slave.request() {
            Some(input) => {
                self.slave.take(input);
                self.slave.vector(input)
            }
            None => self.slave.vector(SPURIOUS),
        }
    }

    /// Reads one of the six ports; others read all ones.
    pub fn read(&mut self, port: u16) -> u8 {
        const MASTER_DATA: u16 = PIC_MASTER + 1;
        const SLAVE_DATA: u16 = PIC_SLAVE + 1;
        const ELCR_HIGH: u16 = PIC_ELCR + 1;
        match port {
            PIC_MASTER => self.read_command(false),
            PIC_SLAVE => self.read_command(true),
            MASTER_DATA => self.master.mask(),
            SLAVE_DATA => self.slave.mask(),
            PIC_ELCR => self.master.level_triggered(),
            ELCR_HIGH => self.slave.level_triggered(),
            _ => 0xff,
        }
    }

    fn read_command(&mut self, slave: bool) -> u8 {
        let chip = if slave {
            &mut self.slave
        } else {
            &mut self.master
        };
        let polls = chip.is_polled();
        let value = chip.read_command();
        if polls {
            // A poll acknowledges.
            self.update();
        }
        value
    }

    /// Writes one of the six ports.
    pub fn write(&mut self, port: u16, value: u8) {
        const MASTER_DATA: u16 = PIC_MASTER + 1;
        const SLAVE_DATA: u16 = PIC_SLAVE + 1;
        const ELCR_HIGH: u16 = PIC_ELCR + 1;
        match port {
            PIC_MASTER => self.master.write_command(value),
            PIC_SLAVE => self.slave.write_command(value),
            MASTER_DATA => self.master.write_data(value),
            SLAVE_DATA => self.slave.write_data(value),
            PIC_ELCR => self.master.set_level_triggered(value & ELCR_MASTER),
            ELCR_HIGH => self.slave.set_level_triggered(value & ELCR_SLAVE),
            _ => {}
        }
        self.update();
    }

    /// Carries the slave's INT to the master and the master's to the CPU. The slave's is a level: it stays up for as
    /// long as the slave has something to deliver.
    fn update(&mut self) {
        self.master.set_cascade(self.slave.request().is_some());
        self.intr = self.master.request().is_some();
    }
}
