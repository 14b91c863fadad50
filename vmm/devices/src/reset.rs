//! The two reset ports of a PC: the PIIX3's reset control (CF9h) and system control port A (92h).
//!
//! Address line 20 is always open: the gate is a bit that reads back, nothing more.

use api::device::{Device, Effects, MachineAction, RestoreError, SavedState};
use bitflags::bitflags;

bitflags! {
    /// Reset control register (Intel 290550, section 2.5.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct ResetBits: u8 {
        /// The reset is one of the platform, not only of the CPU.
        const SYSTEM = 1 << 1;
        /// A rising edge resets.
        const CPU = 1 << 2;
        /// With a power cycle (later chips); means a system reset as well.
        const FULL = 1 << 3;
    }
}

bitflags! {
    /// System control port A.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct PortA: u8 {
        /// A rising edge resets the CPU.
        const FAST_RESET = 1 << 0;
        const A20 = 1 << 1;
    }
}

/// Both ports.
#[derive(Debug)]
pub struct ResetPorts {
    control: ResetBits,
    port_a: PortA,
}

/// State of the reset ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetPortsSaved {
    /// Port CF9h.
    pub control: u8,
    /// Port 92h.
    pub port_a: u8,
}

impl SavedState for ResetPortsSaved {
    const KIND: &'static str = "reset-ports";
    const VERSION: u16 = 1;
}

impl ResetPorts {
    /// Makes both ports in their power-on state.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            control: ResetBits::empty(),
            port_a: PortA::A20,
        }
    }

    /// Reads port CF9h.
    #[must_use]
    pub const fn read_control(&self) -> u8 {
        self.control.bits()
    }

    /// Writes port CF9h: a rising edge of bit 2 resets the platform if bit 1 is set, else the CPU.
    pub fn write_control(&mut self, value: u8, effects: &mut dyn Effects) {
        let new = ResetBits::from_bits_truncate(value);
        let rising = new.difference(self.control);
        self.control = new;
        if rising.contains(ResetBits::CPU) {
            let platform = new.intersects(ResetBits::SYSTEM | ResetBits::FULL);
            effects.request(if platform {
                MachineAction::Reset
            } else {
                MachineAction::InitCpu
            });
        }
    }

    /// Reads port 92h. After a CPU reset the bit that caused it is still set, after a platform reset it is not: that
    /// is how software tells them apart.
    #[must_use]
    pub const fn read_port_a(&self) -> u8 {
        self.port_a.bits()
    }

    /// Writes port 92h: a rising edge of bit 0 resets the CPU.
    pub fn write_port_a(&mut self, value: u8, effects: &mut dyn Effects) {
        let new = PortA::from_bits_truncate(value);
        let rising = new.difference(self.port_a);
        self.port_a = new;
        if rising.contains(PortA::FAST_RESET) {
            effects.request(MachineAction::InitCpu);
        }
    }
}

impl Default for ResetPorts {
    fn default() -> Self {
        Self::new()
    }
}

impl Device for ResetPorts {
    type Saved = ResetPortsSaved;

    fn reset(&mut self) {
        *self = Self::new();
    }

    fn save(&self) -> ResetPortsSaved {
        let Self { control, port_a } = self;
        ResetPortsSaved {
            control: control.bits(),
            port_a: port_a.bits(),
        }
    }

    fn restore(&mut self, saved: ResetPortsSaved) -> Result<(), RestoreError> {
        let bad = |field| RestoreError::Field {
            kind: ResetPortsSaved::KIND,
            field,
        };
        *self = Self {
            control: ResetBits::from_bits(saved.control).ok_or(bad("control"))?,
            port_a: PortA::from_bits(saved.port_a).ok_or(bad("port_a"))?,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::ResetPorts;
    use crate::testing::Rng;
    use alloc::vec::Vec;
    use api::device::{Device, MachineAction};
    use api::fake::{Effect, Recorder};

    fn control(values: &[u8]) -> Vec<Effect> {
        let mut recorder = Recorder::default();
        let mut ports = ResetPorts::new();
        for value in values {
            ports.write_control(*value, &mut recorder);
        }
        recorder.effects
    }

    #[test]
    fn bit_1_decides_between_platform_and_cpu() {
        let reset = Effect::Action(MachineAction::Reset);
        let init = Effect::Action(MachineAction::InitCpu);
        assert_eq!(control(&[0x02, 0x06]), [reset]);
        assert_eq!(control(&[0x0e]), [reset]);
        assert_eq!(control(&[0x00, 0x04]), [init]);
        assert_eq!(control(&[0x04, 0x04, 0x06]), [init]);
        assert_eq!(control(&[0x02, 0xf3]), []);
    }

    #[test]
    fn only_a_rising_edge_resets() {
        let mut recorder = Recorder::default();
        let mut ports = ResetPorts::new();
        ports.write_port_a(0x02, &mut recorder);
        ports.write_port_a(0x03, &mut recorder);
        ports.write_port_a(0x03, &mut recorder);
        assert_eq!(recorder.effects, [Effect::Action(MachineAction::InitCpu)]);
        assert_eq!(ports.read_port_a(), 0x03);
        ports.reset();
        assert_eq!(ports.read_port_a(), 0x02);
    }

    #[test]
    fn random_writes_are_saved_and_restored() {
        let mut rng = Rng::new(0xcf9);
        let mut ports = ResetPorts::new();
        for _ in 0..100_000 {
            let mut recorder = Recorder::default();
            ports.write_control(rng.byte(), &mut recorder);
            ports.write_port_a(rng.byte(), &mut recorder);
            let saved = ports.save();
            let mut copy = ResetPorts::new();
            copy.restore(saved.clone()).unwrap();
            assert_eq!(copy.save(), saved);
        }
        let mut saved = ports.save();
        saved.control = 1;
        assert!(ports.restore(saved).is_err());
    }
}
